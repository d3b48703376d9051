"""What happens in a run, read from the notes of its jobs: they may be on other machines."""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from hglad.experiments.batch_folder import RunFolder, read_note
from hglad.experiments.jobs import Job

EVERY = 0.25  # seconds between two looks


@dataclass(frozen=True)
class Event:
    """Something that has happened to a job, and how far the whole run is then."""

    kind: str
    """`started`, `done`, `failed`, or `progress` within jobs."""
    job: Job | None
    share: float
    """Of the estimated work that is done."""
    content: dict = field(default_factory=dict)
    """What the job noted."""


def follow(folder: RunFolder, process: subprocess.Popen, jobs: list[Job]) -> Iterator[Event]:
    """Events until Snakemake ends, each job's in their order."""
    look, ended = _Look(folder, jobs), False
    while not ended:
        ended = process.poll() is not None  # before the look, which then misses nothing
        yield from look.news()
        if not ended:
            time.sleep(EVERY)


class _Look:
    def __init__(self, folder: RunFolder, jobs: list[Job]):
        self.folder, self.jobs = folder, {job.name: job for job in jobs}
        self.seen: dict[str, set[str]] = {kind: set() for kind in ("started", "done", "failed")}
        self.shares = dict.fromkeys(self.jobs, 0.0)
        self.total = sum(job.seconds for job in jobs) or 1.0

    def news(self) -> Iterator[Event]:
        """What is new since the last look."""
        before = dict(self.shares)
        for job, path in self.folder.noted("progress").items():
            if job in self.seen["done"]:
                continue
            self.shares[job] = max(self.shares[job], read_note(path).get("share", 0.0))
        for kind, seen in self.seen.items():
            files = self.folder.noted(kind)
            for job in sorted(files.keys() - seen, key=lambda name: files[name].stat().st_mtime):
                seen.add(job)
                self.shares[job] = 1.0 if kind == "done" else self.shares[job]
                yield Event(kind, self.jobs[job], self.share, read_note(files[job]))
        if self.shares != before:
            yield Event("progress", None, self.share)

    @property
    def share(self) -> float:
        """Of the estimated work that is done."""
        return sum(share * self.jobs[name].seconds for name, share in self.shares.items()) / self.total
