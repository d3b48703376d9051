"""What every family of generators has to do, their files, and untrained generators by recipe."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from hglad.analysis.tables import prior_table
from hglad.data.datasets import load_data
from hglad.errors import HgladError
from hglad.evaluation.training import train_classifier
from hglad.networks import create_network
from hglad.paths import PROJECT
from hglad.priors import PRIORS, Latents, PixelPrior, files, load_prior, prior_card, prior_hash, save_prior
from hglad.priors.biggan import BigGANSettings
from hglad.priors.files import check_obtainable, training_recipe
from hglad.priors.stylegan_xl import StyleGANXLSettings
from hglad.priors.training.quality import draw_samples
from hglad.search.distillation import DistillationSettings, distill
from hglad.settings import DataSettings, MetricSettings, SearchSettings, SurrogateSettings, TrainingSettings
from hglad.storage import read_json, write_json

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
def prior(kind):
    """Untrained and frozen."""
    return PRIORS.get(kind).untrained(TINY[kind], seeded())


# Pixels


def test_pixels_start_from_distinct_real_images_of_their_class(few_digits):
    labels = torch.arange(10).repeat_interleave(4)
    latents = PixelPrior(few_digits).sample(labels, seeded())
    assert latents.w is None and latents.f.shape == (40, 1, 8, 8)
    for label in range(10):
        real = few_digits.images[few_digits.offsets[label] : few_digits.offsets[label + 1]]
        distances = torch.cdist(latents.f[labels == label].flatten(1), real.flatten(1) / 255)
        assert (distances.amin(dim=1) < 1e-6).all() and len(set(distances.argmin(dim=1).tolist())) == 4


def test_pixels_are_their_own_images_and_noise_is_standard_normal_after_normalizing(few_digits):
    prior = PixelPrior(few_digits, "noise")
    latents = prior.sample(torch.arange(10).repeat_interleave(20), seeded())
    noise = few_digits.normalize(latents.f)
    torch.testing.assert_close(noise, torch.randn(200, 1, 8, 8, generator=seeded()), rtol=1e-4, atol=1e-5)
    assert prior.layers == ("pixels",) and prior.advance(latents, 0, 0) is latents
    assert torch.equal(prior.decode(latents, 0), latents.f) and prior.weights(0) == {}
    with pytest.raises(HgladError, match="unknown start 'reel' .* expected real or noise"):
        PixelPrior(few_digits, "reel")
    with pytest.raises(HgladError, match="average is 10"):
        prior.sample(torch.arange(10), seeded(), average=10)


# Layers


def test_the_prior_is_cut_into_its_layers(prior):
    last = len(prior.layers) - 1
    assert prior.layers[-1] == "pixels" and len(prior.layer_names) == last
    w = prior.map(torch.randn(10, 8, generator=seeded()).clamp(-2, 2), LABELS)
    start = features = prior.start(w)
    images = prior.decode(start, 0)
    assert images.shape == (10, 1, 8, 8) and images.isfinite().all() and images.std() > 0.05
    assert torch.equal(prior.decode(Latents(w, None), 0), images)
    torch.testing.assert_close(images[2:3], prior.decode(Latents(w[2:3], None), 0), rtol=1e-5, atol=1e-6)
    table = prior.describe()
    assert table["layer"].tolist() == list(prior.layers) and table["scale"].iloc[-1] == 1
    for layer, row in table.iterrows():
        assert features.f.shape[1:] == (row["channels"], row["size"], row["size"])
        torch.testing.assert_close(prior.decode(features, layer), images)
        features = prior.advance(features, layer, min(layer + 1, last))
    for src, dst in ((2, 1), (0, last + 1)):
        expected = f"split point {src} to {dst}: expected 0 <= src <= dst <= {last}"
        with pytest.raises(HgladError, match=expected):
            prior.advance(start, src, dst)


def test_a_row_of_w_acts_on_nothing_before_its_layer(prior):
    w = prior.sample(LABELS, seeded()).w
    plain = [prior.advance(Latents(w, None), 0, layer).f for layer in range(len(prior.layers))]
    for row in range(1, prior.num_ws):
        moved = w.clone()
        moved[:, row] += 0.5
        for layer, features in enumerate(plain):
            assert torch.equal(prior.advance(Latents(moved, None), 0, layer).f, features) == (layer < row)


@pytest.mark.parametrize("layer", [0, 1, 2, -2])
def test_gradients_against_finite_differences(prior, layer):
    """Of the styles, the features and the generator's own weights together."""
    prior, layer, rng = prior.double(), layer % len(prior.layers), seeded()
    w = prior.sample(LABELS[:4], rng).w.double()
    start = prior.advance(Latents(w, None), 0, layer)
    start = Latents(start.w, start.f, prior.weights(layer))
    along = start.map(lambda x: torch.randn(x.shape, generator=rng, dtype=torch.float64)).tensors()
    cotangent = torch.randn(4, 1, 8, 8, generator=rng, dtype=torch.float64)

    def value(tensors) -> torch.Tensor:
        return (prior.decode(Latents.of(tensors), layer) * cotangent).sum()

    own, step = start.tensors(), 1e-7  # short: a step across the kink of a ReLU is an error of first order
    ahead, behind = (value({k: x + sign * step * along[k] for k, x in own.items()}) for sign in (1, -1))
    variables = start.map(lambda x: x.detach().requires_grad_()).tensors()
    gradients = torch.autograd.grad(value(variables), list(variables.values()), materialize_grads=True)
    product = sum((g * along[k]).sum() for k, g in zip(variables, gradients, strict=True))
    assert product.item() == pytest.approx(((ahead - behind) / (2 * step)).item(), rel=1e-5)


def test_weights_are_those_behind_a_split_point_and_take_the_place_of_its_own(prior):
    latents, last = prior.sample(LABELS, seeded()), len(prior.layers) - 1
    names = [set(prior.weights(layer)) for layer in range(last + 1)]
    assert all(after < before for before, after in zip(names, names[1:], strict=False)) and names[-1] == set()
    middle = prior.advance(latents, 0, 2)
    own, usual = prior.weights(2), prior.decode(middle, 2)
    assert torch.equal(prior.decode(Latents(middle.w, middle.f, own), 2), usual)
    for name in own:  # every one of them acts on the images
        changed = own | {name: own[name] + torch.randn(own[name].shape, generator=seeded())}
        assert not torch.equal(prior.decode(Latents(middle.w, middle.f, changed), 2), usual)
    assert torch.equal(prior.decode(middle, 2), usual)


# Samples


def test_samples_follow_from_their_seed_and_class(prior):
    first, same, other = (prior.sample(LABELS, seeded(seed)).w for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)
    swapped = prior.sample(LABELS.flip(0), seeded(1)).w
    assert all(not torch.equal(a, b) for a, b in zip(first, swapped, strict=True))
    center = prior.sample(LABELS, seeded(3), average=2000).w
    mean = prior.sample(LABELS, seeded(1), average=50).w
    assert mean.shape == first.shape and (mean - center).norm() < (first - center).norm() / 4


def test_truncation_brings_samples_of_a_class_together(prior):
    def spread(truncation: float) -> float:
        latents = prior.set_truncation(truncation).sample(torch.zeros(50, dtype=torch.long), seeded())
        return prior.decode(latents, 0).std(dim=0).mean().item()

    assert spread(0.0) < 1e-6 < spread(0.3) < spread(1.0)
    with pytest.raises(HgladError, match="truncation of a generator is 1.5: expected 0 to 1"):
        prior.set_truncation(1.5)


def test_an_untrained_generator_follows_from_its_seed_and_is_frozen(kind, prior):
    before = torch.random.get_rng_state()
    same, other = (PRIORS.get(kind).untrained(TINY[kind], seeded(seed)) for seed in (0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)  # no draw from the global generator
    tensors = prior.state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in same.state_dict().items())
    assert not torch.equal(*map(parameters_to_vector, (prior.parameters(), other.parameters())))
    assert not prior.training and not any(p.requires_grad for p in prior.parameters())


# Files


def test_a_generator_comes_back_from_its_file(kind, prior, tmp_path):
    name = str(tmp_path / "tiny.safetensors")
    save_prior(name, prior, {"quality": {"intended_class": 97.5}})
    read, card, latents = load_prior(name), prior_card(name), prior.sample(LABELS, seeded())
    assert torch.equal(read.decode(latents, 0), prior.decode(latents, 0)) and read.settings == TINY[kind]
    assert not read.training and not any(p.requires_grad for p in read.parameters())
    assert card["kind"] == kind and card["quality"] == {"intended_class": 97.5}
    assert card["settings"] == TINY[kind].to_dict() | {"layer_names": prior.layer_names}


def test_the_hash_of_a_prior_follows_its_tensors_and_settings(prior, tmp_path):
    name = str(tmp_path / "tiny.safetensors")
    save_prior(name, prior, {"started": "first"})
    first = prior_hash(name)
    save_prior(name, prior, {"started": "second"})
    assert prior_hash(name) == first  # the rest of the card is no part of it
    next(prior.parameters()).view(-1)[0].add_(1e-3)
    save_prior(name, prior, {})
    second, card = prior_hash(name), read_json(tmp_path / "tiny.json")
    write_json(tmp_path / "tiny.json", card | {"settings": card["settings"] | {"z_dim": 9}})
    assert len({first, second, prior_hash(name)}) == 3 and prior_hash("pixels") == "pixels"


SHIPPED = {  # results name the generators that they were made with by these
    "digits-16": "914d6826ed44510bbf3c3da4d2aad702679589af44332b6b2a5b285cb4fd5ae3",
    "digits-16-biggan": "7f8c295f6fa96f010f305c96aef1936c606262f9584d1e51ca993dd2a7f6f05c",
    "cifar10-32": "e3c3e5b44a14a5cbc16b36547a01f1359e8107a984f059ec6b0e80dd618e2d9d",
    "imagenette-32": "8952d89d0db7c97a38be46bb0801406f7a30cc6341e5c6dab89a6203d9aab378",
    "imagenette-64": "d587cb328c8473ef38bfe5d8940e61ca231dddf00a14db9e645a375d229e71d3",
    "random-32": "092d03ea8ea2",
}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_hash_of_a_shipped_prior_stays(name):
    assert prior_hash(name) == SHIPPED[name]


def test_a_file_that_does_not_fit_is_a_clear_error(kind, prior, tmp_path):
    name, file = str(tmp_path / "tiny.safetensors"), tmp_path / "tiny.safetensors"
    save_prior(name, prior, {})
    content, card = file.read_bytes(), read_json(tmp_path / "tiny.json")
    file.write_bytes(content[:1000])
    with pytest.raises(HgladError, match="cannot read .*tiny.safetensors"):
        load_prior(name)
    file.write_bytes(content)
    for changes, message in (
        ({"kind": "bigan"}, r"unknown kind of prior 'bigan': did you mean 'biggan'\?"),
        ({"settings": card["settings"] | {"z_dim": 9}}, r"^tensor '\S*' has shape .*: expected"),
        ({"settings": card["settings"] | {"layer_names": ["x"]}}, "settings give layers .*: expected"),
    ):
        write_json(tmp_path / "tiny.json", card | changes)
        with pytest.raises(HgladError, match=message):
            load_prior(name)
    tensors = prior.state_dict()
    missing = next(iter(tensors))
    for given, message in (
        ({key: x for key, x in tensors.items() if key != missing}, f"'{missing}' is missing: expected shape"),
        (tensors | {"extra": torch.zeros(3)}, "'extra' is not part"),
    ):
        with pytest.raises(HgladError, match=message):
            type(prior).from_tensors(card["settings"], given)
    (tmp_path / "tiny.json").unlink()
    with pytest.raises(HgladError, match="tiny.json"):
        load_prior(name)


# Recipes


def write_recipe(path: Path, kind: str, seed: int = 0, **settings) -> str:
    path.write_text(f"kind: {kind}\nseed: {seed}\nsettings: {settings}\n".replace("None", "null"))
    return str(path)


def test_a_recipe_builds_the_same_generator_every_time(kind, tmp_path):
    name = write_recipe(tmp_path / "tiny.yaml", kind, 3, **TINY[kind].to_dict())
    expected = PRIORS.get(kind).untrained(TINY[kind], seeded(3)).state_dict()
    for network in (load_prior(name), load_prior(name)):
        assert all(torch.equal(expected[key], tensor) for key, tensor in network.state_dict().items())
    assert prior_card(name) == {"kind": kind, "settings": TINY[kind].to_dict(), "seed": 3}


def test_the_hash_of_a_recipe_follows_what_it_builds(kind, tmp_path, monkeypatch):
    own = TINY[kind].to_dict()
    names = [
        write_recipe(tmp_path / f"{number}.yaml", kind, seed, **settings)
        for number, (seed, settings) in enumerate(((0, own), (0, own), (1, own), (0, own | {"c_dim": 3})))
    ]
    first = prior_hash(names[0])
    assert [prior_hash(name) == first for name in names] == [True, True, False, False]
    bare = write_recipe(tmp_path / "bare.yaml", kind)
    stated = write_recipe(tmp_path / "stated.yaml", kind, **type(TINY[kind])().to_dict())
    assert prior_hash(stated) == prior_hash(bare) != first
    monkeypatch.setattr(files, "VERSION", 1000)
    assert prior_hash(names[0]) != first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("kind: bigan", r"unknown kind of prior 'bigan': did you mean 'biggan'\?"),
        ("seed: 1", "key 'kind' is missing"),
        ("{kind: biggan, seeds: 1}", r"unknown key 'seeds': did you mean 'seed'\?"),
        ("{kind: biggan, settings: {zdim: 1}}", r"unknown key 'settings.zdim': did you mean 'z_dim'\?"),
        ("{kind: biggan, settings: 3}", "settings is 3: expected a mapping"),
        ("{kind: biggan, seed: -1}", "seed is -1: expected at least 0"),
        ("{kind: biggan, seed: one}", r"seed is 'one' \(str\): expected a whole number"),
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


# Standard deviation over all, within an image and between images of one class, of the shipped recipe.
GOLDEN_RANDOM = {1: [0.14467221, 0.066578530, 0.11013465]}


def test_the_shipped_recipe_makes_images_of_some_contrast(check_golden):
    prior = load_prior("random-32")
    images = prior.decode(prior.sample(LABELS.repeat(5), seeded()), 0)
    assert images.shape == (50, 3, 32, 32) and 0.3 < images.mean() < 0.7
    deviations = images.std(), images.std(dim=(2, 3)).mean(), images.view(5, 10, 3, 32, 32).std(dim=0).mean()
    check_golden("recipe", GOLDEN_RANDOM, [deviation.item() for deviation in deviations])


# Names


@pytest.fixture
def project(tmp_path, monkeypatch, prior) -> Path:
    """A project with the generators `drawn` and `leafy`, and the recipe `leaves` of one to be trained."""
    for folder in ("data/priors", "configs/priors"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "configs" / "priors" / "leaves.yaml").write_text("data: {name: digits}\n")
    write_recipe(tmp_path / "data" / "priors" / "drawn.yaml", "biggan", **TINY["biggan"].to_dict())
    save_prior(tmp_path / "data" / "priors" / "leafy", prior, {})
    monkeypatch.setattr(files, "PROJECT", tmp_path)
    return tmp_path


def test_a_prior_goes_by_its_name(project, prior):
    assert load_prior("leafy").layers == prior.layers
    assert load_prior("drawn").layers == ("input", "B0_4_16", "B1_8_8", "pixels")
    with pytest.raises(HgladError, match=r"unknown prior 'leaf': did you mean 'leafy'\?"):
        load_prior("leaf")
    for suffix in ("safetensors", "yaml"):
        with pytest.raises(HgladError, match=f"no prior at .*absent.{suffix}: expected a .{suffix} file"):
            load_prior(str(project / f"absent.{suffix}"))


def test_a_missing_generator_has_its_recipe(project):
    assert training_recipe("leaves") == project / "configs" / "priors" / "leaves.yaml"
    for name in ("leaves", "leafy", "drawn"):
        check_obtainable("prior", name)
    (project / "configs" / "priors" / "leafy.yaml").touch()
    assert training_recipe("leafy") is None  # it is there


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("leafs", "did you mean 'leaf.*'?.* write configs/priors/leafs.yaml"),
        ("imagenet128", "hglad prior import --name imagenet128 --out data/priors/imagenet128"),
        *((name, "") for name in ("configs/priors/leaves", "../priors/leaves", "leaves.safetensors", "")),
    ],
)
def test_what_can_be_done_without_a_recipe_is_said(project, name, advice):
    assert training_recipe(name) is None
    with pytest.raises(
        HgladError, match=f"prior names the generator .*, which is not there: .*{advice}"
    ) as e:
        check_obtainable("prior", name)
    assert "\n" not in str(e.value)


# Searches through them


NETWORK = {"name": "convnet", "depth": 1, "width": 4}


def distillation(prior: str, **search) -> DistillationSettings:
    training = TrainingSettings(epochs=1, batch_size=256, lr=0.01, augmentation="", ema_decay=None)
    rates = {"rates": "relative", "lr_features": 0.1, "lr_latents": 0.02, "lr_pixels": 0.1}
    return DistillationSettings(
        data=DataSettings(name="digits", resolution=8),
        prior=prior,
        search=SearchSettings(**rates | search),
        surrogate=SurrogateSettings(network=NETWORK, augmentation="", batch_real=8),
        metric=MetricSettings(network=NETWORK, training=training),
    )


def test_a_set_is_distilled_through_all_layers(kind, prior, tmp_path, monkeypatch):
    name = str(tmp_path / "tiny.safetensors")
    save_prior(name, prior, {})
    made = distill(distillation(name, steps=10, select_every=1))
    history = [distance for *_, distance in made.card["history"]]
    assert len(made.card["stages"]) == len(prior.layers) and made.images.isfinite().all()
    assert min(history) < history[0]
    first = [distill(distillation(name, steps=1, stages=(0,), truncation=t)).images for t in (1.0, 0.2)]
    assert not torch.equal(*first)
    before = distillation(name).fingerprint
    for module in PRIORS.names():  # the version of a family is in the keys of its sets
        with monkeypatch.context() as patch:
            patch.setattr(import_module(f"hglad.priors.{module}"), "VERSION", 1000)
            assert (distillation(name).fingerprint != before) == (module == kind)


# The generators of the project


@pytest.mark.parametrize("name", ["digits-16", "digits-16-biggan"])
def test_a_shipped_generator_is_as_good_as_its_card_says(name):
    card, data, prior = prior_card(name), load_data("digits"), load_prior(name)
    assert card["data"]["content_hash"] == data.train.content_hash
    assert card["quality"]["samples"] == 2000 and card["quality"]["intended_class"] >= 97
    assert card["quality"]["trained_on_samples"] >= 90
    assert card["provenance"]["clean"] and len(card["provenance"]["commit"]) == 40
    judge = create_network("convnet", data.train.image_shape, 10, seeded(7), depth=3, width=16)
    protocol = TrainingSettings(epochs=8, batch_size=64, lr=0.02, augmentation="", ema_decay=None)
    real = data.train
    train_classifier(judge, real.images, real.labels, real.normalize, protocol, seeded(8))
    images, labels = draw_samples(prior, 300, seed=11)
    with torch.no_grad():
        assert (judge(real.normalize(images)).argmax(dim=1) == labels).double().mean() > 0.95
    for label in range(10):  # samples of a class differ
        digits = images[labels == label].flatten(1)
        assert torch.cdist(digits, digits)[~torch.eye(len(digits), dtype=torch.bool)].min() > 0.1


def test_the_page_of_a_prior_says_how_it_was_made(kind, prior, tmp_path):
    recipe = write_recipe(tmp_path / "drawn.yaml", kind, 3, **TINY[kind].to_dict())
    save_prior(tmp_path / "imported.safetensors", prior, {})
    assert "none: weights drawn from seed 3" in repr(prior_table(recipe))
    assert "not by this project" in repr(prior_table(str(tmp_path / "imported.safetensors")))
    assert "5,000 steps of 32 images" in repr(prior_table("digits-16"))


def test_recipes_of_the_project_make_generators_small_enough_to_be_committed():
    from hglad.priors.base import kind_of
    from hglad.priors.training.train import PriorSettings, with_stem

    for path in sorted((PROJECT / "configs" / "priors").glob("*.yaml")):
        training = PriorSettings.from_yaml(path).training
        settings = with_stem(training.stem, training.generator) if training.stem else training.generator
        made = PRIORS.get(kind_of(settings)).allocated(settings)
        assert sum(x.numel() * x.element_size() for x in made.state_dict().values()) < 12e6
