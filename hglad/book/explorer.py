"""One run as a page: a slider over its measured iterates, with their images, distance and test accuracy.

The page is a single file that loads nothing: it opens from disk and inside a frame of the book. Its template
is `templates/explorer.html`; what it shows is one JSON object inside it.
"""

import base64
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import pandas as pd
from torch import Tensor
from torchvision.io import encode_png

from hglad.analysis.labels import LABELS, metric_label, objective_label
from hglad.data.datasets import DataSet
from hglad.errors import HgladError
from hglad.evaluation.sets import DistilledSet
from hglad.storage import publish

TEMPLATE = files("hglad") / "templates" / "explorer.html"
PLACE = "{{run}}"  # of the JSON in the template


def write_explorer(
    folder: Path | str, path: Path | str, data: DataSet, rows: pd.DataFrame | None = None
) -> None:
    """Write the page of a distilled set.

    Args:
        folder: folder of the set, with its iterates kept.
        path: HTML file to write.
        data: data set that it was distilled from; names the classes.
        rows: result rows of evaluated iterates: `seed`, `iterate`, `accuracy`; those of other seeds and of
            whole sets are left out, and the page has no accuracy where none remains.

    Raises:
        HgladError: no set, no kept iterates, other classes, rows of several evaluations, an iterate without
            accuracy, no place to write.
    """
    distilled = DistilledSet.load(folder)
    accuracy = None if rows is None else _accuracy(rows, distilled)
    page = explorer_page(distilled, data.train.classes, accuracy)
    with publish(path) as draft:
        draft.write_text(page, encoding="utf-8")


def explorer_page(
    distilled: DistilledSet,
    classes: Sequence[str],
    accuracy: Sequence[float] | None = None,
    title: str | None = None,
) -> str:
    """HTML page of a run; `#iterate=12` behind its address opens it there, `&difference` with differences.

    Args:
        distilled: set with the images of its measured iterates.
        classes: names of the classes.
        accuracy: test accuracy of each iterate in percent.
        title: heading; by default the data, search, objective, ipc and seed of the run.

    Raises:
        HgladError: no kept iterates, another number of classes or accuracies.
    """
    iterates, card = kept_iterates(distilled), distilled.card
    accuracies = [None] * len(iterates) if accuracy is None else [float(value) for value in accuracy]
    _expect_count(
        classes, "class names", int(distilled.labels.max()) + 1, "give one for each class of the set"
    )
    _expect_count(accuracies, "accuracies", len(iterates), "give one for each kept iterate")
    run = {"title": title or _title(card["settings"]), "classes": [str(name) for name in classes]}
    run |= _course(card, accuracies) | _pictures(iterates, _stage_starts(card), distilled.ipc)
    return TEMPLATE.read_text(encoding="utf-8").replace(PLACE, _json_in_html(run))


def kept_iterates(distilled: DistilledSet) -> Tensor:
    """Images of the measured iterates; raises `HgladError` for a set that kept none."""
    if distilled.iterates is None:
        raise HgladError(
            "the distilled set has kept no iterates, expected one per measured distance: "
            "distil it with keep_iterates (hglad distill --keep-iterates)"
        )
    _expect_count(distilled.iterates, "kept iterates", len(distilled.card["history"]), "distil the set again")
    return distilled.iterates


def _expect_count(values: Sequence | Tensor, name: str, count: int, mend: str) -> None:
    if len(values) != count:
        raise HgladError(f"got {len(values)} {name}, expected {count}: {mend}")


def _accuracy(rows: pd.DataFrame, distilled: DistilledSet) -> list[float] | None:
    """Mean accuracy of each iterate over the networks that were trained on it."""
    count = len(kept_iterates(distilled))
    if "iterate" not in rows:
        return None
    own = rows[(rows["seed"] == distilled.card["settings"]["seed"]) & rows["iterate"].notna()]
    evaluations = own["key"].nunique() if "key" in own else 1
    if evaluations > 1:
        raise HgladError(f"got rows of {evaluations} evaluations, expected 1: give `Store.rows` its key")
    means = own.groupby("iterate")["accuracy"].mean().dropna()
    if means.empty:
        return None
    missing = sorted(set(range(count)) - set(means.index))
    if missing:
        raise HgladError(f"iterate {missing[0]} has no accuracy: expected rows of all {count} iterates")
    return means.loc[range(count)].tolist()


def _course(card: dict, accuracies: list[float | None]) -> dict:
    """Stages, iterates with their numbers, and which one is selected."""
    moments = [(stage, step) for stage, step, _ in card["history"]]
    return {
        "metric": metric_label(card["settings"]["metric"]["name"]),
        "stages": [{"name": stage["name"], "steps": stage["steps"]} for stage in card["stages"]],
        "iterates": [
            {"stage": stage, "step": step, "distance": distance, "accuracy": accuracy}
            for (stage, step, distance), accuracy in zip(card["history"], accuracies, strict=True)
        ],
        "selected": moments.index((card["best"]["stage"], card["best"]["step"])),
    }


def _pictures(iterates: Tensor, starts: list[int], per_class: int) -> dict:
    """A sprite per iterate, and what the page needs to take the difference of two."""
    return {
        "size": list(iterates.shape[-2:]),
        "ipc": per_class,
        "starts": starts,
        "gain": _gain(iterates, starts),
        "sprites": [_sprite(images, per_class) for images in iterates],
    }


def _stage_starts(card: dict) -> list[int]:
    """Index of the first iterate of the stage of every iterate."""
    stages = [stage for stage, _, _ in card["history"]]
    return [stages.index(stage) for stage in stages]


def _title(settings: dict) -> str:
    images = "1 image" if settings["ipc"] == 1 else f"{settings['ipc']} images"
    search = f"{LABELS[settings['kind']]} with {objective_label(settings['objective'])}"
    return f"{settings['data']['name']}: {search}, {images} per class, seed {settings['seed']}"


def _gain(iterates: Tensor, starts: list[int]) -> float:
    """What makes the largest difference of any pixel to the start of its stage white."""
    largest = max(
        int((images.int() - iterates[start].int()).abs().max())
        for images, start in zip(iterates, starts, strict=True)
    )
    return 255 / max(largest, 1)


def _sprite(images: Tensor, per_class: int) -> str:
    """Images (n, ch, h, w) of an iterate as one PNG in base64: a column per class, no gaps."""
    columns = images.unflatten(0, (-1, per_class))  # (class, ipc, ch, h, w)
    picture = columns.permute(2, 1, 3, 0, 4).flatten(1, 2).flatten(2, 3)  # (ch, ipc * h, class * w)
    return base64.b64encode(encode_png(picture.contiguous(), compression_level=9).numpy().tobytes()).decode()


def _json_in_html(content: dict) -> str:
    """JSON that may stand inside a script element: no tag or comment begins in it."""
    return json.dumps(content, allow_nan=False).replace("<", "\\u003c")
