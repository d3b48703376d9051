"""Families of generators by name, and what each of them offers beside `Prior`."""

import dataclasses
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from hglad.errors import HgladError
from hglad.priors.base import Latents, Prior
from hglad.registry import Registry, unknown
from hglad.settings import from_dict

PRIORS = Registry("kind of prior", __package__, given=("settings",))


class GeneratorSettings(Protocol):
    """Fields that the settings of every family have; the last three follow the data set in training."""

    z_dim: int
    """Dimensions of the input noise."""
    c_dim: int
    """Number of classes."""
    img_resolution: int
    """Height and width of the images in pixels."""
    img_channels: int
    """Channels of the images."""


class Generator(Prior, Protocol):
    """A family of generators: what files, recipes and the adversarial training need, on top of `nn.Module`.

    Attributes:
        Settings: frozen dataclass of the constructor's settings.
        settings: the settings of this generator.
        layer_names: names of the layers between the split points; its card holds them.
    """

    Settings: ClassVar[type[GeneratorSettings]]
    settings: GeneratorSettings
    layer_names: list[str]

    @classmethod
    def random(cls, settings: GeneratorSettings, generator: torch.Generator) -> Self:
        """Generator with initial weights, which training starts from."""

    @classmethod
    def untrained(cls, settings: GeneratorSettings, generator: torch.Generator) -> Self:
        """Frozen generator with initial weights and every statistic measured from its own samples."""

    @classmethod
    def from_tensors(cls, settings: dict, tensors: dict[str, Tensor]) -> Self:
        """Frozen generator from the settings of its card and its tensors."""

    def map(self, z: Tensor, labels: Tensor) -> Tensor:
        """Noise (n, z_dim) and labels (n,) to w (n, num_ws, w_dim)."""

    def start(self, w: Tensor) -> Latents:
        """Latents at split point 0."""

    def set_precision(self, precision: str) -> Self:
        """Compute in `float32`, or in a smaller format where the family can; else raise `HgladError`."""

    def set_truncation(self, truncation: float) -> Self:
        """Draw samples at this truncation from now on."""

    def measure_statistics(self, generator: torch.Generator) -> None:
        """Set, from samples, what sampling needs and training leaves to be measured."""


def family(kind: str) -> type[Generator]:
    """The generator class of a kind; an unknown name raises `HgladError`."""
    if kind not in PRIORS.factories:
        raise unknown(PRIORS.kind, kind, PRIORS.names())
    return PRIORS.factories[kind]


def kind_of(settings: GeneratorSettings) -> str:
    """Name of the family that has these settings."""
    return next(
        kind for kind, generator in PRIORS.factories.items() if isinstance(settings, generator.Settings)
    )


def generator_settings(values: Any, where: str = "") -> GeneratorSettings:
    """Settings of a generator from plain values, `kind` among them; settings are returned as they are.

    Raises:
        HgladError: unknown kind or key, or a value of another type; `where` precedes the key in the message.
    """
    if dataclasses.is_dataclass(values):
        return values
    if not isinstance(values, dict):
        raise HgladError(f"{where.rstrip('.')} is {values!r}: expected a mapping of keys to values")
    own = {key: value for key, value in values.items() if key != "kind"}
    return from_dict(family(values.get("kind", "stylegan_xl")).Settings, own, where)
