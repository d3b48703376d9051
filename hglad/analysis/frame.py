"""The tidy frame of an experiment: rows of its results, its runs and their iterates, and its images.

    rows       one per set, network and repeat: objective, method, layer, ipc, seed, network, accuracy (%)
    runs       one per distilled set: its marks, steps, seconds, work, where the kept iterate was made, card
    history    one per measured iterate: stage, step, distance, whether it was kept

An experiment, as `open_experiment` gives it, has a `profile`, a `store` and a `plan` of tasks.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hglad.analysis import method_label, method_place
from hglad.analysis.cells import CELL
from hglad.analysis.statistics import equal
from hglad.errors import HgladError
from hglad.storage import read_json

START = "none: the start"


# Rows of an experiment


def rows(experiment) -> pd.DataFrame:
    """Tidy rows of the sets of an experiment, its baselines and its iterates; not those of a sweep.

    GLaD's rows are those at the layer that the profile gives it with each objective. `augmentation` is None
    under the profile's own, `variant` under the search as the profile has it.
    """
    found = _read(experiment, experiment.plan.evaluations)
    layers = {name: glad_layer(experiment, name) for name in found["objective"].dropna().unique()}
    return found[found["layer"].isna() | (found["layer"] == found["objective"].map(layers))]


def _read(experiment, tasks: Iterable) -> pd.DataFrame:
    marks: dict[str, dict] = {}
    for task in tasks:
        marks.setdefault(task.key, task.marks)
    columns = [*CELL, "augmentation", "seed", "repeat", "accuracy", "key"]
    if not marks:
        return pd.DataFrame(columns=columns)
    found = experiment.store.rows(marks)
    return found.assign(**{name: None for name in columns if name not in found})


def glad_layer(experiment, objective: str | None = None) -> int:
    """Split point of the single-layer search with an objective, by default the profile's first."""
    profile = experiment.profile
    first = objective or profile.sets.objectives[0]
    return profile.resolved(objective=first, search="single").search.layer


def augmentations(experiment) -> dict[str, str]:
    """Augmentation of the training on the sets, by the key of their rows."""
    tasks = experiment.plan.evaluations
    return {task.key: task.training.augmentation.replace("_", ", ") or "none" for task in tasks}


def variant_rows(experiment) -> pd.DataFrame:
    """Rows of the searches that differ from the paper's in one part, which `variant` names."""
    return pd.concat(
        [_read(experiment, [task]) for task in experiment.plan.variants] or [_read(experiment, [])]
    )


def sweep(experiment) -> pd.DataFrame:
    """Rows of the sweeps over layers, by `generator`: `layer`, pixels as the last, with its `split_point`.

    A profile without a sweep has the layer of GLaD and the pixels.
    """
    from hglad.experiments.plans import layers_of

    profile, sets = experiment.profile, experiment.profile.sets
    own = _read(experiment, experiment.plan.evaluations)
    seeds = sets.seeds[: profile.studies.sweep_seeds or None]
    first = (own["ipc"] == sets.ipc[0]) & (own["objective"] == sets.objectives[0])
    own = own[own["method"].isin(["single", "pixels"]) & own["seed"].isin(seeds) & first]
    families = {name: _read(experiment, tasks) for name, tasks in experiment.plan.families.items()}
    parts = []
    for generator, swept in ({profile.prior: own} | families).items():
        layers = layers_of(generator)
        both = swept if swept is own else pd.concat([swept, own[own["method"] == "pixels"]])
        both = both.assign(generator=generator, layer=both["layer"].fillna(len(layers) - 1).astype(int))
        parts.append(both.assign(split_point=[layers[index] for index in both["layer"]]))
    return pd.concat(parts, ignore_index=True)


def part(experiment, name: str):
    """An experiment that this one looks back on; None where the profile does not have it."""
    plan = experiment.plan.parts.get(name)
    return replace(experiment, plan=plan) if plan else None


# Runs of an experiment


def runs(experiment) -> pd.DataFrame:
    """Distilled sets of an experiment, one row each.

    Returns:
        `objective`, `method`, `layer`, `ipc`, `seed`, `generator`, `variant`; `settings`, `card`, `key`;
        `latents` (averaged for each image at the start), `steps`, `seconds`, `device`, `gflop` (through the
        generator, forward and back); `kept` (name of the stage that made the kept iterate), `kept_stage`,
        `kept_step`; the largest `clipped` (share), `invalid` and `change` where stages begin.
    """
    found: dict[tuple, dict] = {}
    for task in experiment.plan.all_evaluations:
        place = (task.distilled and task.distilled.fingerprint, task.generator, task.variant)
        if task.distilled is not None and place not in found:
            marks = {name: task.marks.get(name) for name in ("objective", "method", "layer", "ipc", "seed")}
            marks |= {"generator": task.generator, "variant": task.variant}
            marks["latents"] = task.distilled.search.average
            card = read_json(experiment.store.set_folder(place[0]) / "card.json")
            found[place] = marks | _run(card) | {"settings": task.distilled, "card": card, "key": place[0]}
    none = ["objective", "method", "variant", "card", "key"]  # of a profile without searches
    return pd.DataFrame(list(found.values()), columns=None if found else none)


def _run(card: dict) -> dict[str, object]:
    images = card["settings"]["ipc"] * card.get("classes", 0)  # pixels, once without both, need no generator
    stage, step = made_at(card)
    _, clipped, invalid, change = zip((0, 0.0, 0, 0.0), *card.get("boundaries", []), strict=True)
    return {
        "steps": sum(each["steps"] for each in card["stages"]),
        "seconds": card["provenance"]["seconds"],
        "device": card["provenance"]["device"],
        "gflop": sum(each["steps"] * (each.get("flops") or 0) for each in card["stages"]) * images / 1e9,
        "kept": START if (stage, step) == (0, 0) else card["stages"][stage]["name"],
        "kept_stage": stage,
        "kept_step": step,
        "clipped": max(clipped),
        "invalid": max(invalid),
        "change": max(change),
    }


def made_at(card: dict) -> tuple[int, int]:
    """Stage and step that made the iterate which a run kept; (0, 0) if it is the start, before any step.

    A stage begins at an iterate of the one before. Where that one, bounded or decoded from another layer, is
    kept, the card names step 0 of the later stage, which has made nothing.
    """
    search, (stage, step) = card["settings"]["search"], (card["best"]["stage"], card["best"]["step"])
    last = search.get("selection", "metric") != "metric" or search.get("stage_start", "best") == "last"
    while stage and not step:
        stage -= 1
        distances = {step: distance for at, step, distance in card["history"] if at == stage}
        step = card["stages"][stage]["steps"] if last else min(distances, key=distances.__getitem__)
    return stage, step


def history(found: pd.DataFrame) -> pd.DataFrame:
    """Measured iterates of runs: their marks, `iterate`, `stage` (index), `layer` (split point),
    `stage_name`, `step` of the stage, `at` (step of the run), `distance`, and which one was `selected`.
    """
    parts = []
    for run in found.itertuples():
        part = pd.DataFrame(run.card["history"], columns=["stage", "step", "distance"])
        stages = pd.DataFrame(run.card["stages"])
        starts, best = stages["steps"].cumsum() - stages["steps"], run.card["best"]
        part = part.assign(
            objective=run.objective,
            ipc=run.ipc,
            seed=run.seed,
            iterate=part.index,
            layer=stages["layer"].loc[part["stage"]].to_numpy(),
            stage_name=stages["name"].loc[part["stage"]].to_numpy(),
            at=starts.loc[part["stage"]].to_numpy() + part["step"],
            selected=(part["stage"] == best["stage"]) & (part["step"] == best["step"]),
        )
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def fresh(iterates: pd.DataFrame) -> pd.DataFrame:
    """Iterates without the start of later stages, whose images an earlier iterate has already."""
    return iterates[(iterates["step"] > 0) | (iterates["stage"] == 0)]


def _column(metric: str) -> str:
    """Name of a metric's column: the one that measures an accuracy gives an error, of other images."""
    return "held_out_error" if metric == "accuracy" else metric


def metrics(experiment) -> list[str]:
    """Columns of `distances`: the profile's metric, then those that are compared with it."""
    metric = experiment.profile.metric
    return [_column(name) for name in (metric.name, *metric.compared)]


def distances(experiment) -> pd.DataFrame:
    """`history` of the ablation's runs with the mean test `accuracy` of each iterate, and its distance by
    each of `metrics`: of the images as they were kept, with 8 bits; `distance` is what the search measured.
    """
    place = ["objective", "seed", "iterate"]
    accuracy = rows(experiment).groupby(place, sort=False)["accuracy"].mean().reset_index()
    parts = []
    for task, run in zip(experiment.plan.measures, measured(experiment).itertuples(), strict=True):
        own = history(pd.DataFrame([run]))
        found = read_json(experiment.store.distances_file(task.key))["distances"]
        parts.append(own.assign(**{_column(name): values for name, values in found.items()}))
    return pd.concat(parts, ignore_index=True).merge(accuracy, on=place)


def measured(experiment) -> pd.DataFrame:
    """Runs of the ablation, in the order of its measurements."""
    found = runs(experiment).query("variant.isna()").set_index("key", drop=False)
    return found.loc[[task.settings.fingerprint for task in experiment.plan.measures]]


def metric_seconds(experiment) -> pd.DataFrame:
    """Seconds of one call of each metric in the ablation, by run, and of one `step` of that run's search.

    The metric "search" is one measurement in the search itself, decoding included.
    """
    lines = []
    for task, run in zip(experiment.plan.measures, measured(experiment).itertuples(), strict=True):
        seconds = read_json(experiment.store.distances_file(task.key))["seconds"]
        measuring = run.card["measurement_seconds"]
        step = (sum(run.card["stage_seconds"]) - measuring * len(run.card["history"])) / run.steps
        for name, value in {**seconds, "search": measuring}.items():
            lines.append(
                {"objective": run.objective, "metric": _column(name), "seconds": value, "step": step}
            )
    return pd.DataFrame(lines)


def winning_stages(experiment) -> pd.DataFrame:
    """Stage with the smallest distance of each class, with the first objective: run by class."""
    found = {}
    for task, run in zip(experiment.plan.measures, measured(experiment).itertuples(), strict=True):
        if run.objective == experiment.profile.sets.objectives[0]:
            by_class = np.array(
                read_json(experiment.store.distances_file(task.key))["by_class"]
            )  # (iterate, class)
            stages = np.array([stage for stage, *_ in run.card["history"]])
            names = np.array([stage["name"] for stage in run.card["stages"]])
            found[f"seed {run.seed}"] = names[stages[by_class.argmin(axis=0)]]
    return pd.DataFrame.from_dict(found, orient="index", columns=classes(experiment))


def confusions(experiment, network: str | None = None, ipc: int | None = None) -> dict[str, pd.DataFrame]:
    """Share of each true class's test images that is taken for each class, in percent, by method.

    Args:
        experiment: whose sets.
        network: label of the architecture, by default the main one.
        ipc: images per class, by default the first of the profile.

    Returns:
        Mean over sets and networks, true class by predicted class; with several objectives a method for each.
    """
    profile = experiment.profile
    network = network or next(iter(profile.networks))
    ipc = profile.sets.ipc[0] if ipc is None else ipc
    own = rows(experiment)
    own = own[
        (own["network"] == network) & (own["ipc"].isna() | (own["ipc"] == ipc)) & own["augmentation"].isna()
    ]
    many, names = own["objective"].nunique() > 1, classes(experiment)
    found = {}
    places = own.fillna({"objective": ""}).groupby(["method", "objective"])["key"].unique()
    for method, objective in sorted(places.index, key=lambda place: (method_place(place[0]), place[1])):
        counts = [experiment.store.confusions(key).double() for key in places[method, objective]]
        shares = np.concatenate([(100 * each / each.sum(dim=2, keepdim=True)).numpy() for each in counts])
        label = (
            f"{method_label(method)} ({objective.upper()})" if many and objective else method_label(method)
        )
        found[label] = pd.DataFrame(shares.mean(axis=0), names, names)
    return found


# Images of an experiment


def real_data(experiment):
    """The data set of an experiment, or what is on record of it where its images are not there."""
    from hglad.search.distillation import known_real

    return known_real(experiment.profile.data)


def classes(experiment) -> list[str]:
    """Names of the classes."""
    return [str(name) for name in real_data(experiment).train.classes]


def image_set(experiment, method: str, ipc: int | None = None, seed: int | None = None, **which: object):
    """A distilled set, by default that at the first objective, ipc and seed and at GLaD's layer; or `random`.

    Args:
        experiment: whose sets.
        method: a search, or "random" for real images.
        ipc: images per class.
        seed: distillation seed.
        which: further marks, such as `layer`, `objective` or `variant`.

    Raises:
        HgladError: the experiment has no such set, or its images were left out.
    """
    from hglad.evaluation.baselines import random_real
    from hglad.evaluation.sets import DistilledSet
    from hglad.search.distillation import load_real

    sets = experiment.profile.sets
    ipc, seed = sets.ipc[0] if ipc is None else ipc, sets.seeds[0] if seed is None else seed
    if method == "random":
        return random_real(load_real(experiment.profile.data).train, ipc, seed)
    objective = sets.objectives[0]
    layer = glad_layer(experiment, which.get("objective", objective)) if method == "single" else None
    wanted = {"objective": objective, "method": method, "ipc": ipc, "seed": seed, "layer": layer}
    wanted |= {"generator": None, "variant": None} | which
    found = runs(experiment)
    for name, value in wanted.items():
        found = found[equal(found[name], value)]
    if found.empty:
        named = ", ".join(f"{name} {value}" for name, value in wanted.items() if value is not None)
        raise HgladError(
            f"no distilled set of {named}: expected a run of profile {experiment.profile.profile}"
        )
    return DistilledSet.load(experiment.store.set_folder(found["key"].iloc[0]))


def first_images(distilled) -> Tensor:
    """The first image of each class of a set (class, channels, height, width)."""
    return distilled.images[:: distilled.ipc]


def activations(experiment) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Real images, where they may be shown, and those of the ablation's first run; their activation maps.

    The classifier is that of the selection metric.
    """
    from hglad.analysis.figures import activation_maps
    from hglad.experiments.tasks import DistillTask

    task, real = DistillTask(experiment.plan.measures[0].settings), real_data(experiment).train
    classifier = task.classifier.load(experiment.store)
    names = ["random", "hierarchical"] if experiment.profile.data.show else ["hierarchical"]
    images = {method_label(name): first_images(image_set(experiment, name)) for name in names}
    labels = torch.arange(len(real.classes))
    maps = {name: activation_maps(classifier, own, labels, real.normalize) for name, own in images.items()}
    return images, maps


def baseline_images(experiment) -> dict[str, Tensor]:
    """First image of each class of the sets that need no distillation, by label: what may be shown."""
    from hglad.evaluation.baselines import GENERATED

    profile, found = experiment.profile, {}
    for task in sorted(experiment.plan.evaluations, key=lambda task: method_place(task.method)):
        own = task.distilled is None and task.method != "full" and task.ipc == profile.sets.ipc[0]
        if own and task.method not in found and (profile.data.show or task.method in GENERATED):
            found[task.method] = first_images(task.baseline(experiment.store, real_data(experiment)))
    return {method_label(method): images for method, images in found.items()}


def published_schedules(experiment) -> pd.DataFrame:
    """Steps of the published schedules and work of the profile's generator for one image: GLaD's 1,000 steps
    at its layer, the presets with the steps of the released code.
    """
    from hglad.experiments.plans import PRESETS, layers_of, preset
    from hglad.search.distillation import DistillationSettings, planned_stages

    profile, lines = experiment.profile, []
    points = len(layers_of(profile.prior))
    for objective in profile.sets.objectives:
        searches = {"GLaD": ("single", {"search.steps": 1000})}
        for name in PRESETS:
            searches[f"H-GLaD, {name}"] = ("hierarchical", preset(name, objective, points))
        for name, (kind, changes) in searches.items():
            stages = planned_stages(DistillationSettings.of(profile, objective, kind, 1, 0, changes))
            work = sum(stage.steps * stage.flops for stage in stages) / 1e9
            counts = {"stages": len(stages), "steps": sum(stage.steps for stage in stages)}
            lines.append(
                {"objective": objective, "search": name} | counts | {"generator (GFLOP an image)": work}
            )
    return pd.DataFrame(lines)
