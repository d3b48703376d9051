"""Training and measuring classifiers, on the digits and on cases small enough to compute by hand."""

from copy import deepcopy
from dataclasses import replace
from functools import cache
from math import cos, pi

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hglad.data.datasets import DataSet, load_data
from hglad.errors import HgladError
from hglad.evaluation.training import (
    SCHEDULES,
    TrainingSettings,
    accuracy,
    confusion_matrix,
    predict,
    train_classifier,
)
from hglad.networks import create_network
from hglad.networks.chunks import accumulate_gradient

PLAIN = TrainingSettings(epochs=1, lr=0.1, schedule="constant", augmentation="", ema_decay=None)
QUICK = TrainingSettings(epochs=30, batch_size=50, lr=0.05, ema_decay=0.8)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unchanged(images: torch.Tensor) -> torch.Tensor:
    return images


def small_network(seed: int = 0, **options: object) -> nn.Module:
    return create_network("convnet", (1, 16, 16), 10, rng=seeded(seed), width=8, **options)


def some_images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(count, 1, 16, 16, generator=seeded(9)), torch.arange(count) % 10


def flat(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@cache
def digits() -> DataSet:
    return load_data("digits")


def test_schedules():
    warm = [SCHEDULES["warmup_cosine"](epoch, 10) for epoch in range(10)]
    assert warm[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert warm[5:] == pytest.approx([(1 + cos(pi * k / 5)) / 2 for k in range(5)])
    assert [SCHEDULES["step"](epoch, 5) for epoch in range(5)] == [1, 1, 1, 0.1, 0.1]
    assert [SCHEDULES[name](0, 1) for name in SCHEDULES] == [1, 1, 1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 1.5),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("schedule", "cosine"),
        ("ema_decay", 1.0),
        ("augmentation", "flop"),
        ("precision", "float16"),
        ("test_precision", "float16"),
    ],
)
def test_impossible_settings_are_a_clear_error(field, value):
    with pytest.raises(HgladError, match=f"{field}.*{value}|augmentation strategy 'flop'"):
        TrainingSettings(**{field: value})


def test_a_step_is_sgd_with_weight_decay_on_the_mean_cross_entropy():
    images, labels = some_images(6)
    network = small_network()
    before = flat(network)
    loss = F.cross_entropy(network(2 * images - 1), labels)
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(network.parameters()))])
    trained = train_classifier(
        network, images, labels, lambda batch: 2 * batch - 1, replace(PLAIN, weight_decay=0.01), seeded(0)
    )
    assert trained is network and not network.training
    torch.testing.assert_close(flat(network), before - 0.1 * (gradient + 0.01 * before), atol=1e-6, rtol=1e-5)


def test_momentum_and_schedule_shape_the_second_step():
    images, labels = some_images(6)
    network, rates = nn.Sequential(nn.Flatten(), nn.Linear(256, 10)), [0.1, 0.01]
    expected, velocity = deepcopy(network), 0
    for rate in rates:
        gradient = torch.autograd.grad(F.cross_entropy(expected(images), labels), list(expected.parameters()))
        velocity = 0.9 * velocity + torch.cat([part.flatten() for part in gradient])
        torch.nn.utils.vector_to_parameters(flat(expected) - rate * velocity, expected.parameters())
    settings = replace(PLAIN, epochs=2, schedule="step", weight_decay=0.0)
    train_classifier(network, images, labels, unchanged, settings, seeded(0))
    torch.testing.assert_close(flat(network), flat(expected), atol=1e-6, rtol=1e-5)


def test_moving_average_is_updated_once_per_epoch_and_keeps_buffers():
    images, labels = some_images(20)
    network = small_network(norm="batch")
    states = [flat(network)]
    average = train_classifier(
        network,
        images,
        labels,
        unchanged,
        replace(PLAIN, epochs=3, batch_size=8, ema_decay=0.7),
        seeded(0),
        progress=lambda epoch, loss: states.append(flat(network)),
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

    def record(batch: torch.Tensor) -> torch.Tensor:
        seen.append(batch[:, 0, 0, 0].tolist())
        return batch / 10

    train_classifier(
        small_network(), images, torch.arange(10), record, replace(PLAIN, epochs=2, batch_size=4), seeded(0)
    )
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    first, second = sum(seen[:3], []), sum(seen[3:], [])
    assert sorted(first) == sorted(second) == list(range(10)) and first != second


def test_augmentation_reaches_the_network():
    images, labels = some_images(10)
    results = []
    for augmentation in ("", "cutout"):
        network = small_network()
        settings = replace(PLAIN, augmentation=augmentation)
        results.append(flat(train_classifier(network, images, labels, unchanged, settings, seeded(0))))
    assert not torch.allclose(*results)


def test_uint8_images_are_scaled_to_one():
    images, labels = some_images(10)
    images = (255 * images).to(torch.uint8)
    both = [
        flat(train_classifier(small_network(), form, labels, unchanged, PLAIN, seeded(0)))
        for form in (images, images.float() / 255)
    ]
    assert torch.equal(*both)


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
    images, labels = some_images(10)
    calls = []

    def spoil(batch: torch.Tensor) -> torch.Tensor:
        calls.append(0)
        return batch * (float("nan") if len(calls) == 5 else 1)  # the second batch of the second epoch

    settings = replace(PLAIN, epochs=3, batch_size=4)
    with pytest.raises(HgladError, match=r"loss is nan at step 4 with lr 0\.1"):
        train_classifier(small_network(), images, labels, spoil, settings, seeded(0))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(3, 1, 16, 16), torch.zeros(2, dtype=torch.int64), r"\(2,\)"),
        (torch.zeros(0, 1, 16, 16), torch.zeros(0, dtype=torch.int64), "at least 1"),
        (torch.zeros(1, 16, 16), torch.zeros(1, dtype=torch.int64), r"\(1, 16, 16\)"),
        (torch.zeros(2, 1, 16, 16), torch.zeros(2), "float32"),
        (torch.zeros(2, 1, 16, 16), torch.tensor([0, 10]), "label 10"),
        (torch.zeros(2, 1, 16, 16), torch.tensor([-1, 0]), "label -1"),
        (torch.zeros(2, 1, 16, 16), torch.full((2, 9), 1 / 9), "9"),
        (torch.zeros(2, 1, 16, 16), torch.ones(2, 10, dtype=torch.int64), "int64; give probabilities"),
        (torch.zeros(2, 1, 16, 16), torch.ones(2, 10, 1), r"\(2, 10, 1\)"),
        (torch.zeros(2, 1, 16, 16), torch.ones(3, 10), r"\(3, 10\)"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_a_clear_error(images, labels, message):
    with pytest.raises(HgladError, match=message):
        train_classifier(small_network(), images, labels, unchanged, PLAIN, seeded(0))


def soft_labels(count: int) -> torch.Tensor:
    return torch.rand(count, 10, generator=seeded(4)).softmax(dim=1)


def test_a_step_on_soft_labels_follows_the_mean_cross_entropy_to_them():
    images, labels, network = some_images(6)[0], soft_labels(6), small_network()
    before = flat(network)
    loss = -(labels * network(images).log_softmax(dim=1)).sum(dim=1).mean()
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(network.parameters()))])
    train_classifier(network, images, labels, unchanged, replace(PLAIN, weight_decay=0.0), seeded(0))
    torch.testing.assert_close(flat(network), before - 0.1 * gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("augmentation", ["", "color_crop_cutout_flip_scale_rotate"])
def test_one_hot_labels_train_to_the_bits_of_the_classes(augmentation):
    images, labels = some_images(20)
    settings = replace(PLAIN, epochs=4, batch_size=8, augmentation=augmentation)
    both = [
        flat(train_classifier(small_network(), images, each, unchanged, settings, seeded(0)))
        for each in (labels, F.one_hot(labels, 10).float())
    ]
    assert torch.equal(*both)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_convolutions_compute_in_the_precision_that_is_asked_for_and_only_while_training(name):
    images, labels = some_images(20)
    network, found = small_network(norm="batch"), set()

    def note(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        found.add((module.training, output.dtype))

    network.features[0].register_forward_hook(note)  # the average, a copy, has it too
    settings = replace(PLAIN, epochs=2, ema_decay=0.5, precision=name)
    average = train_classifier(network, images, labels, unchanged, settings, seeded(0))
    predict(average, digits().test)
    assert found == {(True, getattr(torch, name)), (False, torch.float32)}
    for each in (network, average):
        assert {value.dtype for value in each.state_dict().values()} == {torch.float32, torch.int64}
    assert not torch.is_autocast_enabled("cpu")


def test_sixteen_bits_learn_as_much():
    train, test = digits().train, digits().test
    images, labels = train.batch(10, seeded(0)).flatten(0, 1), torch.arange(10).repeat_interleave(10)
    trained = [
        train_classifier(
            small_network(), images, labels, train.normalize, replace(QUICK, precision=name), seeded(0)
        )
        for name in ("float32", "bfloat16")
    ]
    assert not torch.equal(*map(flat, trained))
    exact, rough = (accuracy(network, test) for network in trained)
    assert exact > 70 and rough == pytest.approx(exact, abs=3)


def test_the_loss_is_summed_in_full_precision():
    """Of 16-bit logits; those of a network in float64 are not cut to 32 bits."""
    images, labels = some_images(12)
    losses = {}
    for name, network in (("float32", small_network()), ("bfloat16", small_network())):
        with torch.autocast("cpu", torch.bfloat16, enabled=name == "bfloat16"):
            logits = network(images)
        expected = F.cross_entropy(logits.float(), labels).item()
        losses[name] = accumulate_gradient(network, images, labels, name)
        assert losses[name].dtype == torch.float32
        assert losses[name].item() == pytest.approx(expected, rel=1e-6)
    assert losses["float32"] != losses["bfloat16"]
    assert accumulate_gradient(small_network().double(), images.double(), labels).dtype == torch.float64


def test_a_convnet_learns_the_digits_from_ten_images_each():
    train, test = digits().train, digits().test
    chosen = train.batch(10, seeded(0))
    network = create_network("convnet", train.image_shape, 10, width=16)
    labels = torch.arange(10).repeat_interleave(10)
    trained = train_classifier(network, chosen.flatten(0, 1), labels, train.normalize, QUICK, seeded(0))
    assert accuracy(trained, test) > 80


class ByBrightness(nn.Module):
    """Class 0 below a mean of 0, else class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
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


def test_a_test_in_16_bits_takes_and_gives_16_bits_and_hardly_changes_what_is_predicted():
    network, test, formats = small_network(), digits().test, []
    network.features[0].register_forward_hook(lambda module, given, maps: formats.append(maps.dtype))
    full, half = (predict(network, test, precision=name) for name in ("float32", "bfloat16"))
    assert formats == [torch.float32, torch.bfloat16]
    assert 0 < (full != half).sum() < 0.05 * len(test.images)
    confusion = confusion_matrix(network, test, "bfloat16")
    assert confusion.sum(dim=0).tolist() == half.bincount(minlength=10).tolist()


def test_measuring_is_in_eval_mode_and_without_gradients():
    network = small_network(norm="batch").train()
    mean = network.features[1].running_mean.clone()
    assert not predict(network, digits().test).requires_grad
    assert torch.equal(network.features[1].running_mean, mean)
