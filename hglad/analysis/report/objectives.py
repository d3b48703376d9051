"""The matching objectives beside each other: scores, protocols, costs."""

import pandas as pd

from hglad.analysis.labels import objective_label
from hglad.analysis.laboratory import Laboratory
from hglad.analysis.published import published
from hglad.analysis.report.show import Table
from hglad.analysis.report.texts import NONE, duration_text, joined
from hglad.analysis.statistics import as_cell, summarise
from hglad.experiments.evaluation_task import EvaluateTask
from hglad.search.distillation import known_real


def objective_table(laboratory: Laboratory) -> Table:
    """Accuracy of pixels under each objective, beside what its paper reports where there is such a number."""
    rows = laboratory.rows.fillna({"objective": ""})
    summary = summarise(rows, ["objective", "method"])
    order = [("", "random"), *((name, "pixels") for name in laboratory.profile.objectives)]
    summary = summary.set_index(["objective", "method"]).loc[order].reset_index()
    cells = {"objective": [objective_label(name) for name in summary["objective"]]}
    cells["accuracy (%)"] = [as_cell(row) for _, row in summary.iterrows()]
    real = known_real(laboratory.profile.data).train
    numbers = published(real.name, real.image_shape[1], laboratory.profile.sets["ipc"][0])
    if len(numbers):
        cells["published (%)"] = [_published(numbers, objective) for objective in summary["objective"]]
    return Table(pd.DataFrame(cells), wrapped=True)


def _published(numbers: pd.DataFrame, objective: str) -> str:
    method = "pixel" if objective else "random real images"
    rows = numbers[(numbers["method"] == method) & (numbers["objective"] == (objective or "none"))]
    return "; ".join(
        f"{row.accuracy_percent:.1f} ± {row['std']:.1f} [{row.source}]" for _, row in rows.iterrows()
    )


def protocol_table(laboratory: Laboratory) -> Table:
    """How each objective was run and what it took: distillation, then the training of the evaluation."""
    cards: dict[str, list[dict]] = {}
    for card in laboratory.cards():
        cards.setdefault(card["settings"]["objective"], []).append(card)
    tasks = {task.distilled.objective: task for task in laboratory.experiment.evaluations if task.distilled}
    columns = {name.upper(): _protocol(cards[name], tasks[name]) for name in laboratory.profile.objectives}
    return Table(pd.DataFrame(columns), index=True, wrapped=True)


def _protocol(cards: list[dict], task: EvaluateTask) -> dict[str, str]:
    settings = cards[0]["settings"]
    seconds = sum(card["provenance"]["seconds"] for card in cards) / len(cards)
    search, surrogate, training = settings["search"], settings["surrogate"], task.training
    unit = "of |x| / |gradient|" if search["rates"] == "relative" else ""
    return {
        "steps": f"{search['steps']}",
        "mean time of a run": f"{duration_text(seconds)} ({seconds / search['steps']:.2f} s a step)",
        "device": joined(card["provenance"]["device"] for card in cards),
        "start": "real images" if search["start"] == "real" else "noise",
        "rate of the pixels": f"{search['lr_pixels']:g} {unit}".strip(),
        "augmentation": surrogate["augmentation"].replace("_", ", ") or "none",
        "own options": ", ".join(f"{key} {value}" for key, value in settings.get("options", {}).items())
        or "none",
        "experts": _experts(settings.get("experts")),
        "evaluation": f"{training.epochs} epochs, lr {training.lr:g}, {training.schedule.replace('_', ' ')}, "
        f"{training.augmentation.replace('_', ', ') or 'no augmentation'}",
    }


def _experts(settings: dict | None) -> str:
    return f"{settings['count']} of {settings['epochs']} epochs" if settings else NONE
