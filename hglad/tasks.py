"""Units of work whose results are kept: a task knows its fingerprint, hence whether its result is there."""

import os
import time
import warnings
from dataclasses import dataclass, replace
from functools import cached_property

import joblib
import pandas as pd
import torch

from hglad import augment, training
from hglad.data import DataSettings, RealData
from hglad.distillation import (
    DistillationSettings,
    data_hash,
    distill,
    load_real,
    make_objective,
    parts_for,
    train_metric_classifier,
)
from hglad.distilled import DistilledSet
from hglad.evaluation import evaluate, full_set, random_real
from hglad.experts import ExpertSettings, expert_file, experts_key, train_expert
from hglad.metrics import METRICS, Metric, create_metric
from hglad.networks import NETWORKS, Classifier, create_network
from hglad.profile import MetricSettings
from hglad.progress import progress_bar
from hglad.provenance import Stopwatch
from hglad.results import Store
from hglad.settings import fingerprint
from hglad.storage import read_tensors, write_json, write_tensors
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
class ExpertTask:
    """Train one expert trajectory."""

    data: DataSettings
    network: dict
    experts: ExpertSettings
    index: int
    phase = 0

    @cached_property
    def key(self) -> str:
        """Fingerprint."""
        return fingerprint(self.folder_key, self.index)

    @cached_property
    def folder_key(self) -> str:
        """Fingerprint of the set of experts that this one belongs to."""
        return experts_key(self.experts, self.network, load_real(self.data).train)

    @property
    def cost(self) -> float:
        """Estimate, in images that pass through a small network."""
        return 3 * self.experts.epochs * len(load_real(self.data).train.images)

    def done(self, store: Store) -> bool:
        """Whether the result is there."""
        return expert_file(store.experts_folder(self.folder_key), self.index).is_file()

    def run(self, store: Store, device: str) -> None:
        """Compute and keep the result."""
        real = load_real(self.data, device).train
        folder = store.experts_folder(self.folder_key)
        train_expert(self.experts, self.network, real, self.index, folder)


def expert_tasks(data: DataSettings, network: dict, experts: ExpertSettings) -> list[ExpertTask]:
    """One task per expert."""
    return [ExpertTask(data, network, experts, index) for index in range(experts.count)]


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
        return s.search.steps * (images * (3 + through_generator) + self.matching(images))

    def matching(self, images: int) -> float:
        """Images through the surrogate per step: F forward, 2 F backward, 9 F for a second derivative."""
        s, real = self.settings, self.settings.surrogate.batch_real * images / self.settings.ipc
        if s.objective == "mtt":
            return 12 * images * s.options.get("student_steps", 20)
        return 3 * real if s.objective == "dc" else real

    def done(self, store: Store) -> bool:
        """Whether the result is there."""
        return (store.set_folder(self.key) / "card.json").is_file()

    @property
    def experts(self) -> list[ExpertTask]:
        """Experts that the objective needs; none for most objectives."""
        s = self.settings
        return expert_tasks(s.data, s.surrogate.network, s.experts) if s.experts else []

    def run(self, store: Store, device: str) -> None:
        """Compute and keep the result."""
        classifier = load_classifier(self.classifier, store, device)
        experts = store.experts_folder(self.experts[0].folder_key) if self.experts else None
        distill(self.settings, store.set_folder(self.key), device, classifier, experts=experts)


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
    generator: str | None = None
    """Where it is not the profile's; marks the rows, so that no table mixes them with the others."""
    variant: str | None = None
    """Name of the part in which the search differs; marks the rows as well."""
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
        marks |= {key: mark for key in ("generator", "variant") if (mark := getattr(self, key))}
        return pd.DataFrame([marks | row for row in frame.to_dict("records")])


@dataclass(frozen=True)
class MeasureTask:
    """Distances of the kept iterates of a run by several metrics, on the images that are evaluated.

    Metrics but the one that selected take their usual options. `accuracy` sees a part of the training images
    of its own, which this search has matched like the others.
    """

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
        s, real = self.settings, load_real(self.settings.data).train
        images = s.ipc * len(real.classes)
        calls = {"accuracy": 300 * images, "loss": 4 * DistillTask(s).matching(images)}  # 100 epochs, 4 steps
        iterates = 1 + s.search.steps // s.search.select_every
        return sum(len(real.images) + iterates * calls.get(name, images) for name in self.names)

    def done(self, store: Store) -> bool:
        """Whether the result is there."""
        return store.distances_file(self.key).is_file()

    def run(self, store: Store, device: str) -> None:
        """Compute and keep the result."""
        watch, real = Stopwatch(device), load_real(self.settings.data, device).train
        distilled = DistilledSet.load(store.set_folder(self.settings.fingerprint))
        labels, images = distilled.labels.to(device), distilled.iterates.to(device).float() / 255
        distances, seconds = {}, {}
        for name in self.names:
            metric = self._metric(name, real, store, device)
            begin = time.perf_counter()
            distances[name] = [metric(each, labels) for each in images]
            seconds[name] = (time.perf_counter() - begin) / len(images)
        by_class = create_metric(
            "class_relevant",
            real,
            classifier=load_classifier(DistillTask(self.settings).classifier, store, device),
        ).by_class
        content = {
            "distances": distances,
            "by_class": [by_class(each, labels).tolist() for each in images],
            "seconds": seconds,
            "provenance": watch.provenance(),
        }
        write_json(store.distances_file(self.key), content)

    def _metric(self, name: str, real: RealData, store: Store, device: str) -> Metric:
        task, settings = DistillTask(self.settings), self.settings
        experts = store.experts_folder(task.experts[0].folder_key) if task.experts else None
        own = replace(settings.metric, name=name)
        return create_metric(
            name,
            real,
            classifier=load_classifier(task.classifier, store, device),
            objective=make_objective(settings, real, device, experts),
            held_out=parts_for(own, real)[1],
            **(settings.metric.options if name == settings.metric.name else {}),
        )


def required(tasks: list[EvaluateTask | MeasureTask]) -> list:
    """The tasks, the sets behind them and the classifiers behind those, each once."""
    sources = [task.settings if isinstance(task, MeasureTask) else task.distilled for task in tasks]
    distillations = [DistillTask(settings) for settings in sources if settings]
    classifiers = [task.classifier for task in distillations]
    return list({task.key: task for task in [*classifiers, *distillations, *tasks]}.values())


SMALL = 1e5  # cost in all below which starting processes takes longer than they save


def run_all(tasks: list, store: Store, cores: int | None = None, device: str = "cpu") -> None:
    """Compute the tasks whose results are missing, several at a time on processors, one at a time on a GPU.

    A stop at any moment loses the runs under way at most, and those go on from their last saved state.
    """
    missing = _missing(tasks, store)
    if not missing:
        return
    total = sum(task.cost for task in missing)
    usual = os.cpu_count() if total > SMALL else 1
    cores = 1 if device != "cpu" else min(cores or usual, len(missing))
    shape = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}<{remaining}{postfix}"
    bar = progress_bar(total, "runs", "image", bar_format=shape)
    # joblib replaces a worker whose memory has grown, and says so
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
    for phase in sorted({task.phase for task in missing}):
        ready = sorted((task for task in missing if task.phase == phase), key=lambda task: -task.cost)
        parallel = joblib.Parallel(cores, return_as="generator_unordered", batch_size=1, pre_dispatch=cores)
        for task in parallel(joblib.delayed(_run_one)(task, store, device, cores) for task in ready):
            bar.update(task.cost)
    bar.close()


def _missing(tasks: list, store: Store) -> list:
    """Tasks without a result, with the experts that they need: large files, of no use once a set is there."""
    missing = [task for task in tasks if not task.done(store)]
    experts = [expert for task in missing if isinstance(task, DistillTask) for expert in task.experts]
    experts = {task.key: task for task in experts if not task.done(store)}
    return [*experts.values(), *missing]


def _run_one(task, store: Store, device: str, cores: int):
    if cores > 1:
        torch.set_num_threads(max(1, os.cpu_count() // cores))
    task.run(store, device)
    return task
