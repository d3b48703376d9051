"""Tidy result rows with their provenance, for other tools: Parquet or CSV."""

import json
from pathlib import Path

import pandas as pd

from hglad import __version__
from hglad.errors import HgladError
from hglad.experiments.store import Store
from hglad.storage import publish

DESCRIPTION = (
    "Test accuracy in percent of networks trained on distilled or real sets: one row per set, network and "
    "repeat. seed: distillation seed; repeat: network of that seed; ipc: images per class (missing: all); "
    "iterate: place in the search where not the selected images were scored; training, network_options: JSON."
)


def export_rows(store: Store, keys: list[str] | None = None) -> pd.DataFrame:
    """Result rows, each with the provenance of its evaluation.

    Returns:
        The columns of the rows and `key`; `set_fingerprint`, `data_hash`, `commit`, `clean`, `hglad`,
        `python`, a column per package (`torch`, ...), `device`, `started` (UTC), `seconds` (of the whole
        evaluation), `peak_memory_mib`; `training` and `network_options` as JSON.
    """
    rows = store.rows(keys)
    keys = list(dict.fromkeys(rows["key"]))
    records = pd.DataFrame(map(_flat, store.provenance(keys))).assign(key=keys)
    return rows.merge(records, on="key", suffixes=("", "_of_evaluation")).convert_dtypes()


def _flat(record: dict) -> dict[str, object]:
    settings = record["settings"]
    return {
        "set_fingerprint": record["set"],
        "data_hash": record["data_hash"],
        **{name: record[name] for name in ("commit", "clean", "hglad", "python")},
        **record["packages"],
        **{name: record[name] for name in ("device", "started", "seconds", "peak_memory_mib")},
        "training": json.dumps(settings["training"]),
        "network_options": json.dumps(settings["network"]),
        "algorithms": json.dumps(record.get("algorithms") or {}),
    }


def write_rows(frame: pd.DataFrame, path: Path | str) -> None:
    """Write rows as Parquet (with a description in the file's metadata) or CSV, by the suffix of `path`.

    Raises:
        HgladError: another suffix, Parquet without pyarrow, or a place that cannot be written.
    """
    with publish(path) as draft:
        WRITERS[check_suffix(path)](frame, draft)


def check_suffix(path: Path | str) -> str:
    """Suffix of a file to export to; raises `HgladError` when it is neither .parquet nor .csv."""
    suffix = Path(path).suffix
    if suffix not in WRITERS:
        raise HgladError(f"cannot export to {path}: expected a name that ends in {' or '.join(WRITERS)}")
    return suffix


def _write_parquet(frame: pd.DataFrame, path: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise HgladError(f"{path.name} needs pyarrow: pip install pyarrow, or export to .csv") from None
    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    about = {b"description": DESCRIPTION.encode(), b"software": f"hglad {__version__}".encode()}
    parquet.write_table(table.replace_schema_metadata({**table.schema.metadata, **about}), path)


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False)


WRITERS = {".parquet": _write_parquet, ".csv": _write_csv}
