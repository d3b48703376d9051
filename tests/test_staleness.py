"""Why a result is missing: what a raised version renews, and what it leaves alone."""

import json
import shutil
from importlib import import_module
from pathlib import Path
from time import process_time

import pytest
from replacing import replace

from hglad.experiments.evaluation_task import EvaluateTask
from hglad.experiments.staleness import DAMAGED, NEW, Reasons
from hglad.experiments.store import Store
from hglad.experiments.tasks import ClassifierTask, DistillTask, ExpertTask, MeasureTask
from hglad.experiments.versions import MODULES
from hglad.storage import write_json


def fresh(tasks: list) -> list:
    """The same tasks as a new process would plan them: keys are kept by those that were asked."""
    return [replace(task) for task in tasks]


def named(task) -> str:
    """Kind of a task, with its objective or method."""
    if isinstance(task, EvaluateTask):
        source = f" of {task.distilled.objective}" if task.distilled else ""
        return f"{task.method}{source} scored"
    if isinstance(task, (DistillTask, MeasureTask)):
        return f"{task.settings.kind} of {task.settings.objective} {type(task).__name__}"
    return type(task).__name__


def test_every_kind_of_task_is_there(tiny_tasks, tiny_store):
    kinds = {ClassifierTask, ExpertTask, DistillTask, MeasureTask, EvaluateTask}
    assert {type(task) for task in tiny_tasks} == kinds
    assert all(task.done(tiny_store) for task in tiny_tasks)


SCORED = {"random scored", "full scored", "herding scored", "samples scored", "class_mean scored"}
PIXELS = {"pixels of dm DistillTask", "pixels of dm MeasureTask", "pixels of dm scored"}
SINGLE = {"single of dm DistillTask", "single of dm scored"}
MTT = {"pixels of mtt DistillTask", "pixels of mtt scored"}
SEARCHED = PIXELS | SINGLE | MTT


@pytest.mark.parametrize(
    ("module", "component", "renewed"),
    [
        ("search", "search", SEARCHED),
        ("objectives.dm", "objective dm", PIXELS | SINGLE),
        ("metrics.class_relevant", "metric class_relevant", SEARCHED),
        ("metrics.random_feature", "metric random_feature", set()),
        ("priors.stylegan_xl", "prior stylegan_xl", SINGLE | {"samples scored"}),
        ("priors.pixels", "prior pixels", PIXELS | MTT),
        ("experts", "experts", MTT | {"ExpertTask"}),
        ("baselines", "baselines", SCORED),
        ("training", "training", SEARCHED | SCORED | {"ClassifierTask", "ExpertTask"}),
        ("networks.vit", "network vit", set()),
    ],
)
def test_a_raised_version_renews_what_used_it_and_says_why(
    tiny_tasks, tiny_store, monkeypatch, module, component, renewed
):
    before = {task.key for task in tiny_tasks}
    monkeypatch.setattr(import_module(MODULES.get(module, f"hglad.{module}")), "VERSION", 2)
    reasons = Reasons(tiny_store)
    tasks = fresh(tiny_tasks)
    missing = [task for task in tasks if not task.done(tiny_store)]
    assert {named(task) for task in missing} == renewed
    assert {reasons.why(task) for task in missing} == (
        {f"{component} version 1, now 2"} if renewed else set()
    )
    assert {task.key for task in tasks} - before == {task.key for task in missing}
    assert all(component in task.versions for task in missing)


def test_two_raised_versions_are_both_named(tiny_tasks, tiny_store, monkeypatch):
    monkeypatch.setattr(import_module("hglad.search.loop"), "VERSION", 2)
    monkeypatch.setattr(import_module("hglad.objectives.dm"), "VERSION", 3)
    task = next(task for task in fresh(tiny_tasks) if named(task) == "pixels of dm scored")
    assert Reasons(tiny_store).why(task) == "objective dm version 1, now 3; search version 1, now 2"


def test_another_setting_is_new(tiny_tasks, tiny_store, monkeypatch):
    monkeypatch.setattr(import_module("hglad.search.loop"), "VERSION", 2)
    task = next(task for task in fresh(tiny_tasks) if named(task) == "pixels of dm scored")
    assert Reasons(tiny_store).why(replace(task, repeats=7)) == NEW


def test_a_mark_of_the_rows_makes_nothing_new(tiny_tasks):
    task = next(task for task in fresh(tiny_tasks) if named(task) == "random scored")
    marked = replace(task, variant="a part", augmentation="another", generator="a name")
    assert (marked.key, marked.request) == (task.key, task.request)


def test_everything_is_new_in_an_empty_store(tiny_tasks, tmp_path):
    assert {Reasons(Store(tmp_path)).why(task) for task in fresh(tiny_tasks)} == {NEW}


def forget(file: Path) -> None:
    """Take the versions out of a JSON file, as those have it that were made before they were recorded."""
    content = json.loads(file.read_text())
    for name in ("request", "algorithms", "key"):
        del content["provenance"][name]
    file.write_text(json.dumps(content))


def test_results_without_recorded_versions_are_of_the_first_ones(
    tiny_tasks, tiny_store, tmp_path, monkeypatch
):
    shutil.copytree(tiny_store.root, tmp_path / "results")
    store = Store(tmp_path / "results")
    for pattern in ("sets/*/card.json", "evaluations/*.json", "distances/*.json"):
        for file in store.root.glob(pattern):
            forget(file)
    monkeypatch.setattr(import_module("hglad.objectives.dm"), "VERSION", 2)
    missing = [task for task in fresh(tiny_tasks) if not task.done(store)]
    assert {named(task) for task in missing} == PIXELS | SINGLE
    assert {Reasons(store).why(task) for task in missing} == {"objective dm version 1, now 2"}


def test_of_several_results_the_newest_is_compared(tiny_tasks, tiny_store, tmp_path, monkeypatch):
    task = next(task for task in fresh(tiny_tasks) if named(task) == "random scored")
    store = Store(tmp_path)
    for training, day in ((1, "2020-01-03"), (2, "2020-01-01")):
        content = json.loads(tiny_store.evaluation_file(task.key).read_text())
        content["provenance"] |= {"started": day}
        content["provenance"]["algorithms"]["training"] = training
        write_json(store.evaluation_file(f"version-{training}"), content)
    monkeypatch.setattr(import_module("hglad.evaluation.training"), "VERSION", 3)
    assert Reasons(store).why(fresh([task])[0]) == "training version 1, now 3"


def test_a_damaged_file_is_a_reason_of_its_own(tiny_tasks, tiny_store, tmp_path):
    task = next(task for task in fresh(tiny_tasks) if named(task) == "random scored")
    file = Store(tmp_path).evaluation_file(task.key)
    file.parent.mkdir()
    file.write_bytes(tiny_store.evaluation_file(task.key).read_bytes()[:-20])
    assert not task.done(Store(tmp_path)) and Reasons(Store(tmp_path)).why(task) == DAMAGED


def test_a_thousand_tasks_take_no_time(tiny_tasks, tiny_store, tmp_path, monkeypatch):
    task = next(task for task in fresh(tiny_tasks) if named(task) == "random scored")
    content = json.loads(tiny_store.evaluation_file(task.key).read_text())
    tasks, store = [replace(task, seed=seed) for seed in range(1000)], Store(tmp_path)
    store.evaluation_file("x").parent.mkdir(parents=True)
    for each in tasks:
        content["provenance"] |= each.declared()
        store.evaluation_file(each.key).write_text(json.dumps(content))
    monkeypatch.setattr(import_module("hglad.evaluation.training"), "VERSION", 2)
    begin = process_time()
    reasons = Reasons(store)
    assert {reasons.why(each) for each in fresh(tasks)} == {"training version 1, now 2"}
    assert process_time() - begin < 5  # about 0.5 s on one core
