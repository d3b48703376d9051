"""One job, in a process of its own: compute its tasks, tell the run's folder what has become of them."""

import os
import socket
import time

import torch

from hglad.errors import HgladError
from hglad.experiments.batch_folder import RunFolder
from hglad.experiments.gpus import one_gpu
from hglad.experiments.runner import compute
from hglad.experiments.store import Store
from hglad.runtime import check_device, keep_freed_memory


def work(folder: RunFolder, job: str) -> None:
    """Compute the tasks of a job whose results are missing.

    Raises:
        Exception: what the first failing task said; the others are computed all the same.
    """
    keep_freed_memory()
    begin = time.time()
    folder.forget("failed", job)  # it is tried again
    folder.note("started", job, {"host": socket.gethostname(), "pid": os.getpid(), "time": begin})
    try:
        computing = _compute_all(folder, job)
    except Exception as error:
        what = str(error) if isinstance(error, HgladError) else f"unexpected {type(error).__name__}: {error}"
        folder.note("failed", job, {"error": what})
        raise
    folder.finish(
        folder.plan["jobs"][job]["rule"], job, {"seconds": time.time() - begin, "computing": computing}
    )


def _compute_all(folder: RunFolder, job: str) -> float:
    """Seconds spent on the tasks themselves."""
    plan = folder.plan
    os.chdir(plan["directory"])  # Snakemake works in the run's folder
    tasks = folder.tasks(job)
    machine, store = plan["machine"], Store(plan["results"])
    torch.set_num_threads(machine["threads"])
    begin, finished, errors = time.time(), 0.0, []
    waiting = [(task, False) for task in tasks]
    with one_gpu(folder.path, machine["gpus"] if plan["jobs"][job]["gpu"] else 0):
        if plan["jobs"][job]["gpu"]:
            check_device(machine["device"])  # this starts CUDA, which sees one GPU by now
        for task, wait in waiting:  # those that another process computes come again at the end
            try:
                if not compute(task, store, machine["device"], wait):
                    waiting.append((task, True))
                    continue
            except Exception as error:
                errors.append(error)
            finished += task.cost
            folder.note("progress", job, {"share": finished / sum(each.cost for each in tasks)})
    if errors:
        raise errors[0]
    return time.time() - begin
