"""Units of work whose results are kept: a task knows what its result follows from, hence whether it is there.

The key of a result is the fingerprint of two things: `origin`, settings and hashes of data and generator, and
`components`, the algorithms with their versions. A record keeps both, so that why a result is missing is the
difference between what its record says and what holds now.
"""

import json
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from hglad.data.datasets import DataSet, RealData
from hglad.evaluation import baselines
from hglad.evaluation.evaluate import evaluate
from hglad.evaluation.sets import DistilledSet
from hglad.experiments.store import Store, whole
from hglad.metrics import METRICS, Metric, create_metric, needs
from hglad.networks import Classifier, create_network
from hglad.objectives import OBJECTIVES
from hglad.objectives.experts import (
    expert_file,
    experts_identity,
    experts_key,
    experts_versions,
    train_expert,
)
from hglad.priors import load_prior, prior_hash, prior_versions
from hglad.provenance import Stopwatch, declared, versions_of
from hglad.search.distillation import (
    DistillationSettings,
    data_hash,
    distill,
    known_real,
    load_real,
    make_objective,
    parts_for,
    prior_labels,
    train_metric_classifier,
)
from hglad.settings import DataSettings, ExpertSettings, MetricSettings, TrainingSettings, fingerprint
from hglad.storage import read_tensors, write_json, write_tensors

# On one core. What follows is within about three times of what the committed results took, at 16 and 32 px,
# with five architectures. A processor with matrix units for 16 bits, and a GPU all the more, is faster.
SECONDS_PER_IMAGE = 1e-4  # through the smallest network
SECONDS_PER_FLOP = 1.1e-11
SECONDS_PER_SIDE = 2.5e-4  # an image through a generator and back, per pixel of its side


class Task:
    """A unit of work whose result is kept.

    A class of tasks has, beside what stands here: `rule`, what it does, in a word; `phase`: tasks need
    results of earlier phases only; `origin`, plain values and settings that the result follows from;
    `components`, the algorithms that make it, with their versions; `cost`, a guess of the seconds on one
    core; `place(store)`, the file whose presence says that the result is there; `run(store, device)`, which
    computes and keeps it.
    """

    rule: ClassVar[str]
    phase: ClassVar[int]

    @cached_property
    def key(self) -> str:
        """Name of the result."""
        return fingerprint(self.origin, self.components)

    @property
    def request(self) -> str:
        """The same for results of these settings by other versions of the algorithms."""
        return fingerprint(self.origin)

    @property
    def requires(self) -> "list[Task]":
        """Tasks whose results it reads."""
        return []

    @property
    def title(self) -> str:
        """What it is about, in words, its seed left out."""
        return self.data.name

    def done(self, store: Store) -> bool:
        """Whether the result is there."""
        return whole(self.place(store))

    def declared(self) -> dict[str, Any]:
        """For the record of the result: key, request and algorithms."""
        return declared(self.origin, self.components)


def training_versions(network: dict[str, Any]) -> dict[str, int | str]:
    """Versions of what trains a classifier."""
    return versions_of("training", "augment", f"network {network['name']}")


def network_seconds(network: dict[str, Any], real: RealData) -> float:
    """Guess of the seconds that an image takes through a network on one core; thrice that in training."""
    flops = _network_flops(json.dumps(network, sort_keys=True), real.image_shape, len(real.classes))
    return SECONDS_PER_IMAGE + SECONDS_PER_FLOP * flops


@lru_cache
def _network_flops(network: str, image_shape: tuple[int, int, int], classes: int) -> float:
    """Floating-point operations of one image's way through it; a product with its sum counts as two."""
    made = create_network(image_shape=image_shape, classes=classes, **json.loads(network)).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        made(torch.zeros(1, *image_shape))
    return float(counter.get_total_flops())


@dataclass(frozen=True)
class ClassifierTask(Task):
    """Train the classifier behind the selection metric."""

    data: DataSettings
    metric: MetricSettings
    rule, phase = "classifier", 0

    @property
    def origin(self) -> list:
        return [self.metric.network, self.metric.seed, self.metric.training, data_hash(self.data)]

    @property
    def components(self) -> dict[str, int | str]:
        return training_versions(self.metric.network)

    @property
    def cost(self) -> float:
        real = known_real(self.data).train
        return 3 * self.metric.training.epochs * len(real.images) * network_seconds(self.metric.network, real)

    def place(self, store: Store) -> Path:
        return store.classifier_file(self.key)

    def run(self, store: Store, device: str) -> None:
        watch, file = Stopwatch(device), self.place(store)
        state = file.with_suffix(".state")
        resumed = state.is_file()
        network = train_metric_classifier(self.metric, load_real(self.data, device), state=state)
        provenance = {"data_hash": data_hash(self.data), "seed": self.metric.seed, "resumed": resumed}
        card = {
            "settings": {"network": self.metric.network, "training": self.metric.training.to_dict()},
            "provenance": watch.provenance() | provenance | self.declared(),
        }
        write_tensors(file, network.state_dict(), {"key": self.key, "card": json.dumps(card)})
        state.unlink(missing_ok=True)

    def load(self, store: Store, device: str = "cpu") -> Classifier:
        """The trained classifier."""
        real = known_real(self.data).train
        shape = {"image_shape": real.image_shape, "classes": len(real.classes)}
        network = create_network(**shape, **self.metric.network)
        network.load_state_dict(read_tensors(self.place(store)))
        return network.to(device).eval()


@dataclass(frozen=True)
class ExpertTask(Task):
    """Train one expert trajectory."""

    data: DataSettings
    network: dict
    experts: ExpertSettings
    index: int
    rule, phase = "experts", 0

    @property
    def origin(self) -> list:
        return [experts_identity(self.experts, self.network, known_real(self.data).train), self.index]

    @property
    def components(self) -> dict[str, int | str]:
        return experts_versions(self.network)

    @cached_property
    def folder_key(self) -> str:
        """Key of the set of experts that this one belongs to."""
        return experts_key(self.experts, self.network, known_real(self.data).train)

    @property
    def cost(self) -> float:
        real = known_real(self.data).train
        return 3 * self.experts.epochs * len(real.images) * network_seconds(self.network, real)

    def place(self, store: Store) -> Path:
        return expert_file(store.experts_folder(self.folder_key), self.index)

    def run(self, store: Store, device: str) -> None:
        folder = store.experts_folder(self.folder_key)
        train_expert(self.experts, self.network, load_real(self.data, device).train, self.index, folder)


def expert_tasks(data: DataSettings, network: dict, experts: ExpertSettings | None) -> list[ExpertTask]:
    """One task per expert; none where an objective needs none."""
    return [ExpertTask(data, network, experts, index) for index in range(experts.count if experts else 0)]


@dataclass(frozen=True)
class DistillTask(Task):
    """Distill one set."""

    settings: DistillationSettings
    rule, phase = "distill", 1

    @property
    def origin(self) -> list:
        return self.settings.origin()

    @property
    def components(self) -> dict[str, int | str]:
        return self.settings.components

    @property
    def classifier(self) -> ClassifierTask:
        """Behind the metric that selects."""
        return ClassifierTask(self.settings.data, self.settings.metric)

    @property
    def experts(self) -> list[ExpertTask]:
        """That the objective matches."""
        settings = self.settings
        return expert_tasks(settings.data, settings.surrogate.network, settings.experts)

    @property
    def requires(self) -> list[Task]:
        selecting = [self.classifier] if "classifier" in needs(self.settings.metric.name) else []
        return [*selecting, *self.experts]

    @property
    def title(self) -> str:
        return f"{self.settings.objective} {self.settings.kind} ipc {self.settings.ipc}"

    @property
    def cost(self) -> float:
        settings, real = self.settings, known_real(self.settings.data).train
        images = settings.ipc * len(real.classes)
        decoding = 0 if settings.kind == "pixels" else images * SECONDS_PER_SIDE * real.image_shape[-1]
        matching = (3 * images + self.passes) * network_seconds(settings.surrogate.network, real)
        return settings.search.steps * (decoding + matching)

    @property
    def passes(self) -> float:
        """Images through the surrogate per step."""
        settings, classes = self.settings, len(known_real(self.settings.data).train.classes)
        images, batch = settings.ipc * classes, settings.surrogate.batch_real * classes
        return OBJECTIVES.get(settings.objective).passes(images, batch, settings.options)

    def place(self, store: Store) -> Path:
        return store.set_folder(self.key) / "card.json"

    def experts_folder(self, store: Store) -> Path | None:
        """Where its experts lie; None where it needs none."""
        return store.experts_folder(self.experts[0].folder_key) if self.experts else None

    def run(self, store: Store, device: str) -> None:
        selecting = self.classifier in self.requires
        classifier = self.classifier.load(store, device) if selecting else None
        experts = self.experts_folder(store)
        distill(self.settings, store.set_folder(self.key), device, classifier, experts=experts)


@dataclass(frozen=True)
class MeasureTask(Task):
    """Distances of the kept iterates of a run by several metrics, on the images that are evaluated.

    Metrics but the one that selected take their usual options. One that keeps images for itself sees a part
    of the training images here which this search has matched like the others.
    """

    settings: DistillationSettings
    rule, phase = "measure", 2
    by_class = "class_relevant"
    """Metric whose summands by class are kept, too."""

    @property
    def names(self) -> list[str]:
        """Metrics that are measured."""
        return [self.settings.metric.name, *self.settings.metric.compared]

    @property
    def origin(self) -> list:
        return ["distances", self.settings.origin(), self.names]

    @property
    def components(self) -> dict[str, int | str]:
        metrics = (f"metric {name}" for name in (*self.names, self.by_class))
        return self.settings.components | versions_of(*metrics)

    @property
    def requires(self) -> list[Task]:
        distilled = DistillTask(self.settings)
        return [distilled, distilled.classifier, *distilled.experts]

    @property
    def title(self) -> str:
        return f"metrics of {DistillTask(self.settings).title}"

    @property
    def cost(self) -> float:
        settings, real = self.settings, known_real(self.settings.data).train
        images, passes = settings.ipc * len(real.classes), DistillTask(settings).passes
        iterates = 1 + settings.search.steps // settings.search.select_every
        networks = (METRICS.default(name, "networks", 1) for name in self.names)
        total = sum(networks) * len(real.images)
        total += sum(iterates * METRICS.get(name).passes(images, passes) for name in self.names)
        return total * network_seconds(settings.metric.network, real)

    def place(self, store: Store) -> Path:
        return store.distances_file(self.key)

    def run(self, store: Store, device: str) -> None:
        settings, watch = self.settings, Stopwatch(device)
        real, task = load_real(settings.data, device).train, DistillTask(settings)
        distilled = DistilledSet.load(store.set_folder(task.key))
        labels, images = distilled.labels.to(device), distilled.iterates.to(device).float() / 255
        distances, seconds = {}, {}
        for name in self.names:
            metric = self._metric(name, real, task, store, device)
            begin = time.perf_counter()
            distances[name] = [metric(each, labels) for each in images]
            seconds[name] = (time.perf_counter() - begin) / len(images)
        by_class = create_metric(self.by_class, real, classifier=task.classifier.load(store, device)).by_class
        source = {
            "settings": {"metrics": self.names, "options": settings.metric.options},
            "seed": settings.seed,
            "data_hash": data_hash(settings.data),
            "prior_hash": used_prior_hash(settings.prior),
            "set": task.key,
        }
        content = {
            "distances": distances,
            "by_class": [by_class(each, labels).tolist() for each in images],
            "seconds": seconds,
            "provenance": watch.provenance() | source | self.declared(),
        }
        write_json(self.place(store), content)

    def _metric(self, name: str, real: RealData, task: DistillTask, store: Store, device: str) -> Metric:
        own = self.settings.metric
        return create_metric(
            name,
            real,
            classifier=task.classifier.load(store, device),
            objective=make_objective(self.settings, real, device, task.experts_folder(store)),
            held_out=parts_for(own.changed(name=name), real)[1],
            **(own.options if name == own.name else {}),
        )


def used_prior_hash(prior: str | None) -> str | None:
    """Hash of a generator for the record of a result; None where there is none."""
    return None if prior in (None, "pixels") else prior_hash(prior)


@dataclass(frozen=True)
class EvaluateTask(Task):
    """Train networks on one set; `method` is a search or one of `hglad.evaluation.baselines`."""

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
    augmentation: str | None = None
    """Augmentation of the training where it is not the profile's, for the rows."""
    classifier: ClassifierTask | None = None
    """Network whose embedding selects images; of herding and k_center."""
    prior: str | None = None
    """Generator that is sampled; of samples and samples_averaged."""
    prior_classes: tuple[int, ...] = ()
    """Class of that generator for each class of the data; empty: the same."""
    rule, phase = "evaluate", 2

    @property
    def origin(self) -> list:
        """Without the marks of the rows, so that tables share evaluations."""
        if self.distilled:
            source = self.distilled.origin()
        else:
            source = [data_hash(self.data), self.seed]
            source += [self.classifier.origin] if self.classifier else []
            source += [prior_hash(self.prior), self.prior_classes] if self.prior else []
        training = [self.network, self.options, self.repeats, self.training, self.iterates]
        return [source, self.method, self.ipc, *training]

    @property
    def components(self) -> dict[str, int | str]:
        own = training_versions(self.options)
        if self.distilled:
            return own | self.distilled.components
        own |= versions_of("baselines") | (self.classifier.components if self.classifier else {})
        return own | (prior_versions(self.prior) if self.prior else {})

    @property
    def requires(self) -> list[Task]:
        if self.distilled:
            return [DistillTask(self.distilled)]
        return [self.classifier] if self.classifier else []

    @property
    def title(self) -> str:
        source = DistillTask(self.distilled).title if self.distilled else self.method
        source += f" ipc {self.ipc}" if self.ipc and not self.distilled else ""
        return f"{source} on {self.network}" + (", every iterate" if self.iterates else "")

    @property
    def cost(self) -> float:
        real, test = known_real(self.data).train, known_real(self.data).test
        images = self.ipc * len(real.classes) if self.ipc else len(real.images)
        sets = 1 + self.distilled.search.steps // self.distilled.search.select_every if self.iterates else 1
        passes = sets * self.repeats * (3 * self.training.epochs * images + len(test.images))
        return passes * network_seconds(self.options, real)

    def place(self, store: Store) -> Path:
        return store.evaluation_file(self.key)

    @property
    def marks(self) -> dict[str, Any]:
        """What the rows are about, as this task's table calls it; see `hglad.experiments.store.MARKS`."""
        source = self.distilled
        marks = {
            "objective": source.objective if source else None,
            "method": self.method,
            "layer": source.search.layer if source and source.kind == "single" else None,
            "ipc": self.ipc,
            "seed": self.seed,
        }
        optional = ("generator", "variant", "augmentation")
        return marks | {key: mark for key in optional if (mark := getattr(self, key)) is not None}

    def run(self, store: Store, device: str) -> None:
        """Compute and keep the result; a stopped run goes on with what its networks had reached."""
        watch, data = Stopwatch(device), load_real(self.data, device)
        parts, frames, confusions = store.parts_folder(self.key), [], []
        resumed, networks = parts.is_dir(), {self.network: self.options}
        for number, (distilled, marks) in enumerate(self._sets(store, data, device)):
            own = parts / str(number)
            frame = evaluate(distilled, data, networks, self.repeats, self.training, self.seed, parts=own)
            confusions.append(torch.tensor(frame.attrs["confusion"]))
            rows = [self.marks | row | marks for row in frame.to_dict("records")]
            frames.append(pd.DataFrame(rows))
        settings = {key: getattr(self, key) for key in ("method", "ipc", "repeats", "iterates")}
        provenance = watch.provenance() | {
            "resumed": resumed,
            "settings": settings | {"training": self.training.to_dict(), "network": self.options},
            "seed": self.seed,
            "data_hash": data_hash(self.data),
            "prior_hash": used_prior_hash(self.distilled.prior if self.distilled else self.prior),
            "images": {"dataset": data.train.name, "shape": list(data.train.image_shape)},
            "set": self.distilled.fingerprint if self.distilled else self.method,
        }
        kept = None if self.iterates else torch.cat(confusions)
        frame = pd.concat(frames, ignore_index=True)
        store.write_rows(self.key, frame, provenance | self.declared(), kept)
        shutil.rmtree(parts, ignore_errors=True)

    def _sets(self, store: Store, data: DataSet, device: str) -> Iterator[tuple[DistilledSet, dict]]:
        """Sets to evaluate, with what marks their rows."""
        if self.distilled is None:
            yield self.baseline(store, data, device), {}
            return
        distilled = DistilledSet.load(store.set_folder(self.distilled.fingerprint))
        if not self.iterates:
            yield distilled, {}
            return
        moments = distilled.card["history"]
        for index, (images, moment) in enumerate(zip(distilled.iterates, moments, strict=True)):
            marks = {"iterate": index, "stage": moment[0], "step": moment[1]}
            yield replace(distilled, images=images.float() / 255), marks

    def baseline(self, store: Store, data: DataSet, device: str = "cpu") -> DistilledSet:
        """The set of a baseline, made anew; what selects its images is read from the store."""
        real = data.train
        if self.classifier:
            select = {"herding": baselines.herding, "k_center": baselines.k_center}[self.method]
            return select(real, self.ipc, self.classifier.load(store, device))
        if self.prior:
            generator = load_prior(self.prior, device)
            own = prior_labels(self.prior_classes, self.data, self.prior, generator)
            classes = torch.tensor(own or range(len(real.classes)), device=device)
            average = baselines.AVERAGED if self.method == "samples_averaged" else 1
            return baselines.samples(generator, classes, self.ipc, self.seed, average)
        if self.method == "random":
            return baselines.random_real(real, self.ipc, self.seed)
        return {"full": baselines.full_set, "class_mean": baselines.class_mean}[self.method](real)


def marks_by_key(tasks: Iterable[EvaluateTask]) -> dict[str, dict[str, Any]]:
    """Marks of the rows of every evaluation, for `Store.rows`; of tasks with one key those of the first."""
    found: dict[str, dict[str, Any]] = {}
    for task in tasks:
        found.setdefault(task.key, task.marks)
    return found
