"""What is said of result rows, against values by hand, scipy's own tests and simulations of known truth."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hglad.errors import HgladError
from hglad.paths import PROJECT
from hglad.results import (
    CELL,
    Store,
    as_cell,
    compare,
    paired,
    published,
    seed_means,
    summarise,
    t_factor,
    verdict,
)


def cell_rows(accuracies: dict[int, list[float]], method: str = "pixels", **marks: object) -> pd.DataFrame:
    """Rows of one table cell: the accuracies of each seed's repeats."""
    cell = {"objective": "dm", "method": method, "layer": None, "ipc": 1, "network": "ConvNet"} | marks
    return pd.DataFrame(
        [
            cell | {"seed": seed, "repeat": repeat, "accuracy": value}
            for seed, values in accuracies.items()
            for repeat, value in enumerate(values)
        ]
    )


def together(*frames: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True)


def simulated(cells: int, seeds: int, generator: np.random.Generator) -> pd.DataFrame:
    """Rows of many cells whose seeds come from one normal distribution (mean 60, deviation 2)."""
    frame = pd.DataFrame({"ipc": np.arange(cells).repeat(seeds), "seed": np.tile(np.arange(seeds), cells)})
    marks = {"objective": "dm", "method": "pixels", "layer": None, "network": "ConvNet", "repeat": 0}
    return frame.assign(**marks, accuracy=generator.normal(60, 2, cells * seeds))


THREE_SEEDS = {0: [50.0, 52.0], 1: [52.0, 56.0], 2: [53.0, 55.0]}  # means 51, 54, 54


def test_repeats_are_averaged_per_seed():
    means = seed_means(cell_rows(THREE_SEEDS), ["method"])
    assert means["accuracy"].tolist() == [51, 54, 54]
    assert means["repeats"].tolist() == [2, 2, 2]


def test_summary_by_hand():
    """Mean 53, deviation sqrt(3), half width 4.3027 sqrt(3) / sqrt(3)."""
    row = summarise(cell_rows(THREE_SEEDS), ["method"]).iloc[0]
    assert row["mean"] == pytest.approx(53)
    assert row["sd"] == pytest.approx(3**0.5)
    assert (row["low"], row["high"]) == (pytest.approx(53 - 4.302653), pytest.approx(53 + 4.302653))
    assert (row["seeds"], row["repeats"]) == (3, 2)


def test_summary_is_scipy_s_t_interval():
    values = [61.2, 63.9, 60.1, 64.4, 62.0]
    row = summarise(cell_rows({seed: [value] for seed, value in enumerate(values)}), ["method"]).iloc[0]
    expected = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (row["low"], row["high"]) == pytest.approx(expected)


def test_groups_keep_their_order_and_those_without_an_objective_stay():
    rows = together(
        cell_rows({0: [30.0], 1: [32.0]}, "random", objective=None), cell_rows({0: [50.0]}, "pixels")
    )
    table = summarise(rows, ["objective", "method"])
    assert table["method"].tolist() == ["random", "pixels"]
    assert table["mean"].tolist() == [31, 50]


def test_one_seed_has_no_interval():
    row = summarise(cell_rows({0: [50.0, 54.0]}), ["method"]).iloc[0]
    assert row["mean"] == 52
    assert np.isnan([row["sd"], row["low"], row["high"]]).all()
    assert as_cell(row) == "52.0 (1×2)"


def test_t_factor():
    assert t_factor(pd.Series([2, 5, 31])) == pytest.approx([12.7062, 2.77645, 2.04227], abs=1e-4)
    assert np.isnan(t_factor(pd.Series([1])))


def test_as_cell():
    row = summarise(cell_rows(THREE_SEEDS), ["method"]).iloc[0]
    assert as_cell(row) == "53.0 ± 4.3 (3×2)"


def test_summary_covers_the_truth_in_95_of_100_simulations():
    table = summarise(simulated(2000, 4, np.random.default_rng(0)), ["ipc"])
    covered = ((table["low"] <= 60) & (table["high"] >= 60)).mean()
    assert covered == pytest.approx(0.95, abs=0.015)  # three standard errors


def test_paired_is_scipy_s_paired_t_test():
    first, second = [61.0, 63.5, 60.0, 66.0], [58.0, 62.0, 59.5, 61.0]
    rows = together(
        cell_rows({seed: [value - 1, value + 1] for seed, value in enumerate(first)}, "hierarchical"),
        cell_rows({seed: [value] for seed, value in enumerate(second)}, "single"),
    )
    row = paired(rows, "hierarchical", "single", ["ipc"]).iloc[0]
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert row["mean"] == pytest.approx(2.5)
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    assert (row["seeds"], row["comparison"]) == (4, "hierarchical - single")


def test_paired_uses_shared_seeds_only_and_keeps_the_sign():
    rows = together(
        cell_rows({0: [50.0], 1: [51.0], 7: [99.0]}, "pixels"),
        cell_rows({0: [53.0], 1: [56.0], 8: [1.0]}, "single"),
    )
    row = paired(rows, "pixels", "single", ["ipc"]).iloc[0]
    assert (row["mean"], row["seeds"]) == (-4, 2)


def test_paired_keeps_the_groups_apart():
    parts = [
        cell_rows({0: [value], 1: [value + 1]}, method, ipc=ipc)
        for ipc, method, value in ((1, "a", 5.0), (1, "b", 3.0), (10, "a", 20.0), (10, "b", 10.0))
    ]
    assert paired(together(*parts), "a", "b", ["ipc"]).set_index("ipc")["mean"].to_dict() == {1: 2, 10: 10}


def test_paired_refuses_a_method_without_rows():
    with pytest.raises(HgladError, match="no results of method 'pixel': did you mean 'pixels'"):
        paired(cell_rows(THREE_SEEDS), "pixel", "pixels", ["ipc"])


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


def test_published_numbers_are_those_of_the_same_data_and_ipc():
    table = published("cifar10", 32, 1)
    pixels = table[table["method"] == "pixel"].set_index("objective")["accuracy_percent"]
    assert pixels.to_dict() == {"dc": 28.3, "dm": 26.0, "mtt": 46.3}
    assert set(table["ipc"]) == {"1"} and table["source"].str.len().min() > 0
    assert published("digits", 16, 1).empty
