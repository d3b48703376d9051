"""Tasks grouped into jobs: several short ones share the start of a process."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby

from hglad.experiments.rules import RULES, needs, rule_of, seed_of, title

WORTH = 8.0  # seconds of work that are worth a process of their own, which takes some to start


@dataclass(frozen=True)
class Job:
    """Tasks of one rule that one process computes, one after the other."""

    name: str
    """Rule and number; names files."""
    rule: str
    tasks: list
    seconds: float
    """Estimate of all tasks together."""
    needs: list[str] = field(default_factory=list)
    """Names of the jobs that must be done before."""

    @property
    def title(self) -> str:
        """In words: `distil dm hierarchical ipc 1, seeds 0 1 2`."""
        titles = list(dict.fromkeys(title(task) for task in self.tasks))
        text = " ".join([self.rule, *titles[:1]])
        if len(titles) > 1:
            return f"{text} and {len(self.tasks) - 1} more"
        seeds = list(dict.fromkeys(str(seed) for task in self.tasks if (seed := seed_of(task)) is not None))
        text += f", seed{'s' * (len(seeds) > 1)} {' '.join(seeds)}" if seeds else ""
        return text if len(seeds) in (0, len(self.tasks)) else f"{text}, {len(self.tasks)} variants"


def group(tasks: list, seconds_of: Callable[[object], float], longest: float, at_once: int = 1) -> list[Job]:
    """Jobs of about `longest` seconds each at most, by rule; such as differ in the seed only keep together.

    A task that takes longer is a job of its own. A rule with little to do is shared among `at_once` processes
    as long as that pays. The longest jobs of a rule come first, so that none is left alone at the end. Tasks
    that wait for others are not put together with such as need not: a failure would hold those up as well.
    """
    jobs, missing = [], {task.key for task in tasks}
    for rule in RULES:
        own = [task for task in tasks if rule_of(task) == rule]
        most, packs = min(longest, max(WORTH, sum(map(seconds_of, own)) / at_once)), []
        for waits in (True, False):
            part = [task for task in own if any(need.key in missing for need in needs(task)) == waits]
            parts = [pack for alike in _alike(part) for pack in _pack(alike, seconds_of, most)]
            packs += _merged(parts, seconds_of, most)
        packs.sort(key=lambda pack: -sum(map(seconds_of, pack)))
        for number, pack in enumerate(packs):
            jobs.append(Job(f"{rule}-{number:04}", rule, pack, sum(map(seconds_of, pack))))
    return _linked(jobs)


def _alike(tasks: list) -> list[list]:
    """Tasks by title, in the order of their first ones."""
    order = {text: number for number, text in enumerate(dict.fromkeys(map(title, tasks)))}
    tasks = sorted(tasks, key=lambda task: order[title(task)])
    return [list(part) for _, part in groupby(tasks, key=title)]


def _pack(tasks: list, seconds_of: Callable, longest: float) -> list[list]:
    """Consecutive tasks together as long as they stay below `longest`."""
    packs, filled = [], 0.0
    for task in tasks:
        seconds = seconds_of(task)
        if not packs or filled + seconds > longest:
            packs.append([])
            filled = 0.0
        packs[-1].append(task)
        filled += seconds
    return packs


def _merged(packs: list[list], seconds_of: Callable, longest: float) -> list[list]:
    """Neighbours joined where both together stay below `longest`."""
    merged: list[list] = []
    for pack in packs:
        if merged and sum(map(seconds_of, merged[-1] + pack)) <= longest:
            merged[-1] = merged[-1] + pack
        else:
            merged.append(pack)
    return merged


def _linked(jobs: list[Job]) -> list[Job]:
    """The jobs with the names of those whose results they read; notebooks and book wait for all others."""
    home = {task.key: job.name for job in jobs for task in job.tasks}
    phase = {job.name: job.tasks[0].phase for job in jobs}
    linked = []
    for job in jobs:
        if phase[job.name] >= 3:
            before = [other.name for other in jobs if phase[other.name] < phase[job.name]]
        else:
            found = {home.get(need.key) for task in job.tasks for need in needs(task)}
            before = sorted(found - {None})
        linked.append(Job(job.name, job.rule, job.tasks, job.seconds, before))
    return linked
