"""Scoring a set on the digits: seeds, baselines, and whether the score sees what it should."""

import random
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from hglad.data.datasets import DataSet, load_data
from hglad.errors import HgladError
from hglad.evaluation import score as evaluation
from hglad.evaluation import training_state
from hglad.evaluation.baselines import full_set, random_real
from hglad.evaluation.score import Score, evaluate, score_set
from hglad.evaluation.sets import DistilledSet, to_uint8
from hglad.evaluation.training import TrainingSettings, train_classifier
from hglad.storage import read_metadata, read_tensors, write_tensors

SMALL = {"ConvNet": {"name": "convnet", "depth": 2, "width": 8}}
QUICK = TrainingSettings(epochs=20, batch_size=50, lr=0.05, augmentation="", ema_decay=None)
HASTY = replace(QUICK, epochs=2)


@cache
def digits() -> DataSet:
    return load_data("digits")


@cache
def small_real_set() -> DistilledSet:
    return random_real(digits().train, ipc=10, seed=0)


def score(distilled: DistilledSet, data: DataSet | None = None, training: TrainingSettings = QUICK) -> float:
    return evaluate(distilled, data or digits(), SMALL, 1, training)["accuracy"].item()


def test_one_row_per_network_and_repeat():
    networks = SMALL | {"Deeper": {"name": "convnet", "depth": 3, "width": 8}}
    rows = evaluate(small_real_set(), digits(), networks, 2, HASTY)
    assert list(rows.columns) == ["network", "repeat", "accuracy"]
    assert rows["network"].tolist() == ["ConvNet"] * 2 + ["Deeper"] * 2
    assert rows["repeat"].tolist() == [0, 1, 0, 1]
    assert rows["accuracy"].between(0, 100).all()


def test_rows_follow_from_the_seed_alone():
    first = evaluate(small_real_set(), digits(), SMALL, 2, HASTY, seed=3)
    torch.manual_seed(1)
    pd.testing.assert_frame_equal(evaluate(small_real_set(), digits(), SMALL, 2, HASTY, seed=3), first)
    other = evaluate(small_real_set(), digits(), SMALL, 2, HASTY, seed=4)
    assert set(other["accuracy"]).isdisjoint(first["accuracy"])
    assert first["accuracy"].nunique() == 2, "repeats share a seed"


def test_more_repeats_leave_the_first_ones_as_they_were():
    one = evaluate(small_real_set(), digits(), SMALL, 1, HASTY)
    two = evaluate(small_real_set(), digits(), SMALL, 2, HASTY)
    pd.testing.assert_frame_equal(two[:1], one)


def test_a_real_subset_teaches_and_swapped_labels_do_not():
    right = small_real_set()
    assert score(right) > 60
    order = torch.randperm(len(right.labels), generator=torch.Generator().manual_seed(0))
    assert score(replace(right, labels=right.labels[order])) < 30  # chance is 10
    assert score(replace(right, labels=(right.labels + 1) % 10)) < 10


def test_accuracy_is_that_on_the_test_split():
    data = digits()
    next_class = (data.test.labels + 1) % 10
    images = data.test.images[next_class.argsort(stable=True)]
    counts = next_class.bincount().cumsum(0).tolist()
    swapped = replace(data.test, images=images, offsets=(0, *counts))
    assert score(small_real_set(), DataSet("swapped", data.train, swapped)) < 10


def test_images_are_normalised_with_the_statistics_of_the_training_split():
    data = digits()
    shifted = replace(data.train, mean=data.train.mean + 0.2, std=data.train.std * 2)
    scores = [
        evaluate(small_real_set(), replace(data, train=part), SMALL, 2, HASTY)["accuracy"].tolist()
        for part in (data.train, shifted)
    ]
    assert scores[0] != scores[1]


def images_of_class(data, label: int) -> set[bytes]:
    part = data.images[data.offsets[label] : data.offsets[label + 1]]
    return {image.numpy().tobytes() for image in part}


@pytest.mark.parametrize("ipc", [1, 5])
def test_random_real_images_are_training_images_of_their_class(ipc):
    train = digits().train
    drawn = random_real(train, ipc, seed=2)
    assert drawn.labels.tolist() == [label for label in range(10) for _ in range(ipc)]
    assert drawn.ipc == ipc
    for image, label in zip(to_uint8(drawn.images), drawn.labels.tolist(), strict=True):
        assert image.numpy().tobytes() in images_of_class(train, label)
    assert len({image.numpy().tobytes() for image in drawn.images}) == 10 * ipc


def test_random_real_follows_from_its_seed():
    draws = [random_real(digits().train, 3, seed).images for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).flatten(1).any(dim=1).float().mean() > 0.8


def test_the_full_set_is_the_training_split():
    train = digits().train
    everything = full_set(train)
    assert torch.equal(to_uint8(everything.images), train.images)
    assert torch.equal(everything.labels, train.labels)


def test_more_real_images_teach_more():
    full = score(full_set(digits().train), training=replace(QUICK, epochs=6))
    assert full > 90
    assert full > score(small_real_set()) > score(random_real(digits().train, 1, seed=0))


@pytest.mark.parametrize(("networks", "repeats"), [(SMALL, 0), ({}, 1)])
def test_nothing_to_evaluate_is_an_error(networks, repeats):
    with pytest.raises(HgladError, match=f"evaluation got {repeats} repeats of {len(networks)} networks"):
        evaluate(small_real_set(), digits(), networks, repeats, HASTY)


def test_images_of_another_form_are_refused():
    wide = DistilledSet(torch.zeros(10, 1, 16, 20), torch.arange(10), {})
    colour = DistilledSet(torch.zeros(10, 3, 16, 16), torch.arange(10), {})
    with pytest.raises(HgladError, match="network made for images of"):
        score(wide)
    with pytest.raises(HgladError, match="wrong channel count: 3, expected 1"):
        score(colour)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.arange(1, 11), "label 10 of image 9: expected 0 to 9, the classes of 'digits'; subtract 1"),
        (torch.arange(-1, 9), "label -1 of image 0: expected 0 to 9"),
        (torch.full((10, 9), 1 / 9), "labels have shape [10, 9] for 10 images: expected [10], or [10, 10]"),
        (torch.full((10, 10), 0.2), "soft labels of image 0 have least 0.2 and sum 2"),
        (torch.full((10, 10), torch.nan), "soft labels of image 0 have least nan and sum nan"),
    ],
)
def test_labels_that_the_data_do_not_have_are_refused(labels, message):
    with pytest.raises(HgladError, match=re.escape(message)):
        score(DistilledSet(torch.zeros(10, 1, 16, 16), labels, {}))


def test_images_that_are_not_numbers_are_counted_before_anything_is_trained(tmp_path):
    images = torch.zeros(10, 1, 16, 16)
    images[3, 0, 2, 2], images[7, 0, 0, 0], images[7, 0, 1, 1] = torch.nan, torch.inf, torch.nan
    with pytest.raises(HgladError, match="2 of 10 images have values that are not finite"):
        score_set(DistilledSet(images, torch.arange(10), {}), digits(), SMALL, 1, HASTY, parts=tmp_path)
    assert not list(tmp_path.iterdir())


# Soft labels


def test_one_hot_labels_score_as_the_classes_do():
    hard = small_real_set()
    for kind in (torch.float32, torch.float64):
        soft = replace(hard, labels=F.one_hot(hard.labels, 10).to(kind))
        assert confusions(score_set(soft, digits(), SMALL, 2, HASTY)) == confusions(scores(HASTY))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_soft_labels_are_trained_on(kind):
    hard = small_real_set()
    smooth = 0.9 * F.one_hot(hard.labels, 10).to(kind) + 0.01
    assert score(replace(hard, labels=smooth)) > 60
    assert score(replace(hard, labels=smooth.roll(1, dims=1))) < 10  # of the next class
    assert score(replace(hard, labels=torch.full((100, 10), 0.1, dtype=kind))) < 30  # say nothing


# Networks side by side


@pytest.fixture
def threads():
    """Sets the threads of PyTorch; those of before come back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def scores(training: TrainingSettings, repeats: int = 2, networks: dict = SMALL, **options) -> list[Score]:
    return score_set(small_real_set(), digits(), networks, repeats, training, **options)


def confusions(found: list[Score]) -> list:
    return [(score.network, score.repeat, score.confusion.tolist()) for score in found]


TINY = {"name": "convnet", "depth": 1, "width": 2}
VIT = {"name": "vit", "patch": 8, "depth": 1, "dim": 8, "heads": 2, "head_dim": 4, "mlp": 8, "dropout": 0.2}
AUGMENTED = replace(HASTY, augmentation="color_crop_cutout_scale_rotate", ema_decay=0.5)


@pytest.mark.parametrize("options", [TINY, TINY | {"norm": "batch"}], ids=["convnet", "batch norm"])
def test_networks_side_by_side_score_as_one_after_the_other(options, threads):
    """To the image: each has one thread in both cases, and draws from a generator of its own."""
    networks = {"a": options, "b": options | {"depth": 2}}
    alone = scores(AUGMENTED, 3, networks)
    assert [(each.network, each.repeat) for each in alone] == [(n, r) for n in "ab" for r in range(3)]
    for count in (2, 3):
        threads(count)
        torch.manual_seed(count)
        assert confusions(scores(AUGMENTED, 3, networks)) == confusions(alone)
        assert torch.get_num_threads() == count


def at_work(monkeypatch) -> list[int]:
    """Notes at every batch of a training how many are under way."""
    under_way, found, lock = set(), [], threading.Lock()

    def watched(network, images, labels, normalize, *rest):
        def noting(batch):
            with lock:
                found.append(len(under_way))
            time.sleep(0.002)
            return normalize(batch)

        with lock:
            under_way.add(id(network))
        try:
            return train_classifier(network, images, labels, noting, *rest)
        finally:
            under_way.discard(id(network))

    monkeypatch.setattr(evaluation, "train_classifier", watched)
    return found


@pytest.mark.parametrize(
    ("options", "count", "repeats", "most"),
    [(TINY, 3, 4, 3), (TINY, 3, 2, 2), (TINY, 1, 2, 1), (VIT, 2, 2, 1)],
)
def test_as_many_networks_at_a_time_as_there_are_threads(options, count, repeats, most, threads, monkeypatch):
    """But one where dropout draws from PyTorch's one global generator."""
    threads(count)
    found = at_work(monkeypatch)
    scores(replace(HASTY, epochs=10 if most > 1 else 3), repeats, {"a": options})
    assert max(found) == most


def test_each_architecture_has_its_own_protocol():
    networks = {"a": TINY, "b": TINY}
    found = scores({"a": HASTY, "b": replace(HASTY, lr=0.5)}, 1, networks)
    single = [scores(training, 1, {"x": TINY})[0] for training in (HASTY, replace(HASTY, lr=0.5))]
    assert [f.confusion.tolist() for f in found] == [s.confusion.tolist() for s in single]
    assert not torch.equal(found[0].confusion, found[1].confusion)


def test_a_score_counts_the_test_images_by_class():
    (found,) = scores(QUICK, 1)
    test = digits().test
    assert found.confusion.dtype == torch.int64 and found.confusion.sum(dim=1).tolist() == list(test.counts)
    assert found.accuracy == pytest.approx(100 * found.confusion.trace().item() / len(test.images), abs=1e-4)


class Ticks:
    """In place of the progress bar: `at` is called with the number of epochs that are done."""

    def __init__(self, at: Callable[[int], None]):
        self.at, self.epochs = at, 0

    def __call__(self, *_) -> "Ticks":
        return self

    def __enter__(self) -> "Ticks":
        return self

    def __exit__(self, *_) -> None:
        pass

    def update(self, epochs: int) -> None:
        self.epochs += epochs
        self.at(self.epochs)


LONG = replace(HASTY, epochs=3000)  # about ten seconds for each network of TINY


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_of_one_network_ends_the_others(count, threads, monkeypatch):
    """One of them, whichever is first, fails in its tenth epoch."""
    threads(count)

    def fail(epochs: int) -> None:
        if epochs == 10:
            raise HgladError("the loss is nan")

    ticks = Ticks(fail)
    monkeypatch.setattr(evaluation, "progress_bar", ticks)
    with pytest.raises(HgladError, match="the loss is nan"):
        scores(LONG, 4, {"a": TINY})
    assert ticks.epochs < 500
    assert torch.get_num_threads() == count


def test_an_interrupt_ends_all_networks_within_an_epoch(threads, monkeypatch):
    threads(3)
    done = []

    def interrupt(epochs: int) -> None:
        done.append(epochs)
        if epochs == 10:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    monkeypatch.setattr(evaluation, "progress_bar", Ticks(interrupt))
    running = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        scores(LONG, 6, {"a": TINY})
    assert 10 <= done[-1] < 500
    assert torch.get_num_threads() == 3 and threading.active_count() == running


# Parts: what a stopped evaluation had reached


class Stop(BaseException):
    """Ends an evaluation from inside."""


def stop_at(limit: int) -> Ticks:
    def check(epochs: int) -> None:
        if epochs >= limit:
            raise Stop

    return Ticks(check)


PAIR = {"plain": TINY, "deeper": TINY | {"depth": 2}}
SOME = replace(AUGMENTED, epochs=6)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("training", [SOME, replace(SOME, ema_decay=None)], ids=["average", "last weights"])
def test_an_evaluation_that_is_stopped_again_and_again_gives_the_same_scores(
    training, count, threads, tmp_path, monkeypatch
):
    undisturbed = confusions(scores(training, 3, PAIR))
    threads(count)
    monkeypatch.setattr(training_state, "SAVE_SECONDS", 0)
    trained, stops, moments = [], 0, random.Random(count)

    def noting(network, *rest):
        trained.append(rest[-1].stem)
        return train_classifier(network, *rest)

    monkeypatch.setattr(evaluation, "train_classifier", noting)
    for _ in range(100):
        finished = {path.stem for path in tmp_path.glob("*.score")}
        trained.clear()
        found = 6 * len(finished)
        monkeypatch.setattr(evaluation, "progress_bar", stop_at(found + moments.randint(3, 12)))
        try:
            again = scores(training, 3, PAIR, parts=tmp_path)
            break
        except Stop:
            stops += 1
        assert not finished & set(trained), "a finished network was trained again"
    assert confusions(again) == undisturbed and stops >= 2
    assert not list(tmp_path.glob("*.training"))  # each is deleted when its score is there
    monkeypatch.setattr(evaluation, "progress_bar", Ticks(lambda epochs: None))
    monkeypatch.setattr(evaluation, "train_classifier", None)  # not called: all scores are there
    assert confusions(scores(training, 3, PAIR, parts=tmp_path)) == undisturbed


def damage(file: Path, how: str) -> None:
    if how == "another network":
        write_tensors(file, {"confusion": torch.eye(10).long()}, {"network": "resnet18"})
    else:
        file.write_bytes({"truncated": file.read_bytes()[:-99], "empty": b"", "text": b"x" * 999}[how])


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "another network"])
def test_a_damaged_score_is_made_again(how, tmp_path):
    undisturbed = scores(HASTY, parts=tmp_path)
    damage(tmp_path / "0-1.score", how)
    assert confusions(scores(HASTY, parts=tmp_path)) == confusions(undisturbed)
    assert torch.equal(read_tensors(tmp_path / "0-1.score")["confusion"], undisturbed[1].confusion)


MANY = replace(SOME, epochs=150)


def evaluate_saving_every_epoch(parts: str) -> None:
    torch.set_num_threads(2)
    training_state.SAVE_SECONDS = 0
    scores(MANY, 2, {"a": TINY}, parts=Path(parts))


def test_a_killed_evaluation_goes_on_to_the_same_scores(tmp_path, kill_midway):
    def ready() -> bool:
        return len(list(tmp_path.glob("*.training"))) == 2  # side by side

    assert kill_midway(evaluate_saving_every_epoch, (str(tmp_path),), ready, 0.1)
    epochs = [read_metadata(file)["epochs"] for file in tmp_path.glob("*.training")]
    assert len(epochs) == 2 and all(0 < int(done) < 150 for done in epochs)
    again = scores(MANY, 2, {"a": TINY}, parts=tmp_path)
    assert confusions(again) == confusions(scores(MANY, 2, {"a": TINY}))
