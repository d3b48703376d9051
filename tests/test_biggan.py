"""BigGAN-deep against a plain transcription in the public layout, its statistics, and its training."""

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hglad.errors import HgladError
from hglad.priors import Latents, biggan
from hglad.priors.biggan import BigGAN, BigGANSettings
from hglad.priors.training.gan import GANSettings, GANTraining
from hglad.priors.training.quality import draw_samples

CONFIG = {
    "output_dim": 32, "z_dim": 12, "class_embed_dim": 12, "channel_width": 8, "num_classes": 7, "n_stats": 11,
    "layers": [[False, 8, 8], [True, 8, 4], [True, 4, 4], [False, 4, 2], [True, 2, 1]],
    "attention_layer_position": 3, "eps": 1e-4,
}  # fmt: skip
BLOCKS = len(CONFIG["layers"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The public layout, written down anew: spectral norms by PyTorch, each formula as it stands in the paper


def spectral(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the checkpoints have the names of this older form
        return nn.utils.spectral_norm(layer, eps=CONFIG["eps"])


class PublicNorm(nn.Module):
    def __init__(self, channels: int, condition: int | None):
        super().__init__()
        self.register_buffer("running_means", torch.randn(CONFIG["n_stats"], channels) / 3)
        self.register_buffer("running_vars", torch.rand(CONFIG["n_stats"], channels) + 0.5)
        self.conditional = condition is not None
        if self.conditional:
            self.scale = spectral(nn.Linear(condition, channels, bias=False))
            self.offset = spectral(nn.Linear(condition, channels, bias=False))
        else:
            self.weight = nn.Parameter(torch.rand(channels) + 0.5)
            self.bias = nn.Parameter(torch.randn(channels))

    def statistic(self, rows, truncation):
        grid = truncation * (len(rows) - 1)
        # Linear between two.
        return sum(row * max(0.0, 1 - abs(index - grid)) for index, row in enumerate(rows))

    def forward(self, x, condition, truncation):
        mean = self.statistic(self.running_means, truncation).view(1, -1, 1, 1)
        deviation = (self.statistic(self.running_vars, truncation).view(1, -1, 1, 1) + CONFIG["eps"]).sqrt()
        gain, bias = (1 + self.scale(condition), self.offset(condition)) if self.conditional else (
            self.weight[None], self.bias[None])  # fmt: skip
        return (x - mean) / deviation * gain[..., None, None] + bias[..., None, None]


class PublicAttention(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        outputs = {"theta": channels // 8, "phi": channels // 8, "g": channels // 2}
        for name, count in outputs.items():
            self.add_module(f"snconv1x1_{name}", spectral(nn.Conv2d(channels, count, 1, bias=False)))
        self.snconv1x1_o_conv = spectral(nn.Conv2d(channels // 2, channels, 1, bias=False))
        self.gamma = nn.Parameter(torch.tensor([0.7]))

    def forward(self, x, condition, truncation):
        theta = self.snconv1x1_theta(x).flatten(2)
        phi, g = (F.max_pool2d(conv(x), 2).flatten(2) for conv in (self.snconv1x1_phi, self.snconv1x1_g))
        attention = torch.einsum("ncq,nck->nqk", theta, phi).softmax(dim=2)
        seen = torch.einsum("nck,nqk->ncq", g, attention).reshape(len(x), -1, *x.shape[2:])
        return x + self.gamma * self.snconv1x1_o_conv(seen)


class PublicBlock(nn.Module):
    def __init__(self, up: bool, inputs: int, outputs: int, condition: int):
        super().__init__()
        self.up, self.inputs, self.outputs, narrow = up, inputs, outputs, inputs // 4
        shapes = [(inputs, narrow, 1), (narrow, narrow, 3), (narrow, narrow, 3), (narrow, outputs, 1)]
        for index, (before, after, kernel) in enumerate(shapes):
            self.add_module(f"bn_{index}", PublicNorm(before, condition))
            self.add_module(f"conv_{index}", spectral(nn.Conv2d(before, after, kernel, padding=kernel // 2)))

    def forward(self, x, condition, truncation):
        y = x
        for index in range(4):
            y = getattr(self, f"bn_{index}")(y, condition, truncation).relu()
            if index == 1 and self.up:
                y = y.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            y = getattr(self, f"conv_{index}")(y)
        skip = x if self.inputs == self.outputs else x[:, : self.inputs // 2]
        return y + (skip.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) if self.up else skip)


class PublicGenerator(nn.Module):
    def __init__(self):
        super().__init__()
        width, condition = CONFIG["channel_width"], 2 * CONFIG["z_dim"]
        self.first = CONFIG["layers"][0][1] * width
        self.gen_z = spectral(nn.Linear(condition, 4 * 4 * self.first))
        self.layers = nn.ModuleList()
        for index, (up, inputs, outputs) in enumerate(CONFIG["layers"]):
            if index == CONFIG["attention_layer_position"]:
                self.layers.append(PublicAttention(inputs * width))
            self.layers.append(PublicBlock(up, inputs * width, outputs * width, condition))
        self.bn = PublicNorm(width, None)
        self.conv_to_rgb = spectral(nn.Conv2d(width, width, 3, padding=1))


class PublicBigGAN(nn.Module):
    def __init__(self):
        super().__init__()
        self.embeddings = nn.Linear(CONFIG["num_classes"], CONFIG["z_dim"], bias=False)
        self.generator = PublicGenerator()

    def maps(self, noise, labels, truncation) -> list[torch.Tensor]:
        """Features at every split point, and the image in [-1, 1]."""
        g = self.generator
        one_hot = F.one_hot(labels, CONFIG["num_classes"]).to(noise.dtype)
        condition = torch.cat([noise, self.embeddings(one_hot)], dim=1)
        x = g.gen_z(condition).view(-1, 4, 4, g.first).permute(0, 3, 1, 2)
        maps = [x]
        for layer in g.layers:
            x = layer(x, condition, truncation)
            if isinstance(layer, PublicBlock):
                maps.append(x)
        return [*maps, g.conv_to_rgb(g.bn(x, None, truncation).relu())[:, :3].tanh()]


@pytest.fixture(scope="module")
def public() -> PublicBigGAN:
    """With random weights; in training mode the vectors of the spectral norms came near the singular ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = PublicBigGAN()
        network.embeddings.weight.data.mul_(8)  # as large as the noise
        for _ in range(5):
            network.maps(torch.randn(2, 12), torch.tensor([1, 2]), 1.0)
    return network.eval().requires_grad_(False)


@pytest.fixture
def generator(public) -> BigGAN:
    return BigGAN.from_tensors(CONFIG, public.state_dict())


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return torch.randn(4, 12, generator=seeded(1)).clamp(-2, 2)


LABELS = torch.tensor([3, 0, 6, 3])


def relative_error(value, expected) -> float:
    return ((value - expected).norm() / expected.norm()).item()


# The network


@pytest.mark.parametrize("truncation", [1.0, 0.6, 0.37, 0.0])
def test_every_split_point_is_the_public_one(public, generator, noise, truncation):
    expected = public.maps(noise * truncation, LABELS, truncation)
    generator.set_truncation(truncation)
    latents = generator.start(generator.map(noise, LABELS, truncation))
    assert latents.w.shape == (4, BLOCKS + 1, 24) and len(generator.layers) == BLOCKS + 2
    for layer, maps in enumerate(expected):
        found = generator.advance(latents, 0, layer)
        if layer == BLOCKS + 1:
            maps = (maps + 1) / 2
        assert found.f.shape == maps.shape and relative_error(found.f, maps) < 1e-5
        assert relative_error(generator.decode(found, layer), (expected[-1] + 1) / 2) < 1e-5
    assert relative_error(generator.decode(Latents(latents.w, None), 0), (expected[-1] + 1) / 2) < 1e-5


def test_the_layout_of_the_released_model():
    with torch.device("meta"):
        network = BigGAN(BigGANSettings())
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert network.layers[:3] == ("input", "B0_4_2048", "B1_8_2048")
    assert network.layers[-2:] == ("B9_128_128", "pixels")
    assert shapes["generator.gen_z.weight"] == (4 * 4 * 16 * 128, 256)
    assert shapes["generator.layers.8.snconv1x1_theta.weight"] == (32, 256, 1, 1)  # attention, at 64 px
    assert shapes["generator.layers.10.conv_3.weight"] == (128, 64, 1, 1)
    assert shapes["generator.layers.0.bn_0.running_means"] == (51, 2048)
    assert shapes["embeddings.weight"] == (128, 1000)


# Noise and truncation


def test_noise_is_a_truncated_normal_beside_the_class(generator):
    labels = torch.arange(7).repeat(300)
    w = generator.sample(labels, seeded()).w
    z = w[:, 0, :12]
    assert 1.9 < z.abs().max() <= 2
    inside = math.erf(2 / math.sqrt(2))  # variance of a standard normal within +- 2
    variance = 1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / inside
    assert z.var().item() == pytest.approx(variance, rel=0.03) and abs(z.mean()) < 0.02
    assert torch.equal(w[:, 0, 12:], generator.embeddings.weight.T[labels])
    assert all(torch.equal(w[:, 0], w[:, row]) for row in range(1, BLOCKS + 1))


def test_truncation_scales_the_noise(generator):
    plain, again = (generator.sample(LABELS, seeded()).w for _ in range(2))
    truncated = generator.set_truncation(0.4).sample(LABELS, seeded()).w
    assert torch.equal(plain, again)
    torch.testing.assert_close(truncated[..., :12], plain[..., :12] * 0.4)
    assert torch.equal(truncated[..., 12:], plain[..., 12:])


def test_truncation_and_statistics_go_together(generator, noise):
    with pytest.raises(
        HgladError, match=r"truncation is 0.5, .* those of 1.0: call set_truncation\(0.5\) first"
    ):
        generator.map(noise, LABELS, 0.5)
    single = BigGAN.untrained(TINY.changed(n_stats=1), seeded())
    with pytest.raises(HgladError, match="truncation of a generator is 0.5: expected 1, the only one"):
        single.set_truncation(0.5)


# Initial weights and statistics


TINY = BigGANSettings(
    z_dim=8, c_dim=10, img_resolution=8, img_channels=1, channel_width=8,
    layers=((False, 2, 2), (True, 2, 1)), attention_layer_position=1, n_stats=3,
)  # fmt: skip


def test_initial_weights_are_orthogonal_and_follow_from_the_seed():
    before = torch.random.get_rng_state()
    networks = [BigGAN.random(TINY, seeded(seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), before)  # no draw from the global generator
    first, same, other = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], same[name]) for name in first)
    for name, parameter in networks[0].named_parameters():
        if parameter.ndim < 2:
            assert torch.equal(parameter, torch.full_like(parameter, float(name == "generator.bn.weight")))
            continue
        matrix = parameter.detach().flatten(1)
        small = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
        torch.testing.assert_close(small, torch.eye(len(small)), atol=1e-5, rtol=0)
        assert not torch.equal(parameter, other[name])


def norm_inputs(network: BigGAN, latents: Latents) -> dict[str, torch.Tensor]:
    found = {}
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: found.update({name: inputs[0]}))
        for name, module in network.named_modules() if isinstance(module, biggan.Norm)
    ]  # fmt: skip
    network.decode(latents, 0)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("truncation", [0.0, 0.5, 1.0])
def test_statistics_are_those_of_samples(truncation):
    network = BigGAN.untrained(TINY, seeded()).set_truncation(truncation)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    inputs = norm_inputs(network, network.sample(torch.arange(10).repeat(100), seeded(7)))
    assert len(inputs) == 9
    for name, x in inputs.items():
        mean, variance = network.get_submodule(name).statistics()
        variances, means = torch.var_mean(x, dim=(0, 2, 3))
        torch.testing.assert_close(means, mean, atol=0.1 * variances.mean().sqrt().item(), rtol=0)
        assert relative_error(variances, variance) < 0.15


def test_training_normalizes_by_the_batch():
    network = BigGAN.untrained(TINY, seeded()).train()
    latents = network.sample(torch.arange(10), seeded(1))
    images = network.decode(latents, 0)
    for norm in (module for module in network.modules() if isinstance(module, biggan.Norm)):
        norm.running_means.normal_(generator=seeded())
    assert torch.equal(network.decode(latents, 0), images)
    assert not torch.allclose(network.eval().decode(latents, 0), images)


# Files


def test_spectral_norms_are_folded(public):
    settings = BigGANSettings.from_card(CONFIG)
    folded = BigGAN.plain_tensors(public.state_dict(), settings)
    weight = public.generator.layers[1].conv_1.weight  # as its own hook has computed it
    assert relative_error(folded["generator.layers.1.conv_1.weight"], weight) < 1e-6
    assert folded["generator.conv_to_rgb.bias"].shape == (3,)
    again = BigGAN.plain_tensors(folded, settings)
    assert again.keys() == folded.keys() and all(torch.equal(again[name], folded[name]) for name in folded)
    incomplete = public.state_dict()
    del incomplete["generator.gen_z.weight_v"]
    with pytest.raises(HgladError, match="'generator.gen_z.weight_v' is missing: expected a vector"):
        BigGAN.plain_tensors(incomplete, settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img_resolution": 64}, "img_resolution is 64: expected 8, as its layers make"),
        ({"layers": ((True, 2, 2), (False, 4, 1))}, r"layers\[1\] of a generator goes from 4 to 1"),
        ({"layers": ((True, 2, 4), (False, 4, 1))}, r"layers\[0\] of a generator goes from 2 to 4"),
        ({"layers": ()}, "layers is \\[\\]: expected at least 1"),
        ({"attention_layer_position": 2}, "attention_layer_position is 2: expected null or 0 to 1"),
        ({"channel_width": 2}, "channel_width is 2: expected at least 4"),
        ({"n_stats": 0}, "n_stats is 0: expected at least 1"),
    ],
)  # fmt: skip
def test_settings_of_no_network_are_refused(change, message):
    with pytest.raises(HgladError, match=message):
        TINY.changed(**change)


def test_a_public_configuration_is_read():
    settings = BigGANSettings.from_card(CONFIG)
    assert (settings.img_resolution, settings.c_dim, settings.layers[1]) == (32, 7, (True, 8, 4))
    with pytest.raises(HgladError, match="class_embed_dim is 64: expected 12, as z_dim"):
        BigGANSettings.from_card(CONFIG | {"class_embed_dim": 64})


# Training


@pytest.fixture
def run(few_digits) -> GANTraining:
    small = {"batch_size": 8, "width": 4, "r1_every": 2, "augmentation": "crop", "lr": 0.01}
    return GANTraining(few_digits, GANSettings(generator=TINY, **small))


def test_the_finished_generator_has_measured_statistics(run):
    for _ in range(3):
        run.step()
    network = run.finished()
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert all(norm.running_means.any() for norm in network.modules() if isinstance(norm, biggan.Norm))
    images, labels = draw_samples(network, 200, seed=1)
    assert images.shape == (200, 1, 8, 8) and labels.bincount().tolist() == [20] * 10
    latents = network.sample(labels, seeded(2))
    by_statistics = network.decode(latents, 0)
    by_batch = network.train().decode(latents, 0)
    assert (by_statistics - by_batch).abs().mean() < 0.3 * by_batch.std()


# Losses of two updates of each network, then the mean and mean square of samples.
GOLDEN = {1: [1.3851776, 0.73138982, 1.3820186, 0.70713842, 0.42666185, 0.21026570]}


def test_golden_values(run, check_golden):
    losses = [loss.item() for _ in range(2) for loss in run.step().values()]
    images, _ = draw_samples(run.finished(), 50, seed=1)
    found = [*losses, images.mean().item(), images.square().mean().item()]
    check_golden("prior biggan", GOLDEN, found)
