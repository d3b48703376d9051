"""The paper's experiments as functions: a profile in, tidy result rows out; what is missing is computed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

import pandas as pd

from hglad.errors import HgladError
from hglad.experiments import ablations
from hglad.experiments.ablations import Variant
from hglad.experiments.evaluation_task import EvaluateTask, marks_by_key
from hglad.experiments.profile import Profile
from hglad.experiments.runner import required
from hglad.experiments.store import Store
from hglad.experiments.tasks import ClassifierTask, MeasureTask
from hglad.priors import load_prior
from hglad.search.distillation import DistillationSettings
from hglad.settings import suggestion

RATES = ("lr_features", "lr_latents", "lr_pixels")


@dataclass
class Experiment:
    """Tasks of one notebook; `rows` reads their results."""

    profile: Profile
    evaluations: list[EvaluateTask] = field(default_factory=list)
    measures: list[MeasureTask] = field(default_factory=list)
    families: dict[str, list[EvaluateTask]] = field(default_factory=dict)
    """Layer sweeps of further generators, by the generator's name."""
    variants: list[EvaluateTask] = field(default_factory=list)
    """Searches that differ from the paper's in one part."""
    parts: dict[str, "Experiment"] = field(default_factory=dict)
    """Experiments that this one looks back on, by name."""

    @property
    def all_evaluations(self) -> list[EvaluateTask]:
        """Evaluations, those of further generators, of variants and of parts included."""
        families = (task for sweep in self.families.values() for task in sweep)
        of_parts = (task for part in self.parts.values() for task in part.all_evaluations)
        return [*self.evaluations, *families, *self.variants, *of_parts]

    @property
    def shown(self) -> list[EvaluateTask | MeasureTask]:
        """Evaluations and measurements whose results it shows."""
        return [*self.all_evaluations, *self.measures, *(m for p in self.parts.values() for m in p.measures)]

    def tasks(self) -> list:
        """What it shows and everything that this needs."""
        return required(self.shown)

    def rows(self, store: Store) -> pd.DataFrame:
        """Tidy rows: objective, method, layer, ipc, seed, network, repeat, accuracy."""
        return store.rows(marks_by_key(self.evaluations or self.variants))


def _main_network(profile: Profile) -> str:
    return next(iter(profile.networks))


def evaluation_of(
    profile: Profile, settings: DistillationSettings, network: str | None = None, iterates: bool = False
) -> EvaluateTask:
    """The evaluation of a run under the protocol of its objective, on a network of the profile, the main one.

    Args:
        profile: protocol and networks.
        settings: the run.
        network: label of the network.
        iterates: evaluate every measured iterate.
    """
    network = network or _main_network(profile)
    return EvaluateTask(
        profile.data, settings.kind, settings.ipc, settings.seed, network, profile.networks[network],
        profile.evaluation.repeats, profile.training(network, settings.objective), settings, iterates,
    )  # fmt: skip


def _distilled(
    profile: Profile, objective: str, kind: str, ipc: int, seed: int, **changes
) -> DistillationSettings:
    keep = kind == "hierarchical" and ipc == profile.sets["ipc"][0]
    return DistillationSettings.of(profile, objective, kind, ipc, seed, **{"keep_iterates": keep} | changes)


def _searches(profile: Profile, kinds: list[str], network: str) -> list[EvaluateTask]:
    return [
        evaluation_of(profile, _distilled(profile, objective, kind, ipc, seed), network)
        for objective in profile.sets["objectives"]
        for kind in kinds
        for ipc in profile.ipcs(objective)
        if ipc in profile.sets["ipc"]
        for seed in profile.sets["seeds"]
    ]


def _random(profile: Profile, network: str) -> list[EvaluateTask]:
    return [
        _baseline(profile, network, "random", ipc, seed)
        for ipc in profile.sets["ipc"]
        for seed in profile.sets["seeds"]
    ]


def _baseline(
    profile: Profile, network: str, method: str, ipc: int | None, seed: int, **source
) -> EvaluateTask:
    options, repeats = profile.networks[network], profile.evaluation.repeats
    return EvaluateTask(
        profile.data, method, ipc, seed, network, options, repeats, profile.training(network), **source
    )


def _full(profile: Profile, network: str) -> list[EvaluateTask]:
    evaluation, options = profile.evaluation, profile.networks[network]
    return [
        EvaluateTask(profile.data, "full", None, seed, network, options, 1, evaluation.full_set)
        for seed in range(evaluation.full_set_seeds)
    ]


def _baselines(profile: Profile, network: str) -> list[EvaluateTask]:
    return _random(profile, network) + _full(profile, network)


def _untrained(profile: Profile, network: str) -> list[EvaluateTask]:
    """The sets of `studies.baselines` at every ipc; a mean image is one for each class and has no seed."""
    tasks = []
    for method in profile.studies.baselines:
        if method == "class_mean":
            tasks.append(_baseline(profile, network, method, 1, 0))
            continue
        for ipc in profile.sets["ipc"]:
            for seed in profile.sets["seeds"]:
                source = _source(profile, method, seed)
                tasks.append(_baseline(profile, network, method, ipc, seed, **source))
    return tasks


def _source(profile: Profile, method: str, seed: int) -> dict[str, object]:
    """What a baseline selects or samples with; every seed of a selection has a classifier of its own."""
    if method.startswith("samples"):
        return {"prior": profile.prior, "prior_classes": profile.search.labels}
    return {
        "classifier": ClassifierTask(profile.data, profile.metric.changed(seed=profile.metric.seed + seed))
    }


def matching_objectives(profile: Profile) -> Experiment:
    """Every objective that the profile sets up, in pixel space at the first ipc, and random real images."""
    network, seeds = _main_network(profile), profile.sets["seeds"][: profile.studies.matching_seeds]
    changes = {"objectives": list(profile.objectives), "ipc": profile.sets["ipc"][:1], "seeds": seeds}
    part = replace(profile, sets=profile.sets | changes)
    return Experiment(profile, _searches(part, ["pixels"], network) + _random(part, network))


def glad_baseline(profile: Profile) -> Experiment:
    """Pixels and GLaD's fixed layer at every ipc, the sweeps over layers at the first ipc, the baselines."""
    network, kinds = _main_network(profile), [k for k in profile.sets["searches"] if k != "hierarchical"]
    searches, baselines = _searches(profile, kinds, network), _baselines(profile, network)
    families = {
        prior: [replace(task, generator=prior) for task in layer_sweep(replace(profile, prior=prior))]
        for prior in profile.studies.families
    }
    return Experiment(profile, searches + layer_sweep(profile) + baselines, families=families)


def layer_sweep(profile: Profile) -> list[EvaluateTask]:
    """One fixed layer of the profile's generator each, at the first ipc and objective."""
    seeds = profile.sets["seeds"][: profile.studies.sweep_seeds]
    objective, ipc = profile.sets["objectives"][0], profile.sets["ipc"][0]
    return [
        evaluation_of(
            profile,
            _distilled(profile, objective, "single", ipc, seed, search={"layer": layer}),
            _main_network(profile),
        )
        for layer in range(layer_count(profile) - 1)
        for seed in seeds
    ]


@lru_cache
def layers_of(prior: str) -> tuple[str, ...]:
    """Names of the split points of a generator."""
    return load_prior(prior).layers


def layer_count(profile: Profile) -> int:
    """Split points of the profile's generator, pixel space included."""
    return len(layers_of(profile.prior))


def layer_names(profile: Profile) -> tuple[str, ...]:
    """Names of the split points of the profile's generator."""
    return layers_of(profile.prior)


def hierarchical_search(profile: Profile) -> Experiment:
    """All searches at every ipc, with the baselines."""
    network = _main_network(profile)
    tasks = _searches(profile, profile.sets["searches"], network)
    return Experiment(profile, tasks + _baselines(profile, network))


def metric_ablation(profile: Profile) -> Experiment:
    """Every measured iterate of some hierarchical runs, evaluated; the paper's search without each part."""
    ipc, network, brief = profile.sets["ipc"][0], _main_network(profile), _briefly(profile)
    tasks = [
        evaluation_of(brief, _distilled(profile, objective, "hierarchical", ipc, seed), network, True)
        for objective in studied(profile)
        for seed in profile.sets["seeds"][: profile.studies.ablation_seeds]
    ]
    measures = [MeasureTask(task.distilled) for task in tasks]
    without = _variants(profile, partial(_parts, profile), profile.studies.part_seeds)
    return Experiment(profile, tasks, measures, variants=without)


def _parts(profile: Profile, split_points: int, ipc: int) -> list[Variant]:
    """The paper's search and those without a part that the profile asks for."""
    asked, variants = profile.studies.parts, ablations.parts(split_points, ipc)
    return [v for v in variants if not asked or v.name in (ablations.PAPER, *asked)]


def paper_vs_code(profile: Profile) -> Experiment:
    """The paper's search, and with what the released code does instead, one behaviour at a time."""
    return Experiment(profile, variants=_variants(profile, ablations.audit, profile.studies.audit_seeds))


def studied(profile: Profile) -> Sequence[str]:
    """Objectives of the studies of the search."""
    return profile.studies.objectives or profile.sets["objectives"]


def _variants(profile: Profile, make: Callable[[int, int], list[Variant]], seeds: int) -> list[EvaluateTask]:
    ipc, network = profile.sets["ipc"][0], _main_network(profile)
    tasks = []
    for objective in studied(profile):
        for variant in make(layer_count(profile), ipc) if seeds else []:
            rates = profile.searched(objective, variant.rates_of, ipc)
            layer = profile.searched(objective, "single").layer  # of GLaD, whose work a budget may follow
            search = {key: getattr(rates, key) for key in RATES} | {"layer": layer} | variant.search
            own = {"search": search, "metric": variant.metric, "keep_iterates": False}
            for seed in profile.sets["seeds"][:seeds]:
                settings = _distilled(profile, objective, variant.kind, ipc, seed, **own)
                own_task = evaluation_of(_briefly(profile), settings, network)
                tasks.append(replace(own_task, variant=variant.name))
    return tasks


def cross_architecture(profile: Profile) -> Experiment:
    """Sets of every method at the first ipc, evaluated on every architecture of the profile."""
    main, full = _main_network(profile), profile.studies.cross_full
    ipc, seeds = profile.sets["ipc"][:1], profile.sets["seeds"][: profile.studies.cross_seeds]
    part = replace(profile, sets=profile.sets | {"ipc": ipc, "seeds": seeds})
    tasks = []
    for network in profile.networks:
        own = part if network == main else _briefly(part)
        tasks += _searches(own, profile.sets["searches"], network) + _random(own, network)
        tasks += _full(own, network) if network == main or full else []
    return Experiment(profile, tasks)


def _briefly(profile: Profile) -> Profile:
    """The profile with as many networks per set as its studies train."""
    repeats = profile.studies.repeats or profile.evaluation.repeats
    return replace(profile, evaluation=profile.evaluation.changed(repeats=repeats))


def baselines(profile: Profile) -> Experiment:
    """Sets that nothing was optimised for beside the searches; all also under other augmentations."""
    network = _main_network(profile)
    tasks = _searches(profile, profile.sets["searches"], network)
    tasks += _untrained(profile, network) + _random(profile, network)
    others = [(text, task) for text in profile.studies.augmentations for task in tasks]
    under = [_under(task, text) for text, task in others if text != task.training.augmentation]
    return Experiment(profile, tasks + under + _full(profile, network))


def _under(task: EvaluateTask, augmentation: str) -> EvaluateTask:
    """The same evaluation with another augmentation."""
    training = task.training.changed(augmentation=augmentation)
    return replace(task, training=training, augmentation=augmentation.replace("_", ", ") or "none")


def claims(profile: Profile) -> Experiment:
    """What the other experiments say about the claims of the paper, as far as the profile has them."""
    return Experiment(
        profile, parts={n: EXPERIMENTS[n](profile) for n in CLAIMS if n in experiments_of(profile)}
    )


CLAIMS = ("hierarchical_search", "cross_architecture", "metric_ablation", "baselines")
"""Experiments that `claims` looks back on."""

EXPERIMENTS = {
    f.__name__: f
    for f in (
        matching_objectives,
        glad_baseline,
        hierarchical_search,
        metric_ablation,
        cross_architecture,
        paper_vs_code,
        baselines,
        claims,
    )
}


def experiments_of(profile: Profile) -> list[str]:
    """Experiments that a profile has the settings for: without a prior the objectives in pixel space only."""
    asked = profile.studies.experiments or tuple(EXPERIMENTS)
    return [name for name in EXPERIMENTS if name in asked and _is_wanted(name, profile)]


def _is_wanted(name: str, profile: Profile) -> bool:
    searches, studies = profile.sets["searches"], profile.studies
    hierarchical = "hierarchical" in searches
    return {
        "matching_objectives": bool(profile.objectives),
        "glad_baseline": profile.prior is not None,
        "hierarchical_search": hierarchical,
        "metric_ablation": hierarchical and min(studies.ablation_seeds, studies.part_seeds) > 0,
        "cross_architecture": hierarchical and studies.cross_seeds > 0,
        "paper_vs_code": hierarchical and studies.audit_seeds > 0,
        "baselines": bool(studies.baselines),
        "claims": hierarchical and {"pixels", "single"} <= set(searches),
    }[name]


def check_name(only: str | None) -> None:
    """Raise `HgladError` for an unknown experiment, with the nearest name; none stands for all of them."""
    if only is not None and only not in EXPERIMENTS:
        raise HgladError(f"unknown experiment '{only}': {suggestion(only, EXPERIMENTS)}")


def plan(profile: Profile, only: str | None = None) -> list:
    """Tasks of all experiments of a profile, or of the one named `only`.

    Raises:
        HgladError: unknown experiment.
    """
    check_name(only)
    chosen = [EXPERIMENTS[name] for name in ([only] if only else experiments_of(profile))]
    return required([task for make in chosen for task in make(profile).shown])
