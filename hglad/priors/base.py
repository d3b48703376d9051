"""What every generative prior offers to the search, and the registry of priors."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Latents:
    """Point in a prior's latent space, seen from one split point.

    Attributes:
        w: style vectors, one row per layer, (n, num_ws, w_dim); `None` for a prior without styles.
        f: features at the split point, (n, channels, height, width); `None` means that they still follow
            from `w` alone, so that only `w` is optimised (the latent stage).
    """

    w: Tensor | None
    f: Tensor | None

    def map(self, function) -> "Latents":
        """Apply `function` to each tensor that is there."""
        return Latents(*(None if x is None else function(x) for x in (self.w, self.f)))

    def detach(self) -> "Latents":
        """A copy outside the graph that later in-place updates cannot change."""
        return self.map(lambda x: x.detach().clone())


class Prior(Protocol):
    """A generator cut into layers; split point n lies behind the first n of them.

    Attributes:
        layers: names of the split points, coarse to fine; the last one is "pixels", where f are images.
    """

    layers: tuple[str, ...]

    def sample(self, labels: Tensor, generator: torch.Generator, average: int = 1) -> Latents:
        """Draw latents for labels (n,); each is the mean of `average` mapped ones."""

    def advance(self, latents: Latents, src: int, dst: int) -> Latents:
        """Run the layers from split point `src` to `dst`."""

    def decode(self, latents: Latents, layer: int) -> Tensor:
        """Run the layers behind split point `layer`; images (n, ch, h, w) in [0, 1], not clamped."""
