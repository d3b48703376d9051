"""The paper's experiments as plans: a profile in, the tasks of one page of the book out.

A new experiment is a function under `@experiment`, in any package under the entry point `hglad`. "Released"
is the authors' public code, commit a6a5d4c of H-PD, as far as it was read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from hglad.errors import HgladError
from hglad.evaluation.sets import IMAGES, images_left_out, leave_images_out
from hglad.experiments.runner import missing_tasks, required, sets_behind
from hglad.experiments.store import Store
from hglad.experiments.tasks import ClassifierTask, DistillTask, EvaluateTask, MeasureTask, Task, marks_by_key
from hglad.priors import load_prior
from hglad.registry import Registry
from hglad.search.distillation import DistillationSettings
from hglad.settings import Profile, suggestion

EXPERIMENTS = Registry("experiment")

# Searches as the paper describes them and as its public code performs them

RATES = {"dc": (1.0, 0.001), "dm": (10.0, 0.01), "mtt": (10_000.0, 10.0)}
"""Published rates of f (and pixels) and of w, for StyleGAN-XL at 128 pixels."""
RELEASED_STEPS = {"dc": 101, "dm": 11, "mtt": 101}
"""Steps of each stage in the released code, whose loops begin at 0 and include the last number."""
SAME_STAGES = {
    "search.budget": "steps",
    "search.shares": [],
    "search.stage_lr_f": [],
    "search.stage_lr_w": [],
}
"""No stage is longer or faster than another."""


def paper(split_points: int, ipc: int = 1) -> dict[str, Any]:
    """The paper's search: latents alone, every layer, pixels; the best iterate by its distance.

    Args:
        split_points: those of the generator, pixel space included.
        ipc: images per class; only with one do averaged latents make sense.

    Returns:
        Changes to a profile, by dotted key.
    """
    return SAME_STAGES | {
        "search.latent_stage": True,
        "search.stages": list(range(1, split_points)),
        "search.average": 1000 if ipc == 1 else 1,
        "search.clip": 10.0,
        "search.selection": "metric",
        "search.stage_start": "best",
        "search.styles": "kept",
        "search.normalize_generated": True,
        "metric.name": "class_relevant",
        "metric.options": {},
    }


def released(split_points: int, ipc: int = 1) -> dict[str, Any]:
    """What the released code does; see `paper` for arguments and result.

    Its stages run from the first layer to the one before the last: neither the latents alone nor pixels. Its
    history of iterates keeps references to tensors that the optimizer changes in place, so that its best
    iterate is always the last, whatever the distance says; the distance itself compares features of different
    untrained networks. Generated images are not normalized, real ones are. Averaged latents are off unless
    asked for.
    """
    return paper(split_points, ipc) | {
        "search.latent_stage": False,
        "search.stages": list(range(1, split_points - 1)),
        "search.average": 1,
        "search.selection": "last",
        "search.stage_start": "last",
        "search.normalize_generated": False,
        "metric.name": "released_feature",
    }


PRESETS = {"paper": paper, "released": released}


def preset(name: str, objective: str, split_points: int, ipc: int = 1) -> dict[str, Any]:
    """A preset with the rates and steps that belong to it, those of StyleGAN-XL; an unknown one is an error.

    The steps of a stage are the released code's in both presets: the paper gives its cost as GLaD's time.
    """
    if name not in PRESETS:
        raise HgladError(f"unknown preset '{name}': {suggestion(name, PRESETS)}")
    if objective not in RATES:
        raise HgladError(f"no published rates of objective '{objective}': {suggestion(objective, RATES)}")
    changes, (lr_f, lr_w) = PRESETS[name](split_points, ipc), RATES[objective]
    stages = len(changes["search.stages"]) + changes["search.latent_stage"]
    rates = {"lr_features": lr_f, "lr_pixels": lr_f, "lr_latents": lr_w, "rates": "absolute"}
    rates["steps"] = stages * RELEASED_STEPS[objective]
    return changes | {f"search.{key}": value for key, value in rates.items()}


# The paper's search with one part taken away, or replaced by what the released code does

ALL_PARTS = "all parts"
RELEASED = "as released, all together"
LAST = "last iterate, no selection"
LAST_ITERATE = {"search.selection": "last", "search.stage_start": "last"}


@dataclass(frozen=True)
class Variant:
    """A hierarchical search that differs in one part, at the profile's rates and budget."""

    name: str
    """For tables and figures."""
    changes: dict[str, Any]
    """Changes to a profile, by dotted key."""
    kind: str = "hierarchical"
    """Kind of search."""
    rates_of: str = "hierarchical"
    """Kind of search whose rates it takes."""


def parts(split_points: int, ipc: int = 1) -> list[Variant]:
    """The paper's search, then without one of its parts each, then without the hierarchy.

    Of the last three, two keep start and selection: one layer of the generator only, and pixels only, which
    start from the generator's images. The third is distillation in pixels as it is without a generator.
    """
    whole = paper(split_points, ipc)
    stages = whole["search.stages"]
    changes = {
        ALL_PARTS: {},
        "one latent, not averaged": {"search.average": 1},
        "no latent stage": {"search.latent_stage": False, "search.stages": [0, *stages]},
        "no pixel stage": {"search.stages": stages[:-1]},
        "a stage starts at the last iterate": {"search.stage_start": "last"},
        LAST: LAST_ITERATE,
        "as much work of the generator as GLaD": {"search.budget": "flops"},
        "no class weighting": {"metric.name": "feature"},
        "untrained features": {"metric.name": "random_feature"},
    }
    flat = whole | {"search.latent_stage": False, "search.stages": [split_points - 1]}
    in_pixels = {key: value for key, value in whole.items() if key.startswith("metric.")}
    return [
        *(Variant(name, whole | change) for name, change in changes.items()),
        Variant("GLaD's layer alone", whole, "single", "single"),
        Variant("pixels alone", flat, rates_of="pixels"),
        Variant("pixels from real images", in_pixels, "pixels", "pixels"),
    ]


def audit(split_points: int, ipc: int = 1) -> list[Variant]:
    """The paper's search, then with one behavior of the released code each, then with all of them."""
    whole, theirs = paper(split_points, ipc), released(split_points, ipc)
    changes = {
        ALL_PARTS: {},
        LAST: LAST_ITERATE,
        "no class weighting": {"metric.name": "feature"},
        "features of different networks": {"metric.name": theirs["metric.name"]},
        "generated images not normalized": {"search.normalize_generated": False},
        "neither latent nor pixel stage": {
            "search.latent_stage": False,
            "search.stages": theirs["search.stages"],
        },
        "features not clipped": {"search.clip": None},
        "last iterate, features not clipped": LAST_ITERATE | {"search.clip": None},
        "one latent, not averaged": {"search.average": 1},
        RELEASED: theirs,
    }
    return [Variant(name, whole | change) for name, change in changes.items()]


# Experiments


@dataclass
class Experiment:
    """Tasks of one page."""

    profile: Profile
    evaluations: list[EvaluateTask] = field(default_factory=list)
    measures: list[MeasureTask] = field(default_factory=list)
    families: dict[str, list[EvaluateTask]] = field(default_factory=dict)
    """Layer sweeps of further generators, by the generator's name."""
    variants: list[EvaluateTask] = field(default_factory=list)
    """Searches that differ from the paper's in one part."""
    parts: dict[str, "Experiment"] = field(default_factory=dict)
    """Experiments that this one looks back on, by name."""

    @property
    def all_evaluations(self) -> list[EvaluateTask]:
        """Evaluations, those of further generators, of variants and of parts included."""
        families = (task for sweep in self.families.values() for task in sweep)
        of_parts = (task for part in self.parts.values() for task in part.all_evaluations)
        return [*self.evaluations, *families, *self.variants, *of_parts]

    @property
    def shown(self) -> list[EvaluateTask | MeasureTask]:
        """Evaluations and measurements whose results it shows."""
        return [*self.all_evaluations, *self.measures, *(m for p in self.parts.values() for m in p.measures)]

    def tasks(self) -> list[Task]:
        """What it shows and everything that this needs."""
        return required(self.shown)

    def rows(self, store: Store) -> pd.DataFrame:
        """Tidy rows: objective, method, layer, ipc, seed, network, repeat, accuracy."""
        return store.rows(marks_by_key(self.evaluations or self.variants))


def experiment(needs: str, fits: Callable[[Profile], bool]) -> Callable:
    """Decorator that enters a function from a profile to its `Experiment` under the function's name.

    Args:
        needs: what a profile must have for it, in words.
        fits: whether a profile has that.
    """

    def enter(function: Callable[[Profile], Experiment]) -> Callable[[Profile], Experiment]:
        function.needs, function.fits = needs, fits
        return EXPERIMENTS.register(function.__name__)(function)

    return enter


def experiments_of(profile: Profile) -> list[str]:
    """Experiments that a profile has the settings for: without a prior the objectives in pixel space only."""
    asked = profile.studies.experiments or tuple(EXPERIMENTS.factories)
    return [name for name, make in EXPERIMENTS.factories.items() if name in asked and make.fits(profile)]


def plan(profile: Profile, only: str | None = None) -> list[Task]:
    """Tasks of all experiments of a profile, or of the one named `only`; an unknown one is a `HgladError`."""
    chosen = [EXPERIMENTS.get(name) for name in ([only] if only else experiments_of(profile))]
    return required([task for make in chosen for task in make(profile).shown])


@lru_cache
def layers_of(prior: str) -> tuple[str, ...]:
    """Names of the split points of a generator, pixel space included."""
    return load_prior(prior).layers


def evaluation_of(
    profile: Profile, settings: DistillationSettings, network: str | None = None, **marks: Any
) -> EvaluateTask:
    """The evaluation of a run under the protocol of its objective, on a network of the profile, the main one.

    `marks` are further fields of `EvaluateTask`.
    """
    network = network or profile.main_network
    run = {"objective": settings.objective, "search": settings.kind, "ipc": settings.ipc}
    return EvaluateTask(
        profile.data, settings.kind, settings.ipc, settings.seed, network, profile.networks[network],
        profile.evaluation.repeats, profile.training(network, **run), settings, **marks,
    )  # fmt: skip


def _run(profile: Profile, objective: str, kind: str, ipc: int, seed: int, changes: dict | None = None):
    keep = kind == "hierarchical" and ipc == profile.sets.ipc[0]
    return DistillationSettings.of(profile, objective, kind, ipc, seed, changes, keep)


def _searches(profile: Profile, kinds: Sequence[str], network: str) -> list[EvaluateTask]:
    return [
        evaluation_of(profile, _run(profile, objective, kind, ipc, seed), network)
        for objective in profile.sets.objectives
        for kind in kinds
        for ipc in profile.ipcs(objective)
        if ipc in profile.sets.ipc
        for seed in profile.sets.seeds
    ]


def _baseline(
    profile: Profile, network: str, method: str, ipc: int, seed: int, **source: Any
) -> EvaluateTask:
    training, repeats = profile.training(network, ipc=ipc), profile.evaluation.repeats
    return EvaluateTask(
        profile.data, method, ipc, seed, network, profile.networks[network], repeats, training, **source
    )


def _random(profile: Profile, network: str) -> list[EvaluateTask]:
    sets = profile.sets
    return [_baseline(profile, network, "random", ipc, seed) for ipc in sets.ipc for seed in sets.seeds]


def _full(profile: Profile, network: str) -> list[EvaluateTask]:
    evaluation, options = profile.evaluation, profile.networks[network]
    return [
        EvaluateTask(profile.data, "full", None, seed, network, options, 1, evaluation.full_set)
        for seed in range(evaluation.full_set_seeds)
    ]


def _briefly(profile: Profile) -> Profile:
    """The profile with as many networks per set as its studies train."""
    repeats = profile.studies.repeats or profile.evaluation.repeats
    return profile.model_copy(update={"evaluation": profile.evaluation.changed(repeats=repeats)})


def _with_sets(profile: Profile, **sets: Any) -> Profile:
    return profile.model_copy(update={"sets": profile.sets.changed(**sets)})


def studied(profile: Profile) -> Sequence[str]:
    """Objectives of the studies of the search."""
    return profile.studies.objectives or profile.sets.objectives


def glad_layer(profile: Profile, objective: str | None = None) -> int:
    """Split point of the single-layer search with an objective, by default the first."""
    objective = objective or profile.sets.objectives[0]
    return profile.resolved(objective=objective, search="single").search.layer


def _has_hierarchy(profile: Profile) -> bool:
    return "hierarchical" in profile.sets.searches


@experiment("an objective in objectives", lambda profile: bool(profile.objectives))
def matching_objectives(profile: Profile) -> Experiment:
    """Every objective that the profile sets up, in pixel space at the first ipc, and random real images."""
    seeds = profile.sets.seeds[: profile.studies.matching_seeds]
    part = _with_sets(profile, objectives=tuple(profile.objectives), ipc=profile.sets.ipc[:1], seeds=seeds)
    network = profile.main_network
    return Experiment(profile, _searches(part, ["pixels"], network) + _random(part, network))


@experiment("a prior", lambda profile: profile.prior is not None)
def glad_baseline(profile: Profile) -> Experiment:
    """Pixels and GLaD's fixed layer at every ipc, the sweeps over layers at the first ipc, the baselines."""
    network, kinds = profile.main_network, [kind for kind in profile.sets.searches if kind != "hierarchical"]
    baselines = _random(profile, network) + _full(profile, network)
    families = {
        prior: [
            replace(task, generator=prior)
            for task in layer_sweep(profile.model_copy(update={"prior": prior}))
        ]
        for prior in profile.studies.families
    }
    evaluations = _searches(profile, kinds, network) + layer_sweep(profile) + baselines
    return Experiment(profile, evaluations, families=families)


def layer_sweep(profile: Profile) -> list[EvaluateTask]:
    """One fixed layer of the profile's generator each, at the first ipc and objective."""
    objective, ipc = profile.sets.objectives[0], profile.sets.ipc[0]
    return [
        evaluation_of(profile, _run(profile, objective, "single", ipc, seed, {"search.layer": layer}))
        for layer in range(len(layers_of(profile.prior)) - 1)
        for seed in profile.sets.seeds[: profile.studies.sweep_seeds]
    ]


@experiment("hierarchical in sets.searches", _has_hierarchy)
def hierarchical_search(profile: Profile) -> Experiment:
    """All searches at every ipc, with the baselines."""
    network = profile.main_network
    tasks = _searches(profile, profile.sets.searches, network)
    return Experiment(profile, tasks + _random(profile, network) + _full(profile, network))


@experiment(
    "hierarchical in sets.searches, studies.ablation_seeds and studies.part_seeds",
    lambda profile: (
        _has_hierarchy(profile) and min(profile.studies.ablation_seeds, profile.studies.part_seeds) > 0
    ),
)
def metric_ablation(profile: Profile) -> Experiment:
    """Every measured iterate of some hierarchical runs, evaluated; the paper's search without each part."""
    ipc, brief, studies = profile.sets.ipc[0], _briefly(profile), profile.studies
    tasks = [
        evaluation_of(brief, _run(profile, objective, "hierarchical", ipc, seed), iterates=True)
        for objective in studied(profile)
        for seed in profile.sets.seeds[: studies.ablation_seeds]
    ]
    measures = [MeasureTask(task.distilled) for task in tasks]
    asked = (ALL_PARTS, *studies.parts) if studies.parts else [part.name for part in parts(2)]
    without = _variants(profile, partial(_named, parts, asked), studies.part_seeds)
    return Experiment(profile, tasks, measures, variants=without)


def _named(make: Callable[..., list[Variant]], names: Sequence[str], *arguments: int) -> list[Variant]:
    return [variant for variant in make(*arguments) if variant.name in names]


def _variants(profile: Profile, make: Callable[[int, int], list[Variant]], seeds: int) -> list[EvaluateTask]:
    ipc, tasks = profile.sets.ipc[0], []
    for objective in studied(profile):
        for variant in make(len(layers_of(profile.prior)), ipc) if seeds else []:
            rates = profile.resolved(objective=objective, search=variant.rates_of, ipc=ipc).search
            changes = {
                f"search.{key}": getattr(rates, key) for key in ("lr_features", "lr_latents", "lr_pixels")
            }
            # GLaD's layer, whose work a budget may follow
            changes |= {"search.layer": glad_layer(profile, objective)} | variant.changes
            for seed in profile.sets.seeds[:seeds]:
                settings = DistillationSettings.of(profile, objective, variant.kind, ipc, seed, changes)
                tasks.append(evaluation_of(_briefly(profile), settings, variant=variant.name))
    return tasks


@experiment(
    "hierarchical in sets.searches and studies.cross_seeds",
    lambda profile: _has_hierarchy(profile) and profile.studies.cross_seeds > 0,
)
def cross_architecture(profile: Profile) -> Experiment:
    """Sets of every method at the first ipc, evaluated on every architecture of the profile."""
    seeds = profile.sets.seeds[: profile.studies.cross_seeds]
    part, tasks = _with_sets(profile, ipc=profile.sets.ipc[:1], seeds=seeds), []
    for network in profile.networks:
        is_main = network == profile.main_network
        own = part if is_main else _briefly(part)
        tasks += _searches(own, profile.sets.searches, network) + _random(own, network)
        tasks += _full(own, network) if is_main or profile.studies.cross_full else []
    return Experiment(profile, tasks)


@experiment(
    "hierarchical in sets.searches and studies.audit_seeds",
    lambda profile: _has_hierarchy(profile) and profile.studies.audit_seeds > 0,
)
def paper_vs_code(profile: Profile) -> Experiment:
    """The paper's search, and with what the released code does instead, one behavior at a time."""
    return Experiment(profile, variants=_variants(profile, audit, profile.studies.audit_seeds))


@experiment("studies.baselines", lambda profile: bool(profile.studies.baselines))
def baselines(profile: Profile) -> Experiment:
    """Sets that nothing was optimized for beside the searches; all also under other augmentations."""
    network, sets = profile.main_network, profile.sets
    tasks = _searches(profile, sets.searches, network)
    for method in profile.studies.baselines:
        if method == "class_mean":  # one for each class, without a seed
            tasks.append(_baseline(profile, network, method, 1, 0))
            continue
        for ipc in sets.ipc:
            tasks += [
                _baseline(profile, network, method, ipc, seed, **_source(profile, method, seed))
                for seed in sets.seeds
            ]
    tasks += _random(profile, network)
    others = [(text, task) for text in profile.studies.augmentations for task in tasks]
    under = [
        replace(
            task,
            training=task.training.changed(augmentation=text),
            augmentation=text.replace("_", ", ") or "none",
        )
        for text, task in others
        if text != task.training.augmentation
    ]
    return Experiment(profile, tasks + under + _full(profile, network))


def _source(profile: Profile, method: str, seed: int) -> dict[str, Any]:
    """What a baseline selects or samples with; every seed of a selection has a classifier of its own."""
    if method.startswith("samples"):
        return {"prior": profile.prior, "prior_classes": profile.search.labels}
    metric = profile.metric.changed(seed=profile.metric.seed + seed)
    return {"classifier": ClassifierTask(profile.data, metric)}


CLAIMS = ("hierarchical_search", "cross_architecture", "metric_ablation", "baselines")
"""Experiments that `claims` looks back on."""


@experiment(
    "pixels, single and hierarchical in sets.searches",
    lambda profile: {"pixels", "single", "hierarchical"} <= set(profile.sets.searches),
)
def claims(profile: Profile) -> Experiment:
    """What the other experiments say about the claims of the paper, as far as the profile has them."""
    own = experiments_of(profile)
    return Experiment(profile, parts={name: EXPERIMENTS.get(name)(profile) for name in CLAIMS if name in own})


# What a folder of results can do without


def shows_images(task: DistillTask, profile: Profile) -> bool:
    """Whether a page may show the images of a set.

    Every page shows those of the first seed only. At the first ipc: pixels, and searches of the first
    objective and of the first one that is taken apart. At the largest ipc: those of the first objective,
    pixels only where real images are shown, because there they stay near those that they started from.
    """
    settings, sets = task.settings, profile.sets
    if settings.seed != sets.seeds[0]:
        return False
    if settings.ipc != sets.ipc[0]:
        own = settings.objective == sets.objectives[0] and (settings.kind != "pixels" or profile.data.show)
        return own and settings.ipc == sets.ipc[-1]
    return settings.kind == "pixels" or settings.objective in (sets.objectives[0], studied(profile)[0])


def drop_images(profile: Profile, store: Store, remove: bool = True) -> tuple[list[Path], float]:
    """Leave out the images of evaluated sets that no page of the profile shows; cards and rows stay.

    A set of 100 images of 32 px takes 2 MB. What is left out is made again, the same, where it is needed.

    Args:
        profile: whose pages and results these are.
        store: where the results lie.
        remove: do it, not only say it.

    Returns:
        Folders of the sets, and the size of their images in MiB.
    """
    tasks = plan(profile)
    read = sets_behind(missing_tasks(tasks, store))
    sets = [task for task in tasks if isinstance(task, DistillTask) and task.done(store)]
    folders = [
        store.set_folder(task.key)
        for task in sets
        if task.key not in read and not shows_images(task, profile)
    ]
    files = [folder / name for folder in folders if not images_left_out(folder) for name in IMAGES]
    size = sum(file.stat().st_size for file in files if file.is_file()) / 2**20
    for folder in folders if remove else []:
        leave_images_out(folder)
    return folders, size
