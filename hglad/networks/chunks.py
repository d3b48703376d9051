"""How many images pass through a network at once: on a processor, as many as its cache holds."""

import torch
from torch import Tensor, nn

from hglad.networks.initialization import draws

MAPS_MEMORY = 2**30  # bytes of the largest maps of images that pass a GPU together without a graph
CACHE = 2**23  # bytes of the first layer's maps; measured best at 32 px and width 128 (make bench)
SMALLEST = 4  # fewer images keep two cores waiting for each other


def chunk_size(network: nn.Module, images: Tensor) -> int:
    """Images of a batch (n, ch, h, w) that pass through `network` together; on a GPU all of them.

    Layers read and write whole batches of maps in turn: a batch whose maps stay in the processor's cache
    goes through them about twice as fast as one that does not. A network that mixes the images of a batch, or
    draws random numbers for it, gets the batch whole. `limit_chunks` sets a bound for the others.
    """
    if not separable(network):
        return len(images)
    limit = getattr(network, LIMIT, None)
    numbers = largest_maps(network, images) if images.device.type == "cpu" else 0
    size = max(SMALLEST, CACHE // (numbers * images.element_size())) if numbers else len(images)
    return min(size, limit or size)


LIMIT = "images_at_once"  # attribute of a network


def limit_chunks(network: nn.Module, size: int) -> None:
    """From now on at most `size` images pass through `network` together, where it treats each alone."""
    setattr(network, LIMIT, size)


def forward_size(network: nn.Module, images: Tensor) -> int:
    """`chunk_size` without a graph: on a GPU as many images as have their largest maps in `MAPS_MEMORY`."""
    size = chunk_size(network, images)
    numbers = largest_maps(network, images)
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
    return not any(_mixes(module) for module in network.modules())


def _mixes(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.training or not module.track_running_stats
    return module.training and draws(module)


def accumulate_gradient(
    network: nn.Module, images: Tensor, labels: Tensor, precision: str = "float32"
) -> Tensor:
    """Add the gradient of the mean cross-entropy to every parameter's `.grad`; return the loss, ().

    images (n, ch, h, w), labels (n,), or (n, classes) with probabilities. The same as one `backward()` over
    the batch, up to rounding. With the precision "bfloat16" convolutions and products take and give 16 bits.
    """
    size, total = chunk_size(network, images), torch.zeros((), device=images.device)
    half = torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16")
    for part, target in zip(images.split(size), labels.split(size), strict=True):
        with half:
            logits = network(part)
        loss = nn.functional.cross_entropy(full_precision(logits), target, reduction="sum") / len(labels)
        loss.backward()
        total = total + loss.detach()
    return total


def full_precision(logits: Tensor) -> Tensor:
    """16-bit logits as float32; wider ones pass."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
