"""BigGAN-deep in plain PyTorch: residual bottleneck blocks, each conditioned on the noise and the class.

Brock et al., ICLR 2019, appendix B. Tensor names are those of the public PyTorch port of the released models
(biggan-deep-128, -256 and -512), with its spectral norms folded into plain weights. The statistics and the
condition of a batch norm make one gain and one bias, so that it costs one operation on the map.
"""

import math
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any, Self

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hglad.errors import HgladError
from hglad.priors.base import Latents, LayeredGenerator, check_tensors
from hglad.priors.registry import PRIORS
from hglad.settings import from_dict

VERSION = 1  # raise when the same tensors give other images
FIRST_SIZE = 4  # pixels; height and width of the map behind the first linear layer
REDUCTION = 4  # channels of a block over those of its bottleneck


@dataclass(frozen=True)
class BigGANSettings:
    """Constructor settings; the defaults are those of biggan-deep-128."""

    z_dim: int = 128
    """Dimensions of the input noise, and of the class embedding beside it."""
    c_dim: int = 1000
    """Number of classes."""
    img_resolution: int = 128
    """Height and width of the images in pixels: 4, doubled by each block that upsamples."""
    img_channels: int = 3
    """Channels of the images."""
    channel_width: int = 128
    """Unit of the channels in `layers`."""
    layers: tuple[tuple[bool, int, int], ...] = (
        (False, 16, 16), (True, 16, 16), (False, 16, 16), (True, 16, 8), (False, 8, 8),
        (True, 8, 4), (False, 4, 4), (True, 4, 2), (False, 2, 2), (True, 2, 1),
    )  # fmt: skip
    """Blocks: whether it doubles the resolution, its input and its output channels in `channel_width`."""
    attention_layer_position: int | None = 8
    """Block that self-attention precedes, counted from 0; none is without."""
    n_stats: int = 51
    """Truncations from 0 to 1, evenly spaced, whose batch norm statistics are kept; 1: truncation 1 only."""
    eps: float = 1e-4
    """Added to the variance of a batch norm."""

    def __post_init__(self):
        _check_ranges(self)
        _check_layers(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Take the fields out of a card, or of a public configuration (`output_dim`, `num_classes`).

        Raises:
            HgladError: settings of a network that this class cannot be.
        """
        public = {"output_dim": "img_resolution", "num_classes": "c_dim"}
        values = {public.get(key, key): value for key, value in values.items()}
        known = {field.name for field in fields(cls)}
        settings = from_dict(cls, {key: value for key, value in values.items() if key in known})
        embedding = values.get("class_embed_dim", settings.z_dim)
        if embedding != settings.z_dim:
            raise HgladError(f"class_embed_dim is {embedding!r}: expected {settings.z_dim}, as z_dim")
        return settings

    @property
    def w_dim(self) -> int:
        """Dimensions of a condition: the noise and the class embedding."""
        return 2 * self.z_dim

    def channels(self, block: int) -> int:
        """Channels in front of a block, or behind the last one."""
        units = self.layers[block][1] if block < len(self.layers) else self.layers[-1][2]
        return units * self.channel_width

    def size(self, block: int) -> int:
        """Height and width of the map in front of a block, or behind the last one, in pixels."""
        return FIRST_SIZE * 2 ** sum(up for up, _, _ in self.layers[:block])


def _check_ranges(s: BigGANSettings) -> None:
    """A hostile file must not make this program allocate much."""
    limits = {
        "z_dim": (1, 8192), "c_dim": (1, 100_000), "img_channels": (1, s.channel_width), "eps": (0, 1),
        "channel_width": (REDUCTION, 4096), "n_stats": (1, 1001),
    }  # fmt: skip
    for key, (low, high) in limits.items():
        if not low <= getattr(s, key) <= high:
            raise HgladError(f"{key} of a generator is {getattr(s, key)!r}: expected {low} to {high}")


def _check_layers(s: BigGANSettings) -> None:
    if not 1 <= len(s.layers) <= 64:
        raise HgladError(f"layers of a generator lists {len(s.layers)} blocks: expected 1 to 64")
    for index, (_, inputs, outputs) in enumerate(s.layers):
        expected = s.layers[index - 1][2] if index else inputs
        if inputs != expected or not 1 <= outputs <= inputs <= 64:
            raise HgladError(
                f"layers[{index}] of a generator goes from {inputs} to {outputs} channel_width: expected the "
                "output of the layer before as input, at most 64, and an output of 1 up to the input"
            )
    if s.attention_layer_position not in (None, *range(len(s.layers))):
        raise HgladError(
            f"attention_layer_position of a generator is {s.attention_layer_position}: expected null or 0 to "
            f"{len(s.layers) - 1}"
        )
    size = s.size(len(s.layers))
    if s.img_resolution != size or size > 4096:
        raise HgladError(
            f"img_resolution of a generator is {s.img_resolution}: expected {size}, what its layers make of "
            f"{FIRST_SIZE} px, and at most 4096"
        )


class Norm(nn.Module):
    """Batch norm with statistics for several truncations; in training it uses those of the batch."""

    def __init__(self, settings: BigGANSettings, channels: int):
        super().__init__()
        self.truncation, self.eps = 1.0, settings.eps
        self.register_buffer("running_means", torch.zeros(settings.n_stats, channels))
        self.register_buffer("running_vars", torch.ones(settings.n_stats, channels))

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel at the truncation, linear between the two nearest ones.

        The public port gives the nearer one the smaller weight, which is not followed here: a truncation just
        above one that was measured would get the statistics of the next.
        """
        position = self.truncation * (len(self.running_means) - 1)
        below, above = math.floor(position), math.ceil(position)
        both = (self.running_means, self.running_vars)
        return tuple(rows[below].lerp(rows[above], position - below) for rows in both)

    def normalise(self, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        """Maps (n, channels, h, w) with gain and bias (n or 1, channels)."""
        if self.training:
            x = F.batch_norm(x, None, None, training=True, eps=self.eps)
        else:
            mean, variance = self.statistics()
            gain = gain * (variance + self.eps).rsqrt()
            bias = bias - mean * gain
        return torch.addcmul(bias[:, :, None, None], x, gain[:, :, None, None])


class PlainNorm(Norm):
    """The norm behind the last block, with a trained gain and bias."""

    def __init__(self, settings: BigGANSettings, channels: int):
        super().__init__(settings, channels)
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.normalise(x, self.weight[None], self.bias[None])


class ConditionalNorm(Norm):
    """The norms of the blocks: gain and bias are linear in the condition (n, w_dim)."""

    def __init__(self, settings: BigGANSettings, channels: int):
        super().__init__(settings, channels)
        self.scale = nn.Linear(settings.w_dim, channels, bias=False)
        self.offset = nn.Linear(settings.w_dim, channels, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.normalise(x, 1 + self.scale(condition), self.offset(condition))


class SelfAttention(nn.Module):
    """Every pixel looks at a map of half the resolution (Zhang et al., ICML 2019, as in BigGAN)."""

    def __init__(self, channels: int):
        super().__init__()
        for name, outputs in (("theta", channels // 8), ("phi", channels // 8), ("g", channels // 2)):
            setattr(self, f"snconv1x1_{name}", nn.Conv2d(channels, outputs, 1, bias=False))
        self.snconv1x1_o_conv = nn.Conv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:  # (n, channels, h, w) -> the same shape
        query, key, value = self.snconv1x1_theta(x), self.snconv1x1_phi(x), self.snconv1x1_g(x)
        key, value = F.max_pool2d(key, 2), F.max_pool2d(value, 2)
        rows = (maps.flatten(2).mT for maps in (query, key, value))  # (n, pixels, channels)
        seen = F.scaled_dot_product_attention(*rows, scale=1.0).mT.unflatten(2, x.shape[2:])
        return x + self.gamma * self.snconv1x1_o_conv(seen)


class Block(nn.Module):
    """Residual bottleneck of four convolutions; where channels get fewer, the skip path keeps the first."""

    def __init__(self, settings: BigGANSettings, index: int):
        super().__init__()
        self.up, self.outputs = settings.layers[index][0], settings.channels(index + 1)
        inputs = settings.channels(index)
        narrow = inputs // REDUCTION
        for number, channels in enumerate((inputs, narrow, narrow, narrow)):
            setattr(self, f"bn_{number}", ConditionalNorm(settings, channels))
        self.conv_0 = nn.Conv2d(inputs, narrow, 1)
        self.conv_1 = nn.Conv2d(narrow, narrow, 3, padding=1)
        self.conv_2 = nn.Conv2d(narrow, narrow, 3, padding=1)
        self.conv_3 = nn.Conv2d(narrow, self.outputs, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Maps (n, out, h', w') of maps (n, in, h, w) and conditions (n, w_dim)."""
        y = self.conv_0(F.relu(self.bn_0(x, condition)))
        y = self._upsampled(F.relu(self.bn_1(y, condition)))
        y = self.conv_2(F.relu(self.bn_2(self.conv_1(y), condition)))
        y = self.conv_3(F.relu(self.bn_3(y, condition)))
        return self._upsampled(x[:, : self.outputs]) + y

    def _upsampled(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.up else x


class Synthesis(nn.Module):
    """Everything behind the condition, under its public names."""

    def __init__(self, settings: BigGANSettings):
        super().__init__()
        s, last = settings, settings.channels(len(settings.layers))
        self.attention = s.attention_layer_position
        self.gen_z = nn.Linear(s.w_dim, FIRST_SIZE**2 * s.channels(0))
        self.layers = nn.ModuleList(Block(s, index) for index in range(len(s.layers)))
        if self.attention is not None:
            self.layers.insert(self.attention, SelfAttention(s.channels(self.attention)))
        self.bn = PlainNorm(s, last)
        self.conv_to_rgb = nn.Conv2d(last, s.img_channels, 3, padding=1)

    def weights_behind(self, blocks: int) -> tuple[str, ...]:
        """Beginnings of the names of everything that runs behind that many blocks."""
        attention = self.attention is not None and blocks > self.attention
        return (*(f"layers.{i}." for i in range(blocks + attention, len(self.layers))), "bn.", "conv_to_rgb.")

    def first_map(self, condition: Tensor) -> Tensor:
        """Maps (n, channels, 4, 4) of conditions (n, w_dim)."""
        x = self.gen_z(condition).unflatten(1, (FIRST_SIZE, FIRST_SIZE, -1))  # the layout of TensorFlow
        return x.permute(0, 3, 1, 2).contiguous()

    def block(self, index: int, x: Tensor, condition: Tensor) -> Tensor:
        """Run block number `index`, and the attention that precedes it."""
        if self.attention is None or index < self.attention:
            return self.layers[index](x, condition)
        if index == self.attention:
            x = self.layers[index](x)
        return self.layers[index + 1](x, condition)

    def image(self, x: Tensor) -> Tensor:
        """Images (n, channels, h, w) in [0, 1] of the maps behind the last block."""
        return (torch.tanh(self.conv_to_rgb(F.relu(self.bn(x)))) + 1) / 2


@PRIORS.register("biggan")
class BigGAN(LayeredGenerator):
    """Class-conditional BigGAN-deep generator, cut behind any of its blocks (a `Prior`).

    A row of w is the condition [noise, class embedding], once for the first linear layer and once for each
    block. Split point 0 holds the 4 px map behind that layer, split point n the one behind n blocks, and the
    last one ("pixels") the images in [0, 1].
    """

    Settings = BigGANSettings

    def __init__(self, settings: BigGANSettings):
        super().__init__()
        self.settings = settings
        self.embeddings = nn.Linear(settings.c_dim, settings.z_dim, bias=False)  # of one-hot labels
        self.generator = Synthesis(settings)
        after = range(1, len(settings.layers) + 1)
        blocks = [f"B{index - 1}_{settings.size(index)}_{settings.channels(index)}" for index in after]
        self.layers = ("input", *blocks, "pixels")
        self.layer_names = [*blocks, f"rgb_{settings.img_resolution}_{settings.img_channels}"]
        self.num_ws = len(settings.layers) + 1
        self.truncation = 1.0

    @classmethod
    def random(cls, settings: BigGANSettings, generator: torch.Generator) -> Self:
        """Untrained generator on the generator's device, with orthogonal weights (Brock et al. 2019)."""
        network = _allocated(settings, generator.device)
        for name, tensor in network.state_dict().items():
            if name.endswith(("running_vars", "bn.weight")):
                tensor.fill_(1)
            elif tensor.ndim < 2 or name.endswith("running_means"):
                tensor.zero_()
            else:
                nn.init.orthogonal_(tensor, generator=generator)
        return network.eval()

    @classmethod
    def untrained(cls, settings: BigGANSettings, generator: torch.Generator) -> Self:
        """`random` with the statistics of its own samples, frozen."""
        network = cls.random(settings, generator)
        network.measure_statistics(generator)
        return network.requires_grad_(False)

    @classmethod
    def from_tensors(cls, settings: dict, tensors: dict[str, Tensor]) -> Self:
        """Build a frozen generator from a card's settings and tensors, or from a public model's.

        Raises:
            HgladError: missing, unexpected or misshapen tensors, or layer names that differ from the card's.
        """
        network = _allocated(BigGANSettings.from_dict(settings), "cpu")
        names = settings.get("layer_names", network.layer_names)
        if list(names) != network.layer_names:
            raise HgladError(f"settings give layers {network.layer_names}: expected {list(names)}")
        tensors = from_public_state_dict(tensors, network.settings.img_channels)
        check_tensors(network.state_dict(), tensors)
        network.load_state_dict(tensors)
        return network.eval().requires_grad_(False)

    def set_truncation(self, truncation: float) -> Self:
        """Sample with noise times `truncation`, and normalise with the statistics that belong to it.

        Raises:
            HgladError: a truncation outside 0 to 1, or one without statistics.
        """
        if not 0 <= truncation <= 1 or (truncation != 1 and self.settings.n_stats == 1):
            known = "0 to 1" if self.settings.n_stats > 1 else "1, the only one with statistics (n_stats)"
            raise HgladError(f"truncation of a generator is {truncation}: expected {known}")
        for norm in self._norms():
            norm.truncation = truncation
        self.truncation = truncation
        return self

    def set_precision(self, precision: str) -> Self:
        """Only `float32` is there; another format raises `HgladError`."""
        if precision != "float32":
            raise HgladError(f"precision of a BigGAN is {precision!r}: expected 'float32'")
        return self

    def describe(self) -> pd.DataFrame:
        """One row per split point: name and shape of the map; `scale` is in image pixels per sample."""
        s, blocks = self.settings, range(len(self.settings.layers) + 1)
        sizes = [*map(s.size, blocks), s.img_resolution]
        return pd.DataFrame(
            {
                "layer": self.layers,
                "channels": [*map(s.channels, blocks), s.img_channels],
                "size": sizes,
                "scale": [s.img_resolution / size for size in sizes],
            }
        ).rename_axis("split point")

    def map(self, z: Tensor, labels: Tensor, truncation: float | None = None) -> Tensor:
        """Map noise (n, z_dim) within +- 2 and labels (n,) to conditions (n, num_ws, w_dim).

        The noise is multiplied by the generator's truncation.

        Raises:
            HgladError: another `truncation`, which the statistics in use do not belong to.
        """
        if truncation not in (None, self.truncation):
            raise HgladError(
                f"truncation is {truncation}, but the generator's statistics are those of {self.truncation}: "
                f"call set_truncation({truncation}) first"
            )
        return self._conditions(z * self.truncation, labels)

    def _conditions(self, noise: Tensor, labels: Tensor) -> Tensor:
        w = torch.cat([noise, self.embeddings.weight.T[labels]], dim=1)
        return w[:, None].repeat(1, self.num_ws, 1)

    def _norms(self) -> list[Norm]:
        return [module for module in self.modules() if isinstance(module, Norm)]

    def _noise(self, count: int, generator: torch.Generator) -> Tensor:
        z = torch.empty(count, self.settings.z_dim, device=generator.device)
        return nn.init.trunc_normal_(z, a=-2, b=2, generator=generator).to(self.embeddings.weight.device)

    @torch.no_grad()
    def measure_statistics(self, generator: torch.Generator, batches: int = 20, size: int = 100) -> None:
        """Set the statistics of every truncation: means over `batches` of `size` samples, run as in training.

        Source: standing statistics, Brock et al. 2019, section 3.1.
        """
        training, norms = self.training, self._norms()
        for norm in norms:
            norm.running_means.zero_()
            norm.running_vars.zero_()
        self.train()
        for _ in range(batches):
            z = self._noise(size, generator)
            labels = torch.randint(self.settings.c_dim, (size,), generator=generator, device=generator.device)
            for row, truncation in enumerate(self._truncations()):
                with ExitStack() as hooks:
                    for norm in norms:
                        hooks.enter_context(norm.register_forward_pre_hook(_add_statistics(row, 1 / batches)))
                    self.decode(Latents(self._conditions(z * truncation, labels.to(z.device)), None), 0)
        self.train(training)

    def _truncations(self) -> list[float]:
        """Those that statistics are kept for."""
        last = self.settings.n_stats - 1
        return [row / last for row in range(last + 1)] if last else [1.0]

    def start(self, w: Tensor) -> Latents:
        """Latents at split point 0: conditions (n, num_ws, w_dim) and the first map."""
        return Latents(w, self.generator.first_map(w[:, 0]))

    def sample(self, labels: Tensor, generator: torch.Generator, average: int = 1) -> Latents:
        """Draw latents at split point 0 for labels (n,); w is the mean of `average` mapped noise vectors."""
        z = self._noise(len(labels) * average, generator)
        with torch.no_grad():
            w = self.map(z, labels.repeat_interleave(average))
            return Latents(w.unflatten(0, (len(labels), average)).mean(dim=1), None)

    def forward(self, w: Tensor, x: Tensor | None, src: int, dst: int) -> Tensor:
        """Features at split point `dst` from those at `src` (see `advance`)."""
        last = len(self.layers) - 1
        if x is None:
            x = self.generator.first_map(w[:, 0])
        for index in range(src, min(dst, last - 1)):
            x = self.generator.block(index, x, w[:, index + 1])
        return self.generator.image(x) if src < dst == last else x

    def weights(self, layer: int) -> dict[str, Tensor]:
        """Parameters behind split point `layer`, by name."""
        if layer == len(self.layers) - 1:
            return {}
        behind = tuple(f"generator.{name}" for name in self.generator.weights_behind(layer))
        return {name: x.detach() for name, x in self.named_parameters() if name.startswith(behind)}


def _allocated(settings: BigGANSettings, device: torch.device | str) -> BigGAN:
    """A generator with undefined tensors, built without a draw from the global generator."""
    with torch.device("meta"):
        network = BigGAN(settings)
    return network.to_empty(device=device)


def _add_statistics(row: int, share: float):
    """Hook that adds the mean and variance of a norm's input, times `share`, to one row of its statistics."""

    def hook(norm: Norm, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        norm.running_means[row] += mean * share
        norm.running_vars[row] += variance * share

    return hook


def from_public_state_dict(tensors: dict[str, Tensor], img_channels: int = 3) -> dict[str, Tensor]:
    """Fold the spectral norms of a public state dict into plain weights; a folded one stays as it is.

    W = weight_orig / (u^T weight_orig v) (Miyato et al., ICLR 2018). The last convolution has more output
    channels than the image, which is made of the first ones.

    Raises:
        HgladError: a spectral norm without its vectors.
    """
    folded = {}
    for name, tensor in tensors.items():
        if name.endswith("weight_orig"):
            folded[name.removesuffix("_orig")] = _without_spectral_norm(tensors, name.removesuffix("_orig"))
        elif not name.endswith(("weight_u", "weight_v")):
            folded[name] = tensor
    last = {name: tensor[:img_channels] for name, tensor in folded.items() if ".conv_to_rgb." in name}
    return folded | last


def _without_spectral_norm(tensors: dict[str, Tensor], name: str) -> Tensor:
    for part in ("u", "v"):
        if f"{name}_{part}" not in tensors:
            raise HgladError(f"tensor '{name}_{part}' is missing: expected a vector of the spectral norm")
    weight = tensors[f"{name}_orig"]
    return weight / (tensors[f"{name}_u"] @ weight.flatten(1) @ tensors[f"{name}_v"])
