"""The one loop: pixels, a single layer (GLaD) and the hierarchy (H-GLaD) are rows in a table of stages."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import isfinite

import torch
from torch import Tensor

from hglad.data.datasets import RealData
from hglad.errors import HgladError
from hglad.metrics import Metric
from hglad.networks.passes import limit_chunks
from hglad.objectives import Objective
from hglad.priors.base import Latents, Prior
from hglad.priors.pullback import Pullback
from hglad.runtime import free_memory, is_out_of_memory, out_of_memory
from hglad.search.stages import LATENT, plan_stages
from hglad.search.state import SearchState
from hglad.settings import SearchSettings

VERSION = 1  # raise when the same settings and seed give another set
ADVICE = "lower surrogate.batch_real, the surrogate's width, ipc or data.resolution"  # where memory runs out
LOOK_EVERY = 10  # steps of a GPU between two looks at whether values are finite


class Search:
    """Iterate over the states of one distillation run.

    Args:
        prior: generator (or pixels) whose latents are optimized.
        objective: gives the gradient with respect to the images.
        metric: distance to the real set that selects the iterate.
        real: training split.
        labels: class of each distilled image (n,), sorted.
        kind: `pixels`, `single` or `hierarchical`.
        settings: search settings.
        rng: every draw of the run comes from it.
        flops: work of a step at each split point (`step_flops`), for a budget in FLOPs.
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
        rng: torch.Generator,
        flops: Sequence[float] | None = None,
    ):
        self.prior, self.objective, self.metric, self.real = prior, objective, metric, real
        self.labels, self.settings, self.rng = labels, settings, rng
        self.finite = FiniteCheck(objective, every=LOOK_EVERY if labels.is_cuda else 1)
        self.stages = plan_stages(kind, settings, prior.layers, flops)
        self.pullback = Pullback(prior, settings.memory)
        self.measuring: list[float] = []
        """Seconds of each measurement of an iterate in this process, decoding included."""
        self.halvings = 0
        """How often memory ran out."""

    def run(self, state: SearchState | None = None) -> Iterator[SearchState]:
        """Yield the state after every step (and at the start of every stage), from the start or from `state`.

        Where memory runs out, it goes on with less at a time.

        Raises:
            HgladError: loss, gradient or images that are not finite; not even one image at a time fits.
        """
        if state is None:
            state = self._within_memory(self._start)
            yield state
        self.rng.set_state(state.rng)
        self.objective.load_state_dict(state.objective)
        while state.step < self.stages[state.stage].steps or state.stage + 1 < len(self.stages):
            in_stage = state.step < self.stages[state.stage].steps
            state = self._within_memory(self._step if in_stage else self._next_stage, state)
            yield state

    def steps_done(self, state: SearchState) -> int:
        """Optimization steps up to a state, over all stages."""
        return sum(stage.steps for stage in self.stages[: state.stage]) + state.step

    @torch.no_grad()
    def _start(self) -> SearchState:
        """The first state: latents of the class of each image, seen from the first stage."""
        settings, stage = self.settings, self.stages[0]
        latents = self._sample()
        if settings.lr_weights:
            latents = replace(latents, weights=self.prior.weights(stage.layer))
        latents, boundary = self._enter(latents, 0, 0)
        if settings.features == "gaussian" and not stage.only_w:
            latents = replace(latents, f=gaussian_features(latents.f, self.rng))
        none = {"images": torch.empty(0), "distance": float("inf"), "best": (0, 0), "history": ()}
        return self._begin(0, latents, boundaries=boundary, **none)

    def _sample(self) -> Latents:
        own = self.settings.labels
        labels = self.labels.new_tensor(own)[self.labels] if own else self.labels
        return self.prior.sample(labels, self.rng, self.settings.average)

    @torch.no_grad()
    def _next_stage(self, state: SearchState) -> SearchState:
        """The next stage begins at the best (or last) iterate of this one: more layers have run."""
        source, index = self.stages[state.stage].layer, state.stage + 1
        best = self.settings.selection == "metric" and self.settings.stage_start == "best"
        latents, boundary = self._enter(state.stage_best if best else state.latents, source, index)
        if self.settings.styles == "redrawn" and latents.w is not None:
            latents = replace(latents, w=self._sample().w)
        kept = {name: getattr(state, name) for name in ("images", "distance", "best", "history")}
        return self._begin(index, latents, boundaries=state.boundaries + boundary, **kept)

    def _enter(self, latents: Latents, source: int, index: int) -> tuple[Latents, tuple]:
        """Latents where stage `index` begins, and what bounding their features did, a row of `boundaries`.

        Features are made finite and bounded; images are left as they are. The memory is laid out as a saved
        state has it: sums over another layout have other bits.
        """
        stage = self.stages[index]
        if stage.layer < source:  # no way leads back: features follow from w again
            latents, source = replace(latents, f=None), 0
        latents = self.prior.advance(latents, source, stage.layer).map(lambda x: x.contiguous())
        if stage.layer == len(self.prior.layers) - 1:
            return Latents(None, latents.f), ()
        own = latents.weights
        used = self.prior.weights(stage.layer) if own else {}
        latents = replace(latents, weights={name: own.get(name, x) for name, x in used.items()})
        if stage.only_w:
            return replace(latents, f=None), ()
        features, clip = latents.f, self.settings.clip
        bounded = features.nan_to_num(0.0) if self.settings.nan_to_zero else features
        bounded = replace(latents, f=bounded if clip is None else bounded.clamp(-clip, clip))
        invalid, change = features.isnan(), 0.0
        clipped = ((features != bounded.f) & ~invalid).float().mean().item()
        if clipped or invalid.any():  # else the images are the same
            before, after = (self.pullback.images(x, stage.layer).nan_to_num(0.0) for x in (latents, bounded))
            change = (before - after).square().mean().sqrt().item()
        return bounded, ((index, clipped, int(invalid.sum()), change),)

    def _begin(self, stage: int, latents: Latents, **best) -> SearchState:
        still = latents.map(torch.zeros_like)
        rng, objective = self.rng.get_state(), self.objective.state_dict()
        state = SearchState(
            stage, 0, latents, still, None, latents, float("inf"), rng=rng, objective=objective, **best
        )
        return self._measure(state)

    def _step(self, state: SearchState) -> SearchState:
        """A step of SGD with momentum: one forward pass and one vector-Jacobian product of the generator."""
        settings, stage = self.settings, self.stages[state.stage]
        images, pull = self.pullback(state.latents, stage.layer)
        if settings.normalize_generated:
            image_gradient, logs = self.objective.gradient(images, self.labels, self.real, self.rng)
        else:  # objectives normalize: images that are de-normalized first reach the network as they are
            mean, std = (x[:, None, None] for x in (self.real.mean, self.real.std))
            gradient, logs = self.objective.gradient(images * std + mean, self.labels, self.real, self.rng)
            image_gradient = gradient * std
        self.finite.note(*self._place(state), images, logs["loss"], image_gradient)
        gradient, latents = pull(image_gradient).tensors(), state.latents.tensors()  # dL/dw, dL/df; w, f
        rates = state.rates
        if rates is None:
            usual = {"w": stage.lr_w, "f": stage.lr_f}
            rates = tuple(usual.get(name, settings.lr_weights) for name in latents)
            if settings.rates == "relative":
                sizes = (latents[x].norm() / gradient[x].norm().clamp(min=1e-12) for x in latents)
                rates = tuple(rate * size.item() for rate, size in zip(rates, sizes, strict=True))
        momentum, before = settings.momentum, state.velocity.tensors()
        velocity = {name: momentum * before[name] + gradient[name] for name in latents}
        moved = {name: latents[name] - r * velocity[name] for name, r in zip(latents, rates, strict=True)}
        state = replace(
            state,
            step=state.step + 1,
            latents=Latents.of(moved),
            velocity=Latents.of(velocity),
            rates=rates,
            logs=logs,
            objective=self.objective.state_dict(),
            decoded=None,
            rng=self.rng.get_state(),
        )
        due = state.step % settings.select_every == 0 or state.step == stage.steps
        return self._measure(state) if due else state

    @torch.no_grad()
    def _measure(self, state: SearchState) -> SearchState:
        """Note the distance of this iterate and keep a copy of it if it is the best."""
        begin = time.perf_counter()
        images = self.pullback.images(state.latents, self.stages[state.stage].layer).clone()
        self.finite.note(*self._place(state), images, torch.zeros((), device=images.device), images)
        self.finite.look()
        distance = self.metric(images, self.labels)
        self.measuring.append(time.perf_counter() - begin)
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
        key = {self.prior.layers[-1]: "lr_pixels", LATENT: "lr_latents"}.get(name, "lr_features")
        return f"step {state.step} of stage {name}", f"search.{key} ({getattr(self.settings, key)})"

    def _within_memory(self, advance: Callable[..., SearchState], *state: SearchState) -> SearchState:
        """`advance(*state)`; where memory runs out once more, from the same draws, with less at a time."""
        drawn = self.rng.get_state()
        while True:
            try:
                return advance(*state)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if not self._take_less_at_a_time():
                    with out_of_memory("with one image at a time", ADVICE):
                        raise
            free_memory()  # here the frames of the error are gone, and with them their tensors
            self.rng.set_state(drawn)
            for each in state:
                self.objective.load_state_dict(each.objective)

    def _take_less_at_a_time(self) -> bool:
        """Send half as many images through generator and network at once; False where it was one already."""
        own, real = len(self.labels), self.objective.batch_real * len(self.real.classes)
        if max(own, real) >> self.halvings <= 1:
            return False
        self.halvings += 1
        self.pullback.most = max(1, own >> self.halvings)
        if self.objective.network is not None:
            limit_chunks(self.objective.network, max(1, max(own, real) >> self.halvings))
        return True


def gaussian_features(features: Tensor, rng: torch.Generator) -> Tensor:
    """Noise with the mean and standard deviation of each channel of features (n, channels, height, width)."""
    deviation, mean = torch.std_mean(features, dim=(0, 2, 3), keepdim=True)
    noise = torch.randn(features.shape, generator=rng, device=rng.device)
    return mean + deviation * noise.to(features)


class FiniteCheck:
    """Notes what each step gave and looks at it later, all steps at once: a look waits for a GPU.

    Args:
        objective: its learning rates may be at fault, too.
        every: steps between two looks.
    """

    def __init__(self, objective: Objective, every: int) -> None:
        self.objective, self.every = objective, every
        self.places: list[tuple[str, str]] = []  # (where, what to lower)
        self.numbers: list[Tensor] = []  # (3,) each: loss, broken values of the gradient, of the images

    def note(self, where: str, key: str, images: Tensor, loss: Tensor, gradient: Tensor) -> None:
        """Note one step; raises `HgladError` when a look is due and finds something."""
        broken = [(~x.isfinite()).sum() for x in (gradient, images)]
        self.numbers.append(torch.stack([loss.detach().double(), *broken]))
        self.places.append((where, key))
        if len(self.numbers) >= self.every:
            self.look()

    def look(self) -> None:
        """Raise `HgladError` for the first step since the last look with a value that is not finite."""
        if not self.numbers:
            return
        rows = torch.stack(self.numbers).tolist()  # the only place that waits for the device
        places, self.numbers, self.places = self.places, [], []
        for (where, key), (loss, gradient, images) in zip(places, rows, strict=True):
            if images:
                raise HgladError(f"images are not finite at {where} ({int(images)} values): lower {key}")
            if gradient or not isfinite(loss):
                values = f", its gradient has {int(gradient)} values that are not finite" if gradient else ""
                raise HgladError(
                    f"objective {self.objective.name!r} has the loss {loss:g}{values} at {where}: lower "
                    + " or ".join((key, *self.objective.rates))
                )
