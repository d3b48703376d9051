"""Provenance: it must be true, so it is held against git, the interpreter, the clock, and the tasks."""

import json
import platform
import shutil
import subprocess
import time
from collections import Counter
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
import torch

from hglad import provenance
from hglad.cli import main
from hglad.errors import HgladError
from hglad.paths import PROJECT
from hglad.provenance import (
    FIELDS,
    Stopwatch,
    commit,
    commit_text,
    device_name,
    records,
    summary,
    trace,
)
from hglad.storage import read_json, write_json

METADATA = {"profile": "digits", "results": ["a" * 12], "algorithms": {"objective dm": 1, "search": 1}}


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


@pytest.mark.parametrize(
    ("changed", "clean"),
    [(None, True), ("hglad/a.py", False), ("hglad/new.py", False), ("tests/b.py", True), ("notes.txt", True)],
)
def test_the_commit_says_whether_it_holds_the_code_as_it_was_first_asked(project, changed, clean):
    if changed:
        (project / changed).write_text("2\n")
    found = {"commit": git("rev-parse", "HEAD", folder=project), "clean": clean}
    assert commit() == found
    (project / "hglad" / "a.py").write_text("3\n")
    assert commit() == found


@pytest.mark.parametrize(("variable", "at"), [("GIT_CEILING_DIRECTORIES", ".."), ("PATH", ".")])
def test_outside_a_repository_and_without_git_there_is_no_commit(tmp_path, monkeypatch, variable, at):
    monkeypatch.setenv(variable, str((tmp_path / at).resolve()))
    monkeypatch.setattr(provenance, "PROJECT", tmp_path)
    commit.cache_clear()
    assert commit() == {"commit": None, "clean": None}
    assert commit_text(commit()) == "outside version control"
    commit.cache_clear()


def test_the_stopwatch_describes_the_run():
    started = datetime.now(UTC).replace(microsecond=0)
    watch = Stopwatch()
    time.sleep(0.05)
    record = watch.provenance()
    assert record["seconds"] >= 0.05
    assert 0 <= (datetime.fromisoformat(record["started"]) - started).total_seconds() < 60
    assert (record["python"], record["hglad"]) == (platform.python_version(), version("hglad"))
    assert record["packages"]["torch"] == version("torch")
    assert 50 < record["peak_memory_mib"] < 1_000_000
    assert record["device"] == device_name() and f", {torch.get_num_threads()} of " in record["device"]
    assert json.loads(json.dumps(record)) == record


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_is_the_gpu():
    assert device_name("cuda") == torch.cuda.get_device_name(0)
    assert Stopwatch("cuda").provenance()["device"] == torch.cuda.get_device_name(0)


# Of every kind of file


KINDS = {
    "ClassifierTask": "classifier",
    "ExpertTask": "expert",
    "DistillTask": "distilled set",
    "MeasureTask": "distances",
    "EvaluateTask": "evaluation",
}


def test_every_result_says_where_it_comes_from(tiny_tasks, tiny_store):
    for task in tiny_tasks:
        found = trace(task.place(tiny_store))
        assert (found["kind"], found["key"]) == (KINDS[type(task).__name__], task.key)
        assert (found["request"], found["algorithms"]) == (task.request, task.components)
        assert (found["commit"], found["clean"]) == (commit()["commit"], commit()["clean"])
        unset = {name for name in FIELDS if found[name] is None}
        assert unset <= {"resumed", "prior_hash", "set"}, task
        assert found["older"] == [] and found["seconds"] > 0
    with_prior = [record for record in records(tiny_store.root) if record["prior_hash"]]
    assert sorted(record["kind"] for record in with_prior) == ["distilled set", "evaluation", "evaluation"]
    assert len({record["prior_hash"] for record in with_prior}) == 1  # of the search, and of the samples


def test_a_set_is_known_by_its_folder_its_files_and_its_copies(tiny_tasks, tiny_store, tmp_path):
    task = next(task for task in tiny_tasks if type(task).__name__ == "DistillTask")
    folder = tiny_store.set_folder(task.key)
    shutil.copytree(folder, tmp_path / "my-set")
    places = (folder, folder / "card.json", folder / "distilled.safetensors", tmp_path / "my-set")
    found = [trace(path) | {"path": ""} for path in places]
    assert all(each == found[0] for each in found)
    assert (found[0]["key"], found[0]["settings"]["search"]["steps"], found[0]["seed"]) == (task.key, 2, 0)


def test_the_matrices_of_an_evaluation_lead_to_its_rows(tiny_tasks, tiny_store):
    key = next(task.key for task in tiny_tasks if type(task).__name__ == "EvaluateTask")
    assert trace(tiny_store.confusion_file(key))["key"] == key


def test_an_old_evaluation_has_the_prior_hash_of_its_set(tiny_tasks, tiny_store, tmp_path):
    task = next(t for t in tiny_tasks if getattr(t, "distilled", None) and t.distilled.kind == "single")
    shutil.copytree(tiny_store.root, tmp_path / "results")
    file = tmp_path / "results" / "evaluations" / f"{task.key}.json"
    content = read_json(file)
    for name in ("prior_hash", "request", "algorithms", "seed", "key", "resumed"):
        del content["provenance"][name]
    write_json(file, content)
    found = trace(file)
    assert len(found["prior_hash"]) == 64 and found["seed"] == 0 and found["key"] == task.key
    assert found["algorithms"] is None and trace(tmp_path / "results")["unrecorded"] == 1


def test_a_generator_has_a_trace():
    found = trace(PROJECT / "data" / "priors" / "digits-16.safetensors")
    assert (found["kind"], found["seed"]) == ("generator", 0) and found["settings"]["steps"] > 0
    assert len(found["data_hash"]) == 64 and found["device"]


def test_a_folder_is_summed_up_and_names_what_is_older_or_damaged(
    tiny_tasks, tiny_store, tmp_path, monkeypatch
):
    shutil.copytree(tiny_store.root, tmp_path / "results")
    file = next((tmp_path / "results" / "evaluations").glob("*.json"))
    monkeypatch.setattr(import_module("hglad.objectives.experts"), "VERSION", 2)
    found = trace(tiny_store.root)
    (group,) = found["groups"]
    assert group["results"] == Counter(KINDS[type(task).__name__] for task in tiny_tasks)
    total = sum(record["seconds"] for record in records(tiny_store.root))
    assert group["seconds"] == pytest.approx(total, abs=0.06)
    assert found["older"] == {"experts version 1, now 2": 3}  # the expert, the set, its evaluation
    assert (found["unrecorded"], found["damaged"]) == (0, [])
    file.write_text('{"rows": [')
    found = trace(tmp_path / "results")
    assert found["damaged"] == [str(file)]
    assert sum(found["groups"][0]["results"].values()) == len(tiny_tasks) - 1


COMMITTED = sorted(folder.name for folder in (PROJECT / "data" / "results").iterdir() if folder.is_dir())


@pytest.mark.parametrize("profile", COMMITTED)
def test_committed_results_have_a_trace(profile):
    root = PROJECT / "data" / "results" / profile
    found = trace(root)
    assert found["damaged"] == [] and found["older"] == {}
    file = [*root.glob("evaluations/*.json"), *root.glob("sets/*/card.json")][-1]
    record = trace(file)
    assert record["key"] in (file.stem, file.parent.name)
    assert len(record["commit"]) == 40 and record["data_hash"]


def test_a_summary_has_every_value_once(tiny_store):
    found = summary(records(tiny_store.root))
    assert len(found["commits"]) == len(found["devices"]) == len(found["prior_hash"]) == 1
    assert any(package.startswith("torch ") for package in found["packages"])
    assert found["started"][0] <= found["started"][1] and found["peak_memory_mib"] > 50
    assert summary([])["seconds"] == 0


def notebook(folder: Path, **metadata) -> Path:
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title")])
    content.metadata |= metadata
    nbformat.write(content, folder / "page.ipynb")
    return folder / "page.ipynb"


def test_a_notebook_has_the_trace_of_its_results(tmp_path, monkeypatch):
    file = notebook(tmp_path, hglad=METADATA)
    assert trace(file) == {"kind": "notebook", "path": str(file), **METADATA, "older": []}
    monkeypatch.setattr(import_module("hglad.objectives.dm"), "VERSION", 2)
    assert trace(file)["older"] == ["objective dm version 1, now 2"]


def test_a_page_has_the_trace_of_its_notebook(tmp_path):
    html = tmp_path / "html"
    for name in ("index", "book/results/digits/page"):
        (html / name).parent.mkdir(parents=True, exist_ok=True)
        (html / f"{name}.html").write_text("<html></html>")
    pages = {"book/results/digits/page": METADATA}
    write_json(html / "provenance.json", {"commit": "e" * 40, "clean": True, "pages": pages})
    found = trace(html / "book/results/digits/page.html")
    assert (found["kind"], found["results"]) == ("notebook", METADATA["results"])
    found = trace(html / "index.html")
    assert (found["kind"], found["commit"]) == ("page", "e" * 40)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "absent", "no .*absent: expected a result"),
        (lambda folder: folder, "no results in"),
        (lambda folder: write(folder / "a.txt", "text"), "a.txt does not say where it comes from"),
        (lambda folder: write(folder / "a.json", "{}"), "a.json does not say where it comes from"),
        (lambda folder: write(folder / "a.json", "[1]"), "a.json does not say where it comes from"),
        (lambda folder: write(folder / "a.json", "{"), "cannot read .*a.json"),
        (lambda folder: write(folder / "a.safetensors", "x"), "cannot read .*a.safetensors"),
        (lambda folder: write(folder / "a.html", "x"), "a.html is not in a book that hglad book built"),
        (lambda folder: write(folder / "a.ipynb", "x"), "cannot read .*a.ipynb"),
        (notebook, "page.ipynb does not say where it comes from: execute it with hglad notebooks"),
    ],
)
def test_what_has_no_trace_is_one_clear_line(tmp_path, make, message, capsys):
    assert main(["provenance", str(make(tmp_path))]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    with pytest.raises(HgladError, match=message):
        raise HgladError(error)


def test_the_command_prints_json(tiny_store, capsys):
    folder = next((tiny_store.root / "sets").iterdir())
    assert main(["provenance", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == trace(folder)
