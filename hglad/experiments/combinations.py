"""Settings of a profile that contradict each other, found when it is read; no other file is opened."""

import re
from collections.abc import Iterable

from hglad.errors import HgladError
from hglad.experiments.ablations import PAPER, parts
from hglad.experiments.definitions import EXPERIMENTS, experiments_of
from hglad.experiments.profile import Profile
from hglad.experiments.value_checks import check_names
from hglad.objectives import OBJECTIVES
from hglad.search.distillation import WITHOUT_GENERATOR, DistillationSettings
from hglad.settings import Studies

NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
NEEDS = {  # experiment -> what it takes
    "matching_objectives": "an objective in surrogate.objectives",
    "glad_baseline": "a prior",
    "hierarchical_search": "hierarchical in sets.searches",
    "metric_ablation": "hierarchical in sets.searches, studies.ablation_seeds and studies.part_seeds",
    "cross_architecture": "hierarchical in sets.searches and studies.cross_seeds",
    "paper_vs_code": "hierarchical in sets.searches and studies.audit_seeds",
    "baselines": "studies.baselines",
    "claims": "pixels, single and hierarchical in sets.searches",
}


def check_combinations(profile: Profile) -> None:
    """Raise `HgladError` for settings of a profile that contradict each other; opens no other file."""
    if not NAME.fullmatch(profile.profile):
        raise HgladError(
            f"profile is {profile.profile!r}: expected a name of letters, digits, '-', '_' and '.', which "
            "becomes a folder"
        )
    _check_data(profile)
    _check_generator_settings(profile)
    _check_objectives(profile)
    _check_studies(profile)


def _check_data(profile: Profile) -> None:
    data = profile.data
    if data.resolution is not None and data.resolution < 1:
        raise HgladError(f"data.resolution is {data.resolution}: expected 1 pixel or more")
    for key in ("root", "resolution"):
        if data.name == "folder" and getattr(data, key) is None:
            raise HgladError(f"data.{key} is missing: an image folder needs its root and a resolution")


def _check_generator_settings(profile: Profile) -> None:
    """Settings of a generator's latents where every search is in pixels."""
    asked = profile.studies.experiments
    swept = profile.studies.sweep_seeds and (not asked or "glad_baseline" in asked)
    through_generator = not set(profile.sets["searches"]) <= {"pixels"} or swept
    if profile.prior is None or not through_generator:
        why = "there is no prior" if profile.prior is None else "sets.searches has pixels only"
        _refuse_generator_keys("search", vars(profile.search), why)
        for name in profile.objectives:
            for ipc, keys in profile.objective(name).at_ipc.items():
                _refuse_generator_keys(f"surrogate.objectives.{name}.at_ipc.{ipc}", keys, why)
    for name in profile.objectives:
        tuned = profile.objective(name).tuned.get("pixels", {})
        where = f"surrogate.objectives.{name}.tuned.pixels"
        _refuse_generator_keys(where, tuned, "this search is in pixels")


def _refuse_generator_keys(where: str, values: dict, why: str) -> None:
    for key, usual in WITHOUT_GENERATOR.items():
        if key in values and values[key] != usual:
            raise HgladError(
                f"{where}.{key} is {values[key]!r}, but {why}: it says something about a generator; remove it"
            )


def used_objectives(profile: Profile) -> list[str]:
    """Objectives of the searches and of the study of objectives, each once."""
    return list(dict.fromkeys([*profile.sets["objectives"], *profile.objectives]))


def _check_objectives(profile: Profile) -> None:
    for name in used_objectives(profile):
        own, key = profile.objective(name), f"surrogate.objectives.{name}"
        if "experts" in OBJECTIVES.options(name) and own.experts is None:
            raise HgladError(
                f"{key}.experts is missing: {name} matches trajectories of networks that are trained first; "
                "say which, such as {count: 100, epochs: 50}"
            )
        _check_ipcs(f"{key}.ipc", own.ipc, "sets.ipc", profile.sets["ipc"])
        _check_ipcs(f"{key}.at_ipc", own.at_ipc, "those of this objective", profile.ipcs(name))
        for kind in profile.sets["searches"]:
            runs_of(profile, name, kind)


def _check_ipcs(key: str, numbers: Iterable[int], name: str, known: list[int]) -> None:
    for ipc in numbers:
        if ipc not in known:
            raise HgladError(f"{key} has {ipc}: expected some of {name}, {known}")


def runs_of(profile: Profile, objective: str, kind: str) -> list[DistillationSettings]:
    """Settings of a run at each number of images per class, which refuse what a single run cannot do."""
    seed = profile.sets["seeds"][0]
    return [DistillationSettings.of(profile, objective, kind, ipc, seed) for ipc in profile.ipcs(objective)]


def _check_studies(profile: Profile) -> None:
    """Studies that were asked for and would not take place, or with fewer seeds; defaults ask for nothing."""
    studies, seeds = profile.studies, len(profile.sets["seeds"])
    check_names("studies.experiments", studies.experiments, EXPERIMENTS)
    check_names("studies.parts", studies.parts, [v.name for v in parts(2) if v.name != PAPER])
    for name in studies.experiments:
        if name not in experiments_of(profile):
            raise HgladError(f"studies.experiments has '{name}', which needs {NEEDS[name]}")
    asked = {key: number for key, number in vars(studies).items() if key.endswith("_seeds")}
    usual = Studies()
    asked = {key: number for key, number in asked.items() if number and number != getattr(usual, key)}
    for key, number in asked.items():
        if number > seeds:
            raise HgladError(
                f"studies.{key} is {number}, but sets.seeds has {seeds}: expected at most {seeds}"
            )
    lacking = _lacking(profile)
    for key in [*asked, *(key for key in ("families", "augmentations", "parts") if getattr(studies, key))]:
        if key in lacking:
            raise HgladError(
                f"studies.{key} is {getattr(studies, key)!r}, but {lacking[key]}: it has no effect"
            )


def _lacking(profile: Profile) -> dict[str, str]:
    """Key of a study -> what it needs and the profile does not have."""
    studies, lacking = profile.studies, {}
    if profile.prior is None:
        lacking |= dict.fromkeys(("sweep_seeds", "families"), "there is no prior")
    if not profile.objectives:
        lacking["matching_seeds"] = "surrogate.objectives is empty"
    if not studies.baselines:
        lacking["augmentations"] = "studies.baselines is empty"
    if not (studies.ablation_seeds and studies.part_seeds):
        both = "the metric ablation takes studies.ablation_seeds and studies.part_seeds, and one is 0"
        lacking |= dict.fromkeys(("ablation_seeds", "part_seeds", "parts"), both)
    if "hierarchical" not in profile.sets["searches"]:
        hierarchical = ("ablation_seeds", "part_seeds", "parts", "audit_seeds", "cross_seeds")
        lacking |= dict.fromkeys(hierarchical, "sets.searches has no 'hierarchical'")
    return lacking
