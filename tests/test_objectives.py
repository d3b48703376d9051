"""Matching objectives: fixtures, derivatives, what a step may draw and touch, settings, golden values."""

import shutil
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from hglad.data.augmentation import Augmentation
from hglad.data.datasets import RealData, load_data
from hglad.errors import HgladError
from hglad.networks import NETWORKS, create_network, initialize, passes
from hglad.objectives import (
    OBJECTIVES,
    Derivatives,
    create_objective,
    double_backward,
    forward_over_reverse,
    use_batch_statistics,
)
from hglad.objectives.dc import DISTANCES, STATISTICS, layerwise_cosine
from hglad.objectives.dm import distribution_matching, mean_embedding
from hglad.objectives.experts import Experts, train_expert
from hglad.objectives.mtt import StudentStep, match_full, match_tesla
from hglad.settings import ExpertSettings
from hglad.storage import read_tensors

FIXTURE = Path(__file__).parent / "fixtures" / "matching.safetensors"
SURROGATE = {"name": "convnet", "width": 8}
SETTINGS = {  # small settings of each objective
    "dm": {"batch_real": 8},
    "dc": {"batch_real": 8},
    "mtt": {"student_steps": 3, "expert_epochs": 1, "max_start_epoch": 2},
}
TINY = {  # networks at 32 px
    "alexnet": {"width": 0.03},
    "convnet": {"width": 4},
    "resnet18": {"width": 0.05},
    "vgg11": {"width": 0.03},
    "vit": {"depth": 1, "dim": 8, "heads": 2, "head_dim": 4, "mlp": 8},
}
GOLDEN = {  # version -> loss, norm of the gradient
    "dm": {1: (19.3782, 8.62047)},
    "dc": {1: (194.516144, 24.7134037)},
    "mtt": {1: (1.06054568, 0.170158252)},
}
EXPERTS = ExpertSettings(count=2, epochs=3, lr=0.02, batch_size=32)
CLASSES = torch.arange(10)
UNROLLS = {"full": match_full, "tesla": match_tesla}
Weights = tuple[torch.Tensor, ...]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def digits(side: int = 16) -> RealData:
    return load_data("digits", resolution=side).train


def few(side: int) -> RealData:
    """12 training images of each class."""
    starts = digits(side).offsets[:-1]
    return digits(side).select(torch.cat([torch.arange(start, start + 12) for start in starts]))


def surrogate(side: int = 16, **network: object) -> nn.Module:
    return create_network(image_shape=(1, side, side), classes=10, **network or SURROGATE)


def images_and_labels(ipc: int = 2, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(10 * ipc, 1, side, side, generator=seeded(5)), CLASSES.repeat_interleave(ipc)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return cosine_similarity(first.double().flatten(), second.double().flatten(), dim=0).item()


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """Two short expert trajectories of a network, trained once each."""

    @cache
    def make(side: int, options: tuple) -> Experts:
        folder = tmp_path_factory.mktemp("experts")
        for index in range(EXPERTS.count):
            train_expert(EXPERTS, dict(options), few(side), index, folder)
        return Experts(folder)

    return lambda side, network: make(side, tuple(network.items()))


@pytest.fixture(scope="module")
def objective(experts):
    """An objective with small settings, others as keywords; `network` holds a network's name and options."""

    def make(name: str, network: dict = SURROGATE, side: int = 16, double: bool = False, **settings):
        model = surrogate(side, **network)
        settings = SETTINGS[name] | {"network": model.double() if double else model} | settings
        if name == "mtt":
            settings = {"experts": experts(side, network)} | settings
        return create_objective(name, **settings)

    return make


# The reference


@cache
def reference() -> dict[str, torch.Tensor]:
    return read_tensors(FIXTURE)


@cache
def reference_network() -> nn.Module:
    network = create_network("convnet", (3, 32, 32), 4, depth=3, width=16)
    named = {name[4:]: value for name, value in reference().items() if name.startswith("net.")}
    network.load_state_dict(named)
    return network


def unflatten(flat: torch.Tensor) -> Weights:
    shapes = [parameter.shape for parameter in reference_network().parameters()]
    parts = flat.split([shape.numel() for shape in shapes])
    return tuple(part.view(shape) for part, shape in zip(parts, shapes, strict=True))


def test_distribution_matching_is_the_reference():
    tensors, network = reference(), reference_network()
    assert torch.equal(tensors["y_syn"], torch.arange(4).repeat_interleave(2))
    images = tensors["x_syn"].clone().requires_grad_()
    real_mean = mean_embedding(network, tensors["x_real"])
    loss = distribution_matching(real_mean, network, images.unflatten(0, (4, 2)))
    (gradient,) = torch.autograd.grad(loss, images)
    assert relative(loss, tensors["dm.loss"]) < 1e-5
    assert relative(gradient, tensors["dm.grad_x"]) < 1e-5


@pytest.mark.parametrize("name", DISTANCES)
def test_gradient_matching_is_the_reference(name):
    tensors, derivatives = reference(), Derivatives(reference_network())
    weights = tuple(reference_network().parameters())
    losses, gradients = [], []
    for label in range(4):
        real, images = tensors["x_real"][label], tensors["x_syn"][2 * label : 2 * label + 2]
        target = derivatives.gradient(weights, real, torch.full((6,), label))
        labels = torch.full((2,), label)
        own = tuple(g.requires_grad_() for g in derivatives.gradient(weights, images, labels))
        losses.append(DISTANCES[name](own, target))
        direction = torch.autograd.grad(losses[-1], own, materialize_grads=True)
        gradients.append(derivatives.products(weights, direction, images, labels)[1])
    assert relative(torch.stack(losses), tensors[f"dc.{name}.loss_per_class"]) < 1e-5
    assert relative(torch.cat(gradients), tensors[f"dc.{name}.grad_x"]) < 1e-5


def student_steps(labels: torch.Tensor, batches, transforms=None) -> list[StudentStep]:
    """What `match_full` and `match_tesla` ask for: the input and the labels of every step."""

    def view(index: int, images: torch.Tensor) -> torch.Tensor:
        seen = images[batches[index]]
        return seen if transforms is None else transforms[index](seen)

    return [StudentStep(partial(view, index), labels[batch]) for index, batch in enumerate(batches)]


@pytest.mark.parametrize(("match", "name"), [(match_full, "unrolled"), (match_tesla, "tesla")])
def test_trajectory_matching_is_the_reference(match, name):
    tensors = reference()
    start, target = (unflatten(tensors[f"mtt.{end}"]) for end in ("start", "target"))
    steps = student_steps(tensors["y_syn"], tensors["mtt.batches"])
    derivatives = Derivatives(reference_network())
    found = match(derivatives, tensors["x_syn"], steps, start, target, tensors["mtt.lr"])
    assert relative(found.loss, tensors["mtt.loss"]) < 1e-5
    assert relative(found.images, tensors[f"mtt.{name}.grad_x"]) < 1e-5
    if match is match_full:
        assert relative(found.lr, tensors["mtt.unrolled.grad_lr"]) < 1e-5


# Derivatives


def batch_norm(track: bool) -> nn.Module:
    """ConvNet with batch norm in double precision, on statistics that it holds or on those of the batch."""
    network = surrogate(32, name="convnet", width=4, norm="batch")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5, generator=seeded(7))
            module.running_var.uniform_(0.5, 2.0, generator=seeded(8))
    if not track:
        use_batch_statistics(network)
    return network


NETWORKS_UNDER_TEST = {name: lambda name=name: surrogate(32, name=name, **TINY[name]) for name in TINY} | {
    "frozen batch norm": lambda: batch_norm(track=True),
    "batch statistics": lambda: batch_norm(track=False),
}


def second_derivative_case(network: nn.Module, count: int = 5):
    """Weights, a direction, images and labels in double precision."""
    weights = tuple(parameter.detach() for parameter in network.double().parameters())
    generator = seeded(3)
    direction = tuple(torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights)
    images = torch.randn(count, *network.image_shape, generator=generator, dtype=torch.float64)
    return weights, direction, images, torch.arange(count) % 10


def assert_close(found, expected, tolerance: float) -> None:
    """Tensors, or those of all parameters as one vector: some of them have a gradient of zero."""
    found, expected = (
        x if torch.is_tensor(x) else torch.cat([part.flatten() for part in x]) for x in (found, expected)
    )
    assert relative(found, expected) <= tolerance


@pytest.mark.parametrize("name", [*NETWORKS.names(), "frozen batch norm", "batch statistics"])
def test_forward_over_reverse_is_double_backward(name):
    network = NETWORKS_UNDER_TEST[name]()
    case = second_derivative_case(network)
    loss = Derivatives(network).loss
    expected = double_backward(loss, *case, 5, True)
    found = forward_over_reverse(loss, *case, 5, True)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-9)
    assert forward_over_reverse(loss, *case, 5, False)[2] is None is double_backward(loss, *case, 5, False)[2]


def test_second_derivatives_agree_with_finite_differences():
    network = NETWORKS_UNDER_TEST["vit"]()
    weights, direction, images, labels = second_derivative_case(network)
    derivatives = Derivatives(network)
    gradient, mixed, curvature = derivatives.products(weights, direction, images, labels, hessian=True)
    assert_close(gradient, derivatives.gradient(weights, images, labels), 1e-12)
    step, pull = 1e-6, torch.randn(images.shape, generator=seeded(1), dtype=torch.float64)

    def along(images, weights):
        gradients = derivatives.gradient(weights, images, labels)
        return sum((g * u).sum() for g, u in zip(gradients, direction, strict=True)).item()

    ahead, behind = (along(images + sign * step * pull, weights) for sign in (1, -1))
    assert (mixed * pull).sum().item() == pytest.approx((ahead - behind) / (2 * step), rel=1e-5)
    moved = [tuple(w + sign * step * u for w, u in zip(weights, direction, strict=True)) for sign in (1, -1)]
    ahead, behind = (along(images, weights) for weights in moved)
    second = sum((h * u).sum() for h, u in zip(curvature, direction, strict=True)).item()
    assert second == pytest.approx((ahead - behind) / (2 * step), rel=1e-5)


def test_chunks_add_up_to_the_whole_batch(monkeypatch):
    network = surrogate()
    case = second_derivative_case(network, count=10)
    derivatives, sizes = Derivatives(network), []
    network.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    whole = derivatives.products(*case, hessian=True), derivatives.gradient(case[0], *case[2:])
    assert sizes == [10, 10]
    monkeypatch.setattr(passes, "CACHE", 1)
    parts = derivatives.products(*case, hessian=True), derivatives.gradient(case[0], *case[2:])
    assert sizes[2:] == [4, 4, 2] * 2
    for a, b in zip((*parts[0], parts[1]), (*whole[0], whole[1]), strict=True):
        assert_close(a, b, 1e-9)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_compiled_second_derivatives_are_the_same():
    network = create_network("convnet", (1, 8, 8), 10, depth=1, width=4)
    weights, direction, images, labels = second_derivative_case(network)
    network.float()
    single = [tuple(x.float() for x in part) for part in (weights, direction)]
    plain, compiled = (
        Derivatives(network, compile).products(*single, images.float(), labels, hessian=True)
        for compile in (False, True)
    )
    for a, b in zip(compiled, plain, strict=True):
        assert_close(a, b, 1e-5)


# All objectives


@pytest.mark.parametrize("ipc", [1, 2, 3])
@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_every_objective_gives_an_image_gradient_that_follows_from_the_generator(objective, name, ipc):
    images, labels = images_and_labels(ipc)
    state, kept = torch.random.get_rng_state(), images.clone()
    (first, logs), (second, _), (other, _) = (
        objective(name).gradient(images, labels, digits(), seeded(seed)) for seed in (0, 0, 1)
    )
    assert first.shape == images.shape and first.dtype == images.dtype and not first.requires_grad
    assert first.isfinite().all() and (first.flatten(1).norm(dim=1) > 0).all()
    assert torch.equal(first, second) and not torch.allclose(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(images, kept) and not images.requires_grad
    assert all(value.shape == () and not value.requires_grad for value in logs.values())
    assert logs["loss"].isfinite()


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_every_objective_works_in_double_precision(objective, name):
    images, labels = images_and_labels()
    single, _ = objective(name).gradient(images, labels, digits(), seeded(0))
    double, _ = objective(name, double=True).gradient(images.double(), labels, digits(), seeded(0))
    assert double.dtype == torch.float64 and double.isfinite().all() and double.shape == single.shape


@pytest.mark.parametrize("network", NETWORKS.names())
@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_every_objective_works_with_every_network(objective, name, network):
    images, labels = images_and_labels(ipc=1, side=32)
    matching = objective(name, {"name": network, **TINY[network]}, side=32)
    gradient, logs = matching.gradient(images, labels, digits(32), seeded(0))
    assert gradient.shape == images.shape and gradient.isfinite().all() and logs["loss"] > 0
    assert (gradient.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_the_gradient_is_that_of_the_loss(objective, name):
    """Along a direction, by finite differences; TESLA's form is none of its loss and has tests of its own."""
    settings = {"unroll": "full"} if name == "mtt" else {}
    images, labels = images_and_labels()
    images = images.double()
    direction = torch.randn(images.shape, generator=seeded(6), dtype=torch.float64)

    def step(images):
        matching = objective(name, double=True, augmentation="color_crop_rotate", **settings)
        return matching.gradient(images, labels, digits(), seeded(0))

    ahead, behind = (step(images + eps * direction)[1]["loss"].item() for eps in (1e-7, -1e-7))
    assert (step(images)[0] * direction).sum().item() == pytest.approx((ahead - behind) / 2e-7, rel=1e-4)


FOLLOWING = {  # rate of the images, share of the loss that may be left
    "dm": (1.0, 0.8),
    "dc": (0.1, 0.8),
    "mtt": (1.0, 0.99),
}


@pytest.mark.parametrize("unroll", [None, "full"])
@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_following_an_objective_reduces_its_loss(objective, name, unroll):
    """On other draws than those that the images follow; trajectory matching on the same ones."""
    if unroll and name != "mtt":
        pytest.skip("has one form")
    images, labels = images_and_labels(ipc=1)
    settings = {"unroll": unroll} if unroll else {}
    (lr, left), generator, velocity = FOLLOWING[name], seeded(0), torch.zeros(())

    def loss(images):
        seeds = [0] if name == "mtt" else range(100, 105)
        matching = objective(name, **settings)
        return sum(matching.gradient(images, labels, digits(), seeded(k))[1]["loss"].item() for k in seeds)

    before, matching = loss(images), objective(name, **settings)
    for _ in range(15):
        draws = seeded(0) if name == "mtt" else generator
        velocity = 0.5 * velocity + matching.gradient(images, labels, digits(), draws)[0]
        images = images - lr * velocity
    assert loss(images) < left * before


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a GPU: reading its values, and copying a number of Python's to it.

    Numbers that the host drew, and the bytes of a file that it reads, are there already.
    """

    NAMES = ("_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero", "masked_select", "lift_fresh")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.drawn: dict[int, torch.Tensor] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in self.NAMES and not self.on_host(args[0]):
            self.found.append(name)
        result = function(*args, **(kwargs or {}))
        if name == "randint" and result.dim() == 0:
            self.drawn[result.data_ptr()] = result
        return result

    def on_host(self, tensor: torch.Tensor) -> bool:
        return tensor.dtype == torch.uint8 or tensor.data_ptr() in self.drawn


def test_waits_are_seen():
    with Waits() as waits:
        torch.ones(()).item()
        _ = bool(torch.ones(()) > 0), torch.equal(torch.ones(2), torch.ones(2))
        int(torch.randint(3, (), generator=seeded(0)))
        torch.tensor(3)
    assert len(waits.found) == 4


@pytest.mark.parametrize("settings", [{}, {"unroll": "full"}, {"outer_loops": 3, "inner_loops": 2}])
@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_a_step_never_waits_for_the_device(objective, name, settings):
    if not settings.keys() <= set(OBJECTIVES.options(name)):
        pytest.skip("not an option of this objective")
    images, labels = images_and_labels()
    matching, generator = objective(name, **settings), seeded(0)
    matching.gradient(images, labels, digits(), generator)
    with Waits() as waits:
        for _ in range(4):
            matching.gradient(images, labels, digits(), generator)
    assert waits.found == []


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_golden_values_of_the_objectives(objective, check_golden, name):
    images, labels = images_and_labels()
    gradient, logged = objective(name).gradient(images, labels, digits(), seeded(0))
    found = [logged["loss"].item(), gradient.norm().item()]
    check_golden(f"objective {name}", GOLDEN.get(name, {}), found)


@pytest.mark.parametrize(
    "labels",
    [torch.arange(10), torch.arange(10).repeat(2), torch.arange(20) // 2 + 1, torch.arange(20) // 20],
)
@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_labels_out_of_order_are_a_clear_error(objective, name, labels):
    images, good = images_and_labels()
    matching = objective(name)
    matching.gradient(images, good, digits(), seeded(0))  # labels seen before do not vouch for others
    with pytest.raises(HgladError, match="sorted by class"):
        matching.gradient(images, labels, digits(), seeded(0))


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_fewer_images_than_labels_are_a_clear_error(objective, name):
    images, labels = images_and_labels()
    matching = objective(name)
    matching.gradient(images, labels, digits(), seeded(0))
    with pytest.raises(HgladError, match="10 images have the labels 0, 0, 1"):
        matching.gradient(images[:10], labels, digits(), seeded(0))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("dn", {}, "unknown objective 'dn'"),
        ("dm", {"batch": 3}, "did you mean 'batch_real'"),
        ("dm", {"batch_real": 0}, "batch_real=0"),
        ("dm", {"augmentation": "flop"}, "did you mean 'flip'"),
        ("dm", {"precision": "bfloat"}, "unknown precision 'bfloat': did you mean 'bfloat16'"),
        ("dc", {"precision": "float"}, "unknown precision 'float': did you mean 'float32'"),
        ("dc", {"distance": "cosin"}, "unknown distance of dc, 'cosin': did you mean 'cosine'"),
        ("dc", {"batch_real": 0}, "batch_real=0"),
        ("dc", {"batch_network": 0.5}, "batch_network=0.5"),
        ("dc", {"outer_loops": 0}, "outer_loops=0"),
        ("dc", {"inner_loops": -1}, "inner_loops=-1"),
        ("mtt", {"unroll": "ful"}, "unknown unroll of mtt, 'ful': did you mean 'full'"),
        ("mtt", {"student_steps": 0}, "student_steps=0"),
        ("mtt", {"batch_images": 0}, "batch_images=0"),
        ("mtt", {"max_start_epoch": 9}, "3 epochs .*: a start below 9 and 1 more need 9"),
    ],
)
def test_unknown_objectives_and_settings_are_a_clear_error(experts, name, settings, message):
    given = {"network": surrogate()}
    if name == "mtt":
        given |= SETTINGS["mtt"] | {"experts": experts(16, SURROGATE)}
    with pytest.raises(HgladError, match=message) as error:
        create_objective(name, **given | settings)
    assert "\n" not in str(error.value)


def one_image_per_class() -> RealData:
    return digits().select(torch.tensor(digits().offsets[:-1]))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", ["dm", "dc"])
def test_both_sides_of_a_class_get_the_same_transform(objective, name, seed):
    """Real images that are the distilled ones match exactly under any transform that is shared."""
    real = one_image_per_class()
    settings = {"augmentation": "color_crop_cutout_flip_scale_rotate", "batch_real": 4}
    same, other = (
        objective(name, **settings).gradient(images / 255, real.labels, real, seeded(seed))[1]["loss"]
        for images in (real.images, real.images.flip(2))
    )
    assert same < 1e-3 * other and other > 1e-2


@pytest.mark.parametrize("name", ["dm", "dc"])
def test_every_class_has_a_transform_of_its_own(objective, name):
    """What a square covers has no gradient: the same pixels for the images of a class, others for others."""
    images, labels = images_and_labels()
    gradient, _ = objective(name, augmentation="cutout").gradient(images, labels, digits(), seeded(0))
    covered = (gradient == 0).unflatten(0, (10, 2))  # (class, ipc, ch, h, w)
    assert torch.equal(covered[:, 0], covered[:, 1]) and covered.any()
    assert len(covered[:, 0].unique(dim=0)) > 5


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_the_augmentation_is_applied(objective, name):
    images, labels = images_and_labels()
    losses = [
        objective(name, augmentation=text).gradient(images, labels, digits(), seeded(0))[1]["loss"].item()
        for text in ("", "cutout")
    ]
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("name", ["dm", "dc"])
def test_bfloat16_of_the_real_side_keeps_the_gradient(objective, name):
    images, labels = images_and_labels()
    single, half = (
        objective(name, precision=precision, batch_real=64, augmentation="").gradient(
            images, labels, digits(), seeded(0)
        )[0]
        for precision in ("float32", "bfloat16")
    )
    assert half.dtype == torch.float32 and not torch.equal(single, half)
    assert cosine(single, half) >= 0.999


# Distribution matching


def test_distribution_matching_agrees_with_finite_differences():
    network = create_network("convnet", (1, 8, 8), 2, depth=1, width=3).double()
    real = torch.rand(2, 3, 1, 8, 8, generator=seeded(0), dtype=torch.float64)
    real_mean = network.embed(real).mean(1).detach()
    images = torch.rand(2, 2, 1, 8, 8, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: distribution_matching(real_mean, network, x), (images,))


def test_mean_embedding_in_chunks_is_that_of_the_whole_batch(monkeypatch):
    network, real = surrogate(), torch.rand(3, 5, 1, 16, 16, generator=seeded(0))
    expected = network.embed(real).mean(1)
    monkeypatch.setattr(passes, "CACHE", 1)
    found = mean_embedding(network, real)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected.detach())


def test_dm_without_augmentation_is_the_equation_on_normalised_images(objective):
    images, labels = images_and_labels()
    dm = objective("dm", augmentation="")
    _, logged = dm.gradient(images, labels, digits(), seeded(0))
    generator = seeded(0)
    network = initialize(surrogate(), generator)
    batch = digits().batch(8, generator)
    expected = 0.0
    for label in range(10):
        real_mean, images_mean = (
            network.embed(digits().normalize(group)).mean(0)
            for group in (batch[label], images[labels == label])
        )
        expected += (real_mean - images_mean).square().sum().item()
    assert logged["loss"].item() == pytest.approx(expected, rel=1e-4)


def test_dm_draws_a_network_per_step_and_gives_it_no_gradient(objective):
    dm, generator = objective("dm", augmentation=""), seeded(0)
    images, labels = images_and_labels()
    weights = []
    for _ in range(2):
        dm.gradient(images, labels, digits(), generator)
        weights.append(dm.network.features[0].weight.clone())
    assert not torch.equal(*weights)
    assert not any(parameter.requires_grad for parameter in dm.network.parameters())


# Gradient matching


@pytest.mark.parametrize(
    ("ipc", "loops"),
    [(1, (1, 1)), (2, (1, 1)), (9, (1, 1)), (10, (10, 50)), (15, (10, 50)), (20, (20, 25)), (30, (30, 20)),
     (40, (40, 15)), (50, (50, 10)), (200, (50, 10))],
)  # fmt: skip
def test_loops_are_those_of_dc_and_can_be_the_released_ones(objective, ipc, loops):
    assert objective("dc").loops_at(ipc) == loops
    assert objective("dc", outer_loops=1, inner_loops=1).loops_at(ipc) == (1, 1)
    assert objective("dc", inner_loops=3).loops_at(ipc) == (loops[0], 3)


def parameters(network: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_network_of_dc_is_trained_on_the_images_and_drawn_anew_after_the_last_outer_loop(objective):
    settings = {"outer_loops": 2, "inner_loops": 3, "batch_network": 7, "lr_network": 0.1}
    dc, generator = objective("dc", augmentation="crop_flip", **settings), seeded(0)
    images, labels = images_and_labels()
    dc.gradient(images, labels, digits(), generator)
    assert equal(parameters(dc.network), parameters(initialize(surrogate(), seeded(0))))

    plain, draws = surrogate(), torch.Generator()
    plain.load_state_dict(dc.network.state_dict())
    draws.set_state(generator.get_state())
    images = images + 0.1  # the training sees the images as they are now
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.1)
    for _ in range(3):
        for chosen in torch.randperm(20, generator=draws).split(7):
            batch = digits().normalize(images[chosen])
            batch = Augmentation("crop_flip").draw(len(batch), (16, 16), draws)(batch)
            optimiser.zero_grad()
            cross_entropy(plain(batch), labels[chosen]).backward()
            optimiser.step()
    before = parameters(dc.network)
    dc.gradient(images, labels, digits(), generator)
    assert not equal(parameters(dc.network), before)
    for found, expected in zip(parameters(dc.network), parameters(plain), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

    fresh = torch.Generator()
    fresh.set_state(generator.get_state())
    dc.gradient(images, labels, digits(), generator)
    assert equal(parameters(dc.network), parameters(initialize(surrogate(), fresh)))


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_dc_goes_on_from_its_state_with_the_same_bits(objective, norm):
    network = SURROGATE | {"norm": norm}
    images, labels = images_and_labels()
    settings = {"network": network, "outer_loops": 3, "inner_loops": 1}
    dc, generator, states, gradients = objective("dc", **settings), seeded(0), [], []
    for _ in range(5):
        states.append((dc.state_dict(), generator.get_state()))
        gradients.append(dc.gradient(images, labels, digits(), generator)[0])
    assert [int(state.get("position", 0)) for state, _ in states] == [0, 1, 2, 0, 1]
    for (state, rng), expected in zip(states, gradients, strict=True):
        other, draws = objective("dc", **settings), torch.Generator()
        other.gradient(images, labels, digits(), seeded(9))  # whatever it did before
        other.load_state_dict(state)
        draws.set_state(rng)
        assert torch.equal(other.gradient(images, labels, digits(), draws)[0], expected)


def test_dc_takes_the_statistics_of_batch_norm_from_real_images_and_keeps_them(objective):
    images, labels = images_and_labels()
    dc, generator = objective("dc", SURROGATE | {"norm": "batch"}, outer_loops=2, inner_loops=2), seeded(0)
    dc.gradient(images, labels, digits(), generator)
    draws = seeded(0)
    initialize(surrogate(**SURROGATE, norm="batch"), draws)
    real = digits().normalize(digits().batch(STATISTICS, draws)).flatten(0, 1)
    convolution, norm = dc.network.features[:2]
    maps, before = convolution(real).detach(), norm.running_mean.clone()
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, maps.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    dc.gradient(images, labels, digits(), generator)
    assert not torch.allclose(norm.running_mean, before)  # those of the trained network
    layers = [module for module in dc.network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert layers and not any(layer.training for layer in layers)


def test_layerwise_cosine_takes_weights_alone_and_not_their_length():
    generator = seeded(0)
    shapes = [(4, 3, 3, 3), (4,), (4,), (5, 8), (5,)]
    first, second = (tuple(torch.randn(shape, generator=generator) for shape in shapes) for _ in range(2))
    expected = layerwise_cosine(first, second)
    norms_and_biases = tuple(g + 1 if g.dim() == 1 else g for g in first)
    assert torch.equal(layerwise_cosine(norms_and_biases, second), expected)
    assert layerwise_cosine(tuple(3 * g for g in first), second).item() == pytest.approx(
        expected.item(), 1e-4
    )
    for index in (0, 3):
        changed = tuple(g.flip(0) if i == index else g for i, g in enumerate(first))
        assert layerwise_cosine(changed, second).item() != pytest.approx(expected.item(), rel=1e-3)


def test_the_gradient_of_a_class_does_not_depend_on_the_others(objective):
    images, labels = images_and_labels()
    changed = torch.where((labels == 3)[:, None, None, None], 1 - images, images)
    first, second = (
        objective("dc").gradient(batch, labels, digits(), seeded(0))[0] for batch in (images, changed)
    )
    assert torch.equal(first[labels != 3], second[labels != 3])
    assert not torch.allclose(first[labels == 3], second[labels == 3])


# Trajectory matching


def trajectory_case(batch: int | None, steps: int = 6, count: int = 6):
    """A student of a few steps in double precision: derivatives and what both forms take."""
    network = create_network("convnet", (1, 8, 8), 3, depth=2, width=4).double()
    generator = seeded(2)
    start = tuple(parameter.detach() for parameter in network.parameters())
    moves = (torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in start)
    target = tuple(w + 0.1 * move for w, move in zip(start, moves, strict=True))
    images = torch.randn(count, 1, 8, 8, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.arange(count) % 3
    batches = [torch.randperm(count, generator=generator)[: batch or count] for _ in range(steps)]
    transforms = [Augmentation().draw(len(chosen), (8, 8), generator) for chosen in batches]
    lr = torch.tensor(0.3, dtype=torch.float64)
    return network, start, target, lr, images, labels, batches, transforms


def match(function, case):
    network, start, target, lr, images, labels, batches, transforms = case
    steps = student_steps(labels, batches, transforms)
    return function(Derivatives(network), images, steps, start, target, lr)


def student(case, detach: bool):
    """Loss and gradients by a graph through all steps; `detach` makes the weights of a step constants."""
    network, start, target, lr, images, labels, batches, transforms = case
    lr = lr.clone().requires_grad_()
    weights = [w.clone().requires_grad_() for w in start]
    names = [name for name, _ in network.named_parameters()]
    for batch, transform in zip(batches, transforms, strict=True):
        at = [w.detach().requires_grad_() for w in weights] if detach else weights
        logits = torch.func.functional_call(
            network, dict(zip(names, at, strict=True)), (transform(images[batch]),)
        )
        gradients = torch.autograd.grad(cross_entropy(logits, labels[batch]), at, create_graph=True)
        weights = [w - lr * g for w, g in zip(weights, gradients, strict=True)]
    numerator = sum((w - t).square().sum() for w, t in zip(weights, target, strict=True))
    loss = numerator / sum((s - t).square().sum() for s, t in zip(start, target, strict=True))
    return loss.detach(), *torch.autograd.grad(loss, (images, lr))


@pytest.mark.parametrize("batch", [None, 4])
@pytest.mark.parametrize("form", UNROLLS)
def test_both_forms_are_the_graph_through_all_steps(form, batch):
    case = trajectory_case(batch)
    found = match(UNROLLS[form], case)
    expected = student(case, detach=form == "tesla")
    for a, b in zip((found.loss, found.images, found.lr), expected, strict=True):
        assert_close(a, b, 1e-9)


def test_the_two_forms_differ():
    case = trajectory_case(batch=4)
    full, tesla = (match(function, case) for function in (match_full, match_tesla))
    assert torch.equal(full.loss, tesla.loss)
    assert relative(tesla.images, full.images) > 0.01
    one = trajectory_case(batch=4, steps=1)
    assert_close(match(match_tesla, one).images, match(match_full, one).images, 1e-12)


class Live(TorchDispatchMode):
    """Largest number of bytes alive at once, of what was made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if torch.is_tensor(tensor):
                storage = tensor.untyped_storage()
                reference = torch.multiprocessing.reductions.StorageWeakRef(storage)
                self.storages.setdefault(reference.cdata, (reference, storage.nbytes()))
        self.storages = {k: kept for k, kept in self.storages.items() if not kept[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.storages.values()))
        return result


def peak(function, steps: int) -> int:
    case = trajectory_case(batch=4, steps=steps)
    with Live() as live:
        function(case)
    return live.peak


def test_memory_of_tesla_does_not_grow_with_the_steps():
    weights = sum(w.nbytes for w in trajectory_case(None)[1])
    tesla, full, graph = (
        [peak(function, steps) for steps in (2, 8)]
        for function in (
            lambda case: match(match_tesla, case),
            lambda case: match(match_full, case),
            lambda case: student(case, detach=False),
        )
    )
    assert tesla[1] < 1.02 * tesla[0]
    assert full[1] > full[0] + 3 * weights  # it keeps the weights of all steps,
    assert graph[1] > 3 * graph[0] > 2 * full[1]  # a graph their activations, too


@pytest.mark.parametrize(("steps", "used"), [(1, 7), (2, 14), (3, 20), (5, 20)])
def test_batches_of_the_student_go_through_all_images_in_turn(objective, steps, used):
    images, labels = images_and_labels()
    mtt = objective("mtt", batch_images=7, student_steps=steps)
    gradient, _ = mtt.gradient(images, labels, digits(), seeded(0))
    assert (gradient.flatten(1).norm(dim=1) > 0).sum() == used


def lr_after(objective, lr: float, steps: int = 1, **settings) -> list[float]:
    """The student's learning rate before, and after every step on the same images."""
    mtt = objective("mtt", student_lr=lr, double=True, **settings)
    images, labels = images_and_labels()
    rates = [mtt.student_lr.item()]
    for step in range(steps):
        _, logs = mtt.gradient(images.double(), labels, digits(), seeded(step))
        assert logs["student_lr"].item() == rates[-1]  # the one of this step
        rates.append(mtt.student_lr.item())
    return rates


def lr_slope(objective, lr: float, seed: int) -> float:
    """dLoss/d(student learning rate) of the exact unroll, by finite differences."""
    images, labels = images_and_labels()
    rates, losses = [], []
    for value in (lr * 1.0001, lr * 0.9999):
        mtt = objective("mtt", unroll="full", student_lr=value, double=True)
        rates.append(mtt.student_lr.item())
        losses.append(mtt.gradient(images.double(), labels, digits(), seeded(seed))[1]["loss"].item())
    return (losses[0] - losses[1]) / (rates[0] - rates[1])


def test_the_learning_rate_of_the_student_moves_against_its_gradient_with_momentum(objective):
    rate = 1e-4
    before, first, second = lr_after(objective, 0.05, steps=2, unroll="full", lr_student_lr=rate)
    slopes = [lr_slope(objective, lr, seed) for seed, lr in enumerate((before, first))]
    assert first - before == pytest.approx(-rate * slopes[0], rel=1e-3)
    assert second - first == pytest.approx(-rate * (0.5 * slopes[0] + slopes[1]), rel=1e-3)


@pytest.mark.parametrize("unroll", UNROLLS)
def test_the_learning_rate_of_the_student_stays_positive(objective, unroll):
    rates = lr_after(objective, 0.05, steps=1, unroll=unroll, lr_student_lr=1.0)
    sign = 1 if rates[1] < rates[0] else -1  # a rate that moves it down
    rates = lr_after(objective, 0.05, steps=3, unroll=unroll, lr_student_lr=sign * 1e6)
    assert rates[1] == pytest.approx(1e-3) and min(rates) >= rates[1]


def test_mtt_goes_on_from_its_state_with_the_same_bits(objective):
    images, labels = images_and_labels()
    mtt, generator = objective("mtt", lr_student_lr=1e-4), seeded(0)
    for _ in range(2):
        mtt.gradient(images, labels, digits(), generator)
    other, draws = objective("mtt", lr_student_lr=1e-4), torch.Generator()
    other.load_state_dict({name: value.clone() for name, value in mtt.state_dict().items()})
    draws.set_state(generator.get_state())
    for _ in range(2):
        (first, logs), (second, same) = (
            one.gradient(images, labels, digits(), rng) for one, rng in ((mtt, generator), (other, draws))
        )
        assert torch.equal(first, second) and logs == same
        assert torch.equal(mtt.student_lr, other.student_lr)


def test_mtt_refuses_experts_of_another_network(experts):
    there = experts(16, SURROGATE)
    with pytest.raises(HgladError, match=r"classifier.weight of shape \(10, 32\), the network \(10, 24\)"):
        create_objective("mtt", network=surrogate(name="convnet", width=6), experts=there, **SETTINGS["mtt"])


def test_mtt_takes_the_folder_of_experts_too(experts):
    images, labels = images_and_labels()
    there = experts(16, SURROGATE)
    first, second = (
        create_objective("mtt", network=surrogate(), experts=given, **SETTINGS["mtt"]).gradient(
            images, labels, digits(), seeded(0)
        )[0]
        for given in (there, str(there.folder))
    )
    assert torch.equal(first, second)
