"""What every generative prior offers to the search, and what the families of generators share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call

from hglad.errors import HgladError
from hglad.registry import Registry
from hglad.settings import Settings

PRIORS = Registry("kind of prior", __package__, given=("settings",))
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Formats that a generator may compute its high-resolution layers in."""
WEIGHTS = "weights."  # prefix of the generator's own weights among the names of tensors


@dataclass(frozen=True)
class Latents:
    """Point in a prior's latent space, seen from one split point.

    Attributes:
        w: style vectors, one row per layer, (n, num_ws, w_dim); `None` for a prior without styles.
        f: features at the split point, (n, channels, height, width); `None` means that they still follow
            from `w` alone, so that only `w` is optimized (the latent stage).
        weights: the generator's own weights by name where they are optimized too, in place of those it holds.
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


class Prior(Protocol):
    """A generator cut into layers; split point n lies behind the first n of them.

    Attributes:
        layers: names of the split points, coarse to fine; the last one is "pixels", where f are images.
    """

    layers: tuple[str, ...]

    def sample(self, labels: Tensor, rng: torch.Generator, average: int = 1) -> Latents:
        """Draw latents for labels (n,); each is the mean of `average` mapped ones."""

    def advance(self, latents: Latents, src: int, dst: int) -> Latents:
        """Run the layers from split point `src` to `dst`."""

    def decode(self, latents: Latents, layer: int) -> Tensor:
        """Run the layers behind split point `layer`; images (n, ch, h, w) in [0, 1], not clamped."""

    def weights(self, layer: int) -> dict[str, Tensor]:
        """The generator's own weights behind split point `layer`, by name."""


class GeneratorSettings(Settings):
    """Settings of one family, which its cards hold.

    Every family has `z_dim` (dimensions of the noise), `c_dim` (classes), `img_resolution` and
    `img_channels`; the last three follow the data set in training.
    """

    @property
    def resolution(self) -> int:
        """Height and width of the images in pixels."""
        return self.img_resolution

    def step_seconds(self, batch_size: int) -> float:
        """Estimate of a step of its training on one core."""
        return 0.6

    @classmethod
    def from_card(cls, values: dict[str, Any]) -> Self:
        """Take the fields out of a card; other keys (`layer_names`, ...) are left to the caller."""
        return cls.read({key: value for key, value in values.items() if key in cls.model_fields})

    def on_stem(self, stem: Self) -> Self:
        """Settings of a generator that has these layers on top of those of `stem`."""
        raise HgladError(
            "training.generator has no heads: with a stem expected {heads: [{up_factor: 2, layers: 4}]} or so"
        )


class Generator(nn.Module):
    """A network cut behind its layers (a `Prior`), and what files, recipes and training need of it.

    A family registers its class, sets the attributes, and defines

    - `map(z, labels, truncation=None)`: noise (n, z_dim) and labels (n,) to w (n, num_ws, w_dim),
    - `first_map(w)`: features at split point 0 of styles (n, w_dim),
    - `run_layer(index, x, w)`: features behind a layer, images of the last; `modules_of(index)`: its modules,
    - `initialize(rng)`: initial weights in place,
    - `measure_statistics(rng, trained=True)`: what sampling needs and training leaves to be measured, or all,
    - `split_points()`: shape and sampling of the features at every split point, for `describe`,
    - `put_on(stem)`, where its settings have `on_stem`: copies a stem below its own layers, and freezes it.

    Attributes:
        Settings: class of the constructor's settings.
        settings: those of this generator.
        layers: names of the split points.
        layer_names: names of the layers between them; its card holds them.
        num_ws: rows of w: one for the first map, and one for each layer (that has one).
        truncation: that of its samples.
    """

    Settings: ClassVar[type[GeneratorSettings]]
    settings: GeneratorSettings
    layers: tuple[str, ...]
    layer_names: list[str]
    num_ws: int
    truncation = 1.0

    @classmethod
    def allocated(cls, settings: GeneratorSettings, device: torch.device | str = "cpu") -> Self:
        """A generator whose weights are still to be set."""
        return cls(settings)

    @staticmethod
    def plain_tensors(tensors: dict[str, Tensor], settings: GeneratorSettings) -> dict[str, Tensor]:
        """Tensors under the names and in the shape of this class, of those of a file."""
        return tensors

    def noise(self, count: int, rng: torch.Generator) -> Tensor:
        """Noise (count, z_dim) of samples."""
        return torch.randn(count, self.settings.z_dim, generator=rng, device=rng.device)

    def set_precision(self, precision: str) -> Self:
        """Compute in `float32`, or in a smaller format where the family can, or raise `HgladError`."""
        if precision != "float32":
            raise HgladError(f"precision of a {kind_of(self.settings)} is {precision!r}: expected 'float32'")
        return self

    def set_truncation(self, truncation: float) -> Self:
        """Draw samples at this truncation from now on: 1 is none, 0 the mean of a class.

        Raises:
            HgladError: a truncation outside 0 to 1.
        """
        if not 0 <= truncation <= 1:
            raise HgladError(f"truncation of a generator is {truncation}: expected 0 to 1")
        self.truncation = truncation
        return self

    @classmethod
    def random(cls, settings: GeneratorSettings, rng: torch.Generator) -> Self:
        """Generator with initial weights."""
        network = cls.allocated(settings, rng.device)
        with torch.no_grad():
            network.initialize(rng)
        return network.eval()

    @classmethod
    def untrained(cls, settings: GeneratorSettings, rng: torch.Generator) -> Self:
        """Frozen generator with initial weights and every statistic measured from its own samples."""
        network = cls.random(settings, rng)
        network.measure_statistics(rng, trained=False)
        return network.requires_grad_(False)

    @classmethod
    def from_tensors(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """Frozen generator from the settings of a card and tensors under their official names.

        Raises:
            HgladError: missing, unexpected or misshapen tensors, or layer names that differ from the card's.
        """
        network = cls.allocated(cls.Settings.from_card(settings))
        names = list(settings.get("layer_names", network.layer_names))
        if names != network.layer_names:
            raise HgladError(f"settings give layers {network.layer_names}: expected {names}")
        tensors = cls.plain_tensors(tensors, network.settings)
        check_tensors(network.state_dict(), tensors)
        network.load_state_dict(tensors)
        return network.eval().requires_grad_(False)

    def describe(self) -> pd.DataFrame:
        """One row per split point: name and shape of the features; `scale` is in image pixels per sample."""
        table = pd.DataFrame(self.split_points()).rename_axis("split point")
        table.insert(0, "layer", self.layers)
        return table

    def start(self, w: Tensor) -> Latents:
        """Latents at split point 0 of styles (n, num_ws, w_dim)."""
        return Latents(w, self.first_map(w[:, 0]))

    def sample(self, labels: Tensor, rng: torch.Generator, average: int = 1) -> Latents:
        """Draw latents at split point 0 for labels (n,); w is the mean of `average` mapped noise vectors."""
        z = self.noise(len(labels) * average, rng).to(next(self.parameters()).device)
        with torch.no_grad():
            w = self.map(z, labels.repeat_interleave(average))
            return Latents(w.unflatten(0, (len(labels), average)).mean(dim=1), None)

    def forward(self, w: Tensor, x: Tensor | None, src: int, dst: int) -> Tensor:
        """Features at split point `dst` from those at `src`; where these are missing they start from w."""
        if x is None:
            x = self.first_map(w[:, 0])
        for index in range(src, dst):
            x = self.run_layer(index, x, w)
        return x

    def advance(self, latents: Latents, src: int, dst: int) -> Latents:
        """Run the layers from split point `src` to `dst`; features that are missing start from w.

        Features are in the format of w, also between layers that compute in 16 bits: they are optimized.

        Raises:
            HgladError: split points that are out of order or out of range.
        """
        last = len(self.layers) - 1
        if not 0 <= src <= dst <= last:
            expected = f"0 <= src <= dst <= {last}"
            raise HgladError(f"cannot advance from split point {src} to {dst}: expected {expected}")
        f = functional_call(self, latents.weights, (latents.w, latents.f, src, dst))
        return Latents(latents.w, f if latents.w is None else f.to(latents.w.dtype), latents.weights)

    def decode(self, latents: Latents, layer: int) -> Tensor:
        """Images (n, channels, height, width) in [0, 1], not clamped, from latents at split point `layer`."""
        return self.advance(latents, layer, len(self.layers) - 1).f

    def weights(self, layer: int) -> dict[str, Tensor]:
        """Parameters of the layers behind split point `layer`, by name."""
        layers = range(layer, len(self.layer_names))
        behind = tuple(f"{module}." for index in layers for module in self.modules_of(index))
        return {name: x.detach() for name, x in self.named_parameters() if name.startswith(behind)}


def kind_of(settings: GeneratorSettings) -> str:
    """Name of the family that has these settings."""
    return next(kind for kind, family in PRIORS.factories.items() if isinstance(settings, family.Settings))


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
