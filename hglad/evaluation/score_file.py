"""Score a distilled set from a file, ours or another's, beside random real images: `hglad evaluate`."""

import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from hglad.analysis.statistics import summarise
from hglad.data.datasets import DataSet, load_data
from hglad.errors import HgladError
from hglad.evaluation.baselines import random_real
from hglad.evaluation.protocols import protocol
from hglad.evaluation.score import as_rows, score_set
from hglad.evaluation.sets import DistilledSet, Statistics, is_own, read_set
from hglad.evaluation.training import TrainingSettings
from hglad.experiments.tasks import classifier_versions
from hglad.experiments.versions import Versions, asked
from hglad.paths import cache_folder
from hglad.provenance import Stopwatch
from hglad.settings import fingerprint, from_dict, to_dict


@dataclass(frozen=True)
class SetFile:
    """Where a distilled set lies, and how to read one of others; see `set_files.read_set`."""

    path: Path
    labels: Path | None = None
    experiment: int = 0
    normalized: bool | Statistics = False
    any_range: bool = False

    def load(
        self, data: str, root: str | None, resolution: int | None, device: str
    ) -> tuple[DistilledSet, DataSet]:
        """The set, and the data set that it stands for in the resolution of its images."""
        if resolution is None and is_own(self.path):
            resolution = DistilledSet.load(self.path).images.shape[-1]
        real = load_data(data, root, resolution, device=device)
        options = {key: getattr(self, key) for key in ("labels", "experiment", "normalized", "any_range")}
        return read_set(self.path, real.train, **options), real


@dataclass(frozen=True)
class Scoring:
    """How sets are scored."""

    networks: tuple[str, ...] = ("convnet",)
    """Names of architectures; `torchvision:<name>` and `timm:<name>` are those libraries'."""
    protocol: str = "glad"
    """Named protocol."""
    changes: tuple[tuple[str, object], ...] = ()
    """Keys of `TrainingSettings` that differ from it."""
    repeats: int = 5
    """Networks of each architecture."""
    seed: int = 0
    """Seed of the networks."""

    def training(self, network: str) -> TrainingSettings:
        """Training of one architecture."""
        settings = vars(protocol(self.protocol, network)) | dict(self.changes)
        return from_dict(TrainingSettings, settings)

    def declared(self) -> dict[str, object]:
        """For the provenance: seed of the networks, versions of the algorithms."""

        def versions(version: Versions) -> list:
            return [classifier_versions({"name": name}, version) for name in self.networks]

        return {"seed": self.seed, "algorithms": asked(versions)}

    def rows(self, distilled: DistilledSet, data: DataSet, show: bool = False) -> pd.DataFrame:
        """A row per network: `network`, `repeat`, `accuracy`; stopped, the same call goes on where it was."""
        networks = {name: {"name": name} for name in self.networks}
        training = {name: self.training(name) for name in self.networks}
        parts = cache_folder() / "evaluations" / self._key(distilled, data)
        scores = score_set(distilled, data, networks, self.repeats, training, self.seed, show, parts)
        shutil.rmtree(parts, ignore_errors=True)
        return as_rows(scores)

    def _key(self, distilled: DistilledSet, data: DataSet) -> str:
        tensors = (distilled.images, distilled.labels)
        content = [hashlib.sha256(x.contiguous().numpy()).hexdigest() for x in tensors]
        versions = {name: classifier_versions({"name": name}) for name in self.networks}
        hashes = [data.train.content_hash, data.test.content_hash]
        device = data.train.images.device.type  # whose generator draws other numbers
        return fingerprint(content, hashes, replace(self, repeats=1), versions, device)


def score_file(
    file: SetFile,
    data: str,
    scoring: Scoring,
    root: str | None = None,
    resolution: int | None = None,
    random_sets: int = 0,
    device: str = "cpu",
    show: bool = False,
) -> dict:
    """Score a set, and beside it sets of as many random real images.

    Returns:
        `rows` (with `set` "given" or "random", and the `seed` of the latter), `training` by network,
        `set` (what the set says of itself), `provenance`; ready for JSON.

    Raises:
        HgladError: what cannot be read, does not fit, or cannot be trained.
    """
    if random_sets < 0:
        raise HgladError(f"{random_sets} sets of random images: expected 0 or more; give --random 1")
    watch = Stopwatch(device)
    distilled, real = file.load(data, root, resolution, device)
    sets = {("given", 0): distilled}
    ipc = _even_ipc(distilled, real) if random_sets else None
    for seed in range(random_sets):
        sets["random", seed] = random_real(real.train, ipc, seed)
    frames = [
        scoring.rows(each, real, show).assign(set=name, seed=seed) for (name, seed), each in sets.items()
    ]
    return {
        "rows": pd.concat(frames, ignore_index=True).to_dict("records"),
        "training": {name: to_dict(scoring.training(name)) for name in scoring.networks},
        "set": distilled.card,
        "provenance": watch.provenance() | scoring.declared() | {"data_hash": _data_hash(real)},
    }


def _data_hash(data: DataSet) -> str:
    """As `hglad.search.distillation.data_hash`."""
    return fingerprint(data.train.content_hash, data.test.content_hash)


def _even_ipc(distilled: DistilledSet, data: DataSet) -> int:
    """Images per class, which random sets of the same size need to be the same in all classes of the data."""
    counts = distilled.hard_labels.bincount(minlength=len(data.train.classes))
    few, most = counts.min().item(), counts.max().item()
    if few != most:
        raise HgladError(
            f"the set has {few} to {most} images per class, for which there are no random sets of the same "
            "size: expected as many of each class; leave --random (random_sets) out"
        )
    return most


def score_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy by network of the given set and of random images, and the gain of the one over the other.

    Deviation and 95 % interval of the given set are over networks, which says nothing about another set by
    the same method; those of random images are over sets.
    """
    given = summarise(rows[rows["set"] == "given"], ["network"], over="networks")
    random = summarise(rows[rows["set"] == "random"], ["network"])
    parts = [given.assign(images="given", over="networks"), random.assign(images="random", over="sets")]
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    bounds = zip(table["low"], table["high"], strict=True)
    cells = {
        "network": table["network"],
        "images": table["images"],
        "accuracy (%)": table["mean"].round(2),
        "sd": table["sd"].round(2),
        "95 % t interval": [f"{low:.1f} to {high:.1f}" if low <= high else "-" for low, high in bounds],
        "over": table["over"],
    }
    if len(random):
        base = table["network"].map(random.set_index("network")["mean"])
        gain = (table["mean"] - base).where(table["images"] == "given")
        cells["gain over random"] = gain.map("{:+.1f}".format, na_action="ignore").fillna("")
    return pd.DataFrame(cells)
