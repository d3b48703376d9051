"""StyleGAN-XL stem generator in plain PyTorch: class-conditional mapping, alias-free synthesis layers.

Sauer et al., SIGGRAPH 2022, on top of StyleGAN3 (Karras et al., NeurIPS 2021). Tensor names are those of the
official networks. Two rewritings make a layer cheap without changing its function: styles scale the input and
the demodulation scales the output of one shared convolution, and resampling is two dense matrices.
"""

import math
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hglad.errors import HgladError
from hglad.priors.base import Latents
from hglad.priors.resample import downsampling_matrix, lowpass, resample_transposed, upsampling_matrix

VERSION = 1  # raise when the same tensors give other images
ACTIVATION_GAIN = math.sqrt(2)  # keeps the variance behind a leaky ReLU


@dataclass(frozen=True)
class StyleGANXLSettings:
    """Constructor settings; the defaults of the constants are those of the released models."""

    z_dim: int = 64
    """Dimensions of the input noise."""
    c_dim: int = 10
    """Number of classes."""
    w_dim: int = 512
    """Dimensions of a style vector."""
    img_resolution: int = 32
    """Height and width of the images in pixels."""
    img_channels: int = 3
    """Channels of the images."""
    channel_base: int = 32768
    """Channels are channel_base / 2 / cutoff frequency, at most channel_max."""
    channel_max: int = 512
    """Largest number of channels of a layer."""
    num_layers: int = 7
    """Synthesis layers before the one that makes the image."""
    conv_kernel: int = 3
    """Kernel size of the convolutions in pixels."""
    use_radial_filters: bool = False
    """Radially symmetric down-sampling filters (StyleGAN3-R); StyleGAN-XL has none."""
    embedding: tuple[int, int] = (1000, 320)
    """Rows and dimensions of the class embedding."""
    num_critical: int = 2
    """Critically sampled layers at the end."""
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

    @classmethod
    def from_dict(cls, values: dict) -> Self:
        """Take the fields out of `values`; other keys of a card (`layer_names`, ...) are left to the caller.

        Raises:
            HgladError: settings of a network that this class cannot be.
        """
        kind = values.get("kind", "stem")
        if kind != "stem":
            raise HgladError(f"generator kind '{kind}' is not supported: expected 'stem'")
        if values.get("use_radial_filters"):
            raise HgladError("use_radial_filters=True is StyleGAN3-R: expected a StyleGAN-XL network (False)")
        known = {field.name for field in fields(cls)}
        values = {key: value for key, value in values.items() if key in known}
        return cls(**values | {"embedding": tuple(values.get("embedding", cls.embedding))})


@dataclass(frozen=True)
class LayerGeometry:
    """Sampling of one feature map: frequencies in cycles per image, sizes in pixels."""

    cutoff: float
    half_width: float
    sampling_rate: int
    size: int
    channels: int


def layer_geometries(settings: StyleGANXLSettings) -> list[LayerGeometry]:
    """Geometry behind each of the num_layers + 1 layers (Karras et al. 2021, section 3.2)."""
    s = settings
    last_cutoff = s.img_resolution / 2
    geometries = []
    for index in range(s.num_layers + 1):
        exponent = min(index / (s.num_layers - s.num_critical), 1)
        cutoff = s.first_cutoff * (last_cutoff / s.first_cutoff) ** exponent
        stopband = s.first_stopband * (last_cutoff * s.last_stopband_rel / s.first_stopband) ** exponent
        rate = 2 ** math.ceil(math.log2(min(stopband * 2, s.img_resolution)))
        padded = index < s.num_layers + 1 - s.num_critical
        size = rate + 2 * s.margin_size if padded else s.img_resolution
        channels = round(min(s.channel_base / 2 / cutoff, s.channel_max))
        if index == s.num_layers:
            channels = s.img_channels
        geometries.append(LayerGeometry(cutoff, max(stopband, rate / 2) - cutoff, rate, size, channels))
    return geometries


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
        z_dim, w_dim = settings.z_dim, settings.w_dim
        self.embed = nn.Embedding.from_pretrained(torch.ones(settings.embedding), freeze=False)
        self.embed_proj = Linear(settings.embedding[1], z_dim)
        self.fc0 = Linear(2 * z_dim, w_dim, lr_multiplier=0.01)
        self.fc1 = Linear(w_dim, w_dim, lr_multiplier=0.01)
        self.register_buffer("w_avg", torch.zeros(settings.c_dim, w_dim))

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:  # (n, z_dim), (n,) -> (n, w_dim)
        condition = unit_rms(leaky_relu(self.embed_proj(self.embed(labels))))
        x = torch.cat([unit_rms(z), condition], dim=1)
        return leaky_relu(self.fc1(leaky_relu(self.fc0(x))))


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

    def __init__(
        self, settings: StyleGANXLSettings, source: LayerGeometry, target: LayerGeometry, to_image: bool
    ):
        super().__init__()
        self.to_image, self.clamp = to_image, settings.conv_clamp
        kernel = 1 if to_image else settings.conv_kernel
        self.affine = Linear(settings.w_dim, source.channels, bias=1.0)
        self.weight = nn.Parameter(torch.ones(target.channels, source.channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(target.channels))
        self.register_buffer("magnitude_ema", torch.ones([]))
        if not to_image:
            self._design_filters(settings, source, target)

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
        up_filter = identity if self.up_filter is None else self.up_filter.cpu()
        down_filter = identity if self.down_filter is None else self.down_filter.cpu()
        total = (
            (self.out_size - 1) * self.down
            + 1
            - self.conv_size * self.up
            + len(up_filter)
            + len(down_filter)
            - 2
        )
        low = (total + self.up) // 2
        up = upsampling_matrix(up_filter, self.conv_size, self.up, (low, total - low))
        self.register_buffer("up_matrix", up.to(self.weight.device), persistent=False)
        gain = math.sqrt(ACTIVATION_GAIN)  # once per axis
        down = downsampling_matrix(down_filter, len(up), self.down) * gain
        self.register_buffer("down_matrix", down.to(self.weight.device), persistent=False)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Features (n, out, h', w') of features (n, in, h, w) and styles (n, w_dim)."""
        if self.training:
            self.magnitude_ema.lerp_(x.detach().square().mean(), 1e-3)
        styles = self.affine(w)
        gain = self.magnitude_ema.rsqrt()
        if self.to_image:
            styles = styles / math.sqrt(self.weight[0].numel())
            x = F.conv2d(x * (styles * gain)[:, :, None, None], self.weight, self.bias)
            return x.clamp(-self.clamp, self.clamp)
        weight = self.weight * self.weight.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
        styles = styles * styles.square().mean(dim=1, keepdim=True).rsqrt()
        demodulation = (styles.square() @ weight.square().sum(dim=(2, 3)).T + 1e-8).rsqrt()  # (n, out)
        x = F.conv2d(x * (styles * gain)[:, :, None, None], weight, padding=weight.shape[-1] - 1)
        x = torch.addcmul(self.bias[:, None, None], x, demodulation[:, :, None, None])
        x = F.leaky_relu(resample_transposed(x, self.up_matrix), 0.2)  # its gain is in down_matrix
        limit = self.clamp / ACTIVATION_GAIN
        return resample_transposed(F.hardtanh(x, -limit, limit), self.down_matrix)  # clamp, cheaper backward


class Synthesis(nn.Module):
    """The Fourier input and num_layers + 1 synthesis layers, under their official names."""

    def __init__(self, settings: StyleGANXLSettings):
        super().__init__()
        geometries = layer_geometries(settings)
        self.input = SynthesisInput(settings, geometries[0])
        self.layer_names = []
        for index, target in enumerate(geometries):
            source = geometries[max(index - 1, 0)]
            name = f"L{index}_{target.size}_{target.channels}"
            setattr(
                self, name, SynthesisLayer(settings, source, target, to_image=index == settings.num_layers)
            )
            self.layer_names.append(name)

    def layer(self, index: int) -> SynthesisLayer:
        """Synthesis layer number `index`."""
        return getattr(self, self.layer_names[index])


class StyleGANXL(nn.Module):
    """Class-conditional StyleGAN-XL stem, cut behind any of its layers (a `Prior`).

    Split point 0 holds the Fourier input's features, split point n those after n synthesis layers, and the
    last one ("pixels") the images themselves in [0, 1].
    """

    def __init__(self, settings: StyleGANXLSettings):
        super().__init__()
        self.settings = settings
        self.mapping = Mapping(settings)
        self.synthesis = Synthesis(settings)
        self.layers = ("input", *self.synthesis.layer_names[:-1], "pixels")
        self.num_ws = len(self.layers)

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
    def from_tensors(cls, settings: dict, tensors: dict[str, Tensor]) -> Self:
        """Build a frozen generator from its settings and its tensors under their official names.

        Raises:
            HgladError: missing, unexpected or misshapen tensors, or layer names that differ from the card's.
        """
        network = cls(StyleGANXLSettings.from_dict(settings))
        names = settings.get("layer_names", network.synthesis.layer_names)
        if list(names) != network.synthesis.layer_names:
            raise HgladError(f"settings give layers {network.synthesis.layer_names}: expected {list(names)}")
        _check_tensors(network.state_dict(), tensors)
        network.load_state_dict(tensors)
        network.build_matrices()
        return network.eval().requires_grad_(False)

    def build_matrices(self) -> None:
        """Make every layer's resampling matrices from its filters."""
        for index in range(len(self.synthesis.layer_names) - 1):
            self.synthesis.layer(index).build_matrices()

    def map(self, z: Tensor, labels: Tensor, truncation: float = 1.0) -> Tensor:
        """Map noise (n, z_dim) and labels (n,) to styles (n, num_ws, w_dim).

        `truncation` 1 leaves w as it is, 0 gives the mean w of the class.
        """
        w = self.mapping(z, labels)
        if truncation != 1:
            w = self.mapping.w_avg[labels].lerp(w, truncation)
        return w[:, None].repeat(1, self.num_ws, 1)

    @torch.no_grad()
    def measure_w_avg(self, generator: torch.Generator, count: int = 1000) -> None:
        """Set the mean w of each class from `count` samples."""
        for label in range(self.settings.c_dim):
            z = torch.randn(count, self.settings.z_dim, generator=generator, device=generator.device)
            labels = torch.full((count,), label, device=z.device)
            self.mapping.w_avg[label] = self.mapping(z, labels).mean(dim=0)

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

    def advance(self, latents: Latents, src: int, dst: int) -> Latents:
        """Run the synthesis layers from split point `src` to `dst`; features that are missing start from w.

        Raises:
            HgladError: split points that are out of order or out of range.
        """
        last = len(self.layers) - 1
        if not 0 <= src <= dst <= last:
            raise HgladError(
                f"cannot advance from split point {src} to {dst}: expected 0 <= src <= dst <= {last}"
            )
        w, x = latents.w, latents.f
        if x is None:
            x = self.synthesis.input(w[:, 0])
        for index in range(src, dst):
            x = self.synthesis.layer(index)(x, w[:, index + 1])
        if dst == last and src < last:
            x = (x * self.settings.output_scale + 1) / 2
        return Latents(w, x)

    def decode(self, latents: Latents, layer: int) -> Tensor:
        """Images (n, channels, height, width) in [0, 1], not clamped, from latents at split point `layer`."""
        return self.advance(latents, layer, len(self.layers) - 1).f


def _check_tensors(expected: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    for name in sorted(expected.keys() | given.keys()):
        if name not in given:
            raise HgladError(f"tensor '{name}' is missing: expected shape {list(expected[name].shape)}")
        if name not in expected:
            raise HgladError(f"tensor '{name}' is not part of this generator: check the settings")
        if expected[name].shape != given[name].shape:
            raise HgladError(
                f"tensor '{name}' has shape {list(given[name].shape)}: expected {list(expected[name].shape)}"
            )
