"""The one loop: stages, steps against other implementations, selection, the same bits after a stop."""

import gc
from itertools import count, pairwise

import pytest
import torch
from replacing import replace

from hglad.data import augmentation as augment
from hglad.errors import HgladError
from hglad.evaluation import training
from hglad.experiments.presets import preset
from hglad.metrics import create_metric
from hglad.networks import create_network, initialize
from hglad.objectives import create_objective
from hglad.objectives.dm import distribution_matching
from hglad.priors import Latents, PixelPrior
from hglad.priors.stylegan_xl import StyleGANXL
from hglad.search.loop import Search
from hglad.search.state import SearchState, load_state, save_state
from hglad.settings import SearchSettings
from hglad.storage import read_metadata, read_tensors

QUICK = {
    "steps": 8,
    "stages": (1, 2, 4),
    "rates": "relative",
    "lr_features": 0.1,
    "lr_latents": 0.02,
    "lr_pixels": 0.1,
    "select_every": 2,
}
ABSOLUTE = {"rates": "absolute", "lr_features": 1.0, "lr_latents": 0.1, "lr_pixels": 1.0}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(**options: int) -> torch.nn.Module:
    return create_network("convnet", (1, 8, 8), 10, **{"depth": 2, "width": 6} | options)


@pytest.fixture(scope="module")
def metric(few_digits):
    return create_metric("class_relevant", few_digits, classifier=network())


@pytest.fixture
def make_search(few_digits, tiny_prior, metric):
    """Search over the tiny generator (or `prior`) with DM; other keywords change the settings."""

    def make(
        kind: str = "hierarchical",
        seed: int = 0,
        ipc: int = 1,
        prior=None,
        metric=metric,
        objective=None,
        **changes,
    ) -> Search:
        objective = objective or create_objective(
            "dm", network=network(width=4), augmentation="color_crop_rotate", batch_real=4
        )
        labels = torch.arange(10).repeat_interleave(ipc)
        prior = prior or (PixelPrior(few_digits) if kind == "pixels" else tiny_prior)
        settings = SearchSettings(**QUICK | changes)
        return Search(prior, objective, metric, few_digits, labels, kind, settings, seeded(seed))

    return make


def tensors_of(state: SearchState) -> list[torch.Tensor]:
    names = ("latents", "velocity", "stage_best")
    return [*(x for name in names for x in getattr(state, name).tensors().values()), state.images, state.rng]


def plain_of(state: SearchState) -> list:
    names = ("stage", "step", "rates", "stage_distance", "distance", "best", "history")
    return [getattr(state, name) for name in names]


def assert_same_bits(found: SearchState, expected: SearchState) -> None:
    assert plain_of(found) == plain_of(expected)
    assert found.loss == expected.loss or not found.logs  # a state that was read has none
    assert found.objective.keys() == expected.objective.keys()
    assert all(torch.equal(value, expected.objective[name]) for name, value in found.objective.items())
    for a, b in zip(tensors_of(found), tensors_of(expected), strict=True):
        assert torch.equal(a, b)


def test_a_fixed_layer_is_the_hierarchy_with_one_stage(make_search):
    fixed, hierarchy = (
        list(make_search(kind, layer=2, stages=(2,)).run()) for kind in ("single", "hierarchical")
    )
    assert len(fixed) == len(hierarchy) == 1 + QUICK["steps"]
    for a, b in zip(fixed, hierarchy, strict=True):
        assert_same_bits(a, b)


def test_pixels_are_the_hierarchy_over_the_identity(make_search, few_digits):
    pixels = list(make_search("pixels").run())
    hierarchy = list(make_search("hierarchical", prior=PixelPrior(few_digits), stages=()).run())
    for a, b in zip(pixels, hierarchy, strict=True):
        assert_same_bits(a, b)


def test_pixel_steps_are_sgd_with_momentum(make_search, few_digits):
    run = make_search("pixels", ipc=2, **ABSOLUTE | {"lr_pixels": 0.3})
    states = list(run.run())
    generator = seeded()
    images = few_digits.batch(2, generator).flatten(0, 1).requires_grad_()
    optimiser = torch.optim.SGD([images], lr=0.3, momentum=0.5)
    gradients = []
    for state in states[1:]:
        images.grad, _ = run.objective.gradient(images, run.labels, few_digits, generator)
        gradients.append(images.grad.clone())
        optimiser.step()
        torch.testing.assert_close(state.latents.f, images.detach(), rtol=1e-5, atol=1e-6)
    start, first, second = (state.latents.f for state in states[:3])
    torch.testing.assert_close(first, start - 0.3 * gradients[0])
    torch.testing.assert_close(second, first - 0.3 * (0.5 * gradients[0] + gradients[1]))


class DoublePrior:
    """The tiny generator in double precision from start to images."""

    def __init__(self, prior):
        self.single, self.double, self.layers = prior, type(prior)(prior.settings), prior.layers
        self.double.load_state_dict(prior.state_dict())
        self.double.build_matrices()
        self.double.double().eval()
        self.advance, self.decode = self.double.advance, self.double.decode

    def sample(self, labels, generator, average=1):
        return self.single.sample(labels, generator, average).map(lambda x: x.double())


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
    images = prior.decode(Latents(w, f), layer)
    generator = seeded()
    generator.set_state(first.rng)
    surrogate = initialize(network().double(), generator)
    real = few_digits.normalize(few_digits.batch(4, generator).double())
    real_mean = surrogate.embed(real).mean(1)
    loss = distribution_matching(real_mean, surrogate, few_digits.normalize(images.unflatten(0, (10, 1))))
    expected = torch.autograd.grad(loss, (w, f))
    found = (first.latents.w - second.latents.w, first.latents.f - second.latents.f)
    assert second.loss == pytest.approx(loss.item(), rel=1e-12)
    for a, b in zip(found, expected, strict=True):
        assert b.norm() > 0 and (a - b).norm() / b.norm() < 1e-9


def test_the_next_stage_starts_from_the_same_images(make_search):
    states = list(make_search(selection="last", clip=None, **ABSOLUTE).run())
    changes = [(a, b) for a, b in zip(states, states[1:], strict=False) if b.stage > a.stage]
    assert len(changes) == 2
    for before, after in changes:
        assert after.step == 0 and after.rates is None
        torch.testing.assert_close(after.decoded, before.decoded, rtol=1e-5, atol=1e-6)
        assert not any(x.any() for x in after.velocity.tensors().values())


def test_the_next_stage_starts_from_the_best_of_the_last_one(make_search, tiny_prior):
    run = make_search(clip=None, select_every=1, steps=9, lr_features=2.0, lr_latents=0.5)
    states = list(run.run())
    later = 0
    for before, after in zip(states, states[1:], strict=False):
        if after.stage == before.stage:
            continue
        distances = [distance for stage, _, distance in before.history if stage == before.stage]
        assert before.stage_distance == min(distances)
        later += distances[-1] > min(distances)
        best = tiny_prior.decode(before.stage_best, run.stages[before.stage].layer)
        torch.testing.assert_close(after.decoded, best, rtol=1e-5, atol=1e-6)
    assert later, "no stage ended behind its best iterate: this test needs one"


@pytest.mark.parametrize("clip", [0.05, 0.5])
def test_features_are_bounded_where_a_stage_begins(make_search, clip):
    starts = [state for state in make_search(clip=clip, steps=3).run() if state.step == 0]
    free = [state for state in make_search(clip=None, steps=3).run() if state.step == 0]
    for bounded, unbounded in zip(starts[:-1], free[:-1], strict=True):
        assert unbounded.latents.f.abs().max() > clip == pytest.approx(bounded.latents.f.abs().max().item())
    assert starts[-1].latents.w is None  # pixel space has no styles and no bounds
    assert starts[-1].latents.f.max() > clip


def test_the_first_bounded_features_are_those_of_the_prior(make_search, tiny_prior):
    run = make_search(clip=0.5)
    start = next(run.run())
    features = tiny_prior.advance(tiny_prior.sample(run.labels, seeded()), 0, 1).f
    torch.testing.assert_close(start.latents.f, features.clamp(-0.5, 0.5))


def test_relative_rates_move_by_a_share_of_the_norm(make_search):
    states = list(make_search(lr_features=0.1, lr_latents=0.02, lr_pixels=0.03).run())
    for stage, (share_w, share_f) in enumerate([(0.02, 0.1), (0.02, 0.1), (None, 0.03)]):
        before, after, *rest = [state for state in states if state.stage == stage]
        moved = (after.latents.f - before.latents.f).norm() / before.latents.f.norm()
        assert moved.item() == pytest.approx(share_f, rel=1e-4)
        if share_w:
            moved = (after.latents.w - before.latents.w).norm() / before.latents.w.norm()
            assert moved.item() == pytest.approx(share_w, rel=1e-4)
        assert {state.rates for state in rest} <= {after.rates} and before.rates is None


def test_absolute_rates_are_taken_as_they_are(make_search):
    states = list(make_search(**ABSOLUTE).run())
    assert {state.rates for state in states if state.stage < 2 and state.step} == {(0.1, 1.0)}
    assert {state.rates for state in states if state.stage == 2 and state.step} == {(1.0,)}


def test_labels_choose_the_classes_of_the_generator(make_search, tiny_prior):
    usual, same, other = (
        next(make_search(ipc=2, labels=labels).run()).latents.w
        for labels in ((), tuple(range(10)), (3, 1, *range(8)))
    )
    assert torch.equal(same, usual) and not torch.equal(other, usual)
    drawn = tiny_prior.sample(torch.tensor([3, 1, *range(8)]).repeat_interleave(2), seeded()).w
    assert torch.equal(other, drawn)


def test_gaussian_features_have_the_moments_of_the_generated_ones(make_search):
    generated, noise = (
        next(make_search("single", layer=2, ipc=20, features=kind, clip=None).run()).latents
        for kind in ("generated", "gaussian")
    )
    assert torch.equal(generated.w, noise.w) and not torch.equal(generated.f, noise.f)
    for moment in (torch.mean, torch.std):
        expected, found = (moment(x.f, dim=(0, 2, 3)) for x in (generated, noise))
        torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1 * generated.f.std().item())
    correlation = torch.corrcoef(torch.stack([generated.f.flatten(), noise.f.flatten()]))[0, 1]
    assert abs(correlation) < 0.9  # what is left is that channels have their means


def test_weights_of_the_generator_move_with_the_latents(make_search, tiny_prior):
    before = {name: x.clone() for name, x in tiny_prior.named_parameters()}
    states = list(make_search(stages=(1, 3, 4), lr_weights=0.05, steps=6, clip=None, **ABSOLUTE).run())
    for stage, layer in ((0, 1), (1, 3)):
        first, *rest = [state for state in states if state.stage == stage]
        assert first.latents.weights.keys() == tiny_prior.weights(layer).keys()
        for name, start in first.latents.weights.items():
            moved = (rest[-1].latents.weights[name] - start).norm()
            assert moved > 0
            if stage == 0:
                assert torch.equal(start, before[name])
    second = next(state for state in states if state.stage == 1).latents.weights
    assert any(not torch.equal(second[name], before[name]) for name in second)
    assert all(torch.equal(x, before[name]) for name, x in tiny_prior.named_parameters())
    assert states[-1].latents.weights == {}  # pixels have none


@pytest.mark.parametrize("kind", ["single", "hierarchical"])
def test_a_small_budget_of_memory_gives_the_same_search(make_search, kind):
    usual, small = (list(make_search(kind, memory=memory).run())[-1] for memory in (None, 1e-9))
    torch.testing.assert_close(small.images, usual.images, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("select_every", [1, 2, 3, 10])
def test_the_history_has_every_measured_iterate_once(make_search, select_every):
    run = make_search(select_every=select_every)
    states = list(run.run())
    expected = []
    for index, stage in enumerate(run.stages):
        steps = [s for s in range(stage.steps + 1) if s % select_every == 0 or s == stage.steps]
        expected += [(index, step) for step in steps]
    assert [entry[:2] for entry in states[-1].history] == expected
    assert [(state.stage, state.step) for state in states if state.measured] == expected
    for state in states:
        assert state.measured == (state.decoded is not None)
        if state.measured:
            assert state.history[-1][2] == run.metric(state.decoded, run.labels)


def test_every_step_is_yielded(make_search):
    run = make_search()
    order = [(state.stage, state.step) for state in run.run()]
    assert order == [(i, step) for i, stage in enumerate(run.stages) for step in range(stage.steps + 1)]


def test_the_best_of_all_stages_is_kept(make_search):
    run = make_search(select_every=1, **ABSOLUTE | {"lr_features": 30.0, "lr_pixels": 10.0})
    states = list(run.run())
    stage, step, distance = min(states[-1].history, key=lambda entry: entry[2])
    assert (states[-1].distance, states[-1].best) == (distance, (stage, step))
    (best,) = [state for state in states if (state.stage, state.step) == (stage, step)]
    assert torch.equal(states[-1].images, best.decoded)
    assert run.metric(states[-1].images, run.labels) == distance
    assert (stage, step) != states[-1].history[-1][:2], "the last one is the best"


def test_selection_can_keep_the_last_iterate(make_search):
    settings = ABSOLUTE | {"lr_features": 30.0, "lr_pixels": 10.0, "selection": "last"}
    *_, last = make_search(**settings).run()
    assert torch.equal(last.images, last.decoded)
    assert (*last.best, last.distance) == last.history[-1]
    assert last.distance > min(distance for _, _, distance in last.history)


@pytest.mark.parametrize("kind", ["pixels", "hierarchical"])
def test_a_selected_iterate_is_a_copy(make_search, kind):
    """Neither later steps nor writing over the latents, as an optimiser in place would, changes it."""
    kept = []
    for state in make_search(kind, select_every=1, **ABSOLUTE).run():
        kept.append((state, state.images.clone(), state.stage_best.detach(), state.latents.detach()))
    for state, images, stage_best, latents in kept:
        assert torch.equal(state.images, images) and torch.equal(state.stage_best.f, stage_best.f)
        assert torch.equal(state.latents.f, latents.f)
    for state, images, stage_best, _ in kept:
        state.latents.map(lambda x: x.fill_(torch.nan))
        assert torch.equal(state.images, images) and torch.equal(state.stage_best.f, stage_best.f)


@pytest.mark.parametrize("kind", ["pixels", "single", "hierarchical"])
def test_the_same_seed_gives_the_same_bits(make_search, kind):
    before = torch.random.get_rng_state()
    first, second = (list(make_search(kind, layer=1).run()) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert_same_bits(a, b)
    *_, other = make_search(kind, layer=1, seed=1).run()
    assert not torch.allclose(other.images, first[-1].images)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"selection": "last"},
        {"stages": (0, 3), "clip": None},
        {"stages": (), **ABSOLUTE},
        {"lr_weights": 0.01, "features": "gaussian"},
    ],
)
def test_a_run_continues_from_every_step_with_the_same_bits(make_search, tmp_path, changes):
    states = list(make_search(**changes).run())
    for index, state in enumerate(states):
        save_state(tmp_path / "state", state, {}, {})
        loaded = load_state(tmp_path / "state")
        assert_same_bits(loaded, state)
        rest = list(make_search(seed=99, **changes).run(loaded))
        assert len(rest) == len(states) - 1 - index
        assert_same_bits(rest[-1] if rest else loaded, states[-1])


@pytest.mark.parametrize("kind", ["pixels", "hierarchical"])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_a_run_continues_with_the_network_of_its_objective(make_search, tmp_path, norm, kind):
    """Gradient matching trains one network over several steps: a stop between them does not lose it."""

    def run(seed: int = 0) -> Search:
        options = {"outer_loops": 3, "inner_loops": 2, "lr_network": 0.1, "batch_real": 4}
        objective = create_objective("dc", network=network(width=4, norm=norm), **options)
        return make_search(kind, seed, objective=objective)

    states = list(run().run())
    assert {int(state.objective.get("position", 0)) for state in states} == {0, 1, 2}
    for index, state in enumerate(states):
        save_state(tmp_path / "state", state, {}, {})
        loaded = load_state(tmp_path / "state")
        assert_same_bits(loaded, state)
        rest = list(run(seed=99).run(loaded))
        assert len(rest) == len(states) - 1 - index
        assert_same_bits(rest[-1] if rest else loaded, states[-1])


def test_a_saved_state_carries_what_the_caller_adds(make_search, tmp_path):
    state = next(make_search().run())
    save_state(tmp_path / "state", state, {"more": torch.ones(3)}, {"key": "abc"})
    assert torch.equal(read_tensors(tmp_path / "state")["more"], torch.ones(3))
    assert read_metadata(tmp_path / "state")["key"] == "abc"


@pytest.mark.parametrize("select_every", [1, 5])
@pytest.mark.parametrize(
    ("kind", "key", "stage"), [("pixels", "lr_pixels", "pixels"), ("single", "lr_features", "L1_12_8")]
)
def test_images_that_are_not_finite_stop_the_search(make_search, kind, key, stage, select_every):
    run = make_search(kind, layer=2, select_every=select_every, **ABSOLUTE | {key: 1e39})
    with pytest.raises(HgladError) as error:
        list(run.run())
    assert str(error.value) == (
        f"images are not finite at step 1 of stage {stage} (640 values): lower search.{key} (1e+39)"
    )


def stage_starts(run: Search) -> list[SearchState]:
    return [state for state in run.run() if state.step == 0]


def test_the_latent_stage_optimises_w_alone(make_search, tiny_prior):
    run = make_search(stages=(1, 4), latent_stage=True, steps=9, clip=None, momentum=0.0, **ABSOLUTE)
    states = list(run.run())
    latent = [state for state in states if state.stage == 0]
    assert all(set(state.latents.tensors()) == {"w"} for state in latent)
    assert [stage.name for stage in run.stages] == ["latent", tiny_prior.layers[1], "pixels"]
    assert not torch.equal(latent[0].latents.w, latent[-1].latents.w)
    second = next(state for state in states if state.stage == 1)
    expected = tiny_prior.advance(Latents(latent[-1].stage_best.w, None), 0, 1).f
    torch.testing.assert_close(second.latents.f, expected)


def test_a_step_of_the_latent_stage_follows_the_gradient_of_w(make_search, tiny_prior, few_digits):
    """Autograd through input features and all layers at once gives the same step."""
    run = make_search(stages=(4,), latent_stage=True, momentum=0.0, steps=2, **ABSOLUTE | {"lr_latents": 1.0})
    first, second = (state for state, _ in zip(run.run(), range(2), strict=False))
    w = first.latents.w.clone().requires_grad_()
    images = tiny_prior.decode(tiny_prior.start(w), 0)
    generator = seeded()
    generator.set_state(first.rng)
    image_gradient, _ = run.objective.gradient(images.detach(), run.labels, few_digits, generator)
    (expected,) = torch.autograd.grad(images, w, image_gradient)
    torch.testing.assert_close(second.latents.w, w.detach() - expected)


def test_a_coarser_stage_starts_from_w_again(make_search, tiny_prior):
    run = make_search(stages=(3, 1), clip=None)
    states = list(run.run())
    last_of_first = [state for state in states if state.stage == 0][-1]
    second = next(state for state in states if state.stage == 1)
    expected = tiny_prior.advance(Latents(last_of_first.stage_best.w, None), 0, 1).f
    assert torch.equal(second.latents.f, expected)


@pytest.mark.parametrize("styles", ["kept", "redrawn", "frozen"])
def test_styles_where_a_later_stage_begins(make_search, styles):
    states = list(make_search(stages=(1, 3), styles=styles, steps=6).run())
    last_of_first = [state for state in states if state.stage == 0][-1]
    second = [state for state in states if state.stage == 1]
    taken_over = torch.equal(second[0].latents.w, last_of_first.stage_best.w)
    moved = not torch.equal(second[0].latents.w, second[-1].latents.w)
    assert (taken_over, moved) == (styles != "redrawn", styles != "frozen")


@pytest.mark.parametrize("start", ["best", "last"])
def test_the_iterate_that_the_next_stage_starts_from(make_search, tiny_prior, start):
    calls = count()  # every later iterate is worse
    run = make_search(stages=(1, 3), stage_start=start, clip=None, metric=lambda x, y: next(calls))
    states = list(run.run())
    last_of_first = [state for state in states if state.stage == 0][-1]
    assert torch.equal(last_of_first.stage_best.w, states[0].latents.w)
    source = last_of_first.stage_best if start == "best" else last_of_first.latents
    second = next(state for state in states if state.stage == 1)
    assert torch.equal(second.latents.f, tiny_prior.advance(source, 1, 3).f)
    assert second.distance == last_of_first.distance  # the best of all stages is kept either way


def test_what_bounding_the_features_does_is_recorded(make_search, tiny_prior):
    free, bounded = (stage_starts(make_search(clip=clip, steps=3)) for clip in (None, 0.5))
    assert [row[1:] for row in free[-1].boundaries] == [(0.0, 0, 0.0)] * 2  # pixels have none
    first = bounded[-1].boundaries[0]
    before = free[0].latents
    after = Latents(before.w, before.f.clamp(-0.5, 0.5))
    change = (tiny_prior.decode(before, 1) - tiny_prior.decode(after, 1)).square().mean().sqrt()
    assert first[0] == 0 and first[1] == pytest.approx((before.f.abs() > 0.5).float().mean().item())
    assert first[2] == 0 and first[3] == pytest.approx(change.item(), rel=1e-5)


class Undefined:
    """The tiny generator with one feature that is not a number at split point 1."""

    def __init__(self, prior):
        self.prior, self.layers = prior, prior.layers
        self.sample, self.decode, self.weights = prior.sample, prior.decode, prior.weights

    def advance(self, latents, src, dst):
        latents = self.prior.advance(latents, src, dst)
        latents.f[0, 0, 0, 0] = float("nan") if dst == 1 else latents.f[0, 0, 0, 0]
        return latents


def test_features_that_are_not_a_number_become_zero_or_stop_the_run(make_search, tiny_prior):
    prior = Undefined(tiny_prior)
    first = next(make_search(prior=prior, stages=(1, 3)).run())
    assert first.latents.f[0, 0, 0, 0] == 0 and first.boundaries[0][2] == 1
    with pytest.raises(HgladError, match="not finite at step 0 of stage L0"):
        next(make_search(prior=prior, stages=(1, 3), nan_to_zero=False).run())


def test_distilled_images_that_the_network_sees_as_they_are(make_search, few_digits):
    plain = create_objective("dm", network=network(width=4), augmentation="", batch_real=4)
    changes = {"normalise_generated": False, "momentum": 0.0, "steps": 1, **ABSOLUTE}
    first, second = make_search("pixels", objective=plain, **changes).run()
    generator = seeded()
    generator.set_state(first.rng)
    images = first.latents.f.clone().requires_grad_()
    surrogate = initialize(network(width=4), generator)
    real_mean = surrogate.embed(few_digits.normalize(few_digits.batch(4, generator))).mean(1)
    loss = distribution_matching(real_mean, surrogate, images.unflatten(0, (10, 1)))
    (gradient,) = torch.autograd.grad(loss, images)
    torch.testing.assert_close(second.latents.f, images.detach() - gradient, rtol=1e-4, atol=1e-5)


def test_everything_that_is_optimised_stays_in_single_precision(make_search, tiny_settings):
    prior = StyleGANXL.random(tiny_settings, seeded()).requires_grad_(False).set_precision("bfloat16")
    *_, last = make_search(prior=prior, stages=(1, 3)).run()
    assert all(x.dtype == torch.float32 for x in tensors_of(last)[:-1])  # the last one is the generator's


def test_memory_does_not_grow_with_the_steps(make_search):
    """Tensors alive while a search runs: as many at its end as at its beginning."""
    counts = []
    for index, state in enumerate(make_search(stages=(1,), steps=60).run()):
        if index in (6, 56):  # of the same phase between two measurements
            gc.collect()
            counts.append(sum(type(x) is torch.Tensor for x in gc.get_objects()))
        del state
    assert counts[1] < counts[0] + 10  # fewer than one in five steps


def test_as_released_the_best_iterate_is_the_last(make_search):
    """Audit of the released code: its history holds references, so its best iterate is always the last."""
    calls = count()  # every later iterate is worse
    changes = preset("released", 5)["search"]
    states = list(make_search(**changes | {"steps": 9}, metric=lambda x, y: next(calls)).run())
    last = states[-1]
    assert last.best == (2, 3) and torch.equal(last.images, last.decoded)
    assert last.distance > min(distance for *_, distance in last.history)
    for before, after in pairwise(states):
        if after.step == 0:
            assert torch.equal(after.latents.w, before.latents.w)  # and every stage starts from the last


def test_searching_brings_the_set_closer(make_search):
    for kind in ("pixels", "single", "hierarchical"):
        start = {"prior": None} if kind != "pixels" else {}
        *_, last = make_search(kind, layer=2, steps=30, **start).run()
        assert last.distance < 0.8 * last.history[0][2]


GOLDEN_SEARCH = {  # sum of the images and of their squares, distance, loss
    "pixels": {1: [196.65127, 189.08446, 0.01161600, 2.9616406]},
    "single": {1: [304.66965, 156.18185, 0.07677453, 41.729916]},
    "hierarchical": {1: [314.17798, 167.21091, 0.09538054, 41.558723]},
}


@pytest.mark.parametrize("kind", GOLDEN_SEARCH)
def test_golden_values_of_the_search(make_search, check_golden, kind):
    *_, last = make_search(kind, layer=2).run()
    found = [last.images.sum().item(), last.images.square().sum().item(), last.distance, last.loss]
    check_golden("search", GOLDEN_SEARCH[kind], found)


GOLDEN_AUGMENT = {1: [81.906097, 76.326302, 81.665276, 96.171875, 87.508057, 88.225845]}


def test_golden_values_of_the_augmentation(check_golden):
    generator, found = seeded(), []
    images = torch.rand(3, 2, 8, 8, generator=generator)
    weights = torch.rand(3, 2, 8, 8, generator=generator)
    for strategy in augment.DSA.split("_"):
        transform = augment.Augmentation(strategy).draw(3, (8, 8), generator)
        found.append((transform(images) * weights).sum().item())
    check_golden("augment", GOLDEN_AUGMENT, found)


GOLDEN_TRAINING = {1: [0.32160839, 0.72143054]}


def test_golden_values_of_the_training(check_golden, few_digits):
    settings = training.TrainingSettings(epochs=4, batch_size=40, lr=0.05, ema_decay=0.5)
    trained = training.train_classifier(
        network(), few_digits.images, few_digits.labels, few_digits.normalize, settings, seeded()
    )
    logits = trained(few_digits.normalize(few_digits.images / 255)).detach()
    found = [logits.square().mean().item(), logits.gather(1, few_digits.labels[:, None]).mean().item()]
    check_golden("training", GOLDEN_TRAINING, found)


def test_states_are_never_changed(make_search):
    state = next(make_search().run())
    with pytest.raises(AttributeError):
        state.step = 3
    assert replace(state, step=3).step == 3 and state.step == 0
