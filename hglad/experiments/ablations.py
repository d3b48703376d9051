"""The paper's search with one part taken away, or replaced by what the released code does.

Each is a change to the search that `hglad.experiments.presets.paper` describes, at the profile's rates
and budget.
"""

from dataclasses import dataclass, field
from typing import Any

from hglad.experiments.presets import paper, released

PAPER = "all parts"
RELEASED = "as released, all together"
LAST = "last iterate, no selection"
LAST_ITERATE = {"search": {"selection": "last", "stage_start": "last"}}


@dataclass(frozen=True)
class Variant:
    """A hierarchical search that differs in one part."""

    name: str
    """For tables and figures."""
    search: dict[str, Any] = field(default_factory=dict)
    """Changes to `search`."""
    metric: dict[str, Any] = field(default_factory=dict)
    """Changes to `metric`."""
    kind: str = "hierarchical"
    """Kind of search."""
    rates_of: str = "hierarchical"
    """Kind of search whose rates it takes."""


def parts(split_points: int, ipc: int = 1) -> list[Variant]:
    """The paper's search, then without one of its parts each, then without the hierarchy.

    Of the last three, two keep start and selection: one layer of the generator only, and pixels only, which
    start from the generator's images. The third is distillation in pixels as it is without a generator.
    """
    whole = paper(split_points, ipc)
    stages = whole["search"]["stages"]
    changes = {
        PAPER: {},
        "one latent, not averaged": {"search": {"average": 1}},
        "no latent stage": {"search": {"latent_stage": False, "stages": [0, *stages]}},
        "no pixel stage": {"search": {"stages": stages[:-1]}},
        "a stage starts at the last iterate": {"search": {"stage_start": "last"}},
        LAST: LAST_ITERATE,
        "as much work of the generator as GLaD": {"search": {"budget": "flops"}},
        "no class weighting": {"metric": {"name": "feature"}},
        "untrained features": {"metric": {"name": "random_feature"}},
    }
    flat = {"latent_stage": False, "stages": [split_points - 1]}
    return [
        *(_changed(name, whole, change) for name, change in changes.items()),
        Variant("GLaD's layer alone", whole["search"], whole["metric"], "single", "single"),
        Variant("pixels alone", whole["search"] | flat, whole["metric"], rates_of="pixels"),
        Variant("pixels from real images", {}, whole["metric"], "pixels", "pixels"),
    ]


def audit(split_points: int, ipc: int = 1) -> list[Variant]:
    """The paper's search, then with one behaviour of the released code each, then with all of them."""
    whole, theirs = paper(split_points, ipc), released(split_points, ipc)
    inner = {"latent_stage": False, "stages": theirs["search"]["stages"]}
    changes = {
        PAPER: {},
        LAST: LAST_ITERATE,
        "no class weighting": {"metric": {"name": "feature"}},
        "features of different networks": {"metric": theirs["metric"]},
        "generated images not normalised": {"search": {"normalise_generated": False}},
        "neither latent nor pixel stage": {"search": inner},
        "features not clipped": {"search": {"clip": None}},
        "last iterate, features not clipped": {"search": LAST_ITERATE["search"] | {"clip": None}},
        "one latent, not averaged": {"search": {"average": 1}},
        RELEASED: theirs,
    }
    return [_changed(name, whole, change) for name, change in changes.items()]


def _changed(name: str, whole: dict, change: dict) -> Variant:
    search = whole["search"] | change.get("search", {})
    return Variant(name, search, whole["metric"] | change.get("metric", {}))
