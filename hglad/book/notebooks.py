"""Execute the notebook templates of a profile with papermill, each time something they show has changed.

An executed copy says in its metadata, under `hglad`, what it was made from and which results it shows:

    profile, made_from      name of the results' folder; hash of template, parameters, library and results
    results                 keys of the evaluations and distances
    algorithms              component to declared version, of all that made these results
    commits, devices, ...   as `hglad.provenance.summary` has them
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import joblib
import nbformat
import papermill

from hglad.errors import HgladError
from hglad.experiments.checks import read_profile
from hglad.experiments.plans import EXPERIMENTS, experiments_of
from hglad.experiments.store import Store
from hglad.experiments.tasks import DistillTask, EvaluateTask, MeasureTask, Task
from hglad.paths import PROJECT
from hglad.provenance import notebook_metadata, record_of, summary
from hglad.settings import Profile, suggestion
from hglad.storage import write_whole

TEMPLATES = PROJECT / "notebooks"
FOLDED = {  # metadata of the cell that papermill writes: the book folds it under this line
    "tags": ["injected-parameters", "hide-cell"],
    "mystnb": {"code_prompt_show": "Parameters of this copy"},
}


@dataclass(frozen=True)
class Copy:
    """One template, executed with the parameters of a profile."""

    template: Path
    parameters: dict
    profile: Profile
    store: Store
    out: Path
    """File of the executed copy."""

    @cached_property
    def tasks(self) -> list[Task]:
        """What it shows the results of, and what these need."""
        return EXPERIMENTS.get(_experiment(self.template))(self.profile).tasks()

    def is_stale(self) -> bool:
        """Whether the copy is missing or made from something else."""
        try:
            return notebook_metadata(self.out)["made_from"] != self.made_from()
        except (HgladError, KeyError):
            return True

    def made_from(self) -> str:
        """Hash of template, parameters, library and results; results that are missing count as such."""
        digest = hashlib.sha256(self.template.read_bytes() + _library())
        digest.update(repr((self.parameters, self.profile)).encode())
        for place in self.places():
            digest.update(place.name.encode() + (place.read_bytes() if place.is_file() else b""))
        return digest.hexdigest()[:12]

    def places(self) -> list[Path]:
        """Files of the results; not the weights of classifiers, which only the search needs."""
        shown = (DistillTask, EvaluateTask, MeasureTask)
        return [task.place(self.store) for task in self.tasks if isinstance(task, shown)]

    def metadata(self) -> dict:
        """What the copy says of itself; the same for the same results."""
        shown = [task for task in self.tasks if isinstance(task, (EvaluateTask, MeasureTask))]
        versions = {name: version for task in self.tasks for name, version in task.versions.items()}
        return {
            "profile": self.profile.profile,
            "made_from": self.made_from(),
            "results": sorted(task.key for task in shown),
            "algorithms": dict(sorted(versions.items())),
            **summary([record_of(place) for place in self.places()]),
        }

    def execute(self) -> None:
        """Execute the template and write the copy, whole or not at all."""
        check_parameters(self.template, self.parameters)
        execute(self.template, self.parameters, self.out, self.metadata)


def copies(config: Path | str, results: Path | str | None, out: Path | str) -> list[Copy]:
    """Copies of all templates of a profile's experiments, `<number>_<experiment>.ipynb`."""
    profile, named = read_profile(config), PROJECT / "configs" / f"{Path(config).stem}.yaml"
    own = named.is_file() and named.read_bytes() == Path(config).read_bytes()
    parameters = {"profile": named.stem if own else str(Path(config).resolve())}
    store, known = Store.of_profile(profile.profile, results), experiments_of(profile)
    templates = [path for path in sorted(TEMPLATES.glob("*.ipynb")) if _experiment(path) in known]
    return [Copy(path, parameters, profile, store, Path(out) / path.name) for path in templates]


def _experiment(template: Path) -> str:
    return template.stem.split("_", 1)[1]


@lru_cache
def _library() -> bytes:
    """Hash of the library that this process has loaded."""
    digest = hashlib.sha256()
    for source in sorted((PROJECT / "hglad").rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.digest()


def stale(
    config: Path | str, results: Path | str | None, out: Path | str, everything: bool = False
) -> list[str]:
    """File names of the templates whose executed copy in `out` is missing or out of date.

    Args:
        config: profile.
        results: folder of the results (default: the profile's).
        out: folder of the executed notebooks.
        everything: name all templates, because their results are about to change.

    Raises:
        HgladError: parameters of template and profile differ.
    """
    found = copies(config, results, out)
    for copy in found:
        check_parameters(copy.template, copy.parameters)
    return [copy.template.name for copy in found if everything or copy.is_stale()]


def execute_one(config: Path | str, results: Path | str | None, out: Path | str, name: str) -> None:
    """Execute the template of that file name; several processes may do different ones at once.

    Raises:
        HgladError: the profile has no such template, or a cell failed.
    """
    found = {copy.template.name: copy for copy in copies(config, results, out)}
    if name not in found:
        raise HgladError(f"profile {config} has no notebook '{name}': {suggestion(name, found)}")
    _execute([found[name]])


def execute_all(
    config: Path | str, results: Path | str | None, out: Path | str, only: str | None = None
) -> list[Path]:
    """Execute all templates with the parameters of a profile; those whose inputs are the same are kept.

    Args:
        config: profile.
        results: folder of the results; what is missing there is computed by the notebook.
        out: folder for the executed notebooks.
        only: one experiment; None: all.

    Returns:
        Executed notebooks.

    Raises:
        HgladError: parameters of template and profile differ, or a cell failed.
    """
    found, names = copies(config, results, out), stale(config, results, out)
    found = [copy for copy in found if only in (None, _experiment(copy.template))]
    names = [copy.template.name for copy in found if copy.template.name in names]
    _execute([copy for copy in found if copy.template.name in names])
    print(f"notebooks: {len(names)} executed, {len(found) - len(names)} up to date in {out}")
    return [copy.out for copy in found]


def _execute(chosen: list[Copy]) -> None:
    """Execute templates of one profile; they find the results by the environment, which threads share."""
    if not chosen:
        return
    with environment(HGLAD_RESULTS=str(chosen[0].store.root.resolve()), TQDM_DISABLE="1"):
        joblib.Parallel(_at_once(chosen), prefer="threads")(joblib.delayed(copy.execute)() for copy in chosen)


def _at_once(chosen: list[Copy]) -> int:
    """Notebooks to execute at once; one where runs are missing, so that the next finds what it computed."""
    if not all(place.is_file() for copy in chosen for place in copy.places()):
        return 1
    return min(len(chosen), os.cpu_count())


def check_parameters(template: Path, parameters: dict) -> None:
    """Refuse parameters that a template does not have.

    Raises:
        HgladError: the first of them.
    """
    known = papermill.inspect_notebook(str(template))
    for key in parameters:
        if key not in known:
            raise HgladError(f"{template.name} has no parameter '{key}': {suggestion(key, known)}")


def execute(template: Path, parameters: dict, out: Path, metadata: Callable[[], dict] = dict) -> None:
    """Execute one template; two executions on the same results give the same bytes.

    Args:
        template: notebook.
        parameters: values of its parameters.
        out: file of the executed copy.
        metadata: called after the execution: what the copy says of itself.

    Raises:
        HgladError: a cell failed; names the cell's error.
    """
    with write_whole(out) as draft:
        try:
            papermill.execute_notebook(
                str(template), str(draft), parameters, progress_bar=False, log_output=False
            )
        except papermill.PapermillExecutionError as error:
            raise HgladError(
                f"{template.name} failed in cell {error.exec_count}: {error.ename}: {error.evalue}"
            ) from error
        _finish(draft, metadata())


def _finish(path: Path, metadata: dict) -> None:
    """Remove times and random names, add the metadata."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    if metadata:
        notebook.metadata["hglad"] = metadata
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell["id"] = "injected-parameters"
            cell.metadata |= FOLDED
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    nbformat.write(notebook, path)


@contextmanager
def environment(**variables: str):
    """Set variables of the environment for a while; threads share them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
