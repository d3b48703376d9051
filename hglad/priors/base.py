"""What every generative prior offers to the search, and what the families of generators share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hglad.errors import HgladError


@dataclass(frozen=True)
class Latents:
    """Point in a prior's latent space, seen from one split point.

    Attributes:
        w: style vectors, one row per layer, (n, num_ws, w_dim); `None` for a prior without styles.
        f: features at the split point, (n, channels, height, width); `None` means that they still follow
            from `w` alone, so that only `w` is optimised (the latent stage).
        weights: the generator's own weights by name where they are optimised too, in place of those it holds.
    """

    w: Tensor | None
    f: Tensor | None
    weights: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that are there, by name: `w`, `f`, then `weights.<name>` in the order of the names."""
        own = {"w": self.w, "f": self.f}
        own |= {f"{WEIGHTS}{name}": self.weights[name] for name in sorted(self.weights)}
        return {name: x for name, x in own.items() if x is not None}

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Self:
        """Latents from what `tensors` gives."""
        weights = {name.removeprefix(WEIGHTS): x for name, x in tensors.items() if name.startswith(WEIGHTS)}
        return cls(tensors.get("w"), tensors.get("f"), weights)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply `function` to each tensor that is there."""
        return Latents.of({name: function(x) for name, x in self.tensors().items()})

    def detach(self) -> Self:
        """A copy outside the graph that later in-place updates cannot change."""
        return self.map(lambda x: x.detach().clone())

    def split(self, size: int) -> list[Self]:
        """Parts of at most `size` images; all have the same weights."""
        parts = [[None] * len(self) if x is None else x.split(size) for x in (self.w, self.f)]
        return [Latents(w, f, self.weights) for w, f in zip(*parts, strict=False)]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.f if self.w is None else self.w)


WEIGHTS = "weights."  # prefix of the generator's own weights among the names of tensors


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

    def weights(self, layer: int) -> dict[str, Tensor]:
        """The generator's own weights behind split point `layer`, by name."""


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Formats that a generator may compute its high-resolution layers in."""


class LayeredGenerator(nn.Module):
    """A network cut behind its layers: `forward(w, x, src, dst)` runs those between two split points."""

    layers: tuple[str, ...]

    def advance(self, latents: Latents, src: int, dst: int) -> Latents:
        """Run the layers from split point `src` to `dst`; features that are missing start from w.

        Features are in the format of w, also between layers that compute in 16 bits: they are optimised.

        Raises:
            HgladError: split points that are out of order or out of range.
        """
        last = len(self.layers) - 1
        if not 0 <= src <= dst <= last:
            raise HgladError(
                f"cannot advance from split point {src} to {dst}: expected 0 <= src <= dst <= {last}"
            )
        f = functional_call(self, latents.weights, (latents.w, latents.f, src, dst))
        return Latents(latents.w, f if latents.w is None else f.to(latents.w.dtype), latents.weights)

    def decode(self, latents: Latents, layer: int) -> Tensor:
        """Images (n, channels, height, width) in [0, 1], not clamped, from latents at split point `layer`."""
        return self.advance(latents, layer, len(self.layers) - 1).f


def check_tensors(expected: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    """Raise `HgladError` for the first tensor that is missing, unexpected or misshapen."""
    for name in sorted(expected.keys() | given.keys()):
        if name not in given:
            raise HgladError(f"tensor '{name}' is missing: expected shape {list(expected[name].shape)}")
        if name not in expected:
            raise HgladError(f"tensor '{name}' is not part of this generator: check the settings")
        if expected[name].shape != given[name].shape:
            raise HgladError(
                f"tensor '{name}' has shape {list(given[name].shape)}: expected {list(expected[name].shape)}"
            )
