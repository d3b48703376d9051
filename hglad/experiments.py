"""The paper's experiments as functions: a profile in, tidy result rows out; what is missing is computed.

Each experiment is a list of tasks. A task knows its fingerprint, hence whether its result is there already.
"""

import os
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import joblib
import pandas as pd
import torch
from tqdm import tqdm

from hglad import augment, training
from hglad.distillation import DistillationSettings, data_hash, distill, load_real, train_metric_classifier
from hglad.distilled import DistilledSet
from hglad.errors import HgladError
from hglad.evaluation import evaluate, full_set, random_real
from hglad.metrics import METRICS, create_metric
from hglad.networks import NETWORKS, Classifier, create_network
from hglad.profile import DataSettings, MetricSettings, Profile, profile_from
from hglad.provenance import Stopwatch
from hglad.results import Store
from hglad.settings import fingerprint, suggestion
from hglad.storage import read_json, read_tensors, write_json, write_tensors
from hglad.training import TrainingSettings


def _versions(network: dict) -> dict[str, int]:
    """Versions of what trains a classifier."""
    return {
        "training": training.VERSION,
        "augment": augment.VERSION,
        "network": NETWORKS.version(network["name"]),
    }


@dataclass(frozen=True)
class ClassifierTask:
    """Train the classifier behind the selection metric."""

    data: DataSettings
    metric: MetricSettings
    phase = 0

    @cached_property
    def key(self) -> str:
        """Fingerprint."""
        used = {"network": self.metric.network, "seed": self.metric.seed}
        versions = _versions(self.metric.network)
        return fingerprint(used, self.metric.training, data_hash(self.data), versions)

    @property
    def cost(self) -> float:
        """Estimate, in images that pass through a small network."""
        return self.metric.training.epochs * len(load_real(self.data).train.images)

    def done(self, store: Store) -> bool:
        """Whether the result is there."""
        return store.classifier_file(self.key).is_file()

    def run(self, store: Store, device: str) -> None:
        """Compute and keep the result."""
        network = train_metric_classifier(self.metric, load_real(self.data, device))
        write_tensors(store.classifier_file(self.key), network.state_dict())


def load_classifier(task: ClassifierTask, store: Store, device: str = "cpu") -> Classifier:
    """The trained classifier behind the selection metric."""
    real = load_real(task.data, device).train
    network = create_network(image_shape=real.image_shape, classes=len(real.classes), **task.metric.network)
    network.load_state_dict(read_tensors(store.classifier_file(task.key)))
    return network.to(device).eval()


@dataclass(frozen=True)
class DistillTask:
    """Distil one set."""

    settings: DistillationSettings
    phase = 1

    @cached_property
    def key(self) -> str:
        """Fingerprint."""
        return self.settings.fingerprint

    @property
    def classifier(self) -> ClassifierTask:
        """The task that must be done before."""
        return ClassifierTask(self.settings.data, self.settings.metric)

    @property
    def cost(self) -> float:
        """Estimate, in images that pass through a small network."""
        s = self.settings
        images = s.ipc * len(load_real(s.data).train.classes)
        through_generator = 0 if s.kind == "pixels" else 40
        return s.search.steps * (images * (3 + through_generator) + s.surrogate.batch_real * images / s.ipc)

    def done(self, store: Store) -> bool:
        """Whether the result is there."""
        return (store.set_folder(self.key) / "card.json").is_file()

    def run(self, store: Store, device: str) -> None:
        """Compute and keep the result."""
        classifier = load_classifier(self.classifier, store, device)
        distill(self.settings, store.set_folder(self.key), device, classifier)


@dataclass(frozen=True)
class EvaluateTask:
    """Train networks on one set; `method` is a search, `random` or `full`."""

    data: DataSettings
    method: str
    ipc: int | None
    seed: int
    network: str
    options: dict
    repeats: int
    training: TrainingSettings
    distilled: DistillationSettings | None = None
    """Where the set comes from, unless it is a baseline."""
    iterates: bool = False
    """Evaluate every kept iterate instead of the selected one."""
    phase = 2

    @cached_property
    def key(self) -> str:
        """Fingerprint."""
        source = self.distilled.fingerprint if self.distilled else [data_hash(self.data), self.seed]
        return fingerprint(
            source, self.method, self.ipc, self.network, self.options, self.repeats, self.training,
            self.iterates, _versions(self.options),
        )  # fmt: skip

    @property
    def cost(self) -> float:
        """Estimate, in images that pass through a small network."""
        real = load_real(self.data).train
        images = self.ipc * len(real.classes) if self.ipc else len(real.images)
        sets = 1 + self.distilled.search.steps // self.distilled.search.select_every if self.iterates else 1
        return 3 * self.training.epochs * self.repeats * images * sets

    def done(self, store: Store) -> bool:
        """Whether the result is there."""
        return store.evaluation_file(self.key).is_file()

    def run(self, store: Store, device: str) -> None:
        """Compute and keep the result."""
        watch, data = Stopwatch(device), load_real(self.data, device)
        frames = [self._rows(part, data).assign(**marks) for part, marks in self._sets(store, data)]
        provenance = watch.provenance() | {
            "settings": {"method": self.method, "training": self.training.__dict__, "network": self.options},
            "data_hash": data_hash(self.data),
            "set": self.distilled.fingerprint if self.distilled else self.method,
        }
        store.write_rows(self.key, pd.concat(frames, ignore_index=True), provenance)

    def _sets(self, store: Store, data):
        if self.method == "random":
            return [(random_real(data.train, self.ipc, self.seed), {})]
        if self.method == "full":
            return [(full_set(data.train), {})]
        distilled = DistilledSet.load(store.set_folder(self.distilled.fingerprint))
        if not self.iterates:
            return [(distilled, {})]
        moments = distilled.card["history"]
        return [
            (
                replace(distilled, images=images.float() / 255),
                {"iterate": index, "stage": moment[0], "step": moment[1]},
            )
            for index, (images, moment) in enumerate(zip(distilled.iterates, moments, strict=True))
        ]

    def _rows(self, distilled: DistilledSet, data) -> pd.DataFrame:
        frame = evaluate(
            distilled, data, {self.network: self.options}, self.repeats, self.training, self.seed
        )
        source = self.distilled
        marks = {
            "objective": source.objective if source else None,
            "method": self.method,
            "layer": source.search.layer if source and source.kind == "single" else None,
            "ipc": self.ipc,
            "seed": self.seed,
        }
        return pd.DataFrame([marks | row for row in frame.to_dict("records")])


@dataclass(frozen=True)
class MeasureTask:
    """Distances of the kept iterates of a run by several metrics, on the images that are evaluated."""

    settings: DistillationSettings
    phase = 2

    @property
    def names(self) -> list[str]:
        """Metrics that are measured."""
        return [self.settings.metric.name, *self.settings.metric.compared]

    @cached_property
    def key(self) -> str:
        """Fingerprint."""
        versions = {name: METRICS.version(name) for name in self.names}
        return fingerprint("distances", self.settings.fingerprint, versions)

    @property
    def cost(self) -> float:
        """Estimate, in images that pass through a small network."""
        return len(self.names) * len(load_real(self.settings.data).train.images)

    def done(self, store: Store) -> bool:
        """Whether the result is there."""
        return store.distances_file(self.key).is_file()

    def run(self, store: Store, device: str) -> None:
        """Compute and keep the result."""
        watch, real = Stopwatch(device), load_real(self.settings.data, device).train
        classifier = load_classifier(DistillTask(self.settings).classifier, store, device)
        distilled = DistilledSet.load(store.set_folder(self.settings.fingerprint))
        labels, distances = distilled.labels.to(device), {}
        for name in self.names:
            metric = create_metric(name, classifier, real)
            distances[name] = [metric(x.to(device).float() / 255, labels) for x in distilled.iterates]
        content = {"distances": distances, "provenance": watch.provenance()}
        write_json(store.distances_file(self.key), content)


@dataclass
class Experiment:
    """Tasks of one notebook; `rows` reads their results."""

    profile: Profile
    evaluations: list[EvaluateTask] = field(default_factory=list)
    measures: list[MeasureTask] = field(default_factory=list)

    def tasks(self) -> list:
        """Evaluations, measurements and everything that they need."""
        return required([*self.evaluations, *self.measures])

    def rows(self, store: Store) -> pd.DataFrame:
        """Tidy rows: objective, method, layer, ipc, seed, network, repeat, accuracy."""
        return store.rows([task.key for task in self.evaluations])


def required(tasks: list[EvaluateTask | MeasureTask]) -> list:
    """The tasks, the sets behind them and the classifiers behind those, each once."""
    sources = [task.settings if isinstance(task, MeasureTask) else task.distilled for task in tasks]
    distillations = [DistillTask(settings) for settings in sources if settings]
    classifiers = [task.classifier for task in distillations]
    return list({task.key: task for task in [*classifiers, *distillations, *tasks]}.values())


def _main_network(profile: Profile) -> str:
    return next(iter(profile.networks))


def _evaluate(
    profile: Profile, settings: DistillationSettings, network: str, iterates: bool = False
) -> EvaluateTask:
    evaluation = profile.evaluation
    return EvaluateTask(
        profile.data, settings.kind, settings.ipc, settings.seed, network, profile.networks[network],
        evaluation.repeats, evaluation.training, settings, iterates,
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


def _baselines(profile: Profile, network: str) -> list[EvaluateTask]:
    evaluation, options = profile.evaluation, profile.networks[network]
    random = [
        EvaluateTask(
            profile.data, "random", ipc, seed, network, options, evaluation.repeats, evaluation.training
        )
        for ipc in profile.sets["ipc"]
        for seed in profile.sets["seeds"]
    ]
    full = [
        EvaluateTask(profile.data, "full", None, seed, network, options, 1, evaluation.full_set)
        for seed in range(evaluation.full_set_seeds)
    ]
    return random + full


def glad_baseline(profile: Profile) -> Experiment:
    """Pixels and GLaD's fixed layer at every ipc, the sweep over layers at the first ipc, the baselines."""
    network, kinds = _main_network(profile), [k for k in profile.sets["searches"] if k != "hierarchical"]
    return Experiment(
        profile, _searches(profile, kinds, network) + layer_sweep(profile) + _baselines(profile, network)
    )


def layer_sweep(profile: Profile) -> list[EvaluateTask]:
    """One fixed layer each, at the first ipc and objective."""
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
    from hglad.priors import load_prior

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
    f.__name__: f for f in (glad_baseline, hierarchical_search, metric_ablation, cross_architecture)
}


def plan(profile: Profile, only: str | None = None) -> list:
    """Tasks of all experiments of a profile, or of the one named `only`.

    Raises:
        HgladError: unknown experiment.
    """
    if only is not None and only not in EXPERIMENTS:
        raise HgladError(f"unknown experiment '{only}': {suggestion(only, EXPERIMENTS)}")
    chosen = [EXPERIMENTS[only]] if only else EXPERIMENTS.values()
    return required(
        [task for make in chosen for e in [make(profile)] for task in (*e.evaluations, *e.measures)]
    )


SMALL = 1e5  # cost in all below which starting processes takes longer than they save


def run_all(tasks: list, store: Store, cores: int | None = None, device: str = "cpu") -> None:
    """Compute the tasks whose results are missing, several at a time on processors, one at a time on a GPU.

    A stop at any moment loses the runs under way at most, and those go on from their last saved state.
    """
    missing = [task for task in tasks if not task.done(store)]
    if not missing:
        return
    total = sum(task.cost for task in missing)
    usual = os.cpu_count() if total > SMALL else 1
    cores = 1 if device != "cpu" else min(cores or usual, len(missing))
    shape = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}<{remaining}{postfix}"
    bar = tqdm(total=total, desc="runs", bar_format=shape)
    for phase in sorted({task.phase for task in missing}):
        ready = sorted((task for task in missing if task.phase == phase), key=lambda task: -task.cost)
        parallel = joblib.Parallel(cores, return_as="generator_unordered", batch_size=1, pre_dispatch=cores)
        for task in parallel(joblib.delayed(_run_one)(task, store, device, cores) for task in ready):
            bar.update(task.cost)
    bar.close()


def _run_one(task, store: Store, device: str, cores: int):
    if cores > 1:
        torch.set_num_threads(max(1, os.cpu_count() // cores))
    task.run(store, device)
    return task


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

    @cached_property
    def distillations(self) -> dict[str, DistillationSettings]:
        """Settings of the distilled sets behind the rows, by fingerprint."""
        return {
            task.distilled.fingerprint: task.distilled
            for task in self.experiment.evaluations
            if task.distilled
        }

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return load_real(self.profile.data).train.classes

    def distilled(
        self, method: str, ipc: int | None = None, seed: int | None = None, layer: int | None = None
    ) -> DistilledSet:
        """A set of the first objective, by default at the first ipc and seed and the profile's layer.

        Args:
            method: a search, or `random` for the baseline.
            ipc: images per class.
            seed: distillation seed.
            layer: split point of the single-layer search.

        Raises:
            HgladError: the experiment has no such set.
        """
        sets = self.profile.sets
        ipc, seed = sets["ipc"][0] if ipc is None else ipc, sets["seeds"][0] if seed is None else seed
        if method == "random":
            return random_real(load_real(self.profile.data).train, ipc, seed)
        layer = self.profile.search.layer if layer is None else layer
        for key, s in self.distillations.items():
            same_layer = method != "single" or s.search.layer == layer
            if (s.objective, s.kind, s.ipc, s.seed) == (
                sets["objectives"][0],
                method,
                ipc,
                seed,
            ) and same_layer:
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
