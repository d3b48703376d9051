"""The paper's experiments as functions: a profile in, tidy result rows out; what is missing is computed."""

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import pandas as pd
import torch

from hglad.distillation import DistillationSettings, load_real
from hglad.distilled import DistilledSet
from hglad.errors import HgladError
from hglad.evaluation import random_real
from hglad.priors import load_prior
from hglad.profile import Profile, changed, profile_from
from hglad.results import Store
from hglad.settings import suggestion
from hglad.storage import read_json
from hglad.tasks import EvaluateTask, MeasureTask, required, run_all


@dataclass
class Experiment:
    """Tasks of one notebook; `rows` reads their results."""

    profile: Profile
    evaluations: list[EvaluateTask] = field(default_factory=list)
    measures: list[MeasureTask] = field(default_factory=list)
    families: dict[str, list[EvaluateTask]] = field(default_factory=dict)
    """Layer sweeps of further generators, by the generator's name."""

    @property
    def all_evaluations(self) -> list[EvaluateTask]:
        """Evaluations, those of further generators included."""
        return [*self.evaluations, *(task for sweep in self.families.values() for task in sweep)]

    def tasks(self) -> list:
        """Evaluations, measurements and everything that they need."""
        return required([*self.all_evaluations, *self.measures])

    def rows(self, store: Store) -> pd.DataFrame:
        """Tidy rows: objective, method, layer, ipc, seed, network, repeat, accuracy."""
        return store.rows([task.key for task in self.evaluations])


def _main_network(profile: Profile) -> str:
    return next(iter(profile.networks))


def _evaluate(
    profile: Profile, settings: DistillationSettings, network: str, iterates: bool = False
) -> EvaluateTask:
    own = profile.objective(settings.objective).evaluation
    training = changed(profile.evaluation.training, own, "evaluation.")
    return EvaluateTask(
        profile.data, settings.kind, settings.ipc, settings.seed, network, profile.networks[network],
        profile.evaluation.repeats, training, settings, iterates,
    )  # fmt: skip


def _distilled(
    profile: Profile, objective: str, kind: str, ipc: int, seed: int, **changes
) -> DistillationSettings:
    keep = kind == "hierarchical" and ipc == profile.sets["ipc"][0]
    return DistillationSettings.of(profile, objective, kind, ipc, seed, keep_iterates=keep, **changes)


def _searches(profile: Profile, kinds: list[str], network: str) -> list[EvaluateTask]:
    return [
        _evaluate(profile, _distilled(profile, objective, kind, ipc, seed), network)
        for objective in profile.sets["objectives"]
        for kind in kinds
        for ipc in profile.sets["ipc"]
        for seed in profile.sets["seeds"]
    ]


def _random(profile: Profile, network: str) -> list[EvaluateTask]:
    evaluation, options = profile.evaluation, profile.networks[network]
    return [
        EvaluateTask(
            profile.data, "random", ipc, seed, network, options, evaluation.repeats, evaluation.training
        )
        for ipc in profile.sets["ipc"]
        for seed in profile.sets["seeds"]
    ]


def _baselines(profile: Profile, network: str) -> list[EvaluateTask]:
    evaluation, options = profile.evaluation, profile.networks[network]
    full = [
        EvaluateTask(profile.data, "full", None, seed, network, options, 1, evaluation.full_set)
        for seed in range(evaluation.full_set_seeds)
    ]
    return _random(profile, network) + full


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
        _evaluate(
            profile, _distilled(profile, objective, "single", ipc, seed, layer=layer), _main_network(profile)
        )
        for layer in range(layer_count(profile) - 1)
        for seed in seeds
    ]


@lru_cache
def _layers(prior: str) -> tuple[str, ...]:
    return load_prior(prior).layers


def layer_count(profile: Profile) -> int:
    """Split points of the profile's generator, pixel space included."""
    return len(_layers(profile.prior))


def layer_names(profile: Profile) -> tuple[str, ...]:
    """Names of the split points of the profile's generator."""
    return _layers(profile.prior)


def hierarchical_search(profile: Profile) -> Experiment:
    """All searches at every ipc, with the baselines."""
    network = _main_network(profile)
    tasks = _searches(profile, profile.sets["searches"], network)
    return Experiment(profile, tasks + _baselines(profile, network))


def metric_ablation(profile: Profile) -> Experiment:
    """Every measured iterate of some hierarchical runs, evaluated."""
    objective, ipc = profile.sets["objectives"][0], profile.sets["ipc"][0]
    tasks = [
        _evaluate(
            profile, _distilled(profile, objective, "hierarchical", ipc, seed), _main_network(profile), True
        )
        for seed in profile.sets["seeds"][: profile.studies.ablation_seeds]
    ]
    return Experiment(profile, tasks, [MeasureTask(task.distilled) for task in tasks])


def cross_architecture(profile: Profile) -> Experiment:
    """Sets of every method at the first ipc, evaluated on every architecture of the profile."""
    ipc, seeds = profile.sets["ipc"][:1], profile.sets["seeds"][: profile.studies.cross_seeds]
    part = replace(profile, sets=profile.sets | {"ipc": ipc, "seeds": seeds})
    tasks = []
    for network in profile.networks:
        tasks += _searches(part, profile.sets["searches"], network) + _baselines(part, network)
    return Experiment(profile, tasks)


EXPERIMENTS = {
    f.__name__: f
    for f in (matching_objectives, glad_baseline, hierarchical_search, metric_ablation, cross_architecture)
}


def experiments_of(profile: Profile) -> list[str]:
    """Experiments that a profile has the settings for: without a prior the objectives in pixel space only."""
    hierarchical = "hierarchical" in profile.sets["searches"]
    wanted = {
        "matching_objectives": bool(profile.objectives),
        "glad_baseline": profile.prior is not None,
        "hierarchical_search": hierarchical,
        "metric_ablation": hierarchical and profile.studies.ablation_seeds > 0,
        "cross_architecture": hierarchical and profile.studies.cross_seeds > 0,
    }
    return [name for name in EXPERIMENTS if wanted[name]]


def plan(profile: Profile, only: str | None = None) -> list:
    """Tasks of all experiments of a profile, or of the one named `only`.

    Raises:
        HgladError: unknown experiment.
    """
    if only is not None and only not in EXPERIMENTS:
        raise HgladError(f"unknown experiment '{only}': {suggestion(only, EXPERIMENTS)}")
    chosen = [EXPERIMENTS[name] for name in ([only] if only else experiments_of(profile))]
    return required(
        [task for make in chosen for e in [make(profile)] for task in (*e.all_evaluations, *e.measures)]
    )


def measured_distances(profile: Profile, store: Store, names: list[str]) -> pd.DataFrame:
    """Distance of every evaluated iterate of the ablation by each metric, with its mean accuracy.

    Returns:
        One row per iterate: seed, iterate, stage, step, accuracy, and one column per metric.
    """
    experiment = metric_ablation(profile)
    rows = (
        experiment.rows(store).groupby(["seed", "iterate", "stage", "step"])["accuracy"].mean().reset_index()
    )
    for task in experiment.measures:
        distances = read_json(store.distances_file(task.key))["distances"]
        for name in names:
            rows.loc[rows["seed"] == task.settings.seed, name] = distances[name]
    return rows


@dataclass(frozen=True)
class Laboratory:
    """An experiment whose results are all there: where a notebook takes its tables and figures from."""

    profile: Profile
    store: Store
    experiment: Experiment

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Tidy rows of the experiment."""
        return self.experiment.rows(self.store)

    @property
    def main_rows(self) -> pd.DataFrame:
        """Rows without the single-layer runs at other layers than the profile's."""
        return self.rows[self.rows["layer"].isna() | (self.rows["layer"] == self.profile.search.layer)]

    @property
    def sweep_rows(self) -> pd.DataFrame:
        """Rows of the layer sweep; `layer` is a split point, also for the pixels."""
        profile, rows = self.profile, self.rows
        seeds = profile.sets["seeds"][: profile.studies.sweep_seeds]
        swept = rows["method"].isin(["single", "pixels"]) & rows["seed"].isin(seeds)
        swept &= (rows["ipc"] == profile.sets["ipc"][0]) & (
            rows["objective"] == profile.sets["objectives"][0]
        )
        return rows[swept].fillna({"layer": layer_count(profile) - 1})

    def sweeps(self) -> dict[str, tuple[pd.DataFrame, tuple[str, ...]]]:
        """Layer sweeps by generator, the profile's first: rows as `sweep_rows`, and names of the layers."""
        own = self.sweep_rows
        sweeps = {self.profile.prior: (own, layer_names(self.profile))}
        pixels = own[own["method"] == "pixels"]
        for prior, tasks in self.experiment.families.items():
            names = _layers(prior)
            rows = self.store.rows([task.key for task in tasks])
            sweeps[prior] = (pd.concat([rows, pixels.assign(layer=len(names) - 1)]), names)
        return sweeps

    @cached_property
    def distillations(self) -> dict[str, DistillationSettings]:
        """Settings of the distilled sets behind the rows, by fingerprint."""
        return {
            task.distilled.fingerprint: task.distilled
            for task in self.experiment.all_evaluations
            if task.distilled
        }

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return load_real(self.profile.data).train.classes

    def distilled(
        self,
        method: str,
        ipc: int | None = None,
        seed: int | None = None,
        layer: int | None = None,
        objective: str | None = None,
    ) -> DistilledSet:
        """A set, by default at the first objective, ipc and seed of the profile and at its layer.

        Args:
            method: a search, or `random` for the baseline.
            ipc: images per class.
            seed: distillation seed.
            layer: split point of the single-layer search.
            objective: matching objective.

        Raises:
            HgladError: the experiment has no such set.
        """
        sets = self.profile.sets
        ipc, seed = sets["ipc"][0] if ipc is None else ipc, sets["seeds"][0] if seed is None else seed
        if method == "random":
            return random_real(load_real(self.profile.data).train, ipc, seed)
        layer = self.profile.search.layer if layer is None else layer
        objective = sets["objectives"][0] if objective is None else objective
        for key, s in self.distillations.items():
            same_layer = method != "single" or (s.search.layer == layer and s.prior == self.profile.prior)
            if (s.objective, s.kind, s.ipc, s.seed) == (objective, method, ipc, seed) and same_layer:
                return DistilledSet.load(self.store.set_folder(key))
        raise HgladError(
            f"no distilled set of '{method}' with ipc {ipc}, seed {seed}, layer {layer}: expected a run of "
            f"profile {self.profile.profile}"
        )

    def first_images(self, method: str, layer: int | None = None) -> torch.Tensor:
        """One image per class (class, channels, height, width) of the set at the first ipc and seed."""
        distilled = self.distilled(method, layer=layer)
        return distilled.images[:: distilled.ipc]

    def cards(self) -> list[dict]:
        """Cards of the distilled sets behind the rows."""
        return [read_json(self.store.set_folder(key) / "card.json") for key in self.distillations]


def open_experiment(name: str, **parameters) -> Laboratory:
    """Open an experiment with the parameters of a notebook; what is missing of its results is computed first.

    Args:
        name: one of `EXPERIMENTS`.
        parameters: keys of a profile.

    Raises:
        HgladError: unknown experiment, parameters that are no profile.
    """
    if name not in EXPERIMENTS:
        raise HgladError(f"unknown experiment '{name}': {suggestion(name, EXPERIMENTS)}")
    profile = profile_from(**parameters)
    store, experiment = Store.of_profile(profile.profile), EXPERIMENTS[name](profile)
    run_all(experiment.tasks(), store)
    return Laboratory(profile, store, experiment)
