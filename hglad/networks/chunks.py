"""How many images pass through a network at once: on a processor, as many as its cache holds."""

import torch
from torch import Tensor, nn

CACHE = 2**23  # bytes of the first layer's maps; measured best at 32 px and width 128 (hglad bench)
SMALLEST = 4  # fewer images keep two cores waiting for each other


def chunk_size(network: nn.Module, images: Tensor) -> int:
    """Images of a batch (n, ch, h, w) that pass through `network` together; on a GPU all of them.

    Layers read and write whole batches of maps in turn: a batch whose maps stay in the processor's cache
    goes through them about twice as fast as one that does not. A network that mixes the images of a batch, or
    draws random numbers for it, gets the batch whole.
    """
    if images.device.type != "cpu" or not separable(network):
        return len(images)
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        return len(images)
    maps = first.out_channels * images[0, 0].numel() * images.element_size()
    return max(SMALLEST, CACHE // maps)


def separable(network: nn.Module) -> bool:
    """Whether each image is treated alone: no batch statistics and no dropout in training mode."""
    return not any(_mixes(module) for module in network.modules())


def _mixes(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.training or not module.track_running_stats
    return isinstance(module, nn.Dropout) and module.training and module.p > 0


def accumulate_gradient(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Add the gradient of the mean cross-entropy to every parameter's `.grad`; return the loss, ().

    images (n, ch, h, w), labels (n,). The same as one `backward()` over the batch, up to rounding.
    """
    size, total = chunk_size(network, images), torch.zeros((), device=images.device)
    for part, target in zip(images.split(size), labels.split(size), strict=True):
        loss = nn.functional.cross_entropy(network(part), target, reduction="sum") / len(labels)
        loss.backward()
        total = total + loss.detach()
    return total
