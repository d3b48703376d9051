"""Names for a reader: known ones in their order, others by their own name."""

from hglad.analysis.labels import (
    LABELS,
    METRIC_LABELS,
    method_label,
    method_place,
    metric_label,
    objective_label,
)
from hglad.metrics import METRICS
from hglad.objectives import OBJECTIVES
from hglad.settings import KINDS


def test_every_search_has_a_name_and_unknown_methods_keep_theirs():
    assert set(KINDS) <= LABELS.keys()
    assert method_label("a_horse") == "a horse"
    names = ["zebra", "full", "a_horse", "class_mean", "random"]
    assert sorted(names, key=method_place) == ["random", "class_mean", "full", "a_horse", "zebra"]


def test_metrics_and_objectives_have_names():
    assert METRICS.names() and all(metric_label(name) for name in METRICS.names())
    assert metric_label("class_relevant") == METRIC_LABELS["class_relevant"]
    assert all(f"({name.upper()})" in objective_label(name) for name in OBJECTIVES.names())
    assert objective_label("new") == "NEW"
