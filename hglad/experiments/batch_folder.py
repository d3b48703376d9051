"""The folder of one run of the batch: its plan, what each job has to do, and what has become of it."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from hglad.errors import HgladError
from hglad.experiments.jobs import Job
from hglad.experiments.locks import held
from hglad.experiments.rules import RULES, from_plain, to_plain
from hglad.storage import read_json

KEPT = 3  # folders of earlier runs, for their logs


@dataclass(frozen=True)
class Machine:
    """Where jobs compute."""

    device: str = "cpu"
    """Of every job that trains, `cpu` or `cuda`."""
    cores: int = 1
    """Processors for jobs on this machine."""
    gpus: int = 0
    """GPUs, of which every job that trains takes one."""
    threads: int | None = None
    """Threads of a job; none: as the number of jobs suggests."""


class RunFolder:
    """`plan.json` for Snakemake and the jobs, `tasks/`, `started/`, `done/`, `failed/` and `logs/` by job.

    Snakemake works in this folder, too, so that its locks and records are of one run only: nothing that a
    dead run leaves behind stands in the way of the next one.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path).resolve()

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Keep other runs from removing the folder; where the file system has no locks, they may."""
        with held(self.path / "alive.lock"):
            yield

    @classmethod
    def create(cls, results: Path) -> Self:
        """A new folder under the results; those of the oldest dead runs are removed."""
        batch = results / ".batch"
        _remove_old(batch)
        folder = cls(batch / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
        try:
            folder.path.mkdir(parents=True)
        except OSError as error:
            advice = "give a folder that can be written with --results"
            raise HgladError(f"cannot write {folder.path}: {error.strerror}; {advice}") from error
        return folder

    def write(self, jobs: list[Job], machine: Machine, results: Path, program: list[str]) -> None:
        """Write what Snakemake and the jobs read.

        Args:
            jobs: all of them.
            machine: where they compute.
            results: folder of the results.
            program: command that a job is started with; the names of this folder and of the job follow.
        """
        for job in jobs:
            _write(self.path / "tasks" / f"{job.name}.json", [to_plain(task) for task in job.tasks])
        graph = {
            job.name: {
                "rule": job.rule,
                "title": job.title,
                "needs": job.needs,
                "seconds": round(job.seconds, 1),
                "gpu": int(machine.device != "cpu" and job.rule not in ("notebook", "book")),
            }
            for job in jobs
        }
        plan = {
            "program": program,
            "directory": os.getcwd(),  # paths in a profile are seen from there
            "results": str(results.resolve()),
            "machine": asdict(machine),
            "rules": list(RULES),
            "jobs": graph,
        }
        _write(self.path / "plan.json", plan)

    @property
    def plan(self) -> dict:
        """What `write` wrote."""
        return read_json(self.path / "plan.json")

    def tasks(self, job: str) -> list:
        """Tasks of a job.

        Raises:
            HgladError: no such job, or code and data have changed since the plan was written.
        """
        return [from_plain(plain) for plain in read_json(self.path / "tasks" / f"{job}.json")]

    def note(self, kind: str, job: str, content: dict) -> None:
        """Say what has become of a job: `started`, `progress` or `failed`."""
        _write(self.path / kind / f"{job}.json", content)

    def forget(self, kind: str, job: str) -> None:
        """Take back what `note` said."""
        (self.path / kind / f"{job}.json").unlink(missing_ok=True)

    def noted(self, kind: str) -> dict[str, Path]:
        """Files of that kind, or of `done`, by job."""
        return {path.stem: path for path in (self.path / kind).rglob("*.json")}

    def finish(self, rule: str, job: str, content: dict) -> None:
        """Write what Snakemake takes for the output of a job."""
        _write(self.path / "done" / rule / f"{job}.json", content)

    def log(self, job: str) -> Path:
        """All that a job printed."""
        return self.path / "logs" / f"{job}.log"


def _write(path: Path, content: object) -> None:
    """Write JSON whole or not at all, but without waiting for the disk: these files are of this run only."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(content))
        draft.replace(path)
    except OSError as error:
        raise HgladError(
            f"cannot write {path}: {error.strerror}; check its folder and the free space"
        ) from error


def _remove_old(batch: Path) -> None:
    """Remove the folders of dead runs but for the newest ones."""
    for path in sorted(batch.glob("*-*"), reverse=True)[KEPT - 1 :]:
        lock = FileLock(path / "alive.lock", timeout=0)
        try:
            with lock:
                shutil.rmtree(path, ignore_errors=True)
        except (Timeout, OSError):
            continue


def read_note(path: Path) -> dict:
    """A note; an empty one where it has just been replaced or cannot be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
