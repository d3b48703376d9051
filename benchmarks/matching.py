"""Suite `matching`: image gradients of the matching objectives.

Fast: `hglad.objectives`. Straightforward: the same gradients as they are usually written, after the manner of
the released code of DC, DM, MTT and TESLA: real images as floats in host memory, copied class by class; a new
network in each step; every second derivative by a backward pass through a backward pass. Both sides make the
same random draws in the same order, so that their gradients can be compared.
"""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from bench import Case, Step, seeded
from hglad.data.augmentation import Augmentation, Transform
from hglad.data.datasets import RealData, draw
from hglad.networks import Classifier, create_network, initialize
from hglad.objectives import create_objective
from hglad.objectives.experts import Experts, expert_file
from hglad.settings import DSA
from hglad.storage import write_tensors

STUDENT_LR = 0.01
EXPERT_EPOCHS, MAX_START_EPOCH = 3, 5


@dataclass(frozen=True)
class Problem:
    """Shapes of one case; its data are random."""

    size: int
    """Height and width of the images in pixels."""
    depth: int
    """Blocks of the ConvNet."""
    ipc: int
    """Distilled images per class."""
    batch_real: int = 256
    """Real images per class and step."""
    width: int = 128
    """Channels of the ConvNet."""
    student_steps: int = 20
    """Steps of the student in trajectory matching."""
    device: str = "cpu"
    """Where everything is computed."""
    classes: int = 10
    """Number of classes."""
    dtype: torch.dtype = torch.float32
    """Number format of images and networks."""

    def network(self, generator: torch.Generator | None = None) -> Classifier:
        """A freshly drawn ConvNet."""
        shape = (3, self.size, self.size)
        options = {"depth": self.depth, "width": self.width}
        if self.dtype == torch.float32:
            return create_network("convnet", shape, self.classes, generator, **options).to(self.device)
        network = create_network("convnet", shape, self.classes, **options).to(self.device, self.dtype)
        return network if generator is None else initialize(network, generator)  # draws in its own format

    def real(self) -> RealData:
        """Random pixels, as many of each class as a batch takes."""
        shape = (self.classes * self.batch_real, 3, self.size, self.size)
        images = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        offsets = tuple(range(0, shape[0] + 1, self.batch_real))
        names = tuple(f"class {c}" for c in range(self.classes))
        mean, std = torch.full((3,), 0.5), torch.full((3,), 0.29)  # of uniform numbers in [0, 1]
        return RealData("random pixels", images, offsets, names, mean, std, "")

    def distilled(self) -> tuple[Tensor, Tensor]:
        """Images (n, 3, h, w) in [0, 1] and their labels (n,)."""
        labels = torch.arange(self.classes).repeat_interleave(self.ipc)
        shape = (len(labels), 3, self.size, self.size)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        return images.to(self.device, self.dtype), labels.to(self.device)

    def experts(self) -> Experts:
        """One expert that walks at random from an untrained network."""
        generator = torch.Generator().manual_seed(2)
        folder = tempfile.mkdtemp()
        trajectory = {
            name: random_walk(weights.detach().cpu(), generator)
            for name, weights in self.network().named_parameters()
        }
        write_tensors(expert_file(folder, 0), trajectory, {})
        experts = Experts(folder)
        weakref.finalize(experts, shutil.rmtree, folder, ignore_errors=True)
        return experts


def random_walk(weights: Tensor, generator: torch.Generator) -> Tensor:
    """(epochs + 1, *shape): steps of 1 % of the weights' size, as many as a trajectory needs."""
    epochs = MAX_START_EPOCH + EXPERT_EPOCHS
    steps = torch.randn(epochs + 1, *weights.shape, generator=generator) * weights.abs().mean() * 0.01
    return weights + steps.cumsum(dim=0)


@dataclass(frozen=True)
class Method:
    """An objective: its name with settings for the fast side, its function for the straightforward one."""

    name: str
    objective: str
    plain: Callable[["Plain", torch.Generator], Tensor]
    settings: dict = field(default_factory=dict)


def methods() -> Iterator[Method]:
    """All that are compared; second derivatives as they are and compiled."""
    yield Method("dm", "dm", plain_dm)
    for compile in (False, True):
        suffix = " compiled" if compile else ""
        loops = {"outer_loops": 1, "inner_loops": 1}
        yield Method(f"dc{suffix}", "dc", plain_dc, loops | {"compile": compile})
        for unroll, plain in (("full", plain_mtt_full), ("tesla", plain_mtt_tesla)):
            settings = {"unroll": unroll, "compile": compile}
            yield Method(f"mtt {unroll}{suffix}", "mtt", plain, settings)


def problems(device: str, quick: bool) -> list[Problem]:
    """32 px at two sizes of the distilled set, and 128 px with as many real images as the device can take."""
    if quick:
        return [Problem(8, depth=2, ipc=2, batch_real=6, width=8, student_steps=3, device=device, classes=3)]
    large = 32 if torch.device(device).type == "cpu" else 256
    return [
        Problem(32, depth=3, ipc=1, device=device),
        Problem(32, depth=3, ipc=10, device=device),
        Problem(128, depth=5, ipc=1, batch_real=large, device=device),
    ]


def cases(device: str, quick: bool) -> list[Case]:
    """Every method on every problem."""
    return [
        replace(case(method, problem), exact=case(method, exact(problem)))
        for problem in problems(device, quick)
        for method in methods()
    ]


def case(method: Method, problem: Problem) -> Case:
    """A method on a problem."""
    return Case(
        f"{method.name}, {problem.size} px, ipc {problem.ipc}",
        fast=partial(fast_step, method, problem),
        plain=partial(plain_step, method, problem),
        note=note(method, problem),
    )


def exact(problem: Problem) -> Problem:
    """The same in float64, with fewer student steps and real images: it is not timed."""
    few = min(problem.batch_real, 16), min(problem.student_steps, 3)
    return replace(problem, dtype=torch.float64, batch_real=few[0], student_steps=few[1])


def note(method: Method, problem: Problem) -> str:
    """What the name leaves out."""
    if method.objective == "mtt":
        return f"{problem.student_steps} student steps"
    return f"real batch {problem.batch_real}"


def fast_step(method: Method, problem: Problem) -> Step:
    """The library's step."""
    if method.objective == "mtt":
        settings = {
            "experts": problem.experts(),
            "student_steps": problem.student_steps,
            "expert_epochs": EXPERT_EPOCHS,
            "max_start_epoch": MAX_START_EPOCH,
            "student_lr": STUDENT_LR,
            "lr_student_lr": 0.0,  # every step starts from the same rate, as on the other side
        }
    else:
        settings = {"batch_real": problem.batch_real}
    objective = create_objective(method.objective, network=problem.network(), **settings, **method.settings)
    (images, labels), real = problem.distilled(), problem.real().to(problem.device)
    return seeded(lambda generator: objective.gradient(images, labels, real, generator)[0], problem.device)


def plain_step(method: Method, problem: Problem) -> Step:
    """The straightforward step."""
    return seeded(partial(method.plain, Plain(problem, method.objective)), problem.device)


class Plain:
    """What the straightforward implementations work with."""

    def __init__(self, problem: Problem, objective: str) -> None:
        self.problem = problem
        self.images, self.labels = problem.distilled()
        self.real = problem.real()
        if objective == "mtt":
            self.experts = problem.experts()
        else:
            self.host_images = self.normalized((self.real.images.float() / 255).to(problem.dtype))

    def network(self, generator: torch.Generator | None = None) -> Classifier:
        """A freshly drawn ConvNet with PyTorch's own pooling."""
        network = self.problem.network(generator)
        for name, module in list(network.named_modules()):
            if isinstance(module, nn.AvgPool2d):
                network.set_submodule(name, nn.AvgPool2d(2))
        return network

    def normalized(self, images: Tensor) -> Tensor:
        """The network's input."""
        mean, std = (x.to(images.device)[:, None, None] for x in (self.real.mean, self.real.std))
        return (images - mean) / std

    def classes(self, transform: Transform, chosen: Tensor) -> Iterator[tuple[int, Tensor, slice, Transform]]:
        """Of each class: its number, real batch copied to the device, distilled images and transform."""
        ipc = self.problem.ipc
        for c in range(self.problem.classes):
            real = self.host_images[chosen[c].cpu()].to(self.problem.device)
            one = Transform(transform.strategy, transform.parameters[c : c + 1])
            yield c, real, slice(c * ipc, (c + 1) * ipc), one


def plain_dm(plain: Plain, generator: torch.Generator) -> Tensor:
    """Distribution matching (Zhao & Bilen, WACV 2023), class by class."""
    problem, images = plain.problem, plain.images.clone().requires_grad_()
    network = plain.network(generator).requires_grad_(False)
    chosen = draw(plain.real.offsets, problem.batch_real, generator)
    transform = Augmentation(DSA).draw(problem.classes, images.shape[-2:], generator)
    loss = torch.zeros((), device=problem.device)
    for _, real, own, one in plain.classes(transform, chosen):
        distilled = plain.normalized(images[own])
        real_embedding = network.embed(one.repeat(len(real))(real)).detach()
        own_embedding = network.embed(one.repeat(len(distilled))(distilled))
        loss = loss + (real_embedding.mean(dim=0) - own_embedding.mean(dim=0)).square().sum()
    loss.backward()
    return images.grad


def plain_dc(plain: Plain, generator: torch.Generator) -> Tensor:
    """Gradient matching (Zhao et al., ICLR 2021), class by class, by double backward."""
    problem, images = plain.problem, plain.images.clone().requires_grad_()
    network = plain.network(generator)
    weights = list(network.parameters())
    chosen = draw(plain.real.offsets, problem.batch_real, generator)
    transform = Augmentation("").draw(problem.classes, images.shape[-2:], generator)
    loss = torch.zeros((), device=problem.device)
    for c, real, own, one in plain.classes(transform, chosen):
        real_labels = torch.full((len(real),), c, device=problem.device)
        real_loss = F.cross_entropy(network(one.repeat(len(real))(real)), real_labels)
        real_gradients = [g.detach().clone() for g in torch.autograd.grad(real_loss, weights)]
        distilled = one.repeat(problem.ipc)(plain.normalized(images[own]))
        own_loss = F.cross_entropy(network(distilled), plain.labels[own])
        own_gradients = torch.autograd.grad(own_loss, weights, create_graph=True)
        loss = loss + layerwise_cosine(own_gradients, real_gradients)
    loss.backward()
    return images.grad


def layerwise_cosine(own: list[Tensor], real: list[Tensor]) -> Tensor:
    """DC's distance: 1 - cosine of each output row, of the weights of convolutions and linear layers."""
    distance = 0.0
    for a, b in zip(own, real, strict=True):
        if a.dim() == 1:  # norms and biases
            continue
        a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
        cosine = (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)
        distance = distance + (1 - cosine).sum()
    return distance


class Student:
    """A network whose parameters are one flat vector, given at each call."""

    def __init__(self, network: Classifier) -> None:
        self.network = network
        self.shapes = {name: weights.shape for name, weights in network.named_parameters()}

    def flat(self, weights: dict[str, Tensor]) -> Tensor:
        """Parameters by name to one vector."""
        return torch.cat([weights[name].flatten() for name in self.shapes])

    def gradient(self, weights: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """dL/dweights of the classification loss, itself differentiable."""
        parts = weights.split([shape.numel() for shape in self.shapes.values()])
        named = {name: part.view(self.shapes[name]) for name, part in zip(self.shapes, parts, strict=True)}
        loss = F.cross_entropy(functional_call(self.network, named, images), labels)
        return torch.autograd.grad(loss, weights, create_graph=True)[0]


def plain_mtt_full(plain: Plain, generator: torch.Generator) -> Tensor:
    """Trajectory matching (Cazenavette et al., CVPR 2022): all student steps in one graph."""
    problem, images = plain.problem, plain.images.clone().requires_grad_()
    student, start, target = start_student(plain, generator)
    augmentation = Augmentation(DSA)
    lr = torch.tensor(STUDENT_LR, device=problem.device, requires_grad=True)
    weights = start.clone().requires_grad_()
    for _ in range(problem.student_steps):
        transform = augmentation.draw(len(images), images.shape[-2:], generator)
        gradient = student.gradient(weights, transform(plain.normalized(images)), plain.labels)
        weights = weights - lr * gradient
    loss = (weights - target).square().sum() / (start - target).square().sum()
    loss.backward()
    return images.grad


def plain_mtt_tesla(plain: Plain, generator: torch.Generator) -> Tensor:
    """Trajectory matching in TESLA's two passes (Cui et al., ICML 2023), one student step at a time.

    With G the sum of the gradients g_i, the squared distance to the target is |start - target - lr G|^2 =
    |start - target|^2 - 2 lr <start - target, G> + lr^2 |G|^2, and g_i depends on the images of step i alone.
    """
    problem, images = plain.problem, plain.images.clone().requires_grad_()
    student, start, target = start_student(plain, generator)
    augmentation, lr = Augmentation(DSA), torch.tensor(STUDENT_LR).to(images)
    transforms, trail, total = [], [start.clone()], torch.zeros_like(start)
    for _ in range(problem.student_steps):
        transforms.append(augmentation.draw(len(images), images.shape[-2:], generator))
        weights = trail[-1].requires_grad_()
        seen = transforms[-1](plain.normalized(images))
        gradient = student.gradient(weights, seen, plain.labels).detach()
        total += gradient
        trail.append(weights.detach() - lr * gradient)
    scale = (start - target).square().sum()
    for transform, weights in zip(transforms, trail, strict=False):
        gradient = student.gradient(weights, transform(plain.normalized(images)), plain.labels)
        linear = -2 * lr * (start - target) @ gradient
        square = 2 * lr**2 * total @ gradient  # the part of |G|^2 that changes with g_i
        ((linear + square) / scale).backward(inputs=[images])
    return images.grad


def start_student(plain: Plain, generator: torch.Generator) -> tuple[Student, Tensor, Tensor]:
    """A new student, and the expert's two ends as flat vectors."""
    student = Student(plain.network())
    ends = plain.experts.draw(generator, MAX_START_EPOCH, EXPERT_EPOCHS, plain.problem.device)
    start, target = (student.flat(weights).to(plain.problem.dtype) for weights in ends)
    return student, start, target
