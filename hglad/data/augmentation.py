"""Differentiable siamese augmentation (DSA; Zhao & Bilen 2021): draw once, apply to any batch.

Brightness and the color that fills uncovered pixels (0) are in units of normalized images, as in DSA: apply
a transform after `RealData.normalize`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor

from hglad.errors import HgladError
from hglad.registry import unknown
from hglad.runtime import host_rng
from hglad.settings import DSA

VERSION = 1  # raise when the same draws give other images

BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5
CROP_PADDING = 0.125  # of the side
CUTOUT_SIDE = 0.5  # of the side
FLIP_PROBABILITY = 0.5
SCALE_RATIO = 1.2
ROTATION = 15 / 180 * pi  # radians


@dataclass(frozen=True)
class Transform:
    """One strategy with the parameters of every image, (n, k); differentiable with respect to the images."""

    strategy: str
    parameters: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Apply to (n, ch, h, w) float images; raises `HgladError` when n differs from the parameters'."""
        if images.dim() != 4 or len(images) != len(self.parameters):
            raise HgladError(
                f"a transform drawn for {len(self.parameters)} images was given shape "
                f"{tuple(images.shape)}; draw it for as many images, (n, ch, h, w)"
            )
        if not images.is_floating_point():
            raise HgladError(f"a transform was given {images.dtype} images; give normalized floats")
        return STRATEGIES[self.strategy][1](images, self.parameters.to(images))

    def repeat(self, times: int) -> "Transform":
        """The same parameters for `times` images each: those of a class for its images, sorted by class."""
        return Transform(self.strategy, self.parameters.repeat_interleave(times, dim=0))

    def select(self, index: int) -> "Transform":
        """The transform of one image (or class) alone."""
        return Transform(self.strategy, self.parameters[index : index + 1])


class Augmentation:
    """Strategies joined by "_", as in DSA; the empty text is none. Unknown ones raise `HgladError`."""

    def __init__(self, text: str = DSA) -> None:
        self.text = text
        self.strategies = text.split("_") if text else ["none"]
        known = DSA.split("_")
        for name in self.strategies if text else ():
            if name not in known:
                raise unknown("augmentation strategy", name, known)

    def draw(self, count: int, size: tuple[int, int], rng: torch.Generator) -> Transform:
        """Draw one strategy for the call and its parameters for `count` images of `size` (h, w) pixels.

        The parameters lie on `rng.device`. The strategy is drawn by the host without waiting for a GPU.
        """
        strategy = self.strategies[int(torch.randint(len(self.strategies), (), generator=host_rng(rng)))]
        return Transform(strategy, STRATEGIES[strategy][0](count, size, rng))


def _uniform(numbers: int, count: int, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """`numbers` numbers in [0, 1) per image."""
    return torch.rand(count, numbers, generator=rng, device=rng.device)


def _whole(ranges: list[tuple[int, int]], count: int, rng: torch.Generator) -> Tensor:
    """A whole number of every range [low, high) per image."""
    drawn = [torch.randint(*each, (count,), generator=rng, device=rng.device) for each in ranges]
    return torch.stack(drawn, dim=1)


def _draw_shifts(count: int, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Whole pixels, down and right, by up to CROP_PADDING of the side."""
    reaches = [int(side * CROP_PADDING + 0.5) for side in size]
    return _whole([(-reach, reach + 1) for reach in reaches], count, rng)


def _draw_centers(count: int, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Center of the square; it may reach over the border."""
    return _whole([(0, side + 1 - _cutout_side(side) % 2) for side in size], count, rng)


def _cutout_side(side: int) -> int:
    return int(side * CUTOUT_SIDE + 0.5)


def _color(images: Tensor, draws: Tensor) -> Tensor:
    """Brightness, then saturation, then contrast; on one channel saturation changes nothing."""
    brightness, saturation, contrast = draws[:, :, None, None, None].unbind(1)  # (n, 1, 1, 1) each
    images = images + (brightness - 0.5) * BRIGHTNESS
    gray = images.mean(dim=1, keepdim=True)
    images = (images - gray) * (saturation * SATURATION) + gray
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + CONTRAST) + mean


def _crop(images: Tensor, shifts: Tensor) -> Tensor:
    # affine_grid counts in half sides: a pixel is 2 / side.
    down, right = (2 * shifts[:, axis] / side for axis, side in enumerate(images.shape[-2:]))
    one, zero = torch.ones_like(down), torch.zeros_like(down)
    return _affine(images, [one, zero, right, zero, one, down])


def _scale(images: Tensor, draws: Tensor) -> Tensor:
    """Height and width apart, by 1 / SCALE_RATIO to SCALE_RATIO."""
    vertical, horizontal = (1 / SCALE_RATIO + draws * (SCALE_RATIO - 1 / SCALE_RATIO)).unbind(1)
    zero = torch.zeros_like(vertical)
    return _affine(images, [horizontal, zero, zero, zero, vertical, zero])


def _rotate(images: Tensor, draws: Tensor) -> Tensor:
    angle = (2 * draws[:, 0] - 1) * ROTATION
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _affine(images, [cosine, -sine, zero, sine, cosine, zero])


def _affine(images: Tensor, rows: list[Tensor]) -> Tensor:
    """Sample at the 2 x 3 maps given as six (n,) tensors; bilinear, zero outside."""
    theta = torch.stack(rows, dim=1).unflatten(1, (2, 3))  # (n, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _flip(images: Tensor, draws: Tensor) -> Tensor:
    return torch.where(draws[:, :, None, None] < FLIP_PROBABILITY, images.flip(-1), images)


def _cutout(images: Tensor, centers: Tensor) -> Tensor:
    inside = []  # whether a row or a column meets the square, (n, side) each
    for axis, side in enumerate(images.shape[-2:]):
        first = centers[:, axis, None] - _cutout_side(side) // 2
        pixel = torch.arange(side, device=centers.device)
        inside.append((pixel >= first) & (pixel < first + _cutout_side(side)))
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]  # (n, 1, h, w)
    return images.masked_fill(square, 0)


def _unchanged(images: Tensor, draws: Tensor) -> Tensor:
    return images


Draw = Callable[[int, tuple[int, int], torch.Generator], Tensor]
STRATEGIES: dict[str, tuple[Draw, Callable[[Tensor, Tensor], Tensor]]] = {
    "color": (partial(_uniform, 3), _color),
    "crop": (_draw_shifts, _crop),
    "cutout": (_draw_centers, _cutout),
    "flip": (partial(_uniform, 1), _flip),
    "scale": (partial(_uniform, 2), _scale),
    "rotate": (partial(_uniform, 1), _rotate),
    "none": (partial(_uniform, 0), _unchanged),
}
