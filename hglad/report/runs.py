"""What the cards of distilled sets say about their runs: iterates, boundaries between stages."""

from collections.abc import Iterable, Mapping

import pandas as pd

from hglad.report.show import Table


def distance_history(cards: Iterable[dict]) -> pd.DataFrame:
    """Measured distances of runs: `seed`, `stage`, `step`, `distance`, and which one was `selected`."""
    rows = [
        {"seed": card["settings"]["seed"], "stage": stage, "step": step, "distance": distance}
        | {"selected": [stage, step] == [card["best"]["stage"], card["best"]["step"]]}
        for card in cards
        for stage, step, distance in card["history"]
    ]
    return pd.DataFrame(rows)


def boundary_table(cards: Mapping[str, Iterable[dict]]) -> Table:
    """What bounding the features did where stages began: largest values, where it did anything at all.

    Args:
        cards: cards of distilled sets by variant.
    """
    rows = [
        {"variant": variant, "objective": card["settings"]["objective"].upper()} | _bounding(card)
        for variant, runs in cards.items()
        for card in runs
    ]
    table = pd.DataFrame(rows).groupby(["variant", "objective"], sort=False)
    table = table.agg(
        clipping=("clipped", lambda shares: (shares > 0).sum()),
        runs=("clipped", "count"),
        clipped=("clipped", "max"),
        invalid=("invalid", "max"),
        change=("change", "max"),
    ).reset_index()
    table = table[(table["clipping"] > 0) | (table["invalid"] > 0)]
    cells = {
        "": table["variant"],
        "objective": table["objective"],
        "runs that clip": [f"{n} of {m}" for n, m in zip(table["clipping"], table["runs"], strict=True)],
        "clipped (%)": table["clipped"].map(lambda x: f"{100 * x:.1f}"),
        "not a number": table["invalid"].map("{:.0f}".format),
        "change of images": table["change"].map("{:.3f}".format),
    }
    return Table(pd.DataFrame(cells), wrapped=True)


def _bounding(card: dict) -> dict[str, float]:
    """Largest values over the boundaries of a run; zeros for pixels, which have none."""
    _, clipped, invalid, change = zip((0, 0.0, 0, 0.0), *card["boundaries"], strict=True)
    return {"clipped": max(clipped), "invalid": max(invalid), "change": max(change)}


def best_of_stages(card: dict) -> dict[str, int]:
    """Index of the iterate with the smallest distance in each stage, by the name of its split layer."""
    history = pd.DataFrame(card["history"], columns=["stage", "step", "distance"])
    best = history.groupby("stage")["distance"].idxmin()
    return {card["stages"][stage]["name"]: int(index) for stage, index in best.items()}


def last_of_stages(card: dict) -> dict[str, int]:
    """Index of the last iterate of each stage, by the name of its split layer."""
    history = pd.DataFrame(card["history"], columns=["stage", "step", "distance"])
    last = history.groupby("stage")["step"].idxmax()
    return {card["stages"][stage]["name"]: int(index) for stage, index in last.items()}
