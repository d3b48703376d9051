"""The one loop: pixels, a single layer (GLaD) and the hierarchy (H-GLaD) are rows in a table of stages."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hglad.data.datasets import RealData
from hglad.metrics import Metric
from hglad.networks.passes import limit_chunks
from hglad.objectives import Objective
from hglad.priors.base import Latents, Prior
from hglad.priors.pullback import Pullback
from hglad.runtime import free_memory, is_out_of_memory, out_of_memory
from hglad.search.finite import FiniteCheck
from hglad.search.stages import LATENT, Stage, plan_stages
from hglad.search.state import SearchState
from hglad.settings import SearchSettings

VERSION = 1  # raise when the same settings and seed give another set
ADVICE = "lower surrogate.batch_real, the surrogate's width, ipc or data.resolution"  # where memory runs out
LOOK_EVERY = 10  # steps of a GPU between two looks at whether values are finite


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
        flops: work of a step at each split point (`cost.step_flops`), for a budget in FLOPs.
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
        flops: Sequence[float] | None = None,
    ):
        self.prior, self.objective, self.metric, self.real = prior, objective, metric, real
        self.labels, self.settings, self.generator = labels, settings, generator
        self.finite = FiniteCheck(objective.name, LOOK_EVERY if labels.is_cuda else 1, objective.rates)
        self.stages = plan_stages(kind, settings, prior.layers, flops)
        self.pullback = Pullback(prior, settings.memory)
        self.measuring: list[float] = []
        """Seconds of each measurement of an iterate in this process, decoding included."""
        self.halvings = 0
        """How often memory ran out."""

    def run(self, state: SearchState | None = None) -> Iterator[SearchState]:
        """Yield the state after every step (and at the start of every stage), from the start or from `state`.

        Raises:
            HgladError: loss, gradient or images that are not finite.
        """
        if state is None:
            state = self._within_memory(self._first_state)
            yield state
        self.generator.set_state(state.rng)
        self.objective.load_state_dict(state.objective)
        while state.step < self.stages[state.stage].steps or state.stage + 1 < len(self.stages):
            in_stage = state.step < self.stages[state.stage].steps
            state = self._within_memory(self._step if in_stage else self._next_stage, state)
            yield state

    def _within_memory(self, advance: Callable[..., SearchState], *state: SearchState) -> SearchState:
        """`advance(*state)`; where memory runs out once more, from the same draws, with less at a time."""
        drawn, matched = self.generator.get_state(), [each.objective for each in state]
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
            self.generator.set_state(drawn)
            for each in matched:
                self.objective.load_state_dict(each)

    def _take_less_at_a_time(self) -> bool:
        """Send half as many images through generator and network at once; False where it was one already."""
        own, real = len(self.labels), getattr(self.objective, "batch_real", 0) * len(self.real.classes)
        if max(own, real) >> self.halvings <= 1:
            return False
        self.halvings += 1
        self.pullback.most = max(1, own >> self.halvings)
        if hasattr(self.objective, "network"):
            limit_chunks(self.objective.network, max(1, max(own, real) >> self.halvings))
        return True

    def steps_done(self, state: SearchState) -> int:
        """Optimisation steps up to a state, over all stages."""
        return sum(stage.steps for stage in self.stages[: state.stage]) + state.step

    def _first_state(self) -> SearchState:
        settings, stage = self.settings, self.stages[0]
        with torch.no_grad():
            latents = self._sample()
            if settings.lr_weights:
                latents = replace(latents, weights=self.prior.weights(stage.layer))
            latents, boundary = self._enter(latents, 0, 0)
            if settings.features == "gaussian" and not stage.only_w:
                latents = replace(latents, f=gaussian_features(latents.f, self.generator))
        none = {"images": torch.empty(0), "distance": float("inf"), "best": (0, 0), "history": ()}
        return self._begin(0, latents, boundaries=boundary, **none)

    def _sample(self) -> Latents:
        """Latents of the class of each image, at the generator's input."""
        own = self.settings.labels
        labels = self.labels.new_tensor(own)[self.labels] if own else self.labels
        return self.prior.sample(labels, self.generator, self.settings.average)

    def _next_stage(self, state: SearchState) -> SearchState:
        source, index = self.stages[state.stage].layer, state.stage + 1
        best = self.settings.selection == "metric" and self.settings.stage_start == "best"
        with torch.no_grad():
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
        bounded = replace(latents, f=self._bounded(latents.f))
        return bounded, (self._boundary(index, latents, bounded),)

    def _bounded(self, features: Tensor) -> Tensor:
        if self.settings.nan_to_zero:
            features = features.nan_to_num(0.0)
        clip = self.settings.clip
        return features if clip is None else features.clamp(-clip, clip)

    def _boundary(self, index: int, before: Latents, after: Latents) -> tuple[int, float, int, float]:
        invalid = before.f.isnan()
        clipped = ((before.f != after.f) & ~invalid).float().mean().item()
        change = 0.0
        if clipped or invalid.any():  # else the images are the same
            layer = self.stages[index].layer
            images = [self.pullback.images(latents, layer).nan_to_num(0.0) for latents in (before, after)]
            change = (images[0] - images[1]).square().mean().sqrt().item()
        return index, clipped, int(invalid.sum()), change

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
        image_gradient, logs = self._matched(images)
        self.finite.note(*self._place(state), images, logs["loss"], image_gradient)
        return pull(image_gradient), logs

    def _matched(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """dL/dimages, and what the objective logged."""
        if self.settings.normalise_generated:
            return self.objective.gradient(images, self.labels, self.real, self.generator)
        # Objectives normalise: images that are de-normalised first reach the network as they are.
        mean, std = (x[:, None, None] for x in (self.real.mean, self.real.std))
        gradient, logs = self.objective.gradient(images * std + mean, self.labels, self.real, self.generator)
        return gradient * std, logs

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


def gaussian_features(features: Tensor, generator: torch.Generator) -> Tensor:
    """Noise with the mean and standard deviation of each channel of features (n, channels, height, width)."""
    deviation, mean = torch.std_mean(features, dim=(0, 2, 3), keepdim=True)
    noise = torch.randn(features.shape, generator=generator, device=generator.device)
    return mean + deviation * noise.to(features)


def _combine(function, first: Latents, second: Latents) -> Latents:
    """`function(name, a, b)` of each tensor."""
    other = second.tensors()
    return Latents.of({name: function(name, x, other[name]) for name, x in first.tensors().items()})
