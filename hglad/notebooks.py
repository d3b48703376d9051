"""Execute the notebook templates of a profile with papermill, each time something they show has changed."""

import hashlib
import json
import os
from contextlib import contextmanager
from pathlib import Path

import joblib
import nbformat
import papermill
import yaml

from hglad.errors import HgladError
from hglad.experiments import experiments_of, plan
from hglad.paths import PROJECT
from hglad.profile import Profile, read_profile
from hglad.results import Store
from hglad.settings import suggestion
from hglad.storage import publish, read_json, write_json

TEMPLATES = PROJECT / "notebooks"
KEYS = "keys.json"  # beside the executed copies: what each was made from
FOLDED = {  # metadata of the cell that papermill writes: the book folds it under this line
    "tags": ["injected-parameters", "hide-cell"],
    "mystnb": {"code_prompt_show": "Parameters of this copy"},
}


def execute_all(config: Path | str, results: Path | str | None, out: Path | str) -> list[Path]:
    """Execute all templates with the parameters of a profile; those whose inputs are the same are kept.

    Args:
        config: profile.
        results: folder of the results; what is missing there is computed by the notebook.
        out: folder for the executed notebooks.

    Returns:
        Executed notebooks.

    Raises:
        HgladError: parameters of template and profile differ, or a cell failed.
    """
    profile, out = read_profile(config), Path(out)
    parameters = yaml.safe_load(Path(config).read_text())
    store = Store.of_profile(profile.profile, results)
    templates = _templates(profile)
    for template in templates:
        check_parameters(template, parameters)
    keys = {template.name: _key(template, parameters, store, profile) for template in templates}
    made = read_json(out / KEYS) if (out / KEYS).is_file() else {}
    stale = [t for t in templates if made.get(t.name) != keys[t.name] or not (out / t.name).is_file()]
    with _environment(HGLAD_RESULTS=str(store.root.resolve()), TQDM_DISABLE="1"):
        joblib.Parallel(_at_once(len(stale), profile, store), prefer="threads")(
            joblib.delayed(execute)(template, parameters, out / template.name) for template in stale
        )
    if stale:
        keys = {template.name: _key(template, parameters, store, profile) for template in templates}
        write_json(out / KEYS, keys)
    print(f"notebooks: {len(stale)} executed, {len(templates) - len(stale)} up to date in {out}")
    return [out / template.name for template in templates]


def _templates(profile: Profile) -> list[Path]:
    """Templates of the experiments that a profile has: `<number>_<experiment>.ipynb`."""
    known = experiments_of(profile)
    return [path for path in sorted(TEMPLATES.glob("*.ipynb")) if path.stem.split("_", 1)[1] in known]


def _at_once(count: int, profile: Profile, store: Store) -> int:
    """Notebooks to execute at once; one where runs are missing, so that the next finds what it computed."""
    if count < 2 or not all(task.done(store) for task in plan(profile)):
        return 1
    return min(count, os.cpu_count())


def check_parameters(template: Path, parameters: dict) -> None:
    """Refuse a profile whose keys are not exactly the template's parameters.

    Raises:
        HgladError: the first key that one of them lacks.
    """
    known = papermill.inspect_notebook(str(template))
    for key in parameters:
        if key not in known:
            raise HgladError(f"{template.name} has no parameter '{key}': {suggestion(key, known)}")
    missing = [key for key in known if key not in parameters]
    if missing:
        raise HgladError(f"the profile lacks the parameter '{missing[0]}' of {template.name}: add it")


def execute(template: Path, parameters: dict, out: Path) -> None:
    """Execute one template; two executions on the same results give the same bytes.

    Raises:
        HgladError: a cell failed; names the cell's error.
    """
    with publish(out) as draft:
        try:
            papermill.execute_notebook(
                str(template), str(draft), parameters, progress_bar=False, log_output=False
            )
        except papermill.PapermillExecutionError as error:
            raise HgladError(
                f"{template.name} failed in cell {error.exec_count}: {error.ename}: {error.evalue}"
            ) from error
        _strip_times(draft)


def _strip_times(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell["id"] = "injected-parameters"
            cell.metadata |= FOLDED
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    nbformat.write(notebook, path)


def _key(template: Path, parameters: dict, store: Store, profile: Profile) -> str:
    """Hash of what a copy is made from: template, parameters, library, names of the results."""
    digest = hashlib.sha256(template.read_bytes() + json.dumps(parameters, sort_keys=True).encode())
    for source in sorted((PROJECT / "hglad").rglob("*.py")):
        digest.update(source.read_bytes())
    for result in sorted(store.root.glob("evaluations/*.json")):
        digest.update(result.name.encode() + result.read_bytes())
    return digest.hexdigest()


@contextmanager
def _environment(**variables: str):
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
