"""Train networks of one architecture in lockstep, as one batched computation.

A small batch leaves most of a GPU idle, and every layer waits for the host to start it. Stacked weights and
`torch.func.vmap` turn the same layer of all networks into one larger one, so that R networks start as many
computations as one does.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.overrides import TorchFunctionMode

from hglad.evaluation.training import Normalize, TrainingSettings, batches, check_labels, train_epochs
from hglad.networks import Classifier
from hglad.networks.chunks import full_precision
from hglad.networks.initialization import draws
from hglad.settings import fingerprint


class Ensemble(nn.Module):
    """R networks of one architecture as one module: each of its parameters is stacked, (R, *shape)."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        stacked, _ = stack_module_state(list(networks))
        self.names = tuple(stacked)
        self.stacked = nn.ParameterList(stacked.values())
        # In a tuple, since its parameters are those of no network.
        self.architecture = (deepcopy(networks[0]).to("meta"),)

    def forward(self, images: Tensor) -> Tensor:
        """Images of every network (R, n, ch, h, w) -> its logits (R, n, classes)."""
        weights = dict(zip(self.names, self.stacked, strict=True))
        return vmap(self._one)(weights, images)

    def _one(self, weights: dict[str, Tensor], images: Tensor) -> Tensor:
        return functional_call(self.architecture[0], weights, (images,))

    def unstack_into(self, networks: Sequence[nn.Module]) -> None:
        """Copy the weights into networks of the architecture, in their order."""
        for number, network in enumerate(networks):
            rows = (parameter[number] for parameter in self.stacked)
            network.load_state_dict(dict(zip(self.names, rows, strict=True)))


def stackable(network: nn.Module) -> bool:
    """Whether networks like this one can be trained as an ensemble.

    Not one that draws, as dropout does, from PyTorch's one global generator, nor one with buffers, which
    batch norm writes to, nor a library's model, which may do either.
    """
    draws_any = any(draws(module) for module in network.modules())
    return not draws_any and next(network.buffers(), None) is None


def backward_memory(network: Classifier, images: int) -> int:
    """Bytes that one network keeps at most for the backward pass of so many images; nothing is computed."""
    kept = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        deepcopy(network).to("meta")(torch.empty(images, *network.image_shape, device="meta"))
    return sum(kept)


def train_ensemble(
    networks: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    normalize: Normalize,
    settings: TrainingSettings,
    generators: Sequence[torch.Generator],
    progress: Callable[[int, float], None] | None = None,
    state: Path | None = None,
) -> None:
    """Train every network in place as `train_classifier` does with its generator, up to rounding.

    Afterwards each of the `networks`, in eval mode, is its moving average where `settings` ask for one.

    Args:
        networks: R `stackable` classifiers of one architecture, on the device where the training happens.
        images: (n, ch, h, w) uint8 or float in [0, 1].
        labels: (n,) class indices int64, or (n, classes) probabilities, float (soft labels).
        normalize: images in [0, 1] to the networks' input.
        settings: protocol.
        generators: draw the order of the images and the augmentation, one for each network.
        progress: called after every epoch with its number, from 1, and the mean loss of all networks.
        state: file that keeps the training every minute; one that is there is gone on with, to the same
            result, if it is of as many networks with the same seeds. The caller deletes it.

    Raises:
        HgladError: labels that do not fit, a loss that is not finite, with the number of its network.
    """
    device = next(networks[0].parameters()).device
    images, labels = images.to(device), labels.to(device)
    check_labels(networks[0], images, labels)
    ensemble = Ensemble(networks)

    def one_epoch(optimizer: torch.optim.Optimizer) -> Tensor:
        drawn = [batches(images, labels, normalize, settings, generator) for generator in generators]
        return _train_epoch(ensemble, optimizer, drawn, settings.precision)

    key = fingerprint(settings, [generator.initial_seed() for generator in generators])
    train_epochs(ensemble, one_epoch, settings, generators, key, progress, state).unstack_into(networks)
    for network in networks:
        network.eval()


def _train_epoch(ensemble: Ensemble, optimizer: torch.optim.Optimizer, drawn: list, precision: str) -> Tensor:
    """One pass over the batches that were drawn for each network; every network's losses, (steps, R)."""
    losses = []
    for step in zip(*drawn, strict=True):
        batch, target = (torch.stack(parts) for parts in zip(*step, strict=True))  # (R, b, ch, h, w), (R, b)
        optimizer.zero_grad()
        losses.append(_accumulate_gradients(ensemble, batch, target, precision))
        optimizer.step()
    return torch.stack(losses)


def _accumulate_gradients(ensemble: Ensemble, images: Tensor, labels: Tensor, precision: str) -> Tensor:
    """`accumulate_gradient` of every network: a weight counts in the loss of its own network only; (R,)."""
    with _HalfProducts() if precision == "bfloat16" else nullcontext():
        logits = ensemble(images)  # (R, b, classes)
    each = F.cross_entropy(full_precision(logits).flatten(0, 1), labels.flatten(0, 1), reduction="none")
    losses = each.view(labels.shape[:2]).mean(dim=1)
    losses.sum().backward()
    return losses.detach()


class _HalfProducts(TorchFunctionMode):
    """Convolutions and linear layers in 16 bits; on a CPU `torch.autocast` misses those inside `vmap`."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (F.conv2d, F.linear):
            args = [value.bfloat16() if isinstance(value, Tensor) else value for value in args]
        return function(*args, **(kwargs or {}))
