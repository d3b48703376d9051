"""Files that are written whole or not at all: temporary name, fsync, rename."""

import ctypes
import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from hglad.errors import HgladError, HgladWarning

SCRATCH = ".tmp-"  # how the folders that drafts are written in begin
SCRATCH_AGE = 24 * 3600  # seconds after which one belongs to no process that still writes


class UnwritableError(HgladError):
    """A place that cannot be written: permissions, a full disk, a folder where a file is asked for."""


@contextmanager
def publish(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path (for a file or a folder) beside `path` and move it there on success.

    A folder that is there already is replaced by a folder, never by a file. A stop at any moment leaves the
    old file or folder or the new one, and at worst a `.tmp-` entry that nothing reads and that a later call
    removes when it is a day old. Of several processes that publish one path the last one wins, whole. Where
    the file system cannot exchange two folders in one step, a stop between two renames leaves none, with the
    old one inside the `.tmp-` entry, from where a later call brings it back.

    Raises:
        UnwritableError: the place cannot be written (permissions, full disk, a folder instead of a file).
    """
    path = Path(path)
    with _write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy(path.parent)
        scratch = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{path.name}-", dir=path.parent))
        try:
            with _in_use(scratch):
                draft = scratch / path.name
                yield draft
                _sync(draft)
                _move(draft, path, scratch / "old")
                _sync_folder(path.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UnwritableError(
            f"cannot write {path}: {reason}; check its folder and the free space"
        ) from error


@contextmanager
def _in_use(scratch: Path) -> Iterator[None]:
    """Hold the lock that says that a process writes there: the kernel's, which ends with the process.

    Raises:
        BlockingIOError: another process holds it.
    """
    descriptor = os.open(scratch, os.O_RDONLY)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks: age alone tells what is left over
        return


def _move(draft: Path, path: Path, old: Path) -> None:
    """Put `draft` in the place of `path`, whatever another process puts there meanwhile."""
    while True:
        with suppress(FileExistsError, FileNotFoundError):
            if not path.is_dir():
                return _replace(draft, path)
            if draft.is_file():
                raise UnwritableError(f"cannot write {path}: it is a folder; give the name of a file")
            return _exchange(draft, path, old)
        draft.lstat()  # an error where it was never made
        time.sleep(0.001)


def _replace(draft: Path, path: Path) -> None:
    """Rename `draft` to `path`, where no folder was a moment ago; FileExistsError where one is by now."""
    try:
        draft.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EISDIR) and path.is_dir():
            raise FileExistsError(path) from error
        raise


def _exchange(draft: Path, path: Path, old: Path) -> None:
    """Exchange two folders in one step, or put `path` away to `old` first, and back when that fails."""
    if _exchanged(draft, path):
        return
    shutil.rmtree(old, ignore_errors=True)  # of a try that another process was faster than
    path.rename(old)
    try:
        _replace(draft, path)
    except OSError:
        if not path.exists():
            old.rename(path)
        raise


RENAME_EXCHANGE, HERE = 2, -100  # of linux/fs.h; AT_FDCWD of fcntl.h
CANNOT_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP}


def _exchanged(first: Path, second: Path) -> bool:
    """Exchange two names in one step; whether the system and the file system can (Linux; not NFS)."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(HERE, os.fsencode(first), HERE, os.fsencode(second), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(second))


@cache
def _tidy(folder: Path) -> None:
    """Remove what killed processes left in a folder, once for each folder: drafts that are a day old.

    Only folders as `publish` makes them count: `.tmp-NAME-` and eight letters, with at most the draft `NAME`
    and the content `old` that it was to replace. Of these `old` goes back where nothing took its place.
    """
    for scratch in folder.glob(f"{SCRATCH}*-????????"):
        name = scratch.name[len(SCRATCH) : -len("-????????")]
        with suppress(OSError):  # it is in use, or another process tidies, or this one may not write here
            if _is_left_over(scratch, name):
                with _in_use(scratch):
                    _remove(scratch, folder / name)


def _is_left_over(scratch: Path, name: str) -> bool:
    """Whether `publish` made the folder, and that long enough ago."""
    if not scratch.is_dir() or scratch.is_symlink():
        return False
    old = time.time() - scratch.stat().st_mtime > SCRATCH_AGE
    return old and {entry.name for entry in scratch.iterdir()} <= {name, "old"}


def _remove(scratch: Path, path: Path) -> None:
    """Remove a folder of drafts; what was put away for a successor that never came goes back to `path`."""
    if (scratch / "old").exists() and not path.exists():
        (scratch / "old").rename(path)
    shutil.rmtree(scratch, ignore_errors=True)


def check_writable(folder: Path | str) -> None:
    """Find out before anything is computed that results can be kept in a folder, which is made if need be.

    Raises:
        UnwritableError: they cannot.
    """
    folder = Path(folder)
    with _write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


_lost: set[str] = set()  # files whose loss has been said


@contextmanager
def spared(path: Path | str) -> Iterator[None]:
    """Go on without a file that only saves time, such as a state or a cache, when it cannot be written.

    The first time that this happens to a file is a warning.
    """
    try:
        yield
    except UnwritableError as error:
        if str(path) not in _lost:
            _lost.add(str(path))
            warnings.warn(f"{error}; the run goes on without it", HgladWarning, stacklevel=3)


def _sync(path: Path) -> None:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    for file in files:
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
    if path.is_dir():
        _sync_folder(path)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path | str, content: object) -> None:
    """Write `content` as indented JSON with a final newline."""
    with publish(path) as draft:
        draft.write_text(json.dumps(content, indent=1) + "\n")


def _unreadable(path: Path | str, error: Exception) -> HgladError:
    if not Path(path).is_file():
        return HgladError(f"no file {path}: expected one that hglad wrote")
    reason = " ".join(str(error).split())
    return HgladError(f"cannot read {path}: {reason}; delete it to have it made again")


def read_json(path: Path | str) -> dict:
    """Read a JSON file; a missing or damaged one raises `HgladError` with its name."""
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def intact(path: Path | str) -> bool:
    """Whether a JSON or safetensors file is there and whole by its structure; bits inside may have changed.

    JSON is parsed; of safetensors the header is read, and whether the file is as long as it says.
    """
    try:
        if Path(path).suffix == ".json":
            return bool(json.loads(Path(path).read_bytes()))
        with safe_open(path, "pt"):
            return True
    except (OSError, ValueError, SafetensorError):
        return False


def write_tensors(
    path: Path | str, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write named tensors (moved to the CPU) as safetensors; `metadata` goes into the header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with publish(path) as draft:
        save_file(tensors, draft, metadata)


def read_tensors(path: Path | str, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """Read named tensors; a missing or damaged file raises `HgladError` with its name."""
    try:
        return load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def read_metadata(path: Path | str) -> dict[str, str]:
    """Read the header of a safetensors file without its tensors."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
