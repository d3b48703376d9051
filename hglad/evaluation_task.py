"""The evaluation of one set by one architecture as a unit of work whose result is kept."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from hglad import baselines
from hglad.data import DataSet, DataSettings
from hglad.distillation import DistillationSettings, data_hash, load_real, prior_labels
from hglad.distilled import DistilledSet
from hglad.evaluation import as_rows, score_set
from hglad.priors import PRIORS, load_prior, prior_card, prior_hash
from hglad.provenance import Stopwatch
from hglad.results import Store
from hglad.settings import fingerprint, to_dict
from hglad.tasks import ClassifierTask, classifier_versions, load_classifier
from hglad.training import TrainingSettings


@dataclass(frozen=True)
class EvaluateTask:
    """Train networks on one set; `method` is a search or one of `hglad.baselines`."""

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
    phase = 2

    @cached_property
    def key(self) -> str:
        """Fingerprint."""
        return fingerprint(
            self._source, self.method, self.ipc, self.network, self.options, self.repeats, self.training,
            self.iterates, classifier_versions(self.options),
        )  # fmt: skip

    @property
    def _source(self) -> str | list:
        """What the set follows from."""
        if self.distilled:
            return self.distilled.fingerprint
        source = [data_hash(self.data), self.seed]
        if self.classifier:
            source += [self.classifier.key, baselines.VERSION]
        if self.prior:
            family = PRIORS.version(prior_card(self.prior)["kind"])
            source += [prior_hash(self.prior), self.prior_classes, family, baselines.VERSION]
        return source + ([baselines.VERSION] if self.method == "class_mean" else [])

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
        """Compute and keep the result; a stopped run goes on with what its networks had reached."""
        watch, data = Stopwatch(device), load_real(self.data, device)
        parts, frames, confusions = store.parts_folder(self.key), [], []
        for number, (distilled, marks) in enumerate(self._sets(store, data, device)):
            rows, confusion = self._score(distilled, data, parts / str(number))
            frames.append(rows.assign(**marks))
            confusions.append(confusion)
        provenance = watch.provenance() | {
            "settings": {"method": self.method, "training": to_dict(self.training), "network": self.options},
            "data_hash": data_hash(self.data),
            "images": {"dataset": data.train.name, "shape": list(data.train.image_shape)},
            "set": self.distilled.fingerprint if self.distilled else self.method,
        }
        frame = pd.concat(frames, ignore_index=True)
        store.write_rows(self.key, frame, provenance, None if self.iterates else torch.cat(confusions))
        shutil.rmtree(parts, ignore_errors=True)

    def _score(self, distilled: DistilledSet, data: DataSet, parts: Path) -> tuple[pd.DataFrame, Tensor]:
        """Rows, and a confusion matrix for each, (rows, classes, classes)."""
        networks = {self.network: self.options}
        scores = score_set(distilled, data, networks, self.repeats, self.training, self.seed, parts=parts)
        rows = [self._marks | row for row in as_rows(scores).to_dict("records")]
        return pd.DataFrame(rows), torch.stack([score.confusion for score in scores])

    @property
    def _marks(self) -> dict:
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
