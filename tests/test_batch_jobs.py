"""Jobs: what they hold, what they wait for, how long they are expected to take."""

import json
import time
from collections import Counter
from statistics import median

import pytest
from batch_runs import tiny_profile

from hglad.errors import HgladError
from hglad.experiments import engine
from hglad.experiments.batch_folder import KEPT, Machine, RunFolder
from hglad.experiments.console import Console, JsonLines, Lines, Outcome, Plan
from hglad.experiments.definitions import plan
from hglad.experiments.estimates import Estimates, as_text, wall_seconds
from hglad.experiments.follow import Event
from hglad.experiments.gpus import one_gpu
from hglad.experiments.jobs import WORTH, group
from hglad.experiments.profile_file import read_profile
from hglad.experiments.rules import RULES, PriorTask, from_plain, needs, rule_of, to_plain
from hglad.experiments.runner import missing_tasks
from hglad.experiments.store import Store
from hglad.experiments.tasks import MeasureTask
from hglad.paths import PROJECT
from hglad.provenance import record_of
from hglad.search.distillation import DistillationSettings


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """All tasks of the smoke profile, with those that only they need."""
    return missing_tasks(
        plan(read_profile(PROJECT / "configs" / "smoke.yaml")), Store(tmp_path_factory.mktemp("s"))
    )


def test_the_smoke_profile_has_tasks_of_every_rule_that_computes(smoke):
    assert {rule_of(task) for task in smoke} == {"classifier", "experts", "distil", "measure", "evaluate"}


def test_a_task_survives_the_way_through_json(smoke):
    for task in smoke:
        again = from_plain(json.loads(json.dumps(to_plain(task))))
        assert again == task and again.key == task.key


def test_a_task_that_code_or_data_have_left_behind_is_refused(smoke):
    with pytest.raises(HgladError, match="changed since the run began; start hglad run again"):
        from_plain(to_plain(smoke[0]) | {"key": "0123456789ab"})


@pytest.mark.parametrize("longest", [0.0, 5.0, 1e9])
@pytest.mark.parametrize("at_once", [1, 2, 64])
def test_jobs_hold_every_task_once_and_wait_for_what_they_read(smoke, longest, at_once):
    jobs = group(smoke, Estimates().seconds, longest, at_once)
    held = [task.key for job in jobs for task in job.tasks]
    assert sorted(held) == sorted(task.key for task in smoke)
    home, order = {task.key: job.name for job in jobs for task in job.tasks}, [job.name for job in jobs]
    for job in jobs:
        assert {rule_of(task) for task in job.tasks} == {job.rule}
        assert set(job.needs) == {home[need.key] for task in job.tasks for need in needs(task)}
        assert all(order.index(need) < order.index(job.name) for need in job.needs)


def test_a_job_is_as_long_as_asked_unless_one_task_is_longer(smoke):
    for job in group(smoke, lambda task: 3.0, 10.0):
        assert job.seconds <= 10.0
    assert all(len(job.tasks) == 1 for job in group(smoke, lambda task: 30.0, 10.0))


def test_little_work_is_shared_among_processes_as_long_as_that_pays(smoke):
    for at_once, jobs in ((1, 1), (2, 2), (1000, len(smoke) // 4)):
        found = Counter(job.rule for job in group(smoke, lambda task: 2.0, 1e9, at_once))
        assert found["distil"] <= jobs + 1 and (at_once == 1) == (found["distil"] == 1)
    assert all(
        job.seconds >= WORTH / 2 for job in group(smoke, lambda task: 2.0, 1e9, 1000) if len(job.tasks) > 4
    )


def test_titles_name_the_seeds_of_tasks_that_differ_in_nothing_else(tmp_path):
    tasks = plan(read_profile(tiny_profile(tmp_path)))
    titles = [job.title for job in group(tasks, lambda task: 1.0, 2.0)]
    assert "distil dm pixels ipc 1, seeds 0 1" in titles and "classifier digits, seed 0" not in titles
    assert "evaluate random ipc 1 on ConvNet-2, seeds 0 1" in titles


def test_estimates_take_the_record_of_a_task_else_the_rate_of_its_rule():
    store, tasks = (
        Store(PROJECT / "data" / "results" / "digits"),
        plan(read_profile(PROJECT / "configs" / "digits.yaml")),
    )
    evaluations = [task for task in tasks if rule_of(task) == "evaluate"]
    estimates = Estimates.of(evaluations[:3], [store])
    recorded = store.provenance([evaluations[0].key])[0]["seconds"]
    assert estimates.seconds(evaluations[0]) == recorded
    rate = sum(map(estimates.seconds, evaluations[:3])) / sum(task.cost for task in evaluations[:3])
    assert estimates.seconds(evaluations[9]) == pytest.approx(rate * evaluations[9].cost)
    assert estimates.recorded(evaluations[9])


def test_estimates_take_the_rate_of_the_same_architecture_and_of_the_same_search_where_they_can():
    store, profile = Store(PROJECT / "data/results/digits"), read_profile(PROJECT / "configs/digits.yaml")
    tasks = [task for task in plan(profile) if rule_of(task) in ("evaluate", "distil")]
    known = {}
    for task in tasks:
        kind = task.network if rule_of(task) == "evaluate" else (task.settings.objective, task.settings.kind)
        known.setdefault(kind, []).append(task)
    estimates = Estimates.of([own[0] for own in known.values()], [store])
    for first, *others in known.values():
        rate = estimates.exact[first.key] / first.cost
        assert all(estimates.seconds(task) == pytest.approx(rate * task.cost) for task in others)
    assert len({network for network in known if isinstance(network, str)}) > 2


COMMITTED = sorted(folder.name for folder in (PROJECT / "data" / "results").iterdir() if folder.is_dir())


@pytest.mark.parametrize("name", COMMITTED)
def test_guesses_are_near_what_the_committed_results_took(name):
    """On processors. Without the sizes of network and images they would be a hundred times apart."""
    store, ratios = Store(PROJECT / "data" / "results" / name), {}
    tasks = plan(read_profile(PROJECT / "configs" / f"{name}.yaml"))
    for task in (task for task in tasks if rule_of(task) in ("evaluate", "distil")):
        record = record_of(task.place(store))
        if "thread" in record["device"]:
            what = task.network if rule_of(task) == "evaluate" else task.settings.objective
            ratios.setdefault(what, []).append(record["seconds"] / task.cost)
    medians = {what: median(own) for what, own in ratios.items()}
    assert all(0.15 < ratio < 5 for ratio in medians.values()), medians


def test_a_rule_without_a_record_of_its_own_is_guessed():
    tasks = plan(read_profile(PROJECT / "configs" / "digits.yaml"))
    estimates = Estimates.of([], [])
    distil = next(task for task in tasks if rule_of(task) == "distil")
    assert estimates.seconds(distil) == distil.cost and not estimates.recorded(distil)


@pytest.mark.parametrize(
    "seconds,text",
    [
        (0.4, "0 s"),
        (99, "99 s"),
        (100, "2 min"),
        (5990, "1 h 40 min"),
        (12000, "3 h 20 min"),
        (3e5, "3 d 11 h"),
    ],
)
def test_times_are_read_easily(seconds, text):
    assert as_text(seconds) == text


def test_the_time_of_a_run_is_at_least_that_of_its_longest_job(smoke):
    jobs = group(smoke, lambda task: 100.0, 1e9)
    assert wall_seconds(jobs, 1000) > max(job.seconds for job in jobs)
    assert wall_seconds(jobs, 1) > sum(job.seconds for job in jobs)
    assert wall_seconds([], 1) == 0


def test_only_the_folders_of_the_last_runs_are_kept_and_none_of_a_living_one(tmp_path, monkeypatch):
    names = iter(range(20261121, 20261199))
    monkeypatch.setattr(time, "strftime", lambda form: str(next(names)))
    living = RunFolder.create(tmp_path)
    with living.alive():
        for _ in range(KEPT + 3):
            newest = RunFolder.create(tmp_path)
        assert living.path.is_dir() and newest.path.is_dir()
        assert len(list((tmp_path / ".batch").iterdir())) == KEPT + 1
    RunFolder.create(tmp_path)
    assert not living.path.exists()


def test_jobs_at_the_same_time_take_different_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    from os import environ

    with one_gpu(tmp_path, 2):
        assert environ["CUDA_VISIBLE_DEVICES"] == "2"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")  # as another process has it
        with one_gpu(tmp_path, 2):
            assert environ["CUDA_VISIBLE_DEVICES"] == "5"
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
            with pytest.raises(HgladError, match="GPUs of the run are taken"), one_gpu(tmp_path, 2):
                pass
    with one_gpu(tmp_path, 2):  # free again
        assert environ["CUDA_VISIBLE_DEVICES"] == "2"


def test_with_one_gpu_there_is_nothing_to_choose(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with one_gpu(tmp_path, 1), one_gpu(tmp_path, 1):
        pass
    assert not list(tmp_path.iterdir())


def test_tasks_that_wait_are_not_together_with_such_as_need_not(smoke):
    missing = {task.key for task in smoke}
    for job in group(smoke, lambda task: 1.0, 1e9):
        waiting = {any(need.key in missing for need in needs(task)) for task in job.tasks}
        assert len(waiting) == 1


@pytest.mark.parametrize("console", [Console, Lines, JsonLines])
def test_a_failure_is_told_by_every_console(console, capsys, tmp_path):
    tasks = plan(read_profile(tiny_profile(tmp_path)))
    jobs = group(tasks, lambda task: 1.0, 100.0)
    told, report = console(), Plan("tiny", jobs, len(tasks), Counter(new=len(tasks)), 60.0, 2, "cpu", 0)
    told.plan(report, False)
    told.event(Event("done", jobs[0], 0.3, {"seconds": 2.0}))
    told.event(Event("failed", jobs[1], 0.3, {"error": "no room"}))
    told.end(report, Outcome({jobs[1].name: "no room"}, 12.0, 7.0, tmp_path))
    printed = capsys.readouterr()
    assert "no room" in printed.out + printed.err
    if console is JsonLines:
        assert [json.loads(line)["event"] for line in printed.out.splitlines()] == [
            "plan",
            "done",
            "failed",
            "end",
        ]
    if console is Console:
        assert printed.out == "" and printed.err.count("\n") == 1


def test_a_missing_generator_with_a_recipe_is_a_task_of_its_own(tmp_path, monkeypatch):
    recipe = PROJECT / "configs" / "priors" / "digits-16.yaml"
    monkeypatch.setattr(engine, "prior_recipe", lambda name: recipe if name == "digits-16" else None)
    (task,) = engine._prior_tasks(read_profile(PROJECT / "configs" / "smoke.yaml"))
    assert task.recipe == str(recipe) and task.out.endswith("data/priors/digits-16.safetensors")
    assert from_plain(to_plain(task)) == task


def test_a_plan_is_read_back_as_it_was_written(smoke, tmp_path):
    folder, jobs = RunFolder.create(tmp_path), group(smoke, lambda task: 1.0, 30.0)
    folder.write(jobs, Machine("cuda", cores=8, gpus=2, threads=4), tmp_path, ["program"])
    plan = folder.plan
    assert plan["machine"] == {"device": "cuda", "cores": 8, "gpus": 2, "threads": 4}
    assert set(plan["jobs"]) == {job.name for job in jobs} and plan["rules"] == list(RULES)
    assert all(values["gpu"] == 1 for values in plan["jobs"].values())
    assert [task.key for task in folder.tasks(jobs[-1].name)] == [task.key for task in jobs[-1].tasks]


def test_a_profile_without_a_missing_generator_trains_none(tmp_path):
    assert engine._prior_tasks(read_profile(tiny_profile(tmp_path))) == []


def test_one_experiment_executes_its_own_notebook_only(tmp_path):
    config = PROJECT / "configs" / "smoke.yaml"
    request = engine.Request(config, only="baselines", notebooks=tmp_path, book=tmp_path)
    pages = engine._page_tasks(request, read_profile(config), Store(tmp_path), True)
    assert [rule_of(page) for page in pages] == ["notebook", "book"] and pages[0].name.endswith(
        "baselines.ipynb"
    )


def test_a_missing_measurement_brings_the_experts_that_it_reads(tmp_path):
    profile = read_profile(PROJECT / "configs" / "smoke.yaml")
    task = MeasureTask(DistillationSettings.of(profile, "mtt", "pixels", 1, 0))
    found = missing_tasks([task], Store(tmp_path))
    assert Counter(map(rule_of, found)) == {"measure": 1, "experts": 2}


def test_the_cost_of_a_generator_follows_from_its_recipe():
    costs = {}
    for name in ("digits-16", "cifar10-32", "imagenette-64"):
        costs[name] = PriorTask(str(PROJECT / "configs" / "priors" / f"{name}.yaml"), "out").cost / 3600
    assert costs == pytest.approx({"digits-16": 0.9, "cifar10-32": 0.78, "imagenette-64": 0.67}, rel=0.1)
