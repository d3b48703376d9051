"""Train a classifier on a set of images, alone or in lockstep; measure it on real images."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from math import cos, pi
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.overrides import TorchFunctionMode

from hglad.data.augmentation import Augmentation
from hglad.data.datasets import RealData
from hglad.errors import HgladError
from hglad.networks.passes import (
    accumulate_gradient,
    chunk_size,
    draws,
    dropout_from,
    forward_size,
    full_precision,
    limit_chunks,
    separable,
)
from hglad.runtime import within_memory
from hglad.settings import PROTOCOLS, TrainingSettings, fingerprint, suggestion
from hglad.storage import Checkpoint

VERSION = 1  # raise when the same settings train otherwise

Normalize = Callable[[Tensor], Tensor]
Generators = torch.Generator | Sequence[torch.Generator]

TRAINING_ADVICE = "lower batch_size, the width of the network or the resolution"


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


def protocol(name: str, network: str = "convnet") -> TrainingSettings:
    """Training of a registered network by a named protocol; an unknown one raises `HgladError`."""
    if name not in list(PROTOCOLS):  # a list or mapping from a file is no key
        raise HgladError(f"unknown evaluation protocol {name!r}: {suggestion(name, PROTOCOLS)}")
    settings = PROTOCOLS[name]
    return settings.changed(lr=0.0001) if (name, network) == ("glad", "vgg11") else settings


def train_classifier(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    normalize: Normalize,
    settings: TrainingSettings,
    rng: Generators,
    progress: Callable[[int, float], None] | None = None,
    state: Path | None = None,
) -> nn.Module:
    """Train `network` in place; return the moving average of it, or itself when there is none, in eval mode.

    Args:
        network: classifier, or several in lockstep as an `Ensemble`; its device is where it is trained.
        images: (n, ch, h, w) uint8 or float in [0, 1].
        labels: (n,) class indices int64, or (n, classes) probabilities, float (soft labels).
        normalize: images in [0, 1] to the network's input.
        settings: protocol.
        rng: draws the order of the images, the augmentation and dropout; of an ensemble one for each network.
        progress: called after every epoch with its number, from 1, and its mean loss.
        state: file that keeps the training now and then; one that is there is gone on with, to the same
            bits, if it is of such a training. The caller deletes it.

    Raises:
        HgladError: labels that do not fit, a loss that is not finite.
    """
    device = next(network.parameters()).device
    images, labels = images.to(device), labels.to(device)
    _check_labels(network, images, labels)
    rngs = [rng] if isinstance(rng, torch.Generator) else list(rng)
    average = None if settings.ema_decay is None else deepcopy(network).eval().requires_grad_(False)
    optimizer = torch.optim.SGD(
        network.parameters(), settings.lr, settings.momentum, weight_decay=settings.weight_decay, foreach=True
    )
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    seeds = [each.initial_seed() for each in rngs]
    checkpoint = Checkpoint(state, fingerprint(settings, shapes, seeds, device.type))
    network.train()
    with dropout_from(network, rngs[0]):
        parts = {"network": network, "optimizer": optimizer}
        parts |= {} if average is None else {"average": average}
        for epoch in range(_resume(checkpoint, parts, rngs), settings.epochs):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * SCHEDULES[settings.schedule](epoch, settings.epochs)
            losses = train_epoch(network, optimizer, images, labels, normalize, settings, rng)
            check_losses(losses, epoch, optimizer.param_groups[0]["lr"])
            if average is not None:
                follow = get_ema_multi_avg_fn(settings.ema_decay)
                follow(list(average.parameters()), list(network.parameters()), epoch)
                for kept, current in zip(average.buffers(), network.buffers(), strict=True):
                    kept.copy_(current)
            if checkpoint.due:
                checkpoint.save(_tensors(parts, rngs), epochs=epoch + 1)
            if progress is not None:
                progress(epoch + 1, losses.mean().item())
    return (network if average is None else average).eval()


def _tensors(parts: dict, rngs: Sequence[torch.Generator]) -> dict:
    """What a training goes on from: weights, average, momentum and the states of all that draws."""
    device = next(parts["network"].parameters()).device
    dropout = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
    states = {name: part.state_dict() for name, part in parts.items()}
    return states | {"rngs": [rng.get_state() for rng in rngs], "dropout": dropout}


def _resume(checkpoint: Checkpoint, parts: dict, rngs: Sequence[torch.Generator]) -> int:
    """Put the saved state in place; epochs that are done, 0 where there is no usable file."""
    found = checkpoint.load()
    if found is None:
        return 0
    tensors, plain = found
    for name, part in parts.items():
        part.load_state_dict(tensors[name])
    for rng, drawn in zip(rngs, tensors["rngs"], strict=True):
        rng.set_state(drawn)
    device = next(parts["network"].parameters()).device
    if any(draws(module) for module in parts["network"].modules()):
        if device.type == "cuda":
            torch.cuda.set_rng_state(tensors["dropout"], device)
        else:
            torch.set_rng_state(tensors["dropout"])
    return plain["epochs"]


def _check_labels(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Raise `HgladError` for images and labels that do not fit each other or the outputs of `network`."""
    if images.dim() != 4 or labels.shape[:1] != images.shape[:1] or labels.dim() > 2 or len(labels) == 0:
        raise HgladError(
            f"training got images of shape {tuple(images.shape)} and labels of shape "
            f"{tuple(labels.shape)}; give (n, ch, h, w) and (n,) with n of at least 1"
        )
    hard = labels.dim() == 1
    if hard != (labels.dtype == torch.int64):
        wanted = "class indices as torch.int64" if hard else "probabilities as floats, (n, classes)"
        raise HgladError(f"training got labels of type {labels.dtype}; give {wanted}")
    classes = getattr(getattr(network, "classifier", None), "out_features", None)  # None: taken as it is
    if not hard and classes not in (None, labels.shape[1]):
        raise HgladError(
            f"training got soft labels of {labels.shape[1]} classes for a network of {classes} classes; "
            "create the network with as many classes as the labels have"
        )
    for label in (labels.min().item(), labels.max().item()) if hard else ():
        if not 0 <= label < (torch.inf if classes is None else classes):
            raise HgladError(
                f"training got the label {label} for a network of {classes} classes; "
                "create the network with as many classes as there are labels"
            )


def train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    normalize: Normalize,
    settings: TrainingSettings,
    rng: Generators,
) -> Tensor:
    """One pass over the images in random order; every step's loss, (steps,), of an ensemble (steps, R)."""
    losses = []
    for batch, target in batches(images, labels, normalize, settings, rng):
        losses.append(_backward(network, optimizer, batch, target, settings.precision))
        optimizer.step()
    return torch.stack(losses)


def batches(
    images: Tensor, labels: Tensor, normalize: Normalize, settings: TrainingSettings, rng: Generators
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (b, ch, h, w) in random order, normalized and augmented, and their labels, batch by batch.

    Of several generators, each with an order and an augmentation of its own: (R, b, ch, h, w) and (R, b).
    """
    if not isinstance(rng, torch.Generator):
        each = [batches(images, labels, normalize, settings, own) for own in rng]
        for step in zip(*each, strict=True):
            stacked_images, stacked_labels = map(torch.stack, zip(*step, strict=True))
            yield stacked_images, stacked_labels
        return
    augmentation = Augmentation(settings.augmentation)
    order = torch.randperm(len(images), generator=rng, device=rng.device).to(images.device)
    for chosen in order.split(settings.batch_size):
        batch = normalize(to_unit(images.index_select(0, chosen)))
        yield augmentation.draw(len(batch), batch.shape[-2:], rng)(batch), labels[chosen]


def to_unit(images: Tensor) -> Tensor:
    """uint8 images to float in [0, 1]; floating-point ones pass."""
    return images if images.is_floating_point() else images.float() / 255


def _backward(
    network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, precision: str
) -> Tensor:
    """Gradient of the mean loss from zero; where memory runs out, in smaller chunks from then on."""
    if isinstance(network, Ensemble):  # the caller trains fewer in lockstep
        optimizer.zero_grad()
        return network.accumulate_gradients(images, labels, precision)
    usual = min(chunk_size(network, images), len(images))

    def attempt(size: int) -> Tensor:
        if size < usual:
            limit_chunks(network, size)
        optimizer.zero_grad()
        return accumulate_gradient(network, images, labels, precision)

    least = 1 if separable(network) else usual
    return within_memory(attempt, usual, least, "training images", TRAINING_ADVICE)


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


# Networks in lockstep


class Ensemble(nn.Module):
    """R networks of one architecture as one module: each of its parameters is stacked, (R, *shape).

    A small batch leaves most of a GPU idle, and every layer waits for the host to start it. Stacked weights
    and `torch.func.vmap` turn the same layer of all networks into one larger one, so that R networks start as
    many computations as one does. Each is trained as if it were alone, up to rounding.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        stacked, _ = stack_module_state(list(networks))
        self.names = tuple(stacked)
        self.stacked = nn.ParameterList(stacked.values())
        # In a tuple, since its parameters are those of no network.
        self.architecture = (deepcopy(networks[0]).to("meta"),)

    @property
    def classifier(self) -> nn.Module | None:
        """Last layer of the architecture, which knows the number of classes."""
        return getattr(self.architecture[0], "classifier", None)

    def forward(self, images: Tensor) -> Tensor:
        """Images of every network (R, n, ch, h, w) -> its logits (R, n, classes)."""

        def logits(weights: dict[str, Tensor], own_images: Tensor) -> Tensor:
            return functional_call(self.architecture[0], weights, (own_images,))

        return vmap(logits)(dict(zip(self.names, self.stacked, strict=True)), images)

    def accumulate_gradients(self, images: Tensor, labels: Tensor, precision: str) -> Tensor:
        """Add the gradients of each network's own mean loss, and return these losses, (R,)."""
        with _HalfProducts() if precision == "bfloat16" else nullcontext():
            logits = full_precision(self(images))  # (R, b, classes)
        each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(0, 1), reduction="none")
        losses = each.view(labels.shape[:2]).mean(dim=1)
        losses.sum().backward()
        return losses.detach()

    def unstack_into(self, networks: Sequence[nn.Module]) -> None:
        """Copy the weights into networks of the architecture, in their order, and put them in eval mode."""
        for number, network in enumerate(networks):
            rows = (parameter[number] for parameter in self.stacked)
            network.load_state_dict(dict(zip(self.names, rows, strict=True)))
            network.eval()


class _HalfProducts(TorchFunctionMode):
    """Convolutions and linear layers in 16 bits; on a CPU `torch.autocast` misses those inside `vmap`."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (F.conv2d, F.linear):
            args = [value.bfloat16() if isinstance(value, Tensor) else value for value in args]
        return function(*args, **(kwargs or {}))


def stackable(network: nn.Module) -> bool:
    """Whether networks like this one can be trained as an ensemble.

    Not one that draws, as dropout does, from PyTorch's one global generator, nor one with buffers, which
    batch norm writes to, nor a library's model, which may do either.
    """
    draws_any = any(draws(module) for module in network.modules())
    return not draws_any and next(network.buffers(), None) is None


# Measuring


@torch.no_grad()
def predict(network: nn.Module, real: RealData, batch: int = 512, precision: str = "float32") -> Tensor:
    """Predicted class of every image, (n,) int64, on the network's device; puts the network in eval mode.

    At most `batch` images pass through the network together, fewer where their maps are large or memory runs
    out. `precision` is that of `TrainingSettings.test_precision`.
    """
    network.eval()
    device = next(network.parameters()).device
    batch = min(batch, len(real.images))

    def attempt(size: int) -> Tensor:
        parts = (real.normalize(to_unit(part)).to(device) for part in real.images.split(size))
        chunks = (chunk for part in parts for chunk in part.split(forward_size(network, part)))
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return torch.cat([network(chunk).argmax(dim=1) for chunk in chunks])

    least = 1 if separable(network) else batch
    return within_memory(
        attempt, batch, least, "test images", "lower the width of the network or the resolution"
    )


def accuracy(network: nn.Module, real: RealData) -> float:
    """Images classified as labeled, in percent."""
    hits = predict(network, real).to(real.labels.device) == real.labels
    return 100 * hits.double().mean().item()


def confusion_matrix(network: nn.Module, real: RealData, precision: str = "float32") -> Tensor:
    """Images of every true class (row) that are taken for every class (column), int64 (classes, classes)."""
    classes = len(real.classes)
    pairs = real.labels.cpu() * classes + predict(network, real, precision=precision).cpu()
    return pairs.bincount(minlength=classes**2).view(classes, classes)
