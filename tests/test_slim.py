"""Results without the images that no page shows: what stays, what is made again, and what others see."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from replacing import replace

from hglad.cli import main
from hglad.errors import HgladError
from hglad.evaluation.sets import DistilledSet, leave_images_out
from hglad.experiments.definitions import metric_ablation, paper_vs_code, plan
from hglad.experiments.evaluation_task import EvaluateTask
from hglad.experiments.profile import Profile
from hglad.experiments.runner import missing_tasks, run_all, why_missing
from hglad.experiments.slim import mebibytes, shown, unneeded_images
from hglad.experiments.store import Store
from hglad.experiments.tasks import DistillTask, MeasureTask
from hglad.settings import KINDS, to_dict


@pytest.fixture(scope="module")
def profile(tiny_profile) -> Profile:
    return replace(tiny_profile, sets=tiny_profile.sets | {"seeds": [0, 1], "ipc": [1, 2, 3]})


@pytest.fixture(scope="module")
def whole_store(profile, tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("slim") / "results")
    run_all(plan(profile), store, cores=1)
    return store


@pytest.fixture
def store(whole_store, tmp_path) -> Store:
    """A copy to change."""
    return Store(shutil.copytree(whole_store.root, tmp_path / "results"))


def sets_of(profile: Profile) -> list[DistillTask]:
    return [task for task in plan(profile) if isinstance(task, DistillTask)]


def slim(profile: Profile, store: Store) -> list[DistillTask]:
    """Leave images out; the sets that had theirs left out."""
    for folder in unneeded_images(profile, store):
        leave_images_out(folder)
    return [task for task in sets_of(profile) if not task.done(store)]


def evaluation_of(task: DistillTask, profile: Profile) -> EvaluateTask:
    tasks = (each for each in plan(profile) if isinstance(each, EvaluateTask) and each.distilled)
    return next(each for each in tasks if each.distilled == task.settings)


def test_images_of_the_first_seed_stay_at_the_first_and_last_ipc(profile, store):
    without = {(task.settings.seed, task.settings.ipc) for task in slim(profile, store)}
    stay = {(task.settings.seed, task.settings.ipc) for task in sets_of(profile) if task.done(store)}
    assert without == {(0, 2), (1, 1), (1, 2), (1, 3)} and stay == {(0, 1), (0, 3)}


def test_pixels_at_the_largest_ipc_stay_only_where_real_images_are_shown(profile):
    hidden = replace(profile, data=replace(profile.data, show=False))
    for each, expected in ((profile, {("pixels", 1), ("pixels", 3)}), (hidden, {("pixels", 1)})):
        kept = {(task.settings.kind, task.settings.ipc) for task in sets_of(each) if shown(task, each)}
        assert kept == expected | {("single", 1), ("single", 3)}


def test_nothing_is_missing_without_them_and_every_row_is_as_it_was(profile, store):
    before = store.rows()
    assert slim(profile, store) and missing_tasks(plan(profile), store) == []
    files = {path: path.stat().st_mtime_ns for path in store.root.rglob("*.*")}
    run_all(plan(profile), store)
    assert files == {path: path.stat().st_mtime_ns for path in store.root.rglob("*.*")}
    assert store.rows().equals(before)
    assert slim(profile, store) and unneeded_images(profile, store) == []


def test_they_are_made_again_the_same_where_a_result_needs_them(profile, store, whole_store):
    task = slim(profile, store)[-1]
    evaluation = evaluation_of(task, profile)
    store.evaluation_file(evaluation.key).unlink()
    missing = missing_tasks(plan(profile), store)
    assert {each.key for each in missing} == {task.key, evaluation.key}
    assert why_missing([task], store) == {"its images were left out": 1}
    run_all(plan(profile), store, cores=1)
    made, first = (DistilledSet.load(each.set_folder(task.key)) for each in (store, whole_store))
    assert torch.equal(made.images, first.images)
    keys = [evaluation.key]
    assert store.rows(keys).equals(whole_store.rows(keys))


def test_images_that_a_missing_result_reads_stay(profile, store):
    task = next(task for task in sets_of(profile) if task.settings.seed == 1)
    store.evaluation_file(evaluation_of(task, profile).key).unlink()
    assert task not in slim(profile, store) and task.done(store)


def test_images_that_a_missing_measurement_reads_are_made_again(profile, store):
    task = next(task for task in slim(profile, store) if task.settings.seed == 1)
    measurement = MeasureTask(task.settings)
    assert missing_tasks([task, measurement], store) == [task, measurement]
    assert missing_tasks([task], store) == []


@pytest.mark.parametrize("studied", [(), ("dc",), ("dm",)])
def test_images_of_the_searches_taken_apart_stay(tiny_profile, studied):
    own = tiny_profile.sets | {"objectives": ["dm", "dc"], "searches": list(KINDS), "seeds": [0, 1]}
    studies = replace(tiny_profile.studies, objectives=studied, audit_seeds=2, part_seeds=2, ablation_seeds=1)
    two = replace(tiny_profile, sets=own, studies=studies)
    for experiment in (paper_vs_code(two), metric_ablation(two)):
        first = {}
        for task in experiment.variants:
            first.setdefault(task.variant, DistillTask(task.distilled))
        assert len(first) > 5 and all(shown(task, two) for task in first.values())
    assert not all(shown(DistillTask(task.distilled), two) for task in experiment.variants)


def test_images_that_got_lost_are_made_again(profile, store):
    task = next(task for task in sets_of(profile) if task.settings.seed == 1)
    (store.set_folder(task.key) / "distilled.safetensors").unlink()
    assert [each.key for each in missing_tasks(plan(profile), store)] == [task.key]


def test_a_set_without_images_says_how_to_get_them(profile, store):
    folder = store.set_folder(slim(profile, store)[0].key)
    with pytest.raises(HgladError, match="delete the folder, and hglad run makes it again") as raised:
        DistilledSet.load(folder)
    assert str(folder) in str(raised.value) and "\n" not in str(raised.value)


@pytest.fixture
def config(profile, tmp_path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(to_dict(profile)))
    return file


def test_the_command_says_what_it_did_and_a_dry_run_deletes_nothing(config, profile, store, capsys):
    command = ["results", "slim", str(config), "--results", str(store.root)]
    size = mebibytes(unneeded_images(profile, store))
    assert main([*command, "--dry-run"]) == 0 and missing_tasks(plan(profile), store) == []
    assert capsys.readouterr().out.startswith("would leave out the images of ")
    assert all(task.done(store) for task in sets_of(profile))
    assert main(command) == 0
    found = capsys.readouterr().out
    assert found.startswith("left out the images of ") and f"{size:.1f} MiB" in found and size > 0
    assert main(command) == 0 and " 0 sets" in capsys.readouterr().out


def test_a_folder_without_results_is_said(config, tmp_path, capsys):
    assert main(["results", "slim", str(config), "--results", str(tmp_path / "none")]) == 1
    assert f"no results in {tmp_path / 'none'}: expected some from hglad run" in capsys.readouterr().err
