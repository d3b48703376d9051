"""The table of stages: budget, shares, rates, order, and the work that it takes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hglad.errors import HgladError
from hglad.experiments.cost import step_flops
from hglad.experiments.presets import PRESETS, RATES, preset, published_schedule
from hglad.priors import PixelPrior
from hglad.priors.biggan import BigGAN, BigGANSettings
from hglad.search.stages import plan_stages
from hglad.settings import SearchSettings, from_dict

LAYERS = ("input", "L0", "L1", "L2", "pixels")
FLOPS = (8.0, 6.0, 4.0, 2.0, 0.0)


def plan(kind: str = "hierarchical", flops=None, **settings):
    return plan_stages(kind, from_dict(SearchSettings, settings), LAYERS, flops)


@pytest.mark.parametrize("steps", [5, 7, 23, 100])
@pytest.mark.parametrize("stages", [(), (0,), (4,), (1, 3), (0, 2, 4)])
@pytest.mark.parametrize("kind", ["pixels", "single", "hierarchical"])
def test_stages_share_all_the_steps_in_ascending_order(kind, stages, steps):
    settings = SearchSettings(steps=steps, stages=stages, layer=2)
    table = plan_stages(kind, settings, LAYERS)
    expected = {"pixels": (4,), "single": (2,), "hierarchical": stages or (0, 1, 2, 3, 4)}[kind]
    assert tuple(stage.layer for stage in table) == expected
    assert [stage.name for stage in table] == [LAYERS[layer] for layer in expected]
    assert sum(stage.steps for stage in table) == steps
    assert max(stage.steps for stage in table) - min(stage.steps for stage in table) <= 1


def test_pixel_space_has_its_own_rate_and_no_styles():
    table = plan_stages("hierarchical", SearchSettings(lr_features=3, lr_latents=2, lr_pixels=5), LAYERS)
    assert [(stage.lr_f, stage.lr_w) for stage in table] == [(3, 2)] * 4 + [(5, 0)]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("hierarchy", {}, "unknown search 'hierarchy': expected pixels, single, hierarchical"),
        ("single", {"layer": 5}, "split point 5 does not exist: expected 0 to 4"),
        ("single", {"layer": -1}, "layer is -1: expected at least 0"),
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
        plan_stages(kind, SearchSettings(**settings), LAYERS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 0),
        ("select_every", 0),
        ("rates", "relativ"),
        ("selection", "best"),
        ("stages", (1, 1)),
        ("budget", "seconds"),
        ("stage_start", "first"),
        ("styles", "new"),
        ("shares", (1.0, 0.0)),
        ("clip", 0.0),
    ],
)
def test_impossible_settings_are_a_clear_error(key, value):
    with pytest.raises(HgladError, match=rf"{key}(\[1\])? .*: expected "):
        SearchSettings(**{key: value})


def test_the_latent_stage_comes_first_and_takes_the_place_of_the_input():
    table = plan(latent_stage=True, steps=10)
    assert [(stage.name, stage.layer) for stage in table][:2] == [("latent", 0), ("L0", 1)]
    assert [stage.only_w for stage in table] == [True, False, False, False, False]
    assert table[0].lr_f == 0 < table[0].lr_w and sum(stage.steps for stage in table) == 10
    both = plan(latent_stage=True, stages=[0, 2])
    assert [stage.name for stage in both] == ["latent", "input", "L1"]
    assert [stage.name for stage in plan("single", latent_stage=True, layer=2)] == ["L1"]


@pytest.mark.parametrize("steps", [5, 17, 140, 1001])
@pytest.mark.parametrize("shares", [(1, 1, 1, 1, 1), (1, 2, 4, 2, 1), (5.5, 1, 0.3, 1, 1), (1, 1, 1, 1, 3)])
def test_shares_divide_the_budget_in_proportion(shares, steps):
    exact = [share * steps / sum(shares) for share in shares]
    found = [stage.steps for stage in plan(shares=shares, steps=steps)]
    assert sum(found) == steps and min(found) >= 1
    off = 1 if min(exact) >= 1 else 3  # every stage has a step, whatever its share
    assert all(abs(a - b) < off for a, b in zip(found, exact, strict=True))


def test_any_order_as_long_as_pixels_end_it():
    assert [stage.layer for stage in plan(stages=[3, 0, 2, 4])] == [3, 0, 2, 4]


def test_rates_of_each_stage():
    table = plan(stages=[1, 4], stage_lr_f=[3.0, 5.0], stage_lr_w=[0.5, 0.7], latent_stage=False)
    assert [(stage.lr_f, stage.lr_w) for stage in table] == [(3.0, 0.5), (5.0, 0.0)]
    frozen = plan(stages=[0, 1, 4], styles="frozen")
    assert [stage.lr_w for stage in frozen] == [0.01, 0.0, 0.0]


def test_a_single_stage_ignores_lists_made_for_the_hierarchy():
    settings = {"shares": [1, 2], "stage_lr_f": [1, 2], "stages": [0, 4], "layer": 1}
    assert [stage.lr_f for stage in plan("single", **settings)] == [SearchSettings().lr_features]


@pytest.mark.parametrize("stages", [[0, 1, 2, 3, 4], [2], [3, 4], [1, 0], [0]])
def test_a_budget_in_flops_is_kept_whatever_the_stages(stages):
    table = plan(flops=FLOPS, stages=stages, budget="flops", steps=1000, layer=2)
    work = sum(stage.steps * stage.flops for stage in table)
    assert work == pytest.approx(1000 * FLOPS[2], rel=0.01)
    assert sum(s.steps for s in plan("single", flops=FLOPS, budget="flops", steps=7, layer=2)) == 7
    assert sum(s.steps for s in plan("pixels", flops=FLOPS, budget="flops", steps=7)) == 7


def test_the_work_of_a_step_is_what_running_it_counts(tiny_prior):
    counted = step_flops(tiny_prior)
    assert len(counted) == len(tiny_prior.layers) and counted[-1] == 0
    assert all(a > b for a, b in zip(counted[:-2], counted[1:-1], strict=True))  # finer layers are cheaper
    latents = tiny_prior.sample(torch.zeros(1, dtype=torch.long), torch.Generator().manual_seed(0))
    for layer in range(len(tiny_prior.layers) - 1):
        variables = tiny_prior.advance(latents, 0, layer).map(lambda x: x.detach().requires_grad_())
        with FlopCounterMode(display=False) as counter:
            tiny_prior.decode(variables, layer).sum().backward()
        assert counter.get_total_flops() == counted[layer]


def test_other_priors_have_their_work_counted_too(few_digits):
    assert step_flops(PixelPrior(few_digits)) == (0.0,)
    settings = BigGANSettings(
        z_dim=8, c_dim=10, img_resolution=8, img_channels=1, channel_width=4,
        layers=((False, 2, 2), (True, 2, 1)), attention_layer_position=None, n_stats=1,
    )  # fmt: skip
    counted = step_flops(BigGAN.random(settings, torch.Generator().manual_seed(0)))
    assert min(counted[:-1]) > 0 == counted[-1]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("objective", RATES)
def test_presets_are_searches(name, objective):
    changes = preset(name, len(LAYERS))["search"] | published_schedule(name, objective, len(LAYERS))
    table = plan(**changes)
    expected = {"paper": ["latent", "L0", "L1", "L2", "pixels"], "released": ["L0", "L1", "L2"]}[name]
    assert [stage.name for stage in table] == expected
    assert {stage.steps for stage in table} == {11 if objective == "dm" else 101}
    assert table[1].lr_f == RATES[objective][0] and table[1].lr_w == RATES[objective][1]


def test_averaged_latents_belong_to_one_image_per_class():
    assert [preset("paper", 5, ipc)["search"]["average"] for ipc in (1, 10)] == [1000, 1]
    assert preset("released", 5, 1)["search"]["average"] == 1


def test_an_unknown_preset_is_a_clear_error():
    with pytest.raises(HgladError, match="unknown preset 'papers': did you mean 'paper'?"):
        preset("papers", 5)
