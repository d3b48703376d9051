"""What computing costs: the work of a network, counted, and a guess of the seconds."""

import json
from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from hglad.data.datasets import RealData
from hglad.networks import create_network

# On one core. What follows is within about three times of what the committed results took, at 16 and 32 px,
# with five architectures. A processor with matrix units for 16 bits, and a GPU all the more, is faster.
ANY_IMAGE = 1e-4  # seconds an image takes through the smallest network
PER_FLOP = 1.1e-11
GENERATOR = 2.5e-4  # seconds an image takes through a generator and back, per pixel of its side


def network_seconds(network: dict, real: RealData) -> float:
    """Guess of the seconds that an image takes through a network on one core; thrice that in training.

    Args:
        network: name and options.
        real: images that it is for.
    """
    return ANY_IMAGE + PER_FLOP * _network_flops(
        json.dumps(network, sort_keys=True), real.image_shape, len(real.classes)
    )


@lru_cache
def _network_flops(network: str, image_shape: tuple[int, int, int], classes: int) -> float:
    """Floating-point operations of one image's way through it; a product with its sum counts as two."""
    made = create_network(image_shape=image_shape, classes=classes, **json.loads(network)).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        made(torch.zeros(1, *image_shape))
    return float(counter.get_total_flops())


def generator_seconds(real: RealData) -> float:
    """Guess of the seconds that an image takes through a generator and back on one core."""
    return GENERATOR * real.image_shape[-1]
