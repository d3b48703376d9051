"""How well metrics choose, and what parts of a search add: ranks, regret, paired effects, intervals."""

import numpy as np
import pandas as pd
import pytest
from result_frames import make_distances, make_variants
from scipy import stats

from hglad.analysis import selection


def test_rank_correlation_is_one_for_the_right_order_and_counts_handed_on_images_once():
    found = selection.rank_correlations(make_distances(), ["good", "bad"]).set_index(
        ["metric", "iterates", "seed"]
    )
    for rank in ("spearman", "kendall"):
        assert found.loc[("good", "all stages", 0), rank] == pytest.approx(1)
        assert found.loc[("bad", "last stage", 1), rank] == pytest.approx(-1)
    assert len(selection.fresh(make_distances())) == 8


def test_rank_correlations_are_those_of_scipy_run_by_run():
    rng = np.random.default_rng(0)
    table = pd.concat(
        pd.DataFrame({"stage": 0, "step": range(1, 8), "accuracy": rng.random(7), "m": rng.random(7)}).assign(
            objective=objective, seed=seed
        )
        for objective in ("dm", "dc")
        for seed in range(2)
    )
    found = selection.rank_correlations(table, ["m"]).query("iterates == 'all stages'")
    assert len(found) == 4
    for _, row in found.iterrows():
        run = table[(table["objective"] == row["objective"]) & (table["seed"] == row["seed"])]
        assert row["spearman"] == pytest.approx(stats.spearmanr(-run["m"], run["accuracy"]).statistic)
        assert row["kendall"] == pytest.approx(stats.kendalltau(-run["m"], run["accuracy"]).statistic)


def test_rank_correlation_of_equal_accuracies_is_no_number():
    level = make_distances().assign(accuracy=50.0)
    assert selection.rank_correlations(level, ["good"])[["spearman", "kendall"]].isna().all(axis=None)


def test_a_bootstrap_interval_is_near_the_t_interval_and_the_same_again():
    values = np.random.default_rng(1).normal(3, 1, 200)
    low, high = selection.bootstrap_interval(values)
    half = stats.t.ppf(0.975, 199) * values.std(ddof=1) / np.sqrt(200)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert selection.bootstrap_interval(values) == (low, high)
    assert np.isnan(selection.bootstrap_interval([1.0, 2.0])).all()
    assert selection.bootstrap_interval([1.0, float("nan"), 2.0, 3.0])[0] >= 1


def test_choices_and_their_regret():
    chosen = selection.choices(make_distances(), ["good", "bad"]).query("seed == 'dm 0'").set_index("rule")
    assert chosen["accuracy"].to_dict() == {
        "last iterate": 60.0,
        "smallest good": 70.0,
        "smallest bad": 20.0,
        "best measured (oracle)": 70.0,
    }
    assert chosen["regret"].to_dict() == {
        "last iterate": 10.0,
        "smallest good": 0.0,
        "smallest bad": 50.0,
        "best measured (oracle)": 0.0,
    }


def test_effects_are_paired_over_the_seeds():
    found = selection.effects(make_variants(), "all").set_index(["variant", "objective"])
    assert list(dict.fromkeys(found.index.get_level_values("variant"))) == ["worse", "same"]
    row = found.loc[("worse", "dm")]
    differences = [-2.0 + 0.01 * (seed + 0.5) for seed in range(3)]
    assert row["mean"] == pytest.approx(np.mean(differences)) and row["seeds"] == 3
    half = stats.t.ppf(0.975, 2) * np.std(differences, ddof=1) / np.sqrt(3)
    assert (row["low"], row["high"]) == pytest.approx((row["mean"] - half, row["mean"] + half))


def test_effects_as_a_table_and_in_words():
    rows = make_variants()
    found = selection.effects(rows, "all")
    table = selection.effect_table(found, rows, "all").frame
    assert list(table.columns) == ["", "DM", "DC"] and table.iloc[0]["DM"] == "91.0 %"
    assert table.iloc[1]["DM"].startswith("−2.0 (−2.0 to −2.0)")
    lines = selection.effect_verdicts(found).lines
    assert lines[0].startswith("4 of 4 intervals exclude 0") and "worse = −2.0 points" in lines[1]


def test_the_cost_of_a_call_is_shared_by_ten_steps():
    seconds = pd.DataFrame({"metric": "feature", "objective": "dm", "seed": [0, 1], "seconds": [0.01, 0.03]})
    steps = pd.DataFrame({"objective": "dm", "seed": [0, 1], "seconds": [0.1, 0.1], "measurement": 0.04})
    table = selection.cost_table(seconds, steps).frame
    assert list(table.iloc[0])[2:] == ["20", "100", "2 %"]
    assert list(table.iloc[1])[2:] == ["40", "100", "4 %"] and "decoding" in table.iloc[1]["metric"]


def test_long_and_short_calls_are_told_in_milliseconds():
    seconds = pd.DataFrame({"metric": "feature", "objective": "dm", "seed": [0], "seconds": [0.01234]})
    steps = pd.DataFrame({"objective": "dm", "seed": [0], "seconds": [1.9654], "measurement": 0.5})
    assert list(selection.cost_table(seconds, steps).frame.iloc[0])[2:4] == ["12.3", "1,965"]


def test_candidates_are_counted_by_objective():
    table = selection.candidate_table(selection.fresh(make_distances())).frame
    assert table.iloc[0].to_dict() == {
        "objective": "DM", "runs": 2, "stages": 2, "candidates": 8, "test accuracy (%)": "20.0 to 71.0",
    }  # fmt: skip


def test_runs_that_kept_their_first_iterate_are_counted():
    def card(objective: str, stage: int, step: int) -> dict:
        settings = {"objective": objective, "search": {"selection": "metric"}}
        history = [(0, 0, 0.4), (0, 3, 0.5), (1, 0, 0.39), (1, 3, 0.4)]
        return {"settings": settings, "best": {"stage": stage, "step": step}, "history": history}

    start = [card("dm", 0, 0), card("dm", 1, 0), card("dc", 0, 0)]
    cards = {"all": [*start, card("dm", 1, 3)], "less": [card("dm", 0, 3)]}
    table = selection.start_table(cards).frame
    assert table.iloc[0].tolist() == ["all", "2 of 3", "1 of 1"]
    assert table.iloc[1]["DM"] == "0 of 1"
