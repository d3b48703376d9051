"""The fused non-linearity against its steps written out; the generator's graph within a budget of memory."""

import pytest
import torch
from torch.nn import functional as F

from hglad.priors import layers, pullback
from hglad.priors.base import Latents
from hglad.priors.layers import filtered_leaky_relu
from hglad.priors.pullback import GIB, Pullback, share_of_memory

LIMIT = 1.5


def problem(images=2, channels=5, size=6, large=11, small=4, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    shapes = [(images, channels, size, size), (images, channels), (channels,), (large, size), (small, large)]
    tensors = [torch.randn(shape, generator=draw, dtype=dtype) for shape in shapes]
    return [x.requires_grad_() for x in tensors[:3]] + tensors[3:]


def in_steps(x, scale, bias, up, down, limit):
    large = up @ (x * scale[:, :, None, None] + bias[:, None, None]) @ up.T
    return down @ F.leaky_relu(large, 0.2).clamp(-limit, limit) @ down.T


def gradients(function, arguments, cotangent):
    return torch.autograd.grad((function(*arguments, LIMIT) * cotangent).sum(), arguments[:3])


@pytest.mark.parametrize("block", [1, 2, 3, 10, 1000])
def test_blocks_of_any_size_give_the_steps_written_out(monkeypatch, block):
    monkeypatch.setattr(layers, "BLOCK_BYTES", block * 11 * 11 * 8)
    arguments = problem()
    expected = in_steps(*arguments, LIMIT)
    assert (expected.abs() > 0).all()
    torch.testing.assert_close(filtered_leaky_relu(*arguments, LIMIT), expected)
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for found, wanted in zip(
        gradients(filtered_leaky_relu, arguments, cotangent),
        gradients(in_steps, arguments, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)


def test_all_three_parts_of_the_non_linearity_are_met():
    x, scale, bias, up, _ = problem()
    large = up @ (x * scale[:, :, None, None] + bias[:, None, None]) @ up.T
    parts = [
        large > LIMIT,
        large < -LIMIT / 0.2,
        (large < 0) & (large > -LIMIT / 0.2),
        (large > 0) & (large < LIMIT),
    ]
    assert all(part.any() for part in parts)


def test_against_finite_differences():
    arguments = problem(images=1, channels=2)
    assert torch.autograd.gradcheck(
        lambda *first: filtered_leaky_relu(*first, *arguments[3:], LIMIT), arguments[:3]
    )


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_16_bits(dtype, error):
    exact, rounded = problem(), [x.detach().to(dtype).requires_grad_(x.requires_grad) for x in problem()]
    found, expected = filtered_leaky_relu(*rounded, LIMIT), filtered_leaky_relu(*exact, LIMIT)
    assert found.dtype == dtype and (found - expected).norm() / expected.norm() < error
    for a, b in zip(
        gradients(filtered_leaky_relu, rounded, 1), gradients(filtered_leaky_relu, exact, 1), strict=True
    ):
        assert a.dtype == dtype and (a - b).norm() / b.norm() < 4 * error


def test_it_keeps_no_large_map_for_the_backward_pass():
    arguments = problem(large=200)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        filtered_leaky_relu(*arguments, LIMIT)
    assert sorted(x.shape for x in kept) == sorted(x.shape for x in arguments)


def test_a_second_derivative_is_refused():
    arguments = problem()
    first = torch.autograd.grad(filtered_leaky_relu(*arguments, LIMIT).sum(), arguments[0], create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        first[0].sum().backward()


# Pullback


@pytest.fixture
def latents(tiny_prior):
    draw = torch.Generator().manual_seed(0)
    return tiny_prior.advance(tiny_prior.sample(torch.arange(10), draw), 0, 2)


@pytest.fixture
def gradient():
    return torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def with_weights(prior, latents):
    return Latents(latents.w, latents.f, prior.weights(2))


@pytest.mark.parametrize("shared", [False, True], ids=["frozen", "with weights"])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_parts_give_the_gradients_of_the_whole(tiny_prior, latents, gradient, size, shared):
    if shared:
        latents = with_weights(tiny_prior, latents)
    whole, parts = Pullback(tiny_prior), Pullback(tiny_prior)
    parts.parts[2] = size
    (images, pull), (other, pull_parts) = whole(latents, 2), parts(latents, 2)
    torch.testing.assert_close(other, images)
    expected, found = pull(gradient).tensors(), pull_parts(gradient).tensors()
    assert list(found) == list(expected) == list(latents.tensors())
    for name, value in expected.items():
        assert found[name].shape == latents.tensors()[name].shape and value.norm() > 0
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_pixels_need_no_generator(gradient):
    class Identity:
        layers = ("pixels",)

        def decode(self, latents, layer):
            return latents.f

    images, pull = Pullback(Identity())(Latents(None, gradient), 0)
    assert torch.equal(images, gradient) and torch.equal(pull(2 * gradient).f, 2 * gradient)


def test_the_budget_decides_how_many_images_go_together(tiny_prior, latents, monkeypatch):
    one = Pullback(tiny_prior).graph_bytes(latents, 2)
    assert one > 4 * latents.f[0].numel()
    for budget, expected in ((0.5, 1), (3.5, 3), (100, 100)):
        run = Pullback(tiny_prior, budget * one / GIB)
        run(latents, 2)
        assert run.parts == {2: expected}
    monkeypatch.setattr(pullback, "share_of_memory", lambda device: 8.2 * one)
    run = Pullback(tiny_prior)
    run(latents, 2)
    assert run.parts == {2: 4}


def test_a_bound_holds_for_the_graph_and_for_images_alone(tiny_prior, latents, gradient):
    whole, bounded = Pullback(tiny_prior), Pullback(tiny_prior)
    bounded.most, given, decode = 4, [], tiny_prior.decode

    class Noting:
        layers, state_dict = tiny_prior.layers, tiny_prior.state_dict

        def decode(self, latents, layer):
            given.append(len(latents))
            return decode(latents, layer)

    bounded.prior = Noting()
    torch.testing.assert_close(bounded.images(latents, 2), whole.images(latents, 2))
    assert given == [4, 4, 2]
    _, pull = bounded(latents, 2)
    found, expected = pull(gradient).tensors(), whole(latents, 2)[1](gradient).tensors()
    assert max(given) == 4
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_the_graph_keeps_what_it_says(tiny_prior, latents):
    """A frozen generator's own tensors are shared by all images, and do not count."""
    run = Pullback(tiny_prior)
    one, behind = run.graph_bytes(latents, 2), run.graph_bytes(tiny_prior.advance(latents, 2, 3), 3)
    assert behind < one
    maps = [tiny_prior.advance(latents, 2, layer).f[0].numel() * 4 for layer in (3, 4)]
    assert one > sum(maps)
    assert run.graph_bytes(with_weights(tiny_prior, latents), 2) >= one


def test_memory_of_a_process_is_its_share_of_the_processors(monkeypatch, tmp_path):
    device = torch.device("cpu")
    monkeypatch.setattr(pullback, "CGROUP_LIMITS", ())
    monkeypatch.setattr(pullback.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(pullback.torch, "get_num_threads", lambda: 1)
    quarter = share_of_memory(device)
    monkeypatch.setattr(pullback.torch, "get_num_threads", lambda: 8)
    whole = share_of_memory(device)
    assert whole == pytest.approx(4 * quarter) and whole > 2**28
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(pullback, "CGROUP_LIMITS", (str(limit), str(tmp_path / "none")))
    limit.write_text("max\n")
    assert share_of_memory(device) == whole
    limit.write_text("1000000\n")
    assert share_of_memory(device) == 1000000
