"""Random draws of networks: fresh parameters, and dropout, from a given generator."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import singledispatch

import torch
from torch import Tensor, nn

from hglad.errors import HgladError


def initialize(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw every parameter anew, in place, from PyTorch's default distributions; return the network.

    The draw happens on `generator.device`: a generator on the CPU gives the same network on every device.
    A network with a method `draw_parameters` draws them by itself. Raises `HgladError` for a module with
    parameters and no rule in `redraw`.
    """
    with torch.no_grad():
        if hasattr(network, "draw_parameters"):
            network.draw_parameters(generator)
            return network
        for module in network.modules():
            redraw(module, generator)
    return network


@singledispatch
def redraw(module: nn.Module, generator: torch.Generator) -> None:
    """The rule of one module type for its own parameters; `@redraw.register` adds one."""
    if next(module.parameters(recurse=False), None) is not None:
        raise HgladError(
            f"no rule to initialize a {type(module).__name__}; register one with "
            "hglad.networks.initialization.redraw.register"
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


def host_rng(generator: torch.Generator) -> torch.Generator:
    """A CPU generator that follows from `generator`, for draws that the host must know at once.

    A generator on the CPU is returned itself. The state of one on a GPU (seed and offset) is kept by the
    host, so reading it waits for nothing; the offset grows with every draw on the GPU, so a caller that
    also draws there gets a new host generator each time.
    """
    if generator.device.type == "cpu":
        return generator
    state = (generator.initial_seed() * 0x9E3779B97F4A7C15 + generator.get_offset()) % 2**63
    return torch.Generator().manual_seed(state)


def draw_seed(generator: torch.Generator) -> int:
    """A seed for PyTorch's global generators, drawn from `generator`."""
    seed = int(torch.randint(2**62, (), generator=host_rng(generator)))
    if generator.device.type != "cpu":
        torch.rand((), generator=generator, device=generator.device)  # moves the offset on
    return seed


@contextmanager
def global_seed(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed PyTorch's global generators of the CPU and of `device`; their states are as before afterwards."""
    on_gpu = torch.device(device).type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        # torch.manual_seed reaches every GPU, so it would leave its mark on those that were not asked for.
        seed_all = torch.manual_seed if on_gpu else torch.default_generator.manual_seed
        seed_all(seed)
        yield


@contextmanager
def dropout_from(network: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Let the dropout of `network` follow from `generator`; PyTorch's global state is as before afterwards.

    `torch.nn.functional.dropout` takes no generator, so its global one is seeded inside and put back. A
    network that does not draw in training leaves `generator` as it is.
    """
    if not any(draws(module) for module in network.modules()):
        yield
        return
    with global_seed(draw_seed(generator), next(network.parameters()).device):
        yield


def draws(module: nn.Module) -> bool:
    """Whether a module draws random numbers in training mode, or may, as a library's model."""
    dropout = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
    return dropout or getattr(module, "external", False)
