"""Matching objectives by name."""

from hglad.objectives.registry import OBJECTIVES, Objective, create_objective, register_objective

__all__ = ["OBJECTIVES", "Objective", "create_objective", "register_objective"]
