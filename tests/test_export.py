"""Exported rows: nothing lost on the way to Parquet and CSV and back."""

import json

import pandas as pd
import pytest
from pyarrow import parquet
from result_frames import PROVENANCE, THREE_SEEDS, cell_rows, keep_rows

from hglad.analysis.rows import DESCRIPTION, export_rows
from hglad.cli import main
from hglad.experiments.store import Store

TRAINING, NETWORK = {"epochs": 5, "ema_decay": None}, {"name": "convnet", "width": 8}


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path / "results")
    full = cell_rows({0: [90.0]}, "full", objective=None, ipc=None)
    keep_rows(store, "a", cell_rows(THREE_SEEDS, layer=2), TRAINING, NETWORK, "fingerprint")
    keep_rows(store, "b", full, TRAINING, NETWORK, "full")
    return store


def test_each_row_has_the_provenance_of_its_evaluation(store):
    frame = export_rows(store)
    assert len(frame) == 7
    assert frame["accuracy"].tolist() == store.rows()["accuracy"].tolist()
    assert frame["set_fingerprint"].tolist() == ["fingerprint"] * 6 + ["full"]
    same = ("commit", "clean", "hglad", "python", "device", "started", "seconds", "data_hash")
    assert {name: frame[name].unique().tolist() for name in same} == {k: [PROVENANCE[k]] for k in same}
    assert frame["torch"].unique().tolist() == ["2.11.0"]
    assert [json.loads(frame[name][0]) for name in ("training", "network_options")] == [TRAINING, NETWORK]


@pytest.mark.parametrize(("suffix", "read"), [("parquet", pd.read_parquet), ("csv", pd.read_csv)])
def test_round_trip(store, tmp_path, capsys, suffix, read):
    file = tmp_path / f"rows.{suffix}"
    assert main(["results", "export", str(store.root), "--out", str(file)]) == 0
    assert capsys.readouterr().out == f"7 rows of 2 evaluations in {file}\n"
    pd.testing.assert_frame_equal(read(file).convert_dtypes(), export_rows(store))


def test_the_parquet_file_describes_itself(store, tmp_path):
    file = tmp_path / "rows.parquet"
    main(["results", "export", str(store.root), "--out", str(file)])
    metadata = parquet.read_schema(file).metadata
    assert metadata[b"description"].decode() == DESCRIPTION
    assert metadata[b"software"].startswith(b"hglad ")
    assert str(parquet.read_schema(file).field("ipc").type) == "int64"
