"""Variants of the paper's search: each differs in one part, and can be planned and run."""

import pytest
from replacing import replace

from hglad.experiments.ablations import LAST, PAPER, RELEASED, audit, parts
from hglad.experiments.presets import paper, released
from hglad.experiments.profile import changed
from hglad.search.stages import plan_stages
from hglad.settings import MetricSettings, SearchSettings

LAYERS = ("input", "L0", "L1", "L2", "pixels")
FLOPS = (8.0, 6.0, 4.0, 2.0, 0.0)
BASE = SearchSettings(steps=50, layer=1, rates="relative")
both = pytest.mark.parametrize("make", [parts, audit])


def resolved(variant) -> tuple[SearchSettings, MetricSettings]:
    return changed(BASE, variant.search, ""), changed(MetricSettings(), variant.metric, "")


def differing(first, second) -> set[str]:
    a, b = (vars(x[0]) | {f"metric.{k}": v for k, v in vars(x[1]).items()} for x in (first, second))
    return {key for key in a if a[key] != b[key]}


@both
@pytest.mark.parametrize("ipc", [1, 10])
def test_the_first_variant_is_the_paper_s_search(make, ipc):
    first = make(len(LAYERS), ipc)[0]
    assert first.name == PAPER
    assert (first.search, first.metric) == tuple(paper(len(LAYERS), ipc).values())


@both
def test_every_other_variant_differs_in_one_part(make):
    whole, *others = make(len(LAYERS))
    together = {"latent_stage", "stages"}, {"selection", "stage_start"}, {"selection", "stage_start", "clip"}
    for variant in others:
        if variant.rates_of != "hierarchical":  # without the hierarchy
            continue
        keys = differing(resolved(variant), resolved(whole))
        if variant.name != RELEASED:
            assert len(keys) == 1 or keys in together, variant.name


@both
def test_every_variant_can_be_planned_within_the_budget(make):
    for variant in make(len(LAYERS)):
        settings, _ = resolved(variant)
        table = plan_stages(variant.kind, settings, LAYERS, FLOPS)
        if settings.budget == "steps":
            assert sum(stage.steps for stage in table) == BASE.steps
        else:
            assert sum(s.steps * s.flops for s in table) == pytest.approx(50 * FLOPS[1], rel=0.05)


def test_the_same_name_means_the_same_search():
    first, second = ({v.name: v for v in make(len(LAYERS))} for make in (parts, audit))
    assert {PAPER, LAST} <= first.keys() & second.keys()
    assert all(first[name] == second[name] for name in first.keys() & second.keys())


def test_all_behaviours_together_are_the_released_code():
    *_, last = audit(len(LAYERS))
    theirs = released(len(LAYERS))
    assert last.name == RELEASED and last.metric == theirs["metric"]
    assert last.search == theirs["search"]
    settings, _ = resolved(last)
    table = plan_stages("hierarchical", replace(settings, steps=9), LAYERS)
    assert [stage.name for stage in table] == ["L0", "L1", "L2"]


def test_without_the_hierarchy_start_and_selection_stay():
    whole, *_, layer, pixels, real = parts(len(LAYERS))
    assert (real.kind, real.search) == ("pixels", {})
    assert (layer.kind, layer.rates_of, pixels.rates_of) == ("single", "single", "pixels")
    assert (layer.search, layer.metric, pixels.metric) == (whole.search, whole.metric, whole.metric)
    names = {
        variant.name: [s.name for s in plan_stages(variant.kind, resolved(variant)[0], LAYERS, FLOPS)]
        for variant in (layer, pixels)
    }
    assert names == {"GLaD's layer alone": ["L0"], "pixels alone": ["pixels"]}
