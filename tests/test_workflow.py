"""`hglad run`: what is missing and why, jobs, Snakemake; failures, kills, locks, a cluster."""

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path

import psutil
import pytest
import yaml
from faults import fill, mounted, read_only
from slurm_standin import install, submitted

from hglad import storage
from hglad.errors import HgladError, HgladWarning
from hglad.experiments.checks import read_profile
from hglad.experiments.plans import plan
from hglad.experiments.runner import estimated_seconds, missing_tasks, run_all, why_missing
from hglad.experiments.store import Store, held
from hglad.experiments.workflow import RULES, WORTH, Batch, _one_gpu, pack, work
from hglad.paths import PROJECT
from hglad.storage import read_json, write_json

SLURM = PROJECT / "configs" / "cluster" / "slurm" / "config.yaml"
TRAINING = {"epochs": 2, "batch_size": 64, "lr": 0.01, "ema_decay": None, "augmentation": "crop_scale_rotate"}
NETWORK = {"name": "convnet", "depth": 2, "width": 8}


def tiny_config(folder: Path, **changes) -> Path:
    """Write a profile of pixels on digits, seven tasks, or others by keys such as sets={...}."""
    profile = {
        "profile": "tiny",
        "data": {"name": "digits", "resolution": 8},
        "prior": None,
        "surrogate": {"network": NETWORK, "batch_real": 8, "augmentation": ""},
        "objectives": {"dm": {}},
        "search": {"steps": 4, "lr_pixels": 0.1, "select_every": 2},
        "metric": {"network": NETWORK, "training": TRAINING, "compared": []},
        "evaluation": {"repeats": 1, "training": TRAINING, "full_set": TRAINING, "full_set_seeds": 1},
        "networks": {"ConvNet-2": NETWORK},
        "sets": {"objectives": ["dm"], "searches": ["pixels"], "ipc": [1], "seeds": [0, 1]},
        "studies": {"experiments": ["matching_objectives"], "matching_seeds": 2},
    }
    for group, values in changes.items():
        profile[group] = profile[group] | values
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(profile))
    return path


def results_of(folder: Path) -> dict[str, object]:
    """All that is computed, without what says when and where: images, rows, distances, weights."""
    found = {path.relative_to(folder): path.read_bytes() for path in folder.glob("sets/*/*.safetensors")}
    found |= {path.relative_to(folder): read_json(path)["rows"] for path in folder.glob("evaluations/*.json")}
    for path in folder.glob("distances/*.json"):
        found[path.relative_to(folder)] = read_json(path)["distances"]
    return found


def renewed(tasks: list) -> list:
    """The tasks as a new process would plan them: keys are kept by those that were asked."""
    tasks = pickle.loads(pickle.dumps(tasks))
    for task in tasks:
        task.__dict__.pop("key", None)
    return tasks


# What is missing, why, and for how long


def test_experts_and_images_that_were_left_out_are_missing_only_where_a_missing_result_reads_them(
    tiny_tasks, tiny_store, tmp_path
):
    store = Store(shutil.copytree(tiny_store.root, tmp_path / "results"))
    listed = [task for task in tiny_tasks if task.rule != "experts"]
    shutil.rmtree(store.root / "experts")
    assert missing_tasks(listed, store) == []
    (expert,) = (task for task in tiny_tasks if task.rule == "experts")
    matched = next(task for task in listed if task.rule == "distill" and expert in task.requires)
    shutil.rmtree(store.set_folder(matched.key))
    assert missing_tasks(listed, store) == [expert, matched]


def test_a_raised_version_renews_what_used_it_and_says_why(tiny_tasks, tiny_store, tmp_path, monkeypatch):
    store = Store(shutil.copytree(tiny_store.root, tmp_path / "results"))
    assert why_missing(tiny_tasks, Store(tmp_path / "none")) == {"new": len(tiny_tasks)}
    damaged = next(task for task in tiny_tasks if task.rule == "evaluate" and task.method == "random")
    damaged.place(store).write_text("{")
    assert why_missing([damaged], store) == {"its file is damaged": 1}
    monkeypatch.setattr(import_module("hglad.search.loop"), "VERSION", 2)
    monkeypatch.setattr(import_module("hglad.objectives.dm"), "VERSION", 3)
    missing = missing_tasks(renewed(tiny_tasks), tiny_store)
    assert {task.rule for task in missing} == {"distill", "measure", "evaluate"}
    reasons = why_missing(missing, tiny_store)
    both = "objective dm version 1, now 3; search version 1, now 2"
    assert set(reasons) == {both, "search version 1, now 2"} and reasons[both] == 6


def test_estimates_take_the_record_of_a_task_else_the_pace_of_its_rule(tiny_tasks, tiny_store):
    first, other, *_ = (task for task in tiny_tasks if task.rule == "evaluate")
    (expert,) = (task for task in tiny_tasks if task.rule == "experts")
    partial = Store(tiny_store.root.parent / "partial")
    partial.evaluation_file("x").parent.mkdir(parents=True)
    content = read_json(tiny_store.evaluation_file(first.key))
    write_json(partial.evaluation_file(first.key), content)
    seconds, guessed = estimated_seconds([first, other, expert], [partial])
    took = content["provenance"]["seconds"]
    assert seconds[first.key] == took and seconds[expert.key] == expert.cost
    assert seconds[other.key] == pytest.approx(other.cost * took / first.cost)
    assert guessed == {expert.key}


@pytest.mark.parametrize("longest", [0.0, 5.0, 1e9])
@pytest.mark.parametrize("at_once", [1, 2, 64])
def test_jobs_hold_every_task_once_and_wait_for_what_they_read(tiny_tasks, longest, at_once):
    seconds = {task.key: 2.0 for task in tiny_tasks}
    jobs = pack(tiny_tasks, seconds, longest, at_once)
    home = {task.key: job.name for job in jobs for task in job.tasks}
    assert sorted(home) == sorted(seconds) and sum(len(job.tasks) for job in jobs) == len(tiny_tasks)
    order = [job.name for job in jobs]
    for job in jobs:
        assert {task.rule for task in job.tasks} == {job.rule}
        assert len({bool(task.requires) for task in job.tasks}) == 1
        assert set(job.needs) == {home[need.key] for task in job.tasks for need in task.requires}
        assert all(order.index(need) < order.index(job.name) for need in job.needs)
        assert job.seconds <= max(2.0, min(longest, max(WORTH, job.seconds)))
    assert longest > 0 or len(jobs) == len(tiny_tasks)


# Results that are damaged, disks that are full


def test_a_damaged_result_is_made_again_and_no_other(tiny_tasks, tiny_store, tmp_path):
    store = Store(shutil.copytree(tiny_store.root, tmp_path / "results"))
    files = [task.place(store) for task in tiny_tasks] + [*store.root.glob("sets/*/distilled.safetensors")]
    before = {file: file.stat().st_mtime_ns for file in files}
    for number, file in enumerate(files):
        content = file.read_bytes()
        file.write_bytes((content[:-40], b"", bytes(len(content)))[number % 3])
        (lost,) = (task for task in tiny_tasks if not task.done(store))
        assert file in (lost.place(store), lost.place(store).with_name("distilled.safetensors"))
        if number % 3 == 0:
            run_all([lost], store, cores=1)
            before |= {each: each.stat().st_mtime_ns for each in files if each.parent == file.parent}
            assert lost.done(store)
        else:
            file.write_bytes(content)
            os.utime(file, ns=(before[file], before[file]))
        assert {each: each.stat().st_mtime_ns for each in files} == before
    assert results_of(store.root) == results_of(tiny_store.root)


def test_every_kind_of_result_on_a_full_disk_is_one_line_and_is_made_when_there_is_room(
    tiny_tasks, tiny_store, tmp_path, monkeypatch
):
    monkeypatch.setattr(storage, "SAVE_SECONDS", 0)
    with mounted(tmp_path / "disk", 8 * 2**20) as disk:
        store, rules = Store(disk / "results"), set()
        for task in tiny_tasks:
            if task.rule not in rules:
                rules.add(task.rule)
                before, filler = results_of(store.root), fill(disk)
                with (
                    warnings.catch_warnings(),
                    pytest.raises(HgladError, match="No space left on device.*; check"),
                ):
                    warnings.simplefilter("ignore", HgladWarning)  # of states that cannot be saved
                    task.run(store, "cpu")
                assert not task.done(store) and results_of(store.root) == before
                filler.unlink()
            run_all([task], store, cores=1)
        assert len(rules) == 5 and results_of(store.root) == results_of(tiny_store.root)


def test_what_is_there_is_read_from_a_read_only_folder_and_what_is_missing_is_one_line(
    tiny_tasks, tiny_store, tmp_path
):
    root = shutil.copytree(tiny_store.root, tmp_path / "results")
    with read_only(root):
        run_all(tiny_tasks, Store(root), cores=1)
        missing = Store(root / "new")
        with pytest.raises(HgladError, match="^cannot write .*Read-only file system.*; check"):
            run_all(tiny_tasks, missing, cores=1)


# The batch


def test_jobs_at_the_same_time_take_different_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    with _one_gpu(tmp_path, 2):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")  # as another process has it
        with _one_gpu(tmp_path, 2):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
            with pytest.raises(HgladError, match="GPUs of the run are taken"), _one_gpu(tmp_path, 2):
                pass
    with _one_gpu(tmp_path, 2), _one_gpu(tmp_path, 1):  # free again; with one there is nothing to choose
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"


def test_a_dry_run_says_what_is_missing_and_why_and_writes_nothing(tmp_path, capsys):
    assert not Batch(tiny_config(tmp_path), tmp_path / "results", dry_run=True).run()
    said = capsys.readouterr().out
    assert "tiny: 7 tasks in 4 jobs, 1 at once on cpu: about 0:00:" in said and "  7 new\n" in said
    assert "distill: 2 of dm pixels ipc 1" in said and not (tmp_path / "results").exists()


def test_what_a_run_cannot_begin_with_is_one_line(tmp_path):
    batch = Batch(tiny_config(tmp_path), tmp_path / "results")
    with (
        held(tmp_path / "results" / ".batch" / "lock"),
        pytest.raises(HgladError, match="another hglad run is"),
    ):
        batch.run()
    with pytest.raises(HgladError, match="no Snakemake profile at nowhere: expected a folder"):
        Batch(batch.config, cluster=Path("nowhere")).run()
    (tmp_path / "file").write_text("")
    with pytest.raises(HgladError, match="cannot write .*/file"):
        Batch(batch.config, tmp_path / "file").run()


def test_a_task_that_code_or_data_have_left_behind_is_refused(tiny_tasks, tmp_path, monkeypatch):
    job = {"directory": os.getcwd(), "results": str(tmp_path), "threads": 1, "gpus": 0, "device": "cpu"}
    write_json(tmp_path / "plan.json", job)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "a").write_bytes(pickle.dumps([("0123456789ab", tiny_tasks[0])]))
    with pytest.raises(HgladError, match="changed since the run began; start hglad run again"):
        work(tmp_path, "a")


def test_the_slurm_profile_has_a_walltime_and_memory_for_every_rule():
    values = yaml.safe_load(SLURM.read_text())
    assert set(values["set-resources"]) == set(RULES)
    for wanted in values["set-resources"].values():
        assert {"runtime", "mem_mb"} <= (values["default-resources"] | wanted).keys()


# Processes: slow


def command(config: Path, results: Path, *options: str) -> list[str]:
    words = [sys.executable, "-m", "hglad", "run", config, "--results", results, "--cores", "2", *options]
    return [str(word) for word in words]


def hglad_run(config: Path, results: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    words, own = command(config, results, *options), os.environ | environment
    return subprocess.run(words, capture_output=True, text=True, env=own, cwd=config.parent, timeout=300)


@pytest.mark.slow
def test_a_failing_task_is_named_and_the_others_are_done_and_the_next_run_does_the_rest(tmp_path):
    """In a folder whose name means something to YAML, Snakemake and the shell."""
    config, results = tiny_config(tmp_path), tmp_path / "res {job} #1: 2"
    tasks = plan(read_profile(config))
    failing = next(task for task in tasks if getattr(task, "method", "") == "random")
    failing.place(Store(results)).mkdir(parents=True)
    run = hglad_run(config, results, "--quiet", SNAKEMAKE_PROFILE="elsewhere")
    errors = [line for line in run.stderr.splitlines() if line.startswith("hglad: ")]
    assert run.returncode == 3 and run.stdout == "" and len(errors) == 1, run.stderr
    assert "evaluate: 2 of random" in errors[0] and "it is a folder" in errors[0] and "log: " in errors[0]
    assert [task for task in tasks if not task.done(Store(results))] == [failing]
    failing.place(Store(results)).rmdir()
    assert hglad_run(config, results).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*")}
    run = hglad_run(config, results)
    assert run.returncode == 0 and "nothing to do, all 7 results are there" in run.stdout
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*")} == before
    alone = Store(tmp_path / "alone")
    run_all(tasks, alone, cores=1)
    assert results_of(results) == results_of(alone.root)


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_ended_leaves_no_process_behind_and_the_next_one_goes_on(tmp_path, sign):
    config, results = tiny_config(tmp_path, search={"steps": 10**6}), tmp_path / "results"
    process = subprocess.Popen(command(config, results, "--quiet"), stderr=subprocess.DEVNULL)
    wait_for(lambda: (results / ".batch" / "logs" / "distill-0000").is_file())
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(sign)
    assert process.wait(120) == {signal.SIGKILL: -9, signal.SIGINT: 130}[sign]
    wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))
    assert hglad_run(tiny_config(tmp_path), results).returncode == 0


def run_saving(tasks: list, folder: Path) -> None:
    storage.SAVE_SECONDS = 0  # so that the next process goes on from the very step
    run_all(tasks, Store(folder), cores=1)


@pytest.mark.slow
def test_thirty_kills_at_random_moments_change_no_result(tmp_path, kill_midway):
    config = tiny_config(tmp_path, search={"steps": 60}, evaluation={"training": TRAINING | {"epochs": 40}})
    tasks, rng, killed, rounds = plan(read_profile(config)), random.Random(0), 0, 0
    run_saving(tasks, tmp_path / "undisturbed")
    expected = results_of(tmp_path / "undisturbed")
    for _ in range(30):
        folder = tmp_path / f"killed-{rounds}"
        if kill_midway(run_saving, (tasks, folder), lambda: True, rng.uniform(0, 2)):
            killed += 1
        else:  # it was finished: begin anew
            assert results_of(folder) == expected
            rounds += 1
    run_saving(tasks, folder := tmp_path / f"killed-{rounds}")
    assert killed > 10 and results_of(folder) == expected
    assert not [*folder.rglob("*.state"), *folder.rglob("*.parts")]


@pytest.mark.slow
def test_a_cluster_gets_jobs_with_the_resources_of_their_rule(tmp_path):
    values = yaml.safe_load(SLURM.read_text()) | {"latency-wait": 5, "seconds-between-status-checks": 1}
    values |= {"slurm-init-seconds-before-status-checks": 1}
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "config.yaml").write_text(yaml.safe_dump(values))
    environment = {"PATH": f"{install(tmp_path)}:{os.environ['PATH']}", "STANDIN_FOLDER": str(tmp_path)}
    config, words = tiny_config(tmp_path), ("--cluster", str(tmp_path / "profile"), "--threads", "1")
    dry = hglad_run(config, tmp_path / "results", *words, "--dry-run", **environment)
    assert dry.returncode == 0 and not submitted(tmp_path)
    run = hglad_run(config, tmp_path / "results", *words, **environment)
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(submitted(tmp_path)) == 4
    for job in submitted(tmp_path):
        wanted = values["default-resources"] | values["set-resources"][job["comment"].split("_")[1]]
        assert (int(job["runtime"]), int(job["mem"])) == (wanted["runtime"], wanted["mem_mb"])
        assert job["partition"] == "gpu" and not job.get("gpus")


@pytest.mark.slow
def test_the_smoke_profile_runs_through(tmp_path):
    config = PROJECT / "configs" / "smoke.yaml"
    run = hglad_run(config, tmp_path / "results")
    assert run.returncode == 0, run.stderr
    assert missing_tasks(plan(read_profile(config)), Store(tmp_path / "results")) == []
