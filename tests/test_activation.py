"""Activation maps: the equation in double precision, every network, and nothing left behind."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from hglad.analysis.activation import activation_maps
from hglad.errors import HgladError
from hglad.networks import NETWORKS, Classifier, create_network


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, shape=(1, 16, 16)) -> Tensor:
    return torch.rand(count, *shape, generator=seeded())


def normalize(images: Tensor) -> Tensor:
    return (images - 0.3) / 0.2


def slow_map(network: Classifier, image: Tensor, label: int) -> Tensor:
    """The equation, for one image."""
    maps, embedding = network.maps_and_embedding(normalize(image.double())[None])
    (gradient,) = torch.autograd.grad(network.classifier(embedding)[0, label], maps)
    _, channels, height, width = maps.shape
    alpha = [gradient[0, k].sum() / (height * width) for k in range(channels)]
    activation = sum(a * m for a, m in zip(alpha, maps[0], strict=True)).clamp(min=0).detach()
    return activation / activation.max() if activation.max() > 0 else activation


@pytest.mark.parametrize("name", NETWORKS.names())
def test_maps_are_their_equation_for_every_network(name):
    network = create_network(name, (1, 16, 16), 10).eval()
    images, labels = noise(4), torch.tensor([3, 0, 9, 3])
    found = activation_maps(network, images, labels, normalize)
    double = deepcopy(network).double()
    expected = torch.stack([slow_map(double, x, int(y)) for x, y in zip(images, labels, strict=True)])
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)
    assert found.min() >= 0 and found.max() <= 1 and found.any()


def test_another_class_is_seen_elsewhere():
    network = create_network("convnet", (1, 16, 16), 10, depth=2, width=16)
    images = noise(3)
    first, second = (activation_maps(network, images, torch.full((3,), c), normalize) for c in (0, 1))
    assert (first - second).abs().max() > 0.1


def test_a_class_that_is_seen_nowhere_has_an_empty_map():
    network = create_network("convnet", (1, 16, 16), 10, depth=2, width=8)
    network.classifier.weight.data.fill_(-1)  # behind a ReLU no position speaks for any class
    found = activation_maps(network, noise(2), torch.tensor([0, 1]), normalize)
    assert torch.equal(found, torch.zeros(2, *found.shape[1:]))


def test_a_frozen_network_is_read_and_nothing_is_left_behind():
    network = create_network("resnet18", (1, 16, 16), 10, width=0.125).requires_grad_(False)
    before, images = deepcopy(network.state_dict()), noise(2)
    kept = images.clone()
    with torch.no_grad():
        found = activation_maps(network, images, torch.tensor([0, 1]), normalize)
    assert found.any() and not found.requires_grad
    assert torch.equal(images, kept) and not images.requires_grad and images.grad is None
    assert not network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_images_of_another_data_set_are_refused(few_digits):
    network = create_network("convnet", few_digits.image_shape, 10, depth=1, width=4)
    with pytest.raises(HgladError, match="wrong channel count: 3, expected 1"):
        activation_maps(network, noise(2, (3, 8, 8)), torch.tensor([0, 1]), few_digits.normalize)
