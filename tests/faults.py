"""Places that cannot be written, made real: a file system that is full, one that is read-only."""

import multiprocessing
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _mount(*words: object) -> None:
    if os.geteuid() != 0 or subprocess.run(["mount", *map(str, words)], capture_output=True).returncode:
        pytest.skip("needs the right to mount")


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes in memory at a new folder; skips where one may not be mounted."""
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={size},mode=777", "none", folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """A folder in which nothing can be written, not even by root; skips where it may not be mounted so."""
    _mount("--bind", folder, folder)
    try:
        _mount("-o", "remount,bind,ro", folder)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Fill a file system up to so many bytes with a file, to be deleted when there is to be room again."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            size = file.tell()
    os.truncate(filler, max(0, size - leave))
    return filler


def in_a_process(function: Callable, *arguments: object) -> object:
    """What a function returns in a forked process of its own."""
    context = multiprocessing.get_context("fork")
    answer, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(function(*arguments)))
    process.start()
    assert answer.poll(60), "the process gave no answer"
    found = answer.recv()
    process.join()
    return found
