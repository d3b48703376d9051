"""Matching objectives by name: what one is, and the derivatives of the classification loss that they share.

A new objective is one file: a class under `@register_objective(name)` whose constructor names its options and
what it takes of `SHARED`.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from hglad.errors import HgladError
from hglad.networks import Classifier
from hglad.networks.passes import chunk_size
from hglad.registry import Registry, unknown

SHARED = ("network", "augmentation", "batch_real", "experts")
"""Options that a profile sets for all objectives; each takes those that it names."""

OBJECTIVES = Registry("objective", __package__)
register_objective = OBJECTIVES.register


def create_objective(name: str, **settings: object) -> "Objective":
    """An objective by name; an unknown name or setting raises `HgladError` with the nearest one."""
    return OBJECTIVES.create(name, **settings)


def needs_experts(name: str) -> bool:
    """Whether an objective matches expert trajectories; an unknown name raises `HgladError`."""
    return "experts" in OBJECTIVES.options(name)


class RealBatches(Protocol):
    """What an objective needs of `hglad.data.RealData`."""

    classes: tuple[str, ...]

    def normalize(self, images: Tensor) -> Tensor: ...
    def batch(self, per_class: int, rng: torch.Generator) -> Tensor: ...


class Objective:
    """A matching objective: how the images should change to train networks as the real set does."""

    name: str
    """What messages call it."""
    rates: tuple[str, ...] = ()
    """Names of its own learning rates, which may be at fault when a value is not finite."""
    network: Classifier | None = None
    """The surrogate, which gets fewer images at once where memory runs out."""
    batch_real: int = 0
    """Real images of each class that pass through it in a step."""
    checked_labels: Tensor | None = None
    """Labels that `images_per_class` has looked at."""

    @classmethod
    def passes(cls, images: int, real: int, options: dict[str, Any]) -> float:
        """Images through the surrogate in a step, for an estimate: a training step counts 3, a second
        derivative 9. `images` and `real` are those of all classes, `options` those of the profile."""
        return real

    def gradient(
        self, images: Tensor, labels: Tensor, real: RealBatches, rng: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """dL/dimages (n, ch, h, w) and scalars to log, among them "loss", tensors of shape ().

        `images` (n, ch, h, w) are float in [0, 1], not necessarily clamped; `labels` (n,) are sorted, equally
        many of each class, else `HgladError`. Everything random follows from `rng`. Whether the result is
        finite is for the caller to see: looking at each step would keep a GPU waiting.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Tensor]:
        """What the next step depends on besides its arguments, such as a network in training."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state_dict`."""

    def images_per_class(self, images: Tensor, labels: Tensor, classes: int) -> int:
        """Images per class (ipc); raises `HgladError` unless the labels are those of the classes in order.

        The same labels are looked at once: at each step it would keep a GPU waiting.
        """
        ipc = len(labels) // classes
        if labels is self.checked_labels and len(images) == len(labels):
            return ipc
        expected = torch.arange(classes, device=labels.device).repeat_interleave(max(1, ipc))
        if len(images) != len(labels) or not torch.equal(labels, expected):
            shown = ", ".join(map(str, labels[:20].tolist())) + (", ..." if len(labels) > 20 else "")
            raise HgladError(
                f"{len(images)} images have the labels {shown}; give images sorted by class, equally many of "
                f"each of the {classes} classes"
            )
        self.checked_labels = labels
        return ipc


PRECISIONS = ("float32", "bfloat16")


def in_bfloat16(precision: str) -> bool:
    """Whether first-order passes over real images take 16 bits; second derivatives always stay in float32.

    Raises `HgladError` for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, list(PRECISIONS))
    return precision == "bfloat16"


Weights = tuple[Tensor, ...]  # in the order of network.parameters()


class Derivatives:
    """Derivatives of the classification loss of `network` at weights that are given, not its own.

    L(theta, x) is the mean cross-entropy of a batch. DC and MTT pull a direction u in weight space back to
    the images: d<dL/dtheta, u>/dx. Two ways give the same numbers: double backward, the readable one, and
    forward over reverse, which `torch.compile` accepts and makes faster.

    The network is put in eval mode: no dropout. Batch norm takes the statistics that it holds, or those of
    the batch when it holds none (`use_batch_statistics`).
    """

    def __init__(self, network: nn.Module, compile: bool = False) -> None:
        self.network = network.eval()
        self.names = [name for name, _ in network.named_parameters()]
        self.compile = compile

    def loss(self, weights: Weights, images: Tensor, labels: Tensor, total: int) -> Tensor:
        """Sum of the cross-entropy of a chunk over the size of its batch."""
        named = dict(zip(self.names, weights, strict=True))
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative on a processor
            logits = functional_call(self.network, named, (images,))
        return F.cross_entropy(logits, labels, reduction="sum") / total

    def gradient(self, weights: Weights, images: Tensor, labels: Tensor) -> Weights:
        """dL/dtheta of images (n, ch, h, w) with labels (n,)."""
        weights = tuple(weight.detach().requires_grad_() for weight in weights)
        total: Weights | None = None
        for part, target in self._chunks(images.detach(), labels):
            add = torch.autograd.grad(self.loss(weights, part, target, len(labels)), weights)
            total = add if total is None else torch._foreach_add(total, add)
        return tuple(total)

    def products(
        self, weights: Weights, direction: Weights, images: Tensor, labels: Tensor, hessian: bool = False
    ) -> tuple[Weights, Tensor, Weights | None]:
        """dL/dtheta, d<dL/dtheta, u>/dx (n, ch, h, w) and, if asked for, d<dL/dtheta, u>/dtheta."""
        gradients, image_parts, curvature = None, [], None
        derive = compiled_derivatives() if self.compile else double_backward
        for part, target in self._chunks(images.detach(), labels):
            try:
                first, mixed, second = derive(
                    self.loss, weights, direction, part, target, len(labels), hessian
                )
            except torch._dynamo.exc.TorchDynamoException as error:
                reason = str(error).strip().splitlines()[0]
                raise HgladError(
                    f"no compiled second derivative: {reason}; install a C++ compiler or set compile: false"
                ) from error
            gradients = first if gradients is None else torch._foreach_add(gradients, first)
            curvature = second if curvature is None else torch._foreach_add(curvature, second)
            image_parts.append(mixed)
        return tuple(gradients), torch.cat(image_parts), tuple(curvature) if hessian else None

    def _chunks(self, images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Parts of a batch, as equal as they can be: each size is compiled by itself."""
        parts = -(-len(images) // chunk_size(self.network, images))
        return zip(images.chunk(parts), labels.chunk(parts), strict=True)


def double_backward(
    loss: Callable,
    weights: Weights,
    direction: Weights,
    images: Tensor,
    labels: Tensor,
    total: int,
    hessian: bool,
) -> tuple[list[Tensor], Tensor, list[Tensor] | None]:
    """What `Derivatives.products` gives of a chunk, backward through the backward pass: the reference."""
    weights = tuple(weight.detach().requires_grad_() for weight in weights)
    images = images.detach().requires_grad_()
    gradients = torch.autograd.grad(loss(weights, images, labels, total), weights, create_graph=True)
    along = sum((g * u).sum() for g, u in zip(gradients, direction, strict=True))
    mixed, *second = torch.autograd.grad(along, (images, *weights) if hessian else (images,))
    return [g.detach() for g in gradients], mixed, second or None


def forward_over_reverse(
    loss: Callable,
    weights: Weights,
    direction: Weights,
    images: Tensor,
    labels: Tensor,
    total: int,
    hessian: bool,
) -> tuple[list[Tensor], Tensor, list[Tensor] | None]:
    """The same by symmetry of second derivatives: d/dt of (dL/dtheta, dL/dx) at theta + t u."""
    both = grad(loss, argnums=(0, 1))
    (first, _), (second, mixed) = jvp(
        lambda weights: both(weights, images, labels, total), (weights,), (direction,)
    )
    return list(first), mixed, list(second) if hessian else None


@cache
def compiled_derivatives() -> Callable:
    """`forward_over_reverse`, compiled at the first call for each network and size of a chunk."""
    return torch.compile(forward_over_reverse, dynamic=False)


def use_batch_statistics(network: nn.Module) -> None:
    """Let batch norm normalize by the batch at hand in training and evaluation, and keep no statistics."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
