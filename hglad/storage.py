"""Files that are written whole or not at all: temporary name, fsync, rename."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from hglad.errors import HgladError


@contextmanager
def publish(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path (for a file or a folder) beside `path` and move it there on success.

    A folder that is there already is replaced by a folder, never by a file. A stop at any moment leaves the
    old file or the new one, and at worst a `.tmp-` entry that nothing reads. Folders cannot be exchanged in
    one step: a stop between two renames leaves none, with the old one inside the `.tmp-` entry.

    Raises:
        HgladError: the place cannot be written (permissions, full disk, a folder where a file is asked for).
    """
    path = Path(path)
    with _write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".tmp-{path.name}-", dir=path.parent))
        try:
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
        raise HgladError(f"cannot write {path}: {reason}; check its folder and the free space") from error


def _move(draft: Path, path: Path, old: Path) -> None:
    """Put `draft` in the place of `path`; a folder that was there goes to `old`, and back when that fails."""
    if not path.is_dir():
        draft.replace(path)
        return
    if draft.is_file():
        raise HgladError(f"cannot write {path}: it is a folder; give the name of a file")
    path.rename(old)
    try:
        draft.replace(path)
    except OSError:
        old.rename(path)
        raise


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
