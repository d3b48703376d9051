"""Plans of experiments and their tasks: what they compute, what their keys follow from."""

from importlib import import_module

import pytest
import torch
from replacing import replace

from hglad.errors import HgladError
from hglad.evaluation.sets import DistilledSet, images_left_out
from hglad.experiments.checks import profile_of, read_profile
from hglad.experiments.plans import (
    ALL_PARTS,
    EXPERIMENTS,
    LAST,
    PRESETS,
    RELEASED,
    audit,
    baselines,
    cross_architecture,
    drop_images,
    experiment,
    glad_baseline,
    hierarchical_search,
    matching_objectives,
    metric_ablation,
    paper,
    parts,
    plan,
    preset,
    released,
    shows_images,
)
from hglad.experiments.runner import missing_tasks, required, run_all, why_missing
from hglad.experiments.store import Store
from hglad.experiments.tasks import ClassifierTask, DistillTask, EvaluateTask, ExpertTask, MeasureTask
from hglad.metrics import METRICS
from hglad.paths import PROJECT
from hglad.provenance import MODULES, older, record_of, version_of
from hglad.search.distillation import DistillationSettings, load_real
from hglad.search.stages import plan_stages
from hglad.settings import KINDS, Profile, SearchSettings, TrainingSettings
from hglad.storage import read_json

LAYERS = ("input", "L0", "L1", "L2", "pixels")


@pytest.fixture(scope="module")
def smoke() -> Profile:
    return read_profile(PROJECT / "configs" / "smoke.yaml")


# Presets and parts


@pytest.mark.parametrize("objective", ["dc", "dm", "mtt"])
@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_the_published_searches(smoke, name, objective):
    changes = preset(name, objective, 27)
    run = DistillationSettings.of(smoke, objective, "hierarchical", 1, 0, changes)
    stages = plan_stages("hierarchical", run.search, tuple(map(str, range(27))))
    steps = {"dc": 101, "dm": 11, "mtt": 101}[objective]
    assert {stage.steps for stage in stages} == {steps}
    assert [stage.layer for stage in stages] == (
        [0, *range(1, 27)] if name == "paper" else list(range(1, 26))
    )
    assert stages[1].lr_f == {"dc": 1.0, "dm": 10.0, "mtt": 1e4}[objective]
    assert stages[1].lr_w == {"dc": 0.001, "dm": 0.01, "mtt": 10.0}[objective]
    assert run.metric.name == {"paper": "class_relevant", "released": "released_feature"}[name]
    assert run.search.selection == {"paper": "metric", "released": "last"}[name]


def test_unknown_presets_are_clear_errors():
    with pytest.raises(HgladError, match="unknown preset 'papr': did you mean 'paper'?"):
        preset("papr", "dm", 5)
    with pytest.raises(HgladError, match="no published rates of objective 'dx'"):
        preset("paper", "dx", 5)
    assert paper(5, ipc=10)["search.average"] == 1 and paper(5)["search.average"] == 1000


@pytest.mark.parametrize("make", [parts, audit])
def test_every_variant_differs_in_one_part(make):
    whole, *others = make(len(LAYERS))
    assert whole.name == ALL_PARTS and whole.changes == paper(len(LAYERS))
    for variant in others:
        differs = {key for key, value in variant.changes.items() if whole.changes[key] != value}
        most = {LAST: 2, RELEASED: 7, "last iterate, features not clipped": 3}.get(variant.name, 2)
        assert 0 < len(differs) <= most or variant.kind != "hierarchical", variant.name
        settings = SearchSettings(steps=9, layer=1).changed(
            **{
                key.removeprefix("search."): v
                for key, v in variant.changes.items()
                if key.startswith("search.")
            }
        )
        assert plan_stages(variant.kind, settings, LAYERS, (4.0, 3.0, 2.0, 1.0, 0.0))
    assert len({variant.name for variant in (whole, *others)}) == len(others) + 1
    assert audit(5)[-1].changes == released(5)


# What experiments compute


def methods(tasks: list[EvaluateTask]) -> set[tuple]:
    return {(task.method, task.ipc, task.seed) for task in tasks}


def test_experiments_compute_what_their_pages_show(smoke):
    pixels = matching_objectives(smoke).evaluations
    assert {task.distilled.objective for task in pixels if task.distilled} == {"dm", "dc", "mtt"}
    assert methods(pixels) == {("pixels", 1, 0), ("random", 1, 0)}
    glad = glad_baseline(smoke)
    layers = {task.marks["layer"] for task in glad.evaluations if task.method == "single"}
    assert layers == set(range(6)) and set(glad.families) == {"digits-16-biggan"}
    assert all(task.generator == "digits-16-biggan" for task in glad.families["digits-16-biggan"])
    assert {task.method for task in hierarchical_search(smoke).evaluations} == {*KINDS, "random", "full"}
    ablation = metric_ablation(smoke)
    assert len(ablation.evaluations) == len(ablation.measures) == 1 and ablation.evaluations[0].iterates
    assert [task.variant for task in ablation.variants] == [part.name for part in parts(7)]
    crossed = cross_architecture(smoke).evaluations
    assert {task.network for task in crossed} == set(smoke.networks)
    untrained = baselines(smoke).evaluations
    assert {task.method for task in untrained} >= {"herding", "k_center", "class_mean", "samples"}
    assert {task.augmentation for task in untrained} == {None, "none"}
    assert (
        len({task.classifier.key for task in untrained if task.method == "herding"}) == 2
    )  # one for each seed
    looked_at = EXPERIMENTS.get("claims")(smoke).parts
    assert list(looked_at) == ["hierarchical_search", "cross_architecture", "metric_ablation", "baselines"]


def test_studies_limit_what_they_compute(smoke):
    values = smoke.to_dict()
    values["studies"] |= {
        "repeats": 3,
        "cross_full": False,
        "parts": [LAST],
        "experiments": ["metric_ablation"],
    }
    few = profile_of(values)
    assert [task.variant for task in metric_ablation(few).variants] == [ALL_PARTS, LAST]
    assert {task.repeats for task in metric_ablation(few).evaluations} == {3}
    full = [task.network for task in cross_architecture(few).evaluations if task.method == "full"]
    assert set(full) == {few.main_network}
    assert {task.variant for task in plan(few) if isinstance(task, EvaluateTask)} == {None, ALL_PARTS, LAST}
    assert len(plan(few)) < len(plan(smoke)) and plan(smoke, "metric_ablation")[0].rule == "classifier"
    with pytest.raises(
        HgladError, match="unknown experiment 'metric_abation': did you mean 'metric_ablation'"
    ):
        plan(smoke, "metric_abation")


def test_a_variant_takes_the_rates_of_its_search_and_glads_layer(smoke):
    values = smoke.to_dict()
    values["overrides"] = [
        {"when": {"search": "single"}, "set": {"search.layer": 3, "search.lr_features": 0.7}},
        {"when": {"search": "pixels"}, "set": {"search.lr_pixels": 0.9}},
    ]
    found = {task.variant: task.distilled.search for task in metric_ablation(profile_of(values)).variants}
    assert (found["GLaD's layer alone"].layer, found["GLaD's layer alone"].lr_features) == (3, 0.7)
    assert found["pixels alone"].lr_pixels == found["pixels from real images"].lr_pixels == 0.9
    assert found[ALL_PARTS].lr_features == 0.1 and found["as much work of the generator as GLaD"].layer == 3


def test_an_experiment_is_a_function_under_a_decorator(smoke):
    @experiment("seeds", lambda profile: len(profile.sets.seeds) > 9)
    def of_mine(profile):
        """Mine."""

    try:
        assert EXPERIMENTS.get("of_mine") is of_mine and not of_mine.fits(smoke) and of_mine.needs == "seeds"
    finally:
        del EXPERIMENTS._factories["of_mine"]


# Tasks and their keys


def test_tasks_are_required_once_and_the_first_of_equals_stays(smoke):
    first = hierarchical_search(smoke).evaluations[0]
    tasks = required([first, replace(first, variant="again")])
    assert [type(task) for task in tasks] == [ClassifierTask, DistillTask, EvaluateTask]
    assert tasks[-1].variant is None
    phases = [task.phase for task in plan(smoke)]
    assert {need.phase < task.phase for task in plan(smoke) for need in task.requires} == {True} and max(
        phases
    ) == 2


def test_every_kind_of_task_keeps_its_result_with_its_record(tiny_tasks, tiny_store):
    assert {type(task) for task in tiny_tasks} == {
        ClassifierTask, ExpertTask, DistillTask, MeasureTask, EvaluateTask
    }  # fmt: skip
    for task in tiny_tasks:
        assert task.done(tiny_store) and task.cost > 0 and task.title
        record = record_of(task.place(tiny_store))
        assert (record["key"], record["request"]) == (task.key, task.request)
        assert record["algorithms"] == task.components and not older(record["algorithms"])
    assert missing_tasks(tiny_tasks, tiny_store) == []


def test_a_key_follows_from_settings_and_algorithms(tiny_profile):
    task = next(t for t in plan(tiny_profile) if isinstance(t, EvaluateTask) and t.distilled)
    usual, run = task.key, task.distilled
    other = {
        "ipc": 2, "network": "b", "options": {"name": "convnet", "depth": 2}, "repeats": 2, "method": "m",
        "training": TrainingSettings(epochs=2), "iterates": True, "distilled": run.changed(seed=9),
    }  # fmt: skip
    assert (
        len({usual, *(replace(task, **{key: value}).key for key, value in other.items())}) == len(other) + 1
    )
    marks = {"variant": "a part", "generator": "g", "augmentation": "none"}
    assert replace(task, **marks).key == usual and replace(task, **marks).marks != task.marks
    for change in (
        {"search": run.search.changed(steps=3)}, {"metric": run.metric.changed(seed=1)}, {"objective": "dc"},
        {"surrogate": run.surrogate.changed(batch_real=9)}, {"keep_iterates": True}, {"seed": 1}, {"ipc": 2},
        {"options": {"a": 1}}, {"data": run.data.changed(resolution=9)},
    ):  # fmt: skip
        assert run.changed(**change).fingerprint != run.fingerprint
    for change in (
        {"search": run.search.changed(memory=1.0)}, {"metric": run.metric.changed(compared=())},
        {"search": run.search.changed(layer=1)},  # it has no part in pixels and in a hierarchy
    ):  # fmt: skip
        assert run.changed(**change).fingerprint == run.fingerprint or run.kind == "single"


def test_a_layer_counts_where_it_is_searched(tiny_profile):
    keys = {
        kind: {
            DistillationSettings.of(tiny_profile, "dm", kind, 1, 0, {"search.layer": n}).fingerprint
            for n in (1, 2)
        }
        for kind in KINDS
    }
    assert {kind: len(found) for kind, found in keys.items()} == {"pixels": 1, "single": 2, "hierarchical": 1}
    budget = {"search.budget": "flops"}
    runs = [
        DistillationSettings.of(tiny_profile, "dm", "hierarchical", 1, 0, budget | {"search.layer": n})
        for n in (1, 2)
    ]
    assert runs[0].fingerprint != runs[1].fingerprint


@pytest.mark.parametrize(
    ("component", "rules"),
    [
        ("search", {"distill", "measure", "evaluate"}),
        ("training", {"classifier", "experts", "distill", "measure", "evaluate"}),
        ("experts", {"experts", "distill", "evaluate"}),
        ("objective dm", {"distill", "measure", "evaluate"}),
        ("metric class_relevant", {"distill", "measure", "evaluate"}),
        ("prior stylegan_xl", {"distill", "evaluate"}),
        ("baselines", {"evaluate"}),
        ("network convnet", {"classifier", "experts", "distill", "measure", "evaluate"}),
    ],
)
def test_another_version_gives_other_keys_and_the_same_requests(
    tiny_tasks, tiny_store, monkeypatch, component, rules
):
    before = {task.key: (task.request, task.rule) for task in tiny_tasks}
    kind, _, name = component.partition(" ")
    registry = {"objective": "OBJECTIVES", "metric": "METRICS", "network": "NETWORKS", "prior": "PRIORS"}
    module = MODULES.get(component)
    if module is None:
        package = import_module(f"hglad.{kind}s")
        module = getattr(package, registry[kind]).get(name).__module__
    usual = version_of(component)
    monkeypatch.setattr(import_module(module), "VERSION", 99)
    fresh = [replace(task) for task in tiny_tasks]
    moved = [task for task, old in zip(fresh, before, strict=True) if task.key != old]
    assert {task.rule for task in moved} == rules
    assert [task.request for task in fresh] == [request for request, _ in before.values()]
    assert set(why_missing(moved, tiny_store)) == {f"{component} version {usual}, now 99"}


def test_measurements_by_class_follow_from_their_metric_always(tiny_profile):
    run = DistillationSettings.of(
        tiny_profile, "dm", "pixels", 1, 0, {"metric.name": "feature", "metric.compared": []}
    )
    assert MeasureTask(run).names == ["feature"]
    assert {"metric feature", "metric class_relevant"} <= MeasureTask(run).components.keys()


def test_versions_of_everything_that_makes_results_are_known():
    for component in (*MODULES, "objective dm", "metric feature", "network vit", "prior biggan"):
        assert isinstance(version_of(component), int)
    assert "torchvision" in version_of("network torchvision:resnet18")
    for component in ("serach", "objective dx", "network convnt"):
        with pytest.raises(HgladError, match="unknown"):
            version_of(component)
    assert older({"search": 0, "objective gone": 1}) == [
        "objective gone version 1, now not there", f"search version 0, now {version_of('search')}"
    ]  # fmt: skip


def test_a_result_that_is_new_damaged_or_left_out_is_told_apart(tiny_tasks, tmp_path):
    store, task = Store(tmp_path), next(task for task in tiny_tasks if task.rule == "classifier")
    assert why_missing([task], store) == {"new": 1}
    task.place(store).parent.mkdir(parents=True)
    task.place(store).write_bytes(b"cut")
    assert why_missing([task], store) == {"its file is damaged": 1} and not task.done(store)


def test_costs_grow_with_the_work(tiny_profile):
    task = next(t for t in plan(tiny_profile) if isinstance(t, EvaluateTask) and t.method == "random")
    run = DistillationSettings.of(tiny_profile, "dm", "single", 1, 0)
    assert replace(task, repeats=3).cost == pytest.approx(3 * task.cost / task.repeats)
    assert replace(task, options={"name": "convnet", "depth": 3, "width": 256}).cost > 2 * task.cost
    base = DistillTask(run).cost
    for change in ({"ipc": 3}, {"search": run.search.changed(steps=4)}, {"objective": "dc"}):
        assert DistillTask(run.changed(**change)).cost > 1.5 * base
    assert MeasureTask(run).cost > 0 and METRICS.names()


def test_iterates_are_evaluated_one_by_one(tiny_profile, tmp_path):
    run = DistillationSettings.of(tiny_profile, "dm", "pixels", 1, 0, keep_iterates=True)
    usual = next(t for t in plan(tiny_profile) if isinstance(t, EvaluateTask) and t.distilled)
    task, store = replace(usual, distilled=run, iterates=True), Store(tmp_path)
    run_all(required([task]), store, cores=1)
    rows = store.rows([task.key])
    history = read_json(DistillTask(run).place(store))["history"]
    assert list(zip(rows["stage"], rows["step"], strict=True)) == [tuple(moment[:2]) for moment in history]
    assert (
        rows["iterate"].tolist() == list(range(len(history))) and not store.confusion_file(task.key).exists()
    )


def test_baselines_are_made_anew_and_the_same(tiny_tasks, tiny_store):
    for task in (each for each in tiny_tasks if isinstance(each, EvaluateTask) and not each.distilled):
        data = load_real(task.data)
        first, second = (task.baseline(tiny_store, data) for _ in range(2))
        assert torch.equal(first.images, second.images), task.method


# Dropping images


def test_images_that_no_page_shows_are_dropped_and_made_again_where_they_are_read(tiny_profile, tmp_path):
    values = tiny_profile.to_dict()
    values["sets"] |= {"seeds": [0, 1], "searches": ["pixels"]}
    values["search"] = {"steps": 2, "select_every": 1}
    values["studies"] = {"experiments": ["glad_baseline"], "sweep_seeds": 1, "matching_seeds": 0}
    values["studies"] |= {"ablation_seeds": 0, "cross_seeds": 0}
    profile, store = profile_of(values), Store(tmp_path)
    run_all(plan(profile), store, cores=1)
    before, (folders, size) = store.rows(), drop_images(profile, store, remove=False)
    assert len(folders) > 0 and size > 0 and (folders[0] / "distilled.safetensors").is_file()
    images = DistilledSet.load(folders[0]).images
    assert drop_images(profile, store) == (folders, size) and images_left_out(folders[0])
    assert missing_tasks(plan(profile), store) == [] and drop_images(profile, store)[0] == []
    assert store.rows().equals(before)
    (task,) = (t for t in plan(profile) if isinstance(t, EvaluateTask) and t.distilled and t.seed == 1)
    task.place(store).unlink()
    assert [each.rule for each in missing_tasks(plan(profile), store)] == ["distill", "evaluate"]
    assert why_missing([DistillTask(task.distilled)], store) == {"its images were left out": 1}
    run_all(plan(profile), store, cores=1)
    assert torch.equal(DistilledSet.load(folders[0]).images, images)


def test_pages_show_the_first_seed_of_the_first_objective(smoke):
    values = smoke.to_dict()
    values["sets"] |= {"objectives": ["dm", "dc"], "ipc": [1, 5, 10]}
    profile = profile_of(values)

    def shown(objective: str, kind: str, ipc: int, seed: int = 0) -> bool:
        return shows_images(
            DistillTask(DistillationSettings.of(profile, objective, kind, ipc, seed)), profile
        )

    assert shown("dm", "single", 1) and shown("dc", "pixels", 1) and shown("dm", "pixels", 10)
    assert not any([shown("dm", "single", 1, 1), shown("dc", "single", 1), shown("dm", "single", 5)])
    values["data"]["show"] = False
    profile = profile_of(values)
    assert shown("dm", "single", 10) and not shown("dm", "pixels", 10)


@pytest.mark.parametrize("name", ["digits", "digits-search", "cifar10", "imagenette"])
def test_committed_results_are_those_of_the_profile(name):
    """After a change of keys the files have to be renamed; after one of algorithms, to be computed again."""
    profile, store = (
        read_profile(PROJECT / "configs" / f"{name}.yaml"),
        Store(PROJECT / "data" / "results" / name),
    )
    tasks = plan(profile)
    assert sum(task.done(store) for task in tasks if isinstance(task, EvaluateTask)) > 0.99 * sum(
        isinstance(task, EvaluateTask) for task in tasks
    )
