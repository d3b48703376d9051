"""Values that are not finite: found at the next look, with the step at which they came up."""

import math

import pytest
import torch

from hglad.errors import HgladError
from hglad.metrics import create_metric
from hglad.networks import create_network
from hglad.objectives import create_objective
from hglad.priors import PixelPrior
from hglad.search import checkpoint
from hglad.search import loop as search
from hglad.search.finite import FiniteCheck
from hglad.search.loop import Search
from hglad.search.state import load_state
from hglad.settings import SearchSettings

GOOD = torch.zeros(2, 1, 3, 3)


def broken(value: float = math.nan, count: int = 1) -> torch.Tensor:
    images = GOOD.clone()
    images.view(-1)[:count] = value
    return images


def note(check: FiniteCheck, step: int, images=GOOD, loss: float = 0.5, gradient=GOOD) -> None:
    check.note(f"step {step} of stage pixels", "search.lr_pixels (3.0)", images, torch.tensor(loss), gradient)


CASES = {
    "images": ({"images": broken(count=3)}, "images are not finite at step 1 of stage pixels (3 values)"),
    "infinite images": (
        {"images": broken(math.inf)},
        "images are not finite at step 1 of stage pixels (1 val",
    ),
    "loss": ({"loss": math.nan}, "objective 'dm' has the loss nan at step 1 of stage pixels"),
    "infinite loss": ({"loss": -math.inf}, "objective 'dm' has the loss -inf at step 1 of stage pixels"),
    "gradient": (
        {"gradient": broken(-math.inf, 2)},
        "objective 'dm' has the loss 0.5, its gradient has 2 values that are not finite at step 1 of",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_first_bad_step_is_found_afterwards(case):
    values, message = CASES[case]
    check = FiniteCheck("dm", every=4)
    note(check, 0)
    note(check, 1, **values)
    note(check, 2, images=broken(), loss=math.nan)  # what follows from it
    with pytest.raises(HgladError) as error:
        note(check, 3)
    assert str(error.value).startswith(message)
    assert str(error.value).endswith("lower search.lr_pixels (3.0)") and "\n" not in str(error.value)


def test_a_look_is_taken_every_so_many_steps_or_when_asked_for():
    check = FiniteCheck("dm", every=3)
    note(check, 0, loss=math.nan)
    note(check, 1)
    with pytest.raises(HgladError, match="at step 0"):
        check.look()
    check.look()  # what was seen is done with


def test_finite_values_pass():
    check = FiniteCheck("dm", every=2)
    check.look()
    for step in range(7):
        note(check, step, torch.full_like(GOOD, 3e38), 1e38, torch.full_like(GOOD, -3e38))
    check.look()


@pytest.fixture
def make_search(few_digits):
    """Search in pixel space that looks at its values as rarely as on a GPU."""
    network = create_network("convnet", (1, 8, 8), 10, depth=2, width=4)
    metric = create_metric("class_relevant", few_digits, classifier=network)

    def make(name: str, every: int = 100, select_every: int = 100, **changes) -> Search:
        surrogate = create_network("convnet", (1, 8, 8), 10, depth=2, width=4)
        objective = create_objective(name, network=surrogate, batch_real=4)
        settings = SearchSettings(**{"steps": 12, "select_every": select_every} | changes)
        generator, labels = torch.Generator().manual_seed(0), torch.arange(10)
        run = Search(
            PixelPrior(few_digits), objective, metric, few_digits, labels, "pixels", settings, generator
        )
        run.finite.every = every
        return run

    return make


@pytest.mark.parametrize("every", [1, 4, 100])
@pytest.mark.parametrize("name", ["dm", "dc"])
def test_a_search_names_the_step_whenever_it_looks(make_search, name, every):
    run, steps = make_search(name, every, lr_pixels=1e39), []
    with pytest.raises(HgladError) as error:
        steps.extend(state.step for state in run.run())
    assert str(error.value).startswith("images are not finite at step 1 of stage pixels")
    assert str(error.value).endswith("lower search.lr_pixels (1e+39)")


class Breaks:
    """An objective whose gradient is not finite from one step on."""

    name = "breaks"
    rates = ("own_rate",)

    def __init__(self, step: int) -> None:
        self.left = step

    def gradient(self, images, labels, real, generator):
        self.left -= 1
        value = math.nan if self.left < 0 else 0.1
        return torch.full_like(images, value), {"loss": torch.tensor(1.0)}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize("every", [1, 5, 100])
def test_a_search_names_the_objective_and_the_setting(make_search, every):
    run = make_search("dm", every, lr_pixels=0.5)
    run.objective = Breaks(3)
    run.finite = FiniteCheck("breaks", every, Breaks.rates)
    with pytest.raises(HgladError) as error:
        list(run.run())
    assert str(error.value) == (
        "objective 'breaks' has the loss 1, its gradient has 640 values that are not finite at step 3 of "
        "stage pixels: lower search.lr_pixels (0.5) or own_rate"
    )


def last_saved(run: Search, path, monkeypatch):
    """Search that saves after every step until it breaks; the state in the file."""
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", -1)
    progress = checkpoint.Checkpoint(path, "key", False, "cpu")
    with pytest.raises(HgladError):
        for state in run.run():
            progress.note(state, run.finite.look)
    return load_state(path)


@pytest.mark.parametrize("every", [1, 100])
def test_the_last_saved_state_is_before_the_bad_step(make_search, tmp_path, monkeypatch, every):
    run = make_search("dm", every, lr_pixels=0.5)
    run.objective = Breaks(3)
    state = last_saved(run, tmp_path / "state", monkeypatch)
    assert state.step == 3 and state.latents.f.isfinite().all() and state.velocity.f.isfinite().all()


@pytest.mark.parametrize("every", [1, 100])
def test_images_that_a_step_broke_are_not_saved(make_search, tmp_path, monkeypatch, every):
    state = last_saved(make_search("dm", every, lr_pixels=1e39), tmp_path / "state", monkeypatch)
    assert state.step == 0 and state.latents.f.isfinite().all()


def test_a_search_looks_once_in_so_many_steps(make_search):
    run, looks = make_search("dm", search.LOOK_EVERY, lr_pixels=0.1, steps=40, select_every=100), []
    look = run.finite.look

    def counted() -> None:
        looks.append(len(run.finite.numbers))
        look()

    run.finite.look = counted
    states = run.run()
    next(states)
    looks.clear()
    for _ in range(39):
        next(states)
    assert looks == [10, 10, 10]
