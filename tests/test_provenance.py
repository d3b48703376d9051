"""Provenance: it must be true, so it is held against git, the interpreter and the clock."""

import json
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import version

import pytest
import torch

from hglad import provenance
from hglad.paths import PROJECT
from hglad.provenance import Stopwatch, commit, device_name


def git(*words: str, folder=PROJECT) -> str:
    words = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e", *words]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small repository in the place of the project's."""
    git("init", "-q", folder=tmp_path)
    for name in ("hglad/a.py", "tests/b.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1\n")
    git("add", ".", folder=tmp_path)
    git("commit", "-q", "-m", "first", folder=tmp_path)
    monkeypatch.setattr(provenance, "PROJECT", tmp_path)
    commit.cache_clear()
    yield tmp_path
    commit.cache_clear()


def test_commit_of_a_clean_project(project):
    assert commit() == {"commit": git("rev-parse", "HEAD", folder=project), "clean": True}


def test_changed_code_is_not_clean(project):
    (project / "hglad" / "a.py").write_text("2\n")
    assert commit() == {"commit": git("rev-parse", "HEAD", folder=project), "clean": False}


def test_changes_beside_the_code_do_not_matter(project):
    (project / "tests" / "b.py").write_text("2\n")
    (project / "notes.txt").write_text("new\n")
    assert commit()["clean"] is True


def test_the_state_at_the_first_question_is_kept(project):
    before = commit()
    (project / "hglad" / "a.py").write_text("2\n")
    assert commit() == before


def test_outside_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(provenance, "PROJECT", tmp_path)
    commit.cache_clear()
    assert commit() == {"commit": None, "clean": None}
    commit.cache_clear()


def test_without_git_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    commit.cache_clear()
    assert commit() == {"commit": None, "clean": None}
    commit.cache_clear()


def test_stopwatch_describes_the_run():
    started = datetime.now(UTC).replace(microsecond=0)
    watch = Stopwatch()
    time.sleep(0.05)
    record = watch.provenance()
    assert 0.05 <= record["seconds"] < 10
    assert 0 <= (datetime.fromisoformat(record["started"]) - started).total_seconds() <= 2
    assert record["python"] == platform.python_version()
    assert record["packages"]["torch"] == version("torch")
    assert record["hglad"] == version("hglad")
    assert 50 < record["peak_memory_mib"] < 1_000_000
    assert json.loads(json.dumps(record)) == record


def test_device_names_the_processor_and_the_threads_in_use():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        name = device_name("cpu")
    finally:
        torch.set_num_threads(before)
    assert " 1 of " in name
    assert len(name.split(",")[0]) > 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_device_names_the_gpu():
    assert device_name("cuda") == torch.cuda.get_device_name(0)
    assert Stopwatch("cuda").provenance()["device"] == torch.cuda.get_device_name(0)
