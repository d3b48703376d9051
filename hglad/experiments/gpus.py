"""Which of several GPUs a job takes: one that no other job of the run has."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hglad.errors import HgladError


@contextmanager
def one_gpu(folder: Path, count: int) -> Iterator[None]:
    """Let this process see one GPU of `count`, none of which two jobs have at once.

    To be entered before CUDA starts. With one GPU there is nothing to choose; the variable
    CUDA_VISIBLE_DEVICES of the run says which ones it may take.

    Raises:
        HgladError: all are taken.
    """
    if count < 2:
        yield
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    lock, name = _free(folder, visible.split(",") if visible else [str(number) for number in range(count)])
    os.environ["CUDA_VISIBLE_DEVICES"] = name
    try:
        yield
    finally:
        lock.release()


def _free(folder: Path, names: list[str]) -> tuple[FileLock, str]:
    for name in names:
        lock = FileLock(folder / f"gpu-{name}.lock", timeout=0)
        try:
            lock.acquire()
            return lock, name
        except Timeout:
            continue
    raise HgladError(
        f"all GPUs of the run are taken ({', '.join(names)}): start it with fewer at once, --gpus N"
    )
