"""BigGAN-deep in plain PyTorch: residual bottleneck blocks, each conditioned on the noise and the class.

Brock et al., ICLR 2019, appendix B. Tensor names are those of the public PyTorch port of the released models
(biggan-deep-128, -256 and -512), with its spectral norms folded into plain weights. The statistics and the
condition of a batch norm make one gain and one bias, so that it costs one operation on the map.
"""

import math
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from hglad.errors import HgladError
from hglad.priors.base import PRIORS, Generator, GeneratorSettings, Latents
from hglad.settings import Several

VERSION = 1  # raise when the same tensors give other images
FIRST_SIZE = 4  # pixels; height and width of the map behind the first linear layer
REDUCTION = 4  # channels of a block over those of its bottleneck


class BigGANSettings(GeneratorSettings):
    """Constructor settings; the defaults are those of biggan-deep-128.

    The ranges keep a hostile file from making this program allocate much.
    """

    z_dim: int = Field(128, ge=1, le=8192)
    """Dimensions of the input noise, and of the class embedding beside it."""
    c_dim: int = Field(1000, ge=1, le=100_000)
    """Number of classes."""
    img_resolution: int = Field(128, le=4096)
    """Height and width of the images in pixels: 4, doubled by each block that upsamples."""
    img_channels: int = Field(3, ge=1)
    """Channels of the images."""
    channel_width: int = Field(128, ge=REDUCTION, le=4096)
    """Unit of the channels in `layers`."""
    layers: Several[Annotated[tuple[bool, int, int], Field(strict=False)]] = Field(
        (
            (False, 16, 16), (True, 16, 16), (False, 16, 16), (True, 16, 8), (False, 8, 8),
            (True, 8, 4), (False, 4, 4), (True, 4, 2), (False, 2, 2), (True, 2, 1),
        ),
        min_length=1,
        max_length=64,
    )  # fmt: skip
    """Blocks: whether it doubles the resolution, its input and its output channels in `channel_width`."""
    attention_layer_position: int | None = 8
    """Block that self-attention precedes, counted from 0; none is without."""
    n_stats: int = Field(51, ge=1, le=1001)
    """Truncations from 0 to 1, evenly spaced, whose batch norm statistics are kept; 1: truncation 1 only."""
    eps: float = Field(1e-4, ge=0, le=1)
    """Added to the variance of a batch norm."""

    @model_validator(mode="after")
    def _blocks_fit_together(self) -> Self:
        for index, (_, inputs, outputs) in enumerate(self.layers):
            expected = self.layers[index - 1][2] if index else inputs
            if inputs != expected or not 1 <= outputs <= inputs <= 64:
                raise ValueError(
                    f"layers[{index}] of a generator goes from {inputs} to {outputs} channel_width: expected "
                    "the output of the layer before as input, at most 64, and an output of 1 up to the input"
                )
        size, attention = self.size(len(self.layers)), self.attention_layer_position
        if self.img_resolution != size:
            raise ValueError(f"img_resolution is {self.img_resolution}: expected {size}, as its layers make")
        if attention not in (None, *range(len(self.layers))):
            expected = f"null or 0 to {len(self.layers) - 1}"
            raise ValueError(f"attention_layer_position is {attention}: expected {expected}")
        if self.img_channels > self.channel_width:
            raise ValueError(f"img_channels is {self.img_channels}: expected at most {self.channel_width}")
        return self

    @classmethod
    def from_card(cls, values: dict[str, Any]) -> Self:
        """Take the fields out of a card, or of a public configuration (`output_dim`, `num_classes`).

        Raises:
            HgladError: settings of a network that this class cannot be.
        """
        public = {"output_dim": "img_resolution", "num_classes": "c_dim"}
        settings = super().from_card({public.get(key, key): value for key, value in values.items()})
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


class Norm(nn.Module):
    """Batch norm with statistics for several truncations; in training it uses those of the batch.

    In the blocks gain and bias are linear in the condition (n, w_dim); behind the last one they are trained.
    """

    def __init__(self, settings: BigGANSettings, channels: int, conditional: bool = True):
        super().__init__()
        self.truncation, self.eps, self.conditional = 1.0, settings.eps, conditional
        self.measured: tuple[int, float] | None = None
        """Row of the statistics that each batch is added to, and its share in them; set to measure them."""
        self.register_buffer("running_means", torch.zeros(settings.n_stats, channels))
        self.register_buffer("running_vars", torch.ones(settings.n_stats, channels))
        if conditional:
            self.scale = nn.Linear(settings.w_dim, channels, bias=False)
            self.offset = nn.Linear(settings.w_dim, channels, bias=False)
        else:
            self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel at the truncation, linear between the two nearest ones.

        The public port gives the nearer one the smaller weight, which is not followed here: a truncation just
        above one that was measured would get the statistics of the next.
        """
        position = self.truncation * (len(self.running_means) - 1)
        below, above = math.floor(position), math.ceil(position)
        both = (self.running_means, self.running_vars)
        return tuple(rows[below].lerp(rows[above], position - below) for rows in both)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Maps (n, channels, h, w) of such maps and conditions (n, w_dim)."""
        if self.measured:
            row, share = self.measured
            variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
            self.running_means[row] += mean * share
            self.running_vars[row] += variance * share
        gain, bias = (  # (n or 1, channels)
            (1 + self.scale(condition), self.offset(condition))
            if self.conditional
            else (self.weight[None], self.bias[None])
        )
        if self.training:
            x = F.batch_norm(x, None, None, training=True, eps=self.eps)
        else:
            mean, variance = self.statistics()
            gain = gain * (variance + self.eps).rsqrt()
            bias = bias - mean * gain
        return torch.addcmul(bias[:, :, None, None], x, gain[:, :, None, None])


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
            setattr(self, f"bn_{number}", Norm(settings, channels))
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
        s, attention = settings, settings.attention_layer_position
        last = s.channels(len(s.layers))
        self.gen_z = nn.Linear(s.w_dim, FIRST_SIZE**2 * s.channels(0))
        self.layers = nn.ModuleList(Block(s, index) for index in range(len(s.layers)))
        if attention is not None:
            self.layers.insert(attention, SelfAttention(s.channels(attention)))
        self.bn = Norm(s, last, conditional=False)
        self.conv_to_rgb = nn.Conv2d(last, s.img_channels, 3, padding=1)


@PRIORS.register("biggan")
class BigGAN(Generator):
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

    @classmethod
    def allocated(cls, settings: BigGANSettings, device: torch.device | str = "cpu") -> Self:
        """A generator with undefined tensors, built without a draw from the global generator."""
        with torch.device("meta"):
            network = cls(settings)
        return network.to_empty(device=device)

    def initialize(self, rng: torch.Generator) -> None:
        """Orthogonal weights (Brock et al. 2019)."""
        for name, tensor in self.state_dict().items():
            if name.endswith(("running_vars", "bn.weight")):
                tensor.fill_(1)
            elif tensor.ndim < 2 or name.endswith("running_means"):
                tensor.zero_()
            else:
                nn.init.orthogonal_(tensor, generator=rng)

    @staticmethod
    def plain_tensors(tensors: dict[str, Tensor], settings: BigGANSettings) -> dict[str, Tensor]:
        """Fold the spectral norms of a public state dict into plain weights; a folded one stays as it is.

        W = weight_orig / (u^T weight_orig v) (Miyato et al., ICLR 2018). The last convolution has more output
        channels than the image, which is made of the first ones.

        Raises:
            HgladError: a spectral norm without its vectors.
        """
        folded = {}
        for name, tensor in tensors.items():
            if name.endswith("weight_orig"):
                name = name.removesuffix("_orig")
                for part in (f"{name}_u", f"{name}_v"):
                    if part not in tensors:
                        expected = "expected a vector of the spectral norm"
                        raise HgladError(f"tensor '{part}' is missing: {expected}")
                tensor = tensor / (tensors[f"{name}_u"] @ tensor.flatten(1) @ tensors[f"{name}_v"])
            if not name.endswith(("weight_u", "weight_v")):
                folded[name] = tensor[: settings.img_channels] if ".conv_to_rgb." in name else tensor
        return folded

    def noise(self, count: int, rng: torch.Generator) -> Tensor:
        """Normal noise (count, z_dim) within +- 2."""
        z = torch.empty(count, self.settings.z_dim, device=rng.device)
        return nn.init.trunc_normal_(z, a=-2, b=2, generator=rng)

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

    def first_map(self, w: Tensor) -> Tensor:
        """Maps (n, channels, 4, 4) of conditions (n, w_dim)."""
        x = self.generator.gen_z(w).unflatten(1, (FIRST_SIZE, FIRST_SIZE, -1))  # the layout of TensorFlow
        return x.permute(0, 3, 1, 2).contiguous()

    def run_layer(self, index: int, x: Tensor, w: Tensor) -> Tensor:
        """Maps behind block `index`; images in [0, 1] behind the last layer, which has no condition."""
        parts = self.generator
        if index == len(self.settings.layers):
            return (torch.tanh(parts.conv_to_rgb(F.relu(parts.bn(x)))) + 1) / 2
        for layer in (parts.layers[position] for position in self._positions(index)):
            x = layer(x) if isinstance(layer, SelfAttention) else layer(x, w[:, index + 1])
        return x

    def modules_of(self, index: int) -> tuple[str, ...]:
        """Names of the modules of a block, or of what makes the image."""
        if index == len(self.settings.layers):
            return "generator.bn", "generator.conv_to_rgb"
        return tuple(f"generator.layers.{position}" for position in self._positions(index))

    def _positions(self, index: int) -> tuple[int, ...]:
        """Where a block is among the layers, after the attention that precedes it."""
        attention = self.settings.attention_layer_position
        own = index + (attention is not None and index >= attention)
        return (index, own) if index == attention else (own,)

    def split_points(self) -> list[dict[str, Any]]:
        """Shape of the map at every split point."""
        s = self.settings
        shapes = [(s.channels(block), s.size(block)) for block in range(len(s.layers) + 1)]
        shapes.append((s.img_channels, s.img_resolution))
        return [{"channels": each, "size": size, "scale": s.img_resolution / size} for each, size in shapes]

    def set_truncation(self, truncation: float) -> Self:
        """Sample with noise times `truncation`, and normalize with the statistics that belong to it.

        Raises:
            HgladError: a truncation outside 0 to 1, or one without statistics.
        """
        if truncation != 1 and self.settings.n_stats == 1:
            known = "expected 1, the only one with statistics (n_stats)"
            raise HgladError(f"truncation of a generator is {truncation}: {known}")
        super().set_truncation(truncation)
        for norm in self._norms():
            norm.truncation = truncation
        return self

    def _norms(self) -> list[Norm]:
        return [module for module in self.modules() if isinstance(module, Norm)]

    @torch.no_grad()
    def measure_statistics(
        self, rng: torch.Generator, trained: bool = True, batches: int = 20, size: int = 100
    ) -> None:
        """Set the statistics of every truncation: means over `batches` of `size` samples, run as in training.

        Source: standing statistics, Brock et al. 2019, section 3.1.
        """
        training, norms, last = self.training, self._norms(), self.settings.n_stats - 1
        for norm in norms:
            norm.running_means.zero_()
            norm.running_vars.zero_()
        self.train()
        for _ in range(batches):
            z = self.noise(size, rng).to(self.embeddings.weight.device)
            labels = torch.randint(self.settings.c_dim, (size,), generator=rng, device=rng.device)
            labels = labels.to(z.device)
            for row in range(last + 1):
                for norm in norms:
                    norm.measured = (row, 1 / batches)
                noise = z * (row / last if last else 1.0)
                self.decode(Latents(self._conditions(noise, labels), None), 0)
        for norm in norms:
            norm.measured = None
        self.train(training)
