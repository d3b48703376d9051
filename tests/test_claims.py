"""What results say about the claims of the paper: estimates, verdicts, power, and the published numbers."""

import re

import numpy as np
import pandas as pd
import pytest
import scipy
import yaml

from hglad.analysis import claims, plots
from hglad.analysis.laboratory import open_experiment
from hglad.analysis.report.claims import claim_sentences, finding_table, findings, tally
from hglad.analysis.statistics import detectable
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


def test_one_seed_leaves_a_claim_open_and_says_no_power():
    one = {method: values[:1] for method, values in BETTER.items()}
    table = claims.accuracy_findings(rows_of(one), claims.SAME)
    assert set(table["verdict"]) == {claims.OPEN} and table["detectable"].isna().all()


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


def card(kind: str, seed: int, seconds: float) -> dict:
    settings = {"objective": "dm", "kind": kind, "ipc": 1, "seed": seed}
    return {"settings": settings, "provenance": {"seconds": seconds}}


@pytest.mark.parametrize(
    ("factors", "verdict"), [((0.4, 0.42), "holds"), ((1.9, 2.0), "fails"), ((0.8, 2.0), "open")]
)
def test_times_are_compared_as_ratios_by_seed(factors, verdict):
    times = [("single", 0, 10.0), ("single", 1, 30.0)]
    times += [("hierarchical", 0, 10 * factors[0]), ("hierarchical", 1, 30 * factors[1]), ("pixels", 0, 1.0)]
    (row,) = claims.time_findings([card(*each) for each in times]).to_dict("records")
    assert row["mean"] == pytest.approx(np.sqrt(np.prod(factors))) and row["verdict"] == verdict


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

    distances = pd.DataFrame(run(0, [1.0, 2.0, 3.0, 5.0]) + run(1, [1.0, 2.0, 3.0, 0.0]))
    table = claims.metric_findings(distances, "feature", 1).set_index("unit")
    assert (table.loc["Spearman", "low"], table.loc["Spearman", "high"]) == (-1, 1)
    assert table.loc["points", "low"] < -1 and table.loc["points", "high"] > 1
    shown = finding_table(claims.together([table.reset_index()]), claims.METRIC).frame
    assert shown["95 % interval"].iloc[1] == "−1.00 to 1.00" and shown["found with 80 %"].iloc[1] == "–"


def test_power_is_what_simulated_studies_find():
    rng, n, true = np.random.default_rng(0), 5, detectable(2.0, 5).item()
    drawn = rng.normal(true, 2.0, (20_000, n))
    found = scipy.stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.01)
    assert detectable(1.0, 34).item() == pytest.approx(0.495, abs=0.005)  # Cohen 1988: 34 pairs for 0.5
    assert np.isnan(detectable(1.0, 1)).all()


def test_sentences_and_tables_say_what_was_not_tested():
    times = [card(kind, seed, 10.0 + seed) for kind in ("single", "hierarchical") for seed in (0, 1)]
    parts = [claims.accuracy_findings(rows_of(BETTER), claims.SAME), claims.time_findings(times)]
    table = claims.together(parts)
    lines = claim_sentences(table).lines
    assert len(lines) == len(claims.CLAIMS)
    assert lines[0].startswith(
        f"{claims.SAME}: holds in 1, fails in 0, open in 1 of 2 comparisons; 1 of them"
    )
    assert lines[1] == f"{claims.OTHERS}: not tested in this profile."
    assert "Not tested" in repr(finding_table(table, claims.METRIC))
    assert list(finding_table(table, claims.SAME).frame["the claim"]) == ["holds", "open"]
    figure = plots.accuracy_findings(table[table["unit"] == "points"])
    assert [axes.get_title() for axes in figure.axes] == [claims.SAME]


def test_p_values_are_adjusted_within_a_claim():
    table = claims.together([claims.accuracy_findings(rows_of(BETTER), claims.SAME)])
    assert (table["p_holm"] >= table["p"]).all()
    assert table["p_holm"].min() == pytest.approx(2 * table["p"].min())


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
        values = yaml.safe_load((PROJECT / "configs" / f"{profile}.yaml").read_text())
        found = findings(open_experiment("claims", **values))
        for claim, cells in on_the_page.items():
            rows = found[found["claim"] == claim]
            assert cells[column] == (tally(rows) if len(rows) else "not tested"), (profile, claim)
