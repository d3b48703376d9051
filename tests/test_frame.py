"""The tidy frame of an experiment that was computed: rows, runs, iterates, sweeps, classes, images."""

import numpy as np
import pandas as pd
import pytest
import yaml

from hglad.analysis import claims, frame, tables
from hglad.errors import HgladError
from hglad.experiments import open_experiment

NETWORK = {"name": "convnet", "depth": 1, "width": 4}
QUICK = {"epochs": 1, "batch_size": 256, "lr": 0.1, "augmentation": "", "ema_decay": None}
PROFILE = {
    "profile": "tiny",
    "data": {"name": "digits", "resolution": 8},
    "surrogate": {"network": NETWORK, "augmentation": "", "batch_real": 4},
    "objectives": {"dm": {}},
    "search": {"steps": 5, "layer": 1, "rates": "relative", "select_every": 1},
    "metric": {"network": NETWORK, "training": QUICK, "compared": ["feature"]},
    "evaluation": {"repeats": 2, "training": QUICK, "full_set": QUICK, "full_set_seeds": 1},
    "networks": {"main": NETWORK, "other": NETWORK | {"width": 3}},
    "sets": {
        "objectives": ["dm"], "searches": ["pixels", "single", "hierarchical"], "ipc": [1, 2],
        "seeds": [0, 1],
    },
    "studies": {
        "sweep_seeds": 1, "ablation_seeds": 2, "part_seeds": 1, "parts": ["last iterate, no selection"],
        "cross_seeds": 2, "matching_seeds": 1, "baselines": ["herding", "class_mean", "samples"],
        "augmentations": ["crop_scale"],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def opened(prior_file, tmp_path_factory):
    """Open an experiment of the tiny profile by its name; what is computed stays."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(PROFILE | {"prior": prior_file}))
    return lambda name, **changes: open_experiment(
        name, folder / "tiny.yaml", results=folder / "results", **changes
    )


def test_parameters_stand_in_for_the_profile_s(opened):
    experiment = opened("hierarchical_search", ipc=2, seeds=[1], steps=6)
    rows, runs = frame.rows(experiment), frame.runs(experiment)
    assert set(rows["ipc"].dropna()) == {2} and set(runs["seed"]) == {1} and set(runs["steps"]) == {6}
    with pytest.raises(HgladError, match="no profile 'digts': did you mean 'digits'"):
        open_experiment("claims", "digts")


def test_rows_are_those_of_the_profile_s_layer_and_a_sweep_has_every_layer(opened):
    experiment = opened("glad_baseline")
    assert set(frame.rows(experiment)["layer"].dropna()) == {1}
    sweep = frame.sweep(experiment)
    assert list(dict.fromkeys(sweep.sort_values("layer")["split_point"]))[::4] == ["input", "pixels"]
    assert sweep[sweep["method"] == "single"]["layer"].nunique() == 4 and set(sweep["seed"]) == {0}
    images = frame.image_set(experiment, "single", layer=2)
    assert images.card["settings"]["search"]["layer"] == 2
    with pytest.raises(HgladError, match="no distilled set of objective dm, method single, ipc 7"):
        frame.image_set(experiment, "single", ipc=7)


def test_runs_add_up_their_cards_and_history_follows_the_steps(opened):
    runs = frame.runs(opened("hierarchical_search"))
    assert len(runs) == 12 and set(runs["steps"]) == {5}
    run = runs[runs["method"] == "hierarchical"].iloc[0]
    work = sum(stage["steps"] * stage["flops"] for stage in run["card"]["stages"]) * 10 / 1e9
    assert run["gflop"] == pytest.approx(work) and (runs[runs["method"] == "pixels"]["gflop"] == 0).all()
    history = frame.history(runs[runs["method"] == "hierarchical"])
    own = history[(history["seed"] == 0) & (history["ipc"] == 1)]
    assert own["at"].is_monotonic_increasing and own["at"].max() == 5 and own["selected"].sum() == 1
    assert own["distance"].tolist() == [distance for *_, distance in run["card"]["history"]]


@pytest.mark.parametrize(
    ("best", "last", "expected"),
    [((0, 0), False, (0, 0)), ((1, 5), False, (1, 5)), ((1, 0), False, (0, 5)), ((2, 0), True, (1, 10))],
)
def test_an_iterate_is_of_the_stage_that_made_it_and_not_of_one_that_begins_there(best, last, expected):
    card = {
        "best": dict(zip(("stage", "step"), best, strict=True)),
        "settings": {"search": {"selection": "metric", "stage_start": "last" if last else "best"}},
        "history": [(0, 0, 3.0), (0, 5, 1.0), (0, 10, 2.0), (1, 0, 1.0), (1, 5, 0.5), (1, 10, 2.0)],
        "stages": [{"steps": 10}] * 3,
    }
    assert frame.made_at(card) == expected


def test_every_iterate_has_its_accuracy_and_its_distances(opened):
    experiment = opened("metric_ablation")
    distances = frame.distances(experiment)
    rows = experiment.store.rows([task.key for task in experiment.plan.evaluations])
    assert frame.metrics(experiment) == ["class_relevant", "feature"]
    means = rows.groupby(["seed", "iterate"])["accuracy"].mean()
    assert distances.set_index(["seed", "iterate"])["accuracy"].to_dict() == means.to_dict()
    assert np.allclose(distances["distance"], distances["class_relevant"], atol=0.05)
    assert len(frame.fresh(distances)) < len(distances)
    seconds = frame.metric_seconds(experiment)
    assert set(seconds["metric"]) == {"class_relevant", "feature", "search"} and (seconds["step"] > 0).all()
    winning = frame.winning_stages(experiment)
    assert winning.shape == (2, 10) and set(winning.to_numpy().ravel()) <= set(distances["stage_name"])
    images, maps = frame.activations(experiment)
    assert list(images) == list(maps) == ["random real", "H-GLaD"] and maps["H-GLaD"].max() == 1


def test_variants_are_apart_from_the_main_runs(opened):
    experiment = opened("metric_ablation")
    names = ["all parts", "last iterate, no selection"]
    assert list(frame.variant_rows(experiment)["variant"].unique()) == names
    runs = frame.runs(experiment)
    assert runs["variant"].isna().sum() == 2 and list(runs["variant"].dropna()) == names


def test_shares_of_each_class_agree_with_the_accuracies(opened):
    experiment = opened("cross_architecture")
    rows = frame.rows(experiment)
    for network in ("main", "other"):
        shares = frame.confusions(experiment, network)
        assert list(shares) == ["random real", "pixels", "GLaD", "H-GLaD", "full set"]
        counts = np.array(frame.real_data(experiment).test.counts)
        for method, label in (("pixels", "pixels"), ("full", "full set")):
            accuracy = rows[(rows["method"] == method) & (rows["network"] == network)]["accuracy"].mean()
            assert np.allclose(shares[label].sum(axis=1), 100)
            found = (shares[label].to_numpy().diagonal() * counts).sum() / counts.sum()
            assert found == pytest.approx(accuracy, abs=1e-3)


def test_baselines_come_under_every_augmentation_with_images_that_may_be_shown(opened):
    experiment = opened("baselines")
    rows = frame.rows(experiment)
    assert set(rows["augmentation"].dropna()) == {"crop, scale"}
    assert set(rows["key"].map(frame.augmentations(experiment))) == {"none", "crop, scale"}
    assert list(frame.baseline_images(experiment)) == ["random real", "class mean", "herding", "samples"]
    object.__setattr__(experiment.profile.data, "show", False)
    assert list(frame.baseline_images(experiment)) == ["class mean", "samples"]


def test_claims_look_back_on_the_experiments_of_the_profile(opened):
    experiment = opened("claims")
    found = claims.findings(experiment)
    assert list(found["claim"].unique()) == list(claims.CLAIMS) and set(found["verdict"]) == {claims.TOO_FEW}
    assert frame.part(experiment, "glad_baseline") is None
    text = repr(tables.provenance(experiment))
    assert "profile: tiny" in text and "distillation seeds: 0, 1" in text
    schedules = frame.published_schedules(experiment)
    assert schedules["search"].tolist() == ["GLaD", "H-GLaD, paper", "H-GLaD, released"]
    assert schedules["steps"][0] == 1000 and isinstance(schedules, pd.DataFrame)
