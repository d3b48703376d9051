"""A profile: one YAML file whose keys are also the parameters of every notebook."""

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from hglad.augment import Augmentation
from hglad.data import DataSettings
from hglad.errors import HgladError
from hglad.experts import ExpertSettings
from hglad.metrics import METRICS
from hglad.networks import NETWORKS
from hglad.objectives import OBJECTIVES
from hglad.objectives.registry import SHARED
from hglad.protocols import protocol
from hglad.settings import convert, from_dict, later, read_yaml, suggestion
from hglad.stages import KINDS, SearchSettings
from hglad.training import TrainingSettings


@dataclass(frozen=True)
class SurrogateSettings:
    """Network and batches of the matching objective."""

    network: dict[str, Any] = field(default_factory=lambda: {"name": "convnet"})
    """`name` of a registered network and its options."""
    augmentation: str = "color_crop_cutout_flip_scale_rotate"
    """Siamese augmentation strategies (DSA)."""
    batch_real: int = 256
    """Real images per class and step. Source: DC, DM."""
    objectives: dict[str, Any] = field(default_factory=dict)
    """What each objective does otherwise, name to keys of `ObjectiveSettings`; all named are compared."""


@dataclass(frozen=True)
class MetricSettings:
    """Selection metric and the classifier behind it."""

    name: str = "class_relevant"
    """Registered metric that selects the iterate."""
    compared: tuple[str, ...] = ("feature",)
    """Further metrics that the ablation measures on the same iterates."""
    network: dict[str, Any] = field(default_factory=lambda: {"name": "convnet"})
    """Classifier: `name` of a registered network and its options."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """How the classifier is trained on the real set."""
    seed: int = 0
    """Seed of the classifier."""
    options: dict[str, Any] = later(dict)
    """Options of the metric itself, such as `layer` or `normalisation` of class_relevant."""
    held_out: float = later(0.25)
    """Share of the training images that `accuracy` is measured on and its search does not see."""

    def __post_init__(self):
        if not 0 < self.held_out < 1:
            raise HgladError(f"metric.held_out is {self.held_out}: expected a share between 0 and 1")


@dataclass(frozen=True)
class EvaluationSettings:
    """How a distilled set is scored."""

    repeats: int = 5
    """Networks trained per distilled set and architecture. Source: GLaD."""
    protocol: str = "glad"
    """Named protocol, `glad`, `dm` or `dc`, whose values hold where `training` has none."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """Training of each network on the distilled set."""
    networks: dict[str, Any] = field(default_factory=dict)
    """Changes to `training` for some architectures, label of `networks` to keys; GLaD: VGG-11 at 0.0001."""
    full_set: TrainingSettings = field(default_factory=TrainingSettings)
    """Training on the full training set, which has many more steps per epoch."""
    full_set_seeds: int = 3
    """Networks trained on the full training set; 0 leaves this baseline out."""

    @staticmethod
    def complete(values: dict[str, Any]) -> dict[str, Any]:
        """Values with those of the protocol in `training`, for `hglad.settings.from_dict`."""
        own = values.get("training", {})
        if not isinstance(own, dict):
            return values
        return values | {"training": vars(protocol(values.get("protocol", "glad"))) | own}


@dataclass(frozen=True)
class ObjectiveSettings:
    """What one matching objective does otherwise than the rest of the profile says."""

    options: dict[str, Any] = field(default_factory=dict)
    """Options of the objective itself, such as `distance` of dc or `student_steps` of mtt."""
    ipc: tuple[int, ...] = ()
    """Images per class among those of `sets.ipc`, where all would take too long; empty: all."""
    search: dict[str, Any] = field(default_factory=dict)
    """Changes to the keys of `search`."""
    tuned: dict[str, Any] = field(default_factory=dict)
    """Further changes for one kind of search, kind to keys of `search`, as `hglad tune` prints them."""
    augmentation: str | None = None
    """Siamese augmentation in place of that of `surrogate`; none: the same."""
    evaluation: dict[str, Any] = field(default_factory=dict)
    """Changes to the keys of `evaluation.training`."""
    experts: ExpertSettings | None = None
    """Expert trajectories of mtt."""


@dataclass(frozen=True)
class Studies:
    """Size of the studies beside the main table."""

    experiments: tuple[str, ...] = ()
    """Experiments of the profile's book; empty: all that it has settings for."""
    sweep_seeds: int = 3
    """Distillation seeds of each fixed layer in the sweep."""
    families: tuple[str, ...] = ()
    """Further generators whose layers are swept, beside the profile's."""
    ablation_seeds: int = 3
    """Hierarchical runs of each objective whose iterates are all evaluated."""
    matching_seeds: int = 3
    """Distillation seeds of each objective in the study of objectives, at the first ipc."""
    cross_seeds: int = 3
    """Distilled sets per method that meet the other architectures."""
    part_seeds: int = 0
    """Distillation seeds of the paper's search and of it without each of its parts; 0 leaves it out."""
    audit_seeds: int = 0
    """Distillation seeds of the paper's search with each behaviour of the released code; 0 leaves it out."""
    baselines: tuple[str, ...] = ()
    """Sets that nothing was optimised for, beside random images and the full set: `herding`, `k_center`,
    `class_mean`, `samples`, `samples_averaged`; none leaves the study of baselines out."""
    augmentations: tuple[str, ...] = ()
    """Further augmentations of the training on the sets of that study, as `evaluation.training` takes them;
    the empty text is none."""

    def __post_init__(self):
        _check_names("studies.baselines", list(self.baselines), BASELINES)
        for text in self.augmentations:
            Augmentation(text)


@dataclass(frozen=True)
class Profile:
    """Settings of all experiments of one book; see each group for its keys."""

    profile: str
    """Name; results lie in `data/results/<name>`."""
    data: DataSettings
    """Real images."""
    prior: str | None
    """Generator in `data/priors`, or a path to one; none: pixel space only."""
    surrogate: SurrogateSettings
    """Network and batches of the matching objective."""
    search: SearchSettings
    """Optimisation of the latents."""
    metric: MetricSettings
    """Selection of the iterate."""
    evaluation: EvaluationSettings
    """Scoring of a distilled set."""
    networks: dict[str, Any]
    """Architectures of the cross-architecture table, label to `name` and options; the first one is main."""
    sets: dict[str, Any]
    """`objectives`, `searches`, images per class `ipc`, distillation `seeds`."""
    studies: Studies
    """Seeds of the layer sweep, the ablation and the cross-architecture table."""

    def __post_init__(self):
        self._check_sets()
        _check_names("metric", [self.metric.name, *self.metric.compared], METRICS.names())
        for option in self.metric.options:
            if option not in METRICS.options(self.metric.name):
                hint = suggestion(option, METRICS.options(self.metric.name))
                raise HgladError(f"unknown key 'metric.options.{option}': {hint}")
        if not self.networks:
            raise HgladError(f"networks is {self.networks!r}: expected a label with {{name: convnet}}")
        _check_network("surrogate.network", self.surrogate.network)
        _check_network("metric.network", self.metric.network)
        for label, options in self.networks.items():
            _check_network(f"networks.{label}", options)
        Augmentation(self.surrogate.augmentation)
        for name in self.objectives:
            self.objective(name)
        if self.prior is None and not set(self.sets["searches"]) <= {"pixels"}:
            found = self.sets["searches"]
            raise HgladError(
                f"sets.searches is {found} without a prior: expected ['pixels'], or name a prior"
            )
        for label, changes in self.evaluation.networks.items():
            _check_names("evaluation.networks", [label], self.networks)
            changed(self.evaluation.training, changes, f"evaluation.networks.{label}.")
        sampled = [name for name in self.studies.baselines if name.startswith("samples")]
        if sampled and self.prior is None:
            raise HgladError(
                f"studies.baselines has '{sampled[0]}' without a prior: name one or leave it out"
            )
        for group, least in (("surrogate", 1), ("evaluation", 1), ("studies", 0)):
            _check_counts(group, getattr(self, group), least)

    @property
    def objectives(self) -> dict[str, Any]:
        """Objectives that the profile sets up, by name."""
        return self.surrogate.objectives

    def objective(self, name: str) -> ObjectiveSettings:
        """Settings of an objective; one that the profile does not name has none of its own.

        Raises:
            HgladError: unknown objective, key or option, a value of another type.
        """
        known = [option for option in OBJECTIVES.options(name) if option not in SHARED]
        settings = from_dict(
            ObjectiveSettings, self.objectives.get(name, {}), f"surrogate.objectives.{name}."
        )
        for option in settings.options:
            if option not in known:
                hint = suggestion(option, known)
                raise HgladError(f"unknown key 'surrogate.objectives.{name}.options.{option}': {hint}")
        _check_options(name, settings)
        for kind, keys in settings.tuned.items():
            _check_names(f"surrogate.objectives.{name}.tuned", [kind], KINDS)
            if not isinstance(keys, dict):
                raise HgladError(f"surrogate.objectives.{name}.tuned.{kind} is {keys!r}: expected a mapping")
        for kind in KINDS:
            self._searched(name, kind, settings)
        changed(self.evaluation.training, settings.evaluation, f"surrogate.objectives.{name}.evaluation.")
        return settings

    def searched(self, objective: str, kind: str) -> SearchSettings:
        """Settings of one kind of search with an objective."""
        return self._searched(objective, kind, self.objective(objective))

    def _searched(self, objective: str, kind: str, own: ObjectiveSettings) -> SearchSettings:
        key = f"surrogate.objectives.{objective}"
        settings = changed(self.search, own.search, f"{key}.search.")
        return changed(settings, own.tuned.get(kind, {}), f"{key}.tuned.{kind}.")

    def training(self, network: str, objective: str | None = None) -> TrainingSettings:
        """Training of an architecture on a set: the profile's, changed for the objective, then for it."""
        own = self.objective(objective).evaluation if objective else {}
        settings = changed(self.evaluation.training, own, "evaluation.")
        return changed(settings, self.evaluation.networks.get(network, {}), f"evaluation.networks.{network}.")

    def ipcs(self, objective: str) -> list[int]:
        """Images per class of an objective."""
        return list(self.objective(objective).ipc) or self.sets["ipc"]

    def _check_sets(self) -> None:
        for key in self.sets:
            if key not in SETS:
                raise HgladError(f"unknown key 'sets.{key}': {suggestion(key, SETS)}")
        for key, example in SETS.items():
            found = self.sets.get(key)
            if not isinstance(found, list) or not (found or key == "searches"):
                raise HgladError(f"sets.{key} is {found!r}: expected a list such as {example}")
        _check_names("sets.searches", self.sets["searches"], KINDS)
        _check_names("sets.objectives", self.sets["objectives"], OBJECTIVES.names())
        _check_whole("sets.ipc", self.sets["ipc"], 1)
        _check_whole("sets.seeds", self.sets["seeds"], 0)


def _check_options(name: str, settings: ObjectiveSettings) -> None:
    """Types of the options, and whether experts are there and long enough for them."""
    factory, key = OBJECTIVES.factories[name], f"surrogate.objectives.{name}"
    hints = get_type_hints(factory.__init__)
    for option, value in settings.options.items():
        convert(hints[option], value, f"{key}.options.{option}")
    if settings.experts is None:
        return
    parameters = inspect.signature(factory).parameters
    if "experts" not in parameters:
        raise HgladError(f"{key}.experts is set, but {name} takes none: remove it")
    usual = {option: parameters[option].default for option in ("max_start_epoch", "expert_epochs")}
    start, further = (
        (usual | settings.options)["max_start_epoch"],
        (usual | settings.options)["expert_epochs"],
    )
    if start - 1 + further > settings.experts.epochs:
        raise HgladError(
            f"{key}.experts.epochs is {settings.experts.epochs}: a start below {start} and {further} more "
            f"need {start - 1 + further}"
        )


def changed(settings: Any, changes: dict[str, Any], where: str) -> Any:
    """Settings with some keys changed; raises `HgladError` for an unknown key or another type."""
    if not isinstance(changes, dict):
        raise HgladError(f"{where.rstrip('.')} is {changes!r}: expected a mapping of keys to values")
    return from_dict(type(settings), vars(settings) | changes, where)


BASELINES = ("herding", "k_center", "class_mean", "samples", "samples_averaged")
SETS = {"objectives": ["dm"], "searches": list(KINDS), "ipc": [1, 10], "seeds": [0, 1, 2]}


def _check_names(key: str, names: list, known) -> None:
    for name in names:
        if name not in known:
            raise HgladError(f"{key} has '{name}': {suggestion(name, known)}")


def _check_network(key: str, options: Any) -> None:
    if not isinstance(options, dict) or "name" not in options:
        raise HgladError(f"{key} is {options!r}: expected a mapping with a name, such as {{name: convnet}}")
    if ":" in str(options["name"]):
        return _check_library(key, options)
    _check_names(f"{key}.name", [options["name"]], NETWORKS.names())
    known = NETWORKS.options(options["name"])
    for option in options.keys() - {"name"}:
        if option not in known:
            raise HgladError(f"unknown key '{key}.{option}': {suggestion(option, ['name', *known])}")


def _check_library(key: str, options: dict[str, Any]) -> None:
    """A network of torchvision or timm; what the model makes of its options shows when it is created."""
    try:
        library, model = NETWORKS.library(options["name"])
        library.check(model, options.keys() - {"name"})
    except HgladError as error:
        raise HgladError(f"{key}: {error}") from error


def _check_whole(key: str, values: list, least: int) -> None:
    for value in values:
        if type(value) is not int or value < least:
            raise HgladError(f"{key} has {value!r}: expected whole numbers of at least {least}")


def _check_counts(group: str, settings: Any, least: int) -> None:
    for key, value in vars(settings).items():
        if isinstance(value, int):
            _check_whole(f"{group}.{key}", [value], 0 if key == "full_set_seeds" else least)


def profile_from(**parameters: Any) -> Profile:
    """Profile from the parameters of a notebook.

    Raises:
        HgladError: unknown key (with the nearest one), wrong type, unknown network or objective.
    """
    return from_dict(Profile, parameters)


def read_profile(path: Path | str) -> Profile:
    """Read and check a profile.

    Raises:
        HgladError: unreadable file, unknown key, wrong type, unknown network or objective.
    """
    return read_yaml(Profile, path)
