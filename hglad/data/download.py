"""Downloads that go on where they stopped and end as the whole file or not at all."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from hglad.errors import HgladError
from hglad.runtime import progress_bar
from hglad.storage import intact, read_json, write_json

TIMEOUT, PIECE = 30, 2**20  # seconds without an answer, bytes


def fetch(address: str, path: Path | str, show: bool = True) -> Path:
    """Download `address` to `path`, or take the file that is there; its checksum is kept beside it.

    What has arrived waits in `path` + ".part" and is gone on with, provided that the server still has the
    same file. The checksum of the first complete download (`path` + ".sha256", as `sha256sum` writes it)
    holds for all later ones.

    Raises:
        HgladError: no connection, no such address, no room, or another checksum than before.
    """
    path = Path(path)
    if path.is_file():
        return path
    part = _beside(path, ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _receive(address, part, show)
        _publish(part, path)
    except urllib.error.HTTPError as error:
        raise HgladError(f"cannot download {address}: {error.code} {error.reason}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        kept = part.stat().st_size if part.is_file() else 0
        advice = f"check the network; the same command goes on from {kept} bytes"
        raise HgladError(f"cannot download {address}: {reason}; {advice}") from error
    except OSError as error:
        reason = error.strerror or error
        raise HgladError(f"cannot write {path}: {reason}; check its folder and the free space") from error
    return path


def check_sum(path: Path, kept: Path | None = None) -> str:
    """sha256 of a file, held against the one in `kept` (default: `path` + ".sha256") where that is there.

    Raises:
        HgladError: they differ.
    """
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    kept = kept or _beside(path, ".sha256")
    if kept.is_file():
        expected = kept.read_text(errors="replace").partition(" ")[0].strip()
        if expected != digest:
            advice = f"delete the file to fetch it anew, or {kept.name} if another file is meant"
            raise HgladError(f"its sha256 is {digest}, {kept.name} has {expected[:64]}: {advice}")
    return digest


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _receive(address: str, part: Path, show: bool) -> None:
    """Append to `part` until it has the length that the server states."""
    begun = _begun(address, part)
    start, length = (part.stat().st_size, begun["length"]) if begun else (0, None)
    if begun and start == length:
        return
    with _ask(address, start, begun.get("version")) as answer:
        if answer.status == http.HTTPStatus.OK:
            start, begun = 0, _describe(answer, address)
            length = begun["length"]
            write_json(_beside(part, ".json"), begun)
        elif answer.headers.get("Content-Range") != f"bytes {start}-{length - 1}/{length}":
            _beside(part, ".json").unlink()  # the server has another file by now: from the start
            return _receive(address, part, show)
        _append(answer, part, start, length, show)


def _begun(address: str, part: Path) -> dict:
    """What `part` is the beginning of; empty where there is nothing to go on with."""
    note = _beside(part, ".json")
    begun = read_json(note) if part.is_file() and intact(note) else {}
    return begun if begun.get("address") == address and begun.get("version") and part.stat().st_size else {}


def _ask(address: str, start: int, version: str | None) -> http.client.HTTPResponse:
    """Ask for the bytes from `start` on; a server whose file is no longer `version` sends all of it."""
    request = urllib.request.Request(address)
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", version)
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if not start or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return error  # an answer as well: the server's file has become shorter


def _describe(answer: http.client.HTTPResponse, address: str) -> dict:
    """Address, length and version of what is sent; `If-Range` takes no weak tag as the version."""
    tag, length = answer.headers.get("ETag"), answer.headers.get("Content-Length")
    version = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")
    length = int(length) if length and length.isdecimal() else None
    return {"address": address, "version": version if length else None, "length": length}


def _append(answer: http.client.HTTPResponse, part: Path, start: int, length: int | None, show: bool) -> None:
    bar = progress_bar(length, part.stem, "B", show, unit_scale=True, unit_divisor=1024, initial=start)
    with open(part, "r+b" if start else "wb") as file, bar:
        file.seek(start)
        while piece := answer.read(PIECE):
            file.write(piece)
            bar.update(len(piece))
        file.flush()
        os.fsync(file.fileno())
        if length is not None and file.tell() != length:
            raise ConnectionError(f"the connection ended after {file.tell()} of {length} bytes")


def _publish(part: Path, path: Path) -> None:
    """Give a complete download its name, after its checksum."""
    kept = _beside(path, ".sha256")
    try:
        digest = check_sum(part, kept)
    except HgladError as error:
        part.unlink()
        raise HgladError(f"{path}: {error}") from error
    finally:
        _beside(part, ".json").unlink(missing_ok=True)
    if not kept.is_file():
        kept.write_text(f"{digest}  {path.name}\n")
    part.replace(path)
