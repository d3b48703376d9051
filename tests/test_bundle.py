"""The bundle of a profile: complete, checkable, always the same bytes; nothing where results are missing."""

import base64
import hashlib
import io
import json
import re
import shutil
import zipfile
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from result_frames import THREE_SEEDS, cell_rows, keep_rows

from hglad.analysis.figures import Shown
from hglad.analysis.rows import export_rows
from hglad.book import bundle
from hglad.book.bundle import MANIFEST, Results, contents, figure_files, shown_in, write_zip
from hglad.book.notebooks import copies
from hglad.cli import main
from hglad.experiments.store import Store
from hglad.paths import PROJECT

CONFIG, COMMITTED = PROJECT / "configs" / "digits.yaml", PROJECT / "data" / "results" / "digits"
IMAGES = {"images": {"dataset": "digits", "shape": [1, 16, 16]}}


@pytest.fixture
def store(tmp_path) -> Store:
    """Results of one method and of the full set."""
    store = Store(tmp_path / "results")
    full = cell_rows({0: [90.0]}, "full", objective=None, ipc=None)
    keep_rows(store, "a", cell_rows(THREE_SEEDS), {"epochs": 5}, {"name": "convnet"}, "pixels", **IMAGES)
    keep_rows(store, "b", full, {"epochs": 5}, {"name": "convnet"}, "full", **IMAGES)
    return store


def unzipped(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def one_notebook(tmp_path_factory):
    """Bundle of the committed digits with the figures of a single notebook, the others left out for speed."""
    out = tmp_path_factory.mktemp("bundle") / "digits.zip"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "copies", lambda *places: [cross_architecture()])
        line = bundle.write_bundle("digits", COMMITTED, out)
    return line, out


def cross_architecture():
    return next(copy for copy in copies(CONFIG, COMMITTED, COMMITTED) if "cross" in copy.template.stem)


# A whole profile


def test_files_of_a_profile(one_notebook):
    line, out = one_notebook
    files = unzipped(out)
    folders = {path.split("/")[0] for path in files}
    assert folders == {"README.md", "figures", "rows", "settings", "tables", "provenance.json", MANIFEST}
    assert files["settings/digits.yaml"] == CONFIG.read_bytes()
    size = out.stat().st_size / 2**20
    assert line == f"{len(files)} files, 4 figures, {size:.1f} MiB in {out}"
    readme = files["README.md"].decode()
    unnamed = {name for name in files if f"`{name.rpartition('.')[0]}`" not in readme}
    assert unnamed == {"README.md", MANIFEST, "provenance.json"}
    assert f"## {MANIFEST}" in readme and "## provenance.json" in readme


def test_manifest_holds_the_checksum_of_every_other_file(one_notebook):
    files = unzipped(one_notebook[1])
    sums = dict(reversed(line.split("  ")) for line in files.pop(MANIFEST).decode().splitlines())
    assert sums == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def test_figures_and_numbers_are_those_of_the_executed_notebook(one_notebook):
    files, folder = unzipped(one_notebook[1]), "figures/04_cross_architecture/"
    book = PROJECT / "book" / "results" / "digits" / "04_cross_architecture.ipynb"
    outputs = [output for cell in nbformat.read(book, 4).cells for output in cell.get("outputs", [])]
    pages = "".join(output.get("data", {}).get("text/html", "") for output in outputs)
    links = re.findall(r'base64,([\w+/=]+)" download="([\w-]+)\.csv"', pages)
    numbers = {f"{folder}{name}.csv": base64.b64decode(content) for content, name in links}
    assert {
        name: content for name, content in files.items() if name.endswith(".csv") and folder in name
    } == numbers
    for name in numbers:
        assert files[name.replace(".csv", ".svg")].startswith(b"<?xml")
        with Image.open(io.BytesIO(files[name.replace(".csv", ".png")])) as image:
            assert image.format == "PNG"


def test_rows_and_provenance(one_notebook):
    files, store = unzipped(one_notebook[1]), Store(COMMITTED)
    rows = pd.read_parquet(io.BytesIO(files["rows/rows.parquet"]))
    keys = list(dict.fromkeys(rows["key"]))
    pd.testing.assert_frame_equal(rows.convert_dtypes(), export_rows(store, keys))
    found = json.loads(files["provenance.json"])
    assert {f"evaluations/{key}.json" for key in keys} <= found["results"].keys()
    cards = [place for place in found["results"] if place.startswith("sets/")]
    assert cards and all((COMMITTED / place).is_file() for place in cards)
    for key, record in zip(keys, store.provenance(keys), strict=True):
        kept = found["results"][f"evaluations/{key}.json"]
        assert {name: kept[name] for name in ("commit", "device")} == {
            name: record[name] for name in ("commit", "device")
        }
    assert found["bundle"].keys() == {"commit", "clean", "hglad", "python", "packages"}
    assert str(PROJECT).encode() not in b"".join(files.values())


def test_the_same_notebook_gives_the_same_figures(one_notebook):
    files = unzipped(one_notebook[1])
    copy = cross_architecture()
    again = figure_files(copy.template.stem, shown_in(copy))
    assert len(again) == 12
    assert again == {name: content for name, content in files.items() if name.startswith("figures/")}


# A folder of results


def test_bundle_of_a_folder(store, tmp_path, capsys):
    out = tmp_path / "out.zip"
    assert main(["report", str(store.root), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert re.fullmatch(
        r"\d+ files, 0 figures \(figures need the profile's .yaml file\), .* in .*\n", printed
    )
    files = unzipped(out)
    accuracy = {f"tables/accuracy{suffix}" for suffix in (".csv", ".md", ".tex")}
    assert files.keys() == accuracy | {
        "rows/rows.csv",
        "rows/rows.parquet",
        "provenance.json",
        "README.md",
        MANIFEST,
    }
    assert "53.0 ± 4.3 (3×2)" in files["tables/accuracy.md"].decode()
    numbers = pd.read_csv(io.BytesIO(files["tables/accuracy.csv"]))
    assert numbers.set_index("method")["mean"].to_dict() == {"pixels": 53.0, "full": 90.0}
    assert str(tmp_path) not in files["README.md"].decode() + files["provenance.json"].decode()


def test_the_same_results_give_the_same_bytes(store, tmp_path):
    for name in ("a.zip", "b.zip"):
        write_zip(contents(Results(store, None)), tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist()[:-1] == sorted(archive.namelist()[:-1])


def test_names_that_come_again_get_numbers():
    numbers = pd.DataFrame({"key": ["k"], "x": [1 / 3], "empty": [None]})
    plot, picture = Shown(Figure(), numbers, "plot"), Shown(Figure(), None, "figure")
    files = figure_files("x", [plot, plot, picture, picture])
    assert {path for path in files if not path.endswith(".png")} == {
        "figures/x/plot.svg", "figures/x/plot.csv", "figures/x/plot-2.svg", "figures/x/plot-2.csv",
        "figures/x/images.svg", "figures/x/images-2.svg",
    }  # fmt: skip
    assert files["figures/x/plot.csv"] == b"x\n0.333333\n"


# What is refused


def test_missing_results_say_which_command_computes_them(tmp_path, capsys):
    results, out = tmp_path / "results", tmp_path / "out.zip"
    shutil.copytree(COMMITTED, results)
    first = min(key for key in (path.stem for path in (results / "evaluations").glob("*.json")))
    (results / "evaluations" / f"{first}.json").unlink()
    assert main(["report", str(CONFIG), "--results", str(results), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert re.match(rf"hglad: 1 of \d+ results are missing in {results}: hglad run .*digits.yaml ", error)
    assert f"--results {results} computes them\n" in error
    assert not out.exists()


@pytest.mark.parametrize(("words", "message"), [
    ("digit --out x.zip", "no profile or folder of results 'digit': did you mean 'digits'?"),
    ("digits --out x.tar", "--out is x.tar: expected a name that ends in .zip"),
    ("none.yaml --out x.zip", "cannot read none.yaml"),
    ("empty --out x.zip", "no results in empty: expected some from hglad run"),
    ("empty --out file/x.zip", "cannot write file/x.zip"),
])  # fmt: skip
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file").touch()
    assert main(["report", *words.split()]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]
