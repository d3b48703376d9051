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
from torchvision.io import encode_png

from hglad.analysis import LABELS, metric_label, objective_label
from hglad.errors import HgladError
from hglad.evaluation.sets import DistilledSet
from hglad.search.distillation import known_real
from hglad.settings import DataSettings
from hglad.storage import read_json, write_whole


def write_explorer(folder: Path | str, out: Path | str, rows: Path | str | None = None) -> None:
    """Write the page of a distilled set.

    Args:
        folder: folder of the set, with its iterates kept.
        out: HTML file to write.
        rows: evaluation of its iterates, as `results/<profile>/evaluations` holds them; those of other seeds
            and of whole sets are left out.

    Raises:
        HgladError: no set, no kept iterates, other rows, an iterate without accuracy, no place to write.
    """
    distilled, accuracy = DistilledSet.load(folder), None
    if rows:
        content = read_json(rows)
        found = pd.DataFrame(content.get("rows", []) if isinstance(content, dict) else [])
        if not {"seed", "iterate", "accuracy"} <= set(found):
            raise HgladError(f"{rows} has no rows with seed, iterate, accuracy: expected one of evaluations/")
        own = found[found["seed"] == distilled.card["settings"]["seed"]]
        accuracy = own.groupby("iterate")["accuracy"].mean().dropna().tolist()
    if distilled.iterates is None:  # such a set may have no settings either
        page = explorer_page(distilled, ())
    else:
        data = DataSettings.read(distilled.card["settings"]["data"])
        page = explorer_page(distilled, known_real(data).train.classes, accuracy)
    with write_whole(out) as draft:
        draft.write_text(page, encoding="utf-8")


def explorer_page(
    distilled: DistilledSet, classes: Sequence[str], accuracy: Sequence[float] | None = None
) -> str:
    """HTML page of a run; `#iterate=12` behind its address opens it there, `&difference` with differences.

    Args:
        distilled: set with the images of its measured iterates.
        classes: names of the classes.
        accuracy: test accuracy of each iterate in percent.

    Raises:
        HgladError: no kept iterates, another number of classes or accuracies.
    """
    if distilled.iterates is None:
        raise HgladError(
            "the distilled set has kept no iterates, expected one per measured distance: "
            "distill it with keep_iterates (hglad distill --keep-iterates)"
        )
    iterates, card, ipc = distilled.iterates, distilled.card, distilled.ipc
    accuracy = [None] * len(iterates) if accuracy is None else accuracy
    for values, name, count in (
        (classes, "class names", len(distilled.images) // ipc),
        (accuracy, "accuracies", len(iterates)),
        (iterates, "kept iterates", len(card["history"])),
    ):
        if len(values) != count:
            raise HgladError(f"got {len(values)} {name}, expected {count}: they are of another run")
    settings, stages = card["settings"], [stage for stage, _, _ in card["history"]]
    search = f"{LABELS[settings['kind']]} with {objective_label(settings['objective'])}"
    images = "1 image" if ipc == 1 else f"{ipc} images"
    starts = [stages.index(stage) for stage in stages]  # first iterate of the stage of every iterate
    largest = (iterates.int() - iterates[starts].int()).abs().max().item()
    moments = [(stage, step) for stage, step, _ in card["history"]]
    columns = iterates.unflatten(1, (-1, ipc))  # (iterate, class, ipc, ch, h, w)
    sprites = (
        columns.permute(0, 3, 2, 4, 1, 5).flatten(2, 3).flatten(3, 4)
    )  # (iterate, ch, ipc * h, class * w)
    run = {
        "title": f"{settings['data']['name']}: {search}, {images} per class, seed {settings['seed']}",
        "classes": [str(name) for name in classes],
        "metric": metric_label(settings["metric"]["name"]),
        "stages": [{"name": stage["name"], "steps": stage["steps"]} for stage in card["stages"]],
        "iterates": [
            {"stage": stage, "step": step, "distance": distance, "accuracy": value}
            for (stage, step, distance), value in zip(card["history"], accuracy, strict=True)
        ],
        "selected": moments.index((card["best"]["stage"], card["best"]["step"])),
        "size": list(iterates.shape[-2:]),
        "ipc": ipc,
        "starts": starts,
        "gain": 255 / max(largest, 1),  # makes the largest difference of any pixel to its start white
        "sprites": [
            base64.b64encode(encode_png(sprite.contiguous(), compression_level=9).numpy().tobytes()).decode()
            for sprite in sprites
        ],
    }
    # Inside a script element no tag or comment may begin.
    content = json.dumps(run, allow_nan=False).replace("<", "\\u003c")
    template = files("hglad") / "templates" / "explorer.html"
    return template.read_text(encoding="utf-8").replace("{{run}}", content)
