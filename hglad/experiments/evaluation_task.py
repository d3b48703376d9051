"""The evaluation of one set by one architecture as a unit of work whose result is kept."""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from hglad.data.datasets import DataSet
from hglad.evaluation import baselines
from hglad.evaluation.evaluate import evaluate
from hglad.evaluation.sets import DistilledSet
from hglad.experiments.cost import network_seconds
from hglad.experiments.store import Store
from hglad.experiments.tasks import (
    ClassifierTask,
    DistillTask,
    Task,
    classifier_versions,
    load_classifier,
    used_prior_hash,
)
from hglad.experiments.versions import Versions, current
from hglad.priors import load_prior, prior_card, prior_hash
from hglad.provenance import Stopwatch
from hglad.search.distillation import DistillationSettings, data_hash, known_real, load_real, prior_labels
from hglad.settings import DataSettings, TrainingSettings, fingerprint, to_dict


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
    def title(self) -> str:
        """As `Task.title`."""
        source = DistillTask(self.distilled).title if self.distilled else self.method
        source += f" ipc {self.ipc}" if self.ipc and not self.distilled else ""
        return f"{source} on {self.network}" + (", every iterate" if self.iterates else "")

    @property
    def requires(self) -> list[Task]:
        """As `Task.requires`."""
        behind = [DistillTask(self.distilled)] if self.distilled else []
        return behind + ([self.classifier] if self.classifier else [])

    def key_with(self, version: Versions) -> str:
        """As `Versioned.key_with`; marks of the rows have no part in it, so that tables share evaluations."""
        return fingerprint(
            self._source(version), self.method, self.ipc, self.network, self.options, self.repeats,
            self.training, self.iterates, classifier_versions(self.options, version),
        )  # fmt: skip

    def _source(self, version: Versions) -> str | list:
        """What the set follows from."""
        if self.distilled:
            return self.distilled.key_with(version)
        source, own = [data_hash(self.data), self.seed], version("baselines")
        if self.classifier:
            source += [self.classifier.key_with(version), own]
        if self.prior:
            family = version(f"prior {prior_card(self.prior)['kind']}")
            source += [prior_hash(self.prior), self.prior_classes, family, own]
        since_first = self.method in ("random", "full") and own not in (None, 1)  # had no version before 2
        return source + ([own] if self.method == "class_mean" or since_first else [])

    @property
    def cost(self) -> float:
        """Guess of the seconds on one core."""
        real, test = known_real(self.data).train, known_real(self.data).test
        images = self.ipc * len(real.classes) if self.ipc else len(real.images)
        sets = 1 + self.distilled.search.steps // self.distilled.search.select_every if self.iterates else 1
        passes = sets * self.repeats * (3 * self.training.epochs * images + len(test.images))
        return passes * network_seconds(self.options, real)

    def place(self, store: Store, version: Versions = current) -> Path:
        """As `Task.place`."""
        return store.evaluation_file(self.key_of(version))

    def run(self, store: Store, device: str) -> None:
        """Compute and keep the result; a stopped run goes on with what its networks had reached."""
        watch, data = Stopwatch(device), load_real(self.data, device)
        parts, frames, confusions = store.parts_folder(self.key), [], []
        resumed = parts.is_dir()
        for number, (distilled, marks) in enumerate(self._sets(store, data, device)):
            rows, confusion = self._score(distilled, data, parts / str(number))
            frames.append(rows.assign(**marks))
            confusions.append(confusion)
        provenance = watch.provenance() | {"resumed": resumed} | self._record(data) | self.declared()
        frame = pd.concat(frames, ignore_index=True)
        store.write_rows(self.key, frame, provenance, None if self.iterates else torch.cat(confusions))
        shutil.rmtree(parts, ignore_errors=True)

    def _record(self, data: DataSet) -> dict[str, object]:
        """What was evaluated and how, for the provenance of the rows."""
        settings = {key: getattr(self, key) for key in ("method", "ipc", "repeats", "iterates")}
        return {
            "settings": settings | {"training": to_dict(self.training), "network": self.options},
            "seed": self.seed,
            "data_hash": data_hash(self.data),
            "prior_hash": used_prior_hash(self.distilled.prior if self.distilled else self.prior),
            "images": {"dataset": data.train.name, "shape": list(data.train.image_shape)},
            "set": self.distilled.fingerprint if self.distilled else self.method,
        }

    def _score(self, distilled: DistilledSet, data: DataSet, parts: Path) -> tuple[pd.DataFrame, Tensor]:
        """Rows, and a confusion matrix for each, (rows, classes, classes)."""
        networks = {self.network: self.options}
        frame = evaluate(distilled, data, networks, self.repeats, self.training, self.seed, parts=parts)
        rows = [self.marks | row for row in frame.to_dict("records")]
        return pd.DataFrame(rows), torch.tensor(frame.attrs["confusion"])

    @property
    def marks(self) -> dict[str, object]:
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
            return select(real, self.ipc, load_classifier(self.classifier, store, device))
        if self.prior:
            generator = load_prior(self.prior, device)
            own = prior_labels(self.prior_classes, self.data, self.prior, generator)
            classes = torch.tensor(own or range(len(real.classes)), device=device)
            average = baselines.AVERAGED if self.method == "samples_averaged" else 1
            return baselines.samples(generator, classes, self.ipc, self.seed, average)
        if self.method == "random":
            return baselines.random_real(real, self.ipc, self.seed)
        return {"full": baselines.full_set, "class_mean": baselines.class_mean}[self.method](real)


def marks_by_key(tasks: Iterable[EvaluateTask]) -> dict[str, dict[str, object]]:
    """Marks of the rows of every evaluation, for `Store.rows`; of tasks with one key those of the first."""
    found: dict[str, dict[str, object]] = {}
    for task in tasks:
        found.setdefault(task.key, task.marks)
    return found
