"""Compute tasks whose results are missing, several at a time."""

import warnings

import filelock
import joblib
import torch

from hglad.evaluation.sets import images_left_out
from hglad.experiments.evaluation_task import EvaluateTask
from hglad.experiments.store import Store
from hglad.experiments.tasks import DistillTask, MeasureTask
from hglad.runtime import keep_freed_memory, progress_bar
from hglad.storage import check_writable


def required(tasks: list[EvaluateTask | MeasureTask]) -> list:
    """The tasks, the sets behind them and the classifiers behind those, each once.

    Of tasks with one key the first stays: a variant that is a run of an earlier table does not mark its rows.
    """
    sources = [task.settings if isinstance(task, MeasureTask) else task.distilled for task in tasks]
    distillations = [DistillTask(settings) for settings in sources if settings]
    classifiers = [task.classifier for task in distillations]
    found = {}
    for task in (*classifiers, *distillations, *tasks):
        found.setdefault(task.key, task)
    return list(found.values())


SMALL = 12  # seconds in all below which starting processes takes longer than they save


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
    bar = progress_bar(total, "runs", "s", bar_format=shape)
    # joblib replaces a worker whose memory has grown, and says so
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
    for phase in sorted({task.phase for task in missing}):
        ready = sorted((task for task in missing if task.phase == phase), key=lambda task: -task.cost)
        parallel = joblib.Parallel(cores, return_as="generator_unordered", batch_size=1, pre_dispatch=cores)
        for task in parallel(joblib.delayed(_run_one)(task, store, device, cores) for task in ready):
            bar.update(task.cost)
    bar.close()


def missing_tasks(tasks: list, store: Store) -> list:
    """Tasks without a result, with what only they need: large files, of no use once the result is there.

    Those are the experts of trajectory matching and the classifiers that select a baseline's images. A set
    whose images were left out (`hglad.experiments.slim`) is missing only where a missing result is read from
    them.
    """
    missing = [task for task in tasks if not task.done(store)]
    read = sets_behind(missing)
    missing = [task for task in missing if task.key in read or not _left_out(task, store)]
    runs = [task for task in missing if isinstance(task, DistillTask)]
    runs += [DistillTask(task.settings) for task in missing if isinstance(task, MeasureTask)]
    behind = [expert for run in runs for expert in run.experts]
    behind += [task.classifier for task in missing if isinstance(task, EvaluateTask) and task.classifier]
    found = {task.key: task for task in (*behind, *missing) if not task.done(store)}
    return list(found.values())


def _left_out(task, store: Store) -> bool:
    return isinstance(task, DistillTask) and images_left_out(store.set_folder(task.key))


def sets_behind(tasks: list) -> set[str]:
    """Keys of the distilled sets whose images the tasks read."""
    evaluated = [task.distilled for task in tasks if isinstance(task, EvaluateTask) and task.distilled]
    measured = [task.settings for task in tasks if isinstance(task, MeasureTask)]
    return {settings.fingerprint for settings in evaluated + measured}


def _run_one(task, store: Store, device: str, cores: int):
    keep_freed_memory()
    if cores > 1:
        torch.set_num_threads(max(1, joblib.cpu_count() // cores))
    compute(task, store, device)
    return task


def compute(task, store: Store, device: str = "cpu", wait: bool = True) -> bool:
    """Compute one task unless its result is there; never at the same time as another process does.

    Returns:
        Whether the result is there now; it is not when another process is at it and `wait` is false.
    """
    try:
        with store.claim(task.key, wait):
            if not task.done(store):
                task.run(store, device)
    except filelock.Timeout:
        return False
    return True
