"""Whatever ends a run, the next one ends with the results of an undisturbed run."""

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from batch_runs import command, hglad_run, is_running, results_of, tiny_profile

pytestmark = pytest.mark.slow
KILLS = 30


def processes_of(session: int) -> list[int]:
    """All processes that a run has started: those below its first one."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout
    parents = {int(pid): int(parent) for pid, parent in (line.split() for line in listed.splitlines())}
    found = {session}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def kill(words: list[str], rng: random.Random) -> tuple[bool, bool]:
    """Start a run, kill one of its processes at some moment, the first one half of the time.

    Returns:
        Whether it was still at work then, and whether it was at work on results.
    """
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    results = Path(words[words.index("--results") + 1])
    if rng.random() < 0.8:  # mostly when jobs are at work, or soon will be
        known = set(results.glob(".batch/*/started/*"))
        while process.poll() is None and not set(results.glob(".batch/*/started/*")) - known:
            time.sleep(0.02)
    time.sleep(rng.uniform(0, 1.5))
    alive = process.poll() is None
    victims = processes_of(process.pid)
    victim = process.pid if rng.random() < 0.5 else rng.choice(victims)
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    process.wait(60)
    return alive, len(victims) > 2


def test_thirty_kills_at_random_moments_change_no_result(tmp_path):
    """Long searches, states saved at every step, so that kills hit all phases of a run."""
    rng = random.Random(0)
    config = tiny_profile(
        tmp_path, search={"steps": 60}, sets={"seeds": [0, 1, 2]}, studies={"matching_seeds": 3}
    )
    undisturbed = hglad_run(config, tmp_path / "undisturbed", "--quiet")
    assert undisturbed.returncode == 0, undisturbed.stderr
    results, killed, rounds = tmp_path / "killed", [], 0
    while len(killed) < KILLS:
        alive, busy = kill(command(config, results, "--quiet"), rng)
        if alive:
            killed.append(busy)
            continue
        rounds += 1  # it was finished: begin anew
        assert results_of(results) == results_of(tmp_path / "undisturbed")
        results = tmp_path / f"killed-{rounds}"
    assert sum(killed) > KILLS / 2
    assert hglad_run(config, results, "--quiet").returncode == 0
    assert results_of(results) == results_of(tmp_path / "undisturbed")
    assert not list(results.rglob("*.state")) and not list(results.rglob("*.parts"))


def test_two_runs_on_one_folder_share_the_work(tmp_path):
    config, results = tiny_profile(tmp_path, search={"steps": 60}), tmp_path / "results"
    first, second = (
        subprocess.Popen(command(config, results, "--quiet"), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    )
    assert (first.wait(120), second.wait(120)) == (0, 0), first.stderr.read() + second.stderr.read()
    assert hglad_run(config, tmp_path / "alone", "--quiet").returncode == 0
    assert results_of(results) == results_of(tmp_path / "alone")


def test_the_locks_of_a_dead_run_do_not_stand_in_the_way(tmp_path):
    config, results = tiny_profile(tmp_path, search={"steps": 4000}), tmp_path / "results"
    process = subprocess.Popen(command(config, results, "--quiet"))
    while not list(results.glob(".batch/*/started/distil-*.json")):
        assert process.poll() is None
        time.sleep(0.05)
    jobs = processes_of(process.pid)
    process.kill()
    process.wait()
    time.sleep(0.5)
    assert not [pid for pid in jobs if is_running(pid)], "its jobs go on without it"
    (dead,) = results.glob(".batch/*/.snakemake/locks")
    shorter = tiny_profile(tmp_path)
    assert hglad_run(shorter, results, "--quiet").returncode == 0
    assert dead.exists()  # kept with its logs, and in nobody's way


def test_a_results_folder_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "results").write_text("a file")
    run = hglad_run(tiny_profile(tmp_path), tmp_path / "results")
    assert (
        run.returncode == 1 and run.stderr.startswith("hglad: cannot write") and run.stderr.count("\n") == 1
    )


def test_a_damaged_result_is_made_again(tmp_path):
    """A set cut short after its run, whose evaluations are missing."""
    config, results = tiny_profile(tmp_path), tmp_path / "results"
    assert hglad_run(config, results, "--quiet").returncode == 0
    whole = results_of(results)
    for path in results.glob("evaluations/*"):
        path.unlink()
    damaged = next(results.glob("sets/*/distilled.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert hglad_run(config, results, "--quiet").returncode == 0
    assert results_of(results) == whole
