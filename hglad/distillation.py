"""Distil one set: load what the settings name, run the search, keep the selected iterate."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from hglad import augment, search, training
from hglad import experts as expert_trajectories
from hglad.data import IMAGENET_SUBSETS, DataSet, DataSettings, RealData, load_data
from hglad.distilled import DistilledSet, to_uint8
from hglad.errors import HgladError
from hglad.experts import Experts, ExpertSettings, experts_key
from hglad.metrics import METRICS, Metric, create_metric
from hglad.networks import NETWORKS, Classifier, create_network
from hglad.objectives import OBJECTIVES, Objective, create_objective
from hglad.priors import PRIORS, PixelPrior, Prior, load_prior, pixels, prior_card, prior_hash
from hglad.profile import MetricSettings, Profile, SurrogateSettings, changed
from hglad.progress import progress_bar
from hglad.provenance import Stopwatch
from hglad.search import KINDS, Search, SearchSettings, SearchState, load_state, save_state
from hglad.settings import fingerprint, suggestion, to_dict
from hglad.storage import read_metadata, read_tensors
from hglad.training import train_classifier

SAVE_EVERY = 30  # seconds between two saved states
WITHOUT_GENERATOR = {key: getattr(SearchSettings, key) for key in ("average", *search.LATER)}
"""Search settings that mean something with a generator only, as pixels take them."""


@dataclass(frozen=True)
class DistillationSettings:
    """Resolved settings of one run."""

    data: DataSettings
    """Real images."""
    prior: str
    """Generator, or `pixels`."""
    search: SearchSettings
    """Optimisation of the latents."""
    surrogate: SurrogateSettings = field(default_factory=SurrogateSettings)
    """Network and batches of the matching objective."""
    metric: MetricSettings = field(default_factory=MetricSettings)
    """Selection of the iterate."""
    objective: str = "dm"
    """Matching objective."""
    kind: str = "hierarchical"
    """Search: `pixels`, `single` or `hierarchical`."""
    ipc: int = 1
    """Images per class."""
    seed: int = 0
    """Seed of every draw of the run."""
    keep_iterates: bool = False
    """Keep the images of every measured iterate, for the study of the metric."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the objective itself."""
    experts: ExpertSettings | None = None
    """Expert trajectories of the objective."""

    def __post_init__(self):
        if self.kind not in KINDS:
            raise HgladError(f"unknown search '{self.kind}': {suggestion(self.kind, KINDS)}")
        if self.ipc < 1:
            raise HgladError(f"ipc is {self.ipc}: expected at least 1 image per class")
        if self.seed < 0:
            raise HgladError(f"seed is {self.seed}: expected 0 or a positive whole number")
        if "experts" not in OBJECTIVES.options(self.objective):
            object.__setattr__(self, "experts", None)
        elif self.experts is None:
            object.__setattr__(self, "experts", ExpertSettings())

    @classmethod
    def of(cls, profile: Profile, objective: str, kind: str, ipc: int, seed: int, **changes) -> Self:
        """Settings of one run of a profile; `changes` replace fields, `layer` the split point of `single`."""
        own = profile.objective(objective)
        settings = changed(profile.search, own.search, f"surrogate.objectives.{objective}.search.")
        surrogate = replace(profile.surrogate, objectives={})  # resolved here
        if own.augmentation is not None:
            surrogate = replace(surrogate, augmentation=own.augmentation)
        if "layer" in changes:
            settings = replace(settings, layer=changes.pop("layer"))
        if kind == "pixels":
            settings = replace(settings, **WITHOUT_GENERATOR)
        prior = "pixels" if kind == "pixels" else profile.prior
        if prior is None:
            raise HgladError(
                f"profile {profile.profile!r} has no prior for the search {kind!r}: take pixels or name one"
            )
        return cls(
            profile.data,
            prior,
            settings,
            surrogate,
            profile.metric,
            objective,
            kind,
            ipc,
            seed,
            options=own.options,
            experts=own.experts,
            **changes,
        )

    @property
    def fingerprint(self) -> str:
        """Key of the result: settings, data, prior and versions of the algorithms; not where files lie."""
        used = asdict(self)
        del used["data"], used["prior"]  # their hashes say what they hold
        used["metric"].pop("compared")
        used["surrogate"].pop("objectives")
        for key in ("options", "experts"):  # absent where there are none, as before they could be set
            if not used[key]:
                del used[key]
        del used["search"]["memory"]  # moves the last bits only
        for key in search.LATER:
            if getattr(self.search, key) == getattr(SearchSettings, key):
                del used["search"][key]
        if self.kind != "single":
            used["search"].pop("layer")
        return fingerprint(used, data_hash(self.data), prior_hash(self.prior), self._versions())

    def _versions(self) -> dict[str, int]:
        """Versions of the algorithms that make this result."""
        return {
            "search": search.VERSION,
            "augment": augment.VERSION,
            "training": training.VERSION,
            "prior": pixels.VERSION
            if self.prior == "pixels"
            else PRIORS.version(prior_card(self.prior)["kind"]),
            "objective": OBJECTIVES.version(self.objective),
            "metric": METRICS.version(self.metric.name),
            "surrogate": NETWORKS.version(self.surrogate.network["name"]),
            "classifier": NETWORKS.version(self.metric.network["name"]),
        } | ({"experts": expert_trajectories.VERSION} if self.experts else {})


def load_real(data: DataSettings, device: str = "cpu") -> DataSet:
    """The data set of a profile, kept in memory."""
    return _load_real(data, device)


@lru_cache(maxsize=2)
def _load_real(data: DataSettings, device: str) -> DataSet:
    return load_data(data.name, data.root, data.resolution, device=device)


def data_hash(data: DataSettings) -> str:
    """Content hash of the training and test images."""
    real = load_real(data)
    return fingerprint(real.train.content_hash, real.test.content_hash)


def train_metric_classifier(settings: MetricSettings, data: DataSet, show: bool = False) -> Classifier:
    """The classifier behind the selection metric, trained on the training images; `show` a progress bar."""
    real = data.train
    rng = torch.Generator(real.images.device).manual_seed(settings.seed)
    network = create_network(
        image_shape=real.image_shape, classes=len(real.classes), generator=rng, **settings.network
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
            lambda epoch, loss: bar.update(),
        )


def distill(
    settings: DistillationSettings,
    out: Path | str | None = None,
    device: str = "cpu",
    classifier: Classifier | None = None,
    show: bool = False,
    experts: Path | str | None = None,
) -> DistilledSet:
    """Distil a set and save it to the folder `out` when given; a run that was stopped goes on.

    Args:
        settings: resolved settings.
        out: folder of the distilled set; its state is kept beside it while the run lasts.
        device: where everything is computed.
        classifier: classifier of the selection metric; trained when not given.
        show: show progress bars on a terminal.
        experts: folder of expert trajectories, for an objective that matches them.

    Raises:
        HgladError: settings that do not fit the data or the prior, values that are not finite.
    """
    data = load_real(settings.data, device)
    classifier = classifier or train_metric_classifier(settings.metric, data, show)
    metric = create_metric(settings.metric.name, classifier, data.train)
    run = _search(settings, data, metric, device, experts)
    state_file = None if out is None else Path(out).with_name(f"{Path(out).name}.state")
    progress = _Progress(state_file, settings.fingerprint, settings.keep_iterates, device)
    state = start = progress.load()
    with progress_bar(settings.search.steps, "search", "step", show) as bar, progress.kept_on_error():
        for state in run.run(start):  # none is left when the run was stopped behind its last step
            progress.note(state, run.finite.look)
            bar.update(run.steps_done(state) - bar.n)
    card = {
        "settings": to_dict(settings),
        "stages": [asdict(stage) for stage in run.stages],
        "distance": state.distance,
        "best": {"stage": state.best[0], "step": state.best[1]},
        "logs": {name: value.item() for name, value in state.logs.items()},
        "history": state.history,
        "data_hash": data_hash(settings.data),
        "prior_hash": prior_hash(settings.prior),
        "provenance": progress.provenance(),
    }
    distilled = DistilledSet(state.images.cpu(), run.labels.cpu(), card, progress.iterates())
    if out is not None:
        distilled.save(out)
        progress.clear()
    return distilled


def _search(
    settings: DistillationSettings, data: DataSet, metric: Metric, device: str, experts: Path | str | None
) -> Search:
    real, classes = data.train, len(data.train.classes)
    objective = _objective(settings, real, device, experts)
    prior = _prior(settings, data, device)
    settings = replace(settings, search=replace(settings.search, labels=_prior_labels(settings, data, prior)))
    labels = torch.arange(classes, device=device).repeat_interleave(settings.ipc)
    rng = torch.Generator(device).manual_seed(settings.seed)
    return Search(prior, objective, metric, real, labels, settings.kind, settings.search, rng)


def _objective(
    settings: DistillationSettings, real: RealData, device: str, experts: Path | str | None
) -> Objective:
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


def _prior_labels(settings: DistillationSettings, data: DataSet, prior: Prior) -> tuple[int, ...]:
    """Class of the generator for each class of the data.

    Raises:
        HgladError: they do not follow from the numbers of classes, or do not exist.
    """
    classes, labels = len(data.train.classes), settings.search.labels
    if settings.prior == "pixels" or prior.settings.c_dim == 0:
        return ()
    known = prior.settings.c_dim
    if not labels and known == classes:
        return ()
    if not labels and known == 1000:
        labels = IMAGENET_SUBSETS.get(settings.data.name, ())
    if len(labels) != classes or not all(0 <= label < known for label in labels):
        raise HgladError(
            f"search.labels is {list(labels)}: the generator {settings.prior} has {known} classes, "
            f"expected one of 0 to {known - 1} for each of the {classes} classes of {settings.data.name}"
        )
    return labels


class _Progress:
    """Saves the state now and then, counts the time over all parts of a run, collects kept iterates."""

    def __init__(self, file: Path | None, key: str, keep_iterates: bool, device: str):
        self.file, self.key, self.keep = file, key, keep_iterates
        self.kept: list[Tensor] = []
        self.newest: SearchState | None = None
        self.before, self.watch, self.saved = 0.0, Stopwatch(device), time.monotonic()
        self.device = device

    def load(self) -> SearchState | None:
        """The saved state of this very run, where there is one."""
        if self.file is None or not self.file.is_file():
            return None
        metadata = read_metadata(self.file)
        if metadata.get("key") != self.key:
            return None
        self.before = float(metadata["seconds"])
        if self.keep:
            self.kept = list(read_tensors(self.file)["iterates"])
        return load_state(self.file, self.device)

    def note(self, state: SearchState, check: Callable[[], None]) -> None:
        """Keep the iterate where asked to; `check` and save the state when the last one is old enough."""
        if self.keep and state.decoded is not None:
            self.kept.append(to_uint8(state.decoded).cpu())
        self.newest = state
        if self.file is not None and time.monotonic() - self.saved > SAVE_EVERY:
            check()
            self._save(state)

    def _save(self, state: SearchState) -> None:
        if not state.finite:
            return  # the next step says so, and the last good state stays
        extra = {"iterates": torch.stack(self.kept)} if self.keep else {}
        save_state(self.file, state, extra, {"key": self.key, "seconds": str(self.seconds)})
        self.saved = time.monotonic()

    @contextmanager
    def kept_on_error(self) -> Iterator[None]:
        """Save the newest state when the run breaks, if it is good."""
        try:
            yield
        except HgladError:
            if self.file is not None and self.newest is not None:
                self._save(self.newest)
            raise

    @property
    def seconds(self) -> float:
        return self.before + self.watch.seconds

    def iterates(self) -> Tensor | None:
        return torch.stack(self.kept) if self.keep else None

    def provenance(self) -> dict:
        return self.watch.provenance() | {"seconds": round(self.seconds, 2)}

    def clear(self) -> None:
        self.file.unlink(missing_ok=True)
