"""Scores of one distilled set, for its card: of the results that it lies in, or of `hglad evaluate`."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hglad.analysis.statistics import spread, summarise
from hglad.analysis.tables import provenance_notes
from hglad.errors import HgladError
from hglad.evaluation.sets import DistilledSet
from hglad.experiments.store import Store, cell_columns, main_rows
from hglad.storage import read_json


@dataclass(frozen=True)
class Scores:
    """What networks that were trained on one set made of the test images."""

    rows: pd.DataFrame
    """A row per network: `network`, `seed`, `repeat`, `accuracy` in percent, marks such as `augmentation`."""
    training: dict[str, dict]
    """Training by network, and by what else tells scores apart."""
    records: list[dict]
    """Provenance of the evaluations."""

    @property
    def table(self) -> str:
        """Mean with interval of each network, in Markdown."""
        marks = [name for name in cell_columns(self.rows) if self.rows[name].nunique(dropna=False) > 1]
        summary = summarise(self.rows, list(dict.fromkeys(["network", *marks])), over="networks")
        cells = {
            name: summary[name].fillna("of the profile") for name in ("network", *marks) if name in summary
        }
        cells["accuracy (%)"] = [f"{line['mean']:.1f}{spread(line)}" for _, line in summary.iterrows()]
        cells |= {"sets (n)": summary["seeds"], "networks (m)": summary["repeats"]}
        return pd.DataFrame(cells).to_markdown(index=False, disable_numparse=True)

    @property
    def notes(self) -> list[str]:
        """What the numbers are."""
        trained = {_training_text(settings): [] for settings in self.training.values()}
        for network, settings in self.training.items():
            trained[_training_text(settings)].append(network)
        return [
            "Test accuracy on real images, mean ± half width of the 95 % t interval over the networks of "
            "this one set, which says nothing about another set by the same method.",
            *(f"Training ({'; '.join(networks)}): {text}." for text, networks in trained.items()),
            *provenance_notes(self.records),
        ]


def _label(row: pd.Series) -> str:
    augmentation = row.get("augmentation")
    return row["network"] if augmentation is None else f"{row['network']}, augmentation {augmentation}"


def _training_text(settings: dict) -> str:
    shown = {key: value or "none" for key, value in settings.items() if value is not None}
    return ", ".join(f"{key} {value}" for key, value in shown.items())


def find_scores(folder: Path, distilled: DistilledSet, file: Path | str | None = None) -> Scores | None:
    """Scores of a set: from `file`, else from the results that the set lies in; None where there are none.

    Args:
        folder: the set's; in a results folder it is `sets/<fingerprint>`.
        distilled: the set itself.
        file: written by `hglad evaluate --json`.

    Raises:
        HgladError: a file of something else, or of another set.
    """
    return _from_results(folder.resolve()) if file is None else _from_file(Path(file), distilled)


def _from_file(file: Path, distilled: DistilledSet) -> Scores:
    content = read_json(file)
    if not isinstance(content, dict) or not {"rows", "training", "set", "provenance"} <= content.keys():
        raise HgladError(f"{file} holds no scores: expected a file of hglad evaluate --json")
    if content["set"] != distilled.card:
        raise HgladError(f"{file} holds scores of another set: score this one with hglad evaluate --json")
    rows = pd.DataFrame(content["rows"])
    rows = rows[rows["set"] == "given"].drop(columns="set")
    return Scores(rows, content["training"], [content["provenance"]])


def _from_results(folder: Path) -> Scores | None:
    store = Store(folder.parent.parent)
    if folder.parent != store.root / "sets" or not (store.root / "evaluations").is_dir():
        return None
    frames, training, records = [], {}, []
    for key in sorted(path.stem for path in (store.root / "evaluations").glob("*.json")):
        (record,) = store.provenance([key])
        rows = main_rows(store.rows([key])) if record.get("set") == folder.name else pd.DataFrame()
        if len(rows):
            frames.append(rows.drop(columns="key"))
            training[_label(rows.iloc[0])] = record["settings"]["training"]
            records.append(record)
    return Scores(pd.concat(frames, ignore_index=True), training, records) if frames else None
