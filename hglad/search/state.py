"""Where a search stands, as a value, which a stopped run goes on from."""

from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from hglad.priors.base import Latents


@dataclass(frozen=True)
class SearchState:
    """Everything that the next step needs; a state is never changed, each step makes a new one."""

    stage: int
    """Index of the stage in the stage table."""
    step: int
    """Steps done in this stage."""
    latents: Latents
    """Where the search stands."""
    velocity: Latents
    """Momentum of SGD."""
    rates: tuple[float, ...] | None
    """Learning rate of each tensor of the latents in this stage; `None` before its first step."""
    stage_best: Latents
    """Latents of the best iterate of this stage, where the next one starts."""
    stage_distance: float
    """Its distance."""
    images: Tensor
    """Best images so far over all stages, (n, channels, height, width)."""
    distance: float
    """Their distance."""
    best: tuple[int, int]
    """Their (stage, step)."""
    rng: Tensor
    """State of the random generator."""
    history: tuple[tuple[int, int, float], ...]
    """(stage, step, distance) of every measured iterate."""
    logs: dict[str, Tensor] = field(default_factory=dict)
    """What the objective logged at the last step, such as its loss; not saved."""
    boundaries: tuple[tuple[int, float, int, float], ...] = ()
    """What bounding the features did where a stage began: (stage, share of the features that were clipped,
    features that were not a number, root mean square change of the images)."""
    objective: dict[str, Tensor] = field(default_factory=dict)
    """What the next step of the objective depends on."""
    decoded: Tensor | None = None
    """Images of this iterate where it was measured, else `None`; not saved."""

    @property
    def loss(self) -> float | None:
        """Loss of the matching objective at the last step; asking waits for the device."""
        return self.logs["loss"].item() if self.logs else None

    @property
    def finite(self) -> bool:
        """Whether the next step can start from here; asking waits for the device."""
        latents = [x for each in (self.latents, self.velocity) for x in each.tensors().values()]
        return all(bool(x.isfinite().all()) for x in (*latents, *self.objective.values()))

    @property
    def measured(self) -> bool:
        """Whether the distance of this iterate is in the history."""
        return bool(self.history) and self.history[-1][:2] == (self.stage, self.step)

    def saved(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Tensors and plain values for `hglad.storage.Checkpoint`."""
        tensors = {name: getattr(self, name).tensors() for name in LATENTS}
        tensors |= {name: getattr(self, name) for name in TENSORS}
        return tensors, {name: getattr(self, name) for name in PLAIN}

    @classmethod
    def restored(cls, tensors: dict[str, Any], plain: dict[str, Any], device: torch.device | str) -> Self:
        """The state that gave these, on a device; that of the random generator stays on the host."""

        def moved(x: Any) -> Any:
            return x.to(device) if isinstance(x, Tensor) else {name: y.to(device) for name, y in x.items()}

        found = {name: moved(tensors[name]) for name in (*LATENTS, *TENSORS)} | {"rng": tensors["rng"]}
        return cls(**plain, **found | {name: Latents.of(found[name]) for name in LATENTS})


LATENTS = ("latents", "velocity", "stage_best")
TENSORS = ("images", "rng", "objective")
PLAIN = ("stage", "step", "rates", "stage_distance", "distance", "best", "history", "boundaries")
