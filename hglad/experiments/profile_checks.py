"""Whether images, networks, generators and searches of a profile fit each other, before anything runs."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from hglad.data.datasets import DataSet, RealData, images_are_there, read_record
from hglad.errors import HgladError
from hglad.experiments.combinations import runs_of, used_objectives
from hglad.experiments.definitions import experiments_of, plan
from hglad.experiments.profile import Profile
from hglad.metrics import create_metric
from hglad.networks import create_network
from hglad.objectives import Objective, create_objective
from hglad.objectives.experts import Experts
from hglad.priors import PRIORS, PixelPrior, Prior, load_prior
from hglad.priors.base import kind_of
from hglad.priors.files import check_obtainable, training_recipe
from hglad.priors.training.train import PriorSettings, fit_to_data
from hglad.search.distillation import (
    DistillationSettings,
    known_real,
    load_real,
    make_objective,
    prior_labels,
)
from hglad.search.stages import plan_stages, step_flops
from hglad.settings import DataSettings, ExpertSettings

FETCHED = ("cifar10", "cifar100", "imagenette")  # data sets that torchvision downloads


def check_profile(profile: Profile) -> None:
    """Whether the images are there and everything fits them: networks, generators, searches, objectives.

    A generator that is missing and has a recipe is judged by that; `hglad run` trains it first.

    Raises:
        HgladError: the first thing that is missing or does not fit, with its key.
    """
    for name in profile.priors:
        check_obtainable("prior" if name == profile.prior else "studies.families", name)
    data = _known(profile)
    _check_counts(profile, data.train)
    _check_networks(profile, data.train)
    for name in profile.priors:
        _check_generator(profile, name, data)
    for objective in used_objectives(profile):
        for kind in profile.sets["searches"]:
            _check_search(profile, objective, kind, data.train)
        if not data.train.images.is_meta:  # with a record alone nothing will be matched
            _check_matching(profile, objective, data.train)


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Put the key in front of an error that does not name it."""
    try:
        yield
    except HgladError as error:
        raise HgladError(str(error) if str(error).startswith(key) else f"{key}: {error}") from error


def _known(profile: Profile) -> DataSet:
    """The data set, from its record where its images are not there."""
    there = images_are_there(profile.data) or read_record(profile.data) is None
    return check_images(profile) if there else known_real(profile.data)


def check_images(profile: Profile) -> DataSet:
    """The data set with its images, which whatever is to be computed needs.

    Raises:
        HgladError: they are not there or cannot be read; says how to get them.
    """
    data = profile.data
    if data.root is not None and not Path(data.root).is_dir():
        raise HgladError(f"data.root is '{data.root}', no folder seen from {Path.cwd()}: {_how_to_get(data)}")
    try:
        return load_real(data)
    except HgladError as error:
        raise HgladError(f"data: {error}; {_how_to_get(data)}") from error


def _how_to_get(data: DataSettings) -> str:
    if data.name in FETCHED:
        return f"hglad data check {data.name} --root {data.root or 'datasets'} --download fetches it"
    if data.name == "folder":
        return "put images there, {train,test}/<class>/<file> (CIFAR-10 and ImageNette: book/profiles.md)"
    return "hglad data list says what there is"


def _check_counts(profile: Profile, real: RealData) -> None:
    """Random images and herding choose that many real images of a class."""
    least, name = min(zip(real.counts, real.classes, strict=True))
    for ipc in profile.sets["ipc"]:
        if ipc > least:
            raise HgladError(f"sets.ipc has {ipc}: class '{name}' of {real.name} has {least} training images")


def _check_networks(profile: Profile, real: RealData) -> None:
    named = {"surrogate.network": profile.surrogate.network, "metric.network": profile.metric.network}
    named |= {f"networks.{label}": options for label, options in profile.networks.items()}
    for key, options in named.items():
        with _named(key):
            create_network(image_shape=real.image_shape, classes=len(real.classes), **options)


def _generator(name: str, profile: Profile) -> Prior:
    """The generator, or one without training that the recipe of a missing one describes."""
    recipe = training_recipe(name)
    if recipe is None:
        return load_prior(name)
    settings = PriorSettings.from_yaml(recipe)
    own = (settings.data.name, settings.data.root, settings.data.resolution)
    same = own == (profile.data.name, profile.data.root, profile.data.resolution)
    real = known_real(profile.data if same else settings.data).train
    network = fit_to_data(settings.training, real).generator
    return PRIORS.get(kind_of(network))(network)


def _check_generator(profile: Profile, name: str, data: DataSet) -> None:
    """Size and channels of its images, its classes, and the stages of the searches through it."""
    key = "prior" if name == profile.prior else "studies.families"
    with _named(key):
        generator = _generator(name, profile)
        settings, shape = generator.settings, data.train.image_shape
        size = settings.resolution
        made = (settings.img_channels, size, size)
        if made != shape:
            raise HgladError(f"the generator {name} makes images of {made}, the images of data are {shape}")
    kinds = [kind for kind in profile.sets["searches"] if kind != "pixels"] if key == "prior" else []
    for objective in profile.sets["objectives"]:
        prior_labels(profile.searched(objective, "single").labels, profile.data, name, generator)
        for run in (run for kind in kinds for run in runs_of(profile, objective, kind)):
            _check_stages(run, generator)


def _check_search(profile: Profile, objective: str, kind: str, real: RealData) -> None:
    """Stages of a search in pixels; those through a generator are looked at with it."""
    for run in runs_of(profile, objective, kind) if kind == "pixels" else []:
        _check_stages(run, PixelPrior(real, run.search.start))


def _check_stages(settings: DistillationSettings, prior: Prior) -> None:
    search = settings.search
    with _named(f"search ({settings.objective}, {settings.kind})"):
        flops = step_flops(prior) if search.budget == "flops" else None
        plan_stages(settings.kind, search, prior.layers, flops)
        if settings.kind != "pixels":
            prior.set_precision(search.precision).set_truncation(search.truncation)


class ExpertsToCome(Experts):
    """Stands for experts before they are trained: as many, and as long, as their settings say."""

    def __init__(self, settings: ExpertSettings) -> None:
        self.settings, self.folder, self.files = settings, Path(), [Path()] * settings.count

    @property
    def epochs(self) -> int:
        """Epochs that every expert will have trained for."""
        return self.settings.epochs

    def check(self, network: torch.nn.Module) -> None:
        """They will be trained with this network."""


def _check_matching(profile: Profile, objective: str, real: RealData) -> None:
    """Make the objective and the metrics, of one image per class."""
    few = real.select(list(real.offsets[:-1]))
    settings, shape = runs_of(profile, objective, "pixels")[0], {"image_shape": real.image_shape}
    shape["classes"] = len(real.classes)
    with _named(f"surrogate.objectives.{objective}"):
        matching = _objective(settings, few)
    classifier = create_network(**shape, **profile.metric.network)
    for name in (profile.metric.name, *profile.metric.compared):
        options = profile.metric.options if name == profile.metric.name else {}
        with _named("metric"):
            create_metric(name, few, classifier=classifier, objective=matching, held_out=few, **options)


def _objective(settings: DistillationSettings, real: RealData) -> Objective:
    if settings.experts is None:
        return make_objective(settings, real)
    surrogate = settings.surrogate
    network = create_network(image_shape=real.image_shape, classes=len(real.classes), **surrogate.network)
    experts = ExpertsToCome(settings.experts)
    shared = {"network": network, "experts": experts, "augmentation": surrogate.augmentation}
    return create_objective(settings.objective, **shared, **settings.options)


WORDS = {
    "ClassifierTask": "classifiers",
    "ExpertTask": "experts",
    "DistillTask": "sets",
    "MeasureTask": "measurements",
    "EvaluateTask": "evaluations",
}
"""What a user calls the tasks of a plan."""


def summary(profile: Profile) -> str:
    """Experiments of a profile that `check_profile` has passed, and how much they compute from nothing."""
    experiments = f"experiments {', '.join(experiments_of(profile))}"
    missing = [name for name in profile.priors if training_recipe(name)]
    if missing:
        return f"{experiments}; {', '.join(missing)} is trained first, the rest is planned after it"
    counts = Counter(type(task).__name__ for task in plan(profile))
    return f"{experiments}; " + ", ".join(f"{count} {WORDS[kind]}" for kind, count in counts.items())
