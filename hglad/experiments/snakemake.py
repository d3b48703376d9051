"""Snakemake at work on the plan of a run, and what it says when jobs fail."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hglad.errors import HgladError
from hglad.experiments.batch_folder import Machine, RunFolder, read_note
from hglad.experiments.jobs import Job
from hglad.paths import PROJECT

SNAKEFILE = Path(__file__).with_name("Snakefile")
PATIENCE = 20.0  # seconds that jobs get to end after Ctrl-C


@contextmanager
def snakemake(
    folder: RunFolder, machine: Machine, cluster: Path | None = None, options: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen]:
    """Snakemake at work on the plan of a folder; ended with all its jobs when the body is left early."""
    words = [sys.executable, "-m", "hglad.experiments.lifeline", "snakemake", "--snakefile", SNAKEFILE]
    words += ["--directory", folder.path]
    words += ["--nolock", "--keep-going", "--workflow-profile", "none", "--rerun-triggers", "mtime"]
    words += ["--scheduler", "greedy", "--nocolor", "--quiet", "progress"]
    if cluster:
        words += ["--profile", cluster.resolve()]
    else:
        words += ["--cores", str(machine.cores), "--resources", f"gpu={machine.gpus}"]
    with open(folder.path / "snakemake.log", "wb") as log:
        process = subprocess.Popen(
            [*map(str, words), *options], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True, env=_environment(),
        )  # fmt: skip
    try:
        yield process
        process.wait()
    finally:
        _end(process)


def _environment() -> dict[str, str]:
    """The present one, with this very library for all jobs, wherever they work."""
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    own = {name: value for name, value in os.environ.items() if name != "SNAKEMAKE_PROFILE"}
    return own | {"TQDM_DISABLE": "1", "PYTHONPATH": path}


def _end(process: subprocess.Popen) -> None:
    """End Snakemake and the jobs in its session: asked first, on a cluster it cancels them, then killed."""
    for sign in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(PATIENCE)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def failures(folder: RunFolder, jobs: list[Job]) -> dict[str, str]:
    """Why jobs are not done, by name: what they said, or that they were killed or never began.

    Raises:
        HgladError: Snakemake failed before any job began.
    """
    done, failed, started = (folder.noted(kind) for kind in ("done", "failed", "started"))
    open_ones = [job for job in jobs if job.name not in done]
    if open_ones and not started:
        raise HgladError(f"Snakemake does not start: {_last_words(folder)}; all it said is in {folder.path}")
    return {job.name: _why_failed(job, folder, done, failed, started) for job in open_ones}


def _why_failed(job: Job, folder: RunFolder, done: dict, failed: dict, started: dict) -> str:
    log = folder.path / "logs" / f"{job.name}.log"
    if job.name in failed:
        return f"{read_note(failed[job.name]).get('error', 'failed')} (log: {log})"
    said = [line for line in _lines(log) if line.startswith("hglad: ")]
    if said:
        return f"{said[-1].removeprefix('hglad: ')} (log: {log})"
    if job.name in started:
        return f"killed, for lack of memory (--cores N: fewer at once) or at a time limit (log: {log})"
    if all(need in done for need in job.needs):
        return f"not begun: {_last_words(folder)} (log: {folder.path / 'snakemake.log'})"
    return "not begun: a job that it needs is not done"


def _last_words(folder: RunFolder) -> str:
    """The first line of Snakemake that speaks of an error, else its last one."""
    lines = _lines(folder.path / "snakemake.log")
    errors = [line for line in lines if "error" in line.lower()]
    return [*errors[:1], *reversed(lines), "it printed nothing"][0]


def _lines(file: Path) -> list[str]:
    """Lines of a text that are not empty; none where there is no file."""
    text = file.read_text(errors="replace") if file.is_file() else ""
    return [line.strip() for line in text.splitlines() if line.strip()]
