"""Files are written whole or not at all: kills, full disks and damaged files, on real processes and files."""

import multiprocessing
import os
import resource
import signal
import sys
import time
import warnings
from itertools import count
from pathlib import Path

import pytest
import torch
from faults import fill, mounted, read_only

from hglad import storage
from hglad.errors import HgladError, HgladWarning, one_line_warnings
from hglad.storage import (
    check_writable,
    intact,
    publish,
    read_json,
    read_metadata,
    read_tensors,
    spared,
    write_json,
    write_tensors,
)

FORK = multiprocessing.get_context("fork")
LARGE = 200_000  # numbers in a file that takes several milliseconds to write


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".tmp-")]


def kill(process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_json_round_trip_replaces_what_was_there(tmp_path):
    path = tmp_path / "new" / "folder" / "a.json"
    write_json(path, {"old": 1})
    write_json(path, {"x": [1, 2.5, None, "é"]})
    assert read_json(path) == {"x": [1, 2.5, None, "é"]}
    assert path.read_text().endswith("}\n")
    assert os.listdir(path.parent) == ["a.json"]


def test_tensors_round_trip_bit_for_bit(tmp_path):
    values = torch.tensor([0.1, -0.0, float("inf"), 1e-45])
    images = torch.tensor([255], dtype=torch.uint8)
    tensors = {"f": values, "view": torch.arange(6).view(2, 3).T, "images": images}
    write_tensors(tmp_path / "t.safetensors", tensors, {"key": "value"})
    read = read_tensors(tmp_path / "t.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
    assert torch.equal(read["f"].view(torch.int32), values.view(torch.int32))
    assert read_metadata(tmp_path / "t.safetensors") == {"key": "value"}


def test_no_metadata_is_empty(tmp_path):
    write_tensors(tmp_path / "t.safetensors", {"a": torch.ones(1)})
    assert read_metadata(tmp_path / "t.safetensors") == {}


def test_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "set"
    for names in (["a", "b"], ["c"]):
        with publish(folder) as draft:
            draft.mkdir()
            for name in names:
                (draft / name).write_text(name)
    assert os.listdir(folder) == ["c"]
    assert os.listdir(tmp_path) == ["set"]


def test_an_exception_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), publish(path) as draft:
        draft.write_text("new")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def _write_half(path: Path, as_folder: bool, half_written) -> None:
    with publish(path) as draft:
        if as_folder:
            draft.mkdir()
            draft = draft / "part"
        draft.write_text("half")
        half_written.set()
        time.sleep(60)


@pytest.mark.parametrize("as_folder", [False, True], ids=["file", "folder"])
def test_a_kill_in_the_middle_leaves_the_old_content(tmp_path, as_folder):
    path = tmp_path / "kept"
    target = path / "part" if as_folder else path
    target.parent.mkdir(exist_ok=True)
    target.write_text("old")
    half_written = FORK.Event()
    process = FORK.Process(target=_write_half, args=(path, as_folder, half_written))
    process.start()
    assert half_written.wait(20)
    kill(process)
    assert target.read_text() == "old"
    assert len(leftovers(tmp_path)) == 1, "the process was not killed while it wrote"
    with publish(path) as draft:
        draft.mkdir() if as_folder else draft.write_text("new")
    assert path.is_dir() == as_folder


def _write_for_ever(path: Path, started) -> None:
    for number in range(10**9):
        write_json(path, [number] * LARGE)
        started.set()


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    path = tmp_path / "a.json"
    for attempt in range(6):
        started = FORK.Event()
        process = FORK.Process(target=_write_for_ever, args=(path, started))
        process.start()
        assert started.wait(20)
        time.sleep(0.007 * attempt)
        kill(process)
        content = read_json(path)
        assert len(content) == LARGE
        assert len(set(content)) == 1


def test_a_folder_is_never_replaced_by_a_file(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("text")
    with pytest.raises(HgladError, match="precious: it is a folder; give the name of a file"):
        write_json(tmp_path / "precious", {})
    assert (tmp_path / "precious" / "thesis.tex").read_text() == "text"
    assert not leftovers(tmp_path)


def test_a_folder_stays_when_its_successor_was_never_made(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").write_text("old")
    with pytest.raises(HgladError, match="cannot write .*set"), publish(tmp_path / "set"):
        pass
    assert (tmp_path / "set" / "a").read_text() == "old"


def test_a_link_to_a_folder_is_replaced_and_its_target_kept(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "a").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with publish(tmp_path / "link") as draft:
        draft.mkdir()
    assert (tmp_path / "target" / "a").read_text() == "old"


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_place_below_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HgladError) as caught:
        write_json(tmp_path / "file" / "a.json", {})
    assert f"cannot write {tmp_path}/file/a.json: " in one_line(caught)


def _try_to_write(path: Path, answer) -> None:
    if os.geteuid() == 0:
        os.seteuid(65534)  # permissions do not hold for root
    try:
        write_json(path, {})
    except HgladError as error:
        answer.send(str(error))


def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    answer, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_try_to_write, args=(tmp_path / "a.json", sender))
    process.start()
    assert answer.poll(20)
    message = answer.recv()
    process.join()
    tmp_path.chmod(0o700)
    assert message.startswith(f"cannot write {tmp_path}/a.json: ")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("write", "old", "new"),
    [(write_json, "old", "n" * 10_000), (write_tensors, {"a": torch.ones(1)}, {"a": torch.ones(10_000)})],
    ids=["json", "tensors"],
)
def test_a_disk_that_is_full_leaves_the_old_file(tmp_path, write, old, new):
    path = tmp_path / "a"
    write(path, old)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # the kernel refuses to let a file grow further
    try:
        with pytest.raises(HgladError) as caught:
            write(path, new)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"cannot write {path}: " in one_line(caught)
    assert "free space" in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("read", [read_json, read_tensors, read_metadata])
def test_a_missing_file_is_named(tmp_path, read):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(HgladError) as caught:
            read(path)
        assert one_line(caught) == f"no file {path}: expected one that hglad wrote"


@pytest.mark.parametrize("content", [b"", b"{\n 'a': 1}", b"\xff\xfe\x00", b'{"a": [1, 2'])
@pytest.mark.parametrize("read", [read_json, read_tensors, read_metadata])
def test_a_damaged_file_is_named(tmp_path, read, content):
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with pytest.raises(HgladError) as caught:
        read(path)
    assert one_line(caught).startswith(f"cannot read {path}: ")
    assert str(caught.value).endswith("; delete it to have it made again")


def test_a_truncated_tensor_file_is_named(tmp_path):
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"a": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(HgladError, match="cannot read .*t.safetensors"):
        read_tensors(path)


# Kills at every step


def killed_at_line(number: int, write, *arguments: object) -> bool:
    """Run `write` in a process that is killed before line `number` of storage.py; whether it came to that."""
    child = os.fork()
    if child == 0:
        left = number

        def trace(frame, event, argument):
            nonlocal left
            if frame.f_code.co_filename != storage.__file__:
                return None
            left -= event == "line"
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        write(*arguments)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


def write_folder(path: Path, text: str) -> None:
    with publish(path) as draft:
        draft.mkdir()
        for name in "ab":
            (draft / name).write_text(text)


def read_folder(path: Path) -> str:
    """What both files of a folder hold."""
    assert sorted(os.listdir(path)) == ["a", "b"]
    first, second = ((path / name).read_text() for name in "ab")
    assert first == second
    return first


@pytest.fixture(params=["exchange", "two renames"])
def file_system(request, monkeypatch) -> str:
    """One that can exchange two folders in one step, and one that cannot."""
    if request.param == "two renames":
        monkeypatch.setattr(storage, "_exchanged", lambda first, second: False)
    return request.param


def grow_old(folder: Path) -> None:
    """Let two days pass for what a folder holds."""
    for entry in folder.iterdir():
        os.utime(entry, (time.time() - 2 * 24 * 3600,) * 2)
    storage._tidy.cache_clear()  # each process tidies a folder once


def test_a_kill_before_any_line_leaves_a_whole_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, "old")
    found = []
    for number in count():
        if not killed_at_line(number, write_json, path, "new"):
            break
        found.append(read_json(path))
    assert found[0] == "old" and found[-1] == "new" and found == sorted(found, reverse=True)
    assert len(found) > 20 and leftovers(tmp_path)
    grow_old(tmp_path)
    write_json(path, "newer")
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_kill_before_any_line_leaves_a_whole_folder(tmp_path, file_system):
    path, found, brought_back = tmp_path / "set", [], 0
    for number in count():
        write_folder(path, "old")
        if not killed_at_line(number, write_folder, path, "new"):
            break
        if file_system == "two renames" and not path.exists():  # killed between the two
            grow_old(tmp_path)
            write_json(tmp_path / "other.json", {})
            brought_back += 1
        found.append(read_folder(path))
    assert found[0] == "old" and found[-1] == "new" and found == sorted(found, reverse=True)
    assert bool(brought_back) is (file_system == "two renames")
    grow_old(tmp_path)
    write_json(tmp_path / "other.json", {})
    assert sorted(os.listdir(tmp_path)) == ["other.json", "set"] and read_folder(path) == "new"


def test_only_old_drafts_are_removed(tmp_path):
    made = {
        ".tmp-a.json-abcd1234": ["a.json"],
        ".tmp-set-abcd_234": ["set"],
        ".tmp-set-zzzzzzzz": [],
        ".tmp-notes-abcd1234": ["thesis.tex"],  # not as publish makes them, from here on
        ".tmp-short-abc": ["short"],
        "tmp-a.json-abcd1234": ["a.json"],
    }
    for name, files in made.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("text")
    (tmp_path / ".tmp-file-abcd1234").write_text("text")
    (tmp_path / ".tmp-link-abcd1234").symlink_to(tmp_path / ".tmp-set-zzzzzzzz")
    kept = {*list(made)[3:], ".tmp-file-abcd1234", ".tmp-link-abcd1234", "b.json"}
    write_json(tmp_path / "b.json", {})
    assert set(os.listdir(tmp_path)) == kept | set(made), "drafts of today may be in use"
    grow_old(tmp_path)
    write_json(tmp_path / "b.json", {})
    assert set(os.listdir(tmp_path)) == kept


def test_a_draft_that_is_in_use_is_never_removed(tmp_path):
    with publish(tmp_path / "a.txt") as draft:
        draft.write_text("for days")
        grow_old(tmp_path)
        write_json(tmp_path / "b.json", {})
        assert draft.is_file()
    assert (tmp_path / "a.txt").read_text() == "for days"


def _write_often(folder: Path, text: str, go, errors) -> None:
    go.wait(20)
    try:
        for _ in range(100):
            write_folder(folder / "set", text)
            write_json(folder / "a.json", [text] * 1000)
    except HgladError as error:
        errors.put(str(error))


def test_of_two_processes_that_publish_one_path_one_wins_whole(tmp_path, file_system, monkeypatch):
    monkeypatch.setattr(storage, "_sync", lambda path: None)  # faster, so that they meet more often
    go, errors = FORK.Event(), FORK.SimpleQueue()
    processes = [
        FORK.Process(target=_write_often, args=(tmp_path, text, go, errors)) for text in ("one", "two")
    ]
    for process in processes:
        process.start()
    go.set()
    for process in processes:
        process.join()
    assert errors.empty(), errors.get()
    assert read_folder(tmp_path / "set") in ("one", "two")
    assert len(set(read_json(tmp_path / "a.json"))) == 1
    assert sorted(os.listdir(tmp_path)) == ["a.json", "set"]


# Places that cannot be written


def test_a_full_file_system_keeps_what_it_has_and_goes_on_when_there_is_room(tmp_path):
    with mounted(tmp_path / "disk", 2**20) as disk:
        write_json(disk / "a.json", "old")
        write_folder(disk / "set", "old")
        filler = fill(disk)
        for write, path in ((write_json, disk / "a.json"), (write_folder, disk / "set")):
            with pytest.raises(HgladError) as caught:
                write(path, "n" * 100_000)
            assert f"cannot write {path}: [Errno 28] No space left on device" in one_line(caught)
        assert read_json(disk / "a.json") == "old" and read_folder(disk / "set") == "old"
        assert not leftovers(disk)
        filler.unlink()
        write_json(disk / "a.json", "new")
        write_folder(disk / "set", "new")
        assert read_json(disk / "a.json") == "new" and read_folder(disk / "set") == "new"


def test_a_read_only_folder_is_found_out_before_anything_is_written(tmp_path):
    check_writable(tmp_path / "new" / "results")
    assert os.listdir(tmp_path / "new" / "results") == []
    folder = tmp_path / "kept"
    write_json(folder / "a.json", "old")
    with read_only(folder):
        for check in (lambda: check_writable(folder), lambda: write_json(folder / "a.json", "new")):
            with pytest.raises(HgladError, match="^cannot write .*Read-only file system.*; check its folder"):
                check()
        assert read_json(folder / "a.json") == "old"


def test_what_only_saves_time_is_lost_with_one_line(tmp_path, capsys):
    (tmp_path / "state").mkdir()
    with one_line_warnings(), warnings.catch_warnings():
        warnings.simplefilter("always")
        for _ in range(3):
            with spared(tmp_path / "state"):
                write_json(tmp_path / "state", {})
    line = f"cannot write {tmp_path}/state: it is a folder; give the name of a file"
    assert capsys.readouterr().err == f"hglad: {line}; the run goes on without it\n"
    with pytest.raises(ZeroDivisionError), spared(tmp_path / "state"):
        _ = 1 / 0


def test_warnings_of_others_are_shown_as_they_are(capsys):
    with pytest.warns(RuntimeWarning, match="of a library") as seen, one_line_warnings():
        warnings.warn("of a library", RuntimeWarning, stacklevel=1)
        warnings.warn("of our own", HgladWarning, stacklevel=1)
    assert len(seen) == 1 and capsys.readouterr().err == "hglad: of our own\n"


# Whether a file is whole


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda content: content, True),
        (lambda content: content[:-4], False),
        (lambda content: content[: len(content) // 2], False),
        (lambda content: content[:5], False),
        (lambda content: b"", False),
        (lambda content: b"\0" * len(content), False),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.safetensors"])
def test_a_file_that_is_not_whole_is_told(tmp_path, name, damage, expected):
    path = tmp_path / name
    if name == "a.json":
        write_json(path, {"rows": [1, 2, 3]})
    else:
        write_tensors(path, {"a": torch.ones(100)})
    path.write_bytes(damage(path.read_bytes()))
    assert intact(path) is expected
    path.unlink()
    assert not intact(path)
