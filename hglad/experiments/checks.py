"""Reading a profile, whether it fits its images and generators, and what it comes to for one run."""

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_type_hints

import pydantic
import torch

from hglad.data.datasets import DataSet, RealData, images_are_there, read_record
from hglad.errors import HgladError
from hglad.experiments.plans import EXPERIMENTS, Experiment, experiments_of, parts, plan
from hglad.experiments.runner import run_all
from hglad.experiments.store import Store
from hglad.metrics import METRICS, create_metric
from hglad.networks import NETWORKS, create_network
from hglad.objectives import OBJECTIVES, SHARED, create_objective, needs_experts
from hglad.objectives.experts import Experts
from hglad.paths import PROJECT
from hglad.priors import PRIORS, PixelPrior, Prior, load_prior
from hglad.priors.base import kind_of
from hglad.priors.files import check_obtainable, training_recipe
from hglad.priors.training.train import PriorSettings, fit_to_data
from hglad.registry import Registry
from hglad.search.distillation import (
    DistillationSettings,
    known_real,
    load_real,
    make_objective,
    prior_labels,
)
from hglad.search.stages import plan_stages, step_flops
from hglad.settings import (
    OVERRIDABLE,
    DataSettings,
    ExpertSettings,
    Profile,
    read_plain,
    set_values,
    suggestion,
)

FETCHED = ("cifar10", "cifar100", "imagenette")  # data sets that torchvision downloads


def read_profile(path: Path | str, changes: Mapping[str, Any] | None = None) -> Profile:
    """Read a profile and check it; neither its images nor its generator need to be there.

    Args:
        path: YAML file.
        changes: other values at dotted keys, as `--set` gives them; they have the last word over overrides.

    Raises:
        HgladError: unreadable file, unknown key, wrong type, unknown network or objective, settings that
            contradict each other; names the file.
    """
    values = read_plain(path)
    try:
        return profile_of(values, changes)
    except HgladError as error:
        raise HgladError(f"{path}: {error}") from None


def profile_of(values: Any, changes: Mapping[str, Any] | None = None) -> Profile:
    """A checked profile from plain values; see `read_profile`."""
    profile = Profile.read(_with(values, changes or {}))
    check_names(profile)
    return profile


def _with(values: Any, changes: Mapping[str, Any]) -> Any:
    """Plain values with changes, those that an override can make as a last override.

    What stands for images per class or seeds that a change leaves out goes with them.
    """
    if not isinstance(values, dict) or not changes:
        return values
    values = deepcopy(values)
    set_values(values, changes)
    ipcs, studies = changes.get("sets.ipc"), values.get("studies", {})
    for own in values.get("objectives", {}).values() if ipcs else ():
        own["ipc"] = [ipc for ipc in own.get("ipc", []) if ipc in ipcs]
    overrides = []
    for override in values.get("overrides", []):
        wanted = override.get("when", {}).get("ipc", [])
        wanted = wanted if isinstance(wanted, list) else [wanted]
        if not ipcs or not wanted or set(wanted) & set(ipcs):
            when = {"ipc": [ipc for ipc in wanted if ipc in ipcs]} if ipcs and wanted else {}
            overrides.append(override | {"when": override.get("when", {}) | when})
    for key in [key for key in studies if key.endswith("_seeds")] if "sets.seeds" in changes else []:
        studies[key] = min(studies[key], len(changes["sets.seeds"]))
    last = of_runs(changes)
    return values | {"overrides": [*overrides, *([{"set": last}] if last else [])]}


def of_runs(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Those changes that an override, or a single run, can make."""
    groups = tuple(f"{group}." for group in OVERRIDABLE)
    return {key: value for key, value in changes.items() if key.startswith(groups)}


PARAMETERS = {
    "objectives": "sets.objectives",
    "searches": "sets.searches",
    "ipc": "sets.ipc",
    "seeds": "sets.seeds",
    "steps": "search.steps",
    "repeats": "evaluation.repeats",
    "prior": "prior",
}
"""Parameters of a notebook -> key of the profile."""


@dataclass(frozen=True)
class Opened:
    """An experiment whose results are all there."""

    profile: Profile
    store: Store
    plan: Experiment


def open_experiment(
    name: str, profile: str | Profile = "digits", results: Path | str | None = None, **parameters: Any
) -> Opened:
    """An experiment of a profile; what is missing of its results is computed first.

    Args:
        name: a registered experiment, such as "hierarchical_search".
        profile: name of a file in `configs`, a path to one, or a profile.
        results: folder of the results; None: the profile's.
        parameters: other values, one or a list, by the names of `PARAMETERS`; None keeps the profile's.

    Raises:
        HgladError: unknown experiment, profile or parameter, settings that contradict each other.
    """
    make, changes = EXPERIMENTS.get(name), {}
    for key, value in parameters.items():
        if key not in PARAMETERS:
            raise HgladError(f"unknown parameter '{key}': {suggestion(key, PARAMETERS)}")
        place = PARAMETERS[key]
        single = isinstance(value, str | int) and place.startswith("sets.")
        if value is not None:
            changes[place] = [value] if single else list(value) if isinstance(value, tuple) else value
    if isinstance(profile, Profile):
        profile = profile_of(profile.to_dict(), changes)
    else:
        named = {path.stem: path for path in (PROJECT / "configs").glob("*.yaml")}
        if profile not in named and not Path(profile).is_file():
            raise HgladError(
                f"no profile '{profile}': {suggestion(str(profile), named)} (or a path to a file)"
            )
        profile = read_profile(named.get(profile, profile), changes)
    store, experiment = Store.of_profile(profile.profile, results), make(profile)
    run_all(experiment.tasks(), store)
    return Opened(profile, store, experiment)


# Names of registered members and their options


def check_names(profile: Profile) -> None:
    """Raise `HgladError` for unknown members of registries and their options, and for what misses others."""
    for name in profile.sets.objectives:
        _known("sets.objectives", name, OBJECTIVES.names())
    for name, own in profile.objectives.items():
        _known("objectives", name, OBJECTIVES.names())
        given = [option for option in SHARED if option in OBJECTIVES.options(name)]
        _check_options(f"objectives.{name}.options", OBJECTIVES, name, own.options, given)
        _check_experts(f"objectives.{name}", name, own)
    for name in profile.used_objectives:
        if needs_experts(name) and profile.objective(name).experts is None:
            raise HgladError(
                f"objectives.{name}.experts is missing: {name} matches trajectories of networks that are "
                "trained first; say which, such as {count: 100, epochs: 50}"
            )
    for label, options in profile.networks.items():
        _check_network(f"networks.{label}", options)
    _check_groups("", profile)
    for index, override in enumerate(profile.overrides):
        _check_groups(f"overrides[{index}].set.", profile.with_values(override.set))
    for name in profile.studies.experiments:
        _known("studies.experiments", name, EXPERIMENTS.names())
        if name not in experiments_of(profile):
            raise HgladError(f"studies.experiments has '{name}', which needs {EXPERIMENTS.get(name).needs}")
    for name in profile.studies.parts:
        _known("studies.parts", name, [part.name for part in parts(2)[1:]])
    for objective, kind in product(profile.used_objectives, profile.sets.searches):
        runs_of(profile, objective, kind)


def _check_groups(where: str, profile: Profile) -> None:
    _check_network(f"{where}surrogate.network", profile.surrogate.network)
    _check_network(f"{where}metric.network", profile.metric.network)
    for name in (profile.metric.name, *profile.metric.compared):
        _known(f"{where}metric", name, METRICS.names())
    _check_options(f"{where}metric.options", METRICS, profile.metric.name, profile.metric.options)


def _known(key: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise HgladError(f"{key} has '{name}': {suggestion(name, known)}")


def _check_network(key: str, options: dict[str, Any]) -> None:
    name, own = options["name"], {option: value for option, value in options.items() if option != "name"}
    if ":" in str(name):  # of torchvision or timm: what it makes of its options shows when it is created
        with _named(key):
            NETWORKS.check(name, own)
        return
    _known(f"{key}.name", name, NETWORKS.names())
    _check_options(key, NETWORKS, name, own)


def _check_options(
    key: str, registry: Registry, name: str, options: dict[str, Any], given: Sequence[str] = ()
) -> None:
    """Options that are not known, or of another type than those of the registered class."""
    known = [option for option in registry.options(name) if option not in given]
    factory = registry.get(name)
    hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    for option, value in options.items():
        if option not in known:
            raise HgladError(f"unknown key '{key}.{option}': {suggestion(option, known)}")
        hint = hints.get(option, Any)
        try:
            pydantic.TypeAdapter(hint, config={"arbitrary_types_allowed": True}).validate_python(
                tuple(value) if isinstance(value, list) else value, strict=True
            )
        except pydantic.ValidationError:
            expected = getattr(hint, "__name__", str(hint))
            raise HgladError(f"{key}.{option} is {value!r}: expected {expected}") from None


def _check_experts(key: str, name: str, own: Any) -> None:
    """Whether experts are there where they are set, and long enough."""
    if own.experts is None:
        return
    if not needs_experts(name):
        raise HgladError(f"{key}.experts is set, but {name} takes none: remove it")
    start, further = (
        own.options.get(option, OBJECTIVES.default(name, option, 1))
        for option in ("max_start_epoch", "expert_epochs")
    )
    if start - 1 + further > own.experts.epochs:
        raise HgladError(
            f"{key}.experts.epochs is {own.experts.epochs}: a start below {start} and {further} more need "
            f"{start - 1 + further}"
        )


def runs_of(profile: Profile, objective: str, kind: str) -> list[DistillationSettings]:
    """Settings of a run at each number of images per class, which refuse what a single run cannot do."""
    seed = profile.sets.seeds[0]
    return [DistillationSettings.of(profile, objective, kind, ipc, seed) for ipc in profile.ipcs(objective)]


# Images, networks, generators and searches


def check_profile(profile: Profile) -> None:
    """Whether the images are there and everything fits them: networks, generators, searches, objectives.

    A generator that is missing and has a recipe is judged by that; `hglad run` trains it first.

    Raises:
        HgladError: the first thing that is missing or does not fit, with its key.
    """
    for name in profile.priors:
        check_obtainable("prior" if name == profile.prior else "studies.families", name)
    there = images_are_there(profile.data) or read_record(profile.data) is None
    data = check_images(profile) if there else known_real(profile.data)
    least, name = min(zip(data.train.counts, data.train.classes, strict=True))
    for ipc in profile.sets.ipc:  # random images and herding choose that many real images of a class
        if ipc > least:
            raise HgladError(
                f"sets.ipc has {ipc}: class '{name}' of {data.train.name} has {least} training images"
            )
    networks = {"surrogate.network": profile.surrogate.network, "metric.network": profile.metric.network}
    networks |= {f"networks.{label}": options for label, options in profile.networks.items()}
    for key, options in networks.items():
        with _named(key):
            _network(options, data.train)
    for name in profile.priors:
        _check_generator(profile, name, data)
    for objective in profile.used_objectives:
        for run in runs_of(profile, objective, "pixels") if "pixels" in profile.sets.searches else []:
            _check_stages(run, PixelPrior(data.train, run.search.start))
        if not data.train.images.is_meta:  # with a record alone nothing will be matched
            _check_matching(profile, objective, data.train)


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


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Put the key in front of an error that does not name it."""
    try:
        yield
    except HgladError as error:
        raise HgladError(str(error) if str(error).startswith(key) else f"{key}: {error}") from error


def _network(options: dict[str, Any], real: RealData) -> torch.nn.Module:
    return create_network(image_shape=real.image_shape, classes=len(real.classes), **options)


def _generator(name: str, profile: Profile) -> Prior:
    """The generator, or one without training that the recipe of a missing one describes."""
    recipe = training_recipe(name)
    if recipe is None:
        return load_prior(name)
    settings = PriorSettings.from_yaml(recipe)
    same = all(
        getattr(settings.data, key) == getattr(profile.data, key) for key in ("name", "root", "resolution")
    )
    network = fit_to_data(
        settings.training, known_real(profile.data if same else settings.data).train
    ).generator
    return PRIORS.get(kind_of(network))(network)


def _check_generator(profile: Profile, name: str, data: DataSet) -> None:
    """Size and channels of its images, its classes, and the stages of the searches through it."""
    is_main = name == profile.prior
    with _named("prior" if is_main else "studies.families"):
        generator = _generator(name, profile)
        settings, shape = generator.settings, data.train.image_shape
        made = (settings.img_channels, settings.resolution, settings.resolution)
        if made != shape:
            raise HgladError(f"the generator {name} makes images of {made}, the images of data are {shape}")
    for objective in profile.sets.objectives:
        labels = profile.resolved(objective=objective, search="single").search.labels
        prior_labels(labels, profile.data, name, generator)
        for kind in profile.sets.searches if is_main else ():
            for run in runs_of(profile, objective, kind) if kind != "pixels" else []:
                _check_stages(run, generator)


def _check_stages(run: DistillationSettings, prior: Prior) -> None:
    with _named(f"search ({run.objective}, {run.kind})"):
        flops = step_flops(prior) if run.search.budget == "flops" else None
        plan_stages(run.kind, run.search, prior.layers, flops)
        if run.kind != "pixels":
            prior.set_precision(run.search.precision).set_truncation(run.search.truncation)


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
    few, run = real.select(list(real.offsets[:-1])), runs_of(profile, objective, "pixels")[0]
    with _named(f"objectives.{objective}"):
        if run.experts:
            shared = {"network": _network(run.surrogate.network, real), "experts": ExpertsToCome(run.experts)}
            shared["augmentation"] = run.surrogate.augmentation
            matching = create_objective(objective, **shared, **run.options)
        else:
            matching = make_objective(run, few)
    classifier = _network(run.metric.network, real)
    for name in (run.metric.name, *run.metric.compared):
        options = run.metric.options if name == run.metric.name else {}
        with _named("metric"):
            create_metric(name, few, classifier=classifier, objective=matching, held_out=few, **options)


# What a profile comes to

WORDS = {"classifier": "classifiers", "experts": "experts", "distill": "sets", "measure": "measurements"}
WORDS["evaluate"] = "evaluations"  # what a user calls the tasks of a plan


def summary(profile: Profile) -> str:
    """Experiments of a profile that `check_profile` has passed, and how much they compute from nothing."""
    experiments = f"experiments {', '.join(experiments_of(profile))}"
    if missing := [name for name in profile.priors if training_recipe(name)]:
        return f"{experiments}; {', '.join(missing)} is trained first, the rest is planned after it"
    counts = Counter(task.rule for task in plan(profile))
    return f"{experiments}; " + ", ".join(f"{count} {WORDS[rule]}" for rule, count in counts.items())


def explain(
    path: Path | str, changes: Mapping[str, Any] | None = None, **run: Any
) -> list[tuple[str, Any, str]]:
    """Every value of a profile as it holds for some runs, and where it comes from.

    Args:
        path: YAML file.
        changes: other values at dotted keys, as `--set` gives them.
        run: keys of `When`, such as objective="dm".

    Returns:
        Dotted key, value, and its source: `default`, `protocol`, `profile`, `overrides[2]` or `--set`; not
        the options of objectives that the runs do not have.

    Raises:
        HgladError: as `read_profile` does.
    """
    changes, given, rows = changes or {}, read_plain(path), []
    own = of_runs(changes)
    profile = read_profile(path, {key: value for key, value in changes.items() if key not in own})
    resolved = profile.resolved(**run).with_values(own, "--set ")
    for key, value in _leaves(resolved.model_dump(exclude={"overrides"})):
        if key.startswith("objectives.") and key.split(".")[1] != run.get("objective", key.split(".")[1]):
            continue  # of an objective that these runs do not have
        source = "profile" if _is_given(given, key) else "default"
        if (
            source == "default"
            and key.startswith("evaluation.training.")
            and "protocol" in given["evaluation"]
        ):
            source = "protocol"
        for index, override in enumerate(profile.overrides):
            if override.holds(run) and any(_covers(each, key) for each in override.set):
                source = f"overrides[{index}]"
        if any(_covers(each, key) for each in changes):
            source = "--set"
        rows.append((key, value, source))
    return rows


def _leaves(values: dict[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{where}{name}.")
        else:
            yield f"{where}{name}", list(value) if isinstance(value, tuple) else value


def _covers(own: str, key: str) -> bool:
    return key == own or key.startswith(f"{own}.")


def _is_given(values: Any, key: str) -> bool:
    head, _, inner = key.partition(".")
    return isinstance(values, dict) and head in values and (not inner or _is_given(values[head], inner))
