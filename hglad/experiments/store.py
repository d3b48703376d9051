"""Result rows on disk, and where everything else that a profile computes lies."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Self

import pandas as pd
from filelock import FileLock, Timeout
from torch import Tensor

from hglad.errors import HgladError
from hglad.paths import PROJECT, results_folder
from hglad.settings import suggestion
from hglad.storage import intact, read_json, read_tensors, write_json, write_tensors

MARKS = (
    "objective",
    "method",
    "layer",
    "ipc",
    "seed",
    "generator",
    "variant",
    "augmentation",
)  # columns that say what a row is about, by the table that it stands in


@contextmanager
def held(file: Path, wait: bool = True) -> Iterator[None]:
    """Hold the kernel's lock on a file, which ends with the process, however that ends.

    Where the file system has no locks nothing is held.

    Raises:
        filelock.Timeout: another process holds it and `wait` is false.
    """
    lock = FileLock(file, timeout=-1 if wait else 0)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise
    except (OSError, NotImplementedError):  # if nothing can be written at all, the results will say so
        yield
        return
    try:
        yield
    finally:
        lock.release()


class Store:
    """Folder of a profile's results; a result is there when its file is, under its fingerprint.

    `sets/` holds folders, `classifiers/` weights, `evaluations/` and `distances/` JSON with provenance.
    """

    def __init__(self, root: Path | str):
        self.root = Path(root)

    @classmethod
    def of_profile(cls, profile: str, folder: Path | str | None = None) -> Self:
        """Results of a profile in `folder`, by default where `hglad.paths.results_folder` says."""
        return cls(folder or results_folder(profile))

    @classmethod
    def named(cls, name: str, folder: Path | str | None = None) -> Self:
        """Results in a folder of that path, else those of the profile of that name.

        Raises:
            HgladError: neither a folder nor a known profile.
        """
        if Path(name).is_dir():
            return cls(name)
        known = {path.name for path in (PROJECT / "data" / "results").glob("*/")}
        known |= {path.stem for path in (PROJECT / "configs").glob("*.yaml")}
        if name not in known:
            raise HgladError(f"no profile or folder of results '{name}': {suggestion(name, known)}")
        return cls.of_profile(name, folder)

    def claim(self, key: str) -> AbstractContextManager[None]:
        """Keep other processes from computing the result of that key at the same time (`held`).

        Without locks two processes do the same work, and the last one's result stays.
        """
        return held(self.root / ".locks" / f"{key}.lock")

    def set_folder(self, key: str) -> Path:
        """Folder of a distilled set."""
        return self.root / "sets" / key

    def experts_folder(self, key: str) -> Path:
        """Folder of a set of expert trajectories; large, not committed."""
        return self.root / "experts" / key

    def classifier_file(self, key: str) -> Path:
        """Weights of a classifier behind a metric."""
        return self.root / "classifiers" / f"{key}.safetensors"

    def evaluation_file(self, key: str) -> Path:
        """Rows of an evaluation."""
        return self.root / "evaluations" / f"{key}.json"

    def parts_folder(self, key: str) -> Path:
        """What an evaluation under way keeps; not committed."""
        return self.root / "evaluations" / f"{key}.parts"

    def confusion_file(self, key: str) -> Path:
        """Confusion matrices of an evaluation, one per row."""
        return self.root / "evaluations" / f"{key}.safetensors"

    def confusions(self, key: str) -> Tensor:
        """Images by row of the evaluation, true class and predicted class, int64 (rows, classes, classes).

        Raises:
            HgladError: an evaluation from before they were kept.
        """
        file = self.confusion_file(key)
        if not file.is_file():
            raise HgladError(f"no file {file}: delete {key}.json beside it to have the evaluation made again")
        return read_tensors(file)["confusion"].long()

    def distances_file(self, key: str) -> Path:
        """Distances of the iterates of a run by several metrics."""
        return self.root / "distances" / f"{key}.json"

    def write_rows(
        self, key: str, frame: pd.DataFrame, provenance: dict, confusions: Tensor | None = None
    ) -> None:
        """Keep the rows of an evaluation with their provenance, and a confusion matrix for each row."""
        if confusions is not None:  # first, because the rows say that the evaluation is done
            write_tensors(self.confusion_file(key), {"confusion": confusions.int()})
        write_json(self.evaluation_file(key), {"rows": frame.to_dict("records"), "provenance": provenance})

    def rows(self, keys: Iterable[str] | Mapping[str, dict] | None = None) -> pd.DataFrame:
        """Tidy rows of the named evaluations (each once), or of all of them.

        Args:
            keys: keys of evaluations, or the marks (`MARKS`) of the rows by key. Where only keys are given,
                rows have the marks of the table that they were computed for.

        Raises:
            HgladError: no evaluations in the folder, or a damaged one.
        """
        if keys is None:
            keys = sorted(path.stem for path in (self.root / "evaluations").glob("*.json"))
        marks = keys if isinstance(keys, Mapping) else {}
        if not keys:
            raise HgladError(f"no results in {self.root}: expected some from hglad run")
        parts = {key: _marked(self._part(key, "rows"), marks.get(key)) for key in dict.fromkeys(keys)}
        frames = [pd.DataFrame(rows).assign(key=key) for key, rows in parts.items()]
        return pd.concat(frames, ignore_index=True)

    def provenance(self, keys: list[str]) -> list[dict]:
        """Provenance of the named evaluations."""
        return [self._part(key, "provenance") for key in keys]

    def _part(self, key: str, part: str) -> list | dict:
        file = self.evaluation_file(key)
        content = read_json(file)
        if not isinstance(content, dict) or part not in content:
            raise HgladError(f"{file} has no {part}: delete it to have it made again")
        return content[part]


def _marked(rows: list[dict], marks: dict | None) -> list[dict]:
    """Rows with other marks; with those that they have where none are given."""
    if marks is None:
        return rows
    return [marks | {name: value for name, value in row.items() if name not in MARKS} for row in rows]


def whole(place: Path) -> bool:
    """Whether a result is there with all of its files, none of them cut short.

    Args:
        place: its file, as `Task.place` names it; the images of a set lie beside its card, the confusion
            matrices of an evaluation beside its rows.
    """
    if place.name == "card.json":
        return intact(place) and intact(place.with_name("distilled.safetensors"))
    beside = place.with_suffix(".safetensors")
    return intact(place) and (not beside.is_file() or intact(beside))
