"""Locks between processes that end with the process that holds them, however it ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def held(file: Path, wait: bool = True) -> Iterator[None]:
    """Hold the kernel's lock on a file, which is made if need be; where there are no locks, nothing is held.

    Raises:
        filelock.Timeout: another process holds it and `wait` is false.
    """
    lock = FileLock(file, timeout=-1 if wait else 0)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise
    except (OSError, NotImplementedError):  # if nothing can be written at all, the results will say so
        yield
        return
    try:
        yield
    finally:
        lock.release()
