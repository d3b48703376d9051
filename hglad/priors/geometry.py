"""Settings of a StyleGAN-XL generator, and the sampling of each of its layers that follows from them.

A released model is a stem of low resolution, or a stem with super-resolution heads on top of each other:
before a head is put on, the critically sampled layers at the end are cut off (Sauer et al. 2022, 3.3).
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from hglad.errors import HgladError
from hglad.settings import from_dict


@dataclass(frozen=True)
class Head:
    """Super-resolution layers on top of a stem."""

    up_factor: int
    """Resolution behind the head over that before it."""
    layers: int
    """Synthesis layers before the one that makes the image."""


@dataclass(frozen=True)
class StyleGANXLSettings:
    """Constructor settings; the defaults of the constants are those of the released models."""

    z_dim: int = 64
    """Dimensions of the input noise."""
    c_dim: int = 10
    """Number of classes; 0: unconditional."""
    w_dim: int = 512
    """Dimensions of a style vector."""
    img_resolution: int = 32
    """Height and width of the stem's images in pixels; those of the generator are `resolution`."""
    img_channels: int = 3
    """Channels of the images."""
    channel_base: int = 32768
    """Channels are channel_base / 2 / cutoff frequency, at most channel_max."""
    channel_max: int = 512
    """Largest number of channels of a layer."""
    num_layers: int = 7
    """Synthesis layers of the stem before the one that makes its image."""
    heads: tuple[Head, ...] = ()
    """Super-resolution heads, from the stem upwards."""
    conv_kernel: int = 3
    """Kernel size of the convolutions in pixels."""
    use_radial_filters: bool = False
    """Radially symmetric down-sampling filters (StyleGAN3-R); StyleGAN-XL has none."""
    embedding: tuple[int, int] = (1000, 320)
    """Rows and dimensions of the class embedding."""
    num_critical: int = 2
    """Critically sampled layers at the end, besides the one that makes the image."""
    first_cutoff: float = 2.0
    """Cutoff frequency of the input features in cycles per image."""
    first_stopband: float = 2**2.1
    """Stopband frequency of the input features in cycles per image."""
    last_stopband_rel: float = 2**0.3
    """Stopband of the last layer relative to its cutoff."""
    margin_size: int = 10
    """Pixels around the image that the layers before the critical ones compute too."""
    filter_size: int = 6
    """Filter taps per pixel of the lower sampling rate."""
    lrelu_upsampling: int = 2
    """Oversampling during the non-linearity."""
    conv_clamp: float = 256.0
    """Features are clamped to +- this value after the non-linearity."""
    output_scale: float = 0.25
    """Factor from the last layer's output to the image in [-1, 1]."""
    num_fp16_res: int = 4
    """Layers of the highest resolutions, each half of the next, that bear 16-bit numbers."""

    def __post_init__(self):
        _check_settings(self)

    @property
    def resolution(self) -> int:
        """Height and width of the generator's images in pixels."""
        return self.img_resolution * math.prod(head.up_factor for head in self.heads)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Take the fields out of `values`; other keys of a card (`layer_names`, ...) are left to the caller.

        A generator with heads is written flat (`heads`) or, as the reference fixtures have it, nested: `kind`
        "superres" with the settings of its `stem`, `up_factor` and `head_layers`.

        Raises:
            HgladError: settings of a network that this class cannot be.
        """
        kind = values.get("kind", "stem")
        if kind not in ("stem", "superres", "stylegan_xl"):
            raise HgladError(f"generator kind '{kind}' is not supported: expected 'stem' or 'superres'")
        if kind == "superres":
            return cls._with_head(values)
        known = {field.name for field in fields(cls)}
        return from_dict(cls, {key: value for key, value in values.items() if key in known})

    @classmethod
    def _with_head(cls, values: dict[str, Any]) -> Self:
        for key in ("stem", "up_factor", "head_layers"):
            if key not in values:
                raise HgladError(
                    f"a super-resolution generator has no '{key}': expected stem, up_factor, head_layers"
                )
        stem = cls.from_dict({**values, "kind": "stem", "heads": (), **values["stem"]})
        return replace(stem, heads=(*stem.heads, Head(values["up_factor"], values["head_layers"])))


def _check_settings(s: StyleGANXLSettings) -> None:
    """Ranges within which layers can be laid out; a hostile file must not make this program allocate much."""
    if s.use_radial_filters:
        raise HgladError("use_radial_filters=True is StyleGAN3-R: expected a StyleGAN-XL network (False)")
    limits = {
        "z_dim": (1, 8192), "c_dim": (0, 100_000), "w_dim": (1, 8192), "img_resolution": (8, 1024),
        "img_channels": (1, 64), "channel_base": (1, 2**20), "channel_max": (1, 4096), "conv_kernel": (1, 7),
        "num_critical": (0, 8), "num_layers": (s.num_critical + 1, 64), "margin_size": (0, 64),
        "filter_size": (1, 32), "lrelu_upsampling": (1, 4), "num_fp16_res": (0, 16),
    }  # fmt: skip
    for key, (low, high) in limits.items():
        if not low <= getattr(s, key) <= high:
            raise HgladError(f"{key} of a generator is {getattr(s, key)!r}: expected {low} to {high}")
    for head in s.heads:
        if head.up_factor not in (2, 4, 8, 16):
            raise HgladError(f"up_factor of a head is {head.up_factor!r}: expected 2, 4, 8 or 16")
        if not s.num_critical < head.layers <= 64:
            raise HgladError(f"layers of a head is {head.layers!r}: expected {s.num_critical + 1} to 64")
    if s.resolution > 4096:
        raise HgladError(f"the generator makes images of {s.resolution} px: expected at most 4096")


@dataclass(frozen=True)
class LayerGeometry:
    """Sampling of one feature map: frequencies in cycles per image, sizes in pixels."""

    cutoff: float
    half_width: float
    sampling_rate: int
    size: int
    channels: int


@dataclass(frozen=True)
class LayerPlan:
    """One synthesis layer."""

    name: str
    """Official name: number, size and channels of its output; the number skips one before the first head."""
    source: LayerGeometry
    """What goes in."""
    target: LayerGeometry
    """What comes out."""
    to_image: bool
    """Whether it makes the image: a plain 1x1 convolution."""
    bears_16_bit: bool
    """Whether StyleGAN-XL computes it in 16 bits on a GPU."""


def plan_layers(settings: StyleGANXLSettings) -> list[LayerPlan]:
    """All synthesis layers, stem first."""
    geometries = _stem_geometries(settings)
    plans = _plans(settings, geometries, settings.img_resolution, first_number=0)
    resolution = settings.img_resolution
    for head in settings.heads:
        kept = plans[: -settings.num_critical - 1]  # cut off what is critically sampled, and the image
        resolution *= head.up_factor
        geometries = _head_geometries(settings, head, kept[-1].target, resolution)
        first_number = len(kept) + 1  # counts the input: the numbers skip one behind the stem, and only there
        plans = kept + _plans(settings, geometries, resolution, first_number)
    return plans


def _plans(
    settings: StyleGANXLSettings, geometries: list[LayerGeometry], resolution: int, first_number: int
) -> list[LayerPlan]:
    last = len(geometries) - 1
    return [
        LayerPlan(
            f"L{first_number + index}_{target.size}_{target.channels}",
            geometries[max(index - 1, 0)],
            target,
            to_image=index == last,
            bears_16_bit=target.sampling_rate * 2**settings.num_fp16_res > resolution,
        )
        for index, target in enumerate(geometries)
    ]


def _stem_geometries(s: StyleGANXLSettings) -> list[LayerGeometry]:
    return _progression(s, s.first_cutoff, s.first_stopband, s.img_resolution, s.num_layers)


def _head_geometries(
    s: StyleGANXLSettings, head: Head, before: LayerGeometry, resolution: int
) -> list[LayerGeometry]:
    """A head goes on from the frequencies of the layer `before`; its first layer keeps the sampling."""
    stopband = before.cutoff + before.half_width
    first, *rest = _progression(s, before.cutoff, stopband, resolution, head.layers)
    rate = before.sampling_rate
    half_width = max(stopband, rate / 2) - before.cutoff
    size = rate + 2 * s.margin_size
    return [LayerGeometry(first.cutoff, half_width, rate, size, before.channels), *rest]


def _progression(
    s: StyleGANXLSettings, first_cutoff: float, first_stopband: float, resolution: int, layers: int
) -> list[LayerGeometry]:
    """Geometric progression of frequencies behind `layers` + 1 layers (Karras et al. 2021, section 3.2)."""
    last_cutoff = resolution / 2
    geometries = []
    for index in range(layers + 1):
        exponent = min(index / (layers - s.num_critical), 1)
        cutoff = first_cutoff * (last_cutoff / first_cutoff) ** exponent
        stopband = first_stopband * (last_cutoff * s.last_stopband_rel / first_stopband) ** exponent
        rate = 2 ** math.ceil(math.log2(min(stopband * 2, resolution)))
        size = rate + 2 * s.margin_size if index < layers - 1 else resolution
        channels = round(min(s.channel_base / 2 / cutoff, s.channel_max))
        if index == layers:
            channels = s.img_channels
        geometries.append(LayerGeometry(cutoff, max(stopband, rate / 2) - cutoff, rate, size, channels))
    return geometries
