"""The generator against features and images that the official code computed."""

import json
from pathlib import Path

import pytest
import torch

from hglad.errors import HgladError
from hglad.priors.base import Latents
from hglad.priors.geometry import Head, plan_layers
from hglad.priors.stylegan_xl import StyleGANXL, StyleGANXLSettings
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


def test_layers_are_the_official_ones(generator, settings):
    assert generator.synthesis.layer_names == settings["layer_names"]
    assert generator.num_ws == settings["num_ws"] == len(generator.layers)


def test_features_of_every_layer(generator, reference, latents, settings):
    for layer in range(len(generator.layers)):
        name = "feature.input" if layer == 0 else f"feature.{layer - 1:02d}"
        features = generator.advance(latents, 0, layer).f
        if layer == len(generator.layers) - 1:  # the fixture holds raw output, the split point the image
            features = (features * 2 - 1) / settings["output_scale"]
        assert list(features.shape) == settings["features"][name]
        assert relative_error(features.mean(dim=(2, 3)), reference[f"{name}.mean"]) < 1e-5
        assert relative_error(features[:, ::7, ::5, ::5], reference[f"{name}.sample"]) < 1e-5


def test_decoding_from_any_layer_gives_the_image(generator, reference, latents):
    for layer in range(len(generator.layers)):
        images = generator.decode(generator.advance(latents, 0, layer), layer)
        assert relative_error(images * 2 - 1, reference["image"]) < 1e-5


def test_description_has_the_shape_of_every_split_point(generator, latents, settings):
    table = generator.describe()
    for layer, row in table.iterrows():
        shape = generator.advance(latents, 0, layer).f.shape
        assert (row["channels"], row["size"], row["size"]) == tuple(shape[1:])
    assert list(table["layer"]) == list(generator.layers)
    assert table["scale"].iloc[-1] == 1 and table["rate"].iloc[-1] == settings["img_resolution"]


def test_missing_features_start_from_the_styles(generator, reference):
    images = generator.decode(Latents(reference["ws"], None), 0)
    assert relative_error(images * 2 - 1, reference["image"]) < 1e-5


def test_images_do_not_depend_on_the_rest_of_the_batch(generator, reference, latents):
    alone = generator.decode(Latents(latents.w[:1], latents.f[:1]), 0)
    assert relative_error(alone * 2 - 1, reference["image"][:1]) < 1e-5


@pytest.mark.parametrize("layer", [0, 5, -2])
def test_gradient_against_finite_differences(settings, weights, reference, layer):
    generator = StyleGANXL.from_tensors(settings, weights).double()
    layer %= len(generator.layers)
    start = generator.advance(generator.start(reference["ws"][:1].double()), 0, layer)
    draw = torch.Generator().manual_seed(0)
    shapes = (start.w.shape, start.f.shape, reference["image"][:1].shape)
    *direction, cotangent = (torch.randn(shape, dtype=torch.float64, generator=draw) for shape in shapes)

    def value(step):
        moved = Latents(start.w + step * direction[0], start.f + step * direction[1])
        return (generator.decode(moved, layer) * cotangent).sum()

    w, f = (x.clone().requires_grad_() for x in (start.w, start.f))
    gradients = torch.autograd.grad((generator.decode(Latents(w, f), layer) * cotangent).sum(), (w, f))
    for analytic, along, moves in zip(gradients, direction, ("w", "f"), strict=True):
        direction = [along if moves == "w" else 0 * start.w, along if moves == "f" else 0 * start.f]
        numeric = (value(1e-7) - value(-1e-7)) / 2e-7  # short: fewer kinks of the ReLUs in between
        exact = (analytic * along).sum()
        assert abs(exact - numeric) / abs(exact) < 1e-6


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


def test_truncation_of_samples(generator):
    labels = torch.tensor([3, 5, 3])
    whole, half, mean = (
        generator.set_truncation(t).sample(labels, torch.Generator().manual_seed(1)).w
        for t in (1.0, 0.5, 0.0)
    )
    generator.set_truncation(1.0)
    torch.testing.assert_close(mean, generator.mapping.w_avg[labels, None].expand_as(mean))
    torch.testing.assert_close(half, (whole + mean) / 2)
    with pytest.raises(HgladError, match="truncation of a generator is 1.5"):
        generator.set_truncation(1.5)


@pytest.mark.parametrize(("precision", "error"), [("bfloat16", 0.03), ("float16", 0.005)])
def test_16_bit_layers(settings, weights, reference, precision, error):
    generator = StyleGANXL.from_tensors(settings, weights).set_precision(precision)
    start = generator.start(reference["ws"])
    formats = [generator(start.w, start.f, 0, n).dtype for n in (1, 2)]
    assert formats == [getattr(torch, precision)] * 2  # StyleGAN-XL marks all layers of networks this small
    assert generator.advance(start, 0, 2).f.dtype == torch.float32  # what a search optimises
    images = generator.decode(generator.start(reference["ws"]), 0)
    assert images.dtype == torch.float32
    assert 1e-4 < relative_error(images * 2 - 1, reference["image"]) < error
    again = generator.set_precision("float32").decode(generator.start(reference["ws"]), 0)
    assert relative_error(again * 2 - 1, reference["image"]) < 1e-5


def test_an_unknown_precision_is_refused(generator):
    with pytest.raises(HgladError, match="unknown precision of a generator 'bf16'"):
        generator.set_precision("bf16")


def test_weights_of_latents_take_the_place_of_its_own(generator, latents):
    layer = 3
    middle = generator.advance(latents, 0, layer)
    own = generator.weights(layer)
    assert own and all(name.startswith("synthesis.L") for name in own)
    assert not any(f".{name}." in each for name in generator.layer_names[:layer] for each in own)
    usual = generator.decode(middle, layer)
    assert torch.equal(generator.decode(Latents(middle.w, middle.f, own), layer), usual)
    doubled = {name: 2 * x for name, x in own.items()}
    assert relative_error(generator.decode(Latents(middle.w, middle.f, doubled), layer), usual) > 0.1
    assert torch.equal(generator.decode(middle, layer), usual)


def test_samples_average_mapped_noise(generator):
    labels = torch.tensor([3, 5])
    first, again = (
        generator.sample(labels, torch.Generator().manual_seed(1), average=50).w for _ in range(2)
    )
    single = generator.sample(labels, torch.Generator().manual_seed(1)).w
    centre = generator.sample(labels, torch.Generator().manual_seed(2), average=2000).w
    assert first.shape == (2, generator.num_ws, 64) and torch.equal(first, again)
    assert (first - centre).norm() < (single - centre).norm() / 4


def test_random_generator_has_unit_variance_features(settings):
    network = StyleGANXL.random(StyleGANXLSettings.from_dict(settings), torch.Generator().manual_seed(0))
    latents = network.sample(torch.arange(10), torch.Generator().manual_seed(1))
    deviation = network.advance(latents, 0, 1).f.std()
    assert 0.2 < deviation < 2 and network.mapping.fc0.weight.std().item() == pytest.approx(100, rel=0.05)


def test_mean_styles_of_the_classes(settings):
    network = StyleGANXL.random(StyleGANXLSettings.from_dict(settings), torch.Generator().manual_seed(0))
    network.measure_w_avg(torch.Generator().manual_seed(1))
    labels = torch.tensor([3, 5])
    centre = network.sample(labels, torch.Generator().manual_seed(2), average=4000).w[:, 0]
    assert relative_error(network.mapping.w_avg[labels], centre) < 0.2


def test_wrong_tensors_are_named(settings, weights):
    with pytest.raises(HgladError, match="tensor 'mapping.fc0.bias' is missing: expected shape"):
        StyleGANXL.from_tensors(settings, {k: v for k, v in weights.items() if k != "mapping.fc0.bias"})
    with pytest.raises(HgladError, match=r"'mapping.fc0.bias' has shape \[3\]: expected \[64\]"):
        StyleGANXL.from_tensors(settings, weights | {"mapping.fc0.bias": torch.zeros(3)})
    with pytest.raises(HgladError, match="'extra' is not part"):
        StyleGANXL.from_tensors(settings, weights | {"extra": torch.zeros(3)})


def test_settings_of_other_networks_are_refused(settings, weights):
    for changes, message in (
        ({"kind": "stylegan2"}, "kind 'stylegan2'"),
        ({"use_radial_filters": True}, "use_radial_filters"),
        ({"margin_size": 8}, "settings give layers"),
    ):
        with pytest.raises(HgladError, match=message):
            StyleGANXL.from_tensors(settings | changes, weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filter_size": 10**9}, "filter_size of a generator is 1000000000: expected 1 to 32"),
        ({"num_layers": 2}, "num_layers of a generator is 2: expected 3 to 64"),
        ({"heads": (Head(3, 4),)}, "up_factor of a head is 3"),
        ({"heads": (Head(2, 2),)}, "layers of a head is 2: expected 3 to 64"),
        ({"heads": (Head(16, 4), Head(16, 4))}, "images of 8192 px"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(HgladError, match=message):
        StyleGANXLSettings(**changes)


def test_nested_stems_are_the_same_as_a_list_of_heads():
    stem = {"img_resolution": 16, "num_layers": 10, "channel_base": 1024, "channel_max": 16}
    middle = {"kind": "superres", "stem": stem, "up_factor": 2, "head_layers": 5}
    nested = {"kind": "superres", "w_dim": 32, "stem": middle, "up_factor": 4, "head_layers": 4}
    flat = {"w_dim": 32, **stem, "heads": [{"up_factor": 2, "layers": 5}, {"up_factor": 4, "layers": 4}]}
    settings = StyleGANXLSettings.from_dict(nested)
    assert settings == StyleGANXLSettings.from_dict(flat) and settings.resolution == 128
    names = [plan.name.split("_")[0] for plan in plan_layers(settings)]
    assert names == [f"L{n}" for n in (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16)]


def test_an_unconditional_generator_ignores_labels(settings):
    network = StyleGANXL.random(
        StyleGANXLSettings.from_dict(settings | {"c_dim": 0}), torch.Generator().manual_seed(0)
    )
    assert not any("embed" in name for name in network.state_dict())
    network.measure_w_avg(torch.Generator().manual_seed(1))
    network.set_truncation(0.5)
    one, other = (
        network.sample(labels, torch.Generator().manual_seed(2)).w
        for labels in (torch.tensor([0, 1]), torch.tensor([5, 7]))
    )
    assert torch.equal(one, other)
    network.set_truncation(1.0)
    whole = network.sample(torch.tensor([0, 1]), torch.Generator().manual_seed(2)).w
    assert relative_error(network.mapping.w_avg.lerp(whole, 0.5), one) < 1e-6


def test_split_points_out_of_range_are_refused(generator, latents):
    with pytest.raises(HgladError, match="split point 4 to 2"):
        generator.advance(latents, 4, 2)
