"""The identity prior: pixel-space distillation is the search without a generator."""

import torch
from torch import Tensor

from hglad.data.datasets import RealData
from hglad.errors import HgladError
from hglad.priors.base import Latents

VERSION = 1  # raise when the same seed gives another start


class PixelPrior:
    """Latents are the images themselves; they start from real images or from noise.

    Args:
        real: the data set that gives the shape and the real images.
        start: "real" (DM; random images of the class) or "noise" (DC; standard normal after normalizing).

    Raises:
        HgladError: unknown start.
    """

    layers = ("pixels",)

    def __init__(self, real: RealData, start: str = "real"):
        if start not in ("real", "noise"):
            raise HgladError(f"unknown start '{start}' of the pixel prior: expected real or noise")
        self.real, self.start = real, start

    def sample(self, labels: Tensor, rng: torch.Generator, average: int = 1) -> Latents:
        """Images (n, channels, height, width) in [0, 1] for labels (n,), sorted by class with equal counts.

        Raises:
            HgladError: `average` above 1, which has no meaning for pixels.
        """
        if average != 1:
            raise HgladError(f"average is {average}: the pixel prior has no latents to average, expected 1")
        if self.start == "real":
            return Latents(None, self.real.batch(len(labels) // len(self.real.classes), rng).flatten(0, 1))
        noise = torch.randn(len(labels), *self.real.image_shape, generator=rng, device=rng.device)
        return Latents(None, noise * self.real.std[:, None, None] + self.real.mean[:, None, None])

    def advance(self, latents: Latents, src: int, dst: int) -> Latents:
        """There is one split point only."""
        return latents

    def decode(self, latents: Latents, layer: int) -> Tensor:
        """The images."""
        return latents.f

    def weights(self, layer: int) -> dict[str, Tensor]:
        """None."""
        return {}
