"""Which results are missing, why, and for how long; computing them in this process and its workers."""

from collections import Counter
from collections.abc import Iterable

import joblib
import torch

from hglad.errors import HgladError
from hglad.evaluation.sets import images_left_out
from hglad.experiments.store import Store
from hglad.provenance import older, record_of, records
from hglad.runtime import keep_freed_memory, progress_bar
from hglad.storage import check_writable

SMALL = 12  # seconds in all below which starting processes takes longer than they save


def required(tasks: list) -> list:
    """The tasks, the sets behind them and the classifiers behind those, each once.

    Of tasks with one key the first stays: a variant that is a run of an earlier table does not mark its rows.
    """
    sets = [need for task in tasks for need in task.requires if need.rule == "distill"]
    classifiers = [need for each in sets for need in each.requires if need.rule == "classifier"]
    found = {}
    for task in (*classifiers, *sets, *tasks):
        found.setdefault(task.key, task)
    return list(found.values())


def missing_tasks(tasks: list, store: Store) -> list:
    """Tasks without a result, each behind those that it requires.

    Large files of no use once a result is there, such as experts, are missing where a missing result reads
    them; so are sets whose images were left out.
    """
    found, there = {}, set()

    def add(task, listed: bool) -> None:
        if task.key in found or task.key in there or (listed and left_out(task, store)):
            return
        if task.done(store):
            there.add(task.key)
            return
        for need in task.requires:
            add(need, listed=False)
        found[task.key] = task

    for task in tasks:
        add(task, listed=True)
    return list(found.values())


def left_out(task, store: Store) -> bool:
    """Whether it is a set that is there but for its images."""
    return task.rule == "distill" and images_left_out(store.set_folder(task.key))


def sets_behind(tasks: list) -> set[str]:
    """Keys of the distilled sets whose images the tasks read."""
    return {need.key for task in tasks for need in task.requires if need.rule == "distill"}


def compute(task, store: Store, device: str = "cpu") -> None:
    """Compute one task unless its result is there; never at the same time as another process does."""
    with store.claim(task.key):
        if not task.done(store):
            task.run(store, device)


def run_all(tasks: list, store: Store, cores: int | None = None, device: str = "cpu") -> None:
    """Compute the tasks whose results are missing, several at a time on processors, one at a time on a GPU.

    A stop at any moment loses the runs under way at most, and those go on from their last saved state.
    """
    missing = missing_tasks(tasks, store)
    if not missing:
        return
    check_writable(store.root)
    total = sum(task.cost for task in missing)
    usual = joblib.cpu_count() if total > SMALL else 1
    cores = 1 if device != "cpu" else min(cores or usual, len(missing))
    shape = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}<{remaining}{postfix}"
    with progress_bar(total, "runs", "s", bar_format=shape) as bar:
        for phase in sorted({task.phase for task in missing}):
            ready = sorted((task for task in missing if task.phase == phase), key=lambda task: -task.cost)
            parallel = joblib.Parallel(
                cores, return_as="generator_unordered", batch_size=1, pre_dispatch=cores
            )
            for seconds in parallel(
                joblib.delayed(_compute_one)(task, store, device, cores) for task in ready
            ):
                bar.update(seconds)


def _compute_one(task, store: Store, device: str, cores: int) -> float:
    keep_freed_memory()
    if cores > 1:
        torch.set_num_threads(max(1, joblib.cpu_count() // cores))
    compute(task, store, device)
    return task.cost


def estimated_seconds(tasks: Iterable, stores: Iterable[Store]) -> tuple[dict[str, float], set[str]]:
    """Seconds of each task by its key, and the keys of those that are guessed.

    A task takes what it took by its record in one of the stores, else its cost at the pace of the recorded
    tasks of its rule. Without any its cost is a guess. Records are of the machines that made them.
    """
    tasks, stores = {task.key: task for task in tasks}, list(stores)
    recorded: dict[str, float] = {}
    spent, cost = Counter(), Counter()
    for key, task in tasks.items():
        seconds = next((s for store in stores if (s := _recorded_seconds(task, store)) is not None), None)
        if seconds is not None:
            recorded[key] = seconds
            spent[task.rule] += seconds
            cost[task.rule] += task.cost
    pace = {rule: spent[rule] / cost[rule] for rule in spent if cost[rule]}
    seconds = {key: recorded.get(key, task.cost * pace.get(task.rule, 1.0)) for key, task in tasks.items()}
    return seconds, {key for key, task in tasks.items() if task.rule not in pace}


def _recorded_seconds(task, store: Store) -> float | None:
    try:
        return record_of(task.place(store))["seconds"]
    except HgladError:
        return None


def why_missing(tasks: list, store: Store) -> Counter:
    """Why tasks are to be computed, such as "new" or "search version 1, now 2", with their numbers."""
    found = [record for record in records(store.root) if record["request"] and record["algorithms"]]
    found.sort(key=lambda record: record["started"] or "")
    made: dict[str, dict[str, int | str]] = {record["request"]: record["algorithms"] for record in found}
    reasons = Counter()
    for task in tasks:
        if task.rule == "prior":
            reasons["new"] += 1
        elif left_out(task, store):
            reasons["its images were left out"] += 1
        elif task.place(store).exists():
            reasons["its file is damaged"] += 1
        else:
            reasons["; ".join(older(made.get(task.request))) or "new"] += 1
    return reasons
