"""Tuning: the same budget for every search, no test image, and the best trial as a profile takes it."""

import pytest
import torch
import yaml

from hglad.errors import HgladError
from hglad.experiments.checks import profile_of, read_profile
from hglad.experiments.plans import layers_of
from hglad.experiments.store import Store
from hglad.experiments.tasks import DistillTask
from hglad.experiments.tuning import (
    FIRST_SEED,
    TUNED,
    TuningSettings,
    _untuned,
    as_yaml,
    read_earlier,
    space,
    together,
    trial_table,
    tune,
)
from hglad.paths import PROJECT
from hglad.search.distillation import load_real
from hglad.settings import KINDS, Override, Profile
from hglad.storage import read_json, write_json

NETWORK = {"name": "convnet", "depth": 1, "width": 4}
TRAINING = {"epochs": 1, "batch_size": 256, "lr": 0.01, "augmentation": "", "ema_decay": None}
BUDGET = TuningSettings(trials=3, seeds=2)
RESULTS = PROJECT / "data" / "results"
TUNED_PROFILES = sorted(path.parent.name for path in RESULTS.glob("*/tuning.json"))


@pytest.fixture(scope="module")
def profile(prior_file) -> Profile:
    values = dict(
        profile="tiny", prior=prior_file, data={"name": "digits", "resolution": 8},
        networks={"main": NETWORK},
        surrogate={"network": NETWORK, "batch_real": 4, "augmentation": ""},
        search={"steps": 6, "rates": "relative", "lr_features": 0.1, "lr_latents": 0.02, "lr_pixels": 0.1},
        metric={"network": NETWORK, "training": TRAINING},
        evaluation={"repeats": 1, "training": TRAINING},
        sets={"objectives": ["dm"], "searches": list(KINDS), "ipc": [1, 2], "seeds": [0]},
        studies={"sweep_seeds": 1, "ablation_seeds": 0, "matching_seeds": 0, "cross_seeds": 0},
    )  # fmt: skip
    return profile_of(values)


@pytest.fixture(scope="module")
def result(profile, tmp_path_factory) -> dict:
    return tune(profile, BUDGET, Store(tmp_path_factory.mktemp("tuning")), cores=1)


def test_a_search_tuned_again_replaces_its_own_trials_alone(result):
    again = [row | {"accuracy": row["accuracy"] + 1} for row in result["trials"] if row["kind"] == "single"]
    later = {"trials": again, "best": {}, "settings": {}, "provenance": {"commit": "later"}}
    both = together(result, later)
    assert len(both["trials"]) == len(result["trials"])
    assert [row for row in both["trials"] if row["kind"] == "single"] == again
    assert both["best"] == result["best"] and both["provenance"] == {"commit": "later"}
    assert both["earlier"] == [result["provenance"]]
    assert together(both, later)["earlier"] == [result["provenance"], {"commit": "later"}]


def test_another_budget_or_profile_does_not_go_into_a_file_of_trials(profile, result, tmp_path):
    file = tmp_path / "tuning.json"
    assert read_earlier(file, profile, BUDGET) is None
    write_json(file, result)
    assert read_earlier(file, profile, BUDGET)["best"] == result["best"]
    with pytest.raises(HgladError, match="has a tuning with seeds 2: expected seeds 3; delete it or name"):
        read_earlier(file, profile, BUDGET.changed(seeds=3))


@pytest.mark.parametrize("kind", KINDS)
def test_the_profile_itself_is_the_first_trial_and_the_others_are_within_the_space(profile, kind):
    trials = space(profile, "dm", kind, 40)
    assert len(trials) == 40 and trials[0].changes == {}
    last = len(layers_of(profile.prior)) - 1
    rates = {"pixels": ["lr_pixels"], "single": ["lr_features", "lr_latents"]}.get(
        kind, ["lr_features", "lr_latents", "lr_pixels"]
    )
    for trial in trials[1:]:
        for key in rates:
            assert 1 / 8.1 < trial.changes[key] / getattr(profile.search, key) < 8.1
        if kind == "hierarchical":
            assert trial.changes["stages"] in ([0, 1, 2, 3, 4], [0, 2, 4])
            growth = [b / a for a, b in zip(*[trial.changes["shares"][i:] for i in (0, 1)], strict=False)]
            assert all(0.49 < each < 2.01 for each in growth)
    if kind == "single":
        assert {trial.changes["layer"] for trial in trials[1:]} == set(range(last))
    assert [t.changes for t in space(profile, "dm", kind, 40)] == [t.changes for t in trials]


@pytest.mark.parametrize("kind", KINDS)
def test_every_trial_is_a_search_that_can_be_planned(profile, kind):
    for trial in space(profile, "dm", kind, 20):
        for task in trial.tasks(profile, BUDGET):
            stages = DistillTask(task.distilled)
            assert stages.cost > 0 and task.distilled.kind == kind


def test_no_trial_has_both_a_stage_in_the_latents_alone_and_one_at_the_input(profile):
    later = profile.changed(search=profile.search.changed(latent_stage=True))
    for trial in space(later, "dm", "hierarchical", 20)[1:]:
        assert trial.changes["stages"] in ([1, 2, 3, 4], [1, 3, 4])
        assert len(trial.changes["shares"]) == len(trial.changes["stages"]) + 1
        assert DistillTask(trial.tasks(later, BUDGET)[0].distilled).cost > 0


def test_trials_are_at_the_first_number_of_images_per_class_with_its_own_keys(profile):
    first = Override.read({"when": {"ipc": 1}, "set": {"search.latent_stage": True}})
    second = Override.read({"when": {"ipc": 2}, "set": {"search.steps": 99}})
    at_first = profile.changed(overrides=(first, second))
    trial = space(at_first, "dm", "hierarchical", 2)[1]
    assert trial.changes["stages"][0] == 1
    search = trial.tasks(at_first, BUDGET)[0].distilled.search
    assert search.latent_stage and search.steps == profile.search.steps


def test_trials_never_see_a_test_image(profile):
    trial = space(profile, "dm", "pixels", 2)[1]
    (first, second) = trial.tasks(profile, BUDGET)
    whole = load_real(profile.data)
    part = load_real(first.data)
    assert first.data.holdout == BUDGET.holdout == first.distilled.data.holdout
    assert len(part.train.images) + len(part.test.images) == len(whole.train.images)
    together = torch.cat([part.train.images, part.test.images]).flatten(1).sort(dim=0).values
    assert torch.equal(together, whole.train.images.flatten(1).sort(dim=0).values)
    assert (first.seed, second.seed) == (FIRST_SEED, FIRST_SEED + 1)


def test_every_search_has_the_same_budget(result):
    counts = {}
    for row in result["trials"]:
        counts.setdefault(row["kind"], []).append((row["steps"], row["seeds"]))
    assert list(counts) == list(KINDS) and all(found == [(6, 2)] * 3 for found in counts.values())
    assert result["settings"] == {"trials": 3, "seeds": 2, "repeats": 0, "holdout": 0.25}


def test_the_best_trial_is_the_one_with_the_highest_accuracy(result):
    for kind in KINDS:
        rows = [row for row in result["trials"] if row["kind"] == kind]
        best = max(rows, key=lambda row: row["accuracy"])
        assert result["best"]["dm"][kind] == best["changes"]
    assert len(trial_table(result["trials"])) == 9


def with_best(profile: Profile, best: dict) -> Profile:
    """The profile with what a tuning prints."""
    return profile_of(profile.to_dict() | yaml.safe_load(as_yaml(best)))


def test_what_is_printed_goes_into_a_profile(profile, result):
    tuned = with_best(profile, result["best"])
    for kind in KINDS:
        found = tuned.resolved(objective="dm", search=kind).search
        for key, value in result["best"]["dm"][kind].items():
            assert getattr(found, key) == (tuple(value) if isinstance(value, list) else value)


def test_a_stopped_tuning_goes_on(profile, tmp_path, monkeypatch):
    store = Store(tmp_path)
    tune(profile, BUDGET.changed(trials=1), store, cores=1)
    monkeypatch.setattr(DistillTask, "run", lambda *arguments: pytest.fail("computed again"))
    tune(profile, BUDGET.changed(trials=1), store, cores=1)


@pytest.mark.parametrize(
    ("key", "value"), [("trials", 0), ("seeds", 0), ("repeats", -1), ("holdout", 1.0), ("holdout", 0.0)]
)
def test_an_impossible_budget_is_a_clear_error(key, value):
    with pytest.raises(HgladError, match=f"{key} is {value}: expected"):
        TuningSettings(**{key: value})


def test_what_is_not_tuned_stays_with_its_kind(profile):
    own = [
        {"when": {"objective": "dm", "search": "hierarchical"}, "set": {"search.lr_features": 9.0}},
        {"when": {"search": "hierarchical"}, "set": {"search.lr_pixels": 9.0, "search.selection": "last"}},
        {"when": {"objective": "dm"}, "set": {"search.lr_latents": 9.0}},
    ]
    found = _untuned(profile_of(profile.to_dict() | {"overrides": own}))
    kept = found.resolved(objective="dm", search="hierarchical").search
    assert kept == profile.search.changed(selection="last", lr_latents=9.0)
    for trial in space(found, "dm", "hierarchical", 3):
        assert trial.tasks(found, BUDGET)[0].distilled.search.selection == "last"


def test_tuning_a_tuned_profile_gives_the_same(profile, result, tmp_path):
    assert (
        tune(with_best(profile, result["best"]), BUDGET, Store(tmp_path), cores=1)["best"] == result["best"]
    )


@pytest.mark.parametrize("name", TUNED_PROFILES)
def test_profiles_search_with_what_their_committed_tuning_chose(name):
    best = read_json(RESULTS / name / "tuning.json")["best"]
    tuned = read_profile(PROJECT / "configs" / f"{name}.yaml")
    for objective, kinds in best.items():
        for kind, changes in kinds.items():
            ipc = tuned.ipcs(objective)[0]
            run = {"objective": objective, "search": kind, "ipc": ipc}
            chosen = _untuned(tuned).resolved(**run).search.changed(**changes)
            found = tuned.resolved(**run).search
            assert {key: getattr(found, key) for key in TUNED} == {key: getattr(chosen, key) for key in TUNED}
