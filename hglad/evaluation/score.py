"""Score a set: train fresh networks on it, test them once, at the end, on real images."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock

import pandas as pd
import torch
from torch import Tensor

from hglad.data.datasets import DataSet
from hglad.errors import HgladError
from hglad.evaluation.ensemble import backward_memory, stackable, train_ensemble
from hglad.evaluation.sets import DistilledSet, fit_labels
from hglad.evaluation.training import (
    TRAINING_MEND,
    Normalize,
    TrainingSettings,
    confusion_matrix,
    train_classifier,
)
from hglad.networks import Classifier, create_network
from hglad.networks.initialization import draws
from hglad.runtime import free_memory, is_out_of_memory, out_of_memory, progress_bar
from hglad.settings import derive_seed
from hglad.storage import read_metadata, read_tensors, spared, write_tensors

Protocols = TrainingSettings | Mapping[str, TrainingSettings]


@dataclass(frozen=True)
class Score:
    """What one network that was trained on a set makes of the test images."""

    network: str
    """Label of the architecture."""
    repeat: int
    """Number of the network among those of its architecture."""
    confusion: Tensor
    """Images of every true class (row) that were taken for every class (column), int64 (classes, classes)."""

    @property
    def accuracy(self) -> float:
        """Images that were classified as labelled, in percent."""
        return round(100 * self.confusion.trace().item() / self.confusion.sum().item(), 4)


def evaluate(
    distilled: DistilledSet,
    data: DataSet,
    networks: dict[str, dict],
    repeats: int,
    training: Protocols,
    seed: int = 0,
    show: bool = False,
) -> pd.DataFrame:
    """Train `repeats` networks of each architecture on a set and measure their test accuracy: `score_set`.

    Returns:
        One row per network: `network`, `repeat`, `accuracy` in percent.
    """
    return as_rows(score_set(distilled, data, networks, repeats, training, seed, show))


def as_rows(scores: list[Score]) -> pd.DataFrame:
    """One row per network: `network`, `repeat`, `accuracy` in percent."""
    rows = [{"network": s.network, "repeat": s.repeat, "accuracy": s.accuracy} for s in scores]
    return pd.DataFrame(rows)


@out_of_memory("in an evaluation", TRAINING_MEND)
def score_set(
    distilled: DistilledSet,
    data: DataSet,
    networks: dict[str, dict],
    repeats: int,
    training: Protocols,
    seed: int = 0,
    show: bool = False,
    parts: Path | None = None,
) -> list[Score]:
    """Train `repeats` networks of each architecture on a set and test each once, after its last epoch.

    Small batches cannot keep several cores, or a GPU, busy in one network. So the networks of an architecture
    are trained at the same time: on a processor side by side, a core each, where the machine has cores to
    spare; on a GPU as one batched computation, where they can be stacked and fit its memory. Every network
    has its own seed, so that the scores do not depend on how many are trained at a time, up to rounding.

    Args:
        distilled: images and labels, hard or soft, to train on.
        data: normalisation comes from its training split, accuracy from its test split.
        networks: label to `name` of a network and its options.
        repeats: networks per architecture, each with its own seed.
        training: protocol, one for all or one for each label.
        seed: seed from which those of the networks follow.
        show: show a progress bar on a terminal.
        parts: folder that keeps what is finished, and every minute what is not; a stopped evaluation goes
            on from there. The caller deletes it, and gives the same folder to the same evaluation only.

    Returns:
        A score per network, in the order of `networks`, then of the repeats.

    Raises:
        HgladError: no network or repeat, images or labels that do not fit, a loss that is not finite.
    """
    if repeats < 1 or not networks:
        raise HgladError(
            f"evaluation got {repeats} repeats of {len(networks)} networks: expected 1 or more of each"
        )
    protocols = {
        label: training if isinstance(training, TrainingSettings) else training[label] for label in networks
    }
    for options in networks.values():
        _create(options, data, None)  # a wrong name is found before the first network is trained
    _check_set(distilled, data)
    trainings = {
        label: [
            _Training(
                distilled, data, label, options, protocols[label], seed, repeat, _Part(parts, number, repeat)
            )
            for repeat in range(repeats)
        ]
        for number, (label, options) in enumerate(networks.items())
    }
    epochs = repeats * sum(protocol.epochs for protocol in protocols.values())
    with progress_bar(epochs, "evaluation", "epoch", show) as bar:
        return [score for each in trainings.values() for score in _scores(each, bar.update)]


def _check_set(distilled: DistilledSet, data: DataSet) -> None:
    """Find out before training what would end it, or spoil it in silence."""
    images = distilled.images
    if not images.isfinite().all():
        bad = int((~images.isfinite()).flatten(1).any(dim=1).sum())
        raise HgladError(f"{bad} of {len(images)} images have values that are not finite; distill them again")
    fit_labels(distilled.labels, len(images), data.train)


@dataclass(frozen=True)
class _Part:
    """Files of one network in the folder of an evaluation; without a folder nothing is kept."""

    folder: Path | None
    network: int
    repeat: int

    def file(self, kind: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{self.network}-{self.repeat}.{kind}"

    def read(self, label: str) -> Score | None:
        """The score, when it is there."""
        file = self.file("score")
        if file is None or not file.is_file():
            return None
        try:
            metadata, tensors = read_metadata(file), read_tensors(file)
        except HgladError:  # damaged: the network is trained again, to the same score
            return None
        return Score(label, self.repeat, tensors["confusion"]) if metadata.get("network") == label else None

    def write(self, score: Score) -> None:
        """Keep the score; the training is no longer needed."""
        if self.folder is not None:
            with spared(self.file("score")):
                write_tensors(self.file("score"), {"confusion": score.confusion}, {"network": score.network})
                self.file("training").unlink(missing_ok=True)


@dataclass(frozen=True)
class _Training:
    """One network that is to be trained and tested."""

    distilled: DistilledSet
    data: DataSet
    label: str
    options: dict
    protocol: TrainingSettings
    seed: int
    repeat: int
    part: _Part

    def score(self, tick: Callable[[int], object]) -> Score:
        """Train and test; `tick` is called with the number of epochs that were done since the last call."""
        found = self.part.read(self.label)
        if found is not None:
            tick(self.protocol.epochs)
            return found
        network, rng = self.start()
        progress, state = _counting(tick), self.part.file("training")
        return self.test(train_classifier(network, *self.inputs(), rng, progress, state))

    def start(self) -> tuple[Classifier, torch.Generator]:
        """The network, fresh, and the generator of its training, on the device of the data."""
        device = self.data.train.images.device
        rng = torch.Generator(device).manual_seed(derive_seed("evaluate", self.seed, self.repeat))
        return _create(self.options, self.data, rng).to(device), rng

    def inputs(self) -> tuple[Tensor, Tensor, Normalize, TrainingSettings]:
        """What the network is trained on, and how: the same for all repeats."""
        return self.distilled.images, self.distilled.labels, self.data.train.normalize, self.protocol

    def test(self, network: Classifier) -> Score:
        """Test the trained network and keep the score."""
        confusion = confusion_matrix(network, self.data.test, self.protocol.test_precision)
        score = Score(self.label, self.repeat, confusion)
        self.part.write(score)
        return score


def _counting(tick: Callable[[int], object], networks: int = 1) -> Callable[[int, float], None]:
    """Progress of a training that calls `tick` with the epochs of all its networks since the last call."""
    done = 0

    def progress(epoch: int, loss: float) -> None:
        nonlocal done
        tick(networks * (epoch - done))  # of more than one epoch after a stop
        done = epoch

    return progress


def _scores(trainings: list[_Training], tick: Callable[[int], object]) -> list[Score]:
    """Scores of the networks of one architecture, trained at the same time where that is faster."""
    return _within_memory(trainings, tick) if _stack(trainings) else _side_by_side(trainings, tick)


def _within_memory(trainings: list[_Training], tick: Callable[[int], object]) -> list[Score]:
    """Scores of networks in lockstep; where memory runs out, of each half of them, at last one by one."""
    if len(trainings) == 1:
        return [trainings[0].score(tick)]
    counted = _Counted(tick)
    try:
        return _in_lockstep(trainings, counted)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    free_memory()  # here the frames of the error are gone, and with them their tensors
    tick(-counted.total)
    half = len(trainings) // 2
    return [score for part in (trainings[:half], trainings[half:]) for score in _within_memory(part, tick)]


class _Counted:
    """Passes epochs on and adds them up, so that those of a try that failed can be taken back."""

    def __init__(self, tick: Callable[[int], object]) -> None:
        self.tick, self.total = tick, 0

    def __call__(self, epochs: int) -> None:
        self.total += epochs
        self.tick(epochs)


def _stack(trainings: list[_Training]) -> bool:
    """Whether to train the networks as one computation: on a GPU with memory to spare for all of them."""
    first, device = trainings[0], trainings[0].data.train.images.device
    if device.type != "cuda" or len(trainings) == 1:
        return False
    network = _create(first.options, first.data, None)
    if not stackable(network):
        return False
    batch = min(len(first.distilled.images), first.protocol.batch_size)
    needed = 3 * len(trainings) * backward_memory(network, batch)  # stacked norms, gradients and copies too
    return needed <= torch.cuda.get_device_properties(device).total_memory


def _in_lockstep(trainings: list[_Training], tick: Callable[[int], object]) -> list[Score]:
    """Scores of the networks of one architecture, trained as one batched computation.

    All of them are trained as long as one score is missing: rounding may depend on how many there are.
    """
    first, found = trainings[0], [training.part.read(training.label) for training in trainings]
    if None not in found:
        tick(len(trainings) * first.protocol.epochs)
        return found
    networks, generators = zip(*(training.start() for training in trainings), strict=True)
    progress, state = _counting(tick, len(trainings)), first.part.file("ensemble")
    train_ensemble(networks, *first.inputs(), generators, progress, state)
    rows = zip(trainings, networks, found, strict=True)
    scores = [kept or training.test(network) for training, network, kept in rows]
    if state is not None:
        state.unlink(missing_ok=True)
    return scores


def _side_by_side(trainings: list[_Training], tick: Callable[[int], object]) -> list[Score]:
    """Scores of the networks of one architecture, as many at a time as there are cores for."""
    cores = _networks_at_a_time(trainings)
    if cores == 1:
        return [training.score(tick) for training in trainings]
    stopped, lock = Event(), Lock()

    def tick_unless_stopped(epochs: int) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        with lock:
            tick(epochs)

    with _threads_per_network(cores), ThreadPoolExecutor(cores) as pool:
        try:
            running = [pool.submit(training.score, tick_unless_stopped) for training in trainings]
            for each in as_completed(running):
                each.result()  # the first error ends all, whichever network has it
            return [each.result() for each in running]
        except BaseException:  # an interrupt too: the others end after their epoch instead of their last one
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


def _networks_at_a_time(trainings: list[_Training]) -> int:
    """1 on a GPU, and for networks whose dropout draws from PyTorch's one global generator."""
    first = trainings[0]
    on_gpu = first.data.train.images.device.type != "cpu"
    if on_gpu or any(draws(module) for module in _create(first.options, first.data, None).modules()):
        return 1
    return min(torch.get_num_threads(), len(trainings))


@contextmanager
def _threads_per_network(networks: int):
    """Share the threads of this process among networks that are trained at a time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // networks))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _create(options: dict, data: DataSet, generator: torch.Generator | None) -> Classifier:
    real = data.train
    return create_network(image_shape=real.image_shape, classes=len(real.classes), rng=generator, **options)
