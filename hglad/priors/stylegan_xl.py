"""StyleGAN-XL in plain PyTorch: class-conditional mapping, alias-free layers, super-resolution heads.

Sauer et al., SIGGRAPH 2022, on top of StyleGAN3 (Karras et al., NeurIPS 2021). Tensor names are those of the
official networks. Three rewritings make a layer cheap without changing its function: styles scale the input
and the demodulation scales the output of one shared convolution, resampling is two dense matrices, and what
happens between two resamplings is one operation (`hglad.priors.layers`).

A released model is a stem of low resolution, or a stem with super-resolution heads on top of each other:
before a head is put on, the critically sampled layers at the end are cut off (Sauer et al. 2022, 3.3). It is
trained so, too: a frozen stem below a head, at whose resolution the discriminators look.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from hglad.errors import HgladError
from hglad.priors.base import PRECISIONS, PRIORS, Generator, GeneratorSettings
from hglad.priors.layers import downsampling_matrix, filtered_leaky_relu, lowpass, upsampling_matrix
from hglad.registry import unknown
from hglad.settings import Settings, Several

VERSION = 1  # raise when the same tensors give other images
ACTIVATION_GAIN = math.sqrt(2)  # keeps the variance behind a leaky ReLU


class Head(Settings):
    """Super-resolution layers on top of a stem."""

    up_factor: Literal[2, 4, 8, 16]
    """Resolution behind the head over that before it."""
    layers: int = Field(le=64)
    """Synthesis layers before the one that makes the image."""


class StyleGANXLSettings(GeneratorSettings):
    """Constructor settings; the defaults of the constants are those of the released models.

    The ranges keep a hostile file from making this program allocate much.
    """

    z_dim: int = Field(64, ge=1, le=8192)
    """Dimensions of the input noise."""
    c_dim: int = Field(10, ge=0, le=100_000)
    """Number of classes; 0: unconditional."""
    w_dim: int = Field(512, ge=1, le=8192)
    """Dimensions of a style vector."""
    img_resolution: int = Field(32, ge=8, le=1024)
    """Height and width of the stem's images in pixels; those of the generator are `resolution`."""
    img_channels: int = Field(3, ge=1, le=64)
    """Channels of the images."""
    channel_base: int = Field(32768, ge=1, le=2**20)
    """Channels are channel_base / 2 / cutoff frequency, at most channel_max."""
    channel_max: int = Field(512, ge=1, le=4096)
    """Largest number of channels of a layer."""
    num_layers: int = Field(7, le=64)
    """Synthesis layers of the stem before the one that makes its image."""
    heads: Several[Head] = ()
    """Super-resolution heads, from the stem upwards."""
    conv_kernel: int = Field(3, ge=1, le=7)
    """Kernel size of the convolutions in pixels."""
    use_radial_filters: Literal[False] = False
    """Radially symmetric down-sampling filters are StyleGAN3-R's; StyleGAN-XL has none."""
    embedding: Annotated[tuple[int, int], Field(strict=False)] = (1000, 320)
    """Rows and dimensions of the class embedding."""
    num_critical: int = Field(2, ge=0, le=8)
    """Critically sampled layers at the end, besides the one that makes the image."""
    first_cutoff: float = 2.0
    """Cutoff frequency of the input features in cycles per image."""
    first_stopband: float = 2**2.1
    """Stopband frequency of the input features in cycles per image."""
    last_stopband_rel: float = 2**0.3
    """Stopband of the last layer relative to its cutoff."""
    margin_size: int = Field(10, ge=0, le=64)
    """Pixels around the image that the layers before the critical ones compute too."""
    filter_size: int = Field(6, ge=1, le=32)
    """Filter taps per pixel of the lower sampling rate."""
    lrelu_upsampling: int = Field(2, ge=1, le=4)
    """Oversampling during the non-linearity."""
    conv_clamp: float = 256.0
    """Features are clamped to +- this value after the non-linearity."""
    output_scale: float = 0.25
    """Factor from the last layer's output to the image in [-1, 1]."""
    num_fp16_res: int = Field(4, ge=0, le=16)
    """Layers of the highest resolutions, each half of the next, that bear 16-bit numbers."""

    @model_validator(mode="after")
    def _can_be_laid_out(self) -> Self:
        parts = [("num_layers", self.num_layers), *(("heads", head.layers) for head in self.heads)]
        for key, layers in parts:
            if layers <= self.num_critical:
                least = self.num_critical + 1
                raise ValueError(f"{key} of a generator has {layers} layers: expected {least} to 64")
        if self.resolution > 4096:
            raise ValueError(f"the generator makes images of {self.resolution} px: expected at most 4096")
        return self

    @property
    def resolution(self) -> int:
        """Height and width of the generator's images in pixels."""
        return self.img_resolution * math.prod(head.up_factor for head in self.heads)

    def step_seconds(self, batch_size: int) -> float:
        """Estimate of a step of its training on one core, by those that were timed at 16, 32 and 64 px."""
        seconds = 0.6 + 2e-8 * batch_size * self.channel_base * self.resolution**2
        return seconds / 2 if self.lrelu_upsampling == 1 else seconds

    @classmethod
    def from_card(cls, values: dict[str, Any]) -> Self:
        """Take the fields out of a card.

        A generator with heads is written flat (`heads`) or, as the reference fixtures have it, nested: `kind`
        "superres" with the settings of its `stem`, `up_factor` and `head_layers`.

        Raises:
            HgladError: settings of a network that this class cannot be.
        """
        kind = values.get("kind", "stem")
        if kind not in ("stem", "superres", "stylegan_xl"):
            raise HgladError(f"generator kind '{kind}' is not supported: expected 'stem' or 'superres'")
        if kind != "superres":
            return super().from_card(values)
        head = Head(up_factor=values["up_factor"], layers=values["head_layers"])
        stem = cls.from_card({**values, "kind": "stem", "heads": (), **values["stem"]})
        return stem.changed(heads=(*stem.heads, head))

    def on_stem(self, stem: GeneratorSettings) -> Self:
        """As the base; only the heads of these settings may be given, all else follows from the stem."""
        if not self.heads:
            return super().on_stem(stem)
        if self.changed(heads=()) != StyleGANXLSettings():
            raise HgladError("training.generator has more than heads: expected no other key beside a stem")
        if not isinstance(stem, StyleGANXLSettings):
            raise HgladError("training.stem is of another kind: expected a stylegan_xl")
        return stem.changed(heads=(*stem.heads, *self.heads))


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
    """One synthesis layer.

    Attributes:
        name: official name: number, size and channels of its output.
        source: what goes in.
        target: what comes out.
        to_image: whether it makes the image: a plain 1x1 convolution.
        bears_16_bit: whether StyleGAN-XL computes it in 16 bits on a GPU.
    """

    name: str
    source: LayerGeometry
    target: LayerGeometry
    to_image: bool
    bears_16_bit: bool


def plan_layers(s: StyleGANXLSettings) -> list[LayerPlan]:
    """All synthesis layers, stem first."""
    resolution = s.img_resolution
    geometries = _progression(s, s.first_cutoff, s.first_stopband, resolution, s.num_layers)
    plans = _plans(s, geometries, resolution, first_number=0)
    for head in s.heads:
        kept = plans[: -s.num_critical - 1]  # cut off what is critically sampled, and the image
        resolution *= head.up_factor
        # The head goes on from the frequencies of the layer before it; its first layer keeps the sampling.
        before = kept[-1].target
        stopband, rate = before.cutoff + before.half_width, before.sampling_rate
        first, *rest = _progression(s, before.cutoff, stopband, resolution, head.layers)
        half_width = max(stopband, rate / 2) - before.cutoff
        first = LayerGeometry(first.cutoff, half_width, rate, rate + 2 * s.margin_size, before.channels)
        # The number counts the input: the numbers skip one behind the stem, and only there.
        plans = kept + _plans(s, [first, *rest], resolution, first_number=len(kept) + 1)
    return plans


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
        channels = s.img_channels if index == layers else channels
        geometries.append(LayerGeometry(cutoff, max(stopband, rate / 2) - cutoff, rate, size, channels))
    return geometries


def _plans(
    s: StyleGANXLSettings, geometries: list[LayerGeometry], resolution: int, first_number: int
) -> list[LayerPlan]:
    return [
        LayerPlan(
            f"L{first_number + index}_{target.size}_{target.channels}",
            geometries[max(index - 1, 0)],
            target,
            to_image=index == len(geometries) - 1,
            bears_16_bit=target.sampling_rate * 2**s.num_fp16_res > resolution,
        )
        for index, target in enumerate(geometries)
    ]


class Linear(nn.Module):
    """Fully connected layer with an equalized learning rate (Karras et al. 2018)."""

    def __init__(
        self, inputs: int, outputs: int, lr_multiplier: float = 1.0, bias: float = 0.0, zero: bool = False
    ):
        super().__init__()
        scale = 0.0 if zero else 1 / lr_multiplier
        self.weight = nn.Parameter(torch.full((outputs, inputs), scale))
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr_multiplier))
        self.weight_gain, self.bias_gain = lr_multiplier / math.sqrt(inputs), lr_multiplier

    def forward(self, x: Tensor) -> Tensor:  # (n, inputs) -> (n, outputs)
        return F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)


def leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU with slope 0.2 and the gain sqrt(2) that keeps the variance."""
    return F.leaky_relu(x, 0.2) * ACTIVATION_GAIN


def unit_rms(x: Tensor) -> Tensor:
    """Scale each row to a mean square of one."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class Mapping(nn.Module):
    """z and class to w; `w_avg` is the mean w of each class, towards which truncation pulls."""

    def __init__(self, settings: StyleGANXLSettings):
        super().__init__()
        z_dim, w_dim, self.conditional = settings.z_dim, settings.w_dim, settings.c_dim > 0
        if self.conditional:
            self.embed = nn.Embedding.from_pretrained(torch.ones(settings.embedding), freeze=False)
            self.embed_proj = Linear(settings.embedding[1], z_dim)
        self.fc0 = Linear((1 + self.conditional) * z_dim, w_dim, lr_multiplier=0.01)
        self.fc1 = Linear(w_dim, w_dim, lr_multiplier=0.01)
        shape = (settings.c_dim, w_dim) if self.conditional else (w_dim,)
        self.register_buffer("w_avg", torch.zeros(shape))

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:  # (n, z_dim), (n,) -> (n, w_dim)
        x = unit_rms(z)
        if self.conditional:
            x = torch.cat([x, unit_rms(leaky_relu(self.embed_proj(self.embed(labels))))], dim=1)
        return leaky_relu(self.fc1(leaky_relu(self.fc0(x))))

    def mean(self, labels: Tensor) -> Tensor:
        """Mean w of each label's class, (n, w_dim)."""
        return self.w_avg[labels] if self.conditional else self.w_avg.expand(len(labels), -1)


class SynthesisInput(nn.Module):
    """Fourier features that w rotates and shifts (Karras et al. 2021, appendix F)."""

    def __init__(self, settings: StyleGANXLSettings, geometry: LayerGeometry):
        super().__init__()
        self.geometry, channels = geometry, geometry.channels
        self.affine = Linear(settings.w_dim, 4, zero=True)
        self.affine.bias.data.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        self.weight = nn.Parameter(torch.ones(channels, channels))
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", torch.zeros(channels, 2))
        self.register_buffer("phases", torch.zeros(channels))

    def forward(self, w: Tensor) -> Tensor:
        """Features (n, channels, size, size) of styles (n, w_dim)."""
        t = self.affine(w)
        cos, sin, dx, dy = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        rotation = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1).view(-1, 3, 3)
        translation = torch.stack([one, zero, -dx, zero, one, -dy, zero, zero, one], dim=1).view(-1, 3, 3)
        placement = rotation @ translation @ self.transform  # (n, 3, 3), before it the user's transform
        phases = self.phases + (self.freqs @ placement[:, :2, 2:]).squeeze(2)  # (n, channels)
        freqs = self.freqs @ placement[:, :2, :2]  # (n, channels, 2)
        cutoff, rate, size = self.geometry.cutoff, self.geometry.sampling_rate, self.geometry.size
        amplitudes = (1 - (freqs.norm(dim=2) - cutoff) / (rate / 2 - cutoff)).clamp(0, 1)
        pixels = torch.arange(size, device=self.freqs.device, dtype=self.freqs.dtype)
        centers = (pixels + 0.5 - size / 2) / rate  # relative to the image
        grid = torch.stack(torch.meshgrid(centers, centers, indexing="xy"), dim=-1)  # (size, size, 2)
        angle = torch.einsum("hwd,ncd->nhwc", grid, freqs) + phases[:, None, None]
        waves = torch.sin(angle * 2 * math.pi) * amplitudes[:, None, None]
        return (waves @ self.weight.T / math.sqrt(len(self.weight))).permute(0, 3, 1, 2)


class SynthesisLayer(nn.Module):
    """Modulated convolution, then a leaky ReLU between up- and down-sampling (Karras et al. 2021, 3.2)."""

    def __init__(self, settings: StyleGANXLSettings, plan: LayerPlan):
        super().__init__()
        self.plan, self.to_image, self.clamp = plan, plan.to_image, settings.conv_clamp
        self.dtype = torch.float32
        """Number format of the convolution and what follows it; set by `StyleGANXL.set_precision`."""
        kernel = 1 if plan.to_image else settings.conv_kernel
        source, target = plan.source, plan.target
        self.affine = Linear(settings.w_dim, source.channels, bias=1.0)
        self.weight = nn.Parameter(torch.ones(target.channels, source.channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(target.channels))
        self.register_buffer("magnitude_ema", torch.ones([]))
        if plan.to_image:
            return
        rate = max(source.sampling_rate, target.sampling_rate) * settings.lrelu_upsampling
        self.up, self.down = rate // source.sampling_rate, rate // target.sampling_rate
        self.conv_size = source.size + kernel - 1
        taps = [settings.filter_size * factor if factor > 1 else 1 for factor in (self.up, self.down)]
        for name, count, geometry in (("up_filter", taps[0], source), ("down_filter", taps[1], target)):
            self.register_buffer(name, lowpass(count, geometry.cutoff, geometry.half_width * 2, rate))
        self.build_matrices()
        self.register_load_state_dict_post_hook(SynthesisLayer.build_matrices)

    def build_matrices(self, _: object = None) -> None:
        """Make the resampling matrices from the filters, again whenever a filter was loaded."""
        identity = torch.ones(1)
        filters = (self.up_filter, self.down_filter)
        up_filter, down_filter = (identity if x is None else x.to(identity.device) for x in filters)
        large = (self.plan.target.size - 1) * self.down + 1 - self.conv_size * self.up
        padding = large + len(up_filter) + len(down_filter) - 2
        low = (padding + self.up) // 2  # symmetric about the image (Karras et al. 2021, C.3)
        up = upsampling_matrix(up_filter, self.conv_size, self.up, (low, padding - low))
        self.register_buffer("up_matrix", up.to(self.weight), persistent=False)
        gain = math.sqrt(ACTIVATION_GAIN)  # once per axis
        down = downsampling_matrix(down_filter, len(up), self.down) * gain
        self.register_buffer("down_matrix", down.to(self.weight), persistent=False)
        # Without filters both matrices only crop, which a smaller padding of the convolution does too.
        self.padding, odd = divmod(self.plan.target.size - self.conv_size, 2)
        self.padding += self.weight.shape[-1] - 1
        self.filtered = bool(len(up_filter) > 1 or len(down_filter) > 1 or odd or self.padding < 0)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Features (n, out, h', w') of features (n, in, h, w) and styles (n, w_dim)."""
        if self.training:
            self.magnitude_ema.lerp_(x.detach().float().square().mean(), 1e-3)
        styles = self.affine(w)
        gain = self.magnitude_ema.rsqrt()
        if self.to_image:
            styles = styles / math.sqrt(self.weight[0].numel())
            x = F.conv2d(self._scaled(x, styles * gain), *self._cast(self.weight, self.bias))
            return x.clamp(-self.clamp, self.clamp)
        weight = self.weight * self.weight.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
        styles = styles * styles.square().mean(dim=1, keepdim=True).rsqrt()
        demodulation = (styles.square() @ weight.square().sum(dim=(2, 3)).T + 1e-8).rsqrt()  # (n, out)
        if self.dtype == torch.float16:  # its range ends at 65,504: keep the sums of the convolution near 1
            fan_in = math.sqrt(weight[0].numel())
            weight, demodulation = weight / fan_in, demodulation * fan_in
        padding = weight.shape[-1] - 1 if self.filtered else self.padding
        x = F.conv2d(self._scaled(x, styles * gain), *self._cast(weight), padding=padding)
        if not self.filtered:
            scale, bias = self._cast(demodulation, self.bias)
            x = leaky_relu(torch.addcmul(bias[:, None, None], x, scale[:, :, None, None]))
            return x.clamp(-self.clamp, self.clamp)
        rest = self._cast(demodulation, self.bias, self.up_matrix, self.down_matrix)
        return filtered_leaky_relu(x, *rest, self.clamp / ACTIVATION_GAIN)  # its gain is in down_matrix

    def _scaled(self, x: Tensor, scale: Tensor) -> Tensor:
        x, scale = self._cast(x, scale)
        return x * scale[:, :, None, None]

    def _cast(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Tensors in this layer's format; float64 networks stay as they are."""
        dtype = self.weight.dtype if self.dtype == torch.float32 else self.dtype
        return tuple(x.to(dtype) for x in tensors)


class Synthesis(nn.Module):
    """The Fourier input and the synthesis layers, under their official names."""

    def __init__(self, settings: StyleGANXLSettings):
        super().__init__()
        plans = plan_layers(settings)
        self.input = SynthesisInput(settings, plans[0].source)
        self.layer_names = [plan.name for plan in plans]
        for plan in plans:
            setattr(self, plan.name, SynthesisLayer(settings, plan))

    def layer(self, index: int) -> SynthesisLayer:
        """Synthesis layer at position `index`, which is not the number in its name behind a seam."""
        return getattr(self, self.layer_names[index])


@PRIORS.register("stylegan_xl")
class StyleGANXL(Generator):
    """StyleGAN-XL generator, cut behind any of its layers (a `Prior`).

    Split point 0 holds the Fourier input's features, split point n those after n synthesis layers, and the
    last one ("pixels") the images themselves in [0, 1]. An unconditional one (`c_dim` 0) ignores labels.
    """

    Settings = StyleGANXLSettings

    def __init__(self, settings: StyleGANXLSettings):
        super().__init__()
        self.settings = settings
        self.mapping = Mapping(settings)
        self.synthesis = Synthesis(settings)
        self.layer_names = self.synthesis.layer_names
        self.layers = ("input", *self.layer_names[:-1], "pixels")
        self.num_ws = len(self.layers)

    def initialize(self, rng: torch.Generator) -> None:
        """Draw the official initial distributions; layers are built with the deviation in every element."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=rng, device=rng.device).cpu()

        for parameter in self.parameters():
            if parameter.ndim > 1:
                parameter.mul_(normal(*parameter.shape))
        first = self.synthesis.input
        freqs = normal(*first.freqs.shape)
        radii = freqs.norm(dim=1, keepdim=True)
        first.freqs.copy_(freqs / (radii * radii.square().exp().pow(0.25)) * first.geometry.cutoff)
        first.phases.copy_(torch.rand(first.phases.shape, generator=rng, device=rng.device) - 0.5)

    def map(self, z: Tensor, labels: Tensor, truncation: float | None = None) -> Tensor:
        """Map noise (n, z_dim) and labels (n,) to styles (n, num_ws, w_dim).

        `truncation` pulls w towards the mean of its class; it is that of `set_truncation` if not given.
        """
        truncation, w = self.truncation if truncation is None else truncation, self.mapping(z, labels)
        if truncation != 1:
            w = self.mapping.mean(labels).lerp(w, truncation)
        return w[:, None].repeat(1, self.num_ws, 1)

    def first_map(self, w: Tensor) -> Tensor:
        """The Fourier input's features (n, channels, h, w) of styles (n, w_dim)."""
        return self.synthesis.input(w)

    def run_layer(self, index: int, x: Tensor, w: Tensor) -> Tensor:
        """Features behind synthesis layer `index`; images in [0, 1] behind the last."""
        x = self.synthesis.layer(index)(x, w[:, index + 1])
        if index == len(self.layer_names) - 1:
            x = (x.to(w.dtype) * self.settings.output_scale + 1) / 2
        return x

    def modules_of(self, index: int) -> tuple[str, ...]:
        """Name of synthesis layer `index`."""
        return (f"synthesis.{self.layer_names[index]}",)

    def set_precision(self, precision: str) -> Self:
        """Compute the layers that StyleGAN-XL marks in `bfloat16` or `float16`; `float32` undoes it.

        Raises:
            HgladError: another format.
        """
        if precision not in PRECISIONS:
            raise unknown("precision of a generator", precision, list(PRECISIONS))
        for index in range(len(self.layer_names)):
            layer = self.synthesis.layer(index)
            layer.dtype = PRECISIONS[precision] if layer.plan.bears_16_bit else torch.float32
        return self

    def split_points(self) -> list[dict[str, Any]]:
        """Shape of the features at every split point and their sampling.

        `rate` is in samples per image, `cutoff` in cycles per image; a map is larger than its rate by the
        margins that the layers compute around the image.
        """
        plans = plan_layers(self.settings)
        maps = [plans[0].source, *(plan.target for plan in plans)]
        resolution, in_16_bit = self.settings.resolution, [False, *(plan.bears_16_bit for plan in plans)]
        return [
            {
                "channels": each.channels, "size": each.size, "rate": each.sampling_rate,
                "cutoff": each.cutoff, "scale": resolution / each.sampling_rate, "16 bit": bears,
            }
            for each, bears in zip(maps, in_16_bit, strict=True)
        ]  # fmt: skip

    @torch.no_grad()
    def measure_statistics(self, rng: torch.Generator, trained: bool = True) -> None:
        """Set the mean w (of each class), and first each layer's running mean square where training has not.

        Magnitudes of 1, as training starts from them, make the features small and take contrast from the
        images; training would bring them to what is measured here, one layer after the other.
        """
        if not trained:
            labels = torch.arange(32, device=rng.device) % max(self.settings.c_dim, 1)
            latents = self.start(self.sample(labels, rng).w)
            for index in range(len(self.layer_names)):
                self.synthesis.layer(index).magnitude_ema.copy_(latents.f.square().mean())
                latents = self.advance(latents, index, index + 1)
        for label, row in enumerate(self.mapping.w_avg.view(-1, self.settings.w_dim)):
            z = self.noise(1000, rng)
            row.copy_(self.mapping(z, torch.full((len(z),), label, device=z.device)).mean(dim=0))

    def put_on(self, stem: Self) -> None:
        """Copy a stem's mapping, input and layers, and freeze them.

        Its layers at the end that the first new head replaces are left out.
        """
        layers = range(len(stem.layer_names) - stem.settings.num_critical - 1)
        above, below = (
            (each.mapping, each.synthesis.input, *map(each.synthesis.layer, layers)) for each in (self, stem)
        )
        for target, source in zip(above, below, strict=True):
            target.load_state_dict(source.state_dict())
            target.requires_grad_(False).eval()
