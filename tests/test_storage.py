"""Files are written whole or not at all: kills, full disks and damaged files, on real processes and files."""

import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path

import pytest
import torch

from hglad.errors import HgladError
from hglad.storage import publish, read_json, read_metadata, read_tensors, write_json, write_tensors

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
