"""Every figure of the book: one function each, tidy rows in, a figure out.

The figures are made without pyplot and its global state, so the same rows give the same bytes.
"""

from hglad.analysis.labels import LABELS, metric_label
from hglad.analysis.plots.accuracy import (
    accuracy_by_ipc,
    accuracy_by_method,
    accuracy_by_network,
    network_gaps,
)
from hglad.analysis.plots.claims import accuracy_findings
from hglad.analysis.plots.classes import class_accuracies, worst_confusion
from hglad.analysis.plots.images import (
    DIMMED,
    OPACITY,
    activation_overlays,
    image_changes,
    image_panels,
    image_rows,
)
from hglad.analysis.plots.iterates import (
    distance_and_accuracy,
    distance_and_accuracy_over_steps,
    distance_over_steps,
)
from hglad.analysis.plots.layers import family_sweeps, layer_sweep
from hglad.analysis.plots.parts import chosen_accuracy, effects, winning_stages
from hglad.analysis.plots.style import COLOURS

__all__ = [
    "COLOURS",
    "DIMMED",
    "LABELS",
    "OPACITY",
    "accuracy_by_ipc",
    "accuracy_by_method",
    "accuracy_by_network",
    "accuracy_findings",
    "activation_overlays",
    "chosen_accuracy",
    "class_accuracies",
    "distance_and_accuracy",
    "distance_and_accuracy_over_steps",
    "distance_over_steps",
    "effects",
    "family_sweeps",
    "image_changes",
    "image_panels",
    "image_rows",
    "layer_sweep",
    "metric_label",
    "network_gaps",
    "winning_stages",
    "worst_confusion",
]
