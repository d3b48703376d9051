"""The generator against features and images that the official code computed."""

import json
from pathlib import Path

import pytest
import torch

from hglad.errors import HgladError
from hglad.priors.stylegan_xl import StyleGANXL, StyleGANXLSettings, plan_layers
from hglad.storage import read_tensors

FIXTURES = Path(__file__).parent / "fixtures" / "stylegan_xl"


@pytest.fixture(scope="module", params=["stem32", "superres64"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def settings(name):
    return json.loads((FIXTURES / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def weights(name):
    return read_tensors(FIXTURES / f"{name}.weights.safetensors")


@pytest.fixture(scope="module")
def generator(settings, weights):
    return StyleGANXL.from_tensors(settings, weights)


@pytest.fixture(scope="module")
def reference(name):
    return read_tensors(FIXTURES / f"{name}.reference.safetensors")


@pytest.fixture(scope="module")
def latents(generator, reference):
    return generator.start(reference["ws"])


def relative_error(value, expected):
    return ((value - expected).norm() / expected.norm()).item()


def test_styles(generator, reference):
    labels = reference["c"].argmax(dim=1)
    assert relative_error(generator.map(reference["z"], labels), reference["ws"]) < 1e-5
    truncated = generator.map(reference["z"], labels, truncation=0.7)
    assert relative_error(truncated, reference["ws_truncated_psi0.7"]) < 1e-5


def test_features_of_every_layer_and_the_image_from_there(generator, reference, latents, settings):
    assert generator.layer_names == settings["layer_names"]
    assert generator.num_ws == settings["num_ws"] == len(generator.layers)
    assert generator.describe()["rate"].iloc[-1] == settings["img_resolution"]
    for layer in range(len(generator.layers)):
        name = "feature.input" if layer == 0 else f"feature.{layer - 1:02d}"
        found = generator.advance(latents, 0, layer)
        assert relative_error(generator.decode(found, layer) * 2 - 1, reference["image"]) < 1e-5
        features = found.f
        if layer == len(generator.layers) - 1:  # the fixture holds raw output, the split point the image
            features = (features * 2 - 1) / settings["output_scale"]
        assert list(features.shape) == settings["features"][name]
        assert relative_error(features.mean(dim=(2, 3)), reference[f"{name}.mean"]) < 1e-5
        assert relative_error(features[:, ::7, ::5, ::5], reference[f"{name}.sample"]) < 1e-5


@pytest.mark.parametrize("margin", [0, 1, 2, 10])
def test_layers_without_filters_crop_as_the_resampling_does(margin):
    settings = StyleGANXLSettings(
        w_dim=8, channel_base=256, channel_max=6, num_layers=5, embedding=(10, 8), margin_size=margin,
        lrelu_upsampling=1,
    )  # fmt: skip
    network = StyleGANXL.random(settings, torch.Generator().manual_seed(0)).double()
    layers = [network.synthesis.layer(index) for index in range(5)]
    start = network.start(network.sample(torch.arange(4), torch.Generator().manual_seed(1)).w.double())
    image = network.decode(start, 0)
    found = [layer.filtered for layer in layers]
    assert found == [False, False, True, False, margin > 1]  # one doubles the rate; a large margin is cut off
    for layer in layers:
        layer.filtered = True
    torch.testing.assert_close(network.decode(start, 0), image, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("precision", "error"), [("bfloat16", 0.03), ("float16", 0.005)])
def test_16_bit_layers(settings, weights, reference, precision, error):
    generator = StyleGANXL.from_tensors(settings, weights).set_precision(precision)
    start = generator.start(reference["ws"])
    formats = [generator(start.w, start.f, 0, n).dtype for n in (1, 2)]
    assert formats == [getattr(torch, precision)] * 2  # StyleGAN-XL marks all layers of networks this small
    assert generator.advance(start, 0, 2).f.dtype == torch.float32  # what a search optimizes
    images = generator.decode(generator.start(reference["ws"]), 0)
    assert images.dtype == torch.float32
    assert 1e-4 < relative_error(images * 2 - 1, reference["image"]) < error
    again = generator.set_precision("float32").decode(generator.start(reference["ws"]), 0)
    assert relative_error(again * 2 - 1, reference["image"]) < 1e-5
    with pytest.raises(HgladError, match="unknown precision of a generator 'bf16'"):
        generator.set_precision("bf16")


def test_nested_stems_are_the_same_as_a_list_of_heads():
    stem = {"img_resolution": 16, "num_layers": 10, "channel_base": 1024, "channel_max": 16}
    middle = {"kind": "superres", "stem": stem, "up_factor": 2, "head_layers": 5}
    nested = {"kind": "superres", "w_dim": 32, "stem": middle, "up_factor": 4, "head_layers": 4}
    flat = {"w_dim": 32, **stem, "heads": [{"up_factor": 2, "layers": 5}, {"up_factor": 4, "layers": 4}]}
    settings = StyleGANXLSettings.from_card(nested)
    assert settings == StyleGANXLSettings.from_card(flat) and settings.resolution == 128
    names = [plan.name.split("_")[0] for plan in plan_layers(settings)]
    assert names == [f"L{n}" for n in (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16)]


def test_an_unconditional_generator_ignores_labels(settings):
    network = StyleGANXL.random(
        StyleGANXLSettings.from_card(settings | {"c_dim": 0}), torch.Generator().manual_seed(0)
    )
    assert not any("embed" in name for name in network.state_dict())
    network.measure_statistics(torch.Generator().manual_seed(1))
    network.set_truncation(0.5)
    one, other = (
        network.sample(labels, torch.Generator().manual_seed(2)).w
        for labels in (torch.tensor([0, 1]), torch.tensor([5, 7]))
    )
    assert torch.equal(one, other)
    network.set_truncation(1.0)
    whole = network.sample(torch.tensor([0, 1]), torch.Generator().manual_seed(2)).w
    assert relative_error(network.mapping.w_avg.lerp(whole, 0.5), one) < 1e-6


def test_truncation_goes_to_the_measured_mean_styles_of_the_class(settings):
    network = StyleGANXL.random(StyleGANXLSettings.from_card(settings), torch.Generator().manual_seed(0))
    labels, rng = torch.tensor([3, 5]), torch.Generator()
    network.measure_statistics(rng.manual_seed(1))
    center = network.sample(labels, rng.manual_seed(2), average=4000).w[:, 0]
    assert relative_error(network.mapping.w_avg[labels], center) < 0.2
    whole, half = (network.set_truncation(t).sample(labels, rng.manual_seed(1)).w for t in (1.0, 0.5))
    torch.testing.assert_close(half, (whole + network.mapping.w_avg[labels, None]) / 2)
    assert network.mapping.fc0.weight.std().item() == pytest.approx(100, rel=0.05)


def test_an_untrained_one_has_features_of_unit_magnitude(tiny_settings):
    """As training would leave it: each layer divides by the magnitude that it is given."""
    network = StyleGANXL.untrained(tiny_settings, torch.Generator().manual_seed(0))
    latents = network.start(network.sample(torch.arange(10).repeat(100), torch.Generator().manual_seed(5)).w)
    for index in range(len(network.layer_names)):
        magnitude = network.synthesis.layer(index).magnitude_ema
        assert latents.f.square().mean().item() == pytest.approx(magnitude.item(), rel=0.15)
        latents = network.advance(latents, index, index + 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "stylegan2"}, "kind 'stylegan2'"),
        ({"use_radial_filters": True}, "use_radial_filters is True: expected False"),
        ({"filter_size": 10**9}, "filter_size is 1000000000: expected at most 32"),
        ({"num_layers": 2}, "num_layers of a generator has 2 layers: expected 3 to 64"),
        ({"heads": [{"up_factor": 3, "layers": 4}]}, r"heads\[0\].up_factor is 3: expected 2, 4, 8 or 16"),
        ({"heads": [{"up_factor": 2, "layers": 2}]}, "heads of a generator has 2 layers: expected 3 to 64"),
        ({"heads": [{"up_factor": 16, "layers": 4}] * 2}, "images of 8192 px"),
    ],
)
def test_settings_of_other_networks_are_refused(changes, message):
    with pytest.raises(HgladError, match=message):
        StyleGANXLSettings.from_card(changes)


# Root mean square of an untrained generator's features at each split point.
GOLDEN = {1: [0.91267133, 0.57246584, 0.45752889, 0.31462580, 0.51211196]}


def test_golden_values(tiny_prior, check_golden):
    latents = tiny_prior.sample(torch.arange(10), torch.Generator().manual_seed(0), average=3)
    found = [tiny_prior.advance(latents, 0, layer).f.square().mean().sqrt().item() for layer in range(5)]
    check_golden("prior stylegan_xl", GOLDEN, found)
