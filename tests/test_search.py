"""The one loop: stages, steps against other implementations, selection, the same bits after a stop."""

import gc
import math
from itertools import count

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hglad.errors import HgladError
from hglad.metrics import create_metric
from hglad.networks import create_network, initialize
from hglad.objectives import Objective, create_objective
from hglad.objectives.dm import distribution_matching
from hglad.priors import Latents, PixelPrior
from hglad.search import loop
from hglad.search.loop import FiniteCheck, Search
from hglad.search.stages import plan_stages, step_flops
from hglad.search.state import SearchState
from hglad.settings import SearchSettings
from hglad.storage import Checkpoint

QUICK = {
    "steps": 8, "stages": (1, 2, 4), "rates": "relative", "lr_features": 0.1, "lr_latents": 0.02,
    "lr_pixels": 0.1, "select_every": 2,
}  # fmt: skip
ABSOLUTE = {"rates": "absolute", "lr_features": 1.0, "lr_latents": 0.1, "lr_pixels": 1.0}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def from_state(state: SearchState) -> torch.Generator:
    """A generator that draws what the step behind a state draws."""
    rng = seeded()
    rng.set_state(state.rng)
    return rng


def network(**options: object) -> torch.nn.Module:
    return create_network("convnet", (1, 8, 8), 10, **{"depth": 2, "width": 6} | options)


@pytest.fixture(scope="module")
def metric(few_digits):
    return create_metric("class_relevant", few_digits, classifier=network())


@pytest.fixture
def make_search(few_digits, tiny_prior, metric):
    """Search over the tiny generator (or `prior`) with DM; other keywords change the settings."""

    def make(
        kind="hierarchical", seed=0, ipc=1, prior=None, metric=metric, objective=None, **changes
    ) -> Search:
        objective = objective or create_objective(
            "dm", network=network(width=4), augmentation="color_crop_rotate", batch_real=4
        )
        labels = torch.arange(10).repeat_interleave(ipc)
        prior = prior or (PixelPrior(few_digits) if kind == "pixels" else tiny_prior)
        settings = SearchSettings(**QUICK | changes)
        return Search(prior, objective, metric, few_digits, labels, kind, settings, seeded(seed))

    return make


def tensors_of(state: SearchState) -> dict[str, torch.Tensor]:
    """All that is saved, by name and part."""
    tensors, _ = state.saved()
    parts = {name: x if isinstance(x, dict) else {"": x} for name, x in tensors.items()}
    return {f"{name}.{part}": x for name, each in parts.items() for part, x in each.items()}


def assert_same_bits(found: SearchState, expected: SearchState) -> None:
    assert found.saved()[1] == expected.saved()[1]
    assert found.loss == expected.loss or not found.logs  # a state that was read has none
    tensors, others = tensors_of(found), tensors_of(expected)
    assert tensors.keys() == others.keys()
    assert all(torch.equal(x, others[name]) for name, x in tensors.items())


# Steps


@pytest.mark.parametrize(("kind", "one_stage"), [("single", (2,)), ("pixels", ())])
def test_other_searches_are_the_hierarchy_with_one_stage(make_search, few_digits, kind, one_stage):
    prior = PixelPrior(few_digits) if kind == "pixels" else None
    fixed = list(make_search(kind, layer=2).run())
    hierarchy = list(make_search("hierarchical", prior=prior, stages=one_stage).run())
    assert len(fixed) == len(hierarchy) == 1 + QUICK["steps"]
    for a, b in zip(fixed, hierarchy, strict=True):
        assert_same_bits(a, b)


def test_pixel_steps_are_sgd_with_momentum(make_search, few_digits):
    run = make_search("pixels", ipc=2, **ABSOLUTE | {"lr_pixels": 0.3})
    states, rng = list(run.run()), seeded()
    images = few_digits.batch(2, rng).flatten(0, 1).requires_grad_()
    optimizer = torch.optim.SGD([images], lr=0.3, momentum=0.5)
    for state in states[1:]:
        images.grad, _ = run.objective.gradient(images, run.labels, few_digits, rng)
        optimizer.step()
        torch.testing.assert_close(state.latents.f, images.detach(), rtol=1e-5, atol=1e-6)


class DoublePrior:
    """The tiny generator in double precision from start to images."""

    def __init__(self, prior):
        self.single, self.double, self.layers = prior, type(prior)(prior.settings), prior.layers
        self.double.load_state_dict(prior.state_dict())
        self.double.double().eval()
        self.advance, self.decode = self.double.advance, self.double.decode

    def sample(self, labels, rng, average=1):
        return self.single.sample(labels, rng, average).map(lambda x: x.double())


@pytest.mark.parametrize("layer", range(4))
def test_a_step_follows_the_gradient_of_the_whole_loss(make_search, tiny_prior, few_digits, metric, layer):
    """A step at rate 1 without momentum is the gradient; autograd takes matching and generator at once."""
    prior = DoublePrior(tiny_prior)
    single = {"rates": "absolute", "lr_features": 1.0, "lr_latents": 1.0, "momentum": 0.0, "steps": 1}
    run = make_search(
        "single", prior=prior, metric=lambda x, y: metric(x.float(), y), layer=layer, clip=None, **single
    )
    run.objective = create_objective("dm", network=network().double(), augmentation="", batch_real=4)
    first, second = run.run()
    w, f = (x.clone().requires_grad_() for x in (first.latents.w, first.latents.f))
    images, rng = prior.decode(Latents(w, f), layer), from_state(first)
    surrogate = initialize(network().double(), rng)
    real = few_digits.normalize(few_digits.batch(4, rng).double())
    real_mean = surrogate.embed(real).mean(1)
    loss = distribution_matching(real_mean, surrogate, few_digits.normalize(images.unflatten(0, (10, 1))))
    expected = torch.autograd.grad(loss, (w, f))
    assert second.loss == pytest.approx(loss.item(), rel=1e-12)
    found = (first.latents.w - second.latents.w, first.latents.f - second.latents.f)
    for a, b in zip(found, expected, strict=True):
        assert b.norm() > 0 and (a - b).norm() / b.norm() < 1e-9


def test_distilled_images_that_the_network_sees_as_they_are(make_search, few_digits):
    plain = create_objective("dm", network=network(width=4), augmentation="", batch_real=4)
    changes = {"normalize_generated": False, "momentum": 0.0, "steps": 1, **ABSOLUTE}
    first, second = make_search("pixels", objective=plain, **changes).run()
    images, rng = first.latents.f.clone().requires_grad_(), from_state(first)
    surrogate = initialize(network(width=4), rng)
    real_mean = surrogate.embed(few_digits.normalize(few_digits.batch(4, rng))).mean(1)
    loss = distribution_matching(real_mean, surrogate, images.unflatten(0, (10, 1)))
    (gradient,) = torch.autograd.grad(loss, images)
    torch.testing.assert_close(second.latents.f, images.detach() - gradient, rtol=1e-4, atol=1e-5)


def test_a_step_of_the_latent_stage_follows_the_gradient_of_w(make_search, tiny_prior, few_digits):
    """Autograd through input features and all layers at once gives the same step."""
    run = make_search(stages=(4,), latent_stage=True, momentum=0.0, steps=2, **ABSOLUTE | {"lr_latents": 1.0})
    first, second = (state for state, _ in zip(run.run(), range(2), strict=False))
    assert set(first.latents.tensors()) == {"w"}
    w = first.latents.w.clone().requires_grad_()
    images = tiny_prior.decode(tiny_prior.start(w), 0)
    image_gradient, _ = run.objective.gradient(images.detach(), run.labels, few_digits, from_state(first))
    (expected,) = torch.autograd.grad(images, w, image_gradient)
    torch.testing.assert_close(second.latents.w, w.detach() - expected)


def test_rates_are_shares_of_the_norm_or_as_they_are(make_search):
    states = list(make_search(lr_features=0.1, lr_latents=0.02, lr_pixels=0.03).run())
    for stage, shares in enumerate([(0.02, 0.1), (0.02, 0.1), (0.03,)]):
        before, after, *rest = [state for state in states if state.stage == stage]
        for share, (name, x) in zip(shares, before.latents.tensors().items(), strict=True):
            moved = (after.latents.tensors()[name] - x).norm() / x.norm()
            assert moved.item() == pytest.approx(share, rel=1e-4)
        assert {state.rates for state in rest} <= {after.rates} and before.rates is None
    states = list(make_search(**ABSOLUTE).run())
    assert {state.rates for state in states if state.stage < 2 and state.step} == {(0.1, 1.0)}
    assert {state.rates for state in states if state.stage == 2 and state.step} == {(1.0,)}


def test_weights_of_the_generator_move_with_the_latents(make_search, tiny_prior):
    before = {name: x.clone() for name, x in tiny_prior.named_parameters()}
    states = list(make_search(stages=(1, 3, 4), lr_weights=0.05, steps=6, clip=None, **ABSOLUTE).run())
    for stage, layer in ((0, 1), (1, 3)):
        first, *rest = [state for state in states if state.stage == stage]
        assert first.latents.weights.keys() == tiny_prior.weights(layer).keys()
        for name, start in first.latents.weights.items():
            assert (rest[-1].latents.weights[name] - start).norm() > 0
            assert torch.equal(start, before[name]) or stage > 0
        assert stage == 0 or any(
            not torch.equal(x, before[name]) for name, x in first.latents.weights.items()
        )
    assert all(torch.equal(x, before[name]) for name, x in tiny_prior.named_parameters())
    assert states[-1].latents.weights == {}  # pixels have none


# The start, and where a stage begins


def first_of(states: list[SearchState], stage: int) -> SearchState:
    return next(state for state in states if state.stage == stage)


def test_the_start(make_search, tiny_prior):
    usual, same, other = (
        next(make_search(ipc=2, labels=labels).run()).latents.w
        for labels in ((), tuple(range(10)), (3, 1, *range(8)))
    )
    assert torch.equal(same, usual) and not torch.equal(other, usual)
    drawn = tiny_prior.sample(torch.tensor([3, 1, *range(8)]).repeat_interleave(2), seeded()).w
    assert torch.equal(other, drawn)
    averaged = next(make_search(average=3).run()).latents.w
    assert torch.equal(averaged, tiny_prior.sample(torch.arange(10), seeded(), 3).w)


def test_gaussian_features_have_the_moments_of_the_generated_ones(make_search):
    generated, noise = (
        next(make_search("single", layer=2, ipc=20, features=kind, clip=None).run()).latents
        for kind in ("generated", "gaussian")
    )
    assert torch.equal(generated.w, noise.w)
    for moment in (torch.mean, torch.std):
        expected, found = (moment(x.f, dim=(0, 2, 3)) for x in (generated, noise))
        torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1 * generated.f.std().item())
    correlation = torch.corrcoef(torch.stack([generated.f.flatten(), noise.f.flatten()]))[0, 1]
    assert abs(correlation) < 0.9  # what is left is that channels have their means


@pytest.mark.parametrize("start", ["best", "last"])
def test_the_iterate_that_the_next_stage_starts_from(make_search, tiny_prior, start):
    calls = count()  # every later iterate is worse
    run = make_search(stages=(1, 3), stage_start=start, clip=None, metric=lambda x, y: next(calls))
    states = list(run.run())
    last_of_first, second = [state for state in states if state.stage == 0][-1], first_of(states, 1)
    assert torch.equal(last_of_first.stage_best.w, states[0].latents.w)
    source = last_of_first.stage_best if start == "best" else last_of_first.latents
    assert torch.equal(second.latents.f, tiny_prior.advance(source, 1, 3).f)
    assert second.distance == last_of_first.distance  # the best of all stages is kept either way
    assert second.step == 0 and second.rates is None
    assert not any(x.any() for x in second.velocity.tensors().values())


@pytest.mark.parametrize("stages", [(3, 1), (1, 4)])
def test_features_follow_from_w_again_at_a_coarser_stage_and_after_the_latent_one(
    make_search, tiny_prior, stages
):
    states = list(make_search(stages=stages, latent_stage=stages == (1, 4), clip=None).run())
    best = [state for state in states if state.stage == 0][-1].stage_best
    assert torch.equal(first_of(states, 1).latents.f, tiny_prior.advance(Latents(best.w, None), 0, 1).f)


@pytest.mark.parametrize("styles", ["kept", "redrawn", "frozen"])
def test_styles_where_a_later_stage_begins(make_search, styles):
    states = list(make_search(stages=(1, 3), styles=styles, steps=6).run())
    best = [state for state in states if state.stage == 0][-1].stage_best
    second = [state for state in states if state.stage == 1]
    taken_over = torch.equal(second[0].latents.w, best.w)
    moved = not torch.equal(second[0].latents.w, second[-1].latents.w)
    assert (taken_over, moved) == (styles != "redrawn", styles != "frozen")


@pytest.mark.parametrize("clip", [0.05, 0.5])
def test_features_are_bounded_where_a_stage_begins_and_that_is_recorded(make_search, tiny_prior, clip):
    free, bounded = (
        [state for state in make_search(clip=value, steps=3).run() if state.step == 0]
        for value in (None, clip)
    )
    for one, other in zip(bounded[:-1], free[:-1], strict=True):
        assert other.latents.f.abs().max() > clip == pytest.approx(one.latents.f.abs().max().item())
    assert bounded[-1].latents.w is None  # pixel space has no styles and no bounds
    assert bounded[-1].latents.f.max() > clip
    assert [row[1:] for row in free[-1].boundaries] == [(0.0, 0, 0.0)] * 2
    before = tiny_prior.advance(tiny_prior.sample(torch.arange(10), seeded()), 0, 1)
    after = Latents(before.w, before.f.clamp(-clip, clip))
    torch.testing.assert_close(bounded[0].latents.f, after.f)
    change = (tiny_prior.decode(before, 1) - tiny_prior.decode(after, 1)).square().mean().sqrt().item()
    share = (before.f.abs() > clip).float().mean().item()
    assert bounded[-1].boundaries[0] == (0, pytest.approx(share), 0, pytest.approx(change, rel=1e-5))
    assert [row[0] for row in bounded[-1].boundaries] == [0, 1]


class Undefined:
    """The tiny generator with one feature that is not a number at split point 1."""

    def __init__(self, prior):
        self.prior, self.layers = prior, prior.layers
        self.sample, self.decode, self.weights = prior.sample, prior.decode, prior.weights

    def advance(self, latents, src, dst):
        latents = self.prior.advance(latents, src, dst)
        latents.f[0, 0, 0, 0] = math.nan if dst == 1 else latents.f[0, 0, 0, 0]
        return latents


def test_features_that_are_not_a_number_become_zero_or_stop_the_run(make_search, tiny_prior):
    prior = Undefined(tiny_prior)
    first = next(make_search(prior=prior, stages=(1, 3)).run())
    index, clipped, invalid, change = first.boundaries[0]
    assert first.latents.f[0, 0, 0, 0] == 0 and (index, clipped, invalid) == (0, 0.0, 1) and change > 0
    with pytest.raises(HgladError, match="not finite at step 0 of stage L0"):
        next(make_search(prior=prior, stages=(1, 3), nan_to_zero=False).run())


# Selection


@pytest.mark.parametrize("select_every", [1, 3, 10])
def test_the_history_has_every_measured_iterate_once(make_search, select_every):
    run = make_search(select_every=select_every)
    states = list(run.run())
    order = [(i, step) for i, stage in enumerate(run.stages) for step in range(stage.steps + 1)]
    assert [(state.stage, state.step) for state in states] == order
    assert [run.steps_done(state) for state in states] == [3 * i + step for i, step in order]
    due = [
        (index, step) for index, step in order if step % select_every == 0 or step == run.stages[index].steps
    ]
    assert [entry[:2] for entry in states[-1].history] == due
    assert [(state.stage, state.step) for state in states if state.measured] == due
    for state in states:
        assert state.measured == (state.decoded is not None)
        assert not state.measured or state.history[-1][2] == run.metric(state.decoded, run.labels)
    assert len(run.measuring) == len(due) and min(run.measuring) > 0


def test_the_best_of_all_stages_is_kept(make_search):
    run = make_search(select_every=1, **ABSOLUTE | {"lr_features": 30.0, "lr_pixels": 10.0})
    states = list(run.run())
    stage, step, distance = min(states[-1].history, key=lambda entry: entry[2])
    assert (states[-1].distance, states[-1].best) == (distance, (stage, step))
    (best,) = [state for state in states if (state.stage, state.step) == (stage, step)]
    assert torch.equal(states[-1].images, best.decoded)
    assert (stage, step) != states[-1].history[-1][:2], "the last one is the best"


def test_selection_can_keep_the_last_iterate(make_search):
    settings = ABSOLUTE | {"lr_features": 30.0, "lr_pixels": 10.0, "selection": "last"}
    *_, last = make_search(**settings).run()
    assert torch.equal(last.images, last.decoded) and (*last.best, last.distance) == last.history[-1]
    assert last.distance > min(distance for _, _, distance in last.history)


@pytest.mark.parametrize("kind", ["pixels", "hierarchical"])
def test_a_selected_iterate_is_a_copy(make_search, kind):
    """Neither later steps nor writing over the latents, as an optimizer in place would, changes it."""
    kept = []
    for state in make_search(kind, select_every=1, **ABSOLUTE).run():
        kept.append((state, state.images.clone(), state.stage_best.detach(), state.latents.detach()))
    for state, images, stage_best, latents in kept:
        assert torch.equal(state.images, images) and torch.equal(state.stage_best.f, stage_best.f)
        assert torch.equal(state.latents.f, latents.f)
    for state, images, stage_best, _ in kept:
        state.latents.map(lambda x: x.fill_(torch.nan))
        assert torch.equal(state.images, images) and torch.equal(state.stage_best.f, stage_best.f)


# The same bits


@pytest.mark.parametrize("kind", ["pixels", "single", "hierarchical"])
def test_the_same_seed_gives_the_same_bits(make_search, kind):
    before = torch.random.get_rng_state()
    first, second = (list(make_search(kind, layer=1).run()) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert_same_bits(a, b)
    *_, other = make_search(kind, layer=1, seed=1).run()
    assert not torch.allclose(other.images, first[-1].images)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("norm", ["", "instance", "batch"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"selection": "last"}, {"stages": (), **ABSOLUTE}, {"lr_weights": 0.01, "features": "gaussian"}],
)
def test_a_run_continues_from_every_step_with_the_same_bits(make_search, tmp_path, changes, norm):
    """Gradient matching trains one network over several steps: a stop between them does not lose it."""
    if norm and changes:
        pytest.skip("once for each network")

    def run(seed: int = 0) -> Search:
        options = {"outer_loops": 3, "inner_loops": 2, "lr_network": 0.1, "batch_real": 4}
        dc = create_objective("dc", network=network(width=4, norm=norm), **options) if norm else None
        return make_search(seed=seed, objective=dc, **changes)

    states = list(run().run())
    assert {int(state.objective.get("position", 0)) for state in states} == ({0, 1, 2} if norm else {0})
    for index, state in enumerate(states):
        if norm and index % 4 == 0:  # stops between the loops of one network, and behind the last one
            continue
        tensors, plain = state.saved()
        Checkpoint(tmp_path / "state", "key").save(tensors, force=True, **plain)
        loaded = SearchState.restored(*Checkpoint(tmp_path / "state", "key").load(), "cpu")
        assert_same_bits(loaded, state)
        rest = list(run(seed=99).run(loaded))
        assert len(rest) == len(states) - 1 - index
        assert_same_bits(rest[-1] if rest else loaded, states[-1])


def test_memory_does_not_grow_with_the_steps(make_search):
    """Tensors alive while a search runs: as many at its end as at its beginning."""
    counts = []
    for index, state in enumerate(make_search(stages=(1,), steps=60).run()):
        if index in (6, 56):  # of the same phase between two measurements
            gc.collect()
            counts.append(sum(type(x) is torch.Tensor for x in gc.get_objects()))
        del state
    assert counts[1] < counts[0] + 10  # fewer than one in five steps


# Less at a time


class Small:
    """A prior that refuses more than so many images from a call on, as a device without memory does."""

    def __init__(self, prior, most: int, first: int = 0) -> None:
        self.prior, self.most, self.first, self.refused, self.calls = prior, most, first, 0, 0
        self.layers, self.sample, self.advance, self.weights = (
            prior.layers,
            prior.sample,
            prior.advance,
            prior.weights,
        )

    def decode(self, latents, layer):
        self.calls += 1
        if self.calls > self.first and len(latents) > self.most:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.prior.decode(latents, layer)


def assert_close(found: SearchState, expected: SearchState) -> None:
    torch.testing.assert_close(found.images, expected.images, rtol=1e-3, atol=1e-4)
    assert [entry[:2] for entry in found.history] == [entry[:2] for entry in expected.history]


@pytest.mark.parametrize(("most", "first", "refused"), [(3, 0, 2), (3, 6, 2), (1, 9, 3)])
def test_a_search_goes_on_with_less_at_a_time(make_search, tiny_prior, most, first, refused):
    """Parts of 10, 5, 2 and 1 images are tried; then it knows."""
    prior = Small(tiny_prior, most, first)
    (*_, expected), (*_, found) = make_search().run(), make_search(prior=prior).run()
    assert prior.refused == refused
    assert_close(found, expected)


@pytest.mark.parametrize("name", ["dm", "dc"])
def test_the_surrogate_gets_less_at_a_time_as_well(make_search, name):
    """80 real images on a device that has room for a few: the step is taken again from the same draws."""

    def run(most: int) -> tuple[SearchState, int]:
        own, refused = network(width=4), []

        def check(module, inputs) -> None:
            if len(inputs[0]) > most:
                refused.append(len(inputs[0]))
                raise torch.OutOfMemoryError("CUDA out of memory")

        own.features[0].register_forward_pre_hook(check)
        search = make_search(objective=create_objective(name, network=own, batch_real=8))
        *_, last = search.run()
        return last, len(refused)

    (expected, none), (found, refused) = run(1000), run(10 if name == "dm" else 2)
    assert none == 0 and refused >= 2
    assert_close(found, expected)


def test_halves_are_taken_down_to_one_image_where_no_network_has_more(make_search, tiny_prior):
    prior = Small(tiny_prior, 1)
    *_, found = make_search(prior=prior, objective=Breaks(1000)).run()
    *_, expected = make_search(objective=Breaks(1000)).run()
    assert prior.refused == 3
    assert_close(found, expected)


def test_a_search_that_does_not_fit_is_one_line(make_search, tiny_prior):
    states = []
    with pytest.raises(HgladError) as error:
        states.extend(make_search(prior=Small(tiny_prior, 0, 9)).run())
    assert states and str(error.value) == (
        f"out of memory with one image at a time: {loop.ADVICE}, or take a device with more memory"
    )


# Values that are not finite


class Breaks(Objective):
    """An objective whose gradient is not finite from one step on."""

    name = "breaks"
    rates = ("own_rate",)

    def __init__(self, step: int = 0) -> None:
        self.left = step

    def gradient(self, images, labels, real, rng):
        self.left -= 1
        value = math.nan if self.left < 0 else 0.1
        return torch.full_like(images, value), {"loss": torch.tensor(1.0)}


GOOD = torch.zeros(2, 1, 3, 3)


def broken(value: float = math.nan, number: int = 1) -> torch.Tensor:
    images = GOOD.clone()
    images.view(-1)[:number] = value
    return images


def note(check: FiniteCheck, step: int, images=GOOD, loss: float = 0.5, gradient=GOOD) -> None:
    check.note(f"step {step} of stage pixels", "search.lr_pixels (3.0)", images, torch.tensor(loss), gradient)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"images": broken(number=3)},
            "images are not finite at step 1 of stage pixels (3 values): lower search",
        ),
        ({"images": broken(math.inf)}, "images are not finite at step 1 of stage pixels (1 values)"),
        ({"loss": math.nan}, "objective 'breaks' has the loss nan at step 1 of stage pixels"),
        ({"loss": -math.inf}, "objective 'breaks' has the loss -inf at step 1 of stage pixels"),
        (
            {"gradient": broken(-math.inf, 2)},
            "objective 'breaks' has the loss 0.5, its gradient has 2 values that are not finite at step 1 of",
        ),
    ],
)
def test_the_first_bad_step_is_found_at_the_next_look(values, message):
    check = FiniteCheck(Breaks(), every=4)
    note(check, 0, torch.full_like(GOOD, 3e38), 1e38)
    note(check, 1, **values)
    note(check, 2, images=broken(), loss=math.nan)  # what follows from it
    with pytest.raises(HgladError) as error:
        note(check, 3)
    assert str(error.value).startswith(message) and "lower search.lr_pixels (3.0)" in str(error.value)
    check.look()  # what was seen is done with


@pytest.mark.parametrize("every", [1, 5, 100])
@pytest.mark.parametrize(
    ("objective", "rate", "message"),
    [
        (
            None,
            1e39,
            "images are not finite at step 1 of stage pixels (640 values): lower search.lr_pixels (1e+39)",
        ),
        (
            Breaks(3),
            0.5,
            "objective 'breaks' has the loss 1, its gradient has 640 values that are not finite at step 3 of "
            "stage pixels: lower search.lr_pixels (0.5) or own_rate",
        ),
    ],
)
def test_a_search_names_step_objective_and_setting(make_search, every, objective, rate, message):
    if objective:
        objective.left = 3
    changes = ABSOLUTE | {"lr_pixels": rate, "steps": 12, "select_every": 100}
    run = make_search("pixels", objective=objective, **changes)
    run.finite.every = every
    states = []
    with pytest.raises(HgladError) as error:
        states.extend(run.run())
    assert str(error.value) == message
    assert [state.step for state in states if state.finite] == list(range(4 if objective else 1))


@pytest.mark.parametrize(("kind", "key"), [("single", "lr_features"), ("hierarchical", "lr_latents")])
def test_the_setting_at_fault_is_that_of_the_stage(make_search, kind, key):
    run = make_search(kind, layer=2, latent_stage=True, **ABSOLUTE | {key: 1e39})
    with pytest.raises(HgladError, match=rf"lower search\.{key} \(1e\+39\)"):
        list(run.run())


# The table of stages

LAYERS = ("input", "L0", "L1", "L2", "pixels")
FLOPS = (8.0, 6.0, 4.0, 2.0, 0.0)


def plan(kind: str = "hierarchical", flops=None, **settings):
    return plan_stages(kind, SearchSettings(**settings), LAYERS, flops)


@pytest.mark.parametrize("steps", [5, 7, 23, 100])
@pytest.mark.parametrize("stages", [(), (0,), (4,), (1, 3), (3, 0, 2, 4)])
@pytest.mark.parametrize("kind", ["pixels", "single", "hierarchical"])
def test_stages_share_all_the_steps_in_the_given_order(kind, stages, steps):
    table = plan(kind, steps=steps, stages=stages, layer=2)
    expected = {"pixels": (4,), "single": (2,), "hierarchical": stages or (0, 1, 2, 3, 4)}[kind]
    assert tuple(stage.layer for stage in table) == expected
    assert [stage.name for stage in table] == [LAYERS[layer] for layer in expected]
    assert sum(stage.steps for stage in table) == steps
    assert max(stage.steps for stage in table) - min(stage.steps for stage in table) <= 1


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("hierarchy", {}, "unknown search 'hierarchy': expected pixels, single, hierarchical"),
        ("single", {"layer": 5}, "split point 5 does not exist: expected 0 to 4"),
        ("hierarchical", {"stages": (2, 9)}, "split point 9 does not exist"),
        (
            "hierarchical",
            {"stages": (4, 2)},
            r"search.stages is \[4, 2\]: expected 4, pixel space, at the end",
        ),
        ("hierarchical", {"shares": (1.0, 2.0)}, "search.shares .*a number for each of the 5 stages"),
        ("hierarchical", {"stage_lr_w": (1.0,)}, "search.stage_lr_w .*a number for each of the 5 stages"),
        ("hierarchical", {"budget": "flops"}, "the work of this prior is not known"),
        ("hierarchical", {"steps": 4}, "search.steps is 4: expected at least one for each of the 5 stages"),
    ],
)
def test_impossible_stages_are_a_clear_error(kind, settings, message):
    with pytest.raises(HgladError, match=message):
        plan(kind, **settings)


def test_the_latent_stage_comes_first_and_takes_the_place_of_the_input():
    table = plan(latent_stage=True, steps=10)
    assert [(stage.name, stage.layer) for stage in table][:2] == [("latent", 0), ("L0", 1)]
    assert [stage.only_w for stage in table] == [True, False, False, False, False]
    assert table[0].lr_f == 0 < table[0].lr_w and sum(stage.steps for stage in table) == 10
    both = plan(latent_stage=True, stages=(0, 2))
    assert [stage.name for stage in both] == ["latent", "input", "L1"]
    assert [stage.name for stage in plan("single", latent_stage=True, layer=2)] == ["L1"]
    alone = plan_stages("hierarchical", SearchSettings(latent_stage=True), ("pixels",))
    assert [(stage.name, stage.lr_w) for stage in alone] == [("latent", 0), ("pixels", 0)]


@pytest.mark.parametrize("steps", [5, 17, 140, 1001])
@pytest.mark.parametrize("shares", [(1, 1, 1, 1, 1), (1, 2, 4, 2, 1), (5.5, 1, 0.3, 1, 1), (1, 1, 1, 1, 3)])
def test_shares_divide_the_budget_in_proportion(shares, steps):
    exact = [share * steps / sum(shares) for share in shares]
    found = [stage.steps for stage in plan(shares=shares, steps=steps)]
    assert sum(found) == steps and min(found) >= 1
    off = 1 if min(exact) >= 1 else 3  # every stage has a step, whatever its share
    assert all(abs(a - b) < off for a, b in zip(found, exact, strict=True))


def test_remainders_go_to_the_largest_fractions():
    assert [stage.steps for stage in plan(shares=(1, 2, 4, 2, 1), steps=14)] == [1, 3, 6, 3, 1]
    assert [stage.steps for stage in plan(shares=(20, 1, 1, 1, 1), steps=9)] == [5, 1, 1, 1, 1]


def test_rates_of_each_stage():
    table = plan(lr_features=3, lr_latents=2, lr_pixels=5)
    assert [(stage.lr_f, stage.lr_w) for stage in table] == [(3, 2)] * 4 + [(5, 0)]
    table = plan(stages=(1, 4), stage_lr_f=(3.0, 5.0), stage_lr_w=(0.5, 0.7))
    assert [(stage.lr_f, stage.lr_w) for stage in table] == [(3.0, 0.5), (5.0, 0.0)]
    assert [stage.lr_w for stage in plan(stages=(0, 1, 4), styles="frozen")] == [0.01, 0.0, 0.0]
    lists = {"shares": (1, 2), "stage_lr_f": (1, 2), "stage_lr_w": (3, 4), "stages": (0, 4), "layer": 1}
    assert [(stage.lr_f, stage.lr_w) for stage in plan("single", **lists)] == [(10.0, 0.01)]


@pytest.mark.parametrize("stages", [(0, 1, 2, 3, 4), (2,), (3, 4), (1, 0), (0,)])
def test_a_budget_in_flops_is_kept_whatever_the_stages(stages):
    table = plan(flops=FLOPS, stages=stages, budget="flops", steps=1000, layer=2)
    assert sum(stage.steps * stage.flops for stage in table) == pytest.approx(1000 * FLOPS[2], rel=0.01)
    assert sum(s.steps for s in plan("single", flops=FLOPS, budget="flops", steps=7, layer=2)) == 7
    assert sum(s.steps for s in plan("pixels", flops=FLOPS, budget="flops", steps=7)) == 7


def test_the_edges_of_a_budget_in_flops():
    assert [s.steps for s in plan(flops=FLOPS, stages=(4,), budget="flops", steps=7, layer=2)] == [7]
    few = plan(flops=(100.0, 1.0, 1.0, 1.0, 0.0), stages=(0, 1), budget="flops", steps=4, layer=3)
    assert [stage.steps for stage in few] == [1, 1]  # no stage without a step
    with pytest.raises(HgladError, match="search.layer is 4: expected 0 to 3, where a generator works"):
        plan(flops=FLOPS, budget="flops", layer=4)


def test_the_work_of_a_step_is_what_running_it_counts(tiny_prior, few_digits):
    counted = step_flops(tiny_prior)
    assert len(counted) == len(tiny_prior.layers) and counted[-1] == 0
    latents = tiny_prior.sample(torch.zeros(1, dtype=torch.long), seeded())
    for layer in range(len(tiny_prior.layers) - 1):
        variables = tiny_prior.advance(latents, 0, layer).map(lambda x: x.detach().requires_grad_())
        with FlopCounterMode(display=False) as counter:
            tiny_prior.decode(variables, layer).sum().backward()
        assert counter.get_total_flops() == counted[layer] > 0
    assert step_flops(PixelPrior(few_digits)) == (0.0,)
