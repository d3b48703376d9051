"""Trajectory matching (MTT; Cazenavette et al., CVPR 2022): students should end where experts do."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hglad.data.augmentation import Augmentation, Transform
from hglad.errors import HgladError
from hglad.networks import Classifier, require
from hglad.objectives import (
    Derivatives,
    Objective,
    RealBatches,
    Weights,
    register_objective,
    use_batch_statistics,
)
from hglad.objectives.experts import Experts
from hglad.registry import unknown
from hglad.settings import DSA

VERSION = 1  # raise when the same draws give another gradient, by a change here or of `Derivatives`

LOWEST_LR = 1e-3  # of the student; a rate of 0 or less trains nothing
MOMENTUM = 0.5  # of the student's learning rate, as of the images. Source: MTT
STUDENT_STEPS = 20  # Source: H-GLaD


@dataclass(frozen=True)
class StudentStep:
    """What the student sees in one step."""

    view: Callable[[Tensor], Tensor]
    """All images (n, ch, h, w) to the network's input of this step (batch, ch, h, w); differentiable."""
    labels: Tensor
    """Classes of the input, (batch,)."""


@dataclass(frozen=True)
class Matched:
    """Loss of one trajectory and its gradients."""

    loss: Tensor
    """Squared distance of student and expert over that of the expert's two ends, ()."""
    images: Tensor
    """dLoss/dimages, (n, ch, h, w)."""
    lr: Tensor
    """dLoss/d(student learning rate), ()."""


def trajectory_loss(weights: Weights, target: Weights, start: Weights) -> tuple[Tensor, Weights]:
    """Loss of a student that ended at `weights` (MTT, eq. 3), and its gradient with respect to them."""
    residual = torch._foreach_sub(weights, target)
    scale = sum(d.square().sum() for d in torch._foreach_sub(start, target))
    loss = sum(r.square().sum() for r in residual) / scale
    return loss, tuple(2 * r / scale for r in residual)


def dot(first: Weights, second: Weights) -> Tensor:
    """Inner product over all parameters."""
    return sum((a * b).sum() for a, b in zip(first, second, strict=True))


def sgd_step(weights: Weights, gradient: Weights, lr: Tensor) -> Weights:
    """theta - lr g."""
    return tuple(w - lr * g for w, g in zip(weights, gradient, strict=True))


def match_full(
    derivatives: Derivatives,
    images: Tensor,
    steps: list[StudentStep],
    start: Weights,
    target: Weights,
    lr: Tensor,
) -> Matched:
    """Exact gradient, by the adjoint of SGD: weights of all steps are kept, activations of one.

    theta_{i+1} = theta_i - lr g_i; with a_{i+1} = dLoss/dtheta_{i+1}: a_i = a_{i+1} - lr H_i a_{i+1}.
    """
    images, trail = images.detach().requires_grad_(), [start]
    for step in steps:
        gradient = derivatives.gradient(trail[-1], step.view(images.detach()), step.labels)
        trail.append(sgd_step(trail[-1], gradient, lr))
    loss, adjoint = trajectory_loss(trail.pop(), target, start)
    image_gradient, lr_gradient = torch.zeros_like(images), torch.zeros_like(lr)
    for step in reversed(steps):
        seen = step.view(images)
        first, mixed, second = derivatives.products(trail.pop(), adjoint, seen, step.labels, hessian=True)
        image_gradient += torch.autograd.grad(seen, images, -lr * mixed)[0]
        lr_gradient -= dot(adjoint, first)
        adjoint = sgd_step(adjoint, second, lr)
    return Matched(loss, image_gradient, lr_gradient)


def match_tesla(
    derivatives: Derivatives,
    images: Tensor,
    steps: list[StudentStep],
    start: Weights,
    target: Weights,
    lr: Tensor,
) -> Matched:
    """TESLA's gradient (Cui et al., ICML 2023): the weights that a step starts from count as constants.

    Then one direction, dLoss/dtheta_N, serves all steps; a second run over them needs the memory of one.
    """
    images, weights = images.detach().requires_grad_(), start
    for step in steps:
        gradient = derivatives.gradient(weights, step.view(images.detach()), step.labels)
        weights = sgd_step(weights, gradient, lr)
    loss, direction = trajectory_loss(weights, target, start)
    weights, image_gradient, lr_gradient = start, torch.zeros_like(images), torch.zeros_like(lr)
    for step in steps:
        seen = step.view(images)
        first, mixed, _ = derivatives.products(weights, direction, seen, step.labels)
        image_gradient += torch.autograd.grad(seen, images, -lr * mixed)[0]
        lr_gradient -= dot(direction, first)
        weights = sgd_step(weights, first, lr)
    return Matched(loss, image_gradient, lr_gradient)


UNROLLS = {"full": match_full, "tesla": match_tesla}


def view_of(chosen: Tensor, transform: Transform, real: RealBatches, images: Tensor) -> Tensor:
    """Input of the network: the chosen images under their transforms."""
    return transform(real.normalize(images.index_select(0, chosen)))


@register_objective("mtt")
class TrajectoryMatching(Objective):
    """`network` gives the student's architecture; its own parameters are not used.

    Args:
        network: surrogate, that of the experts. Batch norm normalizes by the batch; dropout is off.
        experts: their trajectories, or the folder that holds them.
        augmentation: DSA strategies joined by "_", drawn per student step with parameters per image.
        unroll: "full" (exact, MTT) or "tesla" (the weights of each step count as constants).
        student_steps: steps of the student. Source: H-GLaD.
        expert_epochs: epochs of the expert that they should make up for. Source: H-GLaD.
        max_start_epoch: the start is drawn below it. Source: H-GLaD.
        batch_images: images per student step; none: all of them, as H-GLaD.
        student_lr: learning rate of the student at the start. Source: MTT.
        lr_student_lr: learning rate of that learning rate, SGD with momentum 0.5. Source: H-GLaD.
        compile: compile the second derivative.

    Raises:
        HgladError: experts of another network or too short, an unknown form, numbers out of range.
    """

    name = "mtt"
    rates = ("student_lr", "lr_student_lr")

    def __init__(
        self,
        network: Classifier,
        experts: Experts | str,
        augmentation: str = DSA,
        unroll: str = "tesla",
        student_steps: int = STUDENT_STEPS,
        expert_epochs: int = 3,
        max_start_epoch: int = 5,
        batch_images: int | None = None,
        student_lr: float = 0.01,
        lr_student_lr: float = 1e-6,
        compile: bool = False,
    ) -> None:
        if unroll not in UNROLLS:
            raise unknown("unroll of mtt,", unroll, list(UNROLLS))
        numbers = {"student_steps": student_steps, "expert_epochs": expert_epochs}
        numbers |= {"max_start_epoch": max_start_epoch}
        numbers |= {} if batch_images is None else {"batch_images": batch_images}
        require("objective 'mtt'", **numbers)
        if not LOWEST_LR <= student_lr < float("inf"):
            raise HgladError(
                f"student_lr of mtt is {student_lr!r}: expected a number of at least {LOWEST_LR}"
            )
        if not 0 <= lr_student_lr < float("inf"):
            raise HgladError(f"lr_student_lr of mtt is {lr_student_lr!r}: expected 0 or a positive number")
        self.experts = experts if isinstance(experts, Experts) else Experts(experts)
        self.experts.check(network)
        self.experts.check_length(max_start_epoch, expert_epochs)
        use_batch_statistics(network)
        self.network, self.match = network, UNROLLS[unroll]
        self.derivatives = Derivatives(network, compile)
        self.augmentation = Augmentation(augmentation)
        self.student_steps, self.batch_images = student_steps, batch_images
        self.expert_epochs, self.max_start_epoch = expert_epochs, max_start_epoch
        device = next(network.parameters()).device
        self.student_lr = torch.tensor(student_lr, device=device)
        self.lr_velocity = torch.zeros((), device=device)
        self.lr_student_lr = lr_student_lr

    @classmethod
    def passes(cls, images: int, real: int, options: dict[str, Any]) -> float:
        """As `Objective.passes`: a gradient and a second derivative in each step of the student."""
        return 12 * images * options.get("student_steps", STUDENT_STEPS)

    def gradient(
        self, images: Tensor, labels: Tensor, real: RealBatches, rng: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Objective.gradient`; logs "student_lr" too, and moves the student's learning rate."""
        self.images_per_class(images, labels, len(real.classes))
        pair = self.experts.draw(rng, self.max_start_epoch, self.expert_epochs, images.device)
        start, target = (
            tuple(weights[name].to(images) for name in self.derivatives.names) for weights in pair
        )
        steps = []
        for chosen in self.draw_batches(len(images), rng):
            chosen = chosen.to(images.device)
            transform = self.augmentation.draw(len(chosen), images.shape[-2:], rng)
            steps.append(StudentStep(partial(view_of, chosen, transform, real), labels[chosen]))
        matched = self.match(self.derivatives, images, steps, start, target, self.student_lr.to(images))
        logs = {"loss": matched.loss, "student_lr": self.student_lr.clone()}
        self.lr_velocity = MOMENTUM * self.lr_velocity + matched.lr.to(self.lr_velocity)
        self.student_lr = (self.student_lr - self.lr_student_lr * self.lr_velocity).clamp(min=LOWEST_LR)
        return matched.images, logs

    def draw_batches(self, count: int, rng: torch.Generator) -> list[Tensor]:
        """Indices per step, without replacement; a new permutation when they run out (MTT)."""
        if self.batch_images is None or self.batch_images >= count:
            return [torch.arange(count, device=rng.device)] * self.student_steps
        batches: list[Tensor] = []
        while len(batches) < self.student_steps:
            order = torch.randperm(count, generator=rng, device=rng.device)
            batches += order.split(self.batch_images)
        return batches[: self.student_steps]

    def state_dict(self) -> dict[str, Tensor]:
        """The student's learning rate and its momentum."""
        return {"student_lr": self.student_lr, "lr_velocity": self.lr_velocity}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict`."""
        self.student_lr = state["student_lr"].to(self.student_lr)
        self.lr_velocity = state["lr_velocity"].to(self.lr_velocity)
