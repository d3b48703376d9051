"""The generator against features and images that the official code computed."""

import json
from pathlib import Path

import pytest
import torch

from hglad.errors import HgladError
from hglad.priors.base import Latents
from hglad.priors.stylegan_xl import StyleGANXL, StyleGANXLSettings
from hglad.storage import read_tensors

FIXTURES = Path(__file__).parent / "fixtures" / "stylegan_xl"


@pytest.fixture(scope="module")
def settings():
    return json.loads((FIXTURES / "stem32.json").read_text())


@pytest.fixture(scope="module")
def weights():
    return read_tensors(FIXTURES / "stem32.weights.safetensors")


@pytest.fixture(scope="module")
def generator(settings, weights):
    return StyleGANXL.from_tensors(settings, weights)


@pytest.fixture(scope="module")
def reference():
    return read_tensors(FIXTURES / "stem32.reference.safetensors")


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


@pytest.mark.parametrize("layer", range(9))
def test_features(generator, reference, latents, settings, layer):
    name = "feature.input" if layer == 0 else f"feature.{layer - 1:02d}"
    features = generator.advance(latents, 0, layer).f
    if layer == 8:  # the fixture holds the raw output of the last layer, the split point holds the image
        features = (features * 2 - 1) / settings["output_scale"]
    assert list(features.shape) == settings["features"][name]
    assert relative_error(features.mean(dim=(2, 3)), reference[f"{name}.mean"]) < 1e-5
    assert relative_error(features[:, ::7, ::5, ::5], reference[f"{name}.sample"]) < 1e-5


@pytest.mark.parametrize("layer", range(9))
def test_decoding_from_any_layer_gives_the_image(generator, reference, latents, layer):
    images = generator.decode(generator.advance(latents, 0, layer), layer)
    assert relative_error(images * 2 - 1, reference["image"]) < 1e-5


def test_missing_features_start_from_the_styles(generator, reference):
    images = generator.decode(Latents(reference["ws"], None), 0)
    assert relative_error(images * 2 - 1, reference["image"]) < 1e-5


def test_images_do_not_depend_on_the_rest_of_the_batch(generator, reference, latents):
    alone = generator.decode(Latents(latents.w[:1], latents.f[:1]), 0)
    assert relative_error(alone * 2 - 1, reference["image"][:1]) < 1e-5


def test_gradient_against_finite_differences(settings, weights, reference):
    generator = StyleGANXL.from_tensors(settings, weights).double()
    start = generator.advance(generator.start(reference["ws"][:1].double()), 0, 5)
    draw = torch.Generator().manual_seed(0)
    shapes = (start.w.shape, start.f.shape, (1, 3, 32, 32))
    *direction, cotangent = (torch.randn(shape, dtype=torch.float64, generator=draw) for shape in shapes)

    def value(step):
        moved = Latents(start.w + step * direction[0], start.f + step * direction[1])
        return (generator.decode(moved, 5) * cotangent).sum()

    w, f = (x.clone().requires_grad_() for x in (start.w, start.f))
    gradients = torch.autograd.grad((generator.decode(Latents(w, f), 5) * cotangent).sum(), (w, f))
    analytic = (gradients[0] * direction[0]).sum() + (gradients[1] * direction[1]).sum()
    numeric = (value(1e-6) - value(-1e-6)) / 2e-6
    assert abs(analytic - numeric) / abs(analytic) < 1e-6


def test_samples_average_mapped_noise(generator):
    labels = torch.tensor([3, 5])
    first, again = (
        generator.sample(labels, torch.Generator().manual_seed(1), average=50).w for _ in range(2)
    )
    single = generator.sample(labels, torch.Generator().manual_seed(1)).w
    centre = generator.sample(labels, torch.Generator().manual_seed(2), average=2000).w
    assert first.shape == (2, 9, 64) and torch.equal(first, again)
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
    with pytest.raises(HgladError, match="kind 'superres'"):
        StyleGANXL.from_tensors(settings | {"kind": "superres"}, weights)
    with pytest.raises(HgladError, match="use_radial_filters"):
        StyleGANXL.from_tensors(settings | {"use_radial_filters": True}, weights)
    with pytest.raises(HgladError, match="settings give layers"):
        StyleGANXL.from_tensors(settings | {"num_layers": 8}, weights)


def test_split_points_out_of_range_are_refused(generator, latents):
    with pytest.raises(HgladError, match="split point 4 to 2"):
        generator.advance(latents, 4, 2)
