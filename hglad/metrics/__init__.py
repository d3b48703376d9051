"""Selection metrics: distances of a distilled set to the real one, smaller is better."""

from hglad.metrics import class_relevant, feature  # noqa: F401  (registers the metrics)
from hglad.metrics.registry import METRICS, Metric, create_metric, register_metric

__all__ = ["METRICS", "Metric", "create_metric", "register_metric"]
