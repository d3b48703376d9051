"""Where a search stands, as a value, and the file that a stopped run goes on from."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from hglad.errors import HgladError
from hglad.priors.base import Latents
from hglad.storage import read_metadata, read_tensors, write_tensors


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


LATENT_FIELDS = ("latents", "velocity", "stage_best")
OBJECTIVE = "objective."  # prefix of the objective's state in a file
TENSOR_FIELDS = ("images", "rng")
PLAIN_FIELDS = ("stage", "step", "rates", "stage_distance", "distance", "best", "history", "boundaries")


def save_state(path: Path, state: SearchState, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a state and its checksum, with tensors and metadata of the caller's; `decoded` is left out."""
    tensors = tensors | {name: getattr(state, name) for name in TENSOR_FIELDS}
    for name in LATENT_FIELDS:
        own = getattr(state, name).tensors()
        tensors |= {f"{name}.{part}": value for part, value in own.items()}
    tensors |= {f"{OBJECTIVE}{name}": value for name, value in state.objective.items()}
    plain = json.dumps({name: getattr(state, name) for name in PLAIN_FIELDS})
    write_tensors(path, tensors, metadata | {"state": plain, "checksum": _checksum(plain, tensors)})


def _checksum(plain: str, tensors: dict[str, Tensor]) -> str:
    content = hashlib.sha256(plain.encode())
    for name in sorted(tensors):
        content.update(name.encode())
        content.update(tensors[name].detach().cpu().flatten().view(torch.uint8).numpy())
    return content.hexdigest()


def load_state(path: Path, device: torch.device | str = "cpu") -> SearchState:
    """Read a state that `save_state` wrote.

    Its tensors are copied from the file to memory of PyTorch's own: products and sums over another alignment
    have other bits.

    Raises:
        HgladError: a file that is damaged or holds something else.
    """
    tensors, metadata = read_tensors(path, device), read_metadata(path)
    if not metadata.get("checksum") == _checksum(metadata.get("state", ""), tensors):
        raise HgladError(
            f"{path} is not an intact state of a search: delete it, or start over with --restart"
        )
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    plain = json.loads(metadata["state"])
    latents = {name: Latents.of(_below(tensors, f"{name}.")) for name in LATENT_FIELDS}
    objective = _below(tensors, OBJECTIVE)
    return SearchState(
        objective=objective,
        images=tensors["images"],
        rng=tensors["rng"].cpu(),
        **latents,
        **{key: plain[key] for key in ("stage", "step", "stage_distance", "distance")},
        rates=plain["rates"] and tuple(plain["rates"]),
        best=tuple(plain["best"]),
        history=tuple((stage, step, distance) for stage, step, distance in plain["history"]),
        boundaries=tuple(tuple(row) for row in plain["boundaries"]),
    )


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
