"""Discriminators, adversarial training, heads on a stem, the quality of samples: from settings to a file."""

import copy
import math
import random

import pytest
import torch
from test_prior_families import TINY

from hglad import storage
from hglad.data.datasets import load_data
from hglad.errors import HgladError
from hglad.evaluation import training as training_module
from hglad.networks import create_network
from hglad.priors import PRIORS, Latents, PixelPrior, load_prior, prior_card, save_prior
from hglad.priors.base import kind_of
from hglad.priors.files import generator_settings
from hglad.priors.stylegan_xl import Head, StyleGANXL, StyleGANXLSettings
from hglad.priors.training import gan, train
from hglad.priors.training.discriminator import Discriminator, FeatureDiscriminator, minibatch_deviation
from hglad.priors.training.gan import GANSettings, GANTraining, discriminator_loss, generator_loss
from hglad.priors.training.quality import QualitySettings, draw_samples, frechet_distance, measure_quality
from hglad.priors.training.train import PriorSettings, fit_to_data, train_prior, with_stem
from hglad.settings import DataSettings
from hglad.storage import Checkpoint, read_tensors


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Discriminators


@pytest.mark.parametrize("size", [8, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_discriminator_gives_one_logit_per_image_and_label(size, channels):
    network = Discriminator((channels, size, size), 10, width=4)
    images = torch.rand(6, channels, size, size, generator=seeded())
    logits = [network(images, torch.full((6,), label)) for label in (0, 1)]
    assert logits[0].shape == (6,) and len(set(logits[0].tolist())) == 6
    assert not torch.allclose(*logits) and len(network.blocks) == int(math.log2(size)) - 2


@pytest.mark.parametrize("size", [4, 6, 12, 24])
def test_other_resolutions_are_a_clear_error(size):
    with pytest.raises(HgladError, match=f"generator at {size} px: expected a power of two of at least 8"):
        Discriminator((1, size, size), 10)


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
        return GANTraining(
            few_digits, GANSettings(**{"generator": tiny_settings} | small | changes), classifier
        )

    return make


def assert_same_bits(first: GANTraining, second: GANTraining) -> None:
    pairs = zip(first.state()["networks"], second.state()["networks"], strict=True)
    assert all(torch.equal(x, b[name]) for a, b in pairs for name, x in a.items())


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


def test_the_kept_generator_is_an_exponential_average(make):
    before = torch.random.get_rng_state()
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
    assert torch.equal(torch.random.get_rng_state(), before)  # no draw from the global generator


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "nonsaturating"},
        {"loss": "hinge"},
        {"feature_weight": 0.5},
        {"shared_images": True},
        {"precision": "bfloat16"},
        {"generator": TINY["biggan"]},
    ],
    ids=str,
)
def test_training_continues_from_every_step_with_the_same_bits(make, tmp_path, changes):
    undisturbed = make(**changes)
    for step in range(3):
        Checkpoint(tmp_path / f"{step}", "run").save(undisturbed.state(), force=True, step=step)
        assert all(torch.isfinite(loss) for loss in undisturbed.step().values())
    for step in range(3):
        run = make(**changes)
        run.step()  # what was there is replaced
        state, plain = Checkpoint(tmp_path / f"{step}", "run").load()
        run.resume(state, plain["step"])
        assert run.step_count == step
        for _ in range(step, 3):
            run.step()
        assert_same_bits(run, undisturbed)
    found, expected = (each.finished().state_dict() for each in (run, undisturbed))
    assert all(torch.equal(found[name], x) for name, x in expected.items())
    assert all(x.dtype == torch.float32 for x in found.values())


@pytest.mark.parametrize("kind", PRIORS.names())
def test_the_finished_generator_is_the_frozen_average_with_measured_statistics(make, kind):
    run = make(generator=TINY[kind])
    for _ in range(2):
        run.step()
    network = run.finished()
    assert network is run.average.module and not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    statistics = {"biggan": "running_means", "stylegan_xl": "w_avg"}[kind]
    assert all(x.any() for name, x in network.state_dict().items() if name.endswith(statistics))
    images = network.decode(network.sample(torch.arange(2), seeded()), 0)
    assert images.shape == (2, 1, 8, 8) and images.dtype == torch.float32


@pytest.mark.parametrize("kind", PRIORS.names())
def test_training_improves_both_losses_of_any_family(make, kind):
    run = make(generator=TINY[kind], batch_size=16, augmentation="", lr=0.01, r1_gamma=0.0)
    first = run.step()
    against = [run._update_discriminator().item() for _ in range(20)]
    assert against[-1] < first["discriminator"]
    fooled = [run._update_generator().item() for _ in range(20)]
    assert fooled[-1] < fooled[0]


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


def test_a_classifier_guides_the_generator(few_digits, tiny_settings):
    classifier = create_network("convnet", (1, 8, 8), 10, depth=1, width=4).requires_grad_(False)
    settings = GANSettings(
        generator=tiny_settings, batch_size=8, width=4, augmentation="", classifier_weight=5.0
    )
    losses = []
    for weight in (0.0, 5.0):
        run = GANTraining(few_digits, settings.changed(classifier_weight=weight), classifier)
        losses.append(run._update_generator().item())
    assert losses[1] - losses[0] == pytest.approx(5 * math.log(10), rel=0.3)  # a guess among ten
    for key in ("classifier_weight", "feature_weight"):
        with pytest.raises(HgladError, match=f"^{key} needs a classifier"):
            GANTraining(few_digits, settings.changed(**{"classifier_weight": 0.0} | {key: 1.0}))


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


def test_a_loss_that_is_not_finite_stops_the_training(make):
    run = make(lr=1e38)
    with pytest.raises(HgladError, match=r"ator loss is (nan|inf) at step \d+: lower lr \(1e\+38\)$"):
        for _ in range(5):
            run.step()


# Losses of four updates of each network, then the mean square of samples.
GOLDEN = {
    1: [
        1.3840833, 0.72885406, 1.3946336, 0.64923084, 1.3516948, 0.45879164, 1.6094913, 0.81441700, 0.28615457
    ]
}  # fmt: skip


def test_golden_values_of_the_training(make, check_golden):
    run = make(lr=0.02)
    losses = [loss.item() for _ in range(4) for loss in run.step().values()]
    images, _ = draw_samples(run.finished(), 50, seed=1)
    check_golden("gan", GOLDEN, [*losses, images.square().mean().item()])


# Sums of a real start and of a noise start, then of their squares.
GOLDEN_PIXELS = {1: [201.62354, 210.00137, 158.97015, 164.61462]}


def test_golden_values_of_the_pixels(few_digits, check_golden):
    priors = [PixelPrior(few_digits, start) for start in ("real", "noise")]
    starts = [prior.sample(torch.arange(10), seeded()).f for prior in priors]
    found = [(start**exponent).sum().item() for exponent in (1, 2) for start in starts]
    check_golden("prior pixels", GOLDEN_PIXELS, found)


# Quality


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

    def sample(self, labels, rng):
        starts, counts = torch.tensor(self.real.offsets)[labels], torch.tensor(self.real.counts)[labels]
        chosen = starts + (torch.rand(len(labels), generator=rng) * counts).long()
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
    assert perfect["frechet_distance_real"] == untrained["frechet_distance_real"]
    assert perfect["frechet_distance"] < 2 * perfect["frechet_distance_real"] < untrained["frechet_distance"]


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


# A prior from its settings to its file


@pytest.fixture(scope="module")
def settings(tiny_settings):
    training = GANSettings(
        generator=tiny_settings.changed(img_resolution=32, img_channels=3, c_dim=7),  # follow the data set
        steps=60, batch_size=4, width=4, r1_every=4, augmentation="crop", seed=3,
    )  # fmt: skip
    quality = QualitySettings(samples=30, epochs=1, width=4)
    return PriorSettings(data=DataSettings(resolution=8), training=training, quality=quality)


@pytest.fixture(scope="module")
def trained(settings, tmp_path_factory):
    """Folder and card of a training that nothing disturbed."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, train_prior(settings, folder / "tiny")


def same_tensors(first, second) -> bool:
    found, expected = read_tensors(first), read_tensors(second)
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], x) for name, x in expected.items()
    )


def test_training_writes_a_generator_with_its_card(settings, trained, small_digits):
    folder, card = trained
    assert {path.name for path in folder.iterdir()} == {"tiny.safetensors", "tiny.json"}
    read = prior_card(str(folder / "tiny.safetensors"))
    assert {key: read[key] for key in card} == card
    assert card["data"]["content_hash"] == small_digits.train.content_hash
    assert card["data"]["images"] == len(small_digits.train.images) and card["version"] == gan.VERSION
    assert card["training"]["steps"] == 60 and card["training"]["generator"]["img_resolution"] == 8
    assert {"intended_class", "trained_on_samples", "real_test_accuracy"} < card["quality"].keys()
    assert card["provenance"]["seconds"] > 0
    assert card["provenance"]["algorithms"] == {"augment": 1, "gan": 1, "prior stylegan_xl": 1}
    prior = load_prior(str(folder / "tiny.safetensors"))
    assert prior.decode(prior.sample(torch.arange(10), seeded()), 0).shape == (10, 1, 8, 8)


def train_and_save_every_step(settings: PriorSettings, out: str) -> None:
    torch.set_num_threads(1)
    storage.SAVE_SECONDS = 0
    train_prior(settings, out)


def test_a_killed_training_continues_with_the_same_bits(settings, trained, tmp_path, kill_midway):
    out, state = tmp_path / "tiny", tmp_path / "tiny.state"
    moments, killed = random.Random(1), 0
    for _ in range(2):
        arguments, delay = (settings, str(out)), moments.uniform(0, 0.4)
        killed += kill_midway(train_and_save_every_step, arguments, state.is_file, delay)
    assert killed and state.is_file() and not out.with_suffix(".safetensors").exists()
    card = train_prior(settings, out)
    assert same_tensors(tmp_path / "tiny.safetensors", trained[0] / "tiny.safetensors")
    assert card["quality"] == trained[1]["quality"]
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".tmp-")}
    assert left == {"tiny.safetensors", "tiny.json"}


def interrupted(*arguments, **options):
    raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore:.*is no state to go on from")
def test_the_state_of_another_training_is_left_alone(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "SAVE_SECONDS", 0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "measure_quality", interrupted)
        train_prior(settings.changed(training=settings.training.changed(lr=0.1, steps=2)), tmp_path / "tiny")
    assert (tmp_path / "tiny.state").is_file()
    short = settings.changed(training=settings.training.changed(steps=3))
    train_prior(short, tmp_path / "tiny")
    train_prior(short, tmp_path / "alone")
    assert same_tensors(tmp_path / "tiny.safetensors", tmp_path / "alone.safetensors")


def test_the_classifiers_of_a_stopped_training_are_not_trained_again(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "SAVE_SECONDS", 0)
    changes = {"steps": 2, "feature_weight": 1.0, "classifier_epochs": 2, "classifier_width": 4}
    guided = settings.changed(training=settings.training.changed(**changes))
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
    assert card["quality"] == whole["quality"] and not list(tmp_path.glob("*.parts"))
    assert same_tensors(tmp_path / "tiny.safetensors", tmp_path / "whole.safetensors")


@pytest.mark.parametrize("kind", PRIORS.names())
def test_the_kind_of_a_trained_generator_is_a_setting(kind, tmp_path):
    generator = {"kind": kind} | TINY[kind].to_dict() | {"c_dim": 4}  # the classes follow the data set
    settings = PriorSettings(
        data=DataSettings(resolution=8),
        training=GANSettings(generator=generator, steps=2, batch_size=4, width=4),
        quality=QualitySettings(samples=20, epochs=1, width=4),
    )
    card = train_prior(settings, tmp_path / "tiny")
    assert generator_settings(card["training"]["generator"], "") == TINY[kind]
    read = load_prior(str(tmp_path / "tiny.safetensors"))
    assert kind_of(read.settings) == kind and read.settings == TINY[kind]


def test_settings_of_a_prior_are_read_from_yaml(tmp_path):
    file = tmp_path / "prior.yaml"
    file.write_text("data: {name: digits, resolution: 16}\ntraining: {steps: 7, generator: {w_dim: 12}}\n")
    settings = PriorSettings.from_yaml(file)
    assert (settings.training.steps, settings.training.generator.w_dim) == (7, 12)
    assert settings.quality == QualitySettings() and 0 < train.training_seconds(settings) < 60
    with pytest.raises(HgladError, match="cannot read"):
        PriorSettings.from_yaml(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ("stepz: 7", r"unknown key 'training.stepz': did you mean 'steps'\?"),
        ("loss: hing", "training.loss is 'hing': expected 'nonsaturating' or 'hinge'; did you mean 'hinge'"),
        ("precision: float16", "training.precision is 'float16': expected 'float32' or 'bfloat16'"),
        ("generator: {kind: bigan}", r"unknown kind of prior 'bigan': did you mean 'biggan'\?"),
        (
            "generator: {kind: biggan, w_dim: 3}",
            "unknown key 'training.generator.w_dim': did you mean 'z_dim'",
        ),
        ("generator: {w_dims: 3}", r"unknown key 'training.generator.w_dims': did you mean 'w_dim'\?"),
        ("generator: biggan", "training.generator is 'biggan': expected a mapping"),
        ("generator: {kind: biggan, layers: [[true, 2]]}", r"training.generator.layers\[0\]"),
    ],
)
def test_impossible_settings_are_a_clear_error(training, message, tmp_path):
    file = tmp_path / "prior.yaml"
    file.write_text(f"data: {{name: digits}}\ntraining: {{{training}}}\n")
    with pytest.raises(HgladError, match=message) as error:
        PriorSettings.from_yaml(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


# Heads on a stem


HEAD = {"up_factor": 2, "layers": 3}


@pytest.fixture
def on_stem(prior_file) -> GANSettings:
    """One head on the tiny generator of 8 px."""
    small = {"steps": 4, "batch_size": 4, "width": 4, "r1_every": 2, "augmentation": "crop"}
    return GANSettings(generator={"heads": [HEAD]}, stem=prior_file, **small)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", resolution=16)


def test_the_stem_stays_as_it_is_and_the_head_learns(on_stem, digits, tiny_prior):
    run = GANTraining(digits.train, fit_to_data(on_stem, digits.train))
    before = copy.deepcopy(run.generator.state_dict())
    for _ in range(3):
        run.step()
    after, stem = run.finished().state_dict(), tiny_prior.state_dict()
    kept = [name for name in before if name in stem and torch.equal(before[name], stem[name])]
    layers = {name.split(".")[1] for name in kept if name.startswith("synthesis.L")}
    assert layers == {"L0_12_8"} and any(name.startswith("mapping") for name in kept)
    assert all(torch.equal(after[name], stem[name]) for name in kept if name != "mapping.w_avg")
    learned = [name for name in before if name.endswith(".weight") and name not in kept]
    assert len(learned) == 8 and all(not torch.equal(after[name], before[name]) for name in learned)
    images = run.generator.decode(run.generator.sample(torch.arange(10), torch.Generator()), 0)
    assert images.shape == (10, 1, 16, 16)


def test_a_trained_one_is_whole_and_can_be_a_stem_itself(on_stem, tiny_prior, tmp_path):
    quality = QualitySettings(samples=20, epochs=1, width=4)
    settings = PriorSettings(data=DataSettings(resolution=16), training=on_stem, quality=quality)
    card = train_prior(settings, tmp_path / "first")
    assert card["training"]["stem"] == on_stem.stem and card["training"]["generator"]["img_resolution"] == 8
    first = load_prior(str(tmp_path / "first.safetensors"))
    assert first.settings.heads == (Head(**HEAD),) and first.settings.resolution == 16
    top = StyleGANXLSettings(heads=(Head(up_factor=4, layers=4),))
    again = with_stem(str(tmp_path / "first.safetensors"), top)
    assert again.heads == (Head(**HEAD), *top.heads) and again.resolution == 64
    changed = copy.deepcopy(tiny_prior)  # another stem of the same name is another training
    changed.synthesis.input.weight.mul_(2)
    keys = [card["provenance"]["key"]]
    for _ in range(2):
        save_prior(on_stem.stem, changed, {})
        keys.append(train_prior(settings, tmp_path / "other")["provenance"]["key"])
    save_prior(on_stem.stem, tiny_prior, {})
    assert keys[0] != keys[1] == keys[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generator": {}}, "has no heads: with a stem expected"),
        ({"generator": {"kind": "biggan"}}, "has no heads: with a stem expected"),
        ({"generator": {"heads": [HEAD], "w_dim": 9}}, "more than heads: expected no other"),
        (
            {"generator": {"heads": [HEAD | {"up_factor": 4}]}},
            "makes 1 x 32 x 32 images of 10 classes: expected 1 x 16 x 16 images of 10 classes, by",
        ),
        ({"stem": "nothing"}, "unknown prior 'nothing'"),
        ({"stem": "digits-16-biggan"}, "training.stem is of another kind: expected a stylegan_xl"),
    ],
)
def test_what_cannot_be_put_together_is_one_line(on_stem, digits, changes, message):
    with pytest.raises(HgladError, match=message) as found:
        fit_to_data(on_stem.changed(**changes), digits.train)
    assert "\n" not in str(found.value)
