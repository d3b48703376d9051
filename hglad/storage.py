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

    A folder that is there already is replaced. A stop at any moment leaves the old content or the
    new one, and at worst a `.tmp-` entry that nothing reads.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".tmp-{path.name}-", dir=path.parent))
    try:
        draft = scratch / path.name
        yield draft
        _sync(draft)
        if path.is_dir():
            path.rename(scratch / "old")
        draft.replace(path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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


def read_json(path: Path | str) -> dict:
    """Read a JSON file; a damaged one raises `HgladError` with its name."""
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise HgladError(f"cannot read {path}: {error}; delete it to have it made again") from error


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
        raise HgladError(f"cannot read {path}: {error}; delete it to have it made again") from error


def read_metadata(path: Path | str) -> dict[str, str]:
    """Read the header of a safetensors file without its tensors."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise HgladError(f"cannot read {path}: {error}; delete it to have it made again") from error
