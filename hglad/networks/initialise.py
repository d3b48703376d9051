"""Random draws of networks: fresh parameters, and dropout, from a given generator."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import singledispatch

import torch
from torch import Tensor, nn

from hglad.errors import HgladError


def initialise(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw every parameter anew, in place, from PyTorch's default distributions; return the network.

    The draw happens on `generator.device`: a generator on the CPU gives the same network on every device.
    Raises `HgladError` for a module with parameters and no rule in `redraw`.
    """
    with torch.no_grad():
        for module in network.modules():
            redraw(module, generator)
    return network


@singledispatch
def redraw(module: nn.Module, generator: torch.Generator) -> None:
    """The rule of one module type for its own parameters; `@redraw.register` adds one."""
    if next(module.parameters(recurse=False), None) is not None:
        raise HgladError(
            f"no rule to initialise a {type(module).__name__}; register one with "
            "hglad.networks.initialise.redraw.register"
        )


@redraw.register(nn.Linear)
@redraw.register(nn.Conv2d)
def _redraw_affine(module: nn.Linear | nn.Conv2d, generator: torch.Generator) -> None:
    # Kaiming uniform with a = sqrt(5) has gain sqrt(1/3), so its bound is that of the bias too.
    bound = module.weight[0].numel() ** -0.5
    fill_uniform(module.weight, bound, generator)
    if module.bias is not None:
        fill_uniform(module.bias, bound, generator)


@redraw.register(nn.GroupNorm)
@redraw.register(nn.LayerNorm)
@redraw.register(nn.BatchNorm2d)
def _redraw_norm(module: nn.GroupNorm | nn.LayerNorm | nn.BatchNorm2d, generator: torch.Generator) -> None:
    module.reset_parameters()  # ones and zeros, no draw


def fill_uniform(parameter: Tensor, bound: float, generator: torch.Generator) -> None:
    """Fill in place from U(-bound, bound)."""
    if parameter.device == generator.device:
        parameter.uniform_(-bound, bound, generator=generator)
    else:
        draw = torch.empty(parameter.shape, dtype=parameter.dtype, device=generator.device)
        parameter.copy_(draw.uniform_(-bound, bound, generator=generator))


def fill_normal(parameter: Tensor, generator: torch.Generator) -> None:
    """Fill in place from N(0, 1)."""
    draw = torch.empty(parameter.shape, dtype=parameter.dtype, device=generator.device)
    parameter.copy_(draw.normal_(generator=generator))


def host_generator(generator: torch.Generator) -> torch.Generator:
    """A CPU generator that follows from `generator`, for draws that the host must know at once.

    A generator on the CPU is returned itself. The state of one on a GPU (seed and offset) is kept by the
    host, so reading it waits for nothing; the offset grows with every draw on the GPU, so a caller that
    also draws there gets a new host generator each time.
    """
    if generator.device.type == "cpu":
        return generator
    state = (generator.initial_seed() * 0x9E3779B97F4A7C15 + generator.get_offset()) % 2**63
    return torch.Generator().manual_seed(state)


@contextmanager
def dropout_from(network: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Let the dropout of `network` follow from `generator`; PyTorch's global state is as before afterwards.

    `torch.nn.functional.dropout` takes no generator, so its global one is seeded inside and put back. A
    network without dropout draws nothing.
    """
    if not any(isinstance(module, nn.Dropout) and module.p > 0 for module in network.modules()):
        yield
        return
    device = next(network.parameters()).device
    seed = int(torch.randint(2**62, (), generator=host_generator(generator)))
    if generator.device.type != "cpu":
        torch.rand((), generator=generator, device=generator.device)  # moves the offset on
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
