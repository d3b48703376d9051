"""Cells against their formulas, recomputed results against committed ones, exported rows."""

import json

import numpy as np
import pandas as pd
import pytest
from result_frames import RANDOM, THREE_SEEDS, baselines, cell_rows, keep_rows, keyed, simulated, together

from hglad.analysis.cells import (
    CELL,
    DESCRIPTION,
    cell_columns,
    cells,
    compare,
    export_rows,
    select,
    verdict,
    write_rows,
)
from hglad.analysis.statistics import as_cell, difference, ratio, seed_means, summarize
from hglad.errors import HgladError
from hglad.experiments.store import Store


def test_cells_are_those_of_the_statistics():
    rows = together(baselines(), cell_rows(THREE_SEEDS))
    line = cells(rows).set_index("method").loc["pixels"]
    own, random, full = (
        seed_means(rows[rows["method"] == name], ["method"]).set_index("seed")["accuracy"]
        for name in ("pixels", "random", "full")
    )
    assert as_cell(line) == as_cell(summarize(cell_rows(THREE_SEEDS), ["method"]).iloc[0])
    gain, part = difference(own, random), ratio(own, full)
    assert line["improvement"] == gain["mean"] == pytest.approx(53 - 98.5 / 3)
    assert (line["improvement_low"], line["improvement_high"]) == (gain["low"], gain["high"])
    assert (line["improvement_seeds"], line["improvement_dropped"]) == (3, 1)
    assert line["share"] == pytest.approx(100 * 53 / 90.5)
    assert (line["share_low"], line["share_high"]) == (100 * part["low"], 100 * part["high"])
    assert (line["improvement_interval"], line["share_interval"]) == (gain["interval"], part["interval"])


def test_baselines_are_those_of_the_same_network_ipc_and_scoring():
    """A mark that says how sets are scored must be equal, also where it is missing."""
    rows = together(
        cell_rows(THREE_SEEDS),
        baselines(network="ViT"),
        baselines(augmentation="none"),
        cell_rows(RANDOM, "random", objective=None, ipc=10),
    )
    line = cells(rows).set_index(["method", "network", "ipc"]).loc[("pixels", "ConvNet", 1)]
    assert line[["improvement", "share"]].isna().all()
    marked = together(rows, cell_rows(THREE_SEEDS, "single", augmentation="none", generator="g", layer=2))
    line = cells(marked).set_index("method").loc["single"]
    assert (line["improvement"], line["share"]) == pytest.approx((53 - 98.5 / 3, 100 * 53 / 90.5))


def test_holm_counts_the_cells_that_have_a_test():
    rows = together(
        baselines(), cell_rows(THREE_SEEDS), cell_rows({0: [40.0], 1: [44.0], 2: [41.0]}, "single")
    )
    table = cells(rows).set_index("method")
    assert table.loc["pixels", "improvement_p_holm"] == pytest.approx(
        2 * table.loc["pixels", "improvement_p"]
    )
    assert np.isnan(table.loc["random", "improvement_p_holm"])


def test_iterates_are_left_out_and_filters_keep_the_baselines():
    rows = keyed(
        baselines(),
        cell_rows(THREE_SEEDS),
        cell_rows(THREE_SEEDS, objective="dc"),
        cell_rows(THREE_SEEDS, ipc=10),
        cell_rows(THREE_SEEDS, iterate=4),
    )
    chosen = select(rows, "dm", 1)
    assert sorted(chosen["method"].unique()) == ["full", "pixels", "random"]
    assert set(chosen["objective"].dropna()) == {"dm"}
    assert (chosen["method"] == "pixels").sum() == 6


def test_two_results_for_one_network_are_not_averaged():
    rows = keyed(cell_rows(THREE_SEEDS), cell_rows({1: [99.0]}))
    with pytest.raises(HgladError, match=r"'pixels', seed 1 has several results \(key0, key1\)"):
        select(rows)


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


def test_compare_leaves_few_seeds_unjudged_and_iterates_out():
    committed = together(
        cell_rows(THREE_SEEDS),
        cell_rows({0: [30.0]}, "random", objective=None),
        cell_rows({0: [97.0], 1: [98.0], 2: [97.5]}, "full", objective=None, ipc=None),
        cell_rows({0: [50.0], 1: [51.0]}, "single", layer=2),
        cell_rows({0: [5.0], 1: [6.0]}, "hierarchical", iterate=3),
    )
    table = compare(committed, committed)
    assert table["method"].tolist() == ["full", "random", "pixels", "single"]
    assert table["verdict"].tolist() == ["inside", "too few seeds", "inside", "too few seeds"]
    assert table["interval"][1] == "-"
    assert list(table.columns[: len(CELL)]) == CELL
    assert verdict(table) == "2 of 2 recomputed means lie inside the committed 95 % prediction intervals"


def test_compare_keeps_cells_apart_that_differ_in_one_thing():
    cells = [{}, {"method": "single", "layer": 1}, {"method": "single", "layer": 2}, {"ipc": 10}]
    cells += [{"network": "ViT"}, {"objective": "dc"}]
    rows = together(*(cell_rows({0: [10.0 * i], 1: [10.0 * i + 1]}, **mark) for i, mark in enumerate(cells)))
    table = compare(rows, rows)
    assert sorted(table["committed"]) == [0.5, 10.5, 20.5, 30.5, 40.5, 50.5]


def test_equal_seeds_leave_room_for_one_test_image():
    others = cell_rows({0: [80.0], 1: [80.5]}, "random", objective=None)  # accuracies come in steps of 0.5
    committed = together(cell_rows({0: [90.0], 1: [90.0], 2: [90.0]}), others)
    for value, expected in ((90.5, "inside"), (91.0, "OUTSIDE")):
        table = compare(together(cell_rows({0: [value], 1: [value]}), others), committed)
        assert table.set_index("method")["verdict"]["pixels"] == expected


def test_compare_refuses_results_without_a_shared_cell():
    with pytest.raises(HgladError, match="share no cell"):
        compare(cell_rows(THREE_SEEDS), cell_rows(THREE_SEEDS, ipc=10))


def test_verdict_counts_and_explains():
    table = pd.DataFrame({"verdict": ["inside", "OUTSIDE", "too few seeds", "inside"]})
    text = "2 of 3 recomputed means lie inside the committed 95 % prediction intervals"
    assert verdict(table) == f"{text}; about 1 in 20 may fall outside by chance"


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


@pytest.mark.parametrize(("suffix", "read"), [("csv", pd.read_csv), ("parquet", pd.read_parquet)])
def test_exported_rows_have_the_provenance_of_their_evaluation(tmp_path, suffix, read):
    store = Store(tmp_path / "results")
    keep_rows(store, "a", cell_rows(THREE_SEEDS), {"epochs": 5}, {"name": "convnet"}, "made")
    file = tmp_path / f"rows.{suffix}"
    write_rows(export_rows(store), file)
    table = read(file)
    assert table["accuracy"].tolist() == [value for values in THREE_SEEDS.values() for value in values]
    assert set(table["set_fingerprint"]) == {"made"} and set(table["torch"]) == {"2.11.0"}
    assert json.loads(table["training"][0]) == {"epochs": 5}
    assert table["key"].tolist() == ["a"] * 6 and table["seconds"].tolist() == [1.5] * 6
    if suffix == "parquet":
        about = pytest.importorskip("pyarrow.parquet").read_schema(file).metadata
        assert about[b"description"].decode() == DESCRIPTION


def test_rows_are_written_to_known_formats_only(tmp_path):
    with pytest.raises(HgladError, match="rows.xlsx: expected a name that ends in .parquet or .csv"):
        write_rows(cell_rows(THREE_SEEDS), tmp_path / "rows.xlsx")
