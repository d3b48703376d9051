"""Pixels, files of priors, and the adversarial training; the generator itself has its own tests."""

import math
import random
from dataclasses import asdict
from importlib import import_module

import pytest
import torch
from replacing import replace

from hglad import storage
from hglad.errors import HgladError
from hglad.evaluation import training as training_module
from hglad.networks import create_network
from hglad.priors import (
    Latents,
    PixelPrior,
    load_prior,
    prior_card,
    prior_hash,
    save_prior,
)
from hglad.priors.stylegan_xl import StyleGANXL
from hglad.priors.training import gan
from hglad.priors.training.discriminator import Discriminator, FeatureDiscriminator, minibatch_deviation
from hglad.priors.training.gan import GANSettings, GANTraining, discriminator_loss, generator_loss
from hglad.priors.training.quality import QualitySettings, draw_samples, frechet_distance, measure_quality
from hglad.priors.training.train import PriorSettings, read_prior_settings, train_prior
from hglad.settings import DataSettings
from hglad.storage import read_json, read_tensors, write_json

files = import_module("hglad.priors.files")
train = import_module("hglad.priors.training.train")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Pixels


def test_pixels_start_from_distinct_real_images_of_their_class(few_digits):
    labels = torch.arange(10).repeat_interleave(4)
    latents = PixelPrior(few_digits).sample(labels, seeded())
    assert latents.w is None and latents.f.shape == (40, 1, 8, 8)
    for label in range(10):
        start, end = few_digits.offsets[label], few_digits.offsets[label + 1]
        distances = torch.cdist(
            latents.f[labels == label].flatten(1), few_digits.images[start:end].flatten(1) / 255
        )
        assert (distances.amin(dim=1) < 1e-6).all() and len(set(distances.argmin(dim=1).tolist())) == 4


def test_noise_is_standard_normal_after_normalising(few_digits):
    labels = torch.arange(10).repeat_interleave(20)
    images = PixelPrior(few_digits, "noise").sample(labels, seeded()).f
    noise = few_digits.normalize(images)
    torch.testing.assert_close(noise, torch.randn(200, 1, 8, 8, generator=seeded()), rtol=1e-4, atol=1e-5)


def test_pixels_are_their_own_images(few_digits):
    prior = PixelPrior(few_digits)
    latents = prior.sample(torch.arange(10), seeded(1))
    assert prior.layers == ("pixels",) and prior.advance(latents, 0, 0) is latents
    assert torch.equal(prior.decode(latents, 0), latents.f)


def test_impossible_pixel_priors_are_a_clear_error(few_digits):
    with pytest.raises(HgladError, match="unknown start 'reel' .* expected real or noise"):
        PixelPrior(few_digits, "reel")
    with pytest.raises(HgladError, match="average is 10"):
        PixelPrior(few_digits).sample(torch.arange(10), seeded(), average=10)


# Files


def test_a_prior_comes_back_from_its_file(tiny_prior, tmp_path):
    save_prior(tmp_path / "tiny", tiny_prior, {"quality": {"intended_class": 97.5}})
    name = str(tmp_path / "tiny.safetensors")
    read, card = load_prior(name), prior_card(name)
    latents = tiny_prior.sample(torch.arange(10), seeded())
    assert torch.equal(read.decode(latents, 0), tiny_prior.decode(latents, 0))
    assert read.layers == tiny_prior.layers and not any(p.requires_grad for p in read.parameters())
    assert card["kind"] == "stylegan_xl" and card["quality"] == {"intended_class": 97.5}
    assert card["settings"]["layer_names"] == list(tiny_prior.layers[1:-1]) + ["L3_8_1"]
    assert card["settings"]["w_dim"] == tiny_prior.settings.w_dim


def test_the_hash_of_a_prior_follows_its_tensors_and_settings(tiny_settings, tmp_path):
    name = str(tmp_path / "tiny.safetensors")
    prior = StyleGANXL.random(tiny_settings, seeded())
    save_prior(name, prior, {"started": "first"})
    first = prior_hash(name)
    save_prior(name, prior, {"started": "second"})
    assert prior_hash(name) == first  # the rest of the card is no part of it
    prior.synthesis.input.weight.data[0, 0] += 1e-3
    save_prior(name, prior, {})
    second = prior_hash(name)
    card = read_json(tmp_path / "tiny.json")
    write_json(tmp_path / "tiny.json", card | {"settings": card["settings"] | {"output_scale": 0.5}})
    assert len({first, second, prior_hash(name)}) == 3
    assert prior_hash("pixels") == "pixels"


def test_a_prior_goes_by_its_name(tiny_prior, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PROJECT", tmp_path)
    save_prior(tmp_path / "data" / "priors" / "digits-16", tiny_prior, {})
    assert load_prior("digits-16").layers == tiny_prior.layers
    with pytest.raises(HgladError, match=r"unknown prior 'digit-16': did you mean 'digits-16'\?"):
        load_prior("digit-16")
    with pytest.raises(HgladError, match="no prior at .*absent.safetensors: expected"):
        load_prior(str(tmp_path / "absent.safetensors"))


def test_a_damaged_prior_is_a_clear_error(tiny_prior, tmp_path):
    save_prior(tmp_path / "tiny", tiny_prior, {})
    name, file = str(tmp_path / "tiny.safetensors"), tmp_path / "tiny.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:1000])
    with pytest.raises(HgladError, match="cannot read .*tiny.safetensors"):
        load_prior(name)
    file.write_bytes(content)
    card = read_json(tmp_path / "tiny.json")
    write_json(tmp_path / "tiny.json", card | {"settings": card["settings"] | {"w_dim": 9}})
    with pytest.raises(HgladError, match="has shape .*: expected"):
        load_prior(name)
    (tmp_path / "tiny.json").unlink()
    with pytest.raises(HgladError, match="tiny.json"):
        load_prior(name)


# Discriminator


@pytest.mark.parametrize("size", [8, 16, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_discriminator_gives_one_logit_per_image(size, channels):
    network = Discriminator((channels, size, size), 10, width=4)
    logits = network(torch.rand(6, channels, size, size, generator=seeded()), torch.arange(6))
    assert logits.shape == (6,) and logits.isfinite().all()
    assert len(network.blocks) == int(math.log2(size)) - 2


@pytest.mark.parametrize("size", [4, 6, 12, 24])
def test_other_resolutions_are_a_clear_error(size):
    with pytest.raises(HgladError, match=f"generator at {size} px: expected a power of two of at least 8"):
        Discriminator((1, size, size), 10)


def test_the_discriminator_judges_image_and_label():
    network = Discriminator((1, 8, 8), 10, width=4)
    images = torch.rand(4, 1, 8, 8, generator=seeded())
    logits = [network(images, torch.full((4,), label)) for label in (0, 1)]
    assert not torch.allclose(*logits) and len(set(logits[0].tolist())) == 4


@pytest.mark.parametrize(("count", "group"), [(8, 4), (6, 2), (3, 1)])
def test_minibatch_deviation(count, group):
    x = torch.randn(count, 3, 2, 2, generator=seeded(), dtype=torch.float64)
    y = minibatch_deviation(x)
    assert torch.equal(y[:, :3], x) and y.shape == (count, 4, 2, 2)
    per_group = count // group
    for index in range(count):
        together = x[index % per_group :: per_group]
        deviation = ((together - together.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(y[index, 3], deviation.expand(2, 2))


@pytest.mark.parametrize(("size", "places"), [(32, [16, 16, 16]), (8, [16, 16, 4])])
def test_discriminators_of_features_judge_the_maps_of_each_block(size, places):
    classifier = create_network("convnet", (3, size, size), 10, depth=3, width=6).requires_grad_(False)
    before = torch.random.get_rng_state()
    judge = FeatureDiscriminator(classifier, 10, 5, seeded())
    assert torch.equal(torch.random.get_rng_state(), before)
    images = torch.randn(4, 3, size, size, generator=seeded())
    for block, maps in enumerate(judge.maps(images)):
        assert torch.equal(maps, classifier.feature_maps(images, block))
    logits = judge(images, torch.arange(4))
    assert [tuple(each.shape) for each in logits] == [(4, count) for count in places]
    assert all(
        not torch.allclose(a, b) for a, b in zip(logits, judge(images, torch.arange(4) + 1), strict=True)
    )
    assert not {id(p) for p in judge.parameters()} & {id(p) for p in classifier.parameters()}


def test_discriminators_of_features_have_spectral_norm_one():
    classifier = create_network("convnet", (3, 16, 16), 10, depth=2, width=6).requires_grad_(False)
    judge = FeatureDiscriminator(classifier, 10, 5, seeded())
    for _ in range(50):  # a power iteration each
        judge(torch.randn(2, 3, 16, 16, generator=seeded()), torch.arange(2))
    judge.eval()
    norms = [module.weight.flatten(1) for module in judge.modules() if hasattr(module, "parametrizations")]
    assert len(norms) == 7  # convolutions of two heads, 2 and 1, and the score and embedding of each
    for weight in norms:
        assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, rel=1e-3)


# Training


@pytest.fixture
def make(few_digits, tiny_settings):
    """Training of the tiny generator; keywords change the settings."""

    def make(**changes) -> GANTraining:
        small = {"steps": 5, "batch_size": 4, "width": 4, "r1_every": 2, "augmentation": "crop_color"}
        classifier = create_network("convnet", (1, 8, 8), 10, depth=2, width=4).requires_grad_(False)
        return GANTraining(few_digits, GANSettings(tiny_settings, **small | changes), classifier)

    return make


def tensors_of(run: GANTraining) -> list[torch.Tensor]:
    networks = (run.generator, run.average, *run.judges)
    return [tensor for network in networks for tensor in network.state_dict().values()]


def assert_same_bits(first: GANTraining, second: GANTraining) -> None:
    for a, b in zip(tensors_of(first), tensors_of(second), strict=True):
        assert torch.equal(a, b)


def test_losses_are_their_formulas():
    real, fake = [-1.5, 0.3, 2.0], [0.7, -3.0, 1.1]

    def probability(logit: float) -> float:
        return 1 / (1 + math.exp(-logit))

    expected = {
        "nonsaturating": (
            sum(
                -math.log(probability(r)) - math.log(1 - probability(f))
                for r, f in zip(real, fake, strict=True)
            ),
            sum(-math.log(probability(f)) for f in fake),
        ),
        "hinge": (sum(max(0, 1 - r) for r in real) + sum(max(0, 1 + f) for f in fake), -sum(fake)),
    }
    real, fake = torch.tensor(real), torch.tensor(fake)
    for kind, sums in expected.items():
        found = discriminator_loss(kind, real, fake).item(), generator_loss(kind, fake).item()
        assert found == pytest.approx([total / 3 for total in sums], rel=1e-5)


def test_the_penalty_agrees_with_finite_differences(make):
    run = make(r1_gamma=0.6, r1_every=5)
    network = run.discriminator.double()
    real = torch.rand(2, 1, 8, 8, generator=seeded(), dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([3, 7])
    penalty = run._penalty(real, network(real, labels))
    squares = 0.0
    with torch.no_grad():
        for index in range(real.numel()):
            step = torch.zeros(real.numel(), dtype=torch.float64)
            step[index] = 1e-6
            ahead, behind = (network(real + sign * step.view_as(real), labels).sum() for sign in (1, -1))
            squares += ((ahead - behind) / 2e-6).item() ** 2
    assert penalty.item() == pytest.approx(0.6 / 2 * 5 * squares / 2, rel=1e-5)


def test_the_penalty_comes_at_every_so_many_steps(make):
    def discriminator_after(step_count: int, gamma: float) -> torch.Tensor:
        run = make(r1_gamma=gamma, r1_every=3)
        run.step_count = step_count
        run._update_discriminator()
        return torch.cat([p.detach().flatten() for p in run.discriminator.parameters()])

    for step_count in range(5):
        same = torch.equal(*(discriminator_after(step_count, gamma) for gamma in (0.0, 100.0)))
        assert same == (step_count % 3 != 0)


def test_the_kept_generator_is_an_exponential_average(make):
    run, expected = make(ema_decay=0.7), None
    for _ in range(4):
        run.step()
        now = {name: value.clone() for name, value in run.generator.state_dict().items()}
        expected = now if expected is None else {k: 0.7 * expected[k] + 0.3 * now[k] for k in now}
    average = run.average.module.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(average[name], value, rtol=1e-4, atol=1e-6)
    name = "synthesis.L1_12_8.magnitude_ema"
    assert not torch.equal(average[name], now[name])  # buffers are averaged too


def test_the_finished_generator_is_the_frozen_average_with_its_mean_styles(make):
    run = make()
    for _ in range(2):
        run.step()
    network = run.finished()
    assert network is run.average.module and not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    z = torch.randn(4000, 8, generator=seeded(5))
    centre = network.map(z, torch.full((4000,), 3))[:, 0].mean(dim=0)
    assert (network.mapping.w_avg[3] - centre).norm() < 0.1 * centre.norm()


def test_training_follows_from_its_seed(make):
    before = torch.random.get_rng_state()
    runs = [make(), make(), make(seed=1)]
    for run in runs:
        run.step()
    assert_same_bits(*runs[:2])
    assert not torch.equal(*(run.generator.mapping.fc0.weight for run in (runs[0], runs[2])))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "changes",
    [{"loss": "nonsaturating"}, {"loss": "hinge"}, {"feature_weight": 0.5}, {"shared_images": True}],
    ids=str,
)
def test_training_continues_from_every_step_with_the_same_bits(make, tmp_path, changes):
    undisturbed = make(**changes)
    for step in range(4):
        undisturbed.save(tmp_path / f"{step}.state")
        undisturbed.step()
    for step in range(4):
        run = make(**changes)
        run.step()  # what was there is replaced
        run.load(tmp_path / f"{step}.state")
        assert run.step_count == step
        for _ in range(step, 4):
            run.step()
        assert_same_bits(run, undisturbed)
    assert torch.equal(run.finished().mapping.w_avg, undisturbed.finished().mapping.w_avg)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_each_update_changes_its_own_network(make, weight):
    run = make(feature_weight=weight)
    networks = (run.generator, run.judges)

    def flat() -> list[torch.Tensor]:
        return [torch.cat([p.detach().flatten() for p in network.parameters()]) for network in networks]

    def moved(update) -> list[bool]:
        before = flat()
        update()
        return [not torch.equal(a, b) for a, b in zip(before, flat(), strict=True)]

    assert moved(run._update_generator) == [True, False]
    assert moved(run._update_discriminator) == [False, True]


def test_the_discriminator_learns_to_tell_real_from_generated(make):
    run = make(batch_size=16, lr=0.01, augmentation="", r1_gamma=0.0)
    losses = [run._update_discriminator().item() for _ in range(30)]
    assert losses[-1] < losses[0] / 2


def test_a_classifier_guides_the_generator(few_digits, tiny_settings):
    classifier = create_network("convnet", (1, 8, 8), 10, depth=1, width=4).requires_grad_(False)
    settings = GANSettings(tiny_settings, batch_size=8, width=4, augmentation="", classifier_weight=5.0)
    losses = []
    for weight in (0.0, 5.0):
        run = GANTraining(few_digits, replace(settings, classifier_weight=weight), classifier)
        losses.append(run._update_generator().item())
    assert losses[1] - losses[0] == pytest.approx(5 * math.log(10), rel=0.3)  # a guess among ten
    for key in ("classifier_weight", "feature_weight"):
        with pytest.raises(HgladError, match=f"^{key} needs a classifier"):
            GANTraining(few_digits, replace(settings, **{"classifier_weight": 0.0} | {key: 1.0}))


@pytest.mark.parametrize("loss", ["nonsaturating", "hinge"])
def test_discriminators_of_features_add_their_losses(make, loss):
    run = make(feature_weight=2.0, loss=loss, augmentation="")
    run.judges.eval()  # no power iteration between two looks
    images, labels = run._fake_batch()
    with torch.no_grad():
        plain = generator_loss(loss, run.discriminator(images, labels)).item()
        seen = [generator_loss(loss, logits).item() for logits in run._seen(images, labels)]
    assert len(seen) == 2 and run._update_generator((images, labels)).item() == pytest.approx(
        plain + 2 * sum(seen), rel=1e-5
    )


def test_shared_images_save_a_forward_pass(make, monkeypatch):
    for shared, passes in ((False, 2), (True, 1)):
        run, calls = make(shared_images=shared), []
        draw = run._fake_batch
        monkeypatch.setattr(run, "_fake_batch", lambda draw=draw, calls=calls: calls.append(1) or draw())
        run.step()
        assert len(calls) == passes


def test_an_unknown_loss_is_a_clear_error(make):
    with pytest.raises(HgladError, match="unknown loss 'hing': expected nonsaturating or hinge"):
        make(loss="hing")


def test_a_loss_that_is_not_finite_stops_the_training(make):
    run = make(lr=1e38)
    with pytest.raises(HgladError, match=r"ator loss is (nan|inf) at step \d+: lower lr \(1e\+38\)$"):
        for _ in range(5):
            run.step()


# A prior from its settings to its file


@pytest.fixture(scope="module")
def settings(tiny_settings):
    training = GANSettings(
        replace(tiny_settings, img_resolution=32, img_channels=3, c_dim=7),  # follow the data set
        steps=60, batch_size=4, width=4, r1_every=4, augmentation="crop", seed=3,
    )  # fmt: skip
    quality = QualitySettings(samples=30, epochs=1, width=4)
    return PriorSettings(DataSettings("digits", resolution=8), training, quality)


@pytest.fixture(scope="module")
def trained(settings, tmp_path_factory):
    """Folder and card of a training that nothing disturbed."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, train_prior(settings, folder / "tiny")


def test_training_writes_a_generator_with_its_card(settings, trained, small_digits):
    folder, card = trained
    assert {path.name for path in folder.iterdir()} == {"tiny.safetensors", "tiny.json"}
    read = prior_card(str(folder / "tiny.safetensors"))
    assert {key: read[key] for key in card} == card
    assert card["data"]["content_hash"] == small_digits.train.content_hash
    assert card["data"]["images"] == len(small_digits.train.images) and card["version"] == gan.VERSION
    assert card["training"]["steps"] == 60 and card["training"]["generator"]["img_resolution"] == 8
    assert {"intended_class", "trained_on_samples", "real_test_accuracy"} < card["quality"].keys()
    assert all(0 <= card["quality"][key] <= 100 for key in ("intended_class", "trained_on_samples"))
    assert card["provenance"]["seconds"] > 0
    assert card["provenance"]["algorithms"] == {"augment": 1, "gan": 1, "prior stylegan_xl": 1}
    prior = load_prior(str(folder / "tiny.safetensors"))
    assert prior.decode(prior.sample(torch.arange(10), seeded()), 0).shape == (10, 1, 8, 8)
    assert prior.mapping.w_avg.any()


def train_and_save_every_step(settings: PriorSettings, out: str) -> None:
    torch.set_num_threads(1)
    train.SAVE_EVERY = 1
    train_prior(settings, out)


def test_a_killed_training_continues_with_the_same_bits(settings, trained, tmp_path, kill_midway):
    out, state = tmp_path / "tiny", tmp_path / "tiny.state"
    moments, killed = random.Random(1), 0
    for _ in range(2):
        killed += kill_midway(
            train_and_save_every_step, (settings, str(out)), state.is_file, moments.uniform(0, 0.4)
        )
    assert killed and state.is_file() and not out.with_suffix(".safetensors").exists()
    card = train_prior(settings, out)
    found, expected = (read_tensors(folder / "tiny.safetensors") for folder in (tmp_path, trained[0]))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert card["quality"] == trained[1]["quality"]
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".tmp-")}
    assert left == {"tiny.safetensors", "tiny.json"}


def test_the_state_of_another_training_is_left_alone(settings, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "SAVE_EVERY", 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "measure_quality", interrupted)
        other = replace(settings, training=replace(settings.training, lr=0.1, steps=2))
        train_prior(other, tmp_path / "tiny")
    assert (tmp_path / "tiny.state").is_file()
    short = replace(settings, training=replace(settings.training, steps=3))
    train_prior(short, tmp_path / "tiny")
    train_prior(short, tmp_path / "alone")
    found, expected = (read_tensors(tmp_path / f"{name}.safetensors") for name in ("tiny", "alone"))
    assert all(torch.equal(found[name], expected[name]) for name in found)


def interrupted(*arguments):
    raise KeyboardInterrupt


def test_the_classifiers_of_a_stopped_training_are_not_trained_again(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "SAVE_SECONDS", 0.0)
    guided = replace(settings.training, steps=2, feature_weight=1.0, classifier_epochs=2, classifier_width=4)
    guided = replace(settings, training=guided)
    whole = train_prior(guided, tmp_path / "whole")
    for stop in ("_train", "measure_quality", "save_prior"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(train, stop, interrupted)
            train_prior(guided, tmp_path / "tiny")
    kept = {path.name for path in (tmp_path / "tiny.parts").rglob("*") if path.is_file()}
    assert kept == {"guide", "judge", "student"}
    with monkeypatch.context() as patch:
        patch.setattr(training_module, "train_epoch", interrupted)
        card = train_prior(guided, tmp_path / "tiny")
    assert card["quality"] == whole["quality"]
    found, expected = (read_tensors(tmp_path / f"{name}.safetensors") for name in ("tiny", "whole"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not list(tmp_path.glob("*.parts"))


def test_samples_are_balanced_clamped_and_follow_from_the_seed(tiny_prior):
    images, labels = draw_samples(tiny_prior, 230, seed=4)
    again, _ = draw_samples(tiny_prior, 230, seed=4)
    assert images.shape == (230, 1, 8, 8) and torch.equal(images, again)
    assert labels.tolist() == sorted(labels.tolist()) and labels.bincount().tolist() == [23] * 10
    assert images.min() >= 0 and images.max() <= 1
    latents = tiny_prior.sample(labels[:100], seeded(4))
    torch.testing.assert_close(images[:100], tiny_prior.decode(latents, 0).clamp(0, 1))


class RealImages:
    """Stands for a perfect generator: a sample of a class is one of its training images."""

    def __init__(self, prior: StyleGANXL, real):
        self.parameters, self.settings, self.real = prior.parameters, prior.settings, real

    def sample(self, labels, generator):
        starts, counts = torch.tensor(self.real.offsets)[labels], torch.tensor(self.real.counts)[labels]
        chosen = starts + (torch.rand(len(labels), generator=generator) * counts).long()
        return Latents(None, self.real.images[chosen] / 255)

    def decode(self, latents, layer):
        return latents.f


def test_quality_tells_a_perfect_generator_from_an_untrained_one(tiny_prior, small_digits):
    settings = QualitySettings(samples=500, epochs=8, width=8)
    perfect = measure_quality(RealImages(tiny_prior, small_digits.train), small_digits, settings)
    untrained = measure_quality(tiny_prior, small_digits, settings)
    assert perfect["intended_class"] > 70 and perfect["trained_on_samples"] > 50
    assert untrained["intended_class"] < 40 and untrained["trained_on_samples"] < 40
    assert perfect["real_test_accuracy"] == untrained["real_test_accuracy"] > 70


def test_the_frechet_distance_is_that_of_normal_distributions():
    rng = seeded()
    basis, _ = torch.linalg.qr(torch.randn(3, 3, generator=rng, dtype=torch.float64))
    drawn = torch.randn(400, 3, generator=rng, dtype=torch.float64)
    white = (drawn - drawn.mean(dim=0)) @ torch.linalg.inv(torch.linalg.cholesky(drawn.T.cov()).T)
    first, second = white * torch.tensor([1.0, 2.0, 3.0]), white * torch.tensor([2.0, 2.0, 5.0])
    shift = torch.tensor([1.0, -2.0, 0.5])
    # Commuting covariances: |m|^2 + sum (s1 - s2)^2, in whatever basis.
    expected = 5.25 + 1 + 0 + 4
    assert frechet_distance(first @ basis, (second + shift) @ basis) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6)


def test_training_in_bfloat16_keeps_weights_and_finished_generator_in_float32(make, tmp_path):
    run, again = make(precision="bfloat16"), make(precision="bfloat16")
    for _ in range(2):
        assert all(torch.isfinite(loss) for loss in run.step().values())
    run.save(tmp_path / "state")
    again.load(tmp_path / "state")
    run.step()
    again.step()
    assert_same_bits(run, again)
    network = run.finished()
    images = network.decode(network.sample(torch.arange(2), seeded()), 0)
    assert images.dtype == torch.float32
    assert all(x.dtype == torch.float32 for x in network.parameters())
    with pytest.raises(HgladError, match="unknown precision 'float16': expected float32 or bfloat16"):
        make(precision="float16")


def test_a_better_generator_is_nearer_to_the_real_images(tiny_prior, small_digits):
    settings = QualitySettings(samples=500, epochs=2, width=8)
    perfect = measure_quality(RealImages(tiny_prior, small_digits.train), small_digits, settings)
    untrained = measure_quality(tiny_prior, small_digits, settings)
    assert perfect["frechet_distance_real"] == untrained["frechet_distance_real"]
    assert perfect["frechet_distance"] < 2 * perfect["frechet_distance_real"] < untrained["frechet_distance"]


def test_settings_of_a_prior_are_read_from_yaml(tmp_path):
    file = tmp_path / "prior.yaml"
    file.write_text("data: {name: digits, resolution: 16}\ntraining: {steps: 7, generator: {w_dim: 12}}\n")
    settings = read_prior_settings(file)
    assert (settings.training.steps, settings.training.generator.w_dim) == (7, 12)
    assert asdict(settings.quality) == asdict(QualitySettings())
    file.write_text("data: {name: digits}\ntraining: {stepz: 7}\n")
    with pytest.raises(HgladError, match=r"unknown key 'training.stepz': did you mean 'steps'\?"):
        read_prior_settings(file)
    with pytest.raises(HgladError, match="cannot read"):
        read_prior_settings(tmp_path / "absent.yaml")


# Values kept for each version


# Sums of a real start and of a noise start, then of their squares.
GOLDEN_PIXELS = {1: [201.62354, 210.00137, 158.97015, 164.61462]}


def test_golden_values_of_the_pixels(few_digits, check_golden):
    priors = [PixelPrior(few_digits, start) for start in ("real", "noise")]
    starts = [prior.sample(torch.arange(10), seeded()).f for prior in priors]
    found = [(start**exponent).sum().item() for exponent in (1, 2) for start in starts]
    check_golden("prior pixels", GOLDEN_PIXELS, found)


# Root mean square of an untrained generator's features at each split point.
GOLDEN_GENERATOR = {1: [0.91267133, 0.57246584, 0.45752889, 0.31462580, 0.51211196]}


def test_golden_values_of_the_generator(tiny_prior, check_golden):
    latents = tiny_prior.sample(torch.arange(10), seeded(), average=3)
    found = [tiny_prior.advance(latents, 0, layer).f.square().mean().sqrt().item() for layer in range(5)]
    check_golden("prior stylegan_xl", GOLDEN_GENERATOR, found)


# Losses of four updates of each network, then the mean square of samples.
GOLDEN_TRAINING = {
    1: [
        1.3840833, 0.72885406, 1.3946336, 0.64923084, 1.3516948, 0.45879164, 1.6094913, 0.81441700, 0.28615457
    ]
}  # fmt: skip


def test_golden_values_of_the_training(make, check_golden):
    run = make(lr=0.02)
    losses = [loss.item() for _ in range(4) for loss in run.step().values()]
    images, _ = draw_samples(run.finished(), 50, seed=1)
    check_golden("gan", GOLDEN_TRAINING, [*losses, images.square().mean().item()])
