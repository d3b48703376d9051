"""A profile: one YAML file whose keys are also the parameters of every notebook."""

import inspect
from dataclasses import dataclass
from itertools import product
from typing import Any

from hglad.errors import HgladError
from hglad.experiments.value_checks import (
    check_augmentation,
    check_counts,
    check_names,
    check_network,
    check_once,
    check_options,
    check_whole,
)
from hglad.metrics import METRICS
from hglad.objectives import OBJECTIVES, SHARED
from hglad.settings import (
    KINDS,
    DataSettings,
    EvaluationSettings,
    MetricSettings,
    ObjectiveSettings,
    SearchSettings,
    Studies,
    SurrogateSettings,
    TrainingSettings,
    suggestion,
)


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
        self._check_metric()
        check_network("surrogate.network", self.surrogate.network)
        check_augmentation("surrogate.augmentation", self.surrogate.augmentation)
        check_counts("surrogate", self.surrogate, {}, 1)
        check_counts("evaluation", self.evaluation, {"full_set_seeds": 0}, 1)
        if not self.networks:
            raise HgladError(f"networks is {self.networks!r}: expected a label with {{name: convnet}}")
        for label, options in self.networks.items():
            check_network(f"networks.{label}", options)
        for name in self.objectives:
            self.objective(name)
        for label, changes in self.evaluation.networks.items():
            check_names("evaluation.networks", [label], self.networks)
            changed(self.evaluation.training, changes, f"evaluation.networks.{label}.")
        check_names("studies.objectives", self.studies.objectives, self.sets["objectives"])
        self._check_prior()

    def _check_metric(self) -> None:
        metric = self.metric
        check_names("metric", [metric.name, *metric.compared], METRICS.names())
        known = METRICS.options(metric.name)
        check_options("metric.options", METRICS.factories[metric.name], metric.options, known)
        check_once("metric.compared", metric.compared)
        check_whole("metric.seed", [metric.seed], 0)
        check_network("metric.network", metric.network)

    def _check_prior(self) -> None:
        """What cannot be without a generator."""
        if self.prior is not None:
            return
        if not set(self.sets["searches"]) <= {"pixels"}:
            found = self.sets["searches"]
            raise HgladError(
                f"sets.searches is {found} without a prior: expected ['pixels'], or name a prior"
            )
        sampled = [name for name in self.studies.baselines if name.startswith("samples")]
        if sampled:
            raise HgladError(
                f"studies.baselines has '{sampled[0]}' without a prior: name one or leave it out"
            )

    @property
    def priors(self) -> list[str]:
        """Generators that the runs take, the profile's own first, each once."""
        own = [] if self.prior is None else [self.prior]
        return list(dict.fromkeys([*own, *self.studies.families]))

    @property
    def objectives(self) -> dict[str, Any]:
        """Objectives that the profile sets up, by name."""
        return self.surrogate.objectives

    def objective(self, name: str) -> ObjectiveSettings:
        """Settings of an objective; one that the profile does not name has none of its own.

        Raises:
            HgladError: unknown objective, key or option, a value of another type.
        """
        key = f"surrogate.objectives.{name}"
        known = [option for option in OBJECTIVES.options(name) if option not in SHARED]
        settings = ObjectiveSettings.read(self.objectives.get(name, {}), f"{key}.")
        check_options(f"{key}.options", OBJECTIVES.factories[name], settings.options, known)
        check_augmentation(f"{key}.augmentation", settings.augmentation)
        check_whole(f"{key}.ipc", settings.ipc, 1)
        _check_experts(key, name, settings)
        for kind, keys in settings.tuned.items():
            check_names(f"{key}.tuned", [kind], KINDS)
            if not isinstance(keys, dict):
                raise HgladError(f"{key}.tuned.{kind} is {keys!r}: expected a mapping")
        _check_at_ipc(key, settings.at_ipc)
        for kind, ipc in product(KINDS, (None, *settings.at_ipc)):
            self._searched(name, kind, settings, ipc)
        changed(self.evaluation.training, settings.evaluation, f"{key}.evaluation.")
        return settings

    def searched(self, objective: str, kind: str, ipc: int | None = None) -> SearchSettings:
        """Settings of one kind of search with an objective, as they are at any ipc or at this one."""
        return self._searched(objective, kind, self.objective(objective), ipc)

    def _searched(self, objective: str, kind: str, own: ObjectiveSettings, ipc: int | None) -> SearchSettings:
        key = f"surrogate.objectives.{objective}"
        settings = changed(self.search, own.search, f"{key}.search.")
        settings = changed(settings, own.tuned.get(kind, {}), f"{key}.tuned.{kind}.")
        return changed(settings, own.at_ipc.get(ipc, {}), f"{key}.at_ipc.{ipc}.")

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
            check_once(f"sets.{key}", found)
        check_names("sets.searches", self.sets["searches"], KINDS)
        check_names("sets.objectives", self.sets["objectives"], OBJECTIVES.names())
        check_whole("sets.ipc", self.sets["ipc"], 1)
        check_whole("sets.seeds", self.sets["seeds"], 0)


def _check_at_ipc(key: str, at_ipc: dict[int, Any]) -> None:
    check_whole(f"{key}.at_ipc", list(at_ipc), 1)
    for ipc, keys in at_ipc.items():
        if not isinstance(keys, dict):
            raise HgladError(f"{key}.at_ipc.{ipc} is {keys!r}: expected a mapping")
        if "layer" in keys:
            raise HgladError(
                f"{key}.at_ipc.{ipc} has layer {keys['layer']!r}: expected one layer for every ipc, in "
                f"{key}.tuned.single"
            )


def _check_experts(key: str, name: str, settings: ObjectiveSettings) -> None:
    """Whether experts are there where they are set, and long enough."""
    if settings.experts is None:
        return
    parameters = inspect.signature(OBJECTIVES.factories[name]).parameters
    if "experts" not in parameters:
        raise HgladError(f"{key}.experts is set, but {name} takes none: remove it")
    usual = {option: parameters[option].default for option in ("max_start_epoch", "expert_epochs")}
    start, further = ((usual | settings.options)[option] for option in usual)
    if start - 1 + further > settings.experts.epochs:
        raise HgladError(
            f"{key}.experts.epochs is {settings.experts.epochs}: a start below {start} and {further} more "
            f"need {start - 1 + further}"
        )


def changed(settings: Any, changes: dict[str, Any], where: str) -> Any:
    """Settings with some keys changed; raises `HgladError` for an unknown key or another type."""
    if not isinstance(changes, dict):
        raise HgladError(f"{where.rstrip('.')} is {changes!r}: expected a mapping of keys to values")
    return type(settings).read(vars(settings) | changes, where)


SETS = {"objectives": ["dm"], "searches": list(KINDS), "ipc": [1, 10], "seeds": [0, 1, 2]}
SET_TEXTS = {
    "objectives": "Matching objectives of the main table, such as `[dm, dc]`.",
    "searches": f"Searches of the main table, some of {', '.join(f'`{kind}`' for kind in KINDS)}; none where "
    "only baselines are measured.",
    "ipc": "Images per class, such as `[1, 10]`; the studies take the first.",
    "seeds": "Distillation seeds, such as `[0, 1, 2]`; the studies take the first of them.",
}
"""What the keys of `sets` say."""
