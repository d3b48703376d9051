"""Sets that need no distillation, and what others published."""

import pandas as pd
from IPython.display import Image

from hglad import tables
from hglad.labels import LABELS, method_place
from hglad.laboratory import Laboratory
from hglad.plots import image_rows
from hglad.published import beside_published, images_of
from hglad.report.accuracy import usual_rows
from hglad.report.show import Sentences, picture
from hglad.report.texts import NONE


def published_beside(laboratory: Laboratory) -> Sentences:
    """Published numbers of the same cells, with their sources and what differs; or that there are none."""
    rows = tables.select(usual_rows(laboratory.rows))
    images = images_of(laboratory.store, list(rows["key"].unique()))
    table = tables.published_table(beside_published(rows, laboratory.store, images))
    if table.frame.empty:
        return Sentences(table.notes)
    return Sentences(tuple(_beside(line) for _, line in table.frame.iterrows()))


def _beside(line: pd.Series) -> str:
    what = line["method"] if line["ipc"] == "all images" else f"{line['method']}, {line['ipc']} a class"
    objective = "" if line["objective"] == NONE else f" ({line['objective']})"
    return (
        f"{what}{objective}: {line['ours']} here; {line['published']} in {line['source']}, "
        f"{line['evaluation']}. What differs: {line['what differs']}."
    )


def baseline_pictures(laboratory: Laboratory) -> Image | Sentences:
    """One image per class of the baselines at the first ipc; of real images where the profile shows them."""
    sets = laboratory.baseline_sets(laboratory.profile.sets["ipc"][0])
    order = sorted(sets, key=method_place)
    if not order:
        return Sentences(("All of these sets are real images, which the profile does not show.",))
    rows = {LABELS[method]: sets[method].images[:: sets[method].ipc] for method in order}
    return picture(image_rows(rows, laboratory.classes))
