"""Experiments: what a profile runs, where its results lie, how they are computed."""

from typing import Any

__all__ = ["Opened", "open_experiment", "read_profile"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: its module needs all of this package."""
    if name not in __all__:
        raise AttributeError(f"module 'hglad.experiments' has no attribute '{name}'")
    from hglad.experiments import checks

    return getattr(checks, name)
