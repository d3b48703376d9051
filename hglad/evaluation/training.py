"""Train a classifier on a (distilled or real) set of images, and measure it on real ones."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import cos, isfinite, pi
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from hglad.data.augmentation import DSA, Augmentation
from hglad.errors import HgladError
from hglad.evaluation.training_state import SavedTraining
from hglad.networks.chunks import accumulate_gradient, chunk_size, forward_size, limit_chunks, separable
from hglad.networks.initialization import dropout_from
from hglad.runtime import within_memory
from hglad.settings import fingerprint, later

VERSION = 1  # raise when the same settings train otherwise

Normalize = Callable[[Tensor], Tensor]


class LabelledImages(Protocol):
    """What measuring needs of `hglad.data.datasets.RealData`."""

    images: Tensor  # uint8 (n, ch, h, w)
    labels: Tensor  # int64 (n,)
    classes: tuple[str, ...]

    def normalize(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class TrainingSettings:
    """How a classifier is trained; the defaults are GLaD's evaluation (Cazenavette et al. 2023)."""

    epochs: int = 1000
    """Passes over the images. Default: GLaD."""
    batch_size: int = 256
    """Images per step; the last batch of an epoch may be smaller. Default: GLaD."""
    lr: float = 0.001
    """Peak learning rate of SGD. Default: GLaD (0.0001 for VGG-11)."""
    momentum: float = 0.9
    """Momentum of SGD. Default: GLaD, DC, DSA, DM."""
    weight_decay: float = 5e-4
    """L2 penalty of SGD. Default: GLaD, DC, DSA, DM."""
    schedule: str = "warmup_cosine"
    """Over the epochs: "warmup_cosine" rises linearly in the first half, then falls to 0 by a cosine (GLaD);
    "step" divides lr by 10 after half of them (DC, DSA, DM); "constant" keeps it."""
    augmentation: str = DSA
    """DSA strategies joined by "_", drawn per batch with parameters per image; "" for none. Default: GLaD."""
    ema_decay: float | None = 0.995
    """Decay of the moving average of the weights, updated once per epoch; None for the last weights. Default:
    GLaD. It averages about 1 / (1 - decay) epochs: with far fewer epochs the first weights stay in."""
    precision: str = later("float32")
    """Format of convolutions and products: "float32", or "bfloat16", faster on processors and GPUs made for
    it (`hglad bench --suite evaluation`); weights and their average stay in float32."""
    test_precision: str = later("float32")
    """Format of the test, as `precision`: faster for a large network, where single images may come out in
    another class than in float32."""

    def __post_init__(self) -> None:
        whole = all(isinstance(value, int) and value >= 1 for value in (self.epochs, self.batch_size))
        _check(whole, "epochs and batch_size", (self.epochs, self.batch_size), "whole numbers of at least 1")
        _check(self.lr > 0 and isfinite(self.lr), "lr", self.lr, "a positive number")
        _check(0 <= self.momentum < 1, "momentum", self.momentum, "a number from 0 to below 1")
        _check(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or a positive number")
        _check(self.schedule in SCHEDULES, "schedule", self.schedule, " or ".join(SCHEDULES))
        _check(
            self.ema_decay is None or 0 <= self.ema_decay < 1,
            "ema_decay",
            self.ema_decay,
            "None or a number from 0 to below 1",
        )
        for key in ("precision", "test_precision"):
            _check(getattr(self, key) in PRECISIONS, key, getattr(self, key), " or ".join(PRECISIONS))
        Augmentation(self.augmentation)


PRECISIONS = ("float32", "bfloat16")


def _check(valid: bool, name: str, value: object, expected: str) -> None:
    if not valid:
        raise HgladError(f"the training setting {name} is {value!r}; give {expected}")


def _warmup_cosine(epoch: int, epochs: int) -> float:
    """Rises to 1 at the last epoch of the first half; one epoch trains at the full rate."""
    half = max(1, epochs // 2)
    if epoch < half:
        return (epoch + 1) / half
    return (1 + cos(pi * (epoch - half) / (epochs - half))) / 2


SCHEDULES: dict[str, Callable[[int, int], float]] = {  # (epoch from 0, epochs) -> factor on lr
    "warmup_cosine": _warmup_cosine,
    "step": lambda epoch, epochs: 0.1 if 2 * epoch >= epochs > 1 else 1.0,
    "constant": lambda epoch, epochs: 1.0,
}

GLAD_PROTOCOL = TrainingSettings()
"""GLaD's and H-GLaD's evaluation; VGG-11 with lr 0.0001."""
BASE_PROTOCOL = TrainingSettings(lr=0.01, schedule="step", ema_decay=None)
"""The evaluation of DSA and DM."""


def train_classifier(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    normalize: Normalize,
    settings: TrainingSettings,
    generator: torch.Generator,
    progress: Callable[[int, float], None] | None = None,
    state: Path | None = None,
) -> nn.Module:
    """Train `network` in place; return the moving average of it, or itself when there is none, in eval mode.

    Args:
        network: classifier; its device is where the training happens.
        images: (n, ch, h, w) uint8 or float in [0, 1].
        labels: (n,) class indices int64, or (n, classes) probabilities, float (soft labels).
        normalize: images in [0, 1] to the network's input.
        settings: protocol.
        generator: draws the order of the images, the augmentation and dropout.
        progress: called after every epoch with its number, from 1, and its mean loss.
        state: file that keeps the training every minute; one that is there is gone on with, to the same
            result. The caller deletes it.

    Raises:
        HgladError: labels that do not fit, a loss that is not finite.
    """
    device = next(network.parameters()).device
    images, labels = images.to(device), labels.to(device)
    check_labels(network, images, labels)

    def one_epoch(optimizer: torch.optim.Optimizer) -> Tensor:
        return train_epoch(network, optimizer, images, labels, normalize, settings, generator)

    with dropout_from(network, generator):
        return train_epochs(network, one_epoch, settings, [generator], fingerprint(settings), progress, state)


def train_epochs(
    network: nn.Module,
    one_epoch: Callable[[torch.optim.Optimizer], Tensor],
    settings: TrainingSettings,
    generators: Sequence[torch.Generator],
    key: str,
    progress: Callable[[int, float], None] | None = None,
    state: Path | None = None,
) -> nn.Module:
    """Repeat `one_epoch` as `settings` say; return the moving average of `network`, or itself, in eval mode.

    Args:
        network: one network, or many as one module; trained in place.
        one_epoch: trains it for an epoch with the given optimizer; the losses, (steps,) or (steps, networks).
        settings: protocol: number of epochs, optimizer, schedule and average.
        generators: what `one_epoch` draws from.
        key: what is trained how; a saved state with another key is not gone on with.
        progress, state: as in `train_classifier`.

    Raises:
        HgladError: a loss that is not finite.
    """
    average = None if settings.ema_decay is None else deepcopy(network).eval().requires_grad_(False)
    optimizer = torch.optim.SGD(
        network.parameters(), settings.lr, settings.momentum, weight_decay=settings.weight_decay, foreach=True
    )
    network.train()
    saved = SavedTraining(state, key, network, optimizer, average, *generators)
    for epoch in range(saved.restore(), settings.epochs):
        _set_rate(optimizer, settings, epoch)
        losses = one_epoch(optimizer)
        check_losses(losses, epoch, optimizer.param_groups[0]["lr"])
        if average is not None:
            _update_average(average, network, settings.ema_decay)
        saved.save_when_due(epoch + 1)
        if progress is not None:
            progress(epoch + 1, losses.mean().item())
    return (network if average is None else average).eval()


def check_labels(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Raise `HgladError` for images and labels that do not fit each other or the outputs of `network`."""
    _check_pairs(images, labels)
    _check_classes(network, labels)


def _check_pairs(images: Tensor, labels: Tensor) -> None:
    if images.dim() != 4 or labels.shape[:1] != images.shape[:1] or labels.dim() > 2 or len(labels) == 0:
        raise HgladError(
            f"training got images of shape {tuple(images.shape)} and labels of shape "
            f"{tuple(labels.shape)}; give (n, ch, h, w) and (n,) with n of at least 1"
        )
    hard = labels.dim() == 1
    if hard != (labels.dtype == torch.int64):
        wanted = "class indices as torch.int64" if hard else "probabilities as floats, (n, classes)"
        raise HgladError(f"training got labels of type {labels.dtype}; give {wanted}")


def _check_classes(network: nn.Module, labels: Tensor) -> None:
    """Compare with the outputs of `network.classifier`; a network without one is taken as it is."""
    classes = getattr(getattr(network, "classifier", None), "out_features", None)
    if labels.dim() == 2:
        if classes not in (None, labels.shape[1]):
            raise HgladError(
                f"training got soft labels of {labels.shape[1]} classes for a network of {classes} classes; "
                "create the network with as many classes as the labels have"
            )
        return
    for label in (labels.min().item(), labels.max().item()):
        if not 0 <= label < (torch.inf if classes is None else classes):
            raise HgladError(
                f"training got the label {label} for a network of {classes} classes; "
                "create the network with as many classes as there are labels"
            )


def _set_rate(optimizer: torch.optim.Optimizer, settings: TrainingSettings, epoch: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = settings.lr * SCHEDULES[settings.schedule](epoch, settings.epochs)


def train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    normalize: Normalize,
    settings: TrainingSettings,
    generator: torch.Generator,
) -> Tensor:
    """One pass over the images in random order; returns the loss of every step, (steps,)."""
    losses = []
    for batch, target in batches(images, labels, normalize, settings, generator):
        losses.append(_backward(network, optimizer, batch, target, settings.precision))
        optimizer.step()
    return torch.stack(losses)


TRAINING_MEND = "lower batch_size, the width of the network or the resolution"


def _backward(
    network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, precision: str
) -> Tensor:
    """`accumulate_gradient` from zero; where memory runs out, in smaller chunks from then on."""
    usual = min(chunk_size(network, images), len(images))

    def attempt(size: int) -> Tensor:
        if size < usual:
            limit_chunks(network, size)
        optimizer.zero_grad()
        return accumulate_gradient(network, images, labels, precision)

    least = 1 if separable(network) else usual
    return within_memory(attempt, usual, least, "training images", TRAINING_MEND)


def batches(
    images: Tensor,
    labels: Tensor,
    normalize: Normalize,
    settings: TrainingSettings,
    generator: torch.Generator,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images (b, ch, h, w), in random order, normalised and augmented, and of their labels."""
    augmentation = Augmentation(settings.augmentation)
    order = torch.randperm(len(images), generator=generator, device=generator.device).to(images.device)
    for chosen in order.split(settings.batch_size):
        batch = normalize(to_unit(images.index_select(0, chosen)))
        yield augmentation.draw(len(batch), batch.shape[-2:], generator)(batch), labels[chosen]


def to_unit(images: Tensor) -> Tensor:
    """uint8 images to float in [0, 1]; floating-point ones pass."""
    return images if images.is_floating_point() else images.float() / 255


def check_losses(losses: Tensor, epoch: int, lr: float) -> None:
    """Raise `HgladError` when a loss (steps,) or (steps, repeats) of this epoch (from 0) is not finite."""
    # Once per epoch, so that a GPU need not wait at every step.
    finite = losses.isfinite()
    if not finite.all():
        step, *repeat = (~finite).nonzero()[0].tolist()
        whose = f" of repeat {repeat[0]}" if repeat else ""
        raise HgladError(
            f"the training loss{whose} is {losses[step, *repeat].item()} at step "
            f"{epoch * len(losses) + step} with lr {lr:g}; lower lr or look for images that are not finite"
        )


def _update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
        for kept, current in zip(average.buffers(), network.buffers(), strict=True):
            kept.copy_(current)


@torch.no_grad()
def predict(network: nn.Module, real: LabelledImages, batch: int = 512, precision: str = "float32") -> Tensor:
    """Predicted class of every image, (n,) int64, on the network's device; puts the network in eval mode.

    At most `batch` images pass through the network together, fewer where their maps are large or memory runs
    out. `precision` is that of `TrainingSettings.test_precision`.
    """
    network.eval()
    batch = min(batch, len(real.images))
    least = 1 if separable(network) else batch
    mend = "lower the width of the network or the resolution"

    def attempt(size: int) -> Tensor:
        return _predicted(network, real, size, precision)

    return within_memory(attempt, batch, least, "test images", mend)


def _predicted(network: nn.Module, real: LabelledImages, batch: int, precision: str) -> Tensor:
    device = next(network.parameters()).device
    parts = (real.normalize(to_unit(part)).to(device) for part in real.images.split(batch))
    chunks = (chunk for part in parts for chunk in part.split(forward_size(network, part)))
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        return torch.cat([network(chunk).argmax(dim=1) for chunk in chunks])


def accuracy(network: nn.Module, real: LabelledImages, batch: int = 512) -> float:
    """Images classified as labelled, in percent."""
    hits = predict(network, real, batch).to(real.labels.device) == real.labels
    return 100 * hits.double().mean().item()


def confusion_matrix(network: nn.Module, real: LabelledImages, precision: str = "float32") -> Tensor:
    """Images of every true class (row) that are taken for every class (column), int64 (classes, classes)."""
    classes = len(real.classes)
    pairs = real.labels.cpu() * classes + predict(network, real, precision=precision).cpu()
    return pairs.bincount(minlength=classes**2).view(classes, classes)
