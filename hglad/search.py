"""The one loop: pixels, a single layer (GLaD) and the hierarchy (H-GLaD) are rows in a table of stages."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from hglad.data import RealData
from hglad.errors import HgladError
from hglad.finite import FiniteCheck
from hglad.metrics import Metric
from hglad.objectives import Objective
from hglad.priors.base import Latents, Prior
from hglad.priors.pullback import Pullback
from hglad.priors.stylegan_xl import PRECISIONS
from hglad.storage import read_metadata, read_tensors, write_tensors

VERSION = 1  # raise when the same settings and seed give another set
LOOK_EVERY = 10  # steps of a GPU between two looks at whether values are finite
KINDS = ("pixels", "single", "hierarchical")
FEATURES = ("generated", "gaussian")
LATER = ("truncation", "labels", "features", "lr_weights", "precision")
"""Settings that came later: absent from a fingerprint where they have their defaults, as before they came."""


@dataclass(frozen=True)
class SearchSettings:
    """How the latents are optimised; every kind of search gets the same number of steps."""

    steps: int = 1000
    """Optimisation steps in all, shared by the stages. Source: GLaD."""
    layer: int = 4
    """Split point of the single-layer search."""
    stages: tuple[int, ...] = ()
    """Split points of the hierarchical search, ascending; empty: all of them, the last one is pixel space."""
    rates: str = "absolute"
    """`absolute`: lr_* are learning rates; `relative`: they are multiplied by |x| / |gradient of x| at the
    first step of each stage, so that a step moves x by about that share of its norm."""
    lr_features: float = 10.0
    """Learning rate of the features f. Source: H-GLaD with DM."""
    lr_latents: float = 0.01
    """Learning rate of the styles w. Source: H-GLaD with DM."""
    lr_pixels: float = 1.0
    """Learning rate in pixel space. Source: DM."""
    momentum: float = 0.5
    """Momentum of SGD, started afresh in every stage. Source: DC, DM, GLaD."""
    clip: float | None = 10.0
    """Features are clamped to +- clip when a stage begins; none is without. Source: H-GLaD, released code."""
    average: int = 1
    """Mapped latents averaged per image at the start. Source: H-GLaD (1,000 at one image per class)."""
    truncation: float = 1.0
    """Pull of the starting latents towards the mean of their class: 1 none, 0 all the way."""
    labels: tuple[int, ...] = ()
    """Class of the generator for each class of the data; empty: the same (ImageNet's for its subsets)."""
    features: str = "generated"
    """Features at the start: `generated` by the layers before it, or `gaussian` noise with the mean and
    deviation of each of their channels. Source: GLaD."""
    lr_weights: float = 0.0
    """Learning rate of the generator's own weights, along with the latents; 0 leaves them frozen."""
    precision: str = "float32"
    """Format of the generator's high-resolution layers: `float32`, `bfloat16` or `float16`."""
    memory: float | None = None
    """GiB that the generator's graph may take; none: half of this process's share of the device's memory."""
    start: str = "real"
    """Start of the pixel prior: `real` (DM) or `noise` (DC)."""
    selection: str = "metric"
    """`metric`: keep the iterate with the smallest distance; `last`: keep the last one."""
    select_every: int = 5
    """Steps between two measurements of the distance; a stage's first and last iterate are measured too."""

    def __post_init__(self):
        _expect(self.steps >= 1, "steps", self.steps, "at least 1")
        _expect(self.select_every >= 1, "select_every", self.select_every, "at least 1")
        _expect(self.rates in ("absolute", "relative"), "rates", self.rates, "absolute or relative")
        _expect(self.selection in ("metric", "last"), "selection", self.selection, "metric or last")
        _expect(self.features in FEATURES, "features", self.features, " or ".join(FEATURES))
        _expect(0 <= self.truncation <= 1, "truncation", self.truncation, "0 to 1")
        _expect(self.precision in PRECISIONS, "precision", self.precision, ", ".join(PRECISIONS))
        _expect(self.memory is None or self.memory > 0, "memory", self.memory, "a positive number of GiB")
        _expect(
            self.stages == tuple(sorted(set(self.stages))), "stages", self.stages, "ascending split points"
        )


def _expect(condition: bool, key: str, value: object, expected: str) -> None:
    if not condition:
        raise HgladError(f"search.{key} is {value!r}: expected {expected}")


@dataclass(frozen=True)
class Stage:
    """One row of the stage table."""

    layer: int
    """Split point."""
    name: str
    """Name of the split point."""
    steps: int
    """Optimisation steps."""
    lr_f: float
    """Rate of the features (of the images in pixel space)."""
    lr_w: float
    """Rate of the styles; 0 in pixel space."""


def plan_stages(kind: str, settings: SearchSettings, layers: tuple[str, ...]) -> tuple[Stage, ...]:
    """Stage table of a search over a prior with split points `layers`; the steps add up to settings.steps.

    Raises:
        HgladError: unknown kind, a split point that the prior does not have, fewer steps than stages.
    """
    last = len(layers) - 1
    if kind not in KINDS:
        raise HgladError(f"unknown search '{kind}': expected {', '.join(KINDS)}")
    points = {
        "pixels": (last,),
        "single": (settings.layer,),
        "hierarchical": settings.stages or tuple(range(last + 1)),
    }
    for point in points[kind]:
        if not 0 <= point <= last:
            raise HgladError(
                f"split point {point} does not exist: expected 0 to {last} ({', '.join(layers)})"
            )
    count = len(points[kind])
    _expect(settings.steps >= count, "steps", settings.steps, f"at least one for each of the {count} stages")
    stages = []
    for index, point in enumerate(points[kind]):
        steps = settings.steps // count + (index < settings.steps % count)
        in_pixels = point == last
        lr_f = settings.lr_pixels if in_pixels else settings.lr_features
        stages.append(Stage(point, layers[point], steps, lr_f, 0.0 if in_pixels else settings.lr_latents))
    return tuple(stages)


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


class Search:
    """Iterate over the states of one distillation run.

    Args:
        prior: generator (or pixels) whose latents are optimised.
        objective: gives the gradient with respect to the images.
        metric: distance to the real set that selects the iterate.
        real: training split.
        labels: class of each distilled image (n,), sorted.
        kind: `pixels`, `single` or `hierarchical`.
        settings: search settings.
        generator: every draw of the run comes from it.
    """

    def __init__(
        self,
        prior: Prior,
        objective: Objective,
        metric: Metric,
        real: RealData,
        labels: Tensor,
        kind: str,
        settings: SearchSettings,
        generator: torch.Generator,
    ):
        self.prior, self.objective, self.metric, self.real = prior, objective, metric, real
        self.labels, self.settings, self.generator = labels, settings, generator
        self.finite = FiniteCheck(objective.name, LOOK_EVERY if labels.is_cuda else 1, objective.rates)
        self.stages = plan_stages(kind, settings, prior.layers)
        self.pullback = Pullback(prior, settings.memory)

    def run(self, state: SearchState | None = None) -> Iterator[SearchState]:
        """Yield the state after every step (and at the start of every stage), from the start or from `state`.

        Raises:
            HgladError: loss, gradient or images that are not finite.
        """
        if state is None:
            state = self._first_state()
            yield state
        self.generator.set_state(state.rng)
        self.objective.load_state_dict(state.objective)
        while True:
            if state.step < self.stages[state.stage].steps:
                state = self._step(state)
            elif state.stage + 1 < len(self.stages):
                state = self._next_stage(state)
            else:
                return
            yield state

    def steps_done(self, state: SearchState) -> int:
        """Optimisation steps up to a state, over all stages."""
        return sum(stage.steps for stage in self.stages[: state.stage]) + state.step

    def _first_state(self) -> SearchState:
        settings, layer = self.settings, self.stages[0].layer
        labels = self.labels if not settings.labels else self.labels.new_tensor(settings.labels)[self.labels]
        with torch.no_grad():
            latents = self.prior.sample(labels, self.generator, settings.average)
            if settings.lr_weights:
                latents = replace(latents, weights=self.prior.weights(layer))
            latents = self._enter(latents, 0, layer)
            if settings.features == "gaussian":
                latents = replace(latents, f=gaussian_features(latents.f, self.generator))
        return self._begin(0, latents, images=torch.empty(0), distance=float("inf"), best=(0, 0), history=())

    def _next_stage(self, state: SearchState) -> SearchState:
        source, target = self.stages[state.stage].layer, self.stages[state.stage + 1].layer
        start = state.stage_best if self.settings.selection == "metric" else state.latents
        with torch.no_grad():
            latents = self._enter(start, source, target)
        kept = {name: getattr(state, name) for name in ("images", "distance", "best", "history")}
        return self._begin(state.stage + 1, latents, **kept)

    def _enter(self, latents: Latents, source: int, target: int) -> Latents:
        """Features at the next split point, made finite and bounded; images are left as they are.

        The memory is laid out as a saved state has it: sums over another layout have other bits.
        """
        latents = self.prior.advance(latents, source, target).map(lambda x: x.contiguous())
        if target == len(self.prior.layers) - 1:
            return Latents(None, latents.f)
        if self.settings.clip is not None:
            bounded = latents.f.nan_to_num(0.0).clamp(-self.settings.clip, self.settings.clip)
            latents = replace(latents, f=bounded)
        used = self.prior.weights(target) if latents.weights else {}
        return replace(latents, weights={name: latents.weights[name] for name in used})

    def _begin(self, stage: int, latents: Latents, **best) -> SearchState:
        still = latents.map(torch.zeros_like)
        rng, objective = self.generator.get_state(), self.objective.state_dict()
        state = SearchState(
            stage, 0, latents, still, None, latents, float("inf"), rng=rng, objective=objective, **best
        )
        return self._measure(state)

    def _step(self, state: SearchState) -> SearchState:
        stage = self.stages[state.stage]
        gradient, logs = self._gradient(state)
        rates = state.rates or self._rates(state.latents, gradient, stage)
        velocity = _combine(lambda _, v, g: self.settings.momentum * v + g, state.velocity, gradient)
        rate_of = dict(zip(state.latents.tensors(), rates, strict=True))
        moved = _combine(lambda name, x, v: x - rate_of[name] * v, state.latents, velocity)
        state = replace(
            state,
            step=state.step + 1,
            latents=moved,
            velocity=velocity,
            rates=rates,
            logs=logs,
            objective=self.objective.state_dict(),
            decoded=None,
            rng=self.generator.get_state(),
        )
        due = state.step % self.settings.select_every == 0 or state.step == stage.steps
        return self._measure(state) if due else state

    def _gradient(self, state: SearchState) -> tuple[Latents, dict[str, Tensor]]:
        """Pull the image gradient back through the rest of the generator: one forward pass, one VJP."""
        images, pull = self.pullback(state.latents, self.stages[state.stage].layer)
        image_gradient, logs = self.objective.gradient(images, self.labels, self.real, self.generator)
        self.finite.note(*self._place(state), images, logs["loss"], image_gradient)
        return pull(image_gradient), logs

    def _rates(self, latents: Latents, gradient: Latents, stage: Stage) -> tuple[float, ...]:
        own, gradients = latents.tensors(), gradient.tensors()
        usual = {"w": stage.lr_w, "f": stage.lr_f}
        rates = [usual.get(name, self.settings.lr_weights) for name in own]
        if self.settings.rates == "absolute":
            return tuple(rates)
        sizes = [(own[name].norm() / gradients[name].norm().clamp(min=1e-12)).item() for name in own]
        return tuple(rate * size for rate, size in zip(rates, sizes, strict=True))

    @torch.no_grad()
    def _measure(self, state: SearchState) -> SearchState:
        """Note the distance of this iterate and keep a copy of it if it is the best."""
        images = self.prior.decode(state.latents, self.stages[state.stage].layer).detach().clone()
        self.finite.note(*self._place(state), images, torch.zeros((), device=images.device), images)
        self.finite.look()
        distance = self.metric(images, self.labels)
        state = replace(state, decoded=images, history=(*state.history, (state.stage, state.step, distance)))
        newest = self.settings.selection == "last"
        if newest or distance < state.stage_distance:
            state = replace(state, stage_best=state.latents.detach(), stage_distance=distance)
        if newest or distance < state.distance:
            state = replace(state, images=images, distance=distance, best=(state.stage, state.step))
        return state

    def _place(self, state: SearchState) -> tuple[str, str]:
        """Where the search stands, and the setting most likely at fault if it breaks there."""
        name = self.stages[state.stage].name
        key = "lr_pixels" if name == self.prior.layers[-1] else "lr_features"
        return f"step {state.step} of stage {name}", f"search.{key} ({getattr(self.settings, key)})"


def gaussian_features(features: Tensor, generator: torch.Generator) -> Tensor:
    """Noise with the mean and standard deviation of each channel of features (n, channels, height, width)."""
    deviation, mean = torch.std_mean(features, dim=(0, 2, 3), keepdim=True)
    noise = torch.randn(features.shape, generator=generator, device=generator.device)
    return mean + deviation * noise.to(features)


def _combine(function, first: Latents, second: Latents) -> Latents:
    """`function(name, a, b)` of each tensor."""
    other = second.tensors()
    return Latents.of({name: function(name, x, other[name]) for name, x in first.tensors().items()})


LATENT_FIELDS = ("latents", "velocity", "stage_best")
OBJECTIVE = "objective."  # prefix of the objective's state in a file
TENSOR_FIELDS = ("images", "rng")
PLAIN_FIELDS = ("stage", "step", "rates", "stage_distance", "distance", "best", "history")


def save_state(path: Path, state: SearchState, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a state, with further tensors and metadata of the caller's; `decoded` is left out."""
    tensors = tensors | {name: getattr(state, name) for name in TENSOR_FIELDS}
    for name in LATENT_FIELDS:
        own = getattr(state, name).tensors()
        tensors |= {f"{name}.{part}": value for part, value in own.items()}
    tensors |= {f"{OBJECTIVE}{name}": value for name, value in state.objective.items()}
    plain = {name: getattr(state, name) for name in PLAIN_FIELDS}
    write_tensors(path, tensors, metadata | {"state": json.dumps(plain)})


def load_state(path: Path, device: torch.device | str = "cpu") -> SearchState:
    """Read a state that `save_state` wrote.

    Its tensors are copied from the file to memory of PyTorch's own: products and sums over another alignment
    have other bits.
    """
    tensors = {name: tensor.clone() for name, tensor in read_tensors(path, device).items()}
    plain = json.loads(read_metadata(path)["state"])
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
    )


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
