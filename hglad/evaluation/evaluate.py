"""Score a set: train fresh networks on it, test them once, at the end, on real images."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from threading import Event, Lock
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hglad.data import augmentation
from hglad.data.datasets import DataSet, load_data
from hglad.errors import HgladError
from hglad.evaluation import training as training_module
from hglad.evaluation.baselines import random_real
from hglad.evaluation.sets import DistilledSet, fit_labels, is_own, read_set
from hglad.evaluation.training import (
    TRAINING_ADVICE,
    Ensemble,
    confusion_matrix,
    stackable,
    train_classifier,
)
from hglad.evaluation.training import protocol as protocol_of
from hglad.networks import NETWORKS, Classifier, create_network
from hglad.networks.passes import draws
from hglad.paths import cache_folder
from hglad.provenance import Stopwatch
from hglad.runtime import free_memory, is_out_of_memory, out_of_memory, progress_bar
from hglad.settings import TrainingSettings, derive_seed, fingerprint
from hglad.storage import best_effort, read_metadata, read_tensors, write_tensors


@out_of_memory("in an evaluation", TRAINING_ADVICE)
def evaluate(
    distilled: DistilledSet,
    data: DataSet,
    networks: dict[str, dict],
    repeats: int,
    training: TrainingSettings | Mapping[str, TrainingSettings],
    seed: int = 0,
    show: bool = False,
    parts: Path | None = None,
) -> pd.DataFrame:
    """Train `repeats` networks of each architecture on a set and test each once, after its last epoch.

    Small batches cannot keep several cores, or a GPU, busy in one network. So the networks of an architecture
    are trained at the same time: on a processor each on a core of its own, where the machine has cores to
    spare; on a GPU as one batched computation, where they can be stacked and as many as fit. Every network
    has its own seed, so that no accuracy depends on how many are trained at a time, up to rounding.

    Args:
        distilled: images and labels, hard or soft, to train on.
        data: normalization comes from its training split, accuracy from its test split.
        networks: label to `name` of a network and its options.
        repeats: networks per architecture, each with its own seed.
        training: protocol, one for all or one for each label.
        seed: seed from which those of the networks follow.
        show: show a progress bar on a terminal.
        parts: folder that keeps what is finished, and now and then what is not; a stopped evaluation goes
            on from there. The caller deletes it, and gives the same folder to the same evaluation only.

    Returns:
        One row per network, in the order of `networks`, then of the repeats: `network`, `repeat`, `accuracy`
        in percent. `attrs["confusion"]` holds for each row the images of every true class (row) that were
        taken for every class (column).

    Raises:
        HgladError: no network or repeat, images or labels that do not fit, a loss that is not finite.
    """
    if repeats < 1 or not networks:
        raise HgladError(
            f"evaluation got {repeats} repeats of {len(networks)} networks: expected 1 or more of each"
        )
    groups = []
    for number, (label, options) in enumerate(networks.items()):
        settings = training if isinstance(training, TrainingSettings) else training[label]
        place = None if parts is None else parts / f"{number}"
        runs = [
            _Run(distilled, data, label, options, settings, seed, repeat, place) for repeat in range(repeats)
        ]
        runs[0].create()  # a wrong name is found before the first network is trained
        groups.append(runs)
    count, finite = len(distilled.images), distilled.images.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        bad = count - int(finite.sum())
        raise HgladError(f"{bad} of {count} images have values that are not finite; distill them again")
    fit_labels(distilled.labels, count, data.train)
    done, epochs = {}, sum(run.settings.epochs for runs in groups for run in runs)
    with progress_bar(epochs, "evaluation", "epoch", show) as bar:

        def report(runs: Sequence[_Run], epoch: int) -> None:
            done.update({(run.label, run.repeat): epoch for run in runs})
            bar.update(sum(done.values()) - bar.n)  # less, where memory ran out and they begin anew

        confusions = []
        for runs in groups:
            confusions += (_in_lockstep if _stack(runs) else _side_by_side)(runs, report)
    percent = [round(100 * matrix.trace().item() / matrix.sum().item(), 4) for matrix in confusions]
    frame = pd.DataFrame(
        {"network": run.label, "repeat": run.repeat, "accuracy": accuracy}
        for run, accuracy in zip(chain(*groups), percent, strict=True)
    )
    frame.attrs["confusion"] = [matrix.tolist() for matrix in confusions]
    return frame


@dataclass(frozen=True)
class _Run:
    """One network that is to be trained and tested; what it reaches is kept in files named after `place`."""

    distilled: DistilledSet
    data: DataSet
    label: str
    options: dict
    settings: TrainingSettings
    seed: int
    repeat: int
    place: Path | None

    def create(self, rng: torch.Generator | None = None) -> Classifier:
        """A fresh network."""
        shape, classes = self.data.train.image_shape, len(self.data.train.classes)
        return create_network(image_shape=shape, classes=classes, rng=rng, **self.options)

    def start(self) -> tuple[Classifier, torch.Generator]:
        """The network, fresh, and the generator of its training, on the device of the data."""
        device = self.data.train.images.device
        rng = torch.Generator(device).manual_seed(derive_seed("evaluate", self.seed, self.repeat))
        return self.create(rng).to(device), rng

    @property
    def inputs(self) -> tuple:
        """What the network is trained on, and how: the same for all repeats."""
        return self.distilled.images, self.distilled.labels, self.data.train.normalize, self.settings

    def file(self, kind: str) -> Path | None:
        """File of that kind; without a place nothing is kept."""
        return self.place and self.place.with_name(f"{self.place.name}-{self.repeat}.{kind}")

    def kept(self) -> Tensor | None:
        """The confusion matrix, when it is there; a damaged one is made again, and comes out the same."""
        file = self.file("score")
        try:
            if file is not None and read_metadata(file).get("network") == self.label:
                return read_tensors(file)["confusion"]
        except HgladError:
            pass
        return None

    def confusion(self, report: "Report") -> Tensor:
        """Train and test, or take the confusion matrix that is there."""
        found = self.kept()
        if found is not None:
            report([self], self.settings.epochs)
            return found
        network, rng = self.start()
        state, progress = self.file("training"), lambda epoch, loss: report([self], epoch)
        return self.test(train_classifier(network, *self.inputs, rng, progress, state))

    def test(self, network: Classifier) -> Tensor:
        """Confusion matrix of the trained network, which is kept."""
        confusion = confusion_matrix(network, self.data.test, self.settings.test_precision)
        if self.place is not None:
            with best_effort(self.file("score")):
                write_tensors(self.file("score"), {"confusion": confusion}, {"network": self.label})
                self.file("training").unlink(missing_ok=True)
        return confusion


Report = Callable[[Sequence[_Run], int], object]  # is called with runs and the number of epochs that they did


def _stack(runs: Sequence[_Run]) -> bool:
    """Whether to train the networks as one computation: on a GPU, those that can be stacked."""
    on_gpu = runs[0].data.train.images.device.type == "cuda"
    return on_gpu and len(runs) > 1 and stackable(runs[0].create())


def _in_lockstep(runs: Sequence[_Run], report: Report) -> list[Tensor]:
    """Train networks as one batched computation; where memory runs out each half, at last one by one.

    All of them are trained as long as one matrix is missing: rounding may depend on how many there are.
    """
    first, found = runs[0], [run.kept() for run in runs]
    if len(runs) == 1 or all(matrix is not None for matrix in found):
        return [run.confusion(report) for run in runs]
    state, progress = first.file("ensemble"), lambda epoch, loss: report(runs, epoch)
    try:
        networks, rngs = zip(*(run.start() for run in runs), strict=True)
        ensemble = train_classifier(Ensemble(networks), *first.inputs, rngs, progress, state)
        ensemble.unstack_into(networks)
        rows = zip(runs, networks, found, strict=True)
        confusions = [run.test(network) if kept is None else kept for run, network, kept in rows]
        if state is not None:
            state.unlink(missing_ok=True)
        return confusions
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    networks = ensemble = None
    free_memory()  # here the frames of the error are gone, and with them their tensors
    half = len(runs) // 2
    return [matrix for part in (runs[:half], runs[half:]) for matrix in _in_lockstep(part, report)]


def _side_by_side(runs: Sequence[_Run], report: Report) -> list[Tensor]:
    """Train as many networks at a time as there are threads for.

    One at a time on a GPU, and where dropout draws from PyTorch's one global generator.
    """
    on_cpu, threads = runs[0].data.train.images.device.type == "cpu", torch.get_num_threads()
    alone = not on_cpu or any(draws(module) for module in runs[0].create().modules())
    cores = 1 if alone else min(threads, len(runs))
    if cores == 1:
        return [run.confusion(report) for run in runs]
    stopped, lock = Event(), Lock()

    def report_unless_stopped(own: Sequence[_Run], epoch: int) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        with lock:
            report(own, epoch)

    torch.set_num_threads(max(1, threads // cores))
    try:
        with ThreadPoolExecutor(cores) as pool:
            try:
                running = [pool.submit(run.confusion, report_unless_stopped) for run in runs]
                for each in as_completed(running):
                    each.result()  # the first error ends all, whichever network has it
                return [each.result() for each in running]
            except BaseException:  # an interrupt too: the others end after their epoch, not their last one
                stopped.set()
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(threads)


# Sets in files


def evaluate_file(
    path: Path | str,
    data: str,
    networks: Sequence[str] = ("convnet",),
    protocol: str = "glad",
    changes: Mapping[str, Any] | None = None,
    repeats: int = 5,
    seed: int = 0,
    random_sets: int = 0,
    root: str | None = None,
    resolution: int | None = None,
    device: str = "cpu",
    show: bool = False,
    **reading: Any,
) -> dict:
    """Score a distilled set from a file, ours or another's, and with it sets of as many random real images.

    Stopped, the same call goes on where it was: what it has reached lies in the cache until it ends.

    Args:
        path, **reading: a set, and how it is read, as `read_set` takes them.
        data, root, resolution, device: real images; of a set of ours in its resolution, if none is given.
        networks: names of architectures; `torchvision:<name>` and `timm:<name>` are those libraries'.
        protocol, changes: named protocol, and keys of `TrainingSettings` that differ from it.
        repeats, seed, show: as in `evaluate`.
        random_sets: sets of random real images that are scored as well.

    Returns:
        `rows` (with `set` "given" or "random", and the `seed` of the latter), `training` by network,
        `set` (what the set says of itself), `provenance`; ready for JSON.

    Raises:
        HgladError: what cannot be read, does not fit, or cannot be trained.
    """
    if random_sets < 0:
        raise HgladError(f"{random_sets} sets of random images: expected 0 or more; give --random 1")
    watch = Stopwatch(device)
    if resolution is None and is_own(path):
        resolution = DistilledSet.load(path).images.shape[-1]
    real = load_data(data, root, resolution, device=device)
    distilled = read_set(path, real.train, **reading)
    training = {name: protocol_of(protocol, name).changed(**(changes or {})) for name in networks}
    versions = {"augment": augmentation.VERSION}
    versions |= {f"network {name}": NETWORKS.version(name) for name in sorted(networks)}
    versions["training"] = training_module.VERSION
    sets = {("given", 0): distilled}
    if random_sets:
        counts = distilled.hard_labels.bincount(minlength=len(real.train.classes))
        few, most = counts.min().item(), counts.max().item()
        if few != most:
            expected = "expected as many of each class; leave --random (random_sets) out"
            uneven = f"the set has {few} to {most} images per class"
            raise HgladError(f"{uneven}, for which there are no random sets of the same size: {expected}")
        sets |= {("random", number): random_real(real.train, most, number) for number in range(random_sets)}
    data_hash = fingerprint(real.train.content_hash, real.test.content_hash)
    frames = []
    for (name, number), each in sets.items():
        # Another kind of device draws other numbers; more repeats of the same go on in the same folder.
        kind = torch.device(device).type
        key = fingerprint(each.content_hash, data_hash, seed, versions, kind, *training.items())
        parts = cache_folder() / "evaluations" / key
        options = {network: {"name": network} for network in networks}
        rows = evaluate(each, real, options, repeats, training, seed, show, parts)
        shutil.rmtree(parts, ignore_errors=True)
        frames.append(rows.assign(set=name, seed=number))
    return {
        "rows": pd.concat(frames, ignore_index=True).to_dict("records"),
        "training": {name: settings.to_dict() for name, settings in training.items()},
        "set": distilled.card,
        "provenance": watch.provenance() | {"seed": seed, "algorithms": versions, "data_hash": data_hash},
    }


def score_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy by network of the given set and of random images, and the gain of the one over the other.

    Deviation and 95 % interval of the given set are over networks, which says nothing about another set by
    the same method; those of random images are over sets, of the means of their networks.
    """
    lines = []
    for (kind, network), group in rows.groupby(["set", "network"], sort=False):
        values = group["accuracy"] if kind == "given" else group.groupby("seed")["accuracy"].mean()
        low, high = mean_interval(values)
        lines.append({
            "network": network,
            "images": kind,
            "accuracy (%)": round(values.mean(), 2),
            "sd": round(values.std(), 2),
            "95 % t interval": f"{low:.1f} to {high:.1f}" if low <= high else "-",
            "over": "networks" if kind == "given" else "sets",
        })  # fmt: skip
    table = pd.DataFrame(lines)
    means = rows.groupby(["set", "network"])["accuracy"].mean()
    if "random" in means:
        gains = means["given"] - means["random"]
        gain = table["network"].map(gains).where(table["images"] == "given")
        table["gain over random"] = gain.map("{:+.1f}".format, na_action="ignore").fillna("")
    return table


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % t interval of a mean; nan for a single value."""
    import scipy.stats  # here: it takes a second

    if len(values) < 2:
        return np.nan, np.nan
    low, high = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    return float(low), float(high)
