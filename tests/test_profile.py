"""Profiles: overrides in their order, contradictions found when a profile is read, every value explained."""

import re
from copy import deepcopy

import pytest
import yaml

from hglad.errors import HgladError
from hglad.experiments import open_experiment
from hglad.experiments.checks import check_profile, explain, profile_of, read_profile, summary
from hglad.experiments.plans import EXPERIMENTS, experiments_of, glad_layer
from hglad.paths import PROJECT, results_folder
from hglad.search.distillation import DistillationSettings
from hglad.settings import Profile, set_values

CONFIGS = PROJECT / "configs"
DIGITS = yaml.safe_load((CONFIGS / "digits.yaml").read_text())
SMOKE = yaml.safe_load((CONFIGS / "smoke.yaml").read_text())
PIXELS = {"prior": None, "sets.searches": ["pixels"], "studies": {"sweep_seeds": 0}, "overrides": []}


def changed(values: dict, changes: dict) -> dict:
    """A copy of the values of a profile with those at dotted keys replaced."""
    values = deepcopy(values)
    set_values(values, deepcopy(changes))
    return values


def override(when: dict, **values) -> dict:
    return {"when": when, "set": {key.replace("__", "."): value for key, value in values.items()}}


# Overrides


def test_overrides_hold_for_their_runs_and_the_last_word_counts():
    overrides = [
        override({"objective": "dc"}, search__steps=50, surrogate__augmentation="flip"),
        override({"objective": ["dm", "dc"], "search": "single"}, search__steps=60, search__layer=2),
        override({"ipc": 10}, search__average=1, search__steps=70),
        override({"network": "VGG-11"}, evaluation__training__lr=0.5),
        override({"objective": "dc"}, evaluation__training__lr=0.2, evaluation__training__epochs=4),
        override({"network": "AlexNet"}, evaluation__training__lr=0.3),
    ]
    profile = profile_of(DIGITS | {"overrides": overrides})

    def steps(**run) -> int:
        return profile.resolved(**run).search.steps

    assert steps() == steps(objective="dm", search="pixels", ipc=1) == profile.search.steps == 140
    assert steps(objective="dc", search="pixels", ipc=1) == 50
    assert steps(objective="dc", search="single", ipc=1) == steps(objective="dm", search="single") == 60
    assert steps(objective="dc", search="single", ipc=10) == 70
    assert profile.resolved(objective="dc").surrogate.augmentation == "flip"
    found = {(n, o): profile.training(n, objective=o) for n in profile.networks for o in ("dm", "dc")}
    usual = profile.evaluation.training
    assert {key: (each.lr, each.epochs) for key, each in found.items() if key[0] != "ResNet-18"} == {
        ("ConvNet-3", "dm"): (usual.lr, usual.epochs),
        ("ConvNet-3", "dc"): (0.2, 4),
        ("VGG-11", "dm"): (0.5, usual.epochs),
        ("VGG-11", "dc"): (0.2, 4),  # what comes later holds
        ("AlexNet", "dm"): (0.3, usual.epochs),
        ("AlexNet", "dc"): (0.3, 4),
    }
    assert glad_layer(profile) == glad_layer(profile, "dc") == 2 and glad_layer(profile, "mtt") == 4


def test_a_run_is_the_resolved_profile_with_changes_at_last():
    profile = read_profile(CONFIGS / "digits.yaml")
    run = DistillationSettings.of(profile, "dc", "hierarchical", 10, 3, {"search.steps": 9, "metric.seed": 4})
    assert (run.search.stages, run.search.lr_pixels, run.search.steps) == ((0, 2, 4, 6), 0.155, 9)
    assert (run.surrogate.augmentation, run.metric.seed, run.prior) == ("", 4, "digits-16")
    assert (run.ipc, run.seed, run.options) == (10, 3, {"outer_loops": 1, "inner_loops": 1})
    assert run.experts is None and DistillationSettings.of(profile, "mtt", "pixels", 1, 0).experts.count == 4
    pixels = DistillationSettings.of(
        profile, "dm", "pixels", 1, 0, {"search.average": 1000, "search.layer": 2}
    )
    assert (pixels.prior, pixels.search.lr_pixels) == ("pixels", 0.0534)
    assert pixels.search == pixels.search.without_generator()
    with pytest.raises(HgladError, match="unknown key 'sets': expected one below search, surrogate"):
        DistillationSettings.of(profile, "dm", "pixels", 1, 0, {"sets.ipc": [1]})
    with pytest.raises(HgladError, match="search.average is 5 at 10 images per class"):
        DistillationSettings.of(profile, "dm", "single", 10, 0, {"search.average": 5})
    alone = profile_of(changed(SMOKE, PIXELS | {"search": {}}))
    with pytest.raises(HgladError, match="'smoke' has no prior for the search 'single': take pixels"):
        DistillationSettings.of(alone, "dm", "single", 1, 0)


def test_changes_have_the_last_word_and_take_what_they_leave_no_run_for_with_them():
    values = changed(SMOKE, {"sets.ipc": [1, 10], "sets.seeds": [0, 1, 2]})
    values["overrides"] += [
        override({"objective": "dm"}, search__steps=8),
        override({"ipc": 10}, search__select_every=2),
        override({"ipc": [1, 10]}, search__select_every=3),
    ]
    values["objectives"]["mtt"]["ipc"] = [1]
    changes = {"search.steps": 9, "sets.ipc": [10], "sets.seeds": [5], "evaluation.protocol": "dc"}
    profile = profile_of(values, changes)
    run = DistillationSettings.of(profile, "dm", "single", 10, 5)
    assert (run.search.steps, run.search.select_every) == (9, 3) and profile.ipcs("mtt") == (10,)
    assert profile.evaluation.protocol == "dc" and profile.studies.cross_seeds == 1
    assert [each.when.ipc for each in profile.overrides] == [(), (), (10,), (10,), ()]
    assert values["objectives"]["mtt"]["ipc"] == [1]  # the values that were given stay


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"serach": {}}, "unknown key 'serach': did you mean 'search'?"),
        ({"search.step": 3}, "unknown key 'search.step': did you mean 'steps'?"),
        ({"profile": "a/b"}, "profile is 'a/b': expected letters, digits"),
        ({"networks": {}}, "networks is {}: expected at least 1"),
        ({"networks": {3: {"name": "convnet"}}}, "networks has the key 3: expected text, in quotes"),
        ({"networks.A": {"name": "resnet"}}, "networks.A.name has 'resnet': did you mean 'resnet18'?"),
        ({"sets.objectives": []}, "sets.objectives is []: expected at least 1"),
        ({"sets.objectives": ["dn"]}, "sets.objectives has 'dn': "),
        ({"sets.ipc": 1}, "sets.ipc is 1 (int): expected a list"),
        ({"sets.ipc": [0]}, "sets.ipc[0] is 0: expected at least 1"),
        ({"sets.seeds": [0, 1, 0]}, "sets.seeds has 0 twice: expected every value once"),
        ({"sets.seed": [1]}, "unknown key 'sets.seed': did you mean 'seeds'?"),
        ({"objectives.dn": {}}, "objectives has 'dn': "),
        ({"objectives.dc.options": {"inner_loop": 1}}, "unknown key 'objectives.dc.options.inner_loop': did"),
        ({"objectives.dc.options": {"inner_loops": "1"}}, "objectives.dc.options.inner_loops is '1': expect"),
        ({"objectives.dm.ipc": [2]}, "objectives.dm.ipc has 2, which is not among sets.ipc: expected one of"),
        ({"objectives.dm.experts": {}}, "objectives.dm.experts is set, but dm takes none: remove it"),
        ({"objectives.mtt": {}}, "objectives.mtt.experts is missing: mtt matches trajectories of networks"),
        ({"objectives.mtt.experts": {"epochs": 4}}, "objectives.mtt.experts.epochs is 4: a start below 4 an"),
        ({"surrogate.network.name": "convnt"}, "surrogate.network.name has 'convnt': did you mean 'convnet"),
        ({"surrogate.network.dept": 3}, "unknown key 'surrogate.network.dept': did you mean 'depth'?"),
        ({"surrogate.network.depth": "3"}, "surrogate.network.depth is '3': expected int"),
        ({"metric.network.name": "timm:no_such"}, "metric.network: "),
        ({"metric.name": "features"}, "metric has 'features': did you mean 'feature'?"),
        ({"metric.compared": ["featur"]}, "metric has 'featur': did you mean 'feature'?"),
        ({"metric.options": {"layers": 1}}, "unknown key 'metric.options.layers': did you mean 'layer'?"),
        ({"metric.options": {"layer": "last"}}, "metric.options.layer is 'last': expected int"),
        ({"metric.name": "accuracy"}, "metric.name is 'accuracy', which keeps images for itself that the ex"),
        ({"search.average": 5}, "search.average is 5 at 10 images per class, which would start the same"),
        ({"data.name": "folder"}, "data.root is missing: an image folder needs its root and a resolution"),
        ({"studies.experiments": ["claim"]}, "studies.experiments has 'claim': did you mean 'claims'?"),
        ({"studies.experiments": ["paper_vs_code"]}, "'paper_vs_code', which needs hierarchical in sets.sea"),
        ({"studies.objectives": ["dc"]}, "studies.objectives has 'dc', which is not among sets.objectives"),
        ({"studies.sweep_seeds": 5}, "studies.sweep_seeds is 5, but sets.seeds has 4: expected at most 4"),
        ({"studies.part_seeds": 1}, "studies.part_seeds is 1, but the metric ablation takes studies.ablatio"),
        ({"studies.baselines": []}, "studies.augmentations is ('',), but studies.baselines is empty: it has"),
        ({"studies.baselines": ["hearding"]}, "studies.baselines[0] is 'hearding': expected 'herding'"),
        ({"sets.searches": ["pixels", "single"], "studies.audit_seeds": 1}, "sets.searches has no 'hierarch"),
    ],
)  # fmt: skip
def test_contradictions_are_found_when_a_profile_is_read(tmp_path, changes, message):
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(changed(DIGITS, changes)))
    with pytest.raises(HgladError) as caught:
        read_profile(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("when", "values", "message"),
    [
        ({"objective": "dx"}, {}, "overrides[0].when.objective has 'dx', which is not among the objectives"),
        ({"ipc": 5}, {}, "overrides[0].when.ipc has 5, which is not among sets.ipc: expected one of 1, 10"),
        (
            {"network": "VGG"},
            {},
            "overrides[0].when.network has 'VGG', which is not among networks: did you mean",
        ),
        ({"searches": "pixels"}, {}, "unknown key 'overrides[0].when.searches': did you mean 'search'?"),
        (
            {},
            {"sets.ipc": [1]},
            "overrides[0].set has 'sets.ipc': expected a key below search, surrogate, metric",
        ),
        (
            {},
            {"evaluation.protocol": "dc"},
            "overrides[0].set has 'evaluation.protocol': expected a key below",
        ),
        ({}, {"search.step": 1}, "unknown key 'overrides[0].set.search.step': did you mean 'steps'?"),
        ({}, {"search.steps": 0}, "overrides[0].set.search.steps is 0: expected at least 1"),
        (
            {},
            {"search.steps.x": 0},
            "unknown key 'overrides[0].set.search.steps.x': search.steps is a single",
        ),
        ({}, {"metric.name": "featur"}, "overrides[0].set.metric has 'featur': did you mean 'feature'?"),
        ({}, {"surrogate.network.dept": 1}, "unknown key 'overrides[0].set.surrogate.network.dept'"),
        (
            {"network": "VGG-11"},
            {"search.steps": 3},
            "overrides[0] sets search.steps for a network: expected",
        ),
        ({"ipc": 10}, {"search.layer": 3}, "overrides[0] sets search.layer at some ipc: expected one layer"),
        (
            {"search": "pixels"},
            {"search.average": 9},
            "overrides[0].set.search.average is 9, but this search is in",
        ),
        ({"search": "pixels"}, {"search.average": 1}, None),
        ({"search": ["pixels", "single"], "ipc": 1}, {"search.average": 9}, None),
    ],
)
def test_an_override_that_says_nothing_sensible_is_one_clear_line(when, values, message):
    profile = DIGITS | {"overrides": [{"when": when, "set": values}]}
    if message is None:
        assert profile_of(profile).overrides
        return
    with pytest.raises(HgladError) as caught:
        profile_of(profile)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sets.searches": ["pixels", "single"]}, "sets.searches is ['pixels', 'single'] without a prior"),
        ({"studies.baselines": ["samples"]}, "studies.baselines has 'samples' without a prior"),
        ({"studies.families": ["digits-16"]}, "studies.families is ('digits-16',), but there is no prior"),
        (
            {"search.average": 9},
            "search.average is 9, but there is no prior: it says something about a generator",
        ),
        ({"search.layer": 2}, "search.layer is 2, but there is no prior"),
        (
            {"overrides": [override({"ipc": 1}, search__truncation=0.5)]},
            "overrides[0].set.search.truncation is 0.5, but there is no prior",
        ),
    ],
)
def test_what_needs_a_generator_is_refused_without_one(changes, message):
    usual = {"search": {"steps": 7}}
    assert profile_of(changed(SMOKE, PIXELS | usual)).priors == []
    with pytest.raises(HgladError, match=re.escape(message)):
        profile_of(changed(SMOKE, PIXELS | usual | changes))


def test_a_generator_that_no_search_takes_is_noticed():
    changes = {"sets.searches": ["pixels"], "studies": {"sweep_seeds": 0}, "overrides": []}
    with pytest.raises(HgladError, match="search.layer is 2, but sets.searches has pixels only"):
        profile_of(changed(SMOKE, changes))


@pytest.mark.parametrize("key", [name for name, field in Profile.model_fields.items() if field.is_required()])
def test_no_required_key_may_be_missing(key):
    with pytest.raises(HgladError, match=f"key '{key}' is missing"):
        profile_of({name: value for name, value in DIGITS.items() if name != key})


# Images, networks, generators


@pytest.mark.parametrize("name", ["smoke", "digits", "digits-search"])
def test_profiles_whose_images_are_here_fit(name):
    check_profile(read_profile(CONFIGS / f"{name}.yaml"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"name": "digit"}}, "data: no data set 'digit'"),
        (
            {"data": {"name": "folder", "root": "no/such", "resolution": 16}},
            "data.root is 'no/such', no folder",
        ),
        (
            {"data.resolution": 8},
            "prior: the generator digits-16 makes images of (1, 16, 16), the images of data",
        ),
        ({"prior": "digits-17"}, "prior names the generator 'digits-17', which is not there: did you mean"),
        ({"prior": "imagenet128"}, "get it by hglad prior import --name imagenet128"),
        ({"studies.families": ["digit-16"]}, "studies.families names the generator 'digit-16'"),
        ({"sets.ipc": [1000]}, "sets.ipc has 1000: class "),
        ({"networks.ConvNet-2.depth": 9}, "networks.ConvNet-2: "),
        ({"search.layer": 99}, "search (dm, single): split point 99 does not exist"),
        ({"search.stages": [9, 99]}, "search (dm, hierarchical): split point"),
        ({"search.steps": 3}, "search (dm, hierarchical): search.steps is 3: expected at least one for each"),
        ({"search.labels": [1, 2]}, "search.labels is [1, 2]: the generator digits-16 has 10 classes"),
        ({"objectives.dc.options": {"distance": "l2"}}, "objectives.dc: "),
        ({"objectives.mtt.options.unroll": "half"}, "objectives.mtt: "),
        ({"metric.options": {"layer": 9}}, "metric: "),
    ],
)
def test_what_does_not_fit_is_one_clear_line(changes, message):
    profile = profile_of(changed(SMOKE, changes))
    with pytest.raises(HgladError) as caught:
        check_profile(profile)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_summary_counts_what_a_profile_computes():
    text = summary(read_profile(CONFIGS / "smoke.yaml"))
    assert text.startswith("experiments matching_objectives, glad_baseline, ") and " sets, " in text
    assert re.search(r"; 1 classifiers, \d+ sets, .*1 measurements", text)


def test_experiments_are_those_that_a_profile_has_the_settings_for():
    assert set(experiments_of(profile_of(SMOKE))) == set(EXPERIMENTS.names())
    assert experiments_of(profile_of(changed(SMOKE, PIXELS | {"search": {}}))) == ["matching_objectives"]
    values = changed(SMOKE, {"studies.experiments": ["claims", "baselines"]})
    assert experiments_of(profile_of(values)) == ["baselines", "claims"]  # in the order of the pages


# Explaining


def test_every_value_is_explained_with_its_source():
    rows = explain(
        CONFIGS / "cifar10.yaml", {"search.momentum": 0.9}, objective="dm", search="hierarchical", ipc=10
    )
    found = {key: (value, source) for key, value, source in rows}
    assert found["search.steps"] == (150, "profile")
    assert found["search.momentum"] == (0.9, "--set")
    assert found["search.clip"] == (10.0, "default")
    assert found["search.latent_stage"] == (True, "overrides[3]")
    assert found["search.average"][0] == 1 and found["search.lr_pixels"][0] == 0.0351
    assert found["evaluation.training.epochs"] == (300, "protocol")
    assert found["evaluation.training.precision"] == ("bfloat16", "profile")
    assert found["evaluation.training.augmentation"][1] == "overrides[0]"
    assert found["networks.ConvNet-3.depth"] == (3, "profile")
    assert {key.split(".")[1] for key in found if key.startswith("objectives.")} == {"dm"}
    resolved = read_profile(CONFIGS / "cifar10.yaml").resolved(objective="dm", search="hierarchical", ipc=10)
    own = {
        key.removeprefix("search."): value for key, (value, _) in found.items() if key.startswith("search.")
    }
    assert own == resolved.search.to_dict() | {"momentum": 0.9}


# Opening


def test_an_opened_experiment_is_computed_with_the_parameters_of_its_page(tmp_path):
    profile = read_profile(CONFIGS / "smoke.yaml")
    opened = open_experiment("matching_objectives", profile, tmp_path, objectives="dm", seeds=[3], steps=2)
    assert opened.profile.sets.seeds == (3,) and opened.profile.search.steps == 2
    tasks = opened.plan.tasks()
    assert tasks and all(task.done(opened.store) for task in tasks) and opened.store.root == tmp_path
    assert {task.distilled.search.steps for task in opened.plan.evaluations if task.distilled} == {2}
    assert len(opened.plan.rows(opened.store)) == len(opened.plan.evaluations)
    with pytest.raises(HgladError, match="unknown parameter 'step': did you mean 'steps'?"):
        open_experiment("matching_objectives", profile, tmp_path, step=3)
    with pytest.raises(HgladError, match="unknown experiment 'matching_objective': did you mean"):
        open_experiment("matching_objective", "digits")


def test_paths_are_the_package_s_not_the_caller_s(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HGLAD_RESULTS", raising=False)
    assert results_folder("digits") == PROJECT / "data" / "results" / "digits"
    monkeypatch.setenv("HGLAD_RESULTS", "here")
    assert results_folder("digits") == tmp_path / "here"
