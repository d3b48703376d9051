"""Sets that need no distillation, and what others published."""

from IPython.display import Image

from hglad.analysis import tables
from hglad.analysis.labels import LABELS, method_place
from hglad.analysis.laboratory import Laboratory
from hglad.analysis.plots import image_rows
from hglad.analysis.published import beside_published, images_of
from hglad.analysis.report.accuracy import usual_rows
from hglad.analysis.report.show import Sentences, noted, picture


def published_beside(laboratory: Laboratory) -> Sentences:
    """What is behind the published numbers of the same cells, which are shown; or that there are none."""
    rows = tables.select(usual_rows(laboratory.rows))
    images = images_of(laboratory.store, list(rows["key"].unique()))
    numbers = beside_published(rows, laboratory.store, images)
    if numbers.empty:
        return Sentences(("Nothing is on record as published for these results.",))
    return noted(tables.published_beside_ours(numbers))


def baseline_pictures(laboratory: Laboratory) -> Image | Sentences:
    """One image per class of the baselines at the first ipc; of real images where the profile shows them."""
    sets = laboratory.baseline_sets(laboratory.profile.sets["ipc"][0])
    order = sorted(sets, key=method_place)
    if not order:
        return Sentences(("All of these sets are real images, which the profile does not show.",))
    rows = {LABELS[method]: sets[method].images[:: sets[method].ipc] for method in order}
    return picture(image_rows(rows, laboratory.classes))
