"""Networks trained in lockstep: each as if it were alone; stopped trainings that go on to the same bits."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hglad.data.datasets import load_data
from hglad.errors import HgladError
from hglad.evaluation import score as evaluation
from hglad.evaluation import training_state
from hglad.evaluation.baselines import random_real
from hglad.evaluation.ensemble import Ensemble, _train_epoch, backward_memory, stackable, train_ensemble
from hglad.evaluation.score import score_set
from hglad.evaluation.training import TrainingSettings, batches, train_classifier
from hglad.networks import create_network

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
PLAIN = replace(SETTINGS, augmentation="", ema_decay=None)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normalize(images: Tensor) -> Tensor:
    return 4 * images - 2


def some_images(shape: tuple[int, ...] = (1, 12, 12), count: int = 10) -> tuple[Tensor, Tensor]:
    return torch.rand(count, *shape, generator=seeded(9), dtype=torch.float64), torch.arange(count) % 5


def some_networks(
    kind: str = "convnet", count: int = 3, dtype: torch.dtype = torch.float64
) -> list[nn.Module]:
    shape, options = NETWORKS[kind]
    made = [create_network(image_shape=shape, classes=5, rng=seeded(k), **options) for k in range(count)]
    return [network.to(dtype) for network in made]


def generators(count: int = 3) -> list[torch.Generator]:
    return [seeded(100 + number) for number in range(count)]


def flat(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def flat_all(networks: list[nn.Module]) -> Tensor:
    return torch.stack([flat(network) for network in networks])


def alone(networks: list[nn.Module], images: Tensor, labels: Tensor, settings: TrainingSettings) -> Tensor:
    """Weights of networks trained one after the other, (R, numbers)."""
    pairs = zip(networks, generators(len(networks)), strict=True)
    return torch.stack(
        [flat(train_classifier(net, images, labels, normalize, settings, rng)) for net, rng in pairs]
    )


def together(networks, images, labels, settings, progress=None, state=None) -> Tensor:
    """Weights of networks trained in lockstep, (R, numbers)."""
    draw = generators(len(networks))
    train_ensemble(networks, images, labels, normalize, settings, draw, progress, state)
    assert not any(network.training for network in networks)
    return flat_all(networks)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of attention, on a processor
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("settings", [SETTINGS, PLAIN], ids=["augmented and averaged", "plain"])
def test_every_network_is_trained_as_if_it_were_alone(kind, settings):
    images, labels = some_images(NETWORKS[kind][0])
    before = flat_all(some_networks(kind))
    found = together(some_networks(kind), images, labels, settings)
    expected = alone(some_networks(kind), images, labels, settings)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    assert (found - before).abs().max() > 1e-3


def test_networks_draw_orders_and_augmentations_of_their_own():
    images, labels = some_images()
    twins = [some_networks()[0] for _ in range(2)]
    found = together(twins, images, labels, SETTINGS)
    assert not torch.allclose(found[0], found[1])


@pytest.mark.parametrize("schedule", ["warmup_cosine", "constant"])
def test_soft_labels_and_other_schedules(schedule):
    images, _ = some_images()
    soft = torch.rand(len(images), 5, generator=seeded(3), dtype=torch.float64).softmax(dim=1)
    settings = replace(SETTINGS, schedule=schedule)
    found = together(some_networks(), images, soft, settings)
    torch.testing.assert_close(found, alone(some_networks(), images, soft, settings), rtol=1e-7, atol=1e-9)


def test_uint8_images_and_float32_weights():
    images, labels = some_images()
    images = (255 * images).to(torch.uint8)
    found = together(some_networks(dtype=torch.float32), images, labels, PLAIN)
    expected = alone(some_networks(dtype=torch.float32), images, labels, PLAIN)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["convnet", "alexnet"])
def test_a_bfloat16_step_is_that_of_a_network_alone_up_to_its_rounding(kind):
    images, labels = some_images(NETWORKS[kind][0])
    once = replace(PLAIN, epochs=1, batch_size=10)
    half, fresh = replace(once, precision="bfloat16"), partial(some_networks, kind, dtype=torch.float32)
    exact, expected = (alone(fresh(), images.float(), labels, settings) for settings in (once, half))
    found = together(fresh(), images.float(), labels, half)
    rounding, way = (expected - exact).norm(), (exact - flat_all(fresh())).norm()
    assert found.dtype == torch.float32
    assert 0.5 * rounding < (found - exact).norm() < 2 * rounding, "not 16 bits, or something else too"
    assert (found - expected).norm() < 2 * rounding < 0.2 * way


def test_progress_is_the_mean_loss_of_all_networks():
    images, labels = some_images()
    seen, each = [], []
    together(some_networks(), images, labels, SETTINGS, lambda epoch, loss: seen.append((epoch, loss)))
    for network, rng in zip(some_networks(), generators(), strict=True):
        losses = []
        train_classifier(
            network, images, labels, normalize, SETTINGS, rng, lambda _, loss, kept=losses: kept.append(loss)
        )
        each.append(losses)
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 4]
    assert [loss for _, loss in seen] == pytest.approx(torch.tensor(each).mean(dim=0).tolist(), rel=1e-5)


def test_a_loss_that_is_not_finite_names_the_repeat():
    images, labels = some_images()
    networks = some_networks()
    with torch.no_grad():
        networks[1].classifier.bias[0] = float("inf")
    with pytest.raises(HgladError, match=r"training loss of repeat 1 is nan at step 0 with lr 0\.05"):
        together(networks, images, labels, PLAIN)


def test_labels_that_do_not_fit_are_a_clear_error():
    images, labels = some_images()
    with pytest.raises(HgladError, match="label 7 for a network of 5 classes"):
        together(some_networks(), images, labels + 3, PLAIN)


def test_an_ensemble_gives_the_logits_of_its_networks():
    networks = some_networks("vgg11")
    batch = torch.rand(3, 4, 1, 8, 8, generator=seeded(1), dtype=torch.float64)
    expected = torch.stack([network(part) for network, part in zip(networks, batch, strict=True)])
    torch.testing.assert_close(Ensemble(networks)(batch), expected, rtol=1e-10, atol=1e-12)


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


@pytest.mark.parametrize("kind", ["convnet", "resnet18"])
def test_backward_memory_is_that_of_what_a_pass_keeps(kind):
    (network,) = some_networks(kind, count=1, dtype=torch.float32)
    batch, kept = torch.rand(6, *network.image_shape), {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = network(batch)
    assert logits.requires_grad
    assert sum(kept.values()) <= backward_memory(network, 6) < 3 * sum(kept.values())


class Stop(Exception):
    """Ends a training in the middle."""


def stop_after(epochs: int):
    def progress(epoch: int, loss: float) -> None:
        if epoch == epochs:
            raise Stop

    return progress


def stopped_state(path: Path, settings: TrainingSettings = SETTINGS, count: int = 3) -> Path:
    """State of an ensemble that was stopped after its second epoch."""
    with pytest.raises(Stop):
        together(some_networks(count=count), *some_images(), settings, stop_after(2), path)
    assert path.is_file()
    return path


def epochs_trained(settings: TrainingSettings, state: Path, count: int = 3) -> tuple[Tensor, int]:
    """Weights of an ensemble and how many epochs it took to train it."""
    epochs = []
    weights = together(
        some_networks(count=count), *some_images(), settings, lambda epoch, _: epochs.append(epoch), state
    )
    return weights, len(epochs)


@pytest.fixture
def saved_every_epoch(monkeypatch):
    monkeypatch.setattr(training_state, "SAVE_SECONDS", 0.0)


@pytest.mark.parametrize("settings", [SETTINGS, PLAIN], ids=["averaged", "plain"])
def test_a_stopped_ensemble_goes_on_to_the_same_bits(tmp_path, saved_every_epoch, settings):
    expected = together(some_networks(), *some_images(), settings)
    weights, epochs = epochs_trained(settings, stopped_state(tmp_path / "state", settings))
    assert torch.equal(weights, expected) and epochs == 2


def test_another_ensemble_starts_anew(tmp_path, saved_every_epoch):
    expected = together(some_networks(count=2), *some_images(), SETTINGS)
    weights, epochs = epochs_trained(SETTINGS, stopped_state(tmp_path / "state"), count=2)
    assert torch.equal(weights, expected) and epochs == 4
    faster = replace(SETTINGS, lr=0.06)
    assert epochs_trained(faster, stopped_state(tmp_path / "other"))[1] == 4


def test_an_ensemble_of_other_seeds_starts_anew(tmp_path, saved_every_epoch):
    epochs, state = [], stopped_state(tmp_path / "state")
    draw = [seeded(number) for number in range(3)]
    train_ensemble(
        some_networks(),
        *some_images(),
        normalize,
        SETTINGS,
        draw,
        lambda epoch, _: epochs.append(epoch),
        state,
    )
    assert epochs == [1, 2, 3, 4]


def test_a_single_network_does_not_go_on_from_an_ensemble(tmp_path, saved_every_epoch):
    state, epochs = stopped_state(tmp_path / "state"), []
    train_classifier(
        some_networks()[0],
        *some_images(),
        normalize,
        SETTINGS,
        seeded(0),
        lambda e, _: epochs.append(e),
        state,
    )
    assert epochs == [1, 2, 3, 4]


@pytest.fixture
def scores(small_digits, monkeypatch):
    """Scores of three ConvNets trained on 20 digits, in lockstep as on a GPU or side by side."""
    distilled = random_real(small_digits.train, ipc=2, seed=0)

    def run(lockstep: bool, parts: Path | None = None) -> list[evaluation.Score]:
        monkeypatch.setattr(evaluation, "_stack", lambda trainings: lockstep)
        networks = {"ConvNet": {"name": "convnet", "depth": 2, "width": 8}}
        settings = replace(SETTINGS, epochs=20, batch_size=8)
        return score_set(distilled, small_digits, networks, 3, settings, seed=4, parts=parts)

    return run


def same(first: list[evaluation.Score], second: list[evaluation.Score]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(
        (a.network, a.repeat) == (b.network, b.repeat) and a.confusion.equal(b.confusion) for a, b in pairs
    )


def test_on_a_processor_networks_are_trained_side_by_side(small_digits, monkeypatch):
    stack, asked = evaluation._stack, []
    monkeypatch.setattr(evaluation, "_stack", lambda trainings: asked.append(stack(trainings)) or asked[-1])
    distilled = random_real(small_digits.train, ipc=1, seed=0)
    score_set(distilled, small_digits, {"ConvNet": CONVNET}, 2, replace(PLAIN, epochs=1))
    assert asked == [False]


def test_scores_are_those_of_networks_trained_side_by_side(scores):
    in_lockstep, side_by_side = scores(lockstep=True), scores(lockstep=False)
    assert [score.repeat for score in in_lockstep] == [0, 1, 2]
    for one, other in zip(in_lockstep, side_by_side, strict=True):
        moved = (one.confusion - other.confusion).abs().sum().item() / 2
        assert moved <= 0.01 * one.confusion.sum().item(), "more than rounding changes"
    assert len({score.accuracy for score in in_lockstep}) > 1


def test_an_evaluation_in_lockstep_goes_on_where_it_was_stopped(
    scores, tmp_path, saved_every_epoch, monkeypatch
):
    expected, tested = scores(lockstep=True), []

    def stop_at_the_second(*given):
        tested.append(0)
        if len(tested) == 2:
            raise Stop
        return matrix(*given)

    matrix = evaluation.confusion_matrix
    monkeypatch.setattr(evaluation, "confusion_matrix", stop_at_the_second)
    with pytest.raises(Stop):
        scores(lockstep=True, parts=tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0-0.ensemble", "0-0.score"]
    assert same(scores(lockstep=True, parts=tmp_path), expected)
    assert len(tested) == 4, "a score that was there was measured again"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0-0.score", "0-1.score", "0-2.score"]
    assert same(scores(lockstep=True, parts=tmp_path), expected) and len(tested) == 4


needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_a_gpu
def test_a_gpu_is_not_waited_for_within_an_epoch():
    networks = [network.cuda() for network in some_networks(dtype=torch.float32)]
    images, labels = (tensor.cuda() for tensor in some_images())
    ensemble = Ensemble(networks)
    optimizer = torch.optim.SGD(ensemble.parameters(), 0.1, 0.9, foreach=True)
    draw = [torch.Generator("cuda").manual_seed(number) for number in range(3)]
    drawn = [batches(images.float(), labels, normalize, SETTINGS, rng) for rng in draw]
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = _train_epoch(ensemble, optimizer, drawn, "bfloat16")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert losses.shape == (3, 3) and losses.isfinite().all()


@needs_a_gpu
def test_on_a_gpu_repeats_are_trained_in_lockstep(monkeypatch):
    data = load_data("digits", resolution=8, device="cuda")
    distilled, asked = random_real(data.train, ipc=2, seed=0), []
    stack = evaluation._stack
    monkeypatch.setattr(evaluation, "_stack", lambda trainings: asked.append(stack(trainings)) or asked[-1])
    found = score_set(distilled, data, {"ConvNet": CONVNET}, 3, SETTINGS)
    assert asked == [True]
    monkeypatch.setattr(evaluation, "_stack", lambda trainings: False)
    for one, other in zip(found, score_set(distilled, data, {"ConvNet": CONVNET}, 3, SETTINGS), strict=True):
        assert (one.confusion - other.confusion).abs().sum() <= 0.02 * one.confusion.sum()
