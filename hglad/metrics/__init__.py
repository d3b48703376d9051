"""Selection metrics: how far a distilled set is from what the real one does, smaller is better."""

from hglad.metrics import (  # noqa: F401  (registers the metrics)
    accuracy,
    class_relevant,
    feature,
    loss,
    random_feature,
    released_feature,
)
from hglad.metrics.registry import METRICS, Metric, create_metric, needs, register_metric

__all__ = ["METRICS", "Metric", "create_metric", "needs", "register_metric"]
