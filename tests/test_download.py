"""Downloads against a local server that cuts, changes or loses its file."""

import hashlib
import http.server
import json
import multiprocessing
import os
import random
import socket
import threading
import time
from pathlib import Path

import pytest

from hglad.data import download
from hglad.data.download import check_sum, fetch
from hglad.errors import HgladError

CONTENT = random.Random(0).randbytes(3_000_000)


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends the server's `content`; its other attributes say what it can and where it breaks off."""

    def do_GET(self):
        server = self.server
        server.asked.append(self.headers.get("Range"))
        if self.path != "/net.pkl":
            return self.send_error(404)
        start, same = 0, self.headers.get("If-Range") in (None, server.tag)
        if server.ranges and self.headers.get("Range") and (same or server.careless):
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(server.content):
                return self.send_error(416)
            self.send_response(206)
            end = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        else:
            self.send_response(200)
        if server.tag:
            self.send_header("ETag", server.tag)
        if server.states_length:
            self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        end = len(server.content) if server.breaks_at is None else server.breaks_at
        self.wfile.write(server.content[start:end])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.tag, server.asked = CONTENT, '"first"', []
        server.ranges, server.careless, server.states_length, server.breaks_at = True, False, True, None
        server.address = f"http://127.0.0.1:{server.server_port}/net.pkl"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "cache" / "net.pkl"


def cut(server, path, at=1_000_000) -> None:
    server.breaks_at = at
    with pytest.raises(HgladError, match=f"goes on from {at} bytes"):
        fetch(server.address, path)
    server.breaks_at = None


def check_complete(path, content=CONTENT) -> None:
    digest = hashlib.sha256(content).hexdigest()
    assert path.read_bytes() == content
    assert (path.parent / "net.pkl.sha256").read_text() == f"{digest}  net.pkl\n"
    assert sorted(os.listdir(path.parent)) == ["net.pkl", "net.pkl.sha256"]
    assert check_sum(path) == digest


def test_a_download_is_whole_and_has_its_checksum(server, path):
    assert fetch(server.address, path) == path
    check_complete(path)
    fetch(server.address, path)
    assert server.asked == [None]  # what is there is not fetched again


def test_a_cut_download_goes_on(server, path):
    cut(server, path)
    assert not path.exists() and path.with_name("net.pkl.part").stat().st_size == 1_000_000
    cut(server, path, 2_000_000)
    fetch(server.address, path)
    check_complete(path)
    assert server.asked == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_server_without_ranges_sends_all_again(server, path):
    server.ranges = False
    cut(server, path)
    fetch(server.address, path)
    check_complete(path)


def test_without_a_version_a_cut_download_starts_again(server, path):
    server.tag = None
    cut(server, path)
    fetch(server.address, path)
    check_complete(path)
    assert server.asked == [None, None]


def test_without_a_length_the_end_of_the_connection_is_the_end(server, path):
    server.states_length = False
    fetch(server.address, path)
    check_complete(path)


@pytest.mark.parametrize("careless", [False, True], ids=["If-Range", "length"])
@pytest.mark.parametrize("change", [b"other", b""], ids=["longer", "shorter"])
def test_a_file_that_changed_starts_again(server, path, careless, change):
    cut(server, path)
    server.content, server.tag = (CONTENT[::-1] + change if change else CONTENT[:900_000]), '"second"'
    server.careless = careless
    fetch(server.address, path)
    check_complete(path, server.content)


def test_another_address_starts_again(server, path):
    cut(server, path)
    server.asked.clear()
    note = path.with_name("net.pkl.part.json")
    note.write_text(json.dumps(json.loads(note.read_text()) | {"address": "http://elsewhere/net.pkl"}))
    fetch(server.address, path)
    check_complete(path)
    assert server.asked == [None]


def test_what_was_complete_but_unnamed_is_taken(server, path, monkeypatch):
    with monkeypatch.context() as context:
        context.setattr(download, "_publish", lambda part, path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetch(server.address, path)
    fetch(server.address, path)
    check_complete(path)
    assert server.asked == [None]


def test_the_first_checksum_holds(server, path):
    fetch(server.address, path)
    path.unlink()
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(
        HgladError, match=r"net\.pkl: its sha256 is \w{64}, net\.pkl\.sha256 has \w{64}: delete"
    ):
        fetch(server.address, path)
    assert os.listdir(path.parent) == ["net.pkl.sha256"]
    server.content = CONTENT
    fetch(server.address, path)
    check_complete(path)


def test_errors_are_one_line(server, path):
    with pytest.raises(HgladError, match=r"cannot download http://127.*/none\.pkl: 404 Not Found$"):
        fetch(server.address.replace("net.pkl", "none.pkl"), path)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(HgladError, match="Connection refused.*; check the network"):
            fetch(f"http://127.0.0.1:{port}/net.pkl", path)
    with pytest.raises(
        HgladError, match="cannot download http://name.invalid/net.pkl: .*; check the network"
    ):
        fetch("http://name.invalid/net.pkl", path)


def test_a_server_that_falls_silent(path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(HgladError, match="timed out; check the network"):
            fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/net.pkl", path)


def test_a_full_disk(server, path):
    path.parent.mkdir()
    path.with_name("net.pkl.part").symlink_to("/dev/full")
    with pytest.raises(
        HgladError, match=r"cannot write .*net\.pkl: No space left on device; check its folder"
    ):
        fetch(server.address, path)
    assert not path.exists()


def test_a_place_that_cannot_be_written(server, path):
    path.parent.write_text("a file")
    with pytest.raises(HgladError, match=r"cannot write .*net\.pkl: File exists"):
        fetch(server.address, path)


# Kills in the middle

FORK = multiprocessing.get_context("fork")
LENGTH = 20_000_000  # bytes of what is sent slowly


class Slow(Handler):
    """Sends in small pieces, for about two seconds in all."""

    def setup(self):
        super().setup()
        self.wfile = Trickle(self.wfile)


class Trickle:
    def __init__(self, file):
        self.file = file

    def write(self, content: bytes) -> None:
        for start in range(0, len(content), 100_000):
            self.file.write(content[start : start + 100_000])
            time.sleep(0.01)

    def __getattr__(self, name):
        return getattr(self.file, name)


def serve(port: int, content: bytes) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Slow) as server:
        server.content, server.tag, server.asked = content, '"first"', []
        server.ranges, server.careless, server.states_length, server.breaks_at = True, False, True, None
        server.serve_forever(0.01)


def started(target, *arguments) -> multiprocessing.Process:
    process = FORK.Process(target=target, args=arguments)
    process.start()
    return process


def kill_when(process, ready) -> None:
    deadline = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < deadline and process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()


def answers(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def fetch_in_silence(address: str, path: Path, results) -> None:
    try:
        fetch(address, path, show=False)
        results.put("done")
    except HgladError as error:
        results.put(str(error))


def test_a_server_and_a_download_that_are_killed_in_the_middle(path):
    """First the server, then the download itself; the third try asks for what is missing and has it all."""
    content, results = random.Random(1).randbytes(LENGTH), FORK.SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, part = f"http://127.0.0.1:{port}/net.pkl", path.with_name("net.pkl.part")

    def arrived(count: int) -> bool:
        return part.is_file() and part.stat().st_size >= count

    server = started(serve, port, content)
    while not answers(port):
        time.sleep(0.01)
    download_process = started(fetch_in_silence, address, path, results)
    kill_when(server, lambda: arrived(2**20))
    download_process.join()
    line = results.get()
    assert f"the same command goes on from {part.stat().st_size} bytes" in line and "\n" not in line
    server = started(serve, port, content)
    while not answers(port):
        time.sleep(0.01)
    before = part.stat().st_size
    assert before < LENGTH
    kill_when(started(fetch_in_silence, address, path, results), lambda: arrived(before + 2**20))
    assert before < part.stat().st_size < LENGTH and not path.exists()
    fetch(address, path, show=False)
    server.kill()
    server.join()
    check_complete(path, content)


def test_a_damaged_note_about_a_download_starts_it_again(server, path):
    cut(server, path)
    path.with_name("net.pkl.part.json").write_text('{"address": "htt')
    fetch(server.address, path)
    check_complete(path)
    assert server.asked == [None, None]
