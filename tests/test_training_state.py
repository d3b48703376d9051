"""A training that was stopped, once or many times, ends with the bits of one that was left alone."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hglad.evaluation import training_state
from hglad.evaluation.training import TrainingSettings, train_classifier
from hglad.networks import create_network
from hglad.storage import read_metadata

NETWORKS = {
    "convnet": {"name": "convnet", "depth": 2, "width": 4},
    "batch norm": {"name": "convnet", "depth": 2, "width": 4, "norm": "batch"},
    "dropout": {"name": "vit", "depth": 1, "dim": 8, "heads": 2, "head_dim": 4, "mlp": 8, "dropout": 0.3},
}
SETTINGS = TrainingSettings(epochs=9, batch_size=8, lr=0.05, ema_decay=0.7)
LAST = replace(SETTINGS, ema_decay=None)
ONCE = "convnet", SETTINGS


class Stop(BaseException):
    """Ends a training from inside, as an interrupt does."""


@pytest.fixture
def save_always(monkeypatch):
    """Save after every epoch."""
    monkeypatch.setattr(training_state, "SAVE_SECONDS", 0)


def unchanged(images: torch.Tensor) -> torch.Tensor:
    return images


def train(
    kind: str,
    settings: TrainingSettings,
    state: Path | None = None,
    normalize: Callable = unchanged,
    progress: Callable | None = None,
) -> dict[str, torch.Tensor]:
    """Weights and buffers after a training from fixed seeds, and the state of its generator."""
    rng = torch.Generator().manual_seed(3)
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    network = create_network(image_shape=(1, 8, 8), classes=10, rng=rng, **NETWORKS[kind])
    labels = torch.arange(20) % 10
    trained = train_classifier(network, images, labels, normalize, settings, rng, progress, state)
    return {**trained.state_dict(), "generator": rng.get_state()}


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def stopping(batches: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A normalisation that stops the training at its batch of that number, in the middle of an epoch."""
    left = iter(range(batches))

    def normalize(images: torch.Tensor) -> torch.Tensor:
        if next(left, None) is None:
            raise Stop
        return images

    return normalize


@pytest.mark.parametrize(
    "settings", [SETTINGS, LAST, replace(LAST, momentum=0.0)], ids=["average", "last weights", "no momentum"]
)
@pytest.mark.parametrize("kind", NETWORKS)
def test_stops_at_random_moments_change_no_bit(kind, settings, tmp_path, monkeypatch):
    undisturbed, moments, epochs, stops = train(kind, settings), random.Random(kind), [], 0

    def progress(epoch: int, loss: float) -> None:
        epochs.append(epoch)
        monkeypatch.setattr(training_state, "SAVE_SECONDS", moments.choice([0, 1e9]))  # not every epoch

    for _ in range(50):
        torch.manual_seed(moments.randrange(100))  # another process has another global state
        try:
            # 1 to 4 of the 9 epochs: a training that began anew each time would never end
            trained = train(
                kind, settings, tmp_path / "a.training", stopping(moments.randint(5, 12)), progress
            )
            break
        except Stop:
            stops += 1
    assert same_bits(trained, undisturbed)
    assert stops >= 2 and set(epochs) == {*range(1, 10)}


@pytest.mark.parametrize("kind", NETWORKS)
def test_going_on_leaves_the_global_random_state_as_it_was(kind, tmp_path, save_always):
    state = tmp_path / "a.training"
    with pytest.raises(Stop):
        train(kind, SETTINGS, state, stopping(10))
    torch.manual_seed(77)
    before = torch.get_rng_state()
    train(kind, SETTINGS, state)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stop_behind_the_last_epoch_trains_no_more(tmp_path, save_always):
    state = tmp_path / "a.training"
    trained = train(*ONCE, state)
    assert read_metadata(state)["epochs"] == "9"
    assert same_bits(train(*ONCE, state, stopping(0)), trained)


def test_nothing_is_written_before_its_time(tmp_path, monkeypatch):
    state = tmp_path / "a.training"
    train(*ONCE, state)  # within the minute
    assert not list(tmp_path.iterdir())
    now = [0.0]
    monkeypatch.setattr(training_state.time, "monotonic", lambda: now[0])
    found = []

    def progress(epoch: int, loss: float) -> None:
        found.append(state.is_file() and read_metadata(state)["epochs"])
        now[0] += 25

    train(*ONCE, state, progress=progress)
    assert found == [False] * 3 + ["4"] * 3 + ["7"] * 3  # of 75 and 150 seconds: once a minute


def spoil(state: Path, how: str) -> None:
    content = state.read_bytes()
    if how == "something else":
        save_file({"weight": torch.zeros(3)}, state, {"key": read_metadata(state)["key"], "epochs": "5"})
        return
    damaged = {
        "truncated": content[: len(content) // 2],
        "header": content[:20],
        "empty": b"",
        "text": b"not tensors\n" * 100,
    }
    state.write_bytes(damaged[how])


@pytest.mark.parametrize("how", ["truncated", "header", "empty", "text", "something else"])
def test_a_damaged_state_is_not_gone_on_with(how, tmp_path, save_always):
    state = tmp_path / "a.training"
    with pytest.raises(Stop):
        train(*ONCE, state, stopping(17))
    spoil(state, how)
    epochs = []
    assert same_bits(train(*ONCE, state, progress=lambda epoch, loss: epochs.append(epoch)), train(*ONCE))
    assert epochs == list(range(1, 10))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("convnet", replace(SETTINGS, lr=0.06)),
        ("convnet", LAST),
        ("convnet", replace(SETTINGS, epochs=4)),
        ("batch norm", SETTINGS),
        ("dropout", SETTINGS),
    ],
)
def test_the_state_of_another_training_is_not_gone_on_with(kind, settings, tmp_path, save_always):
    state = tmp_path / "a.training"
    with pytest.raises(Stop):
        train(*ONCE, state, stopping(17))
    assert same_bits(train(kind, settings, state), train(kind, settings))


def test_a_wider_network_does_not_take_the_weights_of_a_narrow_one(tmp_path, save_always, monkeypatch):
    state = tmp_path / "a.training"
    with pytest.raises(Stop):
        train(*ONCE, state, stopping(17))
    monkeypatch.setitem(NETWORKS, "convnet", NETWORKS["convnet"] | {"width": 5})
    assert same_bits(train(*ONCE, state), train(*ONCE))
