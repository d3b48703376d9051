"""Matching objectives: reference fixtures, derivatives, what a step may draw and touch, settings; experts."""

import json
import os
import shutil
import struct
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from hglad import storage
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
    needs_experts,
    use_batch_statistics,
)
from hglad.objectives.dc import DISTANCES, STATISTICS
from hglad.objectives.dm import distribution_matching, mean_embedding
from hglad.objectives.experts import Experts, expert_card, expert_file, experts_key, train_expert
from hglad.objectives.mtt import UNROLLS, StudentStep
from hglad.settings import DSA, ExpertSettings, derive_seed
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
EXPERTS = ExpertSettings(count=2, epochs=3, lr=0.02, batch_size=32)
Weights = tuple[torch.Tensor, ...]
every_objective = pytest.mark.parametrize("name", OBJECTIVES.names())


def seeded(seed: int = 0) -> torch.Generator:
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
    return torch.rand(10 * ipc, 1, side, side, generator=seeded(5)), torch.arange(10).repeat_interleave(ipc)


def assert_close(found, expected, tolerance: float) -> None:
    """Tensors, or those of all parameters as one vector: some of them have a gradient of zero."""
    found, expected = (
        x if torch.is_tensor(x) else torch.cat([part.flatten() for part in x]) for x in (found, expected)
    )
    assert ((found - expected).norm() / expected.norm()).item() <= tolerance


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """Two short expert trajectories of a network, trained once each."""

    @cache
    def make(side: int, options: tuple) -> Experts:
        folder = tmp_path_factory.mktemp("experts")
        for index in range(EXPERTS.count):
            train_expert(EXPERTS, dict(options), few(side), index, folder)
        return Experts(folder)

    return lambda side=16, network=SURROGATE: make(side, tuple(network.items()))


@pytest.fixture(scope="module")
def objective(experts):
    """An objective with small settings, others as keywords; `network` holds a network's name and options."""

    def make(name: str, network: dict = SURROGATE, side: int = 16, double: bool = False, **settings):
        model = surrogate(side, **network)
        settings = SETTINGS[name] | {"network": model.double() if double else model} | settings
        if needs_experts(name):
            settings = {"experts": experts(side, network)} | settings
        return create_objective(name, **settings)

    return make


# The reference


@cache
def reference() -> tuple[dict[str, torch.Tensor], nn.Module]:
    tensors, network = read_tensors(FIXTURE), create_network("convnet", (3, 32, 32), 4, depth=3, width=16)
    network.load_state_dict({name[4:]: value for name, value in tensors.items() if name.startswith("net.")})
    return tensors, network


def test_distribution_matching_is_the_reference():
    tensors, network = reference()
    images = tensors["x_syn"].clone().requires_grad_()
    real_mean = mean_embedding(network, tensors["x_real"])
    loss = distribution_matching(real_mean, network, images.unflatten(0, (4, 2)))
    (gradient,) = torch.autograd.grad(loss, images)
    assert_close(loss, tensors["dm.loss"], 1e-5)
    assert_close(gradient, tensors["dm.grad_x"], 1e-5)


@pytest.mark.parametrize("name", DISTANCES)
def test_gradient_matching_is_the_reference(name):
    tensors, network = reference()
    derivatives, weights = Derivatives(network), tuple(network.parameters())
    losses, gradients = [], []
    for label in range(4):
        real, images = tensors["x_real"][label], tensors["x_syn"][2 * label : 2 * label + 2]
        target = derivatives.gradient(weights, real, torch.full((6,), label))
        labels = torch.full((2,), label)
        own = tuple(g.requires_grad_() for g in derivatives.gradient(weights, images, labels))
        losses.append(DISTANCES[name](own, target))
        direction = torch.autograd.grad(losses[-1], own, materialize_grads=True)
        gradients.append(derivatives.products(weights, direction, images, labels)[1])
    assert_close(torch.stack(losses), tensors[f"dc.{name}.loss_per_class"], 1e-5)
    assert_close(torch.cat(gradients), tensors[f"dc.{name}.grad_x"], 1e-5)


def student_steps(labels: torch.Tensor, batches, transforms=None) -> list[StudentStep]:
    """What `match_full` and `match_tesla` ask for: the input and the labels of every step."""

    def view(index: int, images: torch.Tensor) -> torch.Tensor:
        seen = images[batches[index]]
        return seen if transforms is None else transforms[index](seen)

    return [StudentStep(partial(view, index), labels[batch]) for index, batch in enumerate(batches)]


@pytest.mark.parametrize(("form", "name"), [("full", "unrolled"), ("tesla", "tesla")])
def test_trajectory_matching_is_the_reference(form, name):
    tensors, network = reference()
    shapes = [parameter.shape for parameter in network.parameters()]
    start, target = (
        tuple(x.view(shape) for x, shape in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True))
        for flat in (tensors["mtt.start"], tensors["mtt.target"])
    )
    steps = student_steps(tensors["y_syn"], tensors["mtt.batches"])
    found = UNROLLS[form](Derivatives(network), tensors["x_syn"], steps, start, target, tensors["mtt.lr"])
    assert_close(found.loss, tensors["mtt.loss"], 1e-5)
    assert_close(found.images, tensors[f"mtt.{name}.grad_x"], 1e-5)
    if form == "full":
        assert_close(found.lr, tensors["mtt.unrolled.grad_lr"], 1e-5)


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


MODELS = {name: partial(surrogate, 32, name=name, **TINY[name]) for name in NETWORKS.names()} | {
    "frozen batch norm": partial(batch_norm, track=True),
    "batch statistics": partial(batch_norm, track=False),
}


def second_derivative_case(network: nn.Module, count: int = 5):
    """Weights, a direction, images and labels in double precision."""
    weights = tuple(parameter.detach() for parameter in network.double().parameters())
    rng = seeded(3)
    direction = tuple(torch.randn(w.shape, generator=rng, dtype=w.dtype) for w in weights)
    images = torch.randn(count, *network.image_shape, generator=rng, dtype=torch.float64)
    return weights, direction, images, torch.arange(count) % 10


@pytest.mark.parametrize("name", MODELS)
def test_forward_over_reverse_is_double_backward(name):
    network = MODELS[name]()
    case, loss = second_derivative_case(network), Derivatives(network).loss
    expected = double_backward(loss, *case, 5, True)
    for a, b in zip(forward_over_reverse(loss, *case, 5, True), expected, strict=True):
        assert_close(a, b, 1e-9)
    assert forward_over_reverse(loss, *case, 5, False)[2] is None is double_backward(loss, *case, 5, False)[2]


def test_chunks_add_up_to_the_whole_batch(monkeypatch):
    network, sizes = surrogate(), []
    case, derivatives = second_derivative_case(network, count=10), Derivatives(network)
    real = torch.rand(3, 5, 1, 16, 16, generator=seeded(0), dtype=torch.float64)
    network.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))

    def products():
        first = derivatives.products(*case, hessian=True)
        return *first, derivatives.gradient(case[0], *case[2:]), mean_embedding(network, real)

    whole = products()
    assert sizes == [10, 10]
    monkeypatch.setattr(passes, "CACHE", 1)
    for a, b in zip(products(), whole, strict=True):
        assert_close(a, b, 1e-9)
    assert sizes[2:] == [4, 4, 2] * 2
    assert_close(whole[-1], network.embed(real).mean(1), 1e-12)


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


@pytest.mark.parametrize("ipc", [1, 3])
@every_objective
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


@pytest.mark.parametrize("network", NETWORKS.names())
@every_objective
def test_every_objective_works_with_every_network(objective, name, network):
    images, labels = images_and_labels(ipc=1, side=32)
    matching = objective(name, {"name": network, **TINY[network]}, side=32)
    gradient, logs = matching.gradient(images, labels, digits(32), seeded(0))
    assert gradient.shape == images.shape and gradient.isfinite().all() and logs["loss"] > 0
    assert (gradient.flatten(1).norm(dim=1) > 0).all()


@every_objective
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


@pytest.mark.parametrize(
    ("name", "settings", "loops"),
    [
        ("dm", {}, None),
        ("dc", {"outer_loops": 3, "inner_loops": 1, "network": SURROGATE | {"norm": "instance"}}, 3),
        ("dc", {"outer_loops": 3, "inner_loops": 1, "network": SURROGATE | {"norm": "batch"}}, 3),
        ("mtt", {"lr_student_lr": 1e-2}, None),
    ],
)
def test_an_objective_goes_on_from_its_state_with_the_same_bits(objective, name, settings, loops):
    images, labels = images_and_labels()
    matching, rng, states, found = objective(name, **settings), seeded(0), [], []
    for _ in range(5):
        state = {key: value.clone() for key, value in matching.state_dict().items()}
        states.append((state, rng.get_state()))
        found.append(matching.gradient(images, labels, digits(), rng))
    if loops:
        assert [int(state.get("position", 0)) for state, _ in states] == [0, 1, 2, 0, 1]
    for (state, drawn), (gradient, logs) in zip(states, found, strict=True):
        other, draws = objective(name, **settings), torch.Generator()
        other.gradient(images, labels, digits(), seeded(9))  # whatever it did before
        other.load_state_dict(state)
        draws.set_state(drawn)
        again, same = other.gradient(images, labels, digits(), draws)
        assert torch.equal(again, gradient) and same == logs


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
        on_host = name in self.NAMES and (args[0].dtype == torch.uint8 or args[0].data_ptr() in self.drawn)
        if name in self.NAMES and not on_host:
            self.found.append(name)
        result = function(*args, **(kwargs or {}))
        if name == "randint" and result.dim() == 0:
            self.drawn[result.data_ptr()] = result
        return result


@pytest.mark.parametrize(
    ("name", "settings"),
    [("dm", {}), ("dc", {"outer_loops": 3, "inner_loops": 2}), ("mtt", {}), ("mtt", {"unroll": "full"})],
)
def test_a_step_never_waits_for_the_device(objective, name, settings):
    with Waits() as waits:
        _ = torch.ones(()).item(), bool(torch.ones(()) > 0), torch.equal(torch.ones(2), torch.ones(2))
        int(torch.randint(3, (), generator=seeded(0)))
        torch.tensor(3)
    assert len(waits.found) == 4  # waits are seen
    images, labels = images_and_labels()
    matching, rng = objective(name, **settings), seeded(0)
    matching.gradient(images, labels, digits(), rng)
    with Waits() as waits:
        for _ in range(4):
            matching.gradient(images, labels, digits(), rng)
    assert waits.found == []


@pytest.mark.parametrize(
    ("count", "labels", "message"),
    [
        (20, torch.arange(10), "sorted by class"),
        (20, torch.arange(10).repeat(2), "sorted by class"),
        (20, torch.arange(20) // 2 + 1, "sorted by class"),
        (10, torch.arange(20) // 2, r"10 images have the labels 0, 0, 1.*9, 9; give"),
        (30, torch.arange(30) // 4, r"30 images have the labels 0, 0, 0.*4, \.\.\.; give"),
    ],
)
@every_objective
def test_labels_that_do_not_fit_are_a_clear_error(objective, name, count, labels, message):
    (images, good), matching = images_and_labels(), objective(name)
    matching.gradient(images, good, digits(), seeded(0))  # labels seen before do not vouch for others
    with pytest.raises(HgladError, match=message):
        matching.gradient(images_and_labels(3)[0][:count], labels, digits(), seeded(0))


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
        ("dc", {"lr_network": 0.0}, "lr_network of dc is 0.0: expected a positive number"),
        ("dc", {"lr_network": float("inf")}, "lr_network of dc is inf"),
        ("mtt", {"unroll": "ful"}, "unknown unroll of mtt, 'ful': did you mean 'full'"),
        ("mtt", {"student_steps": 0}, "student_steps=0"),
        ("mtt", {"expert_epochs": 0}, "expert_epochs=0"),
        ("mtt", {"max_start_epoch": 0}, "max_start_epoch=0"),
        ("mtt", {"batch_images": 0}, "batch_images=0"),
        ("mtt", {"student_lr": 1e-4}, "student_lr of mtt is 0.0001: expected a number of at least 0.001"),
        ("mtt", {"lr_student_lr": -1.0}, "lr_student_lr of mtt is -1.0: expected 0 or a positive number"),
        ("mtt", {"max_start_epoch": 9}, "3 epochs .*: a start below 9 and 1 more need 9"),
        ("mtt", {"network": None}, r"classifier.weight of shape \(10, 32\), the network \(10, 24\)"),
    ],
)
def test_unknown_objectives_and_settings_are_a_clear_error(experts, name, settings, message):
    given = {"network": surrogate()}
    if name == "mtt":
        given |= SETTINGS["mtt"] | {"experts": experts()}
    if "network" in settings:
        settings = {"network": surrogate(name="convnet", width=6)}
    with pytest.raises(HgladError, match=message) as error:
        create_objective(name, **given | settings)
    assert "\n" not in str(error.value)


def test_what_a_step_costs():
    cost = {name: OBJECTIVES.get(name).passes(10, 80, {}) for name in OBJECTIVES.names()}
    assert cost == {"dm": 80, "dc": 240, "mtt": 12 * 10 * 20}
    assert OBJECTIVES.get("mtt").passes(10, 80, {"student_steps": 5}) == 600
    assert [name for name in OBJECTIVES.names() if needs_experts(name)] == ["mtt"]


def test_defaults_are_the_published_ones():
    published = {
        "dm": {"batch_real": 256, "augmentation": DSA},
        "dc": {"batch_real": 256, "batch_network": 256, "lr_network": 0.01, "augmentation": ""},
        "mtt": {"student_steps": 20, "expert_epochs": 3, "max_start_epoch": 5, "student_lr": 0.01,
                "lr_student_lr": 1e-6, "augmentation": DSA},
    }  # fmt: skip
    for name, options in published.items():
        assert {option: OBJECTIVES.default(name, option) for option in options} == options


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["dm", "dc"])
def test_both_sides_of_a_class_get_the_same_transform(objective, name, seed):
    """Real images that are the distilled ones match exactly under any transform that is shared."""
    real = digits().select(torch.tensor(digits().offsets[:-1]))  # one image per class
    settings = {"augmentation": "color_crop_cutout_flip_scale_rotate", "batch_real": 4}
    same, other = (
        objective(name, **settings).gradient(images / 255, real.labels, real, seeded(seed))[1]["loss"]
        for images in (real.images, real.images.flip(2))
    )
    assert same < 1e-3 * other and other > 1e-2


# Gradient matching


@pytest.mark.parametrize(
    ("ipc", "loops"),
    [(1, (1, 1)), (9, (1, 1)), (10, (10, 50)), (15, (10, 50)), (20, (20, 25)), (30, (30, 20)), (40, (40, 15)),
     (50, (50, 10)), (200, (50, 10))],
)  # fmt: skip
def test_loops_are_those_of_dc_and_can_be_the_released_ones(objective, ipc, loops):
    assert objective("dc").loops_at(ipc) == loops
    assert objective("dc", outer_loops=1, inner_loops=1).loops_at(ipc) == (1, 1)
    assert objective("dc", inner_loops=3).loops_at(ipc) == (loops[0], 3)


def flat(weights) -> torch.Tensor:
    if isinstance(weights, nn.Module):
        weights = dict(weights.named_parameters())
    return torch.cat([weights[name].detach().flatten() for name in sorted(weights)])


def test_the_network_of_dc_is_trained_on_the_images_and_drawn_anew_after_the_last_outer_loop(objective):
    settings = {"outer_loops": 2, "inner_loops": 3, "batch_network": 7, "lr_network": 0.1}
    dc, rng = objective("dc", augmentation="crop_flip", **settings), seeded(0)
    images, labels = images_and_labels()
    dc.gradient(images, labels, digits(), rng)
    assert torch.equal(flat(dc.network), flat(initialize(surrogate(), seeded(0))))

    plain, draws = surrogate(), torch.Generator()
    plain.load_state_dict(dc.network.state_dict())
    draws.set_state(rng.get_state())
    images = images + 0.1  # the training sees the images as they are now
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for _ in range(3):
        for chosen in torch.randperm(20, generator=draws).split(7):
            batch = digits().normalize(images[chosen])
            batch = Augmentation("crop_flip").draw(len(batch), (16, 16), draws)(batch)
            optimizer.zero_grad()
            cross_entropy(plain(batch), labels[chosen]).backward()
            optimizer.step()
    before = flat(dc.network)
    dc.gradient(images, labels, digits(), rng)
    assert not torch.equal(flat(dc.network), before)
    torch.testing.assert_close(flat(dc.network), flat(plain), rtol=1e-4, atol=1e-6)

    fresh = torch.Generator()
    fresh.set_state(rng.get_state())
    dc.gradient(images, labels, digits(), rng)
    assert torch.equal(flat(dc.network), flat(initialize(surrogate(), fresh)))


def test_dc_takes_the_statistics_of_batch_norm_from_real_images_and_keeps_them(objective):
    images, labels = images_and_labels()
    dc, rng = objective("dc", SURROGATE | {"norm": "batch"}, outer_loops=2, inner_loops=2), seeded(0)
    dc.gradient(images, labels, digits(), rng)
    draws = seeded(0)
    initialize(surrogate(**SURROGATE, norm="batch"), draws)
    real = digits().normalize(digits().batch(STATISTICS, draws)).flatten(0, 1)
    convolution, norm = dc.network.features[:2]
    maps, before = convolution(real).detach(), norm.running_mean.clone()
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, maps.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    dc.gradient(images, labels, digits(), rng)
    assert not torch.allclose(norm.running_mean, before)  # those of the trained network
    layers = [module for module in dc.network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert layers and not any(layer.training for layer in layers)


# Trajectory matching


def trajectory_case(batch: int | None, steps: int = 6, count: int = 6):
    """A student of a few steps in double precision: network and what both forms take."""
    network = create_network("convnet", (1, 8, 8), 3, depth=2, width=4).double()
    rng = seeded(2)
    start = tuple(parameter.detach() for parameter in network.parameters())
    moves = (torch.randn(w.shape, generator=rng, dtype=w.dtype) for w in start)
    target = tuple(w + 0.1 * move for w, move in zip(start, moves, strict=True))
    images = torch.randn(count, 1, 8, 8, generator=rng, dtype=torch.float64).requires_grad_()
    labels = torch.arange(count) % 3
    batches = [torch.randperm(count, generator=rng)[: batch or count] for _ in range(steps)]
    transforms = [Augmentation().draw(len(chosen), (8, 8), rng) for chosen in batches]
    return network, start, target, torch.tensor(0.3, dtype=torch.float64), images, labels, batches, transforms


def match(form: str, case):
    network, start, target, lr, images, labels, batches, transforms = case
    steps = student_steps(labels, batches, transforms)
    return UNROLLS[form](Derivatives(network), images, steps, start, target, lr)


def graph(case, detach: bool):
    """Loss and gradients by a graph through all steps; `detach` makes the weights of a step constants."""
    network, start, target, lr, images, labels, batches, transforms = case
    lr = lr.clone().requires_grad_()
    weights = [w.clone().requires_grad_() for w in start]
    names = [name for name, _ in network.named_parameters()]
    for batch, transform in zip(batches, transforms, strict=True):
        at = [w.detach().requires_grad_() for w in weights] if detach else weights
        named = dict(zip(names, at, strict=True))
        logits = torch.func.functional_call(network, named, (transform(images[batch]),))
        gradients = torch.autograd.grad(cross_entropy(logits, labels[batch]), at, create_graph=True)
        weights = [w - lr * g for w, g in zip(weights, gradients, strict=True)]
    numerator = sum((w - t).square().sum() for w, t in zip(weights, target, strict=True))
    loss = numerator / sum((s - t).square().sum() for s, t in zip(start, target, strict=True))
    return loss.detach(), *torch.autograd.grad(loss, (images, lr))


@pytest.mark.parametrize("batch", [None, 4])
@pytest.mark.parametrize("form", UNROLLS)
def test_both_forms_are_the_graph_through_all_steps(form, batch):
    case = trajectory_case(batch)
    found, expected = match(form, case), graph(case, detach=form == "tesla")
    for a, b in zip((found.loss, found.images, found.lr), expected, strict=True):
        assert_close(a, b, 1e-9)


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


def peaks(function) -> list[int]:
    """Largest memory at 2 and at 8 steps."""
    found = []
    for case in (trajectory_case(batch=4, steps=steps) for steps in (2, 8)):
        with Live() as live:
            function(case)
        found.append(live.peak)
    return found


def test_memory_of_tesla_does_not_grow_with_the_steps():
    weights = sum(w.nbytes for w in trajectory_case(None)[1])
    tesla, full = (peaks(partial(match, form)) for form in ("tesla", "full"))
    whole = peaks(partial(graph, detach=False))
    assert tesla[1] < 1.02 * tesla[0]
    assert full[1] > full[0] + 3 * weights  # it keeps the weights of all steps,
    assert whole[1] > 3 * whole[0] > 2 * full[1]  # a graph their activations, too


@pytest.mark.parametrize(("steps", "used"), [(1, 7), (2, 14), (3, 20), (5, 20)])
def test_batches_of_the_student_go_through_all_images_in_turn(objective, steps, used):
    images, labels = images_and_labels()
    mtt = objective("mtt", batch_images=7, student_steps=steps)
    gradient, _ = mtt.gradient(images, labels, digits(), seeded(0))
    assert (gradient.flatten(1).norm(dim=1) > 0).sum() == used
    assert [len(batch) for batch in mtt.draw_batches(20, seeded(0))] == [7, 7, 6, 7, 7][:steps]


@pytest.mark.parametrize("unroll", UNROLLS)
def test_the_learning_rate_of_the_student_moves_against_its_gradient_and_stays_positive(objective, unroll):
    images, labels = images_and_labels()
    mtt = objective("mtt", unroll=unroll, student_lr=0.05, lr_student_lr=1e6)
    rates, inner, slopes = [0.05], mtt.match, []
    mtt.match = lambda *args: slopes.append(inner(*args)) or slopes[-1]
    for step in range(3):
        _, logs = mtt.gradient(images, labels, digits(), seeded(step))
        assert logs["student_lr"].item() == pytest.approx(rates[-1])  # the one of this step
        velocity = sum(0.5 ** (step - k) * each.lr.item() for k, each in enumerate(slopes))
        rates.append(max(1e-3, rates[-1] - 1e6 * velocity))
        assert mtt.student_lr.item() == pytest.approx(rates[-1], rel=1e-4)
    assert min(rates) == 1e-3


# Experts

SHORT = ExpertSettings(count=2, epochs=4, lr=0.02, batch_size=32)
CONVNET = {"name": "convnet", "depth": 2, "width": 4}
TRAINED = {
    "instance norm": CONVNET,
    "batch norm": CONVNET | {"norm": "batch"},
    "dropout": {"name": "vit", "depth": 1, "dim": 8, "heads": 2, "head_dim": 4, "mlp": 8, "dropout": 0.3},
}


def small(**options: object) -> nn.Module:
    return create_network(image_shape=(1, 8, 8), classes=10, **CONVNET | options)


@pytest.fixture(scope="module")
def folder(few_digits, tmp_path_factory) -> Path:
    """Two experts of the ConvNet."""
    path = tmp_path_factory.mktemp("experts")
    for index in range(2):
        train_expert(SHORT, CONVNET, few_digits, index, path)
    return path


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_file_holds_every_parameter_of_every_epoch_and_says_how_it_was_made(folder, few_digits):
    assert sorted(path.name for path in folder.iterdir()) == [f"expert-00{n}.safetensors" for n in (0, 1)]
    whole, there = read_tensors(expert_file(folder, 1)), Experts(folder)
    shapes = {name: tensor.shape for name, tensor in whole.items()}
    assert shapes == {name: (5, *parameter.shape) for name, parameter in small().named_parameters()}
    assert (len(there), there.epochs, len(Experts(str(folder), 1))) == (2, 4, 1)
    for epoch in range(5):
        assert same(there.weights(1, epoch), {name: tensor[epoch] for name, tensor in whole.items()})
    card = expert_card(expert_file(folder, 1))
    assert card["expert"] == 1 and card["network"] == CONVNET and card["loss"] > 0
    assert card["settings"]["epochs"] == 4 and card["provenance"]["seconds"] >= 0
    before = expert_file(folder, 0).stat().st_mtime_ns
    train_expert(SHORT, CONVNET, few_digits, 0, folder)  # one that is there is left alone
    assert expert_file(folder, 0).stat().st_mtime_ns == before


@pytest.mark.parametrize("index", [0, 1])
def test_an_expert_follows_from_its_number_alone(folder, few_digits, tmp_path, index):
    start = small(rng=seeded(derive_seed("expert", index)))
    assert torch.equal(flat(Experts(folder).weights(index, 0)), flat(start))
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    train_expert(SHORT, CONVNET, few_digits, index, tmp_path)
    train_expert(SHORT.changed(epochs=1), TRAINED["dropout"], few_digits, index, tmp_path / "vit")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(*(read_tensors(expert_file(path, index)) for path in (tmp_path, folder)))


def test_an_epoch_is_plain_gradient_descent(few_digits, tmp_path):
    """One step per epoch: no momentum, no weight decay, a constant rate."""
    settings = ExpertSettings(count=1, epochs=3, lr=0.1, batch_size=1000, augmentation="")
    train_expert(settings, CONVNET, few_digits, 0, tmp_path)
    there, model = Experts(tmp_path), small().double()
    images = few_digits.normalize(few_digits.images.double() / 255)
    for epoch in range(3):
        model.load_state_dict(there.weights(0, epoch))
        model.zero_grad()
        cross_entropy(model(images), few_digits.labels).backward()
        after = there.weights(0, epoch + 1)
        for name, parameter in model.named_parameters():
            expected = parameter.detach() - 0.1 * parameter.grad
            torch.testing.assert_close(after[name].double(), expected, rtol=1e-4, atol=1e-6)


class Stopped(Exception):
    """Raised in the middle of a training."""


def stopped(network: dict, real: RealData, folder: Path, epochs: int, monkeypatch) -> None:
    """Train an expert that saves every epoch and is stopped after some."""
    done = []

    def stop() -> None:
        done.append(1)
        if len(done) == epochs:
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(storage, "SAVE_SECONDS", 0)
        train_expert(SHORT, network, real, 0, folder, stop)


@pytest.mark.parametrize("epochs_before", [1, 3, 4])
@pytest.mark.parametrize("kind", TRAINED)
def test_a_stopped_expert_goes_on_with_the_same_bits(monkeypatch, few_digits, tmp_path, kind, epochs_before):
    whole, parts, rest = tmp_path / "whole", tmp_path / "parts", []
    train_expert(SHORT, TRAINED[kind], few_digits, 0, whole)
    stopped(TRAINED[kind], few_digits, parts, epochs_before, monkeypatch)
    assert not expert_file(parts, 0).exists()
    train_expert(SHORT, TRAINED[kind], few_digits, 0, parts, lambda: rest.append(1))
    assert len(rest) == max(1, SHORT.epochs - epochs_before)  # the last epoch gives the loss of the card
    assert same(*(read_tensors(expert_file(path, 0)) for path in (whole, parts)))
    assert [path.name for path in parts.iterdir()] == ["expert-000.safetensors"]


def test_a_state_of_other_settings_is_left_alone(tmp_path, monkeypatch, few_digits):
    stopped(CONVNET, few_digits, tmp_path / "a", 2, monkeypatch)
    other = SHORT.changed(lr=0.5)
    with pytest.warns(match="other settings"):
        train_expert(other, CONVNET, few_digits, 0, tmp_path / "a")
    train_expert(other, CONVNET, few_digits, 0, tmp_path / "b")
    assert same(*(read_tensors(expert_file(tmp_path / name, 0)) for name in "ab"))


def test_a_loss_that_is_not_finite_stops_an_expert(few_digits, tmp_path):
    with pytest.raises(HgladError, match=r"the training loss is .* with lr 1e\+30; lower lr"):
        train_expert(SHORT.changed(lr=1e30), CONVNET, few_digits, 0, tmp_path)
    assert not expert_file(tmp_path, 0).exists()


def test_experts_of_other_settings_are_refused(folder, few_digits):
    """The key follows from everything but the number of experts."""
    key = experts_key(SHORT, CONVNET, few_digits)
    assert experts_key(SHORT.changed(count=7), CONVNET, few_digits) == key
    others = [
        experts_key(SHORT.changed(epochs=5), CONVNET, few_digits),
        experts_key(SHORT, CONVNET | {"width": 5}, few_digits),
        experts_key(SHORT, CONVNET, few_digits.split(0.5, 0)[0]),
    ]
    assert len({key, *others}) == 4
    Experts(folder).check_key(key)
    with pytest.raises(
        HgladError, match=f"expert-000.safetensors has the fingerprint {key}, expected {others[0]}"
    ):
        Experts(folder).check_key(others[0])


def test_one_epoch_is_read_without_the_rest_of_the_file(tmp_path):
    """A sparse file of 1 GiB and 256 epochs: reading it all would touch at least 16,000 pages."""
    resource = pytest.importorskip("resource")
    entry = {"dtype": "F32", "shape": [256, 2**20], "data_offsets": [0, 2**30]}
    header, path = json.dumps({"weight": entry}).encode(), expert_file(tmp_path, 0)
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    assert Experts(tmp_path).weights(0, 200)["weight"].shape == (2**20,)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 4000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 5}, r"classifier.weight of shape \(10, 36\), the network \(10, 45\)"),
        ({"norm": "none"}, r"has features.1.bias of shape \(4,\), the network None"),
        ({"depth": 1}, r"classifier.weight of shape \(10, 36\), the network \(10, 144\)"),
    ],
)
def test_experts_of_another_network_are_refused_by_name_and_shape(folder, options, message):
    Experts(folder).check(small())
    with pytest.raises(HgladError, match=message) as error:
        Experts(folder).check(small(**options))
    assert "expert-000" in str(error.value) and "\n" not in str(error.value)


def test_experts_that_are_missing_damaged_or_too_short_are_a_clear_error(folder, tmp_path):
    for path, count, message in (
        (tmp_path, None, "no expert-000.safetensors among 0 experts in .*; make it with hglad experts"),
        (tmp_path / "none", 3, "no expert-000.safetensors among 0 experts"),
        (folder, 3, "no expert-002.safetensors among 2 experts"),
    ):
        with pytest.raises(HgladError, match=message):
            Experts(path, count)
    content = expert_file(folder, 0).read_bytes()
    for left in (0, 300, -10):
        expert_file(tmp_path, 0).write_bytes(content[:left])
        with pytest.raises(HgladError, match="cannot read the expert .*; delete it and train it again"):
            Experts(tmp_path)
    there = Experts(folder)
    there.check_length(max_start_epoch=3, expert_epochs=2)
    message = "experts of 4 epochs in .*: a start below 3 and 3 more need 5; train them for longer or lower"
    with pytest.raises(HgladError, match=message):
        there.draw(seeded(), max_start_epoch=3, expert_epochs=3)


def test_draws_are_of_every_expert_and_every_start_below_the_last(folder):
    there, rng, found = Experts(folder), seeded(0), []
    vectors = {(index, epoch): flat(there.weights(index, epoch)) for index in range(2) for epoch in range(5)}
    for _ in range(60):
        pair = there.draw(rng, max_start_epoch=3, expert_epochs=2)
        (start,), (target,) = ([k for k, v in vectors.items() if torch.equal(v, flat(x))] for x in pair)
        assert target == (start[0], start[1] + 2)
        found.append(start)
    assert set(found) == {(index, epoch) for index in range(2) for epoch in range(3)}
