"""Files are written whole or not at all, and a stopped computation goes on: kills, full disks, damage."""

import multiprocessing
import os
import shutil
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
    Checkpoint,
    best_effort,
    check_writable,
    intact,
    read_json,
    read_metadata,
    read_tensors,
    write_json,
    write_tensors,
    write_whole,
)

FORK = multiprocessing.get_context("fork")


def write_folder(path: Path, text: str) -> None:
    with write_whole(path) as draft:
        draft.mkdir()
        for name in "ab":
            (draft / name).write_text(text)


def read_folder(path: Path) -> str:
    """What both files of a folder hold."""
    assert sorted(os.listdir(path)) == ["a", "b"]
    first, second = ((path / name).read_text() for name in "ab")
    assert first == second
    return first


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".tmp-")]


def test_json_round_trip_replaces_what_was_there(tmp_path):
    path = tmp_path / "new" / "folder" / "a.json"
    write_json(path, {"old": 1})
    write_json(path, {"x": [1, 2.5, None, "é"]})
    assert read_json(path) == {"x": [1, 2.5, None, "é"]}
    assert path.read_text().endswith("}\n") and os.listdir(path.parent) == ["a.json"]


def test_tensors_round_trip_bit_for_bit(tmp_path):
    path, values = tmp_path / "t.safetensors", torch.tensor([0.1, -0.0, float("inf"), 1e-45])
    tensors = {"f": values, "view": torch.arange(6).view(2, 3).T, "images": torch.ones(1, dtype=torch.uint8)}
    write_tensors(path, tensors, {"key": "value"})
    read = read_tensors(path)
    assert {name: tensor.dtype for name, tensor in read.items()} == {n: t.dtype for n, t in tensors.items()}
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert torch.equal(read["f"].view(torch.int32), values.view(torch.int32))
    assert read_metadata(path) == {"key": "value"}
    write_tensors(path, tensors)
    assert read_metadata(path) == {}


def test_a_folder_is_replaced_whole_and_never_by_a_file(tmp_path):
    write_folder(tmp_path / "set", "old")
    with pytest.raises(ZeroDivisionError), write_whole(tmp_path / "set") as draft:
        draft.mkdir()
        raise ZeroDivisionError
    with pytest.raises(HgladError, match="cannot write .*set"), write_whole(tmp_path / "set"):
        pass  # a successor that is never made
    with pytest.raises(HgladError, match="set: it is a folder; give the name of a file"):
        write_json(tmp_path / "set", {})
    assert read_folder(tmp_path / "set") == "old"
    with write_whole(tmp_path / "set") as draft:
        draft.mkdir()
    assert os.listdir(tmp_path / "set") == [] and os.listdir(tmp_path) == ["set"]


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


def save_two(path: Path, text: str) -> None:
    Checkpoint(path, "run").save({"a": torch.ones(3)}, force=True, text=text)


def text_of(path: Path) -> str:
    return Checkpoint(path, "run").load()[1]["text"]


@pytest.mark.parametrize(
    ("write", "read"),
    [(write_json, read_json), (write_folder, read_folder), (save_two, text_of)],
    ids=["json", "folder", "state"],
)
def test_a_kill_before_any_line_leaves_what_is_whole(tmp_path, write, read):
    path, found, gaps = tmp_path / "kept", [], 0
    for number in count():
        write(path, "old")
        if not killed_at_line(number, write, path, "new"):
            break
        if path.exists():
            found.append(read(path))
        gaps += not path.exists()
        for left_over in leftovers(tmp_path)[1:]:
            shutil.rmtree(tmp_path / left_over)
    assert found[0] == "old" and found[-1] == "new" and found == sorted(found, reverse=True)
    assert len(found) > 20 and gaps <= (4 if write is write_folder else 0)
    for left_over in leftovers(tmp_path):
        os.utime(tmp_path / left_over, (time.time() - 2 * storage.SCRATCH_AGE,) * 2)
    (tmp_path / ".tmp-of-today").mkdir()
    write(path, "newer")
    assert read(path) == "newer" and sorted(os.listdir(tmp_path)) == [".tmp-of-today", "kept"]


def _write_often(folder: Path, text: str, go, errors) -> None:
    go.wait(20)
    try:
        for _ in range(50):
            write_folder(folder / "set", text)
            write_json(folder / "a.json", [text] * 1000)
    except HgladError as error:
        errors.put(str(error))


def test_of_two_processes_that_write_one_path_one_wins_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_sync", lambda path: None)  # faster, so that they meet more often
    go, errors = FORK.Event(), FORK.SimpleQueue()
    arguments = [(tmp_path, text, go, errors) for text in ("one", "two")]
    processes = [FORK.Process(target=_write_often, args=given) for given in arguments]
    for process in processes:
        process.start()
    go.set()
    for process in processes:
        process.join()
    assert errors.empty(), errors.get()
    assert read_folder(tmp_path / "set") in ("one", "two")
    assert len(set(read_json(tmp_path / "a.json"))) == 1 and not leftovers(tmp_path)


@pytest.mark.parametrize("read", [read_json, read_tensors, read_metadata])
def test_missing_and_damaged_files_are_one_line_with_their_name(tmp_path, read):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(HgladError) as caught:
            read(path)
        assert str(caught.value) == f"no file {path}: expected one that hglad wrote"
    path = tmp_path / "damaged"
    for content in (b"", b"{\n 'a': 1}", b"\xff\xfe\x00", b'{"a": [1, 2'):
        path.write_bytes(content)
        with pytest.raises(HgladError, match="^cannot read .*; delete it to have it made again$") as caught:
            read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.json", "a.safetensors"])
def test_a_file_that_is_not_whole_is_told(tmp_path, name):
    path = tmp_path / name
    write = write_json if name == "a.json" else write_tensors
    write(path, {"rows": torch.ones(100) if write is write_tensors else [1, 2, 3]})
    content = path.read_bytes()
    assert intact(path)
    for damaged in (content[:-4], content[: len(content) // 2], content[:5], b"", b"\0" * len(content)):
        path.write_bytes(damaged)
        assert not intact(path)
    path.unlink()
    assert not intact(path)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HgladError, match=f"cannot write {tmp_path}/file/a.json: "):
        write_json(tmp_path / "file" / "a.json", {})
    check_writable(tmp_path / "new" / "results")
    assert os.listdir(tmp_path / "new" / "results") == []
    write_json(tmp_path / "kept" / "a.json", "old")
    with read_only(tmp_path / "kept") as folder:
        for check in (lambda: check_writable(folder), lambda: write_json(folder / "a.json", "new")):
            with pytest.raises(HgladError, match="^cannot write .*Read-only file system.*; check its folder"):
                check()
        assert read_json(folder / "a.json") == "old"


def test_a_full_file_system_keeps_what_it_has_and_goes_on_when_there_is_room(tmp_path):
    with mounted(tmp_path / "disk", 2**20) as disk:
        write_json(disk / "a.json", "old")
        write_folder(disk / "set", "old")
        filler = fill(disk)
        for write, path in ((write_json, disk / "a.json"), (write_folder, disk / "set")):
            with pytest.raises(HgladError, match=f"cannot write {path}: .*No space left on device"):
                write(path, "n" * 100_000)
        assert read_json(disk / "a.json") == "old" and read_folder(disk / "set") == "old"
        assert not leftovers(disk)
        filler.unlink()
        write_folder(disk / "set", "new")
        assert read_folder(disk / "set") == "new"


def test_what_only_saves_time_is_lost_with_one_line(tmp_path, capsys):
    path = tmp_path / "state"
    path.mkdir()
    with one_line_warnings(), warnings.catch_warnings():
        warnings.simplefilter("always")
        for _ in range(3):
            Checkpoint(path, "run").save({}, force=True)
    line = f"cannot write {path}: it is a folder; give the name of a file"
    assert capsys.readouterr().err == f"hglad: {line}; the run goes on without it\n"
    with pytest.raises(ZeroDivisionError), best_effort(path):
        _ = 1 / 0


# The state of a computation


def test_a_state_comes_back_with_the_same_bits_values_and_seconds(tmp_path):
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    tensors = {"weights": network.state_dict(), "adam": optimizer.state_dict(), "rng": torch.get_rng_state()}
    tensors |= {"half": torch.tensor([0.1, float("nan")], dtype=torch.bfloat16), "odd": torch.arange(3)}
    first = Checkpoint(tmp_path / "a.state", "run")
    first.before = 50.0
    first.save(tensors, force=True, best=(1, 2), history=[[0, 0.1]], distance=float("inf"), name=None)
    second = Checkpoint(tmp_path / "a.state", "run")
    read, plain = second.load()
    assert plain == {"best": (1, 2), "history": [[0, 0.1]], "distance": float("inf"), "name": None}
    assert 50 <= first.seconds < 60 and 50 <= second.seconds < 60
    assert torch.equal(read["half"].view(torch.int16), tensors["half"].view(torch.int16))
    flat = [read["odd"], *read["weights"].values(), *read["adam"]["state"][0].values()]
    assert all(torch.equal(read["weights"][name], value) for name, value in network.state_dict().items())
    assert torch.equal(read["adam"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    # what an instruction of the processor adds up together depends on where memory begins
    assert all(tensor.data_ptr() % 64 == 0 for tensor in flat)
    second.clear()
    assert second.load() is None and os.listdir(tmp_path) == []


def test_a_state_is_saved_when_it_is_due_or_forced_and_nowhere_without_a_path(tmp_path, monkeypatch):
    state = Checkpoint(tmp_path / "a.state", "run")
    state.save({})
    assert not state.due and not state.path.exists()
    monkeypatch.setattr(storage, "SAVE_SECONDS", 0)
    assert state.due
    state.save({}, step=1)
    assert state.load() == ({}, {"step": 1})
    nowhere = Checkpoint(None, "run")
    nowhere.save({}, force=True)
    nowhere.clear()
    assert not nowhere.due and nowhere.load() is None


def test_a_damaged_state_and_one_of_another_run_are_left_aside_with_a_warning(tmp_path):
    path = tmp_path / "a.state"
    save_two(path, "kept")
    content = path.read_bytes()
    with pytest.warns(
        HgladWarning, match="a.state .*belongs to other settings.*; the computation begins anew"
    ):
        assert Checkpoint(path, "other").load() is None
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    for damaged in (b"", content[:20], content[:-4], flipped):
        path.write_bytes(damaged)
        with pytest.warns(HgladWarning, match="a.state .*damaged; the computation begins anew"):
            assert Checkpoint(path, "run").load() is None
    path.write_bytes(content)
    assert text_of(path) == "kept"
