"""`hglad run` as a user has it: processes, Snakemake, jobs, lines on the terminal."""

import json
import signal
import subprocess
import time
from itertools import product

import pytest
from batch_runs import command, hglad_run, is_running, results_of, tiny_profile
from PIL import Image

from hglad.experiments.definitions import plan
from hglad.experiments.profile_file import read_profile

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that has been through, with what it printed; its path means something to YAML and Snakemake."""
    folder = tmp_path_factory.mktemp("run")
    config, results = tiny_profile(folder), folder / "res {job} #1: 2"
    return config, results, hglad_run(config, results, SNAKEMAKE_PROFILE="elsewhere")


def events(run: subprocess.CompletedProcess) -> list[dict]:
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_a_run_computes_every_result_and_says_so_line_by_line(finished):
    config, results, run = finished
    assert run.returncode == 0, run.stderr
    tasks = plan(read_profile(config))
    assert f"tiny: {len(tasks)} tasks in 4 jobs, 2 at once on cpu" in run.stdout
    assert "[4/4] evaluate" in run.stdout and "4 of 4 jobs done" in run.stdout
    assert len(results_of(results)) == 2 + 4  # sets; evaluations of two sets and of two random ones


def test_a_second_run_does_nothing(finished):
    config, results, _ = finished
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*")}
    run = hglad_run(config, results)
    assert run.returncode == 0 and "nothing to do" in run.stdout
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*")} == before


def test_a_changed_seed_computes_its_own_results_only(finished, tmp_path):
    _, results, _ = finished
    changed = tiny_profile(tmp_path, sets={"seeds": [0, 2]})
    (planned,) = events(hglad_run(changed, results, "--dry-run", "--json"))
    computed = [key for job in planned["jobs"] for key in job["tasks"]]
    old = {task.key for task in plan(read_profile(finished[0]))}
    assert (
        planned["dry"] and len(computed) == 3 and not old & set(computed)
    )  # set, its evaluation, random images


def test_a_dry_run_computes_nothing_and_estimates(tmp_path):
    run = hglad_run(tiny_profile(tmp_path), tmp_path / "results", "--dry-run")
    assert run.returncode == 0 and "about" in run.stdout and "distil dm pixels ipc 1, seeds 0 1" in run.stdout
    assert not (tmp_path / "results").exists()


def test_what_happens_is_readable_by_a_program(tmp_path):
    run = hglad_run(tiny_profile(tmp_path), tmp_path / "results", "--json")
    found = events(run)
    kinds = [event["event"] for event in found]
    assert kinds[0] == "plan" and kinds[-1] == "end" and kinds.count("done") == 4
    assert found[-1]["failed"] == {} and found[-1]["done"] == 4
    shares = [event["share"] for event in found[1:-1]]
    assert shares == sorted(shares) and shares[-1] == 1


def test_a_failing_job_is_named_and_the_others_are_done(tmp_path):
    """A folder in the place of one result."""
    config, results = tiny_profile(tmp_path), tmp_path / "results"
    task = next(task for task in plan(read_profile(config)) if getattr(task, "method", "") == "random")
    (results / "evaluations" / f"{task.key}.json").mkdir(parents=True)
    run = hglad_run(config, results, "--quiet")
    assert run.returncode == 3 and run.stdout == ""
    assert run.stderr.count("\n") == 1 and "it is a folder" in run.stderr and "evaluate" in run.stderr
    assert len(results_of(results)) == 2 + 3


def test_paths_in_a_profile_are_seen_from_where_the_run_was_started(tmp_path):
    """Images in a folder beside the profile."""
    for split, label, index in product(("train", "test"), ("dark", "light"), range(4)):
        path = tmp_path / "images" / split / label / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 10 + index + 200 * (label == "light")).save(path)
    data = {"name": "folder", "root": "images", "resolution": 8}
    config = tiny_profile(tmp_path, data=data, surrogate={"batch_real": 2})
    run = hglad_run(config, tmp_path / "results", folder=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_scheduler_s_end_leave_no_process_behind(tmp_path, sign):
    config = tiny_profile(
        tmp_path, search={"steps": 4000}, sets={"seeds": [0]}, studies={"matching_seeds": 1}
    )
    results = tmp_path / "results"
    process = subprocess.Popen(command(config, results, "--quiet"), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while not list(results.glob(".batch/*/started/distil-*.json")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    (note,) = results.glob(".batch/*/started/distil-*.json")
    job = json.loads(note.read_text())["pid"]
    process.send_signal(sign)
    assert process.wait(30) == 130 and "goes on" in process.stderr.read()
    assert not is_running(job)


def test_a_bumped_version_recomputes_what_used_it_and_says_why(finished):
    """In a copy of the code whose distribution matching calls itself version 2."""
    config, results, _ = finished
    bumped = "import sys, hglad.objectives.dm as dm; dm.VERSION = 2; "
    bumped += "from hglad.cli import main; sys.exit(main(sys.argv[1:]))"
    python, _, _, *words = command(config, results, "--dry-run", "--json")
    run = subprocess.run([python, "-c", bumped, *words], capture_output=True, text=True)
    (planned,) = events(run)
    assert planned["tasks"] == 4  # two sets and their evaluations
    assert all("version 1, now 2" in reason for reason in planned["reasons"]), planned["reasons"]
