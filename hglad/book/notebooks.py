"""Execute the notebook templates of a profile with papermill, each time something they show has changed.

An executed copy says in its metadata, under `hglad`, what it was made from and which results it shows:

    profile, made_from      name of the results' folder; hash of template, profile, library and results
    results                 keys of the evaluations and distances
    algorithms              component to declared version, of all that made these results
    commits, devices, ...   as `hglad.provenance.summary` has them
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from unittest.mock import patch

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
    """One template, executed for a profile."""

    template: Path
    """`<number>_<experiment>.ipynb`."""
    parameters: dict
    profile: Profile
    store: Store
    out: Path
    """File of the executed copy."""

    @property
    def experiment(self) -> str:
        """Name of the experiment that it shows."""
        return self.template.stem.split("_", 1)[1]

    @cached_property
    def tasks(self) -> list[Task]:
        """What it shows the results of, and what these need."""
        return EXPERIMENTS.get(self.experiment)(self.profile).tasks()

    @property
    def places(self) -> list[Path]:
        """Files of the results; not the weights of classifiers, which only the search needs."""
        shown = (DistillTask, EvaluateTask, MeasureTask)
        return [task.place(self.store) for task in self.tasks if isinstance(task, shown)]

    @property
    def made_from(self) -> str:
        """Hash of template, profile, library and results; results that are missing count as such."""
        digest = hashlib.sha256(self.template.read_bytes() + _library())
        digest.update(json.dumps([self.parameters, self.profile.to_dict()], sort_keys=True).encode())
        for place in self.places:
            digest.update(place.name.encode() + (place.read_bytes() if place.is_file() else b""))
        return digest.hexdigest()[:12]

    def is_stale(self) -> bool:
        """Whether the copy is missing or made from something else."""
        try:
            return notebook_metadata(self.out)["made_from"] != self.made_from
        except (HgladError, KeyError):
            return True

    def metadata(self) -> dict:
        """What the copy says of itself; the same for the same results."""
        shown = [task for task in self.tasks if isinstance(task, (EvaluateTask, MeasureTask))]
        components = {name: version for task in self.tasks for name, version in task.components.items()}
        return {
            "profile": self.profile.profile,
            "made_from": self.made_from,
            "results": sorted(task.key for task in shown),
            "algorithms": dict(sorted(components.items())),
            **summary([record_of(place) for place in self.places]),
        }


@lru_cache
def _library() -> bytes:
    """Hash of the library that this process has loaded."""
    sources = sorted((PROJECT / "hglad").rglob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).digest()


def execute_all(
    config: Path | str, results: Path | str | None, out: Path | str, only: str | None = None
) -> list[Path]:
    """Execute the templates of a profile's experiments; those whose inputs are the same are kept.

    Args:
        config: profile.
        results: folder of the results; what is missing there is computed by the notebook.
        out: folder for the executed notebooks.
        only: one experiment; None: all.

    Returns:
        Executed notebooks.

    Raises:
        HgladError: a template without the parameter `profile`, or a cell that failed.
    """
    profile, named = read_profile(config), PROJECT / "configs" / f"{Path(config).stem}.yaml"
    own = named.is_file() and named.read_bytes() == Path(config).read_bytes()
    parameters = {"profile": named.stem if own else str(Path(config).resolve())}
    store, templates = Store.of_profile(profile.profile, results), sorted(TEMPLATES.glob("*.ipynb"))
    copies = [Copy(path, parameters, profile, store, Path(out, path.name)) for path in templates]
    wanted = [only] if only else experiments_of(profile)
    copies = [copy for copy in copies if copy.experiment in wanted]
    stale = [copy for copy in copies if copy.is_stale()]
    # Where runs are missing one notebook computes what the next one finds; else none has to wait.
    complete = all(place.is_file() for copy in stale for place in copy.places)
    at_once = min(len(stale), os.cpu_count()) if complete else 1
    with patch.dict(os.environ, HGLAD_RESULTS=str(store.root.resolve()), TQDM_DISABLE="1"):
        joblib.Parallel(at_once or 1, prefer="threads")(
            joblib.delayed(execute)(copy.template, copy.parameters, copy.out, copy.metadata) for copy in stale
        )
    print(f"notebooks: {len(stale)} executed, {len(copies) - len(stale)} up to date in {out}")
    return [copy.out for copy in copies]


def execute(template: Path, parameters: dict, out: Path, metadata: Callable[[], dict] = dict) -> None:
    """Execute one template; two executions on the same results give the same bytes.

    Args:
        template: notebook.
        parameters: values of its parameters.
        out: file of the executed copy.
        metadata: called after the execution: what the copy says of itself.

    Raises:
        HgladError: a parameter that the template does not have; a cell failed: names the cell's error.
    """
    known = papermill.inspect_notebook(str(template))
    for key in parameters:
        if key not in known:
            raise HgladError(f"{template.name} has no parameter '{key}': {suggestion(key, known)}")
    with write_whole(out) as draft:
        try:
            papermill.execute_notebook(
                str(template), str(draft), parameters, progress_bar=False, log_output=False
            )
        except papermill.PapermillExecutionError as error:
            what = f"{error.ename}: {error.evalue}"
            raise HgladError(f"{template.name} failed in cell {error.exec_count}: {what}") from error
        notebook = nbformat.read(draft, as_version=4)
        notebook.metadata.pop("papermill", None)  # times
        notebook.metadata |= {"hglad": found} if (found := metadata()) else {}
        for cell in notebook.cells:
            if "injected-parameters" in cell.metadata.get("tags", []):
                cell["id"] = "injected-parameters"  # in the place of a random name
                cell.metadata |= FOLDED
            cell.metadata.pop("papermill", None)
            cell.metadata.pop("execution", None)
        nbformat.write(notebook, draft)
