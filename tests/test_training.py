"""Training and measuring classifiers: on cases computed by hand, in lockstep, and stopped in the middle."""

import random
from collections.abc import Callable
from copy import deepcopy
from functools import cache, partial
from math import cos, pi
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from replacing import replace
from torch import Tensor, nn

from hglad import storage
from hglad.data.datasets import DataSet, load_data
from hglad.errors import HgladError
from hglad.evaluation.training import (
    SCHEDULES,
    Ensemble,
    accuracy,
    batches,
    confusion_matrix,
    predict,
    stackable,
    train_classifier,
    train_epoch,
)
from hglad.networks import create_network
from hglad.networks.passes import accumulate_gradient
from hglad.settings import TrainingSettings

PLAIN = TrainingSettings(epochs=1, lr=0.1, schedule="constant", augmentation="", ema_decay=None)
QUICK = TrainingSettings(epochs=30, batch_size=50, lr=0.05, ema_decay=0.8)


def seeded(seed: int, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def unchanged(images: Tensor) -> Tensor:
    return images


def small_network(seed: int = 0, **options: object) -> nn.Module:
    return create_network("convnet", (1, 16, 16), 10, rng=seeded(seed), width=8, **options)


def some_images(count: int) -> tuple[Tensor, Tensor]:
    return torch.rand(count, 1, 16, 16, generator=seeded(9)), torch.arange(count) % 10


def soft_labels(count: int, classes: int = 10) -> Tensor:
    return torch.rand(count, classes, generator=seeded(4)).softmax(dim=1)


def flat(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def trained(settings: TrainingSettings, images: Tensor, labels: Tensor, **options: object) -> Tensor:
    """Weights of a small network after a training."""
    return flat(train_classifier(small_network(**options), images, labels, unchanged, settings, seeded(0)))


@cache
def digits() -> DataSet:
    return load_data("digits")


# One network


def test_schedules():
    warm = [SCHEDULES["warmup_cosine"](epoch, 10) for epoch in range(10)]
    assert warm[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert warm[5:] == pytest.approx([(1 + cos(pi * k / 5)) / 2 for k in range(5)])
    assert [SCHEDULES["step"](epoch, 5) for epoch in range(5)] == [1, 1, 1, 0.1, 0.1]
    assert [SCHEDULES[name](0, 1) for name in SCHEDULES] == [1, 1, 1]


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_a_step_is_sgd_with_weight_decay_on_the_mean_cross_entropy(soft):
    images, labels = some_images(6)
    labels, network = soft_labels(6) if soft else labels, small_network()
    before = flat(network)
    target = labels if soft else F.one_hot(labels, 10)
    loss = -(target * network(2 * images - 1).log_softmax(dim=1)).sum(dim=1).mean()
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(network.parameters()))])
    settings = replace(PLAIN, weight_decay=0.01)
    found = train_classifier(network, images, labels, lambda batch: 2 * batch - 1, settings, seeded(0))
    assert found is network and not network.training
    torch.testing.assert_close(flat(network), before - 0.1 * (gradient + 0.01 * before), atol=1e-6, rtol=1e-5)


def test_momentum_and_schedule_shape_the_second_step():
    images, labels = some_images(6)
    network = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    expected, velocity = deepcopy(network), 0
    for rate in (0.1, 0.01):
        gradient = torch.autograd.grad(F.cross_entropy(expected(images), labels), list(expected.parameters()))
        velocity = 0.9 * velocity + torch.cat([part.flatten() for part in gradient])
        torch.nn.utils.vector_to_parameters(flat(expected) - rate * velocity, expected.parameters())
    settings = replace(PLAIN, epochs=2, schedule="step", weight_decay=0.0)
    train_classifier(network, images, labels, unchanged, settings, seeded(0))
    torch.testing.assert_close(flat(network), flat(expected), atol=1e-6, rtol=1e-5)


def test_moving_average_is_updated_once_per_epoch_and_keeps_buffers():
    network, settings = small_network(norm="batch"), replace(PLAIN, epochs=3, batch_size=8, ema_decay=0.7)
    states = [flat(network)]
    average = train_classifier(
        network, *some_images(20), unchanged, settings, seeded(0), lambda *_: states.append(flat(network))
    )
    expected = states[0]
    for state in states[1:]:
        expected = 0.7 * expected + 0.3 * state
    assert average is not network and not average.training
    torch.testing.assert_close(flat(average), expected)
    assert torch.equal(average.features[1].running_mean, network.features[1].running_mean)
    assert network.features[1].num_batches_tracked == 9


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own():
    images = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 16, 16).contiguous()
    seen = []

    def record(batch: Tensor) -> Tensor:
        seen.append(batch[:, 0, 0, 0].tolist())
        return batch / 10

    settings = replace(PLAIN, epochs=2, batch_size=4)
    train_classifier(small_network(), images, torch.arange(10), record, settings, seeded(0))
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    first, second = sum(seen[:3], []), sum(seen[3:], [])
    assert sorted(first) == sorted(second) == list(range(10)) and first != second


def test_augmentation_reaches_the_network_and_uint8_images_are_scaled_to_one():
    images, labels = some_images(10)
    images = (255 * images).to(torch.uint8)
    plain = trained(PLAIN, images, labels)
    assert torch.equal(plain, trained(PLAIN, images.float() / 255, labels))
    assert not torch.allclose(plain, trained(replace(PLAIN, augmentation="cutout"), images, labels))


@pytest.mark.parametrize("augmentation", ["", "color_crop_cutout_flip_scale_rotate"])
def test_one_hot_labels_train_to_the_bits_of_the_classes(augmentation):
    images, labels = some_images(20)
    settings = replace(PLAIN, epochs=4, batch_size=8, augmentation=augmentation)
    one_hot = F.one_hot(labels, 10).float()
    assert torch.equal(trained(settings, images, labels), trained(settings, images, one_hot))


@pytest.mark.parametrize(("name", "options"), [("convnet", {"width": 8}), ("vit", {"depth": 1, "dim": 16})])
def test_training_follows_from_the_generator_alone(name, options):
    images, labels = some_images(10)
    settings, state = TrainingSettings(epochs=2, batch_size=4), torch.random.get_rng_state()
    results = []
    for seed in (0, 0, 1):
        network = create_network(name, (1, 16, 16), 10, **options)
        results.append(flat(train_classifier(network, images, labels, unchanged, settings, seeded(seed))))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_loss_that_is_not_finite_names_step_value_and_rate():
    calls = []

    def spoil(batch: Tensor) -> Tensor:
        calls.append(0)
        return batch * (float("nan") if len(calls) == 5 else 1)  # the second batch of the second epoch

    settings = replace(PLAIN, epochs=3, batch_size=4)
    with pytest.raises(HgladError, match=r"loss is nan at step 4 with lr 0\.1"):
        train_classifier(small_network(), *some_images(10), spoil, settings, seeded(0))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(3, 1, 16, 16), torch.zeros(2, dtype=torch.int64), r"\(2,\)"),
        (torch.zeros(0, 1, 16, 16), torch.zeros(0, dtype=torch.int64), "at least 1"),
        (torch.zeros(1, 16, 16), torch.zeros(1, dtype=torch.int64), r"\(1, 16, 16\)"),
        (torch.zeros(2, 1, 16, 16), torch.zeros(2), "float32"),
        (torch.zeros(2, 1, 16, 16), torch.tensor([0, 10]), "label 10"),
        (torch.zeros(2, 1, 16, 16), torch.tensor([-1, 0]), "label -1"),
        (torch.zeros(2, 1, 16, 16), torch.full((2, 9), 1 / 9), "soft labels of 9 classes"),
        (torch.zeros(2, 1, 16, 16), torch.ones(2, 10, dtype=torch.int64), "int64; give probabilities"),
        (torch.zeros(2, 1, 16, 16), torch.ones(2, 10, 1), r"\(2, 10, 1\)"),
        (torch.zeros(2, 1, 16, 16), torch.ones(3, 10), r"\(3, 10\)"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_a_clear_error(images, labels, message):
    with pytest.raises(HgladError, match=message):
        train_classifier(small_network(), images, labels, unchanged, PLAIN, seeded(0))
    with pytest.raises(HgladError, match=message):
        train_classifier(Ensemble([small_network()]), images, labels, unchanged, PLAIN, [seeded(0)])


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_convolutions_compute_in_the_precision_that_is_asked_for_and_only_while_training(name):
    network, found = small_network(norm="batch"), set()

    def note(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        found.add((module.training, output.dtype))

    network.features[0].register_forward_hook(note)  # the average, a copy, has it too
    settings = replace(PLAIN, epochs=2, ema_decay=0.5, precision=name)
    average = train_classifier(network, *some_images(20), unchanged, settings, seeded(0))
    predict(average, digits().test)
    assert found == {(True, getattr(torch, name)), (False, torch.float32)}
    for each in (network, average):
        assert {value.dtype for value in each.state_dict().values()} == {torch.float32, torch.int64}
    assert not torch.is_autocast_enabled("cpu")


def test_the_digits_are_learned_from_ten_images_each_in_16_bits_as_well():
    train, test = digits().train, digits().test
    images, labels = train.batch(10, seeded(0)).flatten(0, 1), torch.arange(10).repeat_interleave(10)
    networks = [
        train_classifier(small_network(), images, labels, train.normalize, settings, seeded(0))
        for settings in (QUICK, replace(QUICK, precision="bfloat16"))
    ]
    assert not torch.equal(*map(flat, networks))
    exact, rough = (accuracy(network, test) for network in networks)
    assert exact > 70 and rough == pytest.approx(exact, abs=3)


def test_the_loss_is_summed_in_full_precision():
    """Of 16-bit logits; those of a network in float64 are not cut to 32 bits."""
    images, labels = some_images(12)
    losses = {}
    for name in ("float32", "bfloat16"):
        network = small_network()
        with torch.autocast("cpu", torch.bfloat16, enabled=name == "bfloat16"):
            logits = network(images)
        losses[name] = accumulate_gradient(network, images, labels, name)
        assert losses[name].dtype == torch.float32
        assert losses[name].item() == pytest.approx(F.cross_entropy(logits.float(), labels).item(), rel=1e-6)
    assert losses["float32"] != losses["bfloat16"]
    assert accumulate_gradient(small_network().double(), images.double(), labels).dtype == torch.float64


# Measuring


class ByBrightness(nn.Module):
    """Class 0 below a mean of 0, else class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        mean = self.scale * images.mean(dim=(1, 2, 3))
        return torch.stack([-mean, mean, mean - 1e6], dim=1)


def test_accuracies_count_what_the_network_says():
    test, network = digits().test, ByBrightness()
    bright = test.normalize(test.images / 255).mean(dim=(1, 2, 3)) > 0
    assert torch.equal(predict(network, test, batch=7), bright.long())
    hits = bright.long() == test.labels
    assert accuracy(network, test) == pytest.approx(100 * hits.double().mean().item())
    counts = torch.zeros(10, 10, dtype=torch.int64)
    for label, guess in zip(test.labels.tolist(), bright.tolist(), strict=True):
        counts[label, int(guess)] += 1
    assert torch.equal(confusion_matrix(network, test), counts)
    trained, mean = small_network(norm="batch").train(), torch.zeros(8)
    assert not predict(trained, test).requires_grad and not trained.training
    assert torch.equal(trained.features[1].running_mean, mean), "measured in training mode"


def test_a_test_in_16_bits_takes_and_gives_16_bits_and_hardly_changes_what_is_predicted():
    network, test, formats = small_network(), digits().test, []
    network.features[0].register_forward_hook(lambda module, given, maps: formats.append(maps.dtype))
    full, half = (predict(network, test, precision=name) for name in ("float32", "bfloat16"))
    assert formats == [torch.float32, torch.bfloat16]
    assert 0 < (full != half).sum() < 0.05 * len(test.images)
    confusion = confusion_matrix(network, test, "bfloat16")
    assert confusion.sum(dim=0).tolist() == half.bincount(minlength=10).tolist()


# Networks in lockstep

CONVNET = {"name": "convnet", "depth": 2, "width": 4}
NETWORKS = {
    "convnet": ((1, 12, 12), CONVNET),
    "convnet without norm": ((3, 9, 11), CONVNET | {"norm": "none"}),  # odd sides
    "alexnet": ((3, 8, 8), {"name": "alexnet", "width": 0.05}),
    "vgg11": ((1, 8, 8), {"name": "vgg11", "width": 0.1}),
    "resnet18": ((3, 12, 12), {"name": "resnet18", "width": 0.1}),
    "vit": ((1, 8, 8), {"name": "vit", "depth": 1, "dim": 8, "heads": 2, "mlp": 8, "dropout": 0.0}),
}
SETTINGS = TrainingSettings(epochs=4, batch_size=4, lr=0.05, schedule="step", ema_decay=0.6)
LAST = replace(SETTINGS, augmentation="", ema_decay=None)


def normalize(images: Tensor) -> Tensor:
    return 4 * images - 2


def five_classes(shape: tuple[int, ...] = (1, 12, 12)) -> tuple[Tensor, Tensor]:
    return torch.rand(10, *shape, generator=seeded(9), dtype=torch.float64), torch.arange(10) % 5


def some_networks(kind: str = "convnet", dtype: torch.dtype = torch.float64) -> list[nn.Module]:
    shape, options = NETWORKS[kind]
    made = [create_network(image_shape=shape, classes=5, rng=seeded(k), **options) for k in range(3)]
    return [network.to(dtype) for network in made]


def rngs() -> list[torch.Generator]:
    return [seeded(100 + number) for number in range(3)]


def alone(networks: list[nn.Module], images: Tensor, labels: Tensor, settings: TrainingSettings) -> Tensor:
    """Weights of networks trained one after the other, (R, numbers)."""
    pairs = zip(networks, rngs(), strict=True)
    return torch.stack(
        [flat(train_classifier(net, images, labels, normalize, settings, rng)) for net, rng in pairs]
    )


def together(networks, images, labels, settings, *rest) -> Tensor:
    """Weights of networks trained in lockstep, (R, numbers)."""
    ensemble = Ensemble(networks)
    train_classifier(ensemble, images, labels, normalize, settings, rngs(), *rest).unstack_into(networks)
    assert not any(network.training for network in networks)
    return torch.stack([flat(network) for network in networks])


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of attention, on a processor
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(
    ("settings", "soft"), [(SETTINGS, False), (replace(LAST, schedule="warmup_cosine"), True)], ids=str
)
def test_every_network_is_trained_as_if_it_were_alone(kind, settings, soft):
    images, labels = five_classes(NETWORKS[kind][0])
    labels = soft_labels(10, 5).double() if soft else labels
    before = torch.stack([flat(network) for network in some_networks(kind)])
    found = together(some_networks(kind), images, labels, settings)
    expected = alone(some_networks(kind), images, labels, settings)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    assert (found - before).abs().max() > 1e-3
    twins = together([some_networks(kind)[0] for _ in range(3)], images, labels, settings)
    assert not torch.allclose(twins[0], twins[1]), "not an order of its own"


@pytest.mark.parametrize("kind", ["convnet", "alexnet"])
def test_a_bfloat16_step_in_lockstep_is_that_of_a_network_alone_up_to_its_rounding(kind):
    images, labels = five_classes(NETWORKS[kind][0])
    once = replace(LAST, epochs=1, batch_size=10)
    half, fresh = replace(once, precision="bfloat16"), partial(some_networks, kind, torch.float32)
    exact, expected = (alone(fresh(), images.float(), labels, settings) for settings in (once, half))
    found = together(fresh(), images.float(), labels, half)
    rounding = (expected - exact).norm()
    way = (exact - torch.stack([flat(network) for network in fresh()])).norm()
    assert found.dtype == torch.float32
    assert 0.5 * rounding < (found - exact).norm() < 2 * rounding, "not 16 bits, or something else too"
    assert (found - expected).norm() < 2 * rounding < 0.2 * way


def test_progress_in_lockstep_is_the_mean_loss_of_all_networks():
    seen, each = [], []
    together(some_networks(), *five_classes(), SETTINGS, lambda epoch, loss: seen.append((epoch, loss)))
    for network, rng in zip(some_networks(), rngs(), strict=True):
        each.append([])
        progress = lambda _, loss, losses=each[-1]: losses.append(loss)  # noqa: E731
        train_classifier(network, *five_classes(), normalize, SETTINGS, rng, progress)
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 4]
    assert [loss for _, loss in seen] == pytest.approx(torch.tensor(each).mean(dim=0).tolist(), rel=1e-5)


def test_a_loss_in_lockstep_that_is_not_finite_names_the_repeat():
    networks = some_networks()
    with torch.no_grad():
        networks[1].classifier.bias[0] = float("inf")
    with pytest.raises(HgladError, match=r"training loss of repeat 1 is nan at step 0 with lr 0\.05"):
        together(networks, *five_classes(), LAST)


@pytest.mark.parametrize(
    ("options", "expected"),
    [(options, True) for _, options in NETWORKS.values()]
    + [
        ({"name": "vit", "depth": 1, "dim": 16}, False),  # draws
        (CONVNET | {"norm": "batch"}, False),  # has buffers
        ({"name": "torchvision:squeezenet1_1"}, False),  # another library's
    ],
)
def test_which_networks_can_be_stacked(options, expected):
    assert stackable(create_network(image_shape=(3, 32, 32), classes=5, **options)) is expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_not_waited_for_within_an_epoch():
    ensemble = Ensemble([network.cuda() for network in some_networks(dtype=torch.float32)])
    images, labels = (tensor.cuda() for tensor in five_classes())
    optimizer = torch.optim.SGD(ensemble.parameters(), 0.1, 0.9, foreach=True)
    settings, draw = replace(SETTINGS, precision="bfloat16"), [seeded(k, "cuda") for k in range(3)]
    next(batches(images.float(), labels, normalize, settings, draw))  # what is made once, is there
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = train_epoch(ensemble, optimizer, images.float(), labels, normalize, settings, draw)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert losses.shape == (3, 3) and losses.isfinite().all()


# Stopped trainings

NINE = TrainingSettings(epochs=9, batch_size=8, lr=0.05, ema_decay=0.7)
STOPPED = {
    "convnet": CONVNET,
    "batch norm": CONVNET | {"norm": "batch"},
    "dropout": {"name": "vit", "depth": 1, "dim": 8, "heads": 2, "head_dim": 4, "mlp": 8, "dropout": 0.3},
    "lockstep": CONVNET,
}


class Stop(BaseException):
    """Ends a training from inside, as an interrupt does."""


@pytest.fixture
def save_always(monkeypatch):
    """Save after every epoch."""
    monkeypatch.setattr(storage, "SAVE_SECONDS", 0)


def train(
    kind: str,
    settings: TrainingSettings = NINE,
    state: Path | None = None,
    normalize: Callable = unchanged,
    progress: Callable | None = None,
    seed: int = 3,
    **options: object,
) -> dict[str, Tensor]:
    """Weights and buffers after a training from fixed seeds, and the state of its generator."""
    draw = [seeded(seed), seeded(seed + 1)] if kind == "lockstep" else seeded(seed)
    images = torch.rand(20, 1, 8, 8, generator=seeded(9))
    networks = [
        create_network(image_shape=(1, 8, 8), classes=10, rng=seeded(k), **STOPPED[kind] | options)
        for k in range(2)
    ]
    network = Ensemble(networks) if kind == "lockstep" else networks[0]
    result = train_classifier(
        network, images, torch.arange(20) % 10, normalize, settings, draw, progress, state
    )
    drawn = [rng.get_state() for rng in (draw if kind == "lockstep" else [draw])]
    return {**result.state_dict(), "generators": torch.stack(drawn)}


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def stopping(batches: int) -> Callable[[Tensor], Tensor]:
    """A normalization that stops the training at its batch of that number, in the middle of an epoch."""
    left = iter(range(batches))

    def normalize(images: Tensor) -> Tensor:
        if next(left, None) is None:
            raise Stop
        return images

    return normalize


@pytest.mark.parametrize(
    "settings",
    [NINE, replace(NINE, ema_decay=None), replace(NINE, ema_decay=None, momentum=0.0)],
    ids=["average", "last weights", "no momentum"],
)
@pytest.mark.parametrize("kind", STOPPED)
def test_stops_at_random_moments_change_no_bit(kind, settings, tmp_path, monkeypatch):
    undisturbed, moments, epochs, stops = train(kind, settings), random.Random(kind), [], 0

    def progress(epoch: int, loss: float) -> None:
        epochs.append(epoch)
        monkeypatch.setattr(storage, "SAVE_SECONDS", moments.choice([0, 1e9]))  # not every epoch

    per_epoch = 6 if kind == "lockstep" else 3
    for _ in range(50):
        torch.manual_seed(moments.randrange(100))  # another process has another global state
        before = torch.get_rng_state()
        try:
            # 1 to 4 of the 9 epochs: a training that began anew each time would never end
            stop = stopping(per_epoch * moments.randint(2, 4) - 1)
            found = train(kind, settings, tmp_path / "a.training", stop, progress)
            break
        except Stop:
            stops += 1
        finally:
            assert torch.equal(torch.get_rng_state(), before)
    assert same_bits(found, undisturbed)
    assert stops >= 2 and set(epochs) == {*range(1, 10)}


def test_a_stop_behind_the_last_epoch_trains_no_more(tmp_path, save_always):
    found = train("convnet", NINE, tmp_path / "a.training")
    assert same_bits(train("convnet", NINE, tmp_path / "a.training", stopping(0)), found)


@pytest.mark.parametrize(
    ("kind", "settings", "options"),
    [
        ("convnet", replace(NINE, lr=0.06), {}),
        ("convnet", replace(NINE, ema_decay=None), {}),
        ("convnet", replace(NINE, epochs=4), {}),
        ("convnet", NINE, {"width": 5}),
        ("convnet", NINE, {"seed": 4}),
        ("batch norm", NINE, {}),
        ("dropout", NINE, {}),
        ("lockstep", NINE, {}),
        ("convnet", NINE, None),
    ],
)
def test_a_damaged_state_and_that_of_another_training_are_not_gone_on_with(
    kind, settings, options, tmp_path, save_always
):
    state = tmp_path / "a.training"
    with pytest.raises(Stop):
        train("convnet", NINE, state, stopping(17))
    if options is None:
        state.write_bytes(state.read_bytes()[:-9])
    epochs, options = [], options or {}
    with pytest.warns(UserWarning, match="the computation begins anew"):
        found = train(kind, settings, state, progress=lambda epoch, _: epochs.append(epoch), **options)
    assert same_bits(found, train(kind, settings, **options))
    assert epochs == list(range(1, settings.epochs + 1))
