"""Learning rates, layer and stages of each search, found with the same budget on held-out training images.

Every kind of search gets as many trials as the others: the profile's own settings first, then quasi-random
points of its space. A trial distils from a part of the training images and is scored on the rest; the test
images have no part in it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import Field
from scipy.stats import qmc

from hglad.analysis.statistics import seed_means
from hglad.errors import HgladError
from hglad.experiments.plans import evaluation_of, layers_of
from hglad.experiments.runner import required, run_all
from hglad.experiments.store import Store
from hglad.experiments.tasks import EvaluateTask
from hglad.provenance import Stopwatch
from hglad.registry import unknown
from hglad.search.distillation import DistillationSettings
from hglad.settings import KINDS, Profile, Settings
from hglad.storage import read_json

SPREAD = 8.0  # rates from an eighth of the profile's to eight times them
GROWTH = 2.0  # a stage has from half to twice the steps of the one before
TUNED = ("lr_features", "lr_latents", "lr_pixels", "layer", "stages", "shares")
FIRST_SEED = 1000  # distillation seeds of the trials, which no result uses


class TuningSettings(Settings):
    """Budget of the tuning, the same for every kind of search and objective."""

    trials: int = Field(12, ge=1)
    """Settings tried, the profile's own among them."""
    seeds: int = Field(2, ge=1)
    """Distilled sets per trial."""
    repeats: int = Field(0, ge=0)
    """Networks trained per set; 0: `evaluation.repeats`."""
    holdout: float = Field(0.25, gt=0, lt=1)
    """Share of the training images that the searches of the trials never see and that score them. A
    generator that was trained on all training images has seen them."""


@dataclass(frozen=True)
class Trial:
    """Changes to `search` for one kind and objective."""

    objective: str
    kind: str
    number: int
    changes: dict[str, Any]

    def tasks(self, profile: Profile, settings: TuningSettings) -> list[EvaluateTask]:
        """One evaluation per seed, of the profile with training images in place of the test images."""
        repeats = settings.repeats or profile.evaluation.repeats
        data = profile.data.changed(holdout=settings.holdout)
        evaluation = profile.evaluation.changed(repeats=repeats)
        part = profile.model_copy(update={"data": data, "evaluation": evaluation})
        run = part, self.objective, self.kind, profile.ipcs(self.objective)[0]
        changes = {f"search.{key}": value for key, value in self.changes.items()}
        return [
            evaluation_of(part, DistillationSettings.of(*run, seed, changes))
            for seed in range(FIRST_SEED, FIRST_SEED + settings.seeds)
        ]


def tune(
    profile: Profile,
    settings: TuningSettings,
    store: Store,
    objectives: list[str] | None = None,
    cores: int | None = None,
    device: str = "cpu",
    searches: list[str] | None = None,
) -> dict:
    """Try settings for every search of the profile with each objective.

    Results of trials are kept in `store`; a tuning that was stopped goes on.

    Args:
        profile: its rates are the centre of the space, its protocol scores a trial; what is tuned in it
            already is left out.
        settings: budget.
        store: where trials are kept.
        objectives: those to tune for; none: the profile's.
        cores: trials at the same time.
        device: where they run.
        searches: those to tune; none: the profile's.

    Returns:
        `trials` (rows: objective, kind, trial, accuracy, seeds, steps, flops, seconds, changes), `best`
        (objective to kind to changes), the settings and the provenance.

    Raises:
        HgladError: a search that the profile does not have.
    """
    watch, profile = Stopwatch(device), _untuned(profile)
    objectives = objectives or profile.sets.objectives
    searches = searches or profile.sets.searches
    for kind in searches:
        if kind not in profile.sets.searches:
            raise unknown("search of the profile", kind, list(profile.sets.searches))
    trials = [
        trial
        for objective in objectives
        for kind in searches
        for trial in space(profile, objective, kind, settings.trials)
    ]
    tasks = [trial.tasks(profile, settings) for trial in trials]
    run_all(required([task for own in tasks for task in own]), store, cores, device)
    table = pd.DataFrame([_row(trial, own, store) for trial, own in zip(trials, tasks, strict=True)])
    return {
        "trials": table.to_dict("records"),
        "best": _best(table),
        "settings": settings.to_dict(),
        "provenance": watch.provenance() | {"profile": profile.profile},
    }


def read_earlier(path: Path | str, profile: Profile, settings: TuningSettings) -> dict | None:
    """The tuning in a file, which another can be added to; none where there is no file.

    Raises:
        HgladError: an unreadable file, or trials of another profile or budget.
    """
    if not Path(path).exists():
        return None
    earlier = read_json(path)
    found = {"profile": earlier.get("provenance", {}).get("profile")} | earlier.get("settings", {})
    asked = {"profile": profile.profile} | settings.to_dict()
    if others := [f"{key} {found.get(key)}" for key in asked if found.get(key) != asked[key]]:
        wanted = ", ".join(f"{key} {asked[key]}" for key in asked if found.get(key) != asked[key])
        raise HgladError(
            f"{path} has a tuning with {', '.join(others)}: expected {wanted}; delete it or name another file"
        )
    return earlier


def together(earlier: dict | None, later: dict) -> dict:
    """Two tunings of one profile and budget as one; of a search that both have, the later's trials.

    `provenance` is that of the later one, and `earlier` lists those before it.
    """
    if earlier is None:
        return later
    again = {(row["objective"], row["kind"]) for row in later["trials"]}
    kept = [row for row in earlier["trials"] if (row["objective"], row["kind"]) not in again]
    trials = kept + later["trials"]
    return later | {
        "trials": trials,
        "best": _best(pd.DataFrame(trials)),
        "earlier": [*earlier.get("earlier", []), earlier["provenance"]],
    }


def _untuned(profile: Profile) -> Profile:
    """The profile without what is tuned here for one kind of search, so that tuning again gives the same."""
    kept = []
    for override in profile.overrides:
        tuned = {f"search.{key}" for key in TUNED} if override.when.search else set()
        if own := {key: value for key, value in override.set.items() if key not in tuned}:
            kept.append(override.changed(set=own))
    return profile.changed(overrides=tuple(kept))


def space(profile: Profile, objective: str, kind: str, trials: int) -> list[Trial]:
    """Trials of one kind of search: the profile's settings, then points of a Halton sequence."""
    dimensions = {"pixels": 1, "single": 3, "hierarchical": 5}[kind]
    points = qmc.Halton(dimensions, seed=KINDS.index(kind)).random(trials - 1)
    changes = [{}, *(_changes(profile, objective, kind, point) for point in points)]
    return [Trial(objective, kind, number, change) for number, change in enumerate(changes)]


def _changes(profile: Profile, objective: str, kind: str, point: list[float]) -> dict[str, Any]:
    usual = profile.resolved(objective=objective, search=kind, ipc=profile.ipcs(objective)[0]).search

    def rate(key: str, u: float) -> dict[str, float]:
        return {key: float(f"{getattr(usual, key) * SPREAD ** (2 * u - 1):.3g}")}

    if kind == "pixels":
        return rate("lr_pixels", point[0])
    changes = rate("lr_features", point[0]) | rate("lr_latents", point[1])
    layers = len(layers_of(profile.prior)) - 1
    if kind == "single":
        return changes | {"layer": min(int(point[2] * layers), layers - 1)}
    first = 1 if usual.latent_stage else 0  # the stage in w alone is in the place of the generator's input
    stages = list(range(first, layers, 1 if point[3] < 0.5 else 2)) + [layers]
    factor = GROWTH ** (2 * float(point[4]) - 1)  # steps grow or shrink from stage to stage
    count = len(stages) + usual.latent_stage
    shares = [round(factor**index, 3) for index in range(count)]
    return changes | rate("lr_pixels", point[2]) | {"stages": stages, "shares": shares}


def _row(trial: Trial, tasks: list[EvaluateTask], store: Store) -> dict:
    means = seed_means(store.rows([task.key for task in tasks]), ["method"])["accuracy"]
    cards = [read_json(store.set_folder(task.distilled.fingerprint) / "card.json") for task in tasks]
    stages = cards[0]["stages"]
    return {
        "objective": trial.objective,
        "kind": trial.kind,
        "trial": trial.number,
        "accuracy": round(means.mean(), 3),
        "spread": round(means.max() - means.min(), 3),
        "seeds": len(means),
        "steps": sum(stage["steps"] for stage in stages),
        "gflops": sum(stage["steps"] * stage["flops"] for stage in stages) / 1e9,
        "seconds": round(sum(card["provenance"]["seconds"] for card in cards) / len(cards), 2),
        "changes": trial.changes,
    }


def _best(table: pd.DataFrame) -> dict[str, dict[str, dict]]:
    """Changes of the best trial of each search; the first of equals, the profile's own before any."""
    best: dict[str, dict[str, dict]] = {}
    for (objective, kind), rows in table.groupby(["objective", "kind"], sort=False):
        best.setdefault(objective, {})[kind] = rows.loc[rows["accuracy"].idxmax(), "changes"]
    return best


def trial_table(trials: list[dict]) -> pd.DataFrame:
    """Trials, the best of each search first."""
    table = pd.DataFrame(trials).sort_values("accuracy", ascending=False, kind="stable")
    table["changes"] = [_in_words(changes) for changes in table["changes"]]
    columns = ["objective", "kind", "trial", "accuracy", "spread", "steps", "seconds", "changes"]
    return table.sort_values(["objective", "kind"], kind="stable")[columns]


def _in_words(changes: dict[str, Any]) -> str:
    """Changes on one line; of the shares only how they grow."""
    words = []
    for key, value in changes.items():
        if key == "shares":
            key, value = "growth", round(value[1] / value[0], 2)
        words.append(f"{key} {value}")
    return ", ".join(words) or "the profile's own"


def as_yaml(best: dict[str, dict[str, dict]]) -> str:
    """Best settings as they go into a profile."""
    overrides = [
        {
            "when": {"objective": objective, "search": kind},
            "set": {f"search.{k}": v for k, v in changes.items()},
        }
        for objective, kinds in best.items()
        for kind, changes in kinds.items()
        if changes
    ]
    return yaml.safe_dump({"overrides": overrides}, sort_keys=False, default_flow_style=None)
