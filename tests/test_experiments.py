"""The experiments: a plan with nothing twice, and the same rows however its runs are computed."""

import random
import shutil
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from joblib.externals.loky import get_reusable_executor
from replacing import replace

from hglad.errors import HgladError
from hglad.evaluation import evaluate as evaluation_module
from hglad.evaluation.training import confusion_matrix
from hglad.experiments.cost import network_seconds
from hglad.experiments.definitions import (
    EXPERIMENTS,
    experiments_of,
    layer_count,
    layer_names,
    plan,
)
from hglad.experiments.evaluation_task import EvaluateTask, marks_by_key
from hglad.experiments.profile import Profile
from hglad.experiments.profile_file import profile_from, read_profile
from hglad.experiments.runner import missing_tasks, required, run_all
from hglad.experiments.store import Store
from hglad.experiments.tasks import (
    ClassifierTask,
    DistillTask,
    MeasureTask,
    classifier_versions,
)
from hglad.experiments.versions import MODULES
from hglad.paths import PROJECT
from hglad.search.distillation import data_hash, known_real
from hglad.settings import DataSettings, fingerprint
from hglad.storage import read_json

NETWORK = {"name": "convnet", "depth": 1, "width": 4}
TRAINING = {"epochs": 1, "batch_size": 256, "lr": 0.01, "augmentation": "", "ema_decay": None}
PROFILE = {
    "profile": "tiny",
    "data": {"name": "digits", "resolution": 8},
    "surrogate": {
        "network": NETWORK, "augmentation": "color_crop", "batch_real": 8,
        "objectives": {
            "dm": {},
            "dc": {"options": {"outer_loops": 2, "inner_loops": 1}, "search": {"start": "noise"}},
            "mtt": {
                "options": {"student_steps": 2, "expert_epochs": 1, "max_start_epoch": 1},
                "experts": {"count": 2, "epochs": 1},
                "evaluation": {"epochs": 2},
            },
        },
    },
    "search": {
        "steps": 6, "stages": [1, 4], "layer": 2, "rates": "relative", "lr_features": 0.1, "lr_latents": 0.02,
        "lr_pixels": 0.1, "select_every": 1,
    },
    "metric": {"network": NETWORK, "training": TRAINING},
    "evaluation": {"repeats": 2, "training": TRAINING, "full_set": TRAINING, "full_set_seeds": 1},
    "networks": {"main": NETWORK, "other": NETWORK | {"width": 3}},
    "sets": {
        "objectives": ["dm"], "searches": ["pixels", "single", "hierarchical"],
        "ipc": [1, 2], "seeds": [0, 1],
    },
    "studies": {
        "sweep_seeds": 1, "ablation_seeds": 2, "matching_seeds": 1, "cross_seeds": 1, "part_seeds": 1,
        "audit_seeds": 1,
    },
}  # fmt: skip


FAMILY = {
    "kind": "biggan",
    "settings": {
        "z_dim": 4, "c_dim": 10, "img_resolution": 8, "img_channels": 1, "channel_width": 4,
        "layers": [[False, 2, 2], [True, 2, 1]], "attention_layer_position": None, "n_stats": 1,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> str:
    """Recipe of a tiny BigGAN: split points input, two blocks, pixels."""
    file = tmp_path_factory.mktemp("family") / "tiny-biggan.yaml"
    file.write_text(yaml.safe_dump(FAMILY))
    return str(file)


@pytest.fixture(scope="module")
def profile(prior_file, family, tmp_path_factory) -> Profile:
    file = tmp_path_factory.mktemp("profile") / "tiny.yaml"
    studies = PROFILE["studies"] | {"families": [family]}
    file.write_text(yaml.safe_dump(PROFILE | {"prior": prior_file, "studies": studies}))
    return read_profile(file)


@pytest.fixture(scope="module")
def tasks(profile) -> list:
    return plan(profile)


@pytest.fixture(scope="module")
def undisturbed(tasks, tmp_path_factory) -> Store:
    """Results of all tasks, computed one after the other."""
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    run_all(tasks, store, cores=1)
    return store


@pytest.fixture(scope="module")
def digits_profile(prior_file, family) -> Profile:
    """The default profile, on generators that need no training."""
    profile = read_profile(PROJECT / "configs" / "digits.yaml")
    return replace(profile, prior=prior_file, studies=replace(profile.studies, families=(family,)))


def of_kind(tasks: list, kind: type) -> list:
    return [task for task in tasks if isinstance(task, kind)]


def same_rows(first: Store, second: Store) -> None:
    pd.testing.assert_frame_equal(first.rows(), second.rows())


# The plan


def test_the_plan_of_the_default_profile_has_every_task_once(digits_profile):
    tasks = plan(digits_profile)
    assert len({task.key for task in tasks}) == len(tasks)
    seeds, kinds = len(digits_profile.sets["seeds"]), 2  # single and pixels; the hierarchy keeps its iterates
    others = set(range(layer_count(digits_profile) - 1)) - {digits_profile.searched("dm", "single").layer}
    swept = (len(others) + 3) * digits_profile.studies.sweep_seeds  # 3 layers of the further generator
    assert len(of_kind(tasks, ClassifierTask)) == 1  # those of herding and k-center only where they miss
    objectives = digits_profile.studies.matching_seeds * (len(digits_profile.objectives) - 1)  # dm is there
    assert len(of_kind(tasks, DistillTask)) == 2 * seeds * (kinds + 1) + swept + objectives


def test_the_plan_of_the_default_profile_is_the_same_when_made_again(digits_profile):
    again = replace(digits_profile, sets=dict(reversed(digits_profile.sets.items())))
    assert [task.key for task in plan(digits_profile)] == [task.key for task in plan(again)]


def test_sets_are_shared_between_the_experiments(tasks, profile):
    parts = {name: {task.key for task in plan(profile, name)} for name in EXPERIMENTS}
    assert set().union(*parts.values()) == {task.key for task in tasks}
    sets = {name: {t.key for t in of_kind(plan(profile, name), DistillTask)} for name in EXPERIMENTS}
    assert len(sets["metric_ablation"] & sets["hierarchical_search"]) == 2 + 1  # kept iterates, and pixels
    assert sets["metric_ablation"] & sets["paper_vs_code"]  # the search with all parts, and more
    assert sets["cross_architecture"] < sets["hierarchical_search"]


def test_a_task_comes_after_what_it_needs(tasks):
    position = {task.key: index for index, task in enumerate(tasks)}
    for task in tasks:
        needed = []
        if isinstance(task, DistillTask):
            needed = [task.classifier]
        elif isinstance(task, EvaluateTask) and task.distilled:
            needed = [DistillTask(task.distilled)]
        elif isinstance(task, MeasureTask):
            needed = [DistillTask(task.settings)]
        for other in needed:
            assert position[other.key] < position[task.key] and other.phase < task.phase


def test_an_unknown_experiment_is_a_clear_error(profile):
    with pytest.raises(
        HgladError, match="unknown experiment 'metric_ablate': did you mean 'metric_ablation'"
    ):
        plan(profile, "metric_ablate")


def evaluation(profile: Profile, method: str) -> EvaluateTask:
    tasks = of_kind(plan(profile), EvaluateTask)
    return next(t for t in tasks if t.method == method and t.network == "main" and not t.iterates)


@pytest.mark.parametrize("method", ["hierarchical", "random"])
@pytest.mark.parametrize(
    "module", ["training", "augment", "networks.convnet", "search", "objectives.dm", "metrics.class_relevant"]
)
def test_evaluations_follow_the_versions_of_what_makes_them(profile, monkeypatch, method, module):
    before = evaluation(profile, method).key
    monkeypatch.setattr(import_module(MODULES.get(module, f"hglad.{module}")), "VERSION", 1000)
    of_every_training = module in ("training", "augment", "networks.convnet")
    changes = of_every_training or method == "hierarchical"
    assert (evaluation(profile, method).key != before) == changes


@pytest.mark.parametrize("module", ["training", "augment", "networks.convnet"])
def test_classifiers_follow_the_versions_of_what_makes_them(profile, monkeypatch, module):
    before = ClassifierTask(profile.data, profile.metric).key
    monkeypatch.setattr(import_module(MODULES.get(module, f"hglad.{module}")), "VERSION", 1000)
    assert ClassifierTask(profile.data, profile.metric).key != before


@pytest.mark.parametrize(
    "change",
    [
        {"method": "full"},
        {"ipc": 3},
        {"seed": 9},
        {"network": "another"},
        {"options": NETWORK | {"width": 9}},
        {"repeats": 9},
        {"iterates": True},
        {"data": DataSettings("digits", resolution=16)},
    ],
    ids=str,
)
def test_every_setting_of_an_evaluation_changes_its_key(profile, change):
    task = evaluation(profile, "random")
    assert replace(task, **change).key != task.key


def test_protocol_and_set_of_an_evaluation_change_its_key(profile):
    task = evaluation(profile, "hierarchical")
    longer = replace(task, training=replace(task.training, epochs=2))
    other = replace(task, distilled=replace(task.distilled, seed=9))
    assert len({task.key, longer.key, other.key}) == 3


def test_classifiers_follow_their_settings_and_not_those_of_the_metric(profile):
    task, metric = ClassifierTask(profile.data, profile.metric), profile.metric
    same = [replace(metric, name="feature"), replace(metric, compared=())]
    other = [
        replace(metric, seed=1),
        replace(metric, network=NETWORK | {"width": 9}),
        replace(metric, training=replace(metric.training, epochs=2)),
    ]
    assert {ClassifierTask(profile.data, m).key for m in same} == {task.key}
    assert len({task.key, *(ClassifierTask(profile.data, m).key for m in other)}) == 4
    assert ClassifierTask(DataSettings("digits", resolution=16), metric).key != task.key


def test_costs_grow_with_the_work(profile):
    settings = evaluation(profile, "hierarchical").distilled
    changes = ({}, {"ipc": 10}, {"kind": "pixels"})
    costs = [DistillTask(replace(settings, **change)).cost for change in changes]
    assert costs[2] < costs[0] < costs[1]
    task = evaluation(profile, "random")
    assert task.cost < replace(task, ipc=9).cost
    real = known_real(profile.data)
    tested = len(real.test.images) * network_seconds(task.options, real.train)
    assert replace(task, repeats=3).cost == pytest.approx(3 * task.cost / task.repeats) and task.cost > tested
    assert replace(task, options=NETWORK | {"width": 256, "depth": 3}).cost > 2 * task.cost
    assert all(task.cost > 0 for task in plan(profile))


def test_split_points_of_the_generator(profile):
    assert layer_names(profile) == ("input", "L0_12_8", "L1_12_8", "L2_8_8", "pixels")
    assert layer_count(profile) == 5


# The runs


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_second_call_computes_nothing(tasks, profile, undisturbed):
    assert all(task.done(undisturbed) for task in tasks)
    before = contents(undisturbed.root)
    run_all(plan(profile), undisturbed, cores=1)
    assert contents(undisturbed.root) == before
    assert not [name for name in before if ".state" in name or ".parts" in name or ".tmp-" in name]


def test_only_what_is_missing_is_computed(tasks, undisturbed, tmp_path):
    store = Store(tmp_path)
    part = required([task for task in of_kind(tasks, EvaluateTask) if task.method == "random"])
    run_all(part, store, cores=1)
    kept = contents(tmp_path)
    store.evaluation_file(part[0].key).unlink()
    run_all(part, store, cores=1)
    new = contents(tmp_path)
    changed = {name for name in kept if kept[name] != new[name]}
    assert changed == {f"evaluations/{part[0].key}.{kind}" for kind in ("json", "safetensors")}
    assert new.keys() == kept.keys()
    pd.testing.assert_frame_equal(store.rows([part[0].key]), undisturbed.rows([part[0].key]))


def test_rows_are_tidy(profile, undisturbed):
    rows = EXPERIMENTS["hierarchical_search"](profile).rows(undisturbed)
    assert {"objective", "method", "layer", "ipc", "seed", "network", "repeat", "accuracy"} < {*rows.columns}
    assert rows["accuracy"].between(0, 100).all() and set(rows["network"]) == {"main"}
    cells = rows.groupby(["method", "ipc", "seed"], dropna=False).size()
    assert len(cells) == (3 + 1) * 2 * 2 + 1 and set(cells.drop("full")) == {2} and cells["full"].sum() == 1
    assert set(rows.loc[rows["method"] == "single", "layer"]) == {2}
    assert rows.loc[rows["method"] != "single", "layer"].isna().all()


def test_no_experiment_counts_a_result_twice(profile, undisturbed):
    for make in [make for name, make in EXPERIMENTS.items() if name != "claims"]:  # it has no rows of its own
        rows = make(profile).rows(undisturbed)
        names = ["key", "repeat"] + (["iterate"] if "iterate" in rows else [])
        assert not rows.duplicated(names).any()


def test_the_ablation_evaluates_every_measured_iterate(profile, undisturbed):
    rows = EXPERIMENTS["metric_ablation"](profile).rows(undisturbed)
    assert set(rows["seed"]) == {0, 1} and (rows.groupby(["seed", "iterate"]).size() == 2).all()
    first = rows[rows["seed"] == 0].drop_duplicates("iterate")
    moments = list(zip(first["stage"], first["step"], strict=True))
    assert moments == [(stage, step) for stage in (0, 1) for step in range(4)]


def test_a_study_of_some_parts_keeps_the_whole_search_to_compare_with(profile):
    few = replace(profile, studies=replace(profile.studies, parts=("no pixel stage",)))
    some, every = (EXPERIMENTS["metric_ablation"](p).variants for p in (few, profile))
    assert {task.variant for task in some} == {"all parts", "no pixel stage"}
    assert {task.key for task in some} < {task.key for task in every}  # the same runs, not others


def test_every_architecture_meets_every_method(profile, undisturbed):
    rows = EXPERIMENTS["cross_architecture"](profile).rows(undisturbed)
    cells = {*zip(rows["network"], rows["method"], strict=True)}
    methods = ("pixels", "single", "hierarchical", "random", "full")
    assert cells == {(network, method) for network in ("main", "other") for method in methods}
    assert set(rows["ipc"].dropna()) == {1}


def test_two_processes_give_the_same_rows(profile, undisturbed, tmp_path):
    store, experiment = Store(tmp_path), EXPERIMENTS["metric_ablation"](profile)
    try:
        run_all(experiment.tasks(), store, cores=2)
    finally:
        get_reusable_executor().shutdown()
    pd.testing.assert_frame_equal(experiment.rows(store), experiment.rows(undisturbed))


def run_all_saving_every_step(tasks: list, root: str) -> None:
    torch.set_num_threads(1)
    import_module("hglad.storage").SAVE_SECONDS = 0
    run_all(tasks, Store(root), cores=1)


@pytest.mark.parametrize("when", ["sets", "evaluations"])
def test_killed_runs_continue_with_the_same_rows(tasks, undisturbed, tmp_path, kill_midway, when):
    store = Store(tmp_path)

    def ready() -> bool:
        return len(list((tmp_path / when).glob("*"))) > 2

    delay = random.Random(when).uniform(0, 0.3)
    assert kill_midway(run_all_saving_every_step, (tasks, str(tmp_path)), ready, delay)
    assert not all(task.done(store) for task in tasks)
    run_all(tasks, store, cores=1)
    same_rows(store, undisturbed)


def test_a_stopped_evaluation_trains_only_what_it_had_not_finished(tasks, undisturbed, tmp_path, monkeypatch):
    """Of every measured iterate, two networks each: stopped behind the fifth."""
    task = next(task for task in of_kind(tasks, EvaluateTask) if task.iterates)
    store, tested = Store(tmp_path), []
    shutil.copytree(
        undisturbed.set_folder(task.distilled.fingerprint), store.set_folder(task.distilled.fingerprint)
    )

    def measure(*given):
        if len(tested) == 5:
            raise KeyboardInterrupt
        tested.append(given)
        return confusion_matrix(*given)

    monkeypatch.setattr(evaluation_module, "confusion_matrix", measure)
    with pytest.raises(KeyboardInterrupt):
        task.run(store, "cpu")
    assert len(list(store.parts_folder(task.key).rglob("*.score"))) == 5 and not task.done(store)
    tested[:] = range(100)
    task.run(store, "cpu")
    assert len(tested) - 100 == 2 * 8 - 5
    pd.testing.assert_frame_equal(store.rows([task.key]), undisturbed.rows([task.key]))
    assert [path.name for path in store.evaluation_file(task.key).parent.iterdir()] == [f"{task.key}.json"]


def test_confusion_matrices_are_those_of_the_rows(tasks, undisturbed):
    for task in of_kind(tasks, EvaluateTask):
        if task.iterates:
            with pytest.raises(HgladError, match=f"delete {task.key}.json beside it"):
                undisturbed.confusions(task.key)
            continue
        found, rows = undisturbed.confusions(task.key), undisturbed.rows([task.key])
        hits = found.diagonal(dim1=1, dim2=2).sum(dim=1) / found.sum(dim=(1, 2))
        assert found.shape == (len(rows), 10, 10)
        assert (100 * hits).tolist() == pytest.approx(rows["accuracy"].tolist(), abs=1e-3)


def test_an_error_in_a_run_is_passed_on(profile, tmp_path):
    settings = evaluation(profile, "hierarchical").distilled
    broken = replace(settings, kind="single", search=replace(settings.search, layer=9))
    task = DistillTask(broken)
    with pytest.raises(HgladError, match="split point 9 does not exist"):
        run_all([task.classifier, task], Store(tmp_path), cores=1)
    assert task.classifier.done(Store(tmp_path)) and not task.done(Store(tmp_path))


def test_the_distances_kept_for_the_ablation_are_those_of_the_search(tasks, undisturbed):
    for task in of_kind(tasks, MeasureTask):
        kept = read_json(undisturbed.distances_file(task.key))["distances"]
        card = read_json(undisturbed.set_folder(task.settings.fingerprint) / "card.json")
        searched = [distance for _, _, distance in card["history"]]
        assert list(kept) == ["class_relevant", "feature"] and len(kept["feature"]) == len(searched)
        assert kept["class_relevant"] == pytest.approx(searched, rel=0.1)  # iterates are kept as uint8


# Sets that nothing was optimised for

UNTRAINED = ("herding", "k_center", "class_mean", "samples", "samples_averaged")


@pytest.fixture(scope="module")
def baseline_profile(profile) -> Profile:
    """Pixels at one ipc beside all baselines, also under two augmentations, one of them the usual one."""
    own = {"baselines": UNTRAINED, "augmentations": ("crop_scale", ""), "experiments": ("baselines",)}
    sets = profile.sets | {"searches": ["pixels"], "ipc": [1, 2]}
    return replace(profile, sets=sets, studies=replace(profile.studies, **own))


@pytest.fixture(scope="module")
def baseline_rows(baseline_profile, tmp_path_factory) -> pd.DataFrame:
    store = Store(tmp_path_factory.mktemp("baselines"))
    run_all(plan(baseline_profile), store, cores=1)
    return EXPERIMENTS["baselines"](baseline_profile).rows(store)


def test_every_baseline_is_scored_at_every_ipc_under_every_augmentation(baseline_rows):
    cells = baseline_rows.fillna({"augmentation": "usual"}).groupby(["augmentation", "method", "ipc"]).size()
    of_seeds = {method: 4 for method in ("pixels", "random", *UNTRAINED)}  # 2 seeds, 2 networks each
    for augmentation in ("usual", "crop, scale"):
        for method, count in of_seeds.items():
            expected = {1: 2} if method == "class_mean" else {1: count, 2: count}  # a mean has no seed
            assert cells[augmentation, method].to_dict() == expected
    assert set(baseline_rows["augmentation"].dropna()) == {"crop, scale"}
    full = baseline_rows[baseline_rows["method"] == "full"]
    assert full["ipc"].isna().all() and full["augmentation"].isna().all() and len(full) == 1


def test_seeds_of_a_baseline_are_different_sets(baseline_rows):
    groups = baseline_rows[baseline_rows["method"] != "full"].groupby(["method", "ipc", "seed"], dropna=False)
    assert baseline_rows.groupby("key").size().isin([1, 2]).all()
    assert len(groups) == 6 * 2 * 2 + 1 and (groups["key"].nunique() == 2).all()  # two augmentations


def test_a_baseline_that_is_missing_brings_its_classifier_and_shares_none_with_another_seed(
    baseline_profile, tmp_path
):
    tasks = plan(baseline_profile)
    selecting = [task for task in of_kind(tasks, EvaluateTask) if task.classifier]
    classifiers = {}
    for task in selecting:
        classifiers.setdefault(task.seed, set()).add(task.classifier.key)
    assert all(len(keys) == 1 for keys in classifiers.values()) and classifiers[0] != classifiers[1]
    assert of_kind(tasks, DistillTask)[0].classifier.key in classifiers[0]  # that of the metric
    store = Store(tmp_path)
    wanted = {task.key for task in missing_tasks(selecting, store)}
    assert set().union(*classifiers.values()) <= wanted
    for task in selecting:
        store.evaluation_file(task.key).parent.mkdir(parents=True, exist_ok=True)
        store.evaluation_file(task.key).write_text('{"rows": []}\n')
    assert missing_tasks(selecting, store) == []


def baseline(profile: Profile, method: str) -> EvaluateTask:
    return next(task for task in of_kind(plan(profile, "baselines"), EvaluateTask) if task.method == method)


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        ({"seed": 9}, {*UNTRAINED, "random", "full"}),
        ({"prior_classes": (1,) * 10}, {"samples", "samples_averaged"}),
        ({"augmentation": "a name for the rows"}, set()),
        ({"variant": "a name for the rows"}, set()),
    ],
)
def test_a_baseline_follows_its_own_sources(baseline_profile, change, changes):
    found = set()
    for method in (*UNTRAINED, "random", "full", "pixels"):
        task = baseline(baseline_profile, method)
        if replace(task, **change).key != task.key:
            found.add(method)
    assert found == changes


@pytest.mark.parametrize(
    ("module", "changes"),
    [("baselines", {*UNTRAINED, "random", "full"}), ("priors.stylegan_xl", {"samples", "samples_averaged"})],
)
def test_baselines_follow_the_versions_of_what_makes_them(baseline_profile, monkeypatch, module, changes):
    methods = (*UNTRAINED, "random", "full", "pixels")
    before = {method: baseline(baseline_profile, method).key for method in methods}
    monkeypatch.setattr(import_module(MODULES.get(module, f"hglad.{module}")), "VERSION", 1000)
    assert {
        method for method in methods if baseline(baseline_profile, method).key != before[method]
    } == changes


def test_the_first_version_of_the_baselines_is_no_part_of_the_keys_that_had_none(baseline_profile):
    """Kept as it was before random images and the full set had a version."""
    for method in ("random", "full"):
        task = baseline(baseline_profile, method)
        source = [data_hash(task.data), task.seed]
        assert task.key == fingerprint(
            source, method, task.ipc, task.network, task.options, task.repeats, task.training, False,
            classifier_versions(task.options),
        )  # fmt: skip


# Marks of the rows, which each table gives


def test_rows_of_a_profile_have_the_marks_of_its_plan(profile, undisturbed):
    evaluations = of_kind(plan(profile), EvaluateTask)
    pd.testing.assert_frame_equal(
        undisturbed.rows(marks_by_key(evaluations)), undisturbed.rows([task.key for task in evaluations])
    )


# What each setting changes, and what stays valid


def kind_of(task) -> str:
    if not isinstance(task, EvaluateTask):
        return type(task).__name__
    method = task.method if task.method in ("full", "random", *UNTRAINED) else "search"
    return f"{method} on {task.network}"


SCORES = {f"{method} on main" for method in ("search", "random", *UNTRAINED)}
CROSS = {f"{method} on other" for method in ("search", "random")}
SETS = {"DistillTask", "MeasureTask", "search on main", "search on other"}
SIXTEEN = TRAINING | {"precision": "bfloat16"}


@pytest.mark.parametrize(
    ("group", "values", "changes"),
    [
        ("evaluation", {"training": SIXTEEN}, SCORES | CROSS),
        ("evaluation", {"full_set": SIXTEEN}, {"full on main", "full on other"}),
        ("evaluation", {"protocol": "dm"}, SCORES | CROSS),
        ("evaluation", {"protocol": "dm", "training": TRAINING | {"schedule": "warmup_cosine"}}, set()),
        ("evaluation", {"networks": {"other": {"lr": 0.5}}}, CROSS),
        ("evaluation", {"networks": {"other": {"test_precision": "bfloat16"}}}, CROSS),
        ("evaluation", {"networks": {"other": {}}}, set()),
        ("metric", {"training": SIXTEEN}, SETS | {"ClassifierTask", "herding on main", "k_center on main"}),
        ("metric", {"training": TRAINING | {"precision": "float32"}}, set()),
        ("metric", {"options": {"layer": 0}}, SETS),
        ("search", {"truncation": 0.5}, SETS),
    ],
)
def test_a_setting_changes_the_keys_of_what_follows_from_it_and_no_other(prior_file, group, values, changes):
    def kinds(profile: dict) -> dict[str, str]:
        studies = profile["studies"] | {"baselines": list(UNTRAINED)}
        tasks = plan(profile_from(**profile | {"prior": prior_file, "studies": studies}))
        return {task.key: kind_of(task) for task in tasks}

    before, after = kinds(PROFILE), kinds(PROFILE | {group: PROFILE[group] | values})
    assert set(before.values()) == set(after.values())
    assert {before[key] for key in before.keys() - after.keys()} == changes
    assert {after[key] for key in after.keys() - before.keys()} == changes


def test_more_studies_leave_the_keys_of_the_others(profile, baseline_profile):
    more = replace(profile.studies, baselines=UNTRAINED, augmentations=("crop",))
    before, after = (
        {task.key for task in plan(replace(profile, studies=s))} for s in (profile.studies, more)
    )
    assert before < after


COMMITTED = [
    (name, experiment)
    for name in ("digits", "digits-search")
    for experiment in experiments_of(read_profile(PROJECT / "configs" / f"{name}.yaml"))
]


@pytest.mark.parametrize(("name", "experiment"), COMMITTED)
def test_committed_results_stay_valid(name, experiment):
    """A key that moved would make everybody compute the profile again."""
    store = Store(PROJECT / "data" / "results" / name)
    tasks = plan(read_profile(PROJECT / "configs" / f"{name}.yaml"), experiment)
    assert [task for task in tasks if not task.done(store)] == []


@pytest.mark.parametrize("name", ["digits", "digits-search"])
def test_every_committed_result_has_its_task(name):
    keys = {task.key for task in plan(read_profile(PROJECT / "configs" / f"{name}.yaml"))}
    parts = [
        (PROJECT / "data" / "results" / name / part).glob("*")
        for part in ("evaluations", "sets", "distances")
    ]
    kept = {path.name.split(".")[0] for part in parts for path in part if not path.name.startswith(".")}
    assert kept and kept <= keys


# What a notebook takes from the results


def test_the_layer_of_glad_is_that_of_its_objective(profile):
    tuned = {"dm": {"tuned": {"single": {"layer": 3, "lr_features": 0.5}, "pixels": {"lr_pixels": 0.7}}}}
    changed = replace(profile, surrogate=replace(profile.surrogate, objectives=tuned))
    assert changed.searched("dm", "single").layer == 3 and changed.searched("dc", "single").layer == 2
    tasks = of_kind(plan(changed, "hierarchical_search"), DistillTask)
    rates = {(t.settings.kind, t.settings.search.lr_features, t.settings.search.lr_pixels) for t in tasks}
    assert rates == {("pixels", 0.1, 0.7), ("single", 0.5, 0.1), ("hierarchical", 0.1, 0.1)}


def test_a_search_may_differ_at_a_number_of_images_per_class(profile):
    tuned = {"hierarchical": {"average": 5, "lr_features": 0.5}}
    own = {"tuned": tuned, "at_ipc": {"2": {"average": 1, "steps": 9}}}  # as papermill has it
    two = replace(
        profile,
        sets=profile.sets | {"ipc": [1, 2]},
        surrogate=replace(profile.surrogate, objectives={"dm": own}),
    )
    of_dm = [t.settings for t in of_kind(plan(two, "hierarchical_search"), DistillTask)]
    found = {(s.kind, s.ipc): s.search for s in of_dm if s.objective == "dm"}
    first, second = found["hierarchical", 1], found["hierarchical", 2]
    assert (first.average, first.steps) == (5, profile.search.steps)
    assert second == replace(first, average=1, steps=9) and second.lr_features == 0.5
    assert found["pixels", 2].steps == 9 != found["pixels", 1].steps


def test_an_objective_may_take_fewer_images_per_class(profile):
    objectives = profile.objectives | {"dm": {"ipc": [2]}}
    part = replace(profile, surrogate=replace(profile.surrogate, objectives=objectives))
    tasks = of_kind(plan(part, "hierarchical_search"), EvaluateTask)
    assert {task.ipc for task in tasks if task.distilled} == {2}
