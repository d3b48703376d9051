"""Result rows on disk; recomputed results against committed ones, by hand and by simulation."""

import json

import numpy as np
import pandas as pd
import pytest
from result_frames import THREE_SEEDS, cell_rows, simulated, together

from hglad.analysis.statistics import summarise
from hglad.errors import HgladError
from hglad.experiments.store import CELL, Store, cell_columns, compare, verdict
from hglad.paths import PROJECT


def test_compare_by_hand():
    """Seeds 51, 54, 54 against two new ones: half width 4.302653 sqrt(3) sqrt(1/3 + 1/2) = 6.8031."""
    table = compare(cell_rows({0: [46.0], 1: [47.0]}), cell_rows(THREE_SEEDS))
    row = table.iloc[0]
    assert (row["committed"], row["recomputed"]) == (53, 46.5)
    assert row["interval"] == "46.20 to 59.80"
    assert row["verdict"] == "inside"
    for value in (46.1, 59.9):
        outside = compare(cell_rows({0: [value], 1: [value]}), cell_rows(THREE_SEEDS))
        assert outside["verdict"].tolist() == ["OUTSIDE"]


def test_recomputed_means_lie_inside_in_95_of_100_simulations():
    generator = np.random.default_rng(1)
    committed, recomputed = simulated(2000, 5, generator), simulated(2000, 3, generator)
    inside = (compare(recomputed, committed)["verdict"] == "inside").mean()
    assert inside == pytest.approx(0.95, abs=0.015)


def test_compare_leaves_single_seeds_unjudged_and_iterates_out():
    committed = together(
        cell_rows(THREE_SEEDS),
        cell_rows({0: [30.0]}, "random", objective=None),
        cell_rows({0: [97.0], 1: [98.0]}, "full", objective=None, ipc=None),
        cell_rows({0: [50.0], 1: [51.0]}, "single", layer=2),
        cell_rows({0: [5.0], 1: [6.0]}, "hierarchical", iterate=3),
    )
    table = compare(committed, committed)
    assert table["method"].tolist() == ["full", "random", "pixels", "single"]
    assert table["verdict"].tolist() == ["inside", "one seed only", "inside", "inside"]
    assert table["interval"][1] == "-"
    assert list(table.columns[: len(CELL)]) == CELL
    assert verdict(table) == "3 of 3 recomputed means lie inside the committed 95 % prediction intervals"


def test_compare_keeps_cells_apart_that_differ_in_one_thing():
    cells = [{}, {"method": "single", "layer": 1}, {"method": "single", "layer": 2}, {"ipc": 10}]
    cells += [{"network": "ViT"}, {"objective": "dc"}]
    rows = together(*(cell_rows({0: [10.0 * i], 1: [10.0 * i + 1]}, **mark) for i, mark in enumerate(cells)))
    table = compare(rows, rows)
    assert sorted(table["committed"]) == [0.5, 10.5, 20.5, 30.5, 40.5, 50.5]


def test_equal_seeds_leave_room_for_one_test_image():
    others = cell_rows({0: [80.0], 1: [80.5]}, "random", objective=None)  # accuracies come in steps of 0.5
    committed = together(cell_rows({0: [90.0], 1: [90.0]}), others)
    for value, expected in ((90.5, "inside"), (91.0, "OUTSIDE")):
        table = compare(together(cell_rows({0: [value], 1: [value]}), others), committed)
        assert table.set_index("method")["verdict"]["pixels"] == expected


def test_compare_refuses_results_without_a_shared_cell():
    with pytest.raises(HgladError, match="share no cell"):
        compare(cell_rows(THREE_SEEDS), cell_rows(THREE_SEEDS, ipc=10))


def test_verdict_counts_and_explains():
    table = pd.DataFrame({"verdict": ["inside", "OUTSIDE", "one seed only", "inside"]})
    text = "2 of 3 recomputed means lie inside the committed 95 % prediction intervals"
    assert verdict(table) == f"{text}; about 1 in 20 may fall outside by chance"


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
    assert compare(rows, together(first, second))["verdict"].tolist() == ["inside", "one seed only"]


def test_an_evaluation_named_twice_counts_once(tmp_path):
    store = Store(tmp_path)
    store.write_rows("a", cell_rows(THREE_SEEDS), {})
    assert summarise(store.rows(["a", "a"]), ["method"])["repeats"].tolist() == [2]


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


def test_a_mark_is_text_or_a_truth_value():
    rows = cell_rows(THREE_SEEDS, augmentation="usual", soft=True, loss=0.5, none=None, steps=[3])
    assert cell_columns(rows) == ["objective", "method", "layer", "ipc", "network", "augmentation", "soft"]


def test_compare_keeps_cells_apart_by_further_marks():
    rows = together(
        cell_rows({0: [10.0], 1: [12.0]}, augmentation="usual"), cell_rows({0: [20.0], 1: [22.0]})
    )
    table = compare(rows, rows)
    assert table["committed"].tolist() == [21, 11]
    assert table["augmentation"].tolist() == ["-", "usual"]
