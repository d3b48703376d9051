"""How a batch passes through a network: as many images at once as suit it, with given draws."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from hglad.runtime import host_rng

CACHE = 2**23  # bytes of the first layer's maps; measured best at 32 px and width 128 (make bench)
SMALLEST = 4  # fewer images keep two cores waiting for each other
MAPS_MEMORY = 2**30  # bytes of the largest maps of images that pass a GPU together without a graph


def chunk_size(network: nn.Module, images: Tensor) -> int:
    """Images of a batch (n, ch, h, w) that pass through `network` together; on a GPU all of them.

    Layers read and write whole batches of maps in turn: a batch whose maps stay in the processor's cache
    goes through them about twice as fast as one that does not. A network that mixes the images of a batch, or
    draws random numbers for it, gets the batch whole. `limit_chunks` sets a bound for the others.
    """
    if not separable(network):
        return len(images)
    numbers = largest_maps(network, images) if images.device.type == "cpu" else 0
    size = max(SMALLEST, CACHE // (numbers * images.element_size())) if numbers else len(images)
    return min(size, getattr(network, "images_at_once", size))


def limit_chunks(network: nn.Module, size: int) -> None:
    """From now on at most `size` images pass through `network` together, where it treats each alone."""
    network.images_at_once = size


def forward_size(network: nn.Module, images: Tensor) -> int:
    """`chunk_size` without a graph: on a GPU as many images as have their largest maps in `MAPS_MEMORY`."""
    size, numbers = chunk_size(network, images), largest_maps(network, images)
    if images.device.type == "cpu" or not numbers or not separable(network):
        return size
    return max(1, min(size, MAPS_MEMORY // (numbers * images.element_size())))


def largest_maps(network: nn.Module, images: Tensor) -> int:
    """Numbers in the largest maps of one image: those that a library's model was found to have, else those
    behind the first convolution, which has stride 1; 0 without one."""
    if hasattr(network, "largest_maps"):
        return network.largest_maps
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    return 0 if first is None else first.out_channels * images[0, 0].numel()


def separable(network: nn.Module) -> bool:
    """Whether each image is treated alone: no batch statistics and no random draws in training mode.

    A library's model in training mode counts as one that does either: it need not say so in its modules.
    """
    return not any(
        module.training or not module.track_running_stats
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        else module.training and draws(module)
        for module in network.modules()
    )


def accumulate_gradient(
    network: nn.Module, images: Tensor, labels: Tensor, precision: str = "float32"
) -> Tensor:
    """Add the gradient of the mean cross-entropy to every parameter's `.grad`; return the loss, ().

    images (n, ch, h, w), labels (n,), or (n, classes) with probabilities. The same as one `backward()` over
    the batch, up to rounding. With the precision "bfloat16" convolutions and products take and give 16 bits.
    """
    size, total = chunk_size(network, images), torch.zeros((), device=images.device)
    for part, target in zip(images.split(size), labels.split(size), strict=True):
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = network(part)
        loss = nn.functional.cross_entropy(full_precision(logits), target, reduction="sum") / len(labels)
        loss.backward()
        total = total + loss.detach()
    return total


def full_precision(logits: Tensor) -> Tensor:
    """16-bit logits as float32; wider ones pass."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def draws(module: nn.Module) -> bool:
    """Whether a module draws random numbers in training mode, or may, as a library's model."""
    dropout = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
    return dropout or getattr(module, "external", False)


@contextmanager
def dropout_from(network: nn.Module, rng: torch.Generator) -> Iterator[None]:
    """Let the dropout of `network` follow from `rng`; PyTorch's global state is as before afterwards.

    `torch.nn.functional.dropout` takes no generator, so its global one is seeded inside and put back. A
    network that does not draw in training leaves `rng` as it is.
    """
    drawing = any(draws(module) for module in network.modules())
    with global_seed(draw_seed(rng), next(network.parameters()).device) if drawing else nullcontext():
        yield


@contextmanager
def global_seed(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed PyTorch's global generators of the CPU and of `device`; their states are as before afterwards."""
    on_gpu = torch.device(device).type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        # torch.manual_seed reaches every GPU, so it would leave its mark on those that were not asked for.
        seed_all = torch.manual_seed if on_gpu else torch.default_generator.manual_seed
        seed_all(seed)
        yield


def draw_seed(rng: torch.Generator) -> int:
    """A seed for PyTorch's global generators, drawn from `rng`."""
    seed = int(torch.randint(2**62, (), generator=host_rng(rng)))
    if rng.device.type != "cpu":
        torch.rand((), generator=rng, device=rng.device)  # moves the offset on
    return seed
