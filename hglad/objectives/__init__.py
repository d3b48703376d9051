"""Matching objectives by name."""

from hglad.objectives import dc, dm, mtt  # noqa: F401  (registers the objectives)
from hglad.objectives.registry import OBJECTIVES, Objective, create_objective, register_objective

__all__ = ["OBJECTIVES", "Objective", "create_objective", "register_objective"]
