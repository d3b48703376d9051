"""How long tasks will take, from what the same or similar ones took."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from hglad.errors import HgladError
from hglad.experiments.evaluation_task import EvaluateTask
from hglad.experiments.rules import rule_of
from hglad.experiments.store import Store
from hglad.experiments.tasks import DistillTask, Task
from hglad.provenance import record_of

START = 4.0  # seconds until a process has imported what it computes with


def recorded_seconds(task, store: Store) -> float | None:
    """What a task took by its own record in a store; none where there is no record."""
    if not isinstance(task, Task):
        return None
    try:
        return record_of(task.place(store))["seconds"]
    except HgladError:
        return None


def _kinds(task) -> list[str]:
    """Names of the rates that hold for a task, the most fitting first."""
    rule = rule_of(task)
    if isinstance(task, EvaluateTask):
        return [f"{rule} {task.network}", rule]
    if isinstance(task, DistillTask):
        settings = task.settings
        return [f"{rule} {settings.objective} {settings.kind}", f"{rule} {settings.objective}", rule]
    return [rule]


@dataclass
class Estimates:
    """Seconds of every task: its own record, else the guess of its cost, by what its like took of theirs.

    Records are of the machines that made them: another one is faster or slower by its own factor.
    """

    exact: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, tasks: Iterable, stores: Iterable[Store]) -> Self:
        """From the records that some stores have of these tasks."""
        estimates, totals = cls(), {}
        for store in stores:
            for task in tasks:
                seconds = None if task.key in estimates.exact else recorded_seconds(task, store)
                if seconds is not None:
                    estimates.exact[task.key] = seconds
                    for kind in _kinds(task):
                        spent, cost = totals.get(kind, (0.0, 0.0))
                        totals[kind] = spent + seconds, cost + task.cost
        estimates.rates = {kind: spent / cost for kind, (spent, cost) in totals.items() if cost}
        return estimates

    def seconds(self, task) -> float:
        """Estimate of one task on one core, or one GPU."""
        if task.key in self.exact:
            return self.exact[task.key]
        return task.cost * next((self.rates[kind] for kind in _kinds(task) if kind in self.rates), 1.0)

    def recorded(self, task) -> bool:
        """Whether the estimate is a record of this very task, or of others of its rule."""
        return task.key in self.exact or rule_of(task) in self.rates


def wall_seconds(jobs: list, at_once: int) -> float:
    """Time that jobs take when `at_once` of them run beside each other, starts of processes included."""
    ends: dict[str, float] = {}
    for job in jobs:  # which come after those that they need
        ends[job.name] = job.seconds + START + max((ends[name] for name in job.needs), default=0.0)
    work = sum(job.seconds + START for job in jobs)
    return max(work / max(1, at_once), *ends.values(), 0.0)


def as_text(seconds: float) -> str:
    """A time in two steps: 42 s, 12 min, 3 h 20 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
