"""Sets that nothing was optimized for, against the definitions worked out by brute force."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from hglad.data.datasets import RealData, load_data
from hglad.errors import HgladError
from hglad.evaluation import baselines
from hglad.evaluation.baselines import class_mean, full_set, herding, k_center, random_real, samples
from hglad.evaluation.evaluate import evaluate
from hglad.evaluation.sets import DistilledSet, to_uint8
from hglad.networks import Classifier, create_network
from hglad.settings import TrainingSettings

SELECTIONS = [herding, k_center]
CLASSES = range(10)


@pytest.fixture(scope="module")
def network() -> Classifier:
    rng = torch.Generator().manual_seed(5)
    return create_network("convnet", (1, 8, 8), 10, rng=rng, depth=1, width=3, norm="batch").train()


def images_of(real: RealData, label: int) -> Tensor:
    return real.images[real.offsets[label] : real.offsets[label + 1]]


def points_of(real: RealData, label: int, network: Classifier) -> np.ndarray:
    """Embeddings of unit length of a class, float64 (n, features)."""
    with torch.no_grad():
        found = network.eval().embed((images_of(real, label) / 255 - real.mean) / real.std).double()
    return (found / found.norm(dim=1, keepdim=True)).numpy()


def chosen(found: DistilledSet, real: RealData, label: int) -> list[int]:
    """Places of the selected images in their class, in the order of the set; every one is a real image."""
    places = {image.numpy().tobytes(): place for place, image in enumerate(images_of(real, label))}
    return [places[image.numpy().tobytes()] for image in to_uint8(found.images[found.labels == label])]


def radius(points: np.ndarray, centers: list[int]) -> float:
    """Largest distance of a point to the nearest of the centers."""
    return np.linalg.norm(points[:, None] - points[centers], axis=2).min(axis=1).max()


@pytest.mark.parametrize("ipc", [1, 5, 8])
def test_herding_keeps_the_mean_of_those_taken_nearest_to_the_mean_of_all(few_digits, network, ipc):
    found = herding(few_digits, ipc, network)
    for label in CLASSES:
        points, taken = points_of(few_digits, label, network), []
        for _ in range(ipc):
            free = [place for place in range(len(points)) if place not in taken]
            gaps = [np.linalg.norm(points[[*taken, one]].mean(0) - points.mean(0)) for one in free]
            taken.append(free[int(np.argmin(gaps))])
        assert chosen(found, few_digits, label) == taken


def test_k_center_goes_from_the_mean_to_the_farthest(few_digits, network):
    found = k_center(few_digits, 3, network)
    for label in CLASSES:
        points, taken = points_of(few_digits, label, network), chosen(found, few_digits, label)
        assert taken[0] == np.linalg.norm(points - points.mean(axis=0), axis=1).argmin()
        for count in (1, 2):
            gap = np.linalg.norm(points[taken[count]] - points[taken[:count]], axis=1).min()
            assert gap == pytest.approx(radius(points, taken[:count]), rel=1e-5)


@pytest.mark.parametrize("select", SELECTIONS)
def test_a_selection_has_every_class_and_follows_from_its_network_without_dropout(
    few_digits, network, select
):
    found = select(few_digits, 3, network)
    assert found.labels.tolist() == [label for label in CLASSES for _ in range(3)]
    assert found.images.dtype == torch.float32 and found.card["kind"] == select.__name__
    other = create_network("convnet", (1, 8, 8), 10, rng=torch.Generator().manual_seed(6), depth=2)
    assert not torch.equal(select(few_digits, 3, other).images, found.images)
    sizes = {"depth": 1, "dim": 8, "heads": 2, "head_dim": 4, "mlp": 8, "patch": 4}
    drawing = create_network("vit", (1, 8, 8), 10, **sizes, dropout=0.5)
    assert torch.equal(*(select(few_digits, 3, drawing.train()).images for _ in range(2)))
    with pytest.raises(
        HgladError, match=f"{select.__name__} of 9 images per class: class '0' has 8; give at"
    ):
        select(few_digits, 9, network)


@pytest.mark.parametrize("select", SELECTIONS)
def test_no_image_is_selected_twice_where_some_are_equal(few_digits, network, select):
    images = few_digits.images.clone()
    images[:8] = torch.stack([images[0], images[1]]).repeat_interleave(4, dim=0)  # class 0: twice four
    doubled = replace(few_digits, images=images)
    found = [image.numpy().tobytes() for image in to_uint8(select(doubled, 8, network).images[:8])]
    assert sorted(found) == sorted(image.numpy().tobytes() for image in images[:8])
    assert len({image.numpy().tobytes() for image in select(doubled, 2, network).images[:2]}) == 2


def test_images_with_large_maps_are_embedded_in_small_batches(monkeypatch):
    real, seen = load_data("digits").train, []
    network = create_network("convnet", real.image_shape, 10, depth=1, width=4)
    network.features.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    monkeypatch.setattr(baselines, "MAPS_MEMORY", 7 * 4 * 4 * real.images[0, 0].numel())  # of 7 images
    few = herding(real, 2, network)
    assert max(seen) == 7
    monkeypatch.undo()
    assert torch.equal(few.images, herding(real, 2, network).images)


@pytest.mark.parametrize("ipc", [1, 5])
def test_random_real_images_are_different_training_images_that_follow_from_the_seed(few_digits, ipc):
    drawn = random_real(few_digits, ipc, seed=2)
    assert drawn.labels.tolist() == [label for label in CLASSES for _ in range(ipc)]
    assert all(len(set(chosen(drawn, few_digits, label))) == ipc for label in CLASSES)
    assert torch.equal(random_real(few_digits, ipc, seed=2).images, drawn.images)
    other = random_real(few_digits, ipc, seed=3).images
    assert (drawn.images != other).flatten(1).any(dim=1).float().mean() > 0.5


def test_the_mean_image_of_a_class_is_its_mean(few_digits):
    found = class_mean(few_digits)
    means = [images_of(few_digits, label).numpy().astype(np.float64).mean(axis=0) / 255 for label in CLASSES]
    assert found.labels.tolist() == list(CLASSES)
    np.testing.assert_array_equal(found.images.numpy(), np.stack(means).astype(np.float32))


def test_the_full_set_is_the_training_split_without_a_copy_and_trains_and_is_saved_as_floats_are(tmp_path):
    data = load_data("digits")
    full, network = full_set(data.train), {"small": {"name": "convnet", "depth": 1, "width": 4}}
    assert full.images.data_ptr() == data.train.images.data_ptr()
    assert torch.equal(full.labels, data.train.labels)
    floats = replace(full, images=full.images.float() / 255)
    once = TrainingSettings(epochs=1, lr=0.01, schedule="constant", ema_decay=None)
    one, other = (evaluate(each, data, network, 1, once)["accuracy"].tolist() for each in (full, floats))
    assert one == other
    for name, each in (("uint8", full), ("float", floats)):
        each.save(tmp_path / name)
    assert torch.equal(DistilledSet.load(tmp_path / "uint8").images, full.images)
    assert (tmp_path / "uint8/grid.png").read_bytes() == (tmp_path / "float/grid.png").read_bytes()


class Loud:
    """The generator with images that leave [0, 1] on both sides."""

    def __init__(self, prior):
        self.sample, self.quiet = prior.sample, prior.decode

    def decode(self, latents, layer: int) -> Tensor:
        return 0.5 + 1000 * (self.quiet(latents, layer) - 0.5)


def test_samples_are_clamped_images_of_the_classes_that_are_asked_for(tiny_prior):
    found = samples(tiny_prior, torch.arange(10), 15, seed=1)  # more than pass at a time
    assert found.labels.tolist() == [label for label in CLASSES for _ in range(15)]
    assert found.images.shape == (150, 1, 8, 8) and found.images.flatten(1).unique(dim=0).shape[0] == 150
    assert torch.equal(samples(tiny_prior, torch.arange(10), 15, seed=1).images, found.images)
    assert not torch.equal(samples(tiny_prior, torch.arange(10), 15, seed=2).images, found.images)
    moved = samples(tiny_prior, torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 9, 8]), 15, seed=1)
    same = [torch.equal(found.images[found.labels == c], moved.images[found.labels == c]) for c in CLASSES]
    assert same == [True] * 8 + [False] * 2, "latents are the same, classes another"
    loud = samples(Loud(tiny_prior), torch.arange(10), 2, seed=0).images
    assert (loud.min(), loud.max()) == (0, 1)


def test_averaged_samples_differ_the_less_the_more_are_averaged(tiny_prior):
    few, many = (samples(tiny_prior, torch.arange(10), 8, 0, average) for average in (1, 100))
    spread = [each.images.unflatten(0, (10, 8)).std(dim=1).mean().item() for each in (few, many)]
    assert 0 < spread[1] < spread[0] / 5  # of the mean of 100: about a tenth
    assert (few.card["kind"], many.card["kind"]) == ("samples", "samples_averaged")
