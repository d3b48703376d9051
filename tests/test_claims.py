"""What results say about the claims of the paper: estimates, verdicts, power, and the published numbers."""

import re

import numpy as np
import pandas as pd
import pytest
from result_frames import make_distances

from hglad.analysis import claims, figures
from hglad.analysis.tables import finding_table
from hglad.experiments import open_experiment
from hglad.paths import PROJECT


def rows_of(accuracies: dict[str, list[float]], network: str = "ConvNet-3", **marks) -> pd.DataFrame:
    """A row for each seed of each method."""
    marks = {"objective": "dm", "ipc": 1, "repeat": 0, "layer": None} | marks
    return pd.DataFrame(
        marks | {"method": method, "network": network, "seed": seed, "accuracy": value}
        for method, values in accuracies.items()
        for seed, value in enumerate(values)
    )


BETTER = {"hierarchical": [31.0, 32.0, 33.1], "single": [30.0, 31.1, 32.0], "pixels": [33.0, 28.0, 35.0]}


def test_a_claim_holds_where_the_interval_lies_on_its_side():
    table = claims.accuracy_findings(rows_of(BETTER), claims.SAME).set_index("comparison")
    assert table.loc["H-GLaD − GLaD", "verdict"] == claims.HOLDS
    assert table.loc["H-GLaD − GLaD", "mean"] == pytest.approx(1.0)
    assert table.loc["H-GLaD − pixels", "verdict"] == claims.OPEN
    worse = {"hierarchical": BETTER["single"], "single": BETTER["hierarchical"], "pixels": BETTER["pixels"]}
    table = claims.accuracy_findings(rows_of(worse), claims.SAME).set_index("comparison")
    assert table.loc["H-GLaD − GLaD", "verdict"] == claims.FAILS


@pytest.mark.parametrize("seeds", [1, 2])
def test_of_few_seeds_nothing_is_said(seeds):
    few = {method: values[:seeds] for method, values in BETTER.items()}
    table = claims.accuracy_findings(rows_of(few), claims.SAME)
    assert set(table["verdict"]) == {claims.TOO_FEW} and table["detectable"].isna().all()
    assert claims.tally(table) == "holds in 0, fails in 0, open in 0, too few seeds in 2 of 2"


def test_other_architectures_are_averaged_and_only_sets_that_met_all_count():
    parts = [rows_of(BETTER, name) for name in ("ConvNet-3", "VGG-11", "ViT")]
    rows = pd.concat(parts, ignore_index=True)
    rows = rows[~((rows["network"] == "ViT") & (rows["seed"] == 2))]
    rows.loc[rows["network"] == "ViT", "accuracy"] += 4
    others = claims.on_others(rows, "ConvNet-3")
    assert set(others["network"]) == {"VGG-11", "ViT"} and set(others["seed"]) == {0, 1}
    table = claims.accuracy_findings(others, claims.OTHERS).set_index("comparison")
    assert table.loc["H-GLaD − GLaD", "seeds"] == 2
    assert table.loc["H-GLaD − GLaD", "mean"] == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("factors", "verdict"),
    [((0.4, 0.42, 0.41), "holds"), ((1.9, 2.0, 1.95), "fails"), ((0.8, 2.0, 1.0), "open")],
)
def test_times_are_compared_as_ratios_by_seed(factors, verdict):
    times = [("single", seed, 10.0 + seed) for seed in range(3)] + [("pixels", 0, 1.0)]
    times += [("hierarchical", seed, factor * (10 + seed)) for seed, factor in enumerate(factors)]
    runs = pd.DataFrame(times, columns=["method", "seed", "seconds"]).assign(objective="dm", ipc=1)
    (row,) = claims.time_findings(runs).to_dict("records")
    assert row["mean"] == pytest.approx(np.prod(factors) ** (1 / 3)) and row["verdict"] == verdict
    assert row["low"] < row["mean"] < row["high"] and row["detectable"] > 1


def test_the_metric_is_judged_by_its_choice_and_by_its_ranks():
    accuracies, seeds = [10.0, 20.0, 30.0, 25.0], range(4)
    distances = pd.DataFrame(
        {"objective": "dm", "seed": seed, "iterate": i, "stage": 0, "step": i, "accuracy": a + 0.1 * seed * i}
        | {"feature": 100 - a}
        for seed in seeds
        for i, a in enumerate(accuracies)
    )
    table = claims.metric_findings(distances, "feature", 1).set_index("unit")
    assert table.loc["points", "mean"] == pytest.approx(np.mean([5 - 0.1 * seed for seed in seeds]))
    assert table.loc["Spearman", "mean"] == pytest.approx(1.0)
    assert set(table["verdict"]) == {claims.HOLDS}


def test_the_interval_of_a_correlation_ends_at_one():
    def run(seed: int, accuracies: list[float]) -> list[dict]:
        return [
            {
                "objective": "dm",
                "seed": seed,
                "iterate": i,
                "stage": 0,
                "step": i,
                "accuracy": a,
                "feature": i,
            }
            for i, a in enumerate(accuracies)
        ]

    distances = pd.DataFrame(
        run(0, [1.0, 2.0, 3.0, 5.0]) + run(1, [1.0, 2.0, 3.0, 0.0]) + run(2, [3.0, 2.0, 1.0, 0.0])
    )
    table = claims.metric_findings(distances, "feature", 1).set_index("unit")
    assert (table.loc["Spearman", "low"], table.loc["Spearman", "high"]) == (-1, 1)
    assert table.loc["points", "low"] < -1 and table.loc["points", "high"] > 1
    shown = finding_table(claims.together([table.reset_index()]), claims.METRIC).cells
    assert shown["95 % interval"].iloc[1] == "−1.00 to 1.00" and shown["found with 80 %"].iloc[1] == "–"


def test_sentences_and_tables_say_what_was_not_tested():
    table = claims.together([claims.accuracy_findings(rows_of(BETTER), claims.SAME)])
    lines = claims.sentences(table)
    assert lines[0].startswith(
        f"{claims.SAME}: holds in 1, fails in 0, open in 1 of 2 comparisons; 1 of them"
    )
    assert lines[1:] == [f"{claim}: not tested in this profile." for claim in claims.CLAIMS[1:]]
    assert finding_table(table, claims.METRIC).notes == ("Not tested in this profile.",)
    assert list(finding_table(table, claims.SAME).cells["the claim"]) == ["holds", "open"]
    figure = figures.differences(table, line="comparison", panel="claim")
    assert [axes.get_title() for axes in figure.axes] == [claims.SAME]


def test_p_values_are_adjusted_within_a_claim():
    table = claims.together([claims.accuracy_findings(rows_of(BETTER), claims.SAME)])
    assert (table["p_holm"] >= table["p"]).all()
    assert table["p_holm"].min() == pytest.approx(2 * table["p"].min())


@pytest.mark.slow
def test_the_overview_in_the_book_is_what_the_results_say(monkeypatch):
    monkeypatch.chdir(PROJECT)
    monkeypatch.delenv("HGLAD_RESULTS", raising=False)
    lines = [line for line in (PROJECT / "book" / "claims.md").read_text().splitlines() if line[:1] == "|"]
    profiles = re.findall(r"<results/([\w-]+)/07_claims>", lines[0])
    on_the_page = {
        row[0]: row[1:] for row in ([cell.strip() for cell in x.split("|")[1:-1]] for x in lines[2:])
    }
    assert list(on_the_page) == list(claims.CLAIMS)
    pages = (PROJECT / "book" / "results").glob("*/07_claims.ipynb")
    assert set(profiles) == {page.parent.name for page in pages}
    for column, profile in enumerate(profiles):
        found = claims.findings(open_experiment("claims", profile))
        for claim, cells in on_the_page.items():
            rows = found[found["claim"] == claim]
            assert cells[column] == (claims.tally(rows) if len(rows) else "not tested"), (profile, claim)


def test_ranks_and_choices_of_runs_by_hand():
    """Ranks are scipy's run by run, images that are handed on count once, choices have their regret."""
    distances = make_distances()
    ranks = claims.rank_correlations(distances, ["good", "bad"]).set_index(["metric", "iterates"])
    assert (ranks.loc[("good", "all stages"), ["spearman", "kendall"]] == 1).all(axis=None)
    assert (ranks.loc[("bad", "last stage"), "spearman"] == -1).all()
    equal = claims.rank_correlations(distances.assign(accuracy=50.0), ["good"])
    assert equal[["spearman", "kendall"]].isna().all(axis=None)
    chosen = claims.choices(distances, ["good", "bad"]).set_index(["metric", "seed"])
    assert chosen.loc[("last", 0), ["accuracy", "regret"]].tolist() == [60, 10]
    assert chosen.loc[("good", 1), ["accuracy", "regret"]].tolist() == [71, 0]
    assert chosen.loc[("bad", 0), "rule"] == "smallest bad" and chosen.loc[("bad", 0), "accuracy"] == 20
