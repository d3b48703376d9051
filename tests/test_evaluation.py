"""Scoring a set on the digits: seeds, baselines, and whether the score sees what it should."""

from dataclasses import replace
from functools import cache

import pandas as pd
import pytest
import torch

from hglad.baselines import full_set, random_real
from hglad.data import DataSet, load_data
from hglad.distilled import DistilledSet, to_uint8
from hglad.errors import HgladError
from hglad.evaluation import evaluate
from hglad.training import TrainingSettings

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


def test_labels_that_the_data_do_not_have_are_refused():
    with pytest.raises(HgladError, match="label 10 for a network of 10 classes"):
        score(DistilledSet(torch.zeros(10, 1, 16, 16), torch.arange(1, 11), {}))
