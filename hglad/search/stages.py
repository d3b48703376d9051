"""Settings of a search and the table of stages that follows from them: where, how long, at which rates."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from hglad.errors import HgladError
from hglad.priors.base import PRECISIONS
from hglad.settings import later

KINDS = ("pixels", "single", "hierarchical")
FEATURES = ("generated", "gaussian")
STYLES = ("kept", "redrawn", "frozen")
STARTS = ("real", "noise")
LATENT = "latent"  # name of the stage in w alone


@dataclass(frozen=True)
class SearchSettings:
    """How the latents are optimised; every kind of search gets the same budget."""

    steps: int = 1000
    """Optimisation steps in all, shared by the stages. Source: GLaD."""
    budget: str = later("steps")
    """What is kept whatever the stages: `steps`, or `flops`, the generator's work of `steps` steps at
    `layer`, of which cheaper stages get more steps; pixel space, which has none, keeps its `steps`."""
    layer: int = 4
    """Split point of the single-layer search."""
    stages: tuple[int, ...] = ()
    """Split points of the hierarchical search; empty: all of them, the last one is pixel space. At a coarser
    one than before the features follow from w again."""
    latent_stage: bool = later(False)
    """Begin the hierarchical search with a stage in w alone, from which the features follow. Source:
    H-GLaD."""
    shares: tuple[float, ...] = later(())
    """Share of the steps of each stage, in proportion, the latent stage's first; empty: even."""
    rates: str = "absolute"
    """`absolute`: lr_* are learning rates; `relative`: they are multiplied by |x| / |gradient of x| at the
    first step of each stage, so that a step moves x by about that share of its norm."""
    lr_features: float = 10.0
    """Learning rate of the features f. Source: H-GLaD with DM."""
    lr_latents: float = 0.01
    """Learning rate of the styles w. Source: H-GLaD with DM."""
    lr_pixels: float = 1.0
    """Learning rate in pixel space. Source: DM."""
    stage_lr_f: tuple[float, ...] = later(())
    """Rate of f (of the images in pixel space) in each stage, the latent stage's first, where it is not used;
    empty: lr_features and lr_pixels."""
    stage_lr_w: tuple[float, ...] = later(())
    """Rate of w in each stage, the latent stage's first; empty: lr_latents."""
    momentum: float = 0.5
    """Momentum of SGD, started afresh in every stage. Source: DC, DM, GLaD."""
    clip: float | None = 10.0
    """Features are clamped to +- clip when a stage begins; none is without. Source: H-GLaD, released code."""
    nan_to_zero: bool = later(True)
    """Features that are not a number become 0 when a stage begins; else the run stops there. Source: H-GLaD,
    released code."""
    average: int = 1
    """Mapped latents averaged per image at the start. Source: H-GLaD (1,000 at one image per class)."""
    truncation: float = later(1.0)
    """Pull of the starting latents towards the mean of their class: 1 none, 0 all the way."""
    labels: tuple[int, ...] = later(())
    """Class of the generator for each class of the data; empty: the same (ImageNet's for its subsets)."""
    features: str = later("generated")
    """Features at the start: `generated` by the layers before it, or `gaussian` noise with the mean and
    deviation of each of their channels. Source: GLaD."""
    lr_weights: float = later(0.0)
    """Learning rate of the generator's own weights, along with the latents; 0 leaves them frozen."""
    precision: str = later("float32")
    """Format of the generator's high-resolution layers: `float32`, `bfloat16` or `float16`."""
    memory: float | None = None
    """GiB that the generator's graph may take; none: half of this process's share of the device's memory."""
    start: str = "real"
    """Start of the pixel prior: `real` (DM) or `noise` (DC)."""
    selection: str = "metric"
    """`metric`: keep the iterate with the smallest distance; `last`: keep the last one."""
    select_every: int = 5
    """Steps between two measurements of the distance; a stage's first and last iterate are measured too."""
    stage_start: str = later("best")
    """Iterate of a stage that the next one starts from: the `best` by `selection`, or the `last`."""
    normalise_generated: bool = later(True)
    """Whether the matching networks see distilled images normalised like real ones; they do not in the
    released code with a generator."""
    styles: str = later("kept")
    """w when a later stage begins: `kept` as it is, `redrawn` from the mapping, or kept and `frozen`."""

    def __post_init__(self):
        for key in ("steps", "select_every", "average"):
            _expect(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        _expect(self.layer >= 0, "layer", self.layer, "a split point, 0 or more")
        for key in ("lr_features", "lr_latents", "lr_pixels", "lr_weights"):
            rate = getattr(self, key)
            _expect(0 <= rate < inf, key, rate, "0 or a positive number")
        _expect(0 <= self.momentum < 1, "momentum", self.momentum, "a number from 0 to below 1")
        _expect(self.start in STARTS, "start", self.start, " or ".join(STARTS))
        _expect(self.rates in ("absolute", "relative"), "rates", self.rates, "absolute or relative")
        _expect(self.budget in ("steps", "flops"), "budget", self.budget, "steps or flops")
        _expect(self.selection in ("metric", "last"), "selection", self.selection, "metric or last")
        _expect(self.stage_start in ("best", "last"), "stage_start", self.stage_start, "best or last")
        _expect(self.styles in STYLES, "styles", self.styles, ", ".join(STYLES))
        _expect(self.features in FEATURES, "features", self.features, " or ".join(FEATURES))
        _expect(0 <= self.truncation <= 1, "truncation", self.truncation, "0 to 1")
        _expect(self.precision in PRECISIONS, "precision", self.precision, ", ".join(PRECISIONS))
        _expect(self.memory is None or self.memory > 0, "memory", self.memory, "a positive number of GiB")
        _expect(self.clip is None or self.clip > 0, "clip", self.clip, "a positive number, or null for none")
        positive = all(0 < share < inf for share in self.shares)
        _expect(positive, "shares", list(self.shares), "positive numbers")
        for key in ("stages", "labels"):
            numbers = getattr(self, key)
            _expect(all(number >= 0 for number in numbers), key, list(numbers), "numbers from 0")
        for key in ("stage_lr_f", "stage_lr_w"):
            rates = getattr(self, key)
            _expect(all(0 <= rate < inf for rate in rates), key, list(rates), "numbers from 0")
        different = len(set(self.stages)) == len(self.stages)
        _expect(different, "stages", list(self.stages), "every split point at most once")


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
    return SearchSettings(**vars(settings) | {"shares": (), "stage_lr_f": (), "stage_lr_w": ()})


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
