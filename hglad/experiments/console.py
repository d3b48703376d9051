"""What `hglad run` prints: lines and a bar for a person, JSON lines for a program, or nothing."""

import json
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from hglad.experiments.estimates import as_text
from hglad.experiments.follow import Event
from hglad.experiments.jobs import Job


@dataclass(frozen=True)
class Plan:
    """What a run is going to do."""

    profile: str
    jobs: list[Job]
    results: int
    """Results of the profile, those that are there included."""
    reasons: Counter
    """Why tasks are to be computed, with their numbers."""
    seconds: float
    """Estimate of the whole run."""
    at_once: int
    """Jobs beside each other."""
    device: str
    guessed: int
    """Tasks that no record is like, so that their time is a guess."""

    @property
    def tasks(self) -> int:
        """Tasks to compute."""
        return sum(len(job.tasks) for job in self.jobs)

    @property
    def why(self) -> str:
        """The reasons in words."""
        return "; ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())


@dataclass(frozen=True)
class Outcome:
    """How a run has ended."""

    failed: dict[str, str]
    """Why jobs are not done, by name."""
    seconds: float
    """Of the whole run."""
    computing: float
    """Seconds of all jobs that went into their tasks; the rest is starts of processes, engine, waiting."""
    folder: Path
    """Plan, notes and logs."""


class Console:
    """Prints nothing but what went wrong; `--quiet`."""

    def say(self, text: str) -> None:
        """A remark."""

    def nothing(self, profile: str, results: int) -> None:
        """All results are there."""

    def plan(self, plan: Plan, dry: bool) -> None:
        """What is going to be done, job by job in a dry run."""

    def event(self, event: Event) -> None:
        """Something has happened to a job."""

    def end(self, plan: Plan, outcome: Outcome) -> None:
        """All is over."""
        titles = {job.name: job.title for job in plan.jobs}
        for job, reason in outcome.failed.items():
            print(f"hglad: {titles[job]}: {reason}", file=sys.stderr)


class Lines(Console):
    """A line for each job, and below them, on a terminal, a bar with the time that is left."""

    def __init__(self):
        self.seen, self.begin, self.bar, self.total, self.seconds = set(), time.time(), None, 0, 0.0

    def say(self, text: str) -> None:
        """Print a remark above the bar."""
        tqdm.write(text)

    def nothing(self, profile: str, results: int) -> None:
        """Say that all results are there."""
        self.say(f"{profile}: nothing to do, all {results} results are there")

    def plan(self, plan: Plan, dry: bool) -> None:
        """Say what is to be done and how long it takes, and open the bar."""
        where = f"{plan.at_once} at once on {plan.device}"
        guess = "a guess" if plan.guessed == plan.tasks else f"by records, a guess for {plan.guessed}"
        basis = guess if plan.guessed else "by records"
        self.say(
            f"{plan.profile}: {_counted(plan.tasks, 'task')} in {_counted(len(plan.jobs), 'job')}, {where}: "
            f"about {as_text(plan.seconds)} ({basis})\n  {plan.why}"
        )
        if dry:
            for job in plan.jobs:
                self.say(f"  {as_text(job.seconds):>10}  {job.title}")
            return
        self.begin, self.seen, self.total, self.seconds = time.time(), set(), len(plan.jobs), plan.seconds
        shape = "{desc} |{bar:30}| {n:.0f}% {postfix}"
        self.bar = tqdm(total=100, desc=plan.profile, bar_format=shape, disable=None, leave=False)

    def event(self, event: Event) -> None:
        """A line for a job that is done or has failed; the bar moves on."""
        if event.kind in ("done", "failed"):
            self.seen.add(event.job.name)  # a job that is tried again counts once
            took = as_text(event.content["seconds"]) if event.kind == "done" else "failed"
            width = len(str(self.total))
            self.say(f"[{len(self.seen):{width}}/{self.total}] {event.job.title}: {took}")
        self.bar.set_postfix_str(f"{as_text(self._left(event.share))} left", refresh=False)
        self.bar.update(100 * event.share - self.bar.n)

    def _left(self, share: float) -> float:
        """By the pace so far, of which little is known in the beginning."""
        expected = self.seconds * (1 - share)
        paced = (time.time() - self.begin) * (1 - share) / share if share else expected
        return share * paced + (1 - share) * expected

    def end(self, plan: Plan, outcome: Outcome) -> None:
        """Close the bar; say what failed and how long it took."""
        self.bar.close()
        super().end(plan, outcome)
        ready = f"{len(plan.jobs) - len(outcome.failed)} of {_counted(len(plan.jobs), 'job')}"
        self.say(f"{plan.profile}: {ready} done in {as_text(outcome.seconds)}")
        if outcome.failed:
            self.say(f"logs: {outcome.folder}; the same command goes on from what is there")


class JsonLines(Console):
    """One JSON object a line on standard output, for programs that watch the run."""

    def _print(self, **content) -> None:
        print(json.dumps(content), flush=True)

    def say(self, text: str) -> None:
        """A line `note`."""
        self._print(event="note", text=text)

    def nothing(self, profile: str, results: int) -> None:
        """A line `nothing`."""
        self._print(event="nothing", profile=profile, results=results)

    def plan(self, plan: Plan, dry: bool) -> None:
        """A line `plan` with every job."""
        jobs = [
            {"job": job.name, "title": job.title, "tasks": [t.key for t in job.tasks], "needs": job.needs}
            | {"seconds": round(job.seconds, 1)}
            for job in plan.jobs
        ]
        self._print(
            event="plan", profile=plan.profile, dry=dry, tasks=plan.tasks, results=plan.results,
            seconds=round(plan.seconds, 1), guessed=plan.guessed, reasons=dict(plan.reasons), jobs=jobs,
        )  # fmt: skip

    def event(self, event: Event) -> None:
        """A line of the event's own kind."""
        job = {} if event.job is None else {"job": event.job.name, "title": event.job.title}
        self._print(event=event.kind, share=round(event.share, 4), **job, **event.content)

    def end(self, plan: Plan, outcome: Outcome) -> None:
        """A line `end`."""
        ready, times = len(plan.jobs) - len(outcome.failed), (outcome.seconds, outcome.computing)
        seconds, computing = (round(time, 1) for time in times)
        what = {"seconds": seconds, "computing": computing, "at_once": plan.at_once}
        self._print(event="end", done=ready, failed=outcome.failed, **what, folder=str(outcome.folder))


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
