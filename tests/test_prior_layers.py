"""The fused non-linearity against its steps written out, and against itself in blocks of any size."""

import pytest
import torch
from torch.nn import functional as F

from hglad.priors import layers
from hglad.priors.layers import filtered_leaky_relu

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
