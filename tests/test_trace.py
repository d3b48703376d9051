"""The trace of results: what every kind of file says of itself, folders of them, notebooks and pages."""

import json
import shutil
from importlib import import_module
from pathlib import Path

import nbformat
import pytest

from hglad.book.trace import FIELDS, record_of, records, result_files, summary, trace
from hglad.book.trace_text import as_text
from hglad.cli import main
from hglad.errors import HgladError
from hglad.experiments.tasks import DistillTask, ExpertTask
from hglad.paths import PROJECT
from hglad.provenance import commit
from hglad.storage import read_json, write_json

METADATA = {
    "profile": "digits",
    "made_from": "0123456789ab",
    "results": ["aaaaaaaaaaaa", "bbbbbbbbbbbb"],
    "algorithms": {"objective dm": 1, "search": 1},
    "commits": ["f" * 40],
    "devices": ["a processor"],
    "packages": ["torch 2.11.0"],
    "data_hash": ["cccccccccccc"],
    "prior_hash": ["d" * 64],
    "seeds": [0, 1],
    "started": ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"],
    "seconds": 12.5,
    "peak_memory_mib": 900,
}


def test_every_result_says_where_it_comes_from(tiny_tasks, tiny_store):
    for task in tiny_tasks:
        found = trace(task.place(tiny_store))
        assert (found["key"], found["request"], found["algorithms"]) == (
            task.key,
            task.request,
            task.versions,
        )
        assert (found["commit"], found["clean"]) == (commit()["commit"], commit()["clean"])
        unset = {name for name in FIELDS if found[name] is None}
        assert unset <= {"resumed", "prior_hash", "set"}, task
        assert found["older"] == [] and found["seconds"] > 0 and found["device"] in as_text(found)


def test_kinds_and_prior_hashes_are_told_apart(tiny_tasks, tiny_store):
    kinds = {type(task).__name__: record_of(task.place(tiny_store))["kind"] for task in tiny_tasks}
    assert kinds == {
        "ClassifierTask": "classifier",
        "ExpertTask": "expert",
        "DistillTask": "distilled set",
        "MeasureTask": "distances",
        "EvaluateTask": "evaluation",
    }
    with_prior = [r for r in records(tiny_store.root) if r["prior_hash"]]
    assert sorted(record["kind"] for record in with_prior) == ["distilled set", "evaluation", "evaluation"]
    assert len({record["prior_hash"] for record in with_prior}) == 1  # of the search, and of the samples


def test_a_set_is_known_by_its_folder_and_its_files(tiny_tasks, tiny_store):
    task = next(task for task in tiny_tasks if isinstance(task, DistillTask))
    folder = tiny_store.set_folder(task.key)
    found = [trace(path) for path in (folder, folder / "card.json", folder / "distilled.safetensors")]
    assert all(each | {"path": ""} == found[0] | {"path": ""} for each in found)
    assert found[0]["settings"]["search"]["steps"] == 2 and found[0]["seed"] == 0


def test_the_matrices_of_an_evaluation_lead_to_its_rows(tiny_tasks, tiny_store):
    key = next(task.key for task in tiny_tasks if type(task).__name__ == "EvaluateTask")
    assert trace(tiny_store.confusion_file(key))["key"] == key


def test_a_copied_set_keeps_its_key(tiny_tasks, tiny_store, tmp_path):
    task = next(task for task in tiny_tasks if isinstance(task, DistillTask))
    shutil.copytree(tiny_store.set_folder(task.key), tmp_path / "my-set")
    assert trace(tmp_path / "my-set")["key"] == task.key


def test_older_versions_are_named(tiny_tasks, tiny_store, monkeypatch):
    monkeypatch.setattr(import_module("hglad.search.loop"), "VERSION", 2)
    task = next(task for task in tiny_tasks if isinstance(task, DistillTask))
    found = trace(tiny_store.set_folder(task.key))
    assert found["older"] == ["search version 1, now 2"]
    assert "made by older algorithm code: search version 1, now 2" in as_text(found)


def test_a_folder_is_summed_up(tiny_tasks, tiny_store, monkeypatch):
    monkeypatch.setattr(import_module("hglad.objectives.experts"), "VERSION", 2)
    found = trace(tiny_store.root)
    (group,) = found["groups"]
    assert sum(group["results"].values()) == len(tiny_tasks) == len(list(result_files(tiny_store.root)))
    assert group["results"]["expert"] == sum(isinstance(task, ExpertTask) for task in tiny_tasks)
    total = sum(record["seconds"] for record in records(tiny_store.root))
    assert group["seconds"] == pytest.approx(total, abs=0.06)
    assert found["older"] == {"experts version 1, now 2": 3}  # the expert, the set, its evaluation
    assert (found["unrecorded"], found["damaged"]) == (0, [])
    assert "made by older algorithm code: 3 by experts version 1, now 2" in as_text(found)


def test_a_damaged_file_is_named_and_the_others_are_read(tiny_tasks, tiny_store, tmp_path):
    shutil.copytree(tiny_store.root, tmp_path / "results")
    file = next((tmp_path / "results" / "evaluations").glob("*.json"))
    file.write_text('{"rows": [')
    found = trace(tmp_path / "results")
    assert found["damaged"] == [str(file)] and f"cannot be read: {file}" in as_text(found)
    assert sum(found["groups"][0]["results"].values()) == len(tiny_tasks) - 1


COMMITTED = sorted(folder.name for folder in (PROJECT / "data" / "results").iterdir() if folder.is_dir())


@pytest.mark.parametrize("profile", COMMITTED)
def test_committed_results_have_a_trace(profile):
    root = PROJECT / "data" / "results" / profile
    found = trace(root)
    assert found["damaged"] == [] and found["older"] == {}
    assert "Intel" in as_text(found) or "AMD" in as_text(found)
    file = [*root.glob("evaluations/*.json"), *root.glob("sets/*/card.json")][-1]
    record = trace(file)
    assert record["key"] in (file.stem, file.parent.name)
    assert len(record["commit"]) == 40 and record["data_hash"]


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
    assert "algorithms   not recorded" in as_text(found)


def test_a_generator_has_a_trace():
    found = trace(PROJECT / "data" / "priors" / "digits-16.safetensors")
    assert (found["kind"], found["seed"]) == ("generator", 0) and found["settings"]["steps"] > 0
    assert len(found["data_hash"]) == 64 and found["device"] in as_text(found)


def test_a_summary_has_every_value_once(tiny_store):
    found = summary(list(records(tiny_store.root)))
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
    text = as_text(trace(file))
    assert "made by older algorithm code: objective dm version 1, now 2" in text
    assert all(word in text for word in ("f" * 40, "d" * 64, "12.5 s", "900 MiB", "a processor", "0, 1"))


def test_a_page_has_the_trace_of_its_notebook(tmp_path):
    html = tmp_path / "html"
    for name in ("index", "book/results/digits/page"):
        (html / name).parent.mkdir(parents=True, exist_ok=True)
        (html / f"{name}.html").write_text("<html></html>")
    pages = {"book/results/digits/page": METADATA}
    write_json(html / "provenance.json", {"commit": "e" * 40, "clean": True, "pages": pages})
    found = trace(html / "book/results/digits/page.html")
    assert (found["kind"], found["results"]) == ("notebook", METADATA["results"])
    text = as_text(trace(html / "index.html"))
    assert "e" * 40 in text and "no results of its own" in text


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


def test_the_command_prints_text_or_json(tiny_tasks, tiny_store, capsys):
    folder = tiny_store.set_folder(next(t for t in tiny_tasks if isinstance(t, DistillTask)).key)
    assert main(["provenance", str(folder)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"distilled set {folder}\n") and "steps: 2" in text
    assert main(["provenance", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == trace(folder)
