"""What the cards of distilled sets say about their runs: iterates, boundaries between stages."""

from collections.abc import Iterable, Mapping

import pandas as pd

from hglad.analysis.report.show import Table
from hglad.analysis.report.texts import NONE

START = "none: the start"


def distance_history(cards: Iterable[dict]) -> pd.DataFrame:
    """Measured distances of runs: `seed`, `stage`, `step`, `distance`, and which one was `selected`."""
    rows = [
        {"seed": card["settings"]["seed"], "stage": stage, "step": step, "distance": distance}
        | {"selected": [stage, step] == [card["best"]["stage"], card["best"]["step"]]}
        for card in cards
        for stage, step, distance in card["history"]
    ]
    return pd.DataFrame(rows)


def made_at(card: dict) -> tuple[int, int]:
    """Stage and step that made the iterate which a run kept; (0, 0) if it is the start, before any step.

    A stage begins at an iterate of the one before. Where that one, bounded or decoded from another layer, is
    kept, the card names step 0 of the later stage, which has made nothing.
    """
    stage, step = card["best"]["stage"], card["best"]["step"]
    while stage and not step:
        stage -= 1
        step = _carried_on(card, stage)
    return stage, step


def _carried_on(card: dict, stage: int) -> int:
    """Step of the iterate at which the next stage began."""
    search = card["settings"]["search"]
    if search["selection"] != "metric" or search.get("stage_start", "best") == "last":
        return card["stages"][stage]["steps"]
    distances = {step: distance for at, step, distance in card["history"] if at == stage}
    return min(distances, key=distances.__getitem__)


def kept_table(cards: Iterable[dict]) -> Table:
    """Runs of hierarchical searches by the stage that made the iterate they kept, by objective and ipc."""
    counts: dict[str, dict[str, int]] = {}
    layers = {START: -1.0}
    for card in cards:
        settings, (stage, step) = card["settings"], made_at(card)
        column = counts.setdefault(f"{settings['objective'].upper()}, ipc {settings['ipc']}", {START: 0})
        for each in card["stages"]:
            column.setdefault(each["name"], 0)
            layers.setdefault(each["name"], each["layer"])
        column[START if (stage, step) == (0, 0) else card["stages"][stage]["name"]] += 1
    rows = [
        {"stage": name} | {title: f"{column.get(name, NONE)}" for title, column in counts.items()}
        for name in sorted(layers, key=layers.__getitem__)
    ]
    return Table(pd.DataFrame(rows))


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
