"""Units of work whose results are kept: a task knows its fingerprint, hence whether its result is there."""

import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from hglad.data.datasets import RealData
from hglad.evaluation.sets import DistilledSet
from hglad.experiments.cost import generator_seconds, network_seconds
from hglad.experiments.store import Store, whole
from hglad.experiments.versions import Version, Versioned, Versions, current
from hglad.metrics import METRICS, Metric, create_metric
from hglad.networks import Classifier, create_network
from hglad.objectives import OBJECTIVES
from hglad.objectives.experts import expert_file, expert_key, experts_key, train_expert
from hglad.priors import prior_hash
from hglad.provenance import Stopwatch
from hglad.search.distillation import (
    DistillationSettings,
    data_hash,
    distill,
    known_real,
    load_real,
    make_objective,
    parts_for,
    train_metric_classifier,
)
from hglad.settings import DataSettings, ExpertSettings, MetricSettings, fingerprint, to_dict
from hglad.storage import read_tensors, write_json, write_tensors


class Task(Versioned):
    """A unit of work; `place` says where its result lies, `run` computes it.

    `rule` names its kind, for the scheduler; tasks of a later `phase` may read the results of earlier ones.
    """

    rule: ClassVar[str]
    phase: ClassVar[int]

    @property
    def title(self) -> str:
        """What it is about, in words, its seed left out."""
        return self.data.name

    @property
    def requires(self) -> list["Task"]:
        """Tasks whose results it reads."""
        return []

    @cached_property
    def key(self) -> str:
        """Fingerprint."""
        return self.key_with(current)

    def place(self, store: Store, version: Versions = current) -> Path:
        """File whose presence says that the result is there, by the algorithms of these versions."""
        raise NotImplementedError

    def key_of(self, version: Versions) -> str:
        """As `key_with`; the present key is computed once."""
        return self.key if version is current else self.key_with(version)

    def done(self, store: Store) -> bool:
        """Whether the result is there."""
        return whole(self.place(store))


def classifier_versions(network: dict, version: Versions = current) -> dict[str, Version | None]:
    """Versions of what trains a classifier."""
    return {
        "training": version("training"),
        "augment": version("augment"),
        "network": version(f"network {network['name']}"),
    }


def used_prior_hash(prior: str | None) -> str | None:
    """Hash of a generator for the record of a result; None where there is none."""
    return None if prior in (None, "pixels") else prior_hash(prior)


@dataclass(frozen=True)
class ClassifierTask(Task):
    """Train the classifier behind the selection metric."""

    data: DataSettings
    metric: MetricSettings
    rule, phase = "classifier", 0

    def key_with(self, version: Versions) -> str:
        """As `Versioned.key_with`."""
        used = {"network": self.metric.network, "seed": self.metric.seed}
        versions = classifier_versions(self.metric.network, version)
        return fingerprint(used, self.metric.training, data_hash(self.data), versions)

    @property
    def cost(self) -> float:
        """Guess of the seconds on one core."""
        real = known_real(self.data).train
        passes = 3 * self.metric.training.epochs * len(real.images)
        return passes * network_seconds(self.metric.network, real)

    def place(self, store: Store, version: Versions = current) -> Path:
        """As `Task.place`."""
        return store.classifier_file(self.key_of(version))

    def run(self, store: Store, device: str) -> None:
        """Compute and keep the result."""
        watch, file = Stopwatch(device), store.classifier_file(self.key)
        state = file.with_suffix(".state")
        resumed = state.is_file()
        network = train_metric_classifier(self.metric, load_real(self.data, device), state=state)
        card = {
            "settings": {"network": self.metric.network, "training": to_dict(self.metric.training)},
            "provenance": watch.provenance()
            | {"data_hash": data_hash(self.data), "seed": self.metric.seed, "resumed": resumed}
            | self.declared(),
        }
        write_tensors(file, network.state_dict(), {"key": self.key, "card": json.dumps(card)})
        state.unlink(missing_ok=True)


def load_classifier(task: ClassifierTask, store: Store, device: str = "cpu") -> Classifier:
    """The trained classifier behind the selection metric."""
    real = known_real(task.data).train
    network = create_network(image_shape=real.image_shape, classes=len(real.classes), **task.metric.network)
    network.load_state_dict(read_tensors(store.classifier_file(task.key)))
    return network.to(device).eval()


@dataclass(frozen=True)
class ExpertTask(Task):
    """Train one expert trajectory."""

    data: DataSettings
    network: dict
    experts: ExpertSettings
    index: int
    rule, phase = "experts", 0

    def key_with(self, version: Versions) -> str:
        """As `Versioned.key_with`."""
        return expert_key(self.experts, self.network, known_real(self.data).train, self.index, version)

    @cached_property
    def folder_key(self) -> str:
        """Fingerprint of the set of experts that this one belongs to."""
        return experts_key(self.experts, self.network, known_real(self.data).train)

    @property
    def cost(self) -> float:
        """Guess of the seconds on one core."""
        real = known_real(self.data).train
        return 3 * self.experts.epochs * len(real.images) * network_seconds(self.network, real)

    def place(self, store: Store, version: Versions = current) -> Path:
        """As `Task.place`."""
        real = known_real(self.data).train
        folder = experts_key(self.experts, self.network, real, version)
        return expert_file(store.experts_folder(folder), self.index)

    def run(self, store: Store, device: str) -> None:
        """Compute and keep the result."""
        real = load_real(self.data, device).train
        folder = store.experts_folder(self.folder_key)
        train_expert(self.experts, self.network, real, self.index, folder)


def expert_tasks(data: DataSettings, network: dict, experts: ExpertSettings) -> list[ExpertTask]:
    """One task per expert."""
    return [ExpertTask(data, network, experts, index) for index in range(experts.count)]


@dataclass(frozen=True)
class DistillTask(Task):
    """Distil one set."""

    settings: DistillationSettings
    rule, phase = "distill", 1

    @property
    def title(self) -> str:
        """As `Task.title`."""
        return f"{self.settings.objective} {self.settings.kind} ipc {self.settings.ipc}"

    @property
    def requires(self) -> list[Task]:
        """As `Task.requires`."""
        return [self.classifier, *self.experts]

    def key_with(self, version: Versions) -> str:
        """As `Versioned.key_with`."""
        return self.settings.key_with(version)

    @property
    def classifier(self) -> ClassifierTask:
        """The task that must be done before."""
        return ClassifierTask(self.settings.data, self.settings.metric)

    @property
    def cost(self) -> float:
        """Guess of the seconds on one core."""
        s, real = self.settings, known_real(self.settings.data).train
        images = s.ipc * len(real.classes)
        through_generator = 0 if s.kind == "pixels" else images * generator_seconds(real)
        through_network = (3 * images + self.matching(images)) * network_seconds(s.surrogate.network, real)
        return s.search.steps * (through_generator + through_network)

    def matching(self, images: int) -> float:
        """Images through the surrogate per step, as `Objective.passes`."""
        s, real = self.settings, self.settings.surrogate.batch_real * images / self.settings.ipc
        return OBJECTIVES.get(s.objective).passes(images, real, s.options)

    def place(self, store: Store, version: Versions = current) -> Path:
        """As `Task.place`."""
        return store.set_folder(self.key_of(version)) / "card.json"

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
class MeasureTask(Task):
    """Distances of the kept iterates of a run by several metrics, on the images that are evaluated.

    Metrics but the one that selected take their usual options. `accuracy` sees a part of the training images
    of its own, which this search has matched like the others.
    """

    settings: DistillationSettings
    rule, phase = "measure", 2

    @property
    def title(self) -> str:
        """As `Task.title`."""
        return f"metrics of {DistillTask(self.settings).title}"

    @property
    def requires(self) -> list[Task]:
        """As `Task.requires`."""
        run = DistillTask(self.settings)
        return [run, *run.requires]

    @property
    def names(self) -> list[str]:
        """Metrics that are measured."""
        return [self.settings.metric.name, *self.settings.metric.compared]

    def key_with(self, version: Versions) -> str:
        """As `Versioned.key_with`."""
        versions = {name: version(f"metric {name}") for name in self.names}
        return fingerprint("distances", self.settings.key_with(version), versions)

    @property
    def cost(self) -> float:
        """Guess of the seconds on one core."""
        s, real = self.settings, known_real(self.settings.data).train
        images = s.ipc * len(real.classes)
        matching = DistillTask(s).matching(images)
        iterates = 1 + s.search.steps // s.search.select_every
        networks = (METRICS.default(name, "networks", 1) for name in self.names)
        passes = sum(networks) * len(real.images)
        passes += sum(iterates * METRICS.get(name).passes(images, matching) for name in self.names)
        return passes * network_seconds(s.metric.network, real)

    def place(self, store: Store, version: Versions = current) -> Path:
        """As `Task.place`."""
        return store.distances_file(self.key_of(version))

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
            "provenance": watch.provenance() | self._source() | self.declared(),
        }
        write_json(store.distances_file(self.key), content)

    def _source(self) -> dict[str, object]:
        """What the distances are of, for their record."""
        settings = self.settings
        return {
            "settings": {"metrics": self.names, "options": settings.metric.options},
            "seed": settings.seed,
            "data_hash": data_hash(settings.data),
            "prior_hash": used_prior_hash(settings.prior),
            "set": settings.fingerprint,
        }

    def _metric(self, name: str, real: RealData, store: Store, device: str) -> Metric:
        task, settings = DistillTask(self.settings), self.settings
        experts = store.experts_folder(task.experts[0].folder_key) if task.experts else None
        own = settings.metric.changed(name=name)
        return create_metric(
            name,
            real,
            classifier=load_classifier(task.classifier, store, device),
            objective=make_objective(settings, real, device, experts),
            held_out=parts_for(own, real)[1],
            **(settings.metric.options if name == settings.metric.name else {}),
        )
