"""Settings of a search and the table of stages that follows from them: where, how long, at which rates."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hglad.errors import HgladError
from hglad.priors.base import Latents, Prior
from hglad.settings import KINDS, SearchSettings

LATENT = "latent"  # name of the stage in w alone


def _expect(condition: bool, key: str, value: object, expected: str) -> None:
    if not condition:
        raise HgladError(f"search.{key} is {value!r}: expected {expected}")


@dataclass(frozen=True)
class Stage:
    """One row of the stage table."""

    layer: int
    """Split point."""
    name: str
    """Name of the split point, or `latent`."""
    steps: int
    """Optimization steps."""
    lr_f: float
    """Rate of the features (of the images in pixel space); 0 in the latent stage."""
    lr_w: float
    """Rate of the styles; 0 in pixel space."""
    flops: float | None = None
    """Work of the generator in one step of one image, forward and back, in floating-point operations."""

    @property
    def only_w(self) -> bool:
        """Whether this is the latent stage, in which features follow from w."""
        return self.name == LATENT


def plan_stages(
    kind: str, settings: SearchSettings, layers: tuple[str, ...], flops: Sequence[float] | None = None
) -> tuple[Stage, ...]:
    """Stage table of a search over a prior with split points `layers`, within the budget.

    Args:
        kind: `pixels`, `single` or `hierarchical`.
        settings: search settings.
        layers: names of the split points, pixel space last.
        flops: work of one step of one image at each split point, as `step_flops` counts it.

    Raises:
        HgladError: unknown kind, a split point that the prior does not have, pixel space before another
            stage, a list that does not have an entry per stage, fewer steps than stages.
    """
    if kind not in KINDS:
        raise HgladError(f"unknown search '{kind}': expected {', '.join(KINDS)}")
    last, hierarchical = len(layers) - 1, kind == "hierarchical"
    latent = hierarchical and settings.latent_stage  # before it the input's features follow from w
    points = [last] if kind == "pixels" else [settings.layer]
    if hierarchical:
        points = list(settings.stages) or list(range(1 if latent and last else 0, last + 1))
    for point in points:
        if not 0 <= point <= last:
            raise HgladError(
                f"split point {point} does not exist: expected 0 to {last} ({', '.join(layers)})"
            )
    ends = last not in points[:-1]
    _expect(ends, "stages", points, f"{last}, pixel space, at the end: no way leads back from there")
    places = [0] * latent + points
    lists = {key: getattr(settings, key) for key in ("shares", "stage_lr_f", "stage_lr_w")}
    for key, given in lists.items() if hierarchical else ():
        fits = len(given) in (0, len(places))
        _expect(fits, key, list(given), f"a number for each of the {len(places)} stages")
    shares, stage_lr_f, stage_lr_w = lists.values() if hierarchical else ((), (), ())
    shares = shares or (1.0,) * len(places)
    shares = [share / sum(shares) for share in shares]
    total = settings.steps
    if settings.budget == "flops" and hierarchical:  # as much work as `steps` at the single layer
        if flops is None:
            raise HgladError(
                "search.budget is 'flops', but the work of this prior is not known: expected steps"
            )
        works = 0 <= settings.layer < last
        _expect(works, "layer", settings.layer, f"0 to {last - 1}, where a generator works")
        mean = sum(share * flops[place] for share, place in zip(shares, places, strict=True))
        affordable = round(total * flops[settings.layer] / mean) if mean else total
        total = max(affordable, len(places))  # no stage without a step
    _expect(total >= len(places), "steps", total, f"at least one for each of the {len(places)} stages")
    stages = []
    for index, (point, steps) in enumerate(zip(places, divided(total, shares), strict=True)):
        in_pixels, only_w = point == last, latent and index == 0
        lr_f = settings.lr_pixels if in_pixels else settings.lr_features
        lr_f = stage_lr_f[index] if stage_lr_f else lr_f
        lr_w = stage_lr_w[index] if stage_lr_w else settings.lr_latents
        fixed = in_pixels or (settings.styles == "frozen" and index > 0)
        name, work = LATENT if only_w else layers[point], flops[point] if flops else None
        stages.append(Stage(point, name, steps, 0.0 if only_w else lr_f, 0.0 if fixed else lr_w, work))
    return tuple(stages)


def divided(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers of the sum `total` in proportion to `shares` (of the sum 1), none of them 0.

    Remainders go to the largest fractions.
    """
    exact = [share * total for share in shares]
    steps = [int(number) for number in exact]
    order = sorted(range(len(steps)), key=lambda index: round(steps[index] - exact[index], 9))
    for index in order[: total - sum(steps)]:
        steps[index] += 1
    while 0 in steps:  # of a small share: it takes a step from the longest
        steps[steps.index(max(steps))] -= 1
        steps[steps.index(0)] += 1
    return steps


def step_flops(prior: Prior) -> tuple[float, ...]:
    """Floating-point operations of one image's way through the generator and back, by split point.

    Forward pass and vector-Jacobian product, with products and convolutions counted and the cheap
    element-wise rest left out; 0 in pixel space, and everywhere for a prior without a network. Counted on
    tensors without memory, so that it takes no time and no device.
    """
    if not isinstance(prior, nn.Module):
        return (0.0,) * len(prior.layers)
    shadow, counts = deepcopy(prior).to("meta"), []
    z = torch.empty(1, shadow.settings.z_dim, device="meta")
    with torch.no_grad():
        w = shadow.map(z, torch.zeros(1, dtype=torch.int64, device="meta"))
    for layer in range(len(prior.layers) - 1):
        with torch.no_grad():
            start = shadow.advance(Latents(w, None), 0, layer)
        variables = start.map(lambda x: x.detach().requires_grad_())
        with FlopCounterMode(display=False) as counter:
            shadow.decode(variables, layer).sum().backward()
        counts.append(float(counter.get_total_flops()))
    return (*counts, 0.0)
