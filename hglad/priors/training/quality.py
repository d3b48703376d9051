"""How good the samples of a generator are: their classes, what they teach, their distance to real images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hglad.data.datasets import DataSet, RealData
from hglad.errors import HgladError
from hglad.evaluation.training import accuracy, train_classifier
from hglad.networks import Classifier, create_network
from hglad.priors.base import Generator
from hglad.runtime import progress_bar
from hglad.settings import Settings, TrainingSettings


class QualitySettings(Settings):
    """How the samples of a generator are judged."""

    samples: int = Field(2000, ge=2)
    """Samples, equally many of each class."""
    epochs: int = Field(40, ge=1)
    """Epochs of the two classifiers."""
    width: int = Field(32, ge=1)
    """Width of their ConvNet of depth 3."""
    seed: int = Field(1000, ge=0)
    """Seed of the samples and of the classifiers, apart from every seed of the training."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Format in which they are trained, as `evaluation.training.precision`."""


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
            expected = f"the generator has {known}, expected 0 to {known - 1}"
            raise HgladError(f"class {label} does not exist: {expected}")
    chosen = torch.tensor(classes or range(known), device=device)
    labels = chosen[torch.arange(count, device=device) * len(chosen) // count]
    rng = torch.Generator(device).manual_seed(seed)
    images = [generator.decode(generator.sample(part, rng), 0) for part in labels.split(100)]
    return torch.cat(images).clamp(0, 1), labels


def measure_quality(
    generator: Generator, dataset: DataSet, settings: QualitySettings, states: Path | None = None
) -> dict:
    """Judge samples: do they show their class, teach what real images teach, lie near real images?

    Args:
        generator: what is judged.
        dataset: real images.
        settings: how it is judged.
        states: folder that keeps the classifiers' trainings, so that a stopped judgement goes on.

    Returns:
        Percentages: `intended_class` by a ConvNet trained on the real training images, `real_test_accuracy`
        of that ConvNet, `trained_on_samples` of a ConvNet that saw samples only, on the real test images.
        `frechet_distance` of the samples to the test images in the embedding of the first ConvNet, and
        `frechet_distance_real` of as many training images, both as shares of the test images' variance: a FID
        whose network is not Inception, so that it compares generators of one data set and nothing else.
    """
    images, labels = draw_samples(generator, settings.samples, settings.seed)
    real, test = dataset.train, dataset.test
    judge = train_convnet(real, real.images, real.labels, settings, states and states / "judge")
    student = train_convnet(real, images, labels, settings, states and states / "student")
    with torch.no_grad():
        predicted = judge(real.normalize(images)).argmax(dim=1)
    held_out = _embedding(judge, real, test.images)
    chosen = torch.randperm(len(real.images), generator=torch.Generator().manual_seed(settings.seed))
    others = real.images[chosen[: settings.samples].to(real.images.device)]
    distances = [frechet_distance(_embedding(judge, real, x), held_out) for x in (images, others)]
    distances = [round(each / held_out.double().var(dim=0).sum().item(), 4) for each in distances]
    return {
        "intended_class": round((predicted == labels).double().mean().item() * 100, 2),
        "trained_on_samples": round(accuracy(student, test), 2),
        "real_test_accuracy": round(accuracy(judge, test), 2),
        "frechet_distance": distances[0],
        "frechet_distance_real": distances[1],
        **settings.to_dict(),
    }


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Fréchet distance of normal distributions with the moments of features (n, k) and (m, k).

    Heusel et al., NeurIPS 2017, eq. 6: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in float64.
    """
    first, second = first.double(), second.double()
    c1, c2 = first.T.cov(), second.T.cov()
    # tr (C1 C2)^(1/2) is the sum of the roots of its eigenvalues, which are real and not negative.
    roots = torch.linalg.eigvals(c1 @ c2).real.clamp(min=0).sqrt().sum()
    means = (first.mean(dim=0) - second.mean(dim=0)).square().sum()
    return (means + c1.trace() + c2.trace() - 2 * roots).item()


@torch.no_grad()
def _embedding(judge: Classifier, real: RealData, images: Tensor) -> Tensor:
    """What the judge's last layer reads (n, k) for images, uint8 or float in [0, 1]."""
    parts = []
    for part in images.split(500):
        x = part.float() / 255 if part.dtype == torch.uint8 else part
        parts.append(judge.embed(real.normalize(x)))
    return torch.cat(parts)


def train_convnet(
    real: RealData, images: Tensor, labels: Tensor, settings: QualitySettings, state: Path | None = None
) -> Classifier:
    """A ConvNet of depth 3 trained on images that are normalized as `real`, in eval mode.

    `state` keeps the training; the caller deletes it.
    """
    rng = torch.Generator().manual_seed(settings.seed)
    shape, classes = real.image_shape, len(real.classes)
    network = create_network("convnet", shape, classes, rng, depth=3, width=settings.width)
    own = {"epochs": settings.epochs, "precision": settings.precision}
    protocol = TrainingSettings(**own, batch_size=64, lr=0.01, augmentation="", ema_decay=None)
    network = network.to(real.images.device)
    with progress_bar(settings.epochs, state.name if state else "classifier", "epoch") as bar:

        def show(epoch: int, _: float) -> None:
            bar.update(epoch - bar.n)

        return train_classifier(network, images, labels, real.normalize, protocol, rng, show, state)
