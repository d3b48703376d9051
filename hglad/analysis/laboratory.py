"""An experiment whose results are all there: where a notebook takes its tables and figures from."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import pandas as pd
import torch

from hglad.analysis.activation import activation_maps
from hglad.errors import HgladError
from hglad.evaluation.baselines import GENERATED, random_real
from hglad.evaluation.sets import DistilledSet
from hglad.experiments.definitions import EXPERIMENTS, Experiment, layer_count, layers_of
from hglad.experiments.evaluation_task import marks_by_key
from hglad.experiments.profile import Profile
from hglad.experiments.profile_file import profile_from
from hglad.experiments.runner import run_all
from hglad.experiments.store import Store
from hglad.experiments.tasks import DistillTask, MeasureTask, load_classifier
from hglad.search.distillation import DistillationSettings, known_real, load_real
from hglad.search.stages import Stage
from hglad.settings import suggestion
from hglad.storage import read_json


def _column(metric: str) -> str:
    """Name of a metric's column: the one that measures an accuracy gives an error, of other images."""
    return "held_out_error" if metric == "accuracy" else metric


@dataclass(frozen=True)
class Laboratory:
    """An experiment whose results are all there: where a notebook takes its tables and figures from."""

    profile: Profile
    store: Store
    experiment: Experiment

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Tidy rows of the experiment."""
        return self.experiment.rows(self.store)

    def part(self, name: str) -> Self | None:
        """An experiment that this one looks back on; none where the profile does not have it."""
        experiment = self.experiment.parts.get(name)
        return replace(self, experiment=experiment) if experiment else None

    @property
    def metrics(self) -> list[str]:
        """Columns of `distances`: the profile's metric, then those that are compared with it."""
        return [_column(name) for name in (self.profile.metric.name, *self.profile.metric.compared)]

    def distances(self) -> pd.DataFrame:
        """Distance of every evaluated iterate of the ablation by each metric, with its mean test accuracy.

        Returns:
            One row per iterate: objective, seed, iterate, stage (index), layer (split point), step, accuracy,
            and the columns `metrics`.
        """
        keys = ["objective", "seed", "iterate", "stage", "step"]
        means = self.rows.groupby(keys, sort=False)["accuracy"].mean().reset_index()
        parts = []
        for task in self.experiment.measures:
            run = means[
                (means["seed"] == task.settings.seed) & (means["objective"] == task.settings.objective)
            ]
            layers = [stage["layer"] for stage in self._card(task.settings)["stages"]]
            found = read_json(self.store.distances_file(task.key))["distances"]
            columns = {
                _column(name): [values[index] for index in run["iterate"]] for name, values in found.items()
            }
            parts.append(run.assign(layer=[layers[stage] for stage in run["stage"]], **columns))
        return pd.concat(parts, ignore_index=True)

    def _card(self, settings: DistillationSettings) -> dict:
        return read_json(self.store.set_folder(settings.fingerprint) / "card.json")

    def metric_seconds(self) -> pd.DataFrame:
        """Seconds per call of each metric in the ablation: `metric`, `objective`, `seed`, `seconds`."""
        rows = []
        for task in self.experiment.measures:
            marks = {"objective": task.settings.objective, "seed": task.settings.seed}
            seconds = read_json(self.store.distances_file(task.key))["seconds"]
            rows += [marks | {"metric": _column(name), "seconds": value} for name, value in seconds.items()]
        return pd.DataFrame(rows)

    def step_seconds(self) -> pd.DataFrame:
        """Time in the runs of the ablation: `objective`, `seed`, `seconds` of a step, `measurement`."""
        rows = []
        for task in self.experiment.measures:
            card = self._card(task.settings)
            steps = sum(stage["steps"] for stage in card["stages"])
            marks = {"objective": task.settings.objective, "seed": task.settings.seed}
            measurement, count = card["measurement_seconds"], len(card["history"])
            seconds = (sum(card["stage_seconds"]) - measurement * count) / steps
            rows.append(marks | {"seconds": seconds, "measurement": measurement})
        return pd.DataFrame(rows)

    def _first_measured(self) -> list[MeasureTask]:
        """Runs of the ablation with the first objective."""
        first = self.profile.sets["objectives"][0]
        return [task for task in self.experiment.measures if task.settings.objective == first]

    def stages(self) -> list[Stage]:
        """Stage table of the hierarchical search with the first objective."""
        card = self._card(self._first_measured()[0].settings)
        return [Stage(**stage) for stage in card["stages"]]

    def iterate_history(self, distances: pd.DataFrame) -> pd.DataFrame:
        """Rows of `distances` with the first objective, with the `distance` that its search measured.

        That is the distance of images before they were rounded to 8 bits; `selected` marks its smallest.
        """
        rows = distances[distances["objective"] == self.profile.sets["objectives"][0]]
        cards = {task.settings.seed: self._card(task.settings) for task in self._first_measured()}
        history = {seed: card["history"] for seed, card in cards.items()}
        best = {seed: [card["best"]["stage"], card["best"]["step"]] for seed, card in cards.items()}
        moments = [history[row["seed"]][row["iterate"]] for _, row in rows.iterrows()]
        return rows.assign(
            distance=[distance for *_, distance in moments],
            selected=[moment[:2] == best[seed] for moment, seed in zip(moments, rows["seed"], strict=True)],
        )

    def winning_stages(self) -> pd.DataFrame:
        """Stage with the smallest distance of each class: a row per run, a column per class."""
        rows = {}
        for task in self._first_measured():
            table = np.array(read_json(self.store.distances_file(task.key))["by_class"])  # (iterate, class)
            stages = np.array([stage for stage, *_ in self._card(task.settings)["history"]])
            rows[f"seed {task.settings.seed}"] = stages[table.argmin(axis=0)]
        return pd.DataFrame.from_dict(rows, orient="index", columns=self.classes)

    def activations(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Images of random real images and of the first run, one per class, and their activation maps."""
        task = DistillTask(self._first_measured()[0].settings)
        classifier, real = load_classifier(task.classifier, self.store), known_real(self.profile.data).train
        images = {"distilled": self.first_images("hierarchical")}
        if self.profile.data.show:
            images = {"real": self.first_images("random")} | images
        labels = torch.arange(len(real.classes))
        maps = {name: activation_maps(classifier, x, labels, real.normalize) for name, x in images.items()}
        return images, maps

    @property
    def main_rows(self) -> pd.DataFrame:
        """Rows without the single-layer runs at other layers than the profile's for their objective."""
        layers = {objective: self.glad_layer(objective) for objective in self.profile.sets["objectives"]}
        own = self.rows["objective"].map(layers)
        return self.rows[self.rows["layer"].isna() | (self.rows["layer"] == own)]

    def glad_layer(self, objective: str | None = None) -> int:
        """Split point of the single-layer search with an objective, by default the profile's first."""
        return self.profile.searched(objective or self.profile.sets["objectives"][0], "single").layer

    @property
    def variant_rows(self) -> pd.DataFrame:
        """Rows of the searches that differ in one part, with a column `variant`."""
        rows = [self.store.rows(marks_by_key([task])) for task in self.experiment.variants]
        return pd.concat(rows, ignore_index=True)

    def variant_images(self) -> dict[str, torch.Tensor]:
        """First image of each class by variant, of the first objective and seed."""
        first: dict[str, torch.Tensor] = {}
        for task in self.experiment.variants:
            if task.variant not in first:
                distilled = DistilledSet.load(self.store.set_folder(task.distilled.fingerprint))
                first[task.variant] = distilled.images[:: distilled.ipc]
        return first

    def variant_cards(self) -> dict[str, list[dict]]:
        """Cards of those searches, by variant."""
        cards: dict[str, list[dict]] = {}
        for task in self.experiment.variants:
            cards.setdefault(task.variant, []).append(self._card(task.distilled))
        return cards

    @property
    def sweep_rows(self) -> pd.DataFrame:
        """Rows of the layer sweep; `layer` is a split point, also for the pixels.

        Without a sweep (`sweep_seeds: 0`) those of the layer that GLaD has, and of the pixels, at all seeds.
        """
        profile, rows = self.profile, self.rows
        seeds = profile.sets["seeds"][: profile.studies.sweep_seeds or None]
        swept = rows["method"].isin(["single", "pixels"]) & rows["seed"].isin(seeds)
        swept &= (rows["ipc"] == profile.sets["ipc"][0]) & (
            rows["objective"] == profile.sets["objectives"][0]
        )
        return rows[swept].fillna({"layer": layer_count(profile) - 1})

    @property
    def swept_layers(self) -> list[int]:
        """Split points with a search of their own, from coarse to fine, without the pixels."""
        rows = self.sweep_rows
        return sorted(rows.loc[rows["method"] == "single", "layer"].astype(int).unique().tolist())

    def sweeps(self) -> dict[str, tuple[pd.DataFrame, tuple[str, ...]]]:
        """Layer sweeps by generator, the profile's first: rows as `sweep_rows`, and names of the layers."""
        own = self.sweep_rows
        sweeps = {self.profile.prior: (own, layers_of(self.profile.prior))}
        pixels = own[own["method"] == "pixels"]
        for prior, tasks in self.experiment.families.items():
            names = layers_of(prior)
            rows = self.store.rows(marks_by_key(tasks))
            sweeps[prior] = (pd.concat([rows, pixels.assign(layer=len(names) - 1)]), names)
        return sweeps

    @cached_property
    def distillations(self) -> dict[str, DistillationSettings]:
        """Settings of the distilled sets behind the rows, by fingerprint."""
        return {
            task.distilled.fingerprint: task.distilled
            for task in self.experiment.all_evaluations
            if task.distilled
        }

    def confusions(self, network: str | None = None, ipc: int | None = None) -> dict[tuple, np.ndarray]:
        """Share of each true class's test images that is taken for each class, in percent.

        Args:
            network: label of the architecture, by default the main one.
            ipc: images per class, by default the first of the profile.

        Returns:
            (objective or "", method) to (classes, classes), mean over sets and networks.
        """
        network = network or next(iter(self.profile.networks))
        ipc = self.profile.sets["ipc"][0] if ipc is None else ipc
        found: dict[tuple, list[np.ndarray]] = {}
        for task in {task.key: task for task in self.experiment.evaluations}.values():  # a sweep repeats some
            main = task.distilled is None or task.distilled.kind != "single"
            main = main or task.distilled.search.layer == self.glad_layer(task.distilled.objective)
            if task.network == network and task.ipc in (ipc, None) and task.augmentation is None and main:
                objective = task.distilled.objective if task.distilled else ""
                counts = self.store.confusions(task.key).double()
                shares = 100 * counts / counts.sum(dim=2, keepdim=True)
                found.setdefault((objective, task.method), []).extend(shares.numpy())
        return {key: np.mean(shares, axis=0) for key, shares in found.items()}

    def baseline_sets(self, ipc: int) -> dict[str, DistilledSet]:
        """The sets of the study of baselines that may be shown, by method, with the first seed of each."""
        data, tasks = known_real(self.profile.data), {}
        for task in self.experiment.evaluations:
            shown = self.profile.data.show or task.method in GENERATED
            if task.distilled is None and task.method != "full" and task.ipc == ipc and shown:
                tasks.setdefault(task.method, task)
        return {method: task.baseline(self.store, data) for method, task in tasks.items()}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return known_real(self.profile.data).train.classes

    def distilled(self, method: str, **which: object) -> DistilledSet:
        """The set of a search, `which` as in `settings_of`; or of `random`, which takes ipc and seed only.

        Raises:
            HgladError: the experiment has no such set, or its images were left out.
        """
        if method == "random":
            first = {key: self.profile.sets[name][0] for key, name in (("ipc", "ipc"), ("seed", "seeds"))}
            return random_real(load_real(self.profile.data).train, **first | which)
        settings = self.settings_of(method, **which)
        return DistilledSet.load(self.store.set_folder(settings.fingerprint))

    def card(self, method: str, **which: object) -> dict:
        """Card of the set of a search, which is there without images, too; `which` as in `settings_of`.

        Raises:
            HgladError: the experiment has no such set.
        """
        return self._card(self.settings_of(method, **which))

    def settings_of(
        self,
        method: str,
        ipc: int | None = None,
        seed: int | None = None,
        layer: int | None = None,
        objective: str | None = None,
    ) -> DistillationSettings:
        """What a set follows from, by default the one at the first objective, ipc and seed of the profile.

        Args:
            method: a search.
            ipc: images per class.
            seed: distillation seed.
            layer: split point of the single-layer search; by default the profile's.
            objective: matching objective.

        Raises:
            HgladError: the experiment has no such set.
        """
        sets = self.profile.sets
        ipc, seed = sets["ipc"][0] if ipc is None else ipc, sets["seeds"][0] if seed is None else seed
        objective = sets["objectives"][0] if objective is None else objective
        layer = self.glad_layer(objective) if layer is None else layer
        for s in self.distillations.values():
            same_layer = method != "single" or (s.search.layer == layer and s.prior == self.profile.prior)
            if (s.objective, s.kind, s.ipc, s.seed) == (objective, method, ipc, seed) and same_layer:
                return s
        raise HgladError(
            f"no distilled set of '{method}' with ipc {ipc}, seed {seed}, layer {layer}: expected a run of "
            f"profile {self.profile.profile}"
        )

    def first_images(self, method: str, layer: int | None = None) -> torch.Tensor:
        """One image per class (class, channels, height, width) at the first ipc and seed, or of `random`."""
        distilled = self.distilled(method, **{} if layer is None else {"layer": layer})
        return distilled.images[:: distilled.ipc]

    def cards(self, method: str | None = None) -> list[dict]:
        """Cards of the distilled sets behind the rows, of one search or of all."""
        found = (key for key, each in self.distillations.items() if method in (None, each.kind))
        return [read_json(self.store.set_folder(key) / "card.json") for key in found]


def open_experiment(name: str, **parameters) -> Laboratory:
    """Open an experiment with the parameters of a notebook; what is missing of its results is computed first.

    Args:
        name: one of `EXPERIMENTS`.
        parameters: keys of a profile.

    Raises:
        HgladError: unknown experiment, parameters that are no profile.
    """
    if name not in EXPERIMENTS:
        raise HgladError(f"unknown experiment '{name}': {suggestion(name, EXPERIMENTS)}")
    profile = profile_from(**parameters)
    store, experiment = Store.of_profile(profile.profile), EXPERIMENTS[name](profile)
    run_all(experiment.tasks(), store)
    return Laboratory(profile, store, experiment)
