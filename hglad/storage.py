"""Files that are written whole or not at all, and the one state that a stopped computation goes on from."""

import hashlib
import io
import json
import os
import pickle
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hglad.errors import HgladError, HgladWarning

SCRATCH = ".tmp-"  # how the folders that drafts are written in begin
SCRATCH_AGE = 24 * 3600  # seconds after which one belongs to no process that still writes
SAVE_SECONDS = 30.0  # between two saved states: what a stop loses at most, beside the step under way


class UnwritableError(HgladError):
    """A place that cannot be written: permissions, a full disk, a folder where a file is asked for."""


@contextmanager
def write_whole(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path (for a file or a folder) next to `path` and move it there on success.

    A folder that is there already is replaced by a folder, never by a file. A stop leaves the old file or the
    new one, and at worst a `.tmp-` folder that nothing reads and that a later call removes when it is a day
    old. Only a folder that is replaced is missing for a moment, between two renames. Of several processes
    that write one path the last one wins, whole.

    Raises:
        UnwritableError: the place cannot be written (permissions, full disk, a folder instead of a file).
    """
    path = Path(path)
    with _write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left_over in path.parent.glob(f"{SCRATCH}*-????????"):
            with suppress(OSError):  # another process removes it, or it is no folder
                if time.time() - left_over.stat().st_mtime > SCRATCH_AGE:
                    shutil.rmtree(left_over)
        scratch = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{path.name}-", dir=path.parent))
        try:
            draft = scratch / path.name
            yield draft
            for place in (*draft.rglob("*"), draft):
                _sync(place)
            if path.is_dir() and draft.is_file():
                raise UnwritableError(f"cannot write {path}: it is a folder; give the name of a file")
            _move(draft, path, scratch)
            _sync(path.parent)
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move(draft: Path, path: Path, scratch: Path) -> None:
    """Rename `draft` to `path`; a folder there goes into `scratch` first, as often as others put one."""
    while True:
        try:
            return os.replace(draft, path)
        except OSError:
            if not (draft.is_dir() and path.is_dir()):
                raise
        with suppress(FileNotFoundError):
            os.replace(path, tempfile.mkdtemp(prefix="old-", dir=scratch))


def check_writable(folder: Path | str) -> None:
    """Find out before anything is computed that results can be kept in a folder, which is made if need be.

    Raises:
        UnwritableError: they cannot.
    """
    folder = Path(folder)
    with _write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


_failed: set[str] = set()  # files of which a warning has said that they cannot be written


@contextmanager
def best_effort(path: Path | str) -> Iterator[None]:
    """Go on without a file that only saves time (a state, a cache) when it cannot be written: one warning."""
    try:
        yield
    except UnwritableError as error:
        if str(path) not in _failed:
            _failed.add(str(path))
            warnings.warn(f"{error}; the run goes on without it", HgladWarning, stacklevel=3)


def write_json(path: Path | str, content: object) -> None:
    """Write `content` as indented JSON with a final newline."""
    with write_whole(path) as draft:
        draft.write_text(json.dumps(content, indent=1) + "\n")


def write_tensors(
    path: Path | str, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write named tensors (moved to the CPU) as safetensors; `metadata` goes into the header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with write_whole(path) as draft:
        save_file(tensors, draft, metadata)


@contextmanager
def _read_errors(path: Path | str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        if not Path(path).is_file():
            raise HgladError(f"no file {path}: expected one that hglad wrote") from error
        reason = " ".join(str(error).split())
        raise HgladError(f"cannot read {path}: {reason}; delete it to have it made again") from error


def read_json(path: Path | str) -> dict:
    """Read a JSON file; a missing or damaged one raises `HgladError` with its name."""
    with _read_errors(path):
        return json.loads(Path(path).read_text())


def read_tensors(path: Path | str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Read named tensors; a missing or damaged file raises `HgladError` with its name."""
    with _read_errors(path):
        return load_file(path, device=str(device))


def read_metadata(path: Path | str) -> dict[str, str]:
    """Read the header of a safetensors file without its tensors; raises as `read_tensors`."""
    with _read_errors(path), safe_open(path, "pt") as file:
        return file.metadata() or {}


def intact(path: Path | str) -> bool:
    """Whether a JSON or safetensors file is there and whole by its structure; bits inside may have changed.

    JSON is parsed; of safetensors the header is read, and whether the file is as long as it says.
    """
    try:
        return bool(read_json(path)) if Path(path).suffix == ".json" else read_metadata(path) is not None
    except HgladError:
        return False


class Checkpoint:
    """The state of a computation under way, in one file: a stopped one goes on from it, to the same bits.

    A damaged state, and one of another key, is left aside with a warning, and the computation begins anew. A
    state that cannot be written is a warning, too: it only saves time.

    Args:
        path: file; None keeps nothing.
        key: what is computed, for instance the fingerprint of the run.
    """

    def __init__(self, path: Path | str | None, key: str) -> None:
        self.path, self.key = None if path is None else Path(path), key
        self.before = 0.0  # seconds of the parts that were stopped
        self.start = self.saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time over all parts of the computation."""
        return self.before + time.monotonic() - self.start

    @property
    def due(self) -> bool:
        """Whether the last saved state is old enough for a new one."""
        return self.path is not None and time.monotonic() - self.saved >= SAVE_SECONDS

    def load(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Tensors (on the CPU, in torch's own memory) and plain values as they were saved; None: begin."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            content = self.path.read_bytes()
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                raise ValueError("it is damaged")
            state = torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
            if state["key"] != self.key:
                raise ValueError("it belongs to other settings, data or code")
        except (OSError, ValueError, pickle.UnpicklingError) as error:
            reason = f"{self.path} is no state to go on from: {error}"
            warnings.warn(f"{reason}; the computation begins anew", HgladWarning, stacklevel=2)
            return None
        self.before = state["seconds"]
        return state["tensors"], state["plain"]

    def save(self, tensors: dict[str, Any], force: bool = False, **plain: Any) -> None:
        """Write the state where it is `due`, or in any case.

        Args:
            tensors: by name; state dicts of modules and optimizers are such values as well.
            force: do not wait until it is due.
            **plain: numbers, texts and lists, dictionaries and tuples of them.
        """
        if self.path is None or not (force or self.due):
            return
        buffer, state = io.BytesIO(), {"key": self.key, "seconds": self.seconds}
        torch.save(state | {"tensors": tensors, "plain": plain}, buffer)
        content = buffer.getbuffer()
        with best_effort(self.path), write_whole(self.path) as draft, open(draft, "wb") as file:
            file.write(hashlib.sha256(content).digest())
            file.write(content)
        self.saved = time.monotonic()

    def clear(self) -> None:
        """Remove the file: the result is there, or the computation is to begin anew."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
