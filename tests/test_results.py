"""Result rows on disk."""

import json

import pandas as pd
import pytest
from result_frames import THREE_SEEDS, cell_rows, together

from hglad.errors import HgladError
from hglad.experiments.store import Store
from hglad.paths import PROJECT


def test_rows_go_to_disk_and_back(tmp_path):
    store = Store(tmp_path)
    first, second = cell_rows(THREE_SEEDS), cell_rows({5: [1.0]}, "single", layer=2)
    store.write_rows("a", first, {"seconds": 1})
    store.write_rows("b", second, {"seconds": 2})
    rows = store.rows()
    assert rows["key"].tolist() == ["a"] * 6 + ["b"]
    pd.testing.assert_series_equal(rows["accuracy"], together(first, second)["accuracy"])
    assert store.rows(["b"])["layer"].tolist() == [2]
    assert store.provenance(["b", "a"]) == [{"seconds": 2}, {"seconds": 1}]


def test_an_evaluation_named_twice_counts_once(tmp_path):
    store = Store(tmp_path)
    store.write_rows("a", cell_rows(THREE_SEEDS), {})
    assert len(store.rows(["a", "a"])) == 6


def test_marks_that_are_given_replace_those_that_were_stored(tmp_path):
    store = Store(tmp_path)
    store.write_rows("a", cell_rows({5: [1.0, 2.0]}, "single", layer=2, variant="old"), {})
    store.write_rows("b", cell_rows({5: [3.0]}), {})
    rows = store.rows({"a": {"method": "hierarchical", "ipc": 3, "seed": 7}, "b": {"variant": "new"}})
    assert rows["accuracy"].tolist() == [1, 2, 3] and rows["repeat"].tolist() == [0, 1, 0]
    assert rows["method"][:2].tolist() == ["hierarchical"] * 2 and rows["variant"][2] == "new"
    assert rows["variant"][:2].isna().all() and "layer" not in rows


def test_an_empty_folder_has_no_results(tmp_path):
    for rows in (lambda: Store(tmp_path).rows(), lambda: Store(tmp_path).rows([])):
        with pytest.raises(HgladError, match=f"no results in {tmp_path}: expected some from hglad run"):
            rows()


@pytest.mark.parametrize("content", ["[1, 2", json.dumps([1]), json.dumps({"provenance": {}})])
def test_a_damaged_evaluation_is_named(tmp_path, content):
    store = Store(tmp_path)
    store.write_rows("a", cell_rows(THREE_SEEDS), {})
    store.evaluation_file("a").write_text(content)
    with pytest.raises(HgladError, match="a.json.*delete it to have it made again"):
        store.rows()


def test_an_evaluation_that_is_not_there_is_named(tmp_path):
    with pytest.raises(HgladError, match=r"no file .*none\.json"):
        Store(tmp_path).rows(["none"])


def test_the_store_of_a_profile(tmp_path, monkeypatch):
    monkeypatch.delenv("HGLAD_RESULTS", raising=False)
    assert Store.of_profile("digits").root == PROJECT / "data" / "results" / "digits"
    assert Store.of_profile("digits", tmp_path).root == tmp_path
    assert Store(tmp_path).set_folder("k") == tmp_path / "sets" / "k"
    assert Store(tmp_path).classifier_file("k") == tmp_path / "classifiers" / "k.safetensors"


def test_the_results_of_a_name(tmp_path, monkeypatch):
    monkeypatch.delenv("HGLAD_RESULTS", raising=False)
    assert Store.named(str(tmp_path)).root == tmp_path
    assert Store.named("digits").root == PROJECT / "data" / "results" / "digits"
    assert Store.named("digits", tmp_path).root == tmp_path
    with pytest.raises(HgladError, match="no profile or folder of results 'digts': did you mean 'digits'"):
        Store.named("digts")
