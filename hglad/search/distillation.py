"""Distill one set: load what the settings name, run the search, keep the selected iterate."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import pydantic
import torch
from pydantic import Field
from torch import Tensor

from hglad.data.datasets import IMAGENET_SUBSETS, DataSet, RealData, images_are_there, load_data, read_record
from hglad.errors import HgladError
from hglad.evaluation.sets import DistilledSet, to_uint8
from hglad.evaluation.training import train_classifier
from hglad.metrics import create_metric, needs
from hglad.networks import Classifier, create_network
from hglad.objectives import OBJECTIVES, Objective, create_objective, needs_experts
from hglad.objectives.experts import Experts, experts_key
from hglad.priors import PixelPrior, Prior, load_prior, prior_hash, prior_versions
from hglad.provenance import Stopwatch, declared, versions_of
from hglad.runtime import out_of_memory, progress_bar
from hglad.search.loop import ADVICE, Search
from hglad.search.stages import Stage, plan_stages, step_flops
from hglad.search.state import SearchState
from hglad.settings import (
    DataSettings,
    ExpertSettings,
    Kind,
    MetricSettings,
    Profile,
    SearchSettings,
    Settings,
    SurrogateSettings,
    fingerprint,
)
from hglad.storage import Checkpoint


class DistillationSettings(Settings):
    """Resolved settings of one run."""

    data: DataSettings
    """Real images."""
    prior: str
    """Generator, or `pixels`."""
    search: SearchSettings
    """Optimization of the latents."""
    surrogate: SurrogateSettings = SurrogateSettings()
    """Network and batches of the matching objective."""
    metric: MetricSettings = MetricSettings()
    """Selection of the iterate."""
    objective: str = "dm"
    """Matching objective."""
    kind: Kind = "hierarchical"
    """Kind of search."""
    ipc: int = Field(1, ge=1)
    """Images per class."""
    seed: int = Field(0, ge=0)
    """Seed of every draw of the run."""
    keep_iterates: bool = False
    """Keep the images of every measured iterate, for the study of the metric."""
    options: dict[str, Any] = {}
    """Options of the objective itself."""
    experts: ExpertSettings | None = None
    """Expert trajectories of the objective."""

    @classmethod
    def of(
        cls,
        profile: Profile,
        objective: str,
        kind: str,
        ipc: int,
        seed: int,
        changes: Mapping[str, Any] | None = None,
        keep_iterates: bool = False,
    ) -> Self:
        """Settings of one run of a profile: as it is for this run, with some dotted keys changed at last.

        Raises:
            HgladError: unknown search or objective, no prior for it, values that no run can have.
        """
        own = profile.resolved(objective=objective, search=kind, ipc=ipc).with_values(changes or {})
        if kind != "pixels" and profile.prior is None:
            raise HgladError(
                f"profile {profile.profile!r} has no prior for the search {kind!r}: take pixels or name one"
            )
        matching = profile.objective(objective)
        experts = matching.experts or ExpertSettings()
        return cls(
            data=profile.data,
            prior="pixels" if kind == "pixels" else profile.prior,
            search=own.search.without_generator() if kind == "pixels" else own.search,
            surrogate=own.surrogate,
            metric=own.metric,
            objective=objective,
            kind=kind,
            ipc=ipc,
            seed=seed,
            keep_iterates=keep_iterates,
            options=matching.options,
            experts=experts if needs_experts(objective) else None,
        )

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.ipc > 1 and self.search.average > 1:
            raise ValueError(
                f"search.average is {self.search.average} at {self.ipc} images per class, which would start "
                "the same: give 1, in a profile by an override for this ipc"
            )
        if self.experts and "held_out" in needs(self.metric.name):
            raise ValueError(
                f"metric.name is '{self.metric.name}', which keeps images for itself that the experts of "
                f"{self.objective} have seen: expected another metric"
            )
        return self

    def origin(self) -> list:
        """What the result follows from beside the algorithms: settings and hashes, not where files lie."""
        settings = self.identity()
        del settings["data"], settings["prior"]  # their hashes say what they hold
        if self.kind != "single" and self.search.budget == "steps":
            settings["search"].pop("layer", None)
        return [settings, data_hash(self.data), prior_hash(self.prior)]

    @property
    def components(self) -> dict[str, int | str]:
        """Algorithms that make the result, with their versions."""
        networks = {f"network {each['name']}" for each in (self.surrogate.network, self.metric.network)}
        parts = ["search", "augment", "training", f"objective {self.objective}", f"metric {self.metric.name}"]
        experts = ["experts"] if self.experts else []
        return versions_of(*parts, *sorted(networks), *experts) | prior_versions(self.prior)

    @property
    def fingerprint(self) -> str:
        """Key of the result."""
        return fingerprint(self.origin(), self.components)


def load_real(data: DataSettings, device: str = "cpu") -> DataSet:
    """The data set of a profile, kept in memory; with `holdout`, training images replace the test images."""
    return _load_real(data, device)


@lru_cache(maxsize=2)
def _load_real(data: DataSettings, device: str) -> DataSet:
    whole = load_data(data.name, data.root, data.resolution, device=device)
    if not data.holdout:
        return whole
    return DataSet(whole.name, *whole.train.split(data.holdout, seed=0))


def known_real(data: DataSettings) -> DataSet:
    """As `load_real`; without pixels, from its record, where the folder of the images is not there."""
    return load_real(data) if images_are_there(data) else read_record(data) or load_real(data)


def data_hash(data: DataSettings) -> str:
    """Content hash of the training and test images."""
    real = known_real(data)
    return fingerprint(real.train.content_hash, real.test.content_hash)


def train_metric_classifier(
    settings: MetricSettings, data: DataSet, show: bool = False, state: Path | None = None
) -> Classifier:
    """The classifier behind the selection metric, trained on the training images; `show` a progress bar.

    `state` is a file that keeps the training every minute; a stopped one goes on from there.
    """
    real = data.train
    rng = torch.Generator(real.images.device).manual_seed(settings.seed)
    network = create_network(
        image_shape=real.image_shape, classes=len(real.classes), rng=rng, **settings.network
    )
    network = network.to(real.images.device)
    with progress_bar(settings.training.epochs, "classifier of the metric", "epoch", show) as bar:
        return train_classifier(
            network,
            real.images,
            real.labels,
            real.normalize,
            settings.training,
            rng,
            lambda epoch, loss: bar.update(epoch - bar.n),
            state,
        )


@out_of_memory("while distilling", ADVICE)
def distill(
    settings: DistillationSettings,
    out: Path | str | None = None,
    device: str = "cpu",
    classifier: Classifier | None = None,
    show: bool = False,
    experts: Path | str | None = None,
    restart: bool = False,
) -> DistilledSet:
    """Distill a set and save it to the folder `out` when given; a run that was stopped goes on.

    Args:
        settings: resolved settings.
        out: folder of the distilled set; its state is kept next to it while the run lasts.
        device: where everything is computed.
        classifier: classifier of the selection metric; trained when not given.
        show: show progress bars on a terminal.
        experts: folder of expert trajectories, for an objective that matches them.
        restart: begin anew instead of going on, whatever state is there.

    Raises:
        HgladError: settings that do not fit the data or the prior, values that are not finite.
    """
    watch, data = Stopwatch(device), load_real(settings.data, device)
    if classifier is None and "classifier" in needs(settings.metric.name):
        classifier = train_metric_classifier(settings.metric, data, show)
    run = make_search(settings, data, classifier, device, experts)
    state_file = None if out is None else Path(out).with_name(f"{Path(out).name}.state")
    checkpoint, start = Checkpoint(state_file, settings.fingerprint), None
    iterates: list[Tensor] = []  # those that were measured, where they are kept
    stage_seconds = [0.0] * len(run.stages)
    if restart:
        checkpoint.clear()
    if saved := checkpoint.load():
        tensors, plain = saved
        start = SearchState.restored(tensors["state"], plain["state"], device)
        iterates, stage_seconds = tensors["iterates"], plain["stage_seconds"]

    state = start

    def save() -> None:
        """Keep the state; where the next step cannot start from it, the last good one stays."""
        if state is not None and state.finite:
            tensors, plain = state.saved()
            tensors = {"state": tensors, "iterates": iterates}
            checkpoint.save(tensors, force=True, state=plain, stage_seconds=stage_seconds)

    steps, begin = sum(stage.steps for stage in run.stages), time.monotonic()
    with progress_bar(steps, "search", "step", show) as bar:
        try:
            for state in run.run(start):  # none is left when the run was stopped behind its last step
                stage_seconds[state.stage] += time.monotonic() - begin
                begin = time.monotonic()
                if settings.keep_iterates and state.decoded is not None:
                    iterates.append(to_uint8(state.decoded).cpu())
                if checkpoint.due:
                    run.finite.look()
                    save()
                bar.update(run.steps_done(state) - bar.n)
        except HgladError:
            save()
            raise
    provenance = (
        watch.provenance()
        | {"seconds": round(checkpoint.seconds, 2)}
        | declared(settings.origin(), settings.components)
    )
    card = {
        "settings": settings.to_dict(),
        "stages": [asdict(stage) for stage in run.stages],
        "stage_seconds": [round(seconds, 3) for seconds in stage_seconds],
        "measurement_seconds": sum(run.measuring) / max(1, len(run.measuring)),
        "boundaries": state.boundaries,
        "classes": len(data.train.classes),
        "distance": state.distance,
        "best": {"stage": state.best[0], "step": state.best[1]},
        "logs": {name: value.item() for name, value in state.logs.items()},
        "history": state.history,
        "data_hash": data_hash(settings.data),
        "prior_hash": prior_hash(settings.prior),
        "provenance": provenance,
    }
    kept = torch.stack(iterates) if settings.keep_iterates else None
    distilled = DistilledSet(state.images.cpu(), run.labels.cpu(), card, kept)
    if out is not None:
        distilled.save(out)
        checkpoint.clear()
    return distilled


def make_search(
    settings: DistillationSettings,
    data: DataSet,
    classifier: Classifier | None,
    device: str = "cpu",
    experts: Path | str | None = None,
) -> Search:
    """The search that settings describe, ready to run; see `distill` for the arguments."""
    classes = len(data.train.classes)
    real, held_out = parts_for(settings.metric, data.train)
    objective = make_objective(settings, real, device, experts)
    metric = create_metric(
        settings.metric.name,
        real,
        classifier=classifier,
        objective=objective,
        held_out=held_out,
        **settings.metric.options,
    )
    prior = _prior(settings, data, device)
    if settings.prior != "pixels":
        own = prior_labels(settings.search.labels, settings.data, settings.prior, prior)
        settings = settings.changed(search=settings.search.changed(labels=own))
    labels = torch.arange(classes, device=device).repeat_interleave(settings.ipc)
    rng = torch.Generator(device).manual_seed(settings.seed)
    args = (prior, objective, metric, real, labels, settings.kind, settings.search, rng, step_flops(prior))
    return Search(*args)


def parts_for(metric: MetricSettings, train: RealData) -> tuple[RealData, RealData | None]:
    """Training images for the search, and those that a metric keeps for itself, if it does."""
    if "held_out" not in needs(metric.name):
        return train, None
    return train.split(metric.held_out, metric.seed)


def planned_stages(settings: DistillationSettings, device: str = "cpu") -> tuple[Stage, ...]:
    """Stage table of a run, without running it."""
    prior = _prior(settings, known_real(settings.data), device)
    return plan_stages(settings.kind, settings.search, prior.layers, step_flops(prior))


def make_objective(
    settings: DistillationSettings, real: RealData, device: str = "cpu", experts: Path | str | None = None
) -> Objective:
    """The matching objective that settings describe."""
    surrogate, known = settings.surrogate, OBJECTIVES.options(settings.objective)
    network = create_network(image_shape=real.image_shape, classes=len(real.classes), **surrogate.network).to(
        device
    )
    shared = {"network": network, "augmentation": surrogate.augmentation, "batch_real": surrogate.batch_real}
    if "experts" in known:
        if experts is None:
            raise HgladError(
                f"objective {settings.objective!r} needs expert trajectories: make some with hglad experts "
                "and pass their folder"
            )
        shared["experts"] = Experts(experts, settings.experts.count)
        shared["experts"].check_key(experts_key(settings.experts, surrogate.network, real))
    shared = {name: value for name, value in shared.items() if name in known}
    return create_objective(settings.objective, **shared, **settings.options)


def _prior(settings: DistillationSettings, data: DataSet, device: str) -> Prior:
    if settings.prior == "pixels":
        return PixelPrior(data.train, settings.search.start)
    prior = load_prior(settings.prior, device)
    return prior.set_precision(settings.search.precision).set_truncation(settings.search.truncation)


def prior_labels(labels: tuple[int, ...], data: DataSettings, name: str, prior: Prior) -> tuple[int, ...]:
    """Class of the generator for each class of the data; empty: the same, or the generator has none.

    Raises:
        HgladError: they do not follow from the numbers of classes, or do not exist.
    """
    classes, known = len(known_real(data).train.classes), prior.settings.c_dim
    if known == 0 or (not labels and known == classes):
        return ()
    if not labels and known == 1000:
        labels = IMAGENET_SUBSETS.get(data.name, ())
    if len(labels) != classes or not all(0 <= label < known for label in labels):
        raise HgladError(
            f"search.labels is {list(labels)}: the generator {name} has {known} classes, "
            f"expected one of 0 to {known - 1} for each of the {classes} classes of {data.name}"
        )
    return labels
