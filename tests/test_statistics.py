"""What is said of result rows, against values by hand, scipy's own tests and simulations of known truth."""

import numpy as np
import pandas as pd
import pytest
from result_frames import THREE_SEEDS, cell_rows, simulated, together
from scipy import stats

from hglad.analysis.statistics import (
    NETWORKS_NAME,
    SEEDS_NAME,
    as_cell,
    bootstrap_interval,
    detectable,
    difference,
    holm,
    paired,
    ratio,
    seed_means,
    summarize,
    t_factor,
)
from hglad.errors import HgladError


def test_repeats_are_averaged_per_seed():
    means = seed_means(cell_rows(THREE_SEEDS), ["method"])
    assert means["accuracy"].tolist() == [51, 54, 54]
    assert means["repeats"].tolist() == [2, 2, 2]


def test_summary_by_hand():
    """Mean 53, deviation sqrt(3), half width 4.3027 sqrt(3) / sqrt(3)."""
    row = summarize(cell_rows(THREE_SEEDS), ["method"]).iloc[0]
    assert row["mean"] == pytest.approx(53)
    assert row["sd"] == pytest.approx(3**0.5)
    assert (row["low"], row["high"]) == (pytest.approx(53 - 4.302653), pytest.approx(53 + 4.302653))
    assert (row["seeds"], row["repeats"]) == (3, 2)


def test_summary_is_scipy_s_t_interval():
    values = [61.2, 63.9, 60.1, 64.4, 62.0]
    row = summarize(cell_rows({seed: [value] for seed, value in enumerate(values)}), ["method"]).iloc[0]
    expected = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (row["low"], row["high"]) == pytest.approx(expected)


def test_groups_keep_their_order_and_those_without_an_objective_stay():
    rows = together(
        cell_rows({0: [30.0], 1: [32.0]}, "random", objective=None), cell_rows({0: [50.0]}, "pixels")
    )
    table = summarize(rows, ["objective", "method"])
    assert table["method"].tolist() == ["random", "pixels"]
    assert table["mean"].tolist() == [31, 50]


@pytest.mark.parametrize(("seeds", "cell"), [(1, "52.0 (1×2)"), (2, "52.0 (2×2)")])
def test_below_three_seeds_there_is_no_interval(seeds, cell):
    row = summarize(cell_rows({seed: [50.0, 54.0] for seed in range(seeds)}), ["method"]).iloc[0]
    assert (row["mean"], row["interval"]) == (52, "none")
    assert np.isnan([row["low"], row["high"]]).all()
    assert as_cell(row) == cell


def test_intervals_of_accuracies_end_at_0_and_100():
    rows = together(
        cell_rows({0: [98.0], 1: [99.0], 2: [99.9]}), cell_rows({0: [0.0], 1: [1.0], 2: [5.0]}, "a")
    )
    high, low = (row for _, row in summarize(rows, ["method"]).iterrows())
    assert high["high"] == 100 and high["low"] == pytest.approx(
        98.9667 - 4.302653 * 0.9504 / 3**0.5, abs=1e-3
    )
    assert low["low"] == 0 and as_cell(low) == "2.0 [0.0–8.6] (3×1)"


def test_t_factor():
    assert t_factor(pd.Series([2, 5, 31])) == pytest.approx([12.7062, 2.77645, 2.04227], abs=1e-4)
    assert np.isnan(t_factor(pd.Series([1])))


def test_as_cell():
    row = summarize(cell_rows(THREE_SEEDS), ["method"]).iloc[0]
    assert as_cell(row) == "53.0 ± 4.3 (3×2)"


def test_summary_covers_the_truth_in_95_of_100_simulations():
    table = summarize(simulated(2000, 4, np.random.default_rng(0)), ["ipc"])
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
    assert (row["seeds"], row["first"], row["second"]) == (4, "hierarchical", "single")


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


def test_the_bootstrap_is_scipy_s_and_draws_the_same_each_time():
    values = np.random.default_rng(6).normal(62, 2, 15)  # so many that the bounds move with the draws
    rows = cell_rows({seed: [value] for seed, value in enumerate(values)})
    row = summarize(together(cell_rows(THREE_SEEDS, "single"), rows), ["method"], "bootstrap").iloc[1]
    expected = stats.bootstrap((values,), np.mean, method="BCa", rng=np.random.default_rng(0))
    assert (row["low"], row["high"]) == pytest.approx(tuple(expected.confidence_interval))
    assert row["interval"] == "95 % bootstrap interval (BCa) over distillation seeds"
    assert as_cell(row) == f"{values.mean():.1f} [{row['low']:.1f}–{row['high']:.1f}] (15×1)"


def test_a_bootstrap_needs_three_seeds_and_names_its_method():
    few = bootstrap_interval([1.0, 2.0])
    assert few["interval"] == "none" and np.isnan([few["low"], few["high"]]).all()
    name = "95 % bootstrap interval (percentile) over distillation seeds"
    assert bootstrap_interval([50.0] * 3) == {"low": 50, "high": 50, "interval": name}


def test_every_summary_names_its_interval():
    rows = together(cell_rows(THREE_SEEDS), cell_rows({0: [50.0, 54.0]}, "single"))
    assert summarize(rows, ["method"])["interval"].tolist() == [SEEDS_NAME, "none"]
    assert summarize(rows, ["method"], over="networks")["interval"].tolist() == [NETWORKS_NAME] * 2


def test_an_interval_over_networks_is_that_of_one_set():
    values = [61.2, 63.9, 60.1, 64.4, 62.0]
    row = summarize(cell_rows({3: values}), ["method"], over="networks").iloc[0]
    assert (row["low"], row["high"]) == pytest.approx(
        stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    )
    assert row["sd"] == pytest.approx(np.std(values, ddof=1))
    assert (row["seeds"], row["repeats"]) == (1, 5)


def test_the_spread_over_networks_leaves_out_that_between_sets():
    """Squares within the sets: 2, 8 and 2; 3 degrees of freedom; sd 2, half width 3.1824 * 2 / sqrt(2)."""
    row = summarize(cell_rows(THREE_SEEDS), ["method"], over="networks").iloc[0]
    assert row["sd"] == pytest.approx(2)
    assert row["high"] - row["mean"] == pytest.approx(3.182446 * 2**0.5)
    assert np.isnan(summarize(cell_rows({0: [50.0], 1: [51.0]}), ["method"], over="networks")["low"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": "bootstrp"}, "unknown interval 'bootstrp' over seeds: expected 't'"),
        ({"over": "network"}, "unknown interval 't' over network: expected 't' over seeds or networks"),
        ({"interval": "bootstrap", "over": "networks"}, "'bootstrap' over seeds"),
    ],
)
def test_unknown_intervals_are_refused(options, message):
    with pytest.raises(HgladError, match=message):
        summarize(cell_rows(THREE_SEEDS), ["method"], **options)


def pair(first: list[float], second: list[float]) -> pd.DataFrame:
    """Rows of two methods, a network for each seed."""
    methods = {"hierarchical": first, "single": second}
    return together(*(cell_rows({i: [v] for i, v in enumerate(vs)}, name) for name, vs in methods.items()))


def test_p_value_and_effect_of_a_paired_comparison():
    """Differences 3, 1.5, 0.5, 5; Hedges' factor for 3 degrees of freedom is gamma(3/2) / sqrt(3/2)."""
    first, second = [61.0, 63.5, 60.0, 66.0], [58.0, 62.0, 59.5, 61.0]
    row = paired(pair(first, second), "hierarchical", "single", ["ipc"]).iloc[0]
    assert row["p"] == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert row["effect"] == pytest.approx(2.5 / np.std([3, 1.5, 0.5, 5], ddof=1) * 0.723601, rel=1e-5)
    assert row["dropped"] == 0


def test_the_effect_size_is_not_biased_by_few_seeds():
    """True d_z is 1; without Hedges' factor the mean estimate from 4 seeds would be 1.38."""
    draws = np.random.default_rng(3).normal(1, 1, (20000, 4))
    frame = pd.DataFrame({"ipc": np.arange(20000).repeat(4), "seed": np.tile(np.arange(4), 20000)})
    rows = together(frame.assign(method="a", accuracy=draws.ravel()), frame.assign(method="b", accuracy=0.0))
    assert paired(rows, "a", "b", ["ipc"])["effect"].mean() == pytest.approx(1, abs=0.03)


def test_seeds_without_a_partner_are_counted():
    rows = together(
        cell_rows({0: [50.0], 1: [51.0], 7: [99.0]}, "pixels"), cell_rows({0: [53.0], 1: [56.0]}, "single")
    )
    row = paired(rows, "pixels", "single", ["ipc"]).iloc[0]
    assert (row["seeds"], row["dropped"]) == (2, 1)


def test_equal_differences_have_neither_p_value_nor_effect():
    row = paired(pair([5.0, 6.0, 7.0], [4.0, 5.0, 6.0]), "hierarchical", "single", ["ipc"]).iloc[0]
    assert (row["mean"], row["low"], row["high"]) == (1, 1, 1)
    assert np.isnan([row["p"], row["effect"]]).all()


def test_holm_by_hand():
    """0.01 * 4, 0.02 * 3, then 0.03 * 2 and 0.04 * 1, which may not fall below the one before."""
    assert holm([0.03, 0.01, np.nan, 0.04, 0.02]) == pytest.approx(
        [0.06, 0.04, np.nan, 0.06, 0.06], nan_ok=True
    )
    assert holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert len(holm([])) == 0


def test_a_difference_is_paired_where_seeds_are_shared():
    first, second = (
        pd.Series([61.0, 63.5, 60.0], [0, 1, 2]),
        pd.Series([58.0, 62.0, 59.5, 10.0], [0, 1, 2, 9]),
    )
    found = difference(first, second)
    expected = stats.ttest_rel(first, second[:3])
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found["p"] == pytest.approx(expected.pvalue)
    assert (found["seeds"], found["dropped"]) == (3, 1)
    assert "paired" in found["interval"]


def test_a_difference_without_shared_seeds_is_welch_s():
    first, second = pd.Series([61.0, 63.5, 60.0], [0, 1, 2]), pd.Series([58.0, 62.0, 59.0], [7, 8, 9])
    found = difference(first, second)
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected))
    assert found["seeds"] == 0
    assert "Welch" in found["interval"]


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_difference_of_few_seeds_has_no_interval(seeds):
    one, other = pd.Series([61.0, 62.0][:seeds]), pd.Series([58.0, 59.0][:seeds], [8, 9][:seeds])
    for found in (difference(one, one - 3), difference(one, other)):
        assert (found["mean"], found["interval"]) == (3, "none")
        assert np.isnan([found["low"], found["high"], found["p"]]).all()


def test_fieller_s_interval_holds_the_ratios_that_a_test_does_not_reject():
    """Its ends are ratios r where Welch's test of first = r * second has p = 0.05.

    But for the degrees of freedom, which are those at the estimate.
    """
    first, second = pd.Series([50.0, 54.0, 51.0]), pd.Series([98.0, 99.5, 98.5])
    found = ratio(first, second)
    assert found["mean"] == pytest.approx(first.mean() / second.mean())
    for end in (found["low"], found["high"]):
        assert stats.ttest_ind(first, end * second, equal_var=False).pvalue == pytest.approx(0.05, abs=2e-3)


def test_fieller_s_interval_covers_the_truth_in_95_of_100_simulations():
    generator = np.random.default_rng(5)
    truth, count = 60 / 90, 2000
    draws = [(generator.normal(60, 3, 4), generator.normal(90, 1, 3)) for _ in range(count)]
    found = [ratio(*map(pd.Series, pair)) for pair in draws]
    covered = np.mean([each["low"] <= truth <= each["high"] for each in found])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_a_ratio_without_an_interval():
    few = ratio(pd.Series([50.0, 51.0]), pd.Series([90.0, 91.0, 92.0]))
    unclear = ratio(pd.Series([50.0, 51.0, 52.0]), pd.Series([-10.0, 12.0, 3.0]))
    equal = ratio(pd.Series([50.0] * 3), pd.Series([100.0] * 3))
    assert equal["mean"] == 0.5
    for found in (few, unclear, equal):
        assert found["interval"] == "none"
        assert np.isnan([found["low"], found["high"]]).all()


def test_power_is_what_simulated_studies_find():
    rng, n, true = np.random.default_rng(0), 5, detectable(2.0, 5)
    found = stats.ttest_1samp(rng.normal(true, 2.0, (20_000, n)), 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.01)
    assert detectable(1.0, 34) == pytest.approx(0.495, abs=0.005)  # Cohen 1988: 34 pairs for 0.5
    assert np.isnan(detectable(1.0, 2))
