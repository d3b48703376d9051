"""What every family of generators has to do, and untrained generators by recipe."""

from importlib import import_module

import pytest
import torch
from replacing import replace
from torch.nn.utils import parameters_to_vector

from hglad.analysis.report import prior_table
from hglad.cli import main
from hglad.errors import HgladError
from hglad.priors import PRIORS, Latents, load_prior, prior_card, prior_hash, recipe, save_prior
from hglad.priors.biggan import BigGANSettings
from hglad.priors.registry import family, generator_settings, kind_of
from hglad.priors.stylegan_xl import StyleGANXL, StyleGANXLSettings
from hglad.priors.training.gan import GANSettings, GANTraining
from hglad.priors.training.quality import QualitySettings
from hglad.priors.training.train import PriorSettings, read_prior_settings, train_prior
from hglad.search.distillation import DistillationSettings, distill
from hglad.settings import (
    DataSettings,
    MetricSettings,
    SearchSettings,
    SurrogateSettings,
    TrainingSettings,
    to_dict,
)

TINY = {  # generators of 8 px digits
    "biggan": BigGANSettings(
        z_dim=8, c_dim=10, img_resolution=8, img_channels=1, channel_width=8,
        layers=((False, 2, 2), (True, 2, 1)), attention_layer_position=1, n_stats=3,
    ),
    "stylegan_xl": StyleGANXLSettings(
        z_dim=8, c_dim=10, w_dim=8, img_resolution=8, img_channels=1, channel_base=64, channel_max=8,
        num_layers=3, embedding=(10, 8), margin_size=2,
    ),
}  # fmt: skip
LABELS = torch.arange(10)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=PRIORS.names())
def kind(request) -> str:
    return request.param


@pytest.fixture
def untrained(kind):
    return family(kind).untrained(TINY[kind], seeded())


# Families


def test_the_prior_is_cut_into_its_layers(kind, untrained):
    prior, last = untrained, len(untrained.layers) - 1
    assert prior.layers[-1] == "pixels" and len(prior.layer_names) == last
    w = prior.map(torch.randn(10, 8, generator=seeded()).clamp(-2, 2), LABELS)
    start = prior.start(w)
    images = prior.decode(start, 0)
    assert images.shape == (10, 1, 8, 8) and images.isfinite().all() and images.std() > 0.05
    assert torch.equal(prior.decode(Latents(w, None), 0), images)
    features = start
    for layer in range(last + 1):
        torch.testing.assert_close(prior.decode(features, layer), images)
        if layer < last:
            features = prior.advance(features, layer, layer + 1)
    assert prior.advance(features, last, last).f is features.f
    with pytest.raises(HgladError, match=f"from split point 2 to 1: expected 0 <= src <= dst <= {last}"):
        prior.advance(start, 2, 1)


def test_samples_follow_from_their_seed_and_class(untrained):
    first, same, other = (untrained.sample(LABELS, seeded(seed)).w for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)
    swapped = untrained.sample(LABELS.flip(0), seeded(1)).w
    assert all(not torch.equal(a, b) for a, b in zip(first, swapped, strict=True))
    assert untrained.sample(LABELS, seeded(1), average=5).w.shape == first.shape


def test_truncation_brings_samples_of_a_class_together(untrained):
    def spread(truncation: float) -> float:
        prior = untrained.set_truncation(truncation)
        latents = prior.sample(torch.zeros(50, dtype=torch.long), seeded())
        return prior.decode(latents, 0).std(dim=0).mean().item()

    assert spread(0.0) < 1e-6 < spread(0.3) < spread(1.0)


def test_an_untrained_generator_follows_from_its_seed_and_is_frozen(kind, untrained):
    same, other = (family(kind).untrained(TINY[kind], seeded(seed)) for seed in (0, 1))
    tensors = untrained.state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in same.state_dict().items())
    assert not torch.equal(*map(parameters_to_vector, (untrained.parameters(), other.parameters())))
    assert not untrained.training and not any(p.requires_grad for p in untrained.parameters())


def test_a_generator_comes_back_from_its_file(kind, untrained, tmp_path):
    name = str(tmp_path / "tiny.safetensors")
    save_prior(name, untrained, {})
    latents = untrained.sample(LABELS, seeded())
    assert torch.equal(load_prior(name).decode(latents, 0), untrained.decode(latents, 0))
    assert prior_card(name)["kind"] == kind and load_prior(name).settings == TINY[kind]
    before = prior_hash(name)
    next(untrained.parameters()).view(-1)[0].add_(1e-3)
    save_prior(name, untrained, {})
    assert prior_hash(name) != before


def test_a_file_of_an_unknown_family_is_a_clear_error(untrained, tmp_path):
    save_prior(tmp_path / "tiny", untrained, {"kind": "bigan"})
    with pytest.raises(HgladError, match=r"unknown kind of prior 'bigan': did you mean 'biggan'\?"):
        load_prior(str(tmp_path / "tiny.safetensors"))


SURROGATE = SurrogateSettings({"name": "convnet", "depth": 1, "width": 4}, "", 8)
METRIC = MetricSettings(
    network={"name": "convnet", "depth": 1, "width": 4},
    training=TrainingSettings(epochs=1, batch_size=256, lr=0.01, augmentation="", ema_decay=None),
)


def distillation(prior: str, **search) -> DistillationSettings:
    rates = {"rates": "relative", "lr_features": 0.1, "lr_latents": 0.02, "lr_pixels": 0.1}
    return DistillationSettings(
        DataSettings("digits", resolution=8), prior, SearchSettings(**rates | search), SURROGATE, METRIC
    )


def test_a_set_is_distilled_through_all_layers(kind, untrained, tmp_path):
    name = str(tmp_path / "tiny.safetensors")
    save_prior(name, untrained, {})
    settings = distillation(name, steps=10, select_every=1)
    made = distill(settings)
    history = [distance for *_, distance in made.card["history"]]
    assert len(made.card["stages"]) == len(untrained.layers) and made.images.isfinite().all()
    assert min(history) < history[0]
    first = [distill(distillation(name, steps=1, stages=(0,), truncation=t)).images for t in (1.0, 0.2)]
    assert not torch.equal(*first)


def test_the_version_of_a_family_is_in_its_fingerprints(kind, untrained, tmp_path, monkeypatch):
    name = str(tmp_path / "tiny.safetensors")
    save_prior(name, untrained, {})
    before = distillation(name).fingerprint
    for module, changes in ((kind, True), *((other, False) for other in PRIORS.names() if other != kind)):
        with monkeypatch.context() as patch:
            patch.setattr(import_module(f"hglad.priors.{module}"), "VERSION", 1000)
            assert (distillation(name).fingerprint != before) == changes


# Training


def test_training_improves_both_losses_of_any_family(kind, few_digits):
    training = GANSettings(TINY[kind], batch_size=16, width=4, augmentation="", lr=0.01, r1_gamma=0.0)
    run = GANTraining(few_digits, training)
    first = run.step()
    against = [run._update_discriminator().item() for _ in range(20)]
    assert against[-1] < first["discriminator"]
    fooled = [run._update_generator().item() for _ in range(20)]
    assert fooled[-1] < fooled[0]


def test_the_kind_of_a_trained_generator_is_a_setting(kind, tmp_path):
    generator = {"kind": kind} | to_dict(TINY[kind]) | {"c_dim": 4}  # the classes follow the data set
    settings = PriorSettings(
        DataSettings("digits", resolution=8),
        GANSettings(generator, steps=2, batch_size=4, width=4),
        QualitySettings(samples=20, epochs=1, width=4),
    )
    card = train_prior(settings, tmp_path / "tiny")
    assert generator_settings(card["training"]["generator"]) == TINY[kind]
    read = load_prior(str(tmp_path / "tiny.safetensors"))
    assert kind_of(read.settings) == kind and read.settings == TINY[kind]


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        ("{kind: bigan}", r"unknown kind of prior 'bigan': did you mean 'biggan'\?"),
        ("{kind: biggan, w_dim: 3}", "unknown key 'training.generator.w_dim': did you mean 'z_dim'"),
        ("{w_dims: 3}", r"unknown key 'training.generator.w_dims': did you mean 'w_dim'\?"),
        ("biggan", "training.generator is 'biggan': expected a mapping"),
        ("{kind: biggan, layers: [[true, 2]]}", r"training.generator.layers\[0\] is \[True, 2\]"),
    ],
)
def test_an_impossible_generator_is_a_clear_error(generator, message, tmp_path):
    file = tmp_path / "prior.yaml"
    file.write_text(f"data: {{name: digits}}\ntraining: {{generator: {generator}}}\n")
    with pytest.raises(HgladError, match=message) as error:
        read_prior_settings(file)
    assert "\n" not in str(error.value)


# Recipes


def write_recipe(path, kind: str, seed: int = 0, **settings) -> str:
    path.write_text(f"kind: {kind}\nseed: {seed}\nsettings: {settings}\n".replace("None", "null"))
    return str(path)


def test_a_recipe_builds_the_same_generator_every_time(kind, tmp_path):
    name = write_recipe(tmp_path / "tiny.yaml", kind, 3, **to_dict(TINY[kind]))
    first, second = load_prior(name), load_prior(name)
    expected = family(kind).untrained(TINY[kind], seeded(3)).state_dict()
    for network in (first, second):
        assert all(torch.equal(expected[key], tensor) for key, tensor in network.state_dict().items())
    card = prior_card(name)
    assert card == {"kind": kind, "settings": to_dict(TINY[kind]), "seed": 3}


def test_the_hash_of_a_recipe_follows_what_it_builds(kind, tmp_path):
    own = to_dict(TINY[kind])
    name = write_recipe(tmp_path / "a.yaml", kind, **own)
    written = {
        "same": write_recipe(tmp_path / "b.yaml", kind, **own),
        "seed": write_recipe(tmp_path / "c.yaml", kind, 1, **own),
        "settings": write_recipe(tmp_path / "d.yaml", kind, **own | {"img_channels": 3}),
    }
    assert [prior_hash(name) == prior_hash(other) for other in written.values()] == [True, False, False]
    defaults = [write_recipe(tmp_path / "e.yaml", kind), write_recipe(tmp_path / "f.yaml", kind, z_dim=8)]
    assert prior_hash(defaults[0]) != prior_hash(defaults[1])
    stated = write_recipe(tmp_path / "g.yaml", kind, **to_dict(type(TINY[kind])()))
    assert prior_hash(stated) == prior_hash(defaults[0])


def test_the_version_of_recipes_is_in_their_hash(tmp_path, monkeypatch):
    name = write_recipe(tmp_path / "a.yaml", "biggan")
    before = prior_hash(name)
    monkeypatch.setattr(recipe, "VERSION", 1000)
    assert prior_hash(name) != before


def test_a_set_is_distilled_through_an_untrained_generator(kind, tmp_path):
    name = write_recipe(tmp_path / "tiny.yaml", kind, **to_dict(TINY[kind]))
    settings = distillation(name, steps=4, stages=(1, 2))
    made = distill(settings, tmp_path / "set")
    assert made.card["prior_hash"] == prior_hash(name) and made.images.shape == (10, 1, 8, 8)
    other = write_recipe(tmp_path / "other.yaml", kind, 1, **to_dict(TINY[kind]))
    assert replace(settings, prior=other).fingerprint != settings.fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("kind: bigan", r"unknown kind of prior 'bigan': did you mean 'biggan'\?"),
        ("seed: 1", "key 'kind' is missing"),
        ("{kind: biggan, seeds: 1}", r"unknown key 'seeds': did you mean 'seed'\?"),
        ("{kind: biggan, settings: {zdim: 1}}", r"unknown key 'settings.zdim': did you mean 'z_dim'\?"),
        ("{kind: biggan, settings: {kind: stylegan_xl}}", "settings are those of a stylegan_xl"),
        ("{kind: biggan, settings: 3}", "settings is 3: expected a mapping"),
        ("{kind: biggan, seed: -1}", "seed is -1: expected 0 or a positive whole number"),
        ("{kind: biggan, seed: one}", r"seed is 'one' \(str\): expected int"),
        ("[", "cannot read"),
    ],
)
def test_a_recipe_that_cannot_be_is_a_clear_error(content, message, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(content)
    for use in (load_prior, prior_card, prior_hash):
        with pytest.raises(HgladError, match=message) as error:
            use(str(file))
        assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_a_recipe_goes_by_its_name(tmp_path, monkeypatch):
    files = import_module("hglad.priors.files")
    monkeypatch.setattr(files, "PROJECT", tmp_path)
    folder = tmp_path / "data" / "priors"
    folder.mkdir(parents=True)
    write_recipe(folder / "random-8.yaml", "biggan", **to_dict(TINY["biggan"]))
    assert load_prior("random-8").layers == ("input", "B0_4_16", "B1_8_8", "pixels")
    with pytest.raises(HgladError, match=r"unknown prior 'random-9': did you mean 'random-8'\?"):
        load_prior("random-9")
    with pytest.raises(HgladError, match="no prior at .*absent.yaml: expected a .yaml file"):
        load_prior(str(tmp_path / "absent.yaml"))


def test_the_page_of_a_prior_without_training_says_so(kind, untrained, tmp_path):
    recipe_file = write_recipe(tmp_path / "drawn.yaml", kind, 3, **to_dict(TINY[kind]))
    imported = str(tmp_path / "imported.safetensors")
    save_prior(imported, untrained, {})
    shown = [repr(prior_table(name)) for name in (recipe_file, imported)]
    assert "none: weights drawn from seed 3" in shown[0] and "not by this project" in shown[1]


def test_an_untrained_stylegan_xl_has_features_of_unit_magnitude():
    """As training would leave it: each layer divides by the magnitude that it is given."""
    prior = StyleGANXL.untrained(TINY["stylegan_xl"], seeded())
    latents = prior.start(prior.sample(LABELS.repeat(100), seeded(5)).w)
    for index in range(len(prior.layer_names)):
        magnitude = prior.synthesis.layer(index).magnitude_ema
        assert latents.f.square().mean().item() == pytest.approx(magnitude.item(), rel=0.15)
        latents = prior.advance(latents, index, index + 1)
    assert prior.mapping.w_avg.any()


# Standard deviation over all, within an image and between images of one class, of the shipped recipe.
GOLDEN_RANDOM = {1: [0.14467221, 0.066578530, 0.11013465]}


def test_the_shipped_recipe_makes_images_of_some_contrast(check_golden, tmp_path, capsys):
    prior = load_prior("random-32")
    assert prior.layers[0] == "input" and prior.layers[-1] == "pixels" and len(prior.layers) == 9
    images = prior.decode(prior.sample(LABELS.repeat(5), seeded()), 0)
    assert images.shape == (50, 3, 32, 32) and 0.3 < images.mean() < 0.7
    deviations = images.std(), images.std(dim=(2, 3)).mean(), images.view(5, 10, 3, 32, 32).std(dim=0).mean()
    assert all(deviation > 0.05 for deviation in deviations)
    found = [deviation.item() for deviation in deviations]
    check_golden("recipe", GOLDEN_RANDOM, found)
    assert (
        main(["prior", "sample", "random-32", "--per-class", "2", "--out", str(tmp_path / "grid.png")]) == 0
    )
    assert (tmp_path / "grid.png").read_bytes()[:4] == b"\x89PNG"


def test_the_page_of_a_trained_prior_writes_large_numbers_with_commas():
    shown = repr(prior_table("digits-16"))
    assert "5,000 steps of 32 images" in shown and "% of 2,000" in shown
