"""Sets that nothing was optimised for, against the definitions worked out by brute force."""

from itertools import combinations

import numpy as np
import pytest
import torch
from replacing import replace
from torch import Tensor

from hglad.data.datasets import RealData, load_data
from hglad.errors import HgladError
from hglad.evaluation import baselines
from hglad.evaluation.baselines import class_mean, full_set, herding, k_center, random_real, samples
from hglad.evaluation.evaluate import evaluate
from hglad.evaluation.sets import DistilledSet, to_uint8
from hglad.networks import Classifier, create_network
from hglad.priors.base import Latents
from hglad.priors.stylegan_xl import StyleGANXL
from hglad.settings import TrainingSettings

SELECTIONS = [herding, k_center]
CLASSES = range(10)
ONE_EPOCH = TrainingSettings(epochs=1, lr=0.01, schedule="constant", ema_decay=None)


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
    """Places of the selected images in their class, in the order of the set."""
    places = {image.numpy().tobytes(): place for place, image in enumerate(images_of(real, label))}
    return [places[image.numpy().tobytes()] for image in to_uint8(found.images[found.labels == label])]


def herd(points: np.ndarray, count: int) -> list[int]:
    """Every next point that leaves the mean of those taken nearest to the mean of all."""
    taken = []
    for _ in range(count):
        free = [place for place in range(len(points)) if place not in taken]
        gaps = [np.linalg.norm(points[[*taken, place]].mean(axis=0) - points.mean(axis=0)) for place in free]
        taken.append(free[int(np.argmin(gaps))])
    return taken


def radius(points: np.ndarray, centers: list[int]) -> float:
    """Largest distance of a point to the nearest of the centers."""
    return np.linalg.norm(points[:, None] - points[centers], axis=2).min(axis=1).max()


@pytest.mark.parametrize("ipc", [1, 5, 8])
def test_herding_is_the_greedy_choice(few_digits, network, ipc):
    found = herding(few_digits, ipc, network)
    for label in CLASSES:
        assert chosen(found, few_digits, label) == herd(points_of(few_digits, label, network), ipc)


def test_k_center_begins_at_the_mean_and_goes_on_with_the_farthest(few_digits, network):
    found = k_center(few_digits, 5, network)
    for label in CLASSES:
        points, taken = points_of(few_digits, label, network), chosen(found, few_digits, label)
        assert taken[0] == np.linalg.norm(points - points.mean(axis=0), axis=1).argmin()
        for count in range(1, 5):
            gap = np.linalg.norm(points[taken[count]] - points[taken[:count]], axis=1).min()
            assert gap == pytest.approx(radius(points, taken[:count]), rel=1e-5)


@pytest.mark.parametrize("ipc", [2, 3])
def test_k_center_covers_within_twice_the_best_radius(few_digits, network, ipc):
    found = k_center(few_digits, ipc, network)
    for label in CLASSES:
        points = points_of(few_digits, label, network)
        best = min(radius(points, list(centers)) for centers in combinations(range(len(points)), ipc))
        assert best - 1e-6 <= radius(points, chosen(found, few_digits, label)) <= 2 * best + 1e-6


@pytest.mark.parametrize("select", SELECTIONS)
def test_a_selection_has_every_class_and_follows_from_its_network(few_digits, network, select):
    found = select(few_digits, 3, network)
    assert found.labels.tolist() == [label for label in CLASSES for _ in range(3)]
    assert found.images.dtype == torch.float32 and found.card["kind"] == select.__name__
    assert len({image.numpy().tobytes() for image in found.images}) == 30
    other = create_network("convnet", (1, 8, 8), 10, rng=torch.Generator().manual_seed(6), depth=2)
    assert not torch.equal(select(few_digits, 3, other).images, found.images)


@pytest.mark.parametrize("select", SELECTIONS)
def test_a_selection_sees_no_dropout(few_digits, select):
    sizes = {"depth": 1, "dim": 8, "heads": 2, "head_dim": 4, "mlp": 8, "patch": 4}
    network = create_network("vit", (1, 8, 8), 10, **sizes, dropout=0.5)
    found = [select(few_digits, 3, network.train()).images for _ in range(2)]
    assert torch.equal(*found)


@pytest.mark.parametrize("select", SELECTIONS)
def test_no_image_is_selected_twice_where_some_are_equal(few_digits, network, select):
    images = few_digits.images.clone()
    images[:8] = torch.stack([images[0], images[1]]).repeat_interleave(4, dim=0)  # class 0: twice four
    doubled = replace(few_digits, images=images)
    found = select(doubled, 8, network)
    wanted = sorted(image.numpy().tobytes() for image in images[:8])
    assert sorted(image.numpy().tobytes() for image in to_uint8(found.images[:8])) == wanted
    assert len({image.numpy().tobytes() for image in select(doubled, 2, network).images[:2]}) == 2


@pytest.mark.parametrize("select", SELECTIONS)
def test_more_images_than_the_smallest_class_has_are_refused(few_digits, network, select):
    message = f"{select.__name__} of 9 images per class: class '0' has 8; give at most as many"
    with pytest.raises(HgladError, match=message):
        select(few_digits, 9, network)


def test_the_mean_image_of_a_class_is_its_mean(few_digits):
    found = class_mean(few_digits)
    means = [images_of(few_digits, label).numpy().astype(np.float64).mean(axis=0) / 255 for label in CLASSES]
    assert found.labels.tolist() == list(CLASSES)
    np.testing.assert_array_equal(found.images.numpy(), np.stack(means).astype(np.float32))


def test_samples_are_what_the_generator_makes_of_its_latents(tiny_prior):
    labels = torch.arange(10)
    found = samples(tiny_prior, labels, 3, seed=1)
    assert found.labels.tolist() == [label for label in CLASSES for _ in range(3)]
    assert found.images.min() >= 0 and found.images.max() <= 1
    assert found.images.flatten(1).unique(dim=0).shape[0] == 30
    assert torch.equal(samples(tiny_prior, labels, 3, seed=1).images, found.images)
    assert not torch.equal(samples(tiny_prior, labels, 3, seed=2).images, found.images)


def test_samples_are_of_the_classes_that_are_asked_for(tiny_prior):
    """The latents are the same: only a class that changed its place has other images."""
    labels = torch.arange(10)
    plain = samples(tiny_prior, labels, 2, seed=0)
    moved = samples(tiny_prior, torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 9, 8]), 2, seed=0)
    same = [torch.equal(plain.images[plain.labels == c], moved.images[plain.labels == c]) for c in CLASSES]
    assert same == [True] * 8 + [False] * 2
    assert torch.equal(moved.labels, plain.labels)


class Loud:
    """The generator with images that leave [0, 1] on both sides."""

    def __init__(self, prior: StyleGANXL):
        self.sample, self.quiet = prior.sample, prior.decode

    def decode(self, latents: Latents, layer: int) -> Tensor:
        return 0.5 + 1000 * (self.quiet(latents, layer) - 0.5)


def test_samples_are_clamped(tiny_prior):
    images = samples(Loud(tiny_prior), torch.arange(10), 2, seed=0).images
    assert (images.min(), images.max()) == (0, 1)


def test_many_samples_come_in_parts(tiny_prior):
    found = samples(tiny_prior, torch.arange(10), 15, seed=0)
    assert found.images.shape == (150, 1, 8, 8) and found.ipc == 15


def spread(prior: StyleGANXL, average: int) -> float:
    """Mean deviation of the images of a class from their mean."""
    images = samples(prior, torch.arange(10), 8, 0, average).images.unflatten(0, (10, 8))
    return images.std(dim=1).mean().item()


def test_averaged_samples_differ_the_less_the_more_are_averaged(tiny_prior):
    few, many = spread(tiny_prior, 1), spread(tiny_prior, 100)
    assert 0 < many < few / 5  # of the mean of 100: about a tenth
    averaged = samples(tiny_prior, torch.arange(10), 2, 0, 100)
    assert averaged.card["kind"] == "samples_averaged"
    assert torch.equal(samples(tiny_prior, torch.arange(10), 2, 0, 100).images, averaged.images)
    assert not torch.equal(samples(tiny_prior, torch.arange(10), 2, 1, 100).images, averaged.images)


def test_the_full_set_takes_no_memory_beside_its_data():
    train = load_data("digits").train
    assert full_set(train).images.data_ptr() == train.images.data_ptr()


def test_the_full_set_trains_as_its_images_in_the_unit_range_do():
    data = load_data("digits")
    full, network = full_set(data.train), {"small": {"name": "convnet", "depth": 1, "width": 4}}
    floats = DistilledSet(full.images.float() / 255, full.labels, {})
    accuracies = [evaluate(each, data, network, 1, ONE_EPOCH)["accuracy"].tolist() for each in (full, floats)]
    assert accuracies[0] == accuracies[1]


def test_images_with_large_maps_are_embedded_in_small_batches(monkeypatch):
    real = load_data("digits").train
    network = create_network("convnet", real.image_shape, 10, depth=1, width=4)
    seen = []
    network.features.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    monkeypatch.setattr(baselines, "MAPS_MEMORY", 7 * 4 * 4 * real.images[0, 0].numel())  # of 7 images
    few = herding(real, 2, network)
    assert max(seen) == 7
    monkeypatch.undo()
    assert torch.equal(few.images, herding(real, 2, network).images)


def test_a_saved_full_set_keeps_its_values(tmp_path):
    full = full_set(load_data("digits").train)
    floats = replace(full, images=full.images.float() / 255)
    for name, each in (("uint8", full), ("float", floats)):
        each.save(tmp_path / name)
    assert torch.equal(DistilledSet.load(tmp_path / "uint8").images, full.images)
    assert (tmp_path / "uint8/grid.png").read_bytes() == (tmp_path / "float/grid.png").read_bytes()


# Sum of the images weighted by their place, of every kind of set.
GOLDEN = {1: [194.48228, 97.439919, 292.41846, 289.47263, 327.13898, 324.92630, 618929.0]}


def test_golden_values_of_the_baselines(check_golden, few_digits, network, tiny_prior):
    drawn = [samples(tiny_prior, torch.arange(10), 2, 3, average) for average in (1, 5)]
    chosen = [select(few_digits, 3, network) for select in SELECTIONS]
    sets = [random_real(few_digits, 2, 3), class_mean(few_digits), *chosen, *drawn]
    found = [(s.images * torch.linspace(0, 1, s.images.numel()).view_as(s.images)).sum().item() for s in sets]
    check_golden("baselines", GOLDEN, [*found, full_set(few_digits).images.double().sum().item()])
