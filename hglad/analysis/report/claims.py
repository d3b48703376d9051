"""What results say about the claims of the paper, and every number published for their data set."""

import pandas as pd
from IPython.display import display

from hglad.analysis import claims, tables
from hglad.analysis.laboratory import Laboratory
from hglad.analysis.published import every_number, images_of
from hglad.analysis.report.show import Sentences, Table, noted
from hglad.analysis.report.texts import NONE, signed
from hglad.experiments.evaluation_task import marks_by_key

VERDICTS = (claims.HOLDS, claims.FAILS, claims.OPEN)


def findings(laboratory: Laboratory) -> pd.DataFrame:
    """Findings of `hglad.analysis.claims` from the experiments that the profile has."""
    main, *_ = laboratory.profile.networks
    searches, cross = laboratory.part("hierarchical_search"), laboratory.part("cross_architecture")
    parts = []
    if searches:
        parts.append(claims.accuracy_findings(searches.main_rows, claims.SAME))
    if cross and len(laboratory.profile.networks) > 1:
        parts.append(claims.accuracy_findings(claims.on_others(cross.main_rows, main), claims.OTHERS))
    if searches:
        parts.append(claims.time_findings(searches.cards()))
    ablation = laboratory.part("metric_ablation")
    if ablation:
        ipc, metric = laboratory.profile.sets["ipc"][0], ablation.metrics[0]
        parts.append(claims.metric_findings(ablation.distances(), metric, ipc))
    return claims.together(parts)


def finding_table(table: pd.DataFrame, claim: str) -> Table | Sentences:
    """Comparisons of one claim: estimate, interval, power, verdict; or that there are none."""
    rows = table[table["claim"] == claim]
    if rows.empty:
        return Sentences(("Not tested in this profile.",))
    cells = {
        "": rows["objective"].str.upper() + rows["ipc"].map(", ipc {:.0f}".format),
        "comparison": rows["comparison"],
        "the claim": rows["verdict"],
        "estimate": [_value(row, "mean") for _, row in rows.iterrows()],
        "95 % interval": [
            f"{_value(row, 'low')} to {_value(row, 'high')}" if row["seeds"] > 1 else NONE
            for _, row in rows.iterrows()
        ],
        "seeds": rows["seeds"],
        "p (Holm)": rows["p_holm"].map(lambda p: NONE if pd.isna(p) else f"{p:.2g}"),
        "found with 80 %": [_detectable(row) for _, row in rows.iterrows()],
    }
    return Table(pd.DataFrame(cells), wrapped=True)


def _value(row: pd.Series, name: str) -> str:
    if pd.isna(row[name]):
        return NONE
    return signed(row[name]) if row["unit"] == "points" else f"{row[name]:.2f}".replace("-", "−")


def _detectable(row: pd.Series) -> str:
    """Difference, ratio or correlation; a dash where none could have been found."""
    least = row["detectable"]
    if pd.isna(least) or (row["unit"] == "Spearman" and least > 1):
        return NONE
    return {"points": f"{least:.1f} points", "ratio": f"× {least:.2f}"}.get(row["unit"], f"{least:.2f}")


def claim_sentences(table: pd.DataFrame) -> Sentences:
    """A sentence for each claim: in how many comparisons it holds, fails, is open or was not tested."""
    return Sentences(tuple(_claim_sentence(claim, table[table["claim"] == claim]) for claim in claims.CLAIMS))


def _claim_sentence(claim: str, rows: pd.DataFrame) -> str:
    if rows.empty:
        return f"{claim}: not tested in this profile."
    text = f"{claim}: {tally(rows)} comparisons"
    told = rows[rows["p_holm"] < 0.05]
    if rows["p"].notna().any():
        text += f"; {len(told)} of them differ from 0 once all are looked at together (Holm, 5 %)"
    return f"{text}."


def tally(rows: pd.DataFrame) -> str:
    """In how many comparisons a claim holds, fails and is open."""
    counts = [f"{verdict} in {(rows['verdict'] == verdict).sum()}" for verdict in VERDICTS]
    return f"{', '.join(counts)} of {len(rows)}"


def published_cells(laboratory: Laboratory) -> Sentences | None:
    """Show every published number of the data set and resolution: those beside one of ours, then the rest."""
    shown = [
        task
        for name in ("hierarchical_search", "cross_architecture", "baselines")
        for task in (laboratory.experiment.parts[name].evaluations if laboratory.part(name) else [])
        if task.augmentation is None
    ]
    rows = tables.select(laboratory.store.rows(marks_by_key(shown)))
    images = images_of(laboratory.store, list(rows["key"].unique()))
    numbers = every_number(rows, laboratory.store, images)
    if numbers.empty:
        return Sentences(
            (f"Nothing is on record as published for {images.dataset} at {images.resolution} px.",)
        )
    for table in (tables.published_beside_ours(numbers), tables.published_alone(numbers)):
        if len(table.frame):
            display(noted(table))
    return None
