"""Derivatives of the classification loss that matching objectives need.

L(theta, x) is the mean cross-entropy of a batch. DC and MTT pull a direction u in weight space back to the
images: d<dL/dtheta, u>/dx. Two ways give the same numbers: double backward, the readable one, and forward
over reverse (the derivative of dL/dx along theta + t u), which `torch.compile` accepts and makes faster.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from hglad.errors import HgladError
from hglad.networks.chunks import chunk_size

Weights = tuple[Tensor, ...]  # in the order of network.parameters()


class Derivatives:
    """Derivatives of the loss of `network` at weights that are given, not its own.

    The network is put in eval mode: no dropout. Batch norm takes the statistics that it holds, or those of
    the batch when it holds none (`use_batch_statistics`).
    """

    def __init__(self, network: nn.Module, compile: bool = False) -> None:
        self.network = network.eval()
        self.names = [name for name, _ in network.named_parameters()]
        self.compile = compile
        self.compiled: dict[bool, Callable] = {}

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
        for part, target in self._chunks(images.detach(), labels):
            first, mixed, second = self._products(weights, direction, part, target, len(labels), hessian)
            gradients = first if gradients is None else torch._foreach_add(gradients, first)
            curvature = second if curvature is None else torch._foreach_add(curvature, second)
            image_parts.append(mixed)
        return tuple(gradients), torch.cat(image_parts), tuple(curvature) if hessian else None

    def _chunks(self, images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Parts of a batch, as equal as they can be: each size is compiled by itself."""
        parts = -(-len(images) // chunk_size(self.network, images))
        return zip(images.chunk(parts), labels.chunk(parts), strict=True)

    def _products(self, weights, direction, images, labels, total, hessian):
        if not self.compile:
            return double_backward(self.loss, weights, direction, images, labels, total, hessian)
        if hessian not in self.compiled:
            function = partial(forward_over_reverse, self.loss, hessian=hessian)
            self.compiled[hessian] = torch.compile(function, dynamic=False)
        try:
            return self.compiled[hessian](weights, direction, images, labels, total)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise HgladError(
                f"no compiled second derivative: {reason}; install a C++ compiler or set compile: false"
            ) from error


def double_backward(loss, weights, direction, images, labels, total, hessian):
    """Backward through the backward pass: the reference."""
    weights = tuple(weight.detach().requires_grad_() for weight in weights)
    images = images.detach().requires_grad_()
    gradients = torch.autograd.grad(loss(weights, images, labels, total), weights, create_graph=True)
    along = sum((g * u).sum() for g, u in zip(gradients, direction, strict=True))
    mixed, *second = torch.autograd.grad(along, (images, *weights) if hessian else (images,))
    return [g.detach() for g in gradients], mixed, second or None


def forward_over_reverse(loss, weights, direction, images, labels, total, hessian):
    """The same by symmetry of second derivatives: d/dt of (dL/dtheta, dL/dx) at theta + t u."""
    both = grad(loss, argnums=(0, 1))
    (first, _), (second, mixed) = jvp(
        lambda weights: both(weights, images, labels, total), (weights,), (direction,)
    )
    return list(first), mixed, list(second) if hessian else None


def use_batch_statistics(network: nn.Module) -> None:
    """Let batch norm normalise by the batch at hand in training and evaluation, and keep no statistics."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
