"""What a profile runs: tasks, their store, the Snakemake workflow, tuning."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Opened:
    """An experiment whose results are all there: where a notebook takes its tables and figures from."""

    profile: Any
    store: Any
    plan: Any
    """Tasks: `evaluations`, `measures`, `families`, `variants`, `parts`."""


def open_experiment(
    name: str,
    profile: Path | str,
    results: Path | str | None = None,
    objectives: str | Sequence[str] | None = None,
    ipc: int | Sequence[int] | None = None,
    seeds: int | Sequence[int] | None = None,
    steps: int | None = None,
) -> Opened:
    """Open an experiment; what is missing of its results is computed first.

    Args:
        name: one of `definitions.EXPERIMENTS`.
        profile: name of a profile in configs, or path of one.
        results: folder of its results, by default the profile's.
        objectives, ipc, seeds, steps: in place of the profile's; one value or several.

    Raises:
        HgladError: unknown experiment or profile, or values that are no profile.
    """
    import yaml

    from hglad.errors import HgladError
    from hglad.experiments.definitions import EXPERIMENTS, check_name
    from hglad.experiments.profile_file import profile_from
    from hglad.experiments.runner import run_all
    from hglad.experiments.store import Store
    from hglad.paths import PROJECT
    from hglad.settings import suggestion

    check_name(name)
    known = {path.stem: path for path in (PROJECT / "configs").glob("*.yaml")}
    path = known.get(str(profile), Path(profile))
    if not path.is_file():
        raise HgladError(f"no profile '{profile}': {suggestion(str(profile), known)}")
    values = yaml.safe_load(path.read_text())
    changes = {"objectives": objectives, "ipc": ipc, "seeds": seeds}
    for key, value in changes.items():
        if value is not None:
            values["sets"][key] = list(value) if isinstance(value, (list, tuple)) else [value]
    if steps is not None:
        values["search"]["steps"] = steps
    read = profile_from(**values)
    store, plan = Store.of_profile(read.profile, results), EXPERIMENTS[name](read)
    run_all(plan.tasks(), store)
    return Opened(read, store, plan)
