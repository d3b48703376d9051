"""Settings of a search and the table of stages that follows from them: where, how long, at which rates."""

from collections.abc import Sequence
from dataclasses import dataclass

from hglad.errors import HgladError
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
    """Optimisation steps."""
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
        flops: work of one step of one image at each split point, as `cost.step_flops` counts it.

    Raises:
        HgladError: unknown kind, a split point that the prior does not have, pixel space before another
            stage, a list that does not have an entry per stage, fewer steps than stages.
    """
    points = _split_points(kind, settings, layers)
    latent = kind == "hierarchical" and settings.latent_stage
    count = len(points) + latent
    own = settings if kind == "hierarchical" else _without_lists(settings)
    for key in ("shares", "stage_lr_f", "stage_lr_w"):
        given = getattr(own, key)
        _expect(len(given) in (0, count), key, list(given), f"a number for each of the {count} stages")
    places = [0] * latent + points
    steps = _steps(own, places, kind, len(layers) - 1, flops)
    stages = []
    for index, (point, number) in enumerate(zip(places, steps, strict=True)):
        in_pixels, only_w = point == len(layers) - 1, latent and index == 0
        lr_f = settings.lr_pixels if in_pixels else settings.lr_features
        lr_f = own.stage_lr_f[index] if own.stage_lr_f else lr_f
        lr_w = own.stage_lr_w[index] if own.stage_lr_w else settings.lr_latents
        fixed = in_pixels or (settings.styles == "frozen" and index > 0)
        stages.append(
            Stage(
                point,
                LATENT if only_w else layers[point],
                number,
                0.0 if only_w else lr_f,
                0.0 if fixed else lr_w,
                flops[point] if flops else None,
            )
        )
    return tuple(stages)


def _split_points(kind: str, settings: SearchSettings, layers: tuple[str, ...]) -> list[int]:
    last = len(layers) - 1
    if kind not in KINDS:
        raise HgladError(f"unknown search '{kind}': expected {', '.join(KINDS)}")
    if kind == "hierarchical":
        first = 1 if settings.latent_stage and last else 0  # the input's features follow from w at first
        points = list(settings.stages) or list(range(first, last + 1))
    else:
        points = [last] if kind == "pixels" else [settings.layer]
    for point in points:
        if not 0 <= point <= last:
            raise HgladError(
                f"split point {point} does not exist: expected 0 to {last} ({', '.join(layers)})"
            )
    ends = last not in points[:-1]
    _expect(ends, "stages", points, f"{last}, pixel space, at the end: no way leads back from there")
    return points


def _without_lists(settings: SearchSettings) -> SearchSettings:
    """A search with one stage takes the plain rates."""
    return settings.changed(shares=(), stage_lr_f=(), stage_lr_w=())


def _steps(
    settings: SearchSettings, places: list[int], kind: str, last: int, flops: Sequence[float] | None
) -> list[int]:
    """Steps of each stage: the total in proportion to the shares, remainders to the largest fractions."""
    shares = settings.shares or (1.0,) * len(places)
    shares = [share / sum(shares) for share in shares]
    total = settings.steps
    if settings.budget == "flops" and kind == "hierarchical":
        total = _affordable(settings, shares, places, last, flops)
    _expect(total >= len(places), "steps", total, f"at least one for each of the {len(places)} stages")
    exact = [share * total for share in shares]
    steps = [int(number) for number in exact]
    order = sorted(range(len(steps)), key=lambda index: round(steps[index] - exact[index], 9))
    for index in order[: total - sum(steps)]:
        steps[index] += 1
    while 0 in steps:  # of a small share: it takes a step from the longest
        steps[steps.index(max(steps))] -= 1
        steps[steps.index(0)] += 1
    return steps


def _affordable(
    settings: SearchSettings, shares: list[float], places: list[int], last: int, flops: Sequence[float] | None
) -> int:
    """Steps that take the generator as much work as `settings.steps` at its single layer."""
    if flops is None:
        raise HgladError("search.budget is 'flops', but the work of this prior is not known: expected steps")
    _expect(0 <= settings.layer < last, "layer", settings.layer, f"0 to {last - 1}, where a generator works")
    mean = sum(share * flops[place] for share, place in zip(shares, places, strict=True))
    affordable = round(settings.steps * flops[settings.layer] / mean) if mean else settings.steps
    return max(affordable, len(places))  # no stage without a step
