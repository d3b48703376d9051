"""StyleGAN-XL in plain PyTorch: class-conditional mapping, alias-free layers, super-resolution heads.

Sauer et al., SIGGRAPH 2022, on top of StyleGAN3 (Karras et al., NeurIPS 2021). Tensor names are those of the
official networks. Three rewritings make a layer cheap without changing its function: styles scale the input
and the demodulation scales the output of one shared convolution, resampling is two dense matrices, and what
happens between two resamplings is one operation (`hglad.priors.layers`).
"""

import math
from typing import Self

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hglad.errors import HgladError
from hglad.priors.base import PRECISIONS, Latents, LayeredGenerator, check_tensors
from hglad.priors.geometry import LayerGeometry, LayerPlan, StyleGANXLSettings, plan_layers
from hglad.priors.layers import downsampling_matrix, filtered_leaky_relu, lowpass, upsampling_matrix
from hglad.priors.registry import PRIORS
from hglad.registry import unknown

VERSION = 1  # raise when the same tensors give other images
ACTIVATION_GAIN = math.sqrt(2)  # keeps the variance behind a leaky ReLU


class Linear(nn.Module):
    """Fully connected layer with an equalised learning rate (Karras et al. 2018)."""

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

    def placement(self, w: Tensor) -> Tensor:
        """User transform behind the rotation and translation that w asks for, (n, 3, 3)."""
        t = self.affine(w)
        cos, sin, dx, dy = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        rotation = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1).view(-1, 3, 3)
        translation = torch.stack([one, zero, -dx, zero, one, -dy, zero, zero, one], dim=1).view(-1, 3, 3)
        return rotation @ translation @ self.transform

    def grid(self) -> Tensor:
        """Sample positions relative to the image, (size, size, 2), x before y."""
        size, rate = self.geometry.size, self.geometry.sampling_rate
        centres = (
            torch.arange(size, device=self.freqs.device, dtype=self.freqs.dtype) + 0.5 - size / 2
        ) / rate
        return torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1)

    def forward(self, w: Tensor) -> Tensor:
        """Features (n, channels, size, size) of styles (n, w_dim)."""
        placement = self.placement(w)
        phases = self.phases + (self.freqs @ placement[:, :2, 2:]).squeeze(2)  # (n, channels)
        freqs = self.freqs @ placement[:, :2, :2]  # (n, channels, 2)
        cutoff, rate = self.geometry.cutoff, self.geometry.sampling_rate
        amplitudes = (1 - (freqs.norm(dim=2) - cutoff) / (rate / 2 - cutoff)).clamp(0, 1)
        angle = torch.einsum("hwd,ncd->nhwc", self.grid(), freqs) + phases[:, None, None]
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
        channels = plan.source.channels
        self.affine = Linear(settings.w_dim, channels, bias=1.0)
        self.weight = nn.Parameter(torch.ones(plan.target.channels, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(plan.target.channels))
        self.register_buffer("magnitude_ema", torch.ones([]))
        if not plan.to_image:
            self._design_filters(settings, plan.source, plan.target)

    def _design_filters(
        self, settings: StyleGANXLSettings, source: LayerGeometry, target: LayerGeometry
    ) -> None:
        rate = max(source.sampling_rate, target.sampling_rate) * settings.lrelu_upsampling
        self.up, self.down = rate // source.sampling_rate, rate // target.sampling_rate
        self.conv_size, self.out_size = source.size + settings.conv_kernel - 1, target.size
        taps = [settings.filter_size * factor if factor > 1 else 1 for factor in (self.up, self.down)]
        for name, count, geometry in (("up_filter", taps[0], source), ("down_filter", taps[1], target)):
            self.register_buffer(name, lowpass(count, geometry.cutoff, geometry.half_width * 2, rate))
        self.build_matrices()

    def build_matrices(self) -> None:
        """Make the resampling matrices from the filters, again whenever a filter was loaded."""
        identity = torch.ones(1)
        up_filter = identity if self.up_filter is None else self.up_filter.to(identity.device)
        down_filter = identity if self.down_filter is None else self.down_filter.to(identity.device)
        large = (self.out_size - 1) * self.down + 1 - self.conv_size * self.up
        padding = large + len(up_filter) + len(down_filter) - 2
        low = (padding + self.up) // 2  # symmetric about the image (Karras et al. 2021, C.3)
        up = upsampling_matrix(up_filter, self.conv_size, self.up, (low, padding - low))
        self.register_buffer("up_matrix", up.to(self.weight), persistent=False)
        gain = math.sqrt(ACTIVATION_GAIN)  # once per axis
        down = downsampling_matrix(down_filter, len(up), self.down) * gain
        self.register_buffer("down_matrix", down.to(self.weight), persistent=False)
        # Without filters both matrices only crop, which a smaller padding of the convolution does too.
        self.padding, odd = divmod(self.out_size - self.conv_size, 2)
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
        if self.dtype == torch.float32:
            return tuple(x.to(self.weight.dtype) for x in tensors)
        return tuple(x.to(self.dtype) for x in tensors)


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
class StyleGANXL(LayeredGenerator):
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
        self.layers = ("input", *self.synthesis.layer_names[:-1], "pixels")
        self.layer_names = self.synthesis.layer_names
        self.num_ws, self.truncation = len(self.layers), 1.0

    @classmethod
    def random(cls, settings: StyleGANXLSettings, generator: torch.Generator) -> Self:
        """Untrained generator with the official initial distributions."""
        network = cls(settings)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=generator.device).cpu()

        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim > 1:  # built with the standard deviation in every element
                    parameter.mul_(normal(*parameter.shape))
            first = network.synthesis.input
            freqs = normal(*first.freqs.shape)
            radii = freqs.norm(dim=1, keepdim=True)
            first.freqs.copy_(freqs / (radii * radii.square().exp().pow(0.25)) * first.geometry.cutoff)
            first.phases.copy_(
                torch.rand(first.phases.shape, generator=generator, device=generator.device) - 0.5
            )
        return network.eval()

    @classmethod
    def untrained(cls, settings: StyleGANXLSettings, generator: torch.Generator) -> Self:
        """`random` with the running magnitudes and mean w of its own samples, frozen.

        Magnitudes of 1, as training starts from them, make the features small and take contrast from the
        images; training would bring them to what is measured here.
        """
        network = cls.random(settings, generator)
        network.measure_magnitudes(generator)
        network.measure_w_avg(generator)
        return network.requires_grad_(False)

    @classmethod
    def from_tensors(cls, settings: dict, tensors: dict[str, Tensor]) -> Self:
        """Build a frozen generator from its settings and its tensors under their official names.

        Raises:
            HgladError: missing, unexpected or misshapen tensors, or layer names that differ from the card's.
        """
        network = cls(StyleGANXLSettings.from_dict(settings))
        names = settings.get("layer_names", network.synthesis.layer_names)
        if list(names) != network.synthesis.layer_names:
            raise HgladError(f"settings give layers {network.synthesis.layer_names}: expected {list(names)}")
        check_tensors(network.state_dict(), tensors)
        network.load_state_dict(tensors)
        network.build_matrices()
        return network.eval().requires_grad_(False)

    def build_matrices(self) -> None:
        """Make every layer's resampling matrices from its filters."""
        for index in range(len(self.synthesis.layer_names) - 1):
            self.synthesis.layer(index).build_matrices()

    def set_precision(self, precision: str) -> Self:
        """Compute the layers that StyleGAN-XL marks in `bfloat16` or `float16`; `float32` undoes it.

        Raises:
            HgladError: another format.
        """
        if precision not in PRECISIONS:
            raise unknown("precision of a generator", precision, list(PRECISIONS))
        for name in self.synthesis.layer_names:
            layer = getattr(self.synthesis, name)
            layer.dtype = PRECISIONS[precision] if layer.plan.bears_16_bit else torch.float32
        return self

    def describe(self) -> pd.DataFrame:
        """One row per split point: name, shape of the features and their sampling.

        `rate` is in samples per image, `cutoff` in cycles per image, `scale` in pixels of the image per
        sample; a map is larger than its rate by the margins that the layers compute around the image.
        """
        plans = plan_layers(self.settings)
        maps = [plans[0].source, *(plan.target for plan in plans)]
        return pd.DataFrame(
            {
                "layer": self.layers,
                "channels": [each.channels for each in maps],
                "size": [each.size for each in maps],
                "rate": [each.sampling_rate for each in maps],
                "cutoff": [each.cutoff for each in maps],
                "scale": [self.settings.resolution / each.sampling_rate for each in maps],
                "16 bit": [False, *(plan.bears_16_bit for plan in plans)],
            }
        ).rename_axis("split point")

    def set_truncation(self, truncation: float) -> Self:
        """Pull every w towards the mean of its class: 1 leaves it as it is, 0 gives the mean.

        Raises:
            HgladError: a truncation outside 0 to 1.
        """
        if not 0 <= truncation <= 1:
            raise HgladError(f"truncation of a generator is {truncation}: expected 0 to 1")
        self.truncation = truncation
        return self

    def map(self, z: Tensor, labels: Tensor, truncation: float | None = None) -> Tensor:
        """Map noise (n, z_dim) and labels (n,) to styles (n, num_ws, w_dim).

        `truncation` is that of `set_truncation` where it is not given.
        """
        truncation, w = self.truncation if truncation is None else truncation, self.mapping(z, labels)
        if truncation != 1:
            w = self.mapping.mean(labels).lerp(w, truncation)
        return w[:, None].repeat(1, self.num_ws, 1)

    @torch.no_grad()
    def measure_w_avg(self, generator: torch.Generator, count: int = 1000) -> None:
        """Set the mean w (of each class) from `count` samples."""
        for row in self.mapping.w_avg.view(-1, self.settings.w_dim).split(1):
            z = torch.randn(count, self.settings.z_dim, generator=generator, device=generator.device)
            label = row.storage_offset() // self.settings.w_dim
            row.copy_(self.mapping(z, torch.full((count,), label, device=z.device)).mean(dim=0))

    @torch.no_grad()
    def measure_magnitudes(self, generator: torch.Generator, count: int = 32) -> None:
        """Set each layer's running mean square, one layer after the other, from `count` samples."""
        labels = torch.arange(count, device=generator.device) % max(self.settings.c_dim, 1)
        latents = self.start(self.sample(labels, generator).w)
        for index in range(len(self.layer_names)):
            self.synthesis.layer(index).magnitude_ema.copy_(latents.f.square().mean())
            latents = self.advance(latents, index, index + 1)

    def measure_statistics(self, generator: torch.Generator) -> None:
        """What training leaves to be measured: the mean w."""
        self.measure_w_avg(generator)

    def start(self, w: Tensor) -> Latents:
        """Latents at split point 0: styles (n, num_ws, w_dim) and the Fourier input's features."""
        return Latents(w, self.synthesis.input(w[:, 0]))

    def sample(self, labels: Tensor, generator: torch.Generator, average: int = 1) -> Latents:
        """Draw latents at split point 0 for labels (n,); w is the mean of `average` mapped noise vectors."""
        z = torch.randn(
            len(labels) * average, self.settings.z_dim, generator=generator, device=generator.device
        )
        with torch.no_grad():
            w = self.map(z.to(labels.device), labels.repeat_interleave(average))
            return Latents(w.unflatten(0, (len(labels), average)).mean(dim=1), None)

    def forward(self, w: Tensor, x: Tensor | None, src: int, dst: int) -> Tensor:
        """Features at split point `dst` from those at `src` (see `advance`)."""
        if x is None:
            x = self.synthesis.input(w[:, 0])
        for index in range(src, dst):
            x = self.synthesis.layer(index)(x, w[:, index + 1])
        if src < dst == len(self.layers) - 1:
            x = (x.to(w.dtype) * self.settings.output_scale + 1) / 2
        return x

    def weights(self, layer: int) -> dict[str, Tensor]:
        """Parameters of the synthesis layers behind split point `layer`, by name."""
        behind = tuple(f"synthesis.{name}." for name in self.synthesis.layer_names[layer:])
        return {name: x.detach() for name, x in self.named_parameters() if name.startswith(behind)}
