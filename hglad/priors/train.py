"""Train a prior from a YAML file, resumable, and measure how good its samples are."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from hglad.data import DataSet, DataSettings, RealData, load_data
from hglad.errors import HgladError
from hglad.networks import create_network
from hglad.out_of_memory import clear_stop
from hglad.priors.files import save_prior
from hglad.priors.gan import VERSION, GANSettings, GANTraining
from hglad.priors.registry import Generator, kind_of
from hglad.progress import progress_bar
from hglad.provenance import Stopwatch
from hglad.settings import fingerprint, read_yaml, to_dict
from hglad.storage import spared
from hglad.training import TrainingSettings, accuracy, train_classifier
from hglad.versions import Versions, declared

SAVE_EVERY = 100  # steps, well under a minute of work for the sizes that one machine trains


@dataclass(frozen=True)
class QualitySettings:
    """How the samples of a generator are judged."""

    samples: int = 2000
    """Samples, equally many of each class."""
    epochs: int = 40
    """Epochs of the two classifiers."""
    width: int = 32
    """Width of their ConvNet of depth 3."""
    seed: int = 1000
    """Seed of the samples and of the classifiers, apart from every seed of the training."""


@dataclass(frozen=True)
class PriorSettings:
    """Contents of the YAML file that `hglad prior train` takes."""

    data: DataSettings
    """Data set that the generator learns."""
    training: GANSettings = field(default_factory=GANSettings)
    """Networks and optimisation."""
    quality: QualitySettings = field(default_factory=QualitySettings)
    """Assessment of the finished generator."""


def read_prior_settings(path: Path | str) -> PriorSettings:
    """Read and check a YAML file.

    Raises:
        HgladError: unreadable file, unknown key or wrong type.
    """
    return read_yaml(PriorSettings, path)


@clear_stop("while training a generator", "lower training.batch_size or the channels of the generator")
def train_prior(settings: PriorSettings, out: Path | str, device: str = "cpu") -> dict:
    """Train a generator and write it with its card to `out`; continues a run that was stopped.

    Returns:
        The card: data hash, training settings, quality, provenance.
    """
    out = Path(out).with_suffix(".safetensors")
    dataset = load_data(settings.data.name, settings.data.root, settings.data.resolution, device=device)
    training = fit_to_data(settings.training, dataset.train)
    watch = Stopwatch(device)
    run = GANTraining(dataset.train, training, _guide(training, dataset.train))
    key = fingerprint(
        _described(replace(training, steps=0)), dataset.train.content_hash, VERSION
    )  # steps can be raised later
    seconds = _train(run, out.with_suffix(".state"), key)
    generator = run.finished()
    provenance = watch.provenance() | {"seconds": round(seconds, 1)}
    provenance |= declared(partial(_card_key, training, dataset.train))
    card = {
        "data": {
            **to_dict(settings.data),
            "content_hash": dataset.train.content_hash,
            "images": len(dataset.train.images),
        },
        "training": _described(training),
        "version": VERSION,
        "quality": measure_quality(generator, dataset, settings.quality),
        "provenance": provenance,
    }
    save_prior(out, generator, card)
    out.with_suffix(".state").unlink(missing_ok=True)
    return card


def _card_key(training: GANSettings, real: RealData, version: Versions) -> str:
    """Fingerprint of the training, for the card; a search names the generator by its tensors."""
    parts = ("gan", "augment", f"prior {kind_of(training.generator)}")
    return fingerprint(_described(training), real.content_hash, {part: version(part) for part in parts})


def fit_to_data(settings: GANSettings, real: RealData) -> GANSettings:
    """Settings of a generator that makes images of the size, channels and classes of `real`."""
    channels, height, _ = real.image_shape
    network = replace(
        settings.generator, img_resolution=height, img_channels=channels, c_dim=len(real.classes)
    )
    return replace(settings, generator=network)


def _described(settings: GANSettings) -> dict:
    """Plain values with the family's name, as the YAML file has them."""
    network = {"kind": kind_of(settings.generator)} | to_dict(settings.generator)
    return to_dict(settings) | {"generator": network}


def _guide(settings: GANSettings, real: RealData):
    """Classifier of StyleGAN-XL's guidance, trained on the training images; none where it has no weight."""
    if not settings.classifier_weight:
        return None
    return _train_convnet(real, real.images, real.labels, QualitySettings(seed=settings.seed)).requires_grad_(
        False
    )


def _train(run: GANTraining, state: Path, key: str) -> float:
    """Train to the end, saving the state; the seconds it took over all its parts."""
    before = run.load(state, key) if state.is_file() else 0.0
    watch = Stopwatch()
    steps = progress_bar(run.settings.steps, "generator", "step", initial=run.step_count)
    while run.step_count < run.settings.steps:
        losses = run.step()
        steps.update()
        if run.step_count % SAVE_EVERY == 0:
            with spared(state):
                run.save(state, key, before + watch.seconds)
            steps.set_postfix({name: f"{loss.item():.2f}" for name, loss in losses.items()})
    steps.close()
    return before + watch.seconds


def draw_samples(
    generator: Generator, count: int, seed: int, classes: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """`count` images (n, channels, height, width) in [0, 1], equally many of each class, and labels (n,).

    `classes` are all of the generator's where they are not given; an unconditional one has class 0 alone.

    Raises:
        HgladError: a class that the generator does not have.
    """
    known, device = max(1, generator.settings.c_dim), next(generator.parameters()).device
    for label in classes:
        if not 0 <= label < known:
            raise HgladError(
                f"class {label} does not exist: the generator has {known}, expected 0 to {known - 1}"
            )
    chosen = torch.tensor(classes or range(known), device=device)
    labels = chosen[torch.arange(count, device=device) * len(chosen) // count]
    rng = torch.Generator(device).manual_seed(seed)
    images = [generator.decode(generator.sample(part, rng), 0) for part in labels.split(100)]
    return torch.cat(images).clamp(0, 1), labels


def measure_quality(generator: Generator, dataset: DataSet, settings: QualitySettings) -> dict:
    """Judge samples: do they show the class asked for, and do they teach what the real images teach?

    Returns:
        Percentages: `intended_class` by a ConvNet trained on the real training images, `real_test_accuracy`
        of that ConvNet, `trained_on_samples` of a ConvNet that saw samples only, on the real test images.
    """
    images, labels = draw_samples(generator, settings.samples, settings.seed)
    judge = _train_convnet(dataset.train, dataset.train.images, dataset.train.labels, settings)
    student = _train_convnet(dataset.train, images, labels, settings)
    with torch.no_grad():
        predicted = judge(dataset.train.normalize(images)).argmax(dim=1)
    return {
        "intended_class": round((predicted == labels).double().mean().item() * 100, 2),
        "trained_on_samples": round(accuracy(student, dataset.test), 2),
        "real_test_accuracy": round(accuracy(judge, dataset.test), 2),
        **to_dict(settings),
    }


def _train_convnet(real: RealData, images: Tensor, labels: Tensor, settings: QualitySettings):
    rng = torch.Generator().manual_seed(settings.seed)
    network = create_network(
        "convnet", real.image_shape, len(real.classes), rng, depth=3, width=settings.width
    )
    protocol = TrainingSettings(
        epochs=settings.epochs, batch_size=64, lr=0.01, augmentation="", ema_decay=None
    )
    return train_classifier(network.to(real.images.device), images, labels, real.normalize, protocol, rng)
