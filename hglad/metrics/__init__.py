"""Selection metrics: how far a distilled set is from what the real one does, smaller is better."""

from hglad.metrics.registry import METRICS, Metric, create_metric, needs, register_metric

__all__ = ["METRICS", "Metric", "create_metric", "needs", "register_metric"]
