"""How many images pass through a network at once, and that the parts add up."""

import pytest
import torch
from torch import nn

from hglad.networks import chunks, create_network
from hglad.networks.chunks import accumulate_gradient, chunk_size, forward_size, limit_chunks, separable
from hglad.objectives import use_batch_statistics


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def convnet(**options: object) -> nn.Module:
    return create_network("convnet", (1, 8, 8), 10, **{"depth": 2, "width": 4} | options)


def vit(dropout: float) -> nn.Module:
    return create_network("vit", (1, 8, 8), 10, depth=1, dim=8, heads=2, head_dim=4, mlp=8, dropout=dropout)


def batch(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=seeded(0), dtype=torch.float64)


def test_the_maps_of_a_chunk_fill_the_cache(monkeypatch):
    monkeypatch.setattr(chunks, "CACHE", 10 * 4 * 64 * 8)  # 10 images of 4 maps, 8 x 8, 8 bytes
    assert chunk_size(convnet(), batch(3)) == 10
    assert chunk_size(convnet(), batch(3).float()) == 20
    assert chunk_size(convnet(width=8), batch(3)) == 5


def test_a_chunk_has_a_least_size(monkeypatch):
    monkeypatch.setattr(chunks, "CACHE", 1)
    assert chunk_size(convnet(), batch(30)) == chunks.SMALLEST == 4


@pytest.mark.parametrize(
    ("make", "training", "alone"),
    [
        (convnet, True, True),
        (lambda: convnet(norm="none"), True, True),
        (lambda: convnet(norm="batch"), True, False),
        (lambda: convnet(norm="batch"), False, True),
        (lambda: vit(0.1), True, False),
        (lambda: vit(0.1), False, True),
        (lambda: vit(0.0), True, True),
    ],
)
def test_a_network_that_mixes_images_or_draws_gets_the_batch_whole(monkeypatch, make, training, alone):
    monkeypatch.setattr(chunks, "CACHE", 1)
    network = make().train(training)
    assert separable(network) is alone
    convolution = any(isinstance(module, nn.Conv2d) for module in network.modules())
    assert chunk_size(network, batch(30)) == (4 if alone and convolution else 30)


def test_statistics_of_the_batch_ask_for_it_whole_in_evaluation_too(monkeypatch):
    monkeypatch.setattr(chunks, "CACHE", 1)
    network = convnet(norm="batch")
    use_batch_statistics(network)
    assert chunk_size(network.eval(), batch(30)) == 30


def test_a_batch_on_another_device_is_left_whole():
    assert chunk_size(convnet(), torch.empty(5000, 1, 8, 8, device="meta")) == 5000


def test_on_another_device_large_maps_pass_without_a_graph_in_parts():
    """512 images of 256 px: each map of a ConvNet of width 128 has 33.5 MB an image."""
    images = torch.empty(512, 3, 256, 256, device="meta")
    network = create_network("convnet", (3, 256, 256), 10, depth=6, width=128).to("meta")
    assert forward_size(network.eval(), images) == 32
    assert forward_size(network, images[:8]) == 8
    small = create_network("convnet", (3, 32, 32), 10, depth=3, width=128).to("meta").eval()
    assert forward_size(small, torch.empty(512, 3, 32, 32, device="meta")) == 512
    mixing = create_network("convnet", (3, 256, 256), 10, depth=6, width=128, norm="batch").to("meta")
    assert forward_size(mixing.train(), images) == 512


def test_a_limit_holds_for_networks_that_treat_each_image_alone():
    network, mixing = convnet(), convnet(norm="batch")
    for each in (network, mixing):
        limit_chunks(each, 3)
    assert chunk_size(network, batch(30)) == forward_size(network, batch(30)) == 3
    assert chunk_size(network, torch.empty(30, 1, 8, 8, device="meta")) == 3
    assert chunk_size(mixing.train(), batch(30)) == 30


@pytest.mark.parametrize("soft", [False, True], ids=["classes", "soft labels"])
@pytest.mark.parametrize("count", [1, 4, 10, 13])
def test_accumulated_gradients_are_those_of_one_backward_pass(monkeypatch, count, soft):
    monkeypatch.setattr(chunks, "CACHE", 1)
    network, images, labels = convnet().double(), batch(count), torch.arange(count) % 10
    if soft:
        labels = torch.rand(count, 10, generator=seeded(1), dtype=torch.float64).softmax(dim=1)
    passes = []
    hook = network.register_forward_hook(lambda module, inputs, output: passes.append(len(output)))
    loss = accumulate_gradient(network, images, labels)
    assert passes == {1: [1], 4: [4], 10: [4, 4, 2], 13: [4, 4, 4, 1]}[count]
    assert not loss.requires_grad
    hook.remove()
    expected = nn.functional.cross_entropy(network(images), labels)
    gradients = torch.autograd.grad(expected, tuple(network.parameters()))
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    scale = max(gradient.norm() for gradient in gradients)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        assert (parameter.grad - gradient).norm() <= 1e-12 * scale


def test_gradients_are_added_to_those_that_are_there():
    network, images, labels = convnet().double(), batch(6), torch.arange(6)
    accumulate_gradient(network, images, labels)
    once = [parameter.grad.clone() for parameter in network.parameters()]
    accumulate_gradient(network, images, labels)
    for parameter, gradient in zip(network.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient, rtol=1e-12, atol=0)
