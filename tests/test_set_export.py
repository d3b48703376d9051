"""Exports of sets, read back by `datasets`, PyTorch and `hglad evaluate`: the same images and scores."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from hglad.cli import main
from hglad.data.datasets import DataSet, from_arrays
from hglad.errors import HgladError
from hglad.evaluation.evaluate import evaluate
from hglad.evaluation.export import export_set, folder_names
from hglad.evaluation.sets import DistilledSet, read_set, to_uint8
from hglad.paths import PROJECT
from hglad.settings import TrainingSettings
from hglad.storage import read_json

NAMES = ("zebra", "ape", "mole")  # not by the alphabet, which `datasets` would sort them by


def made_set(channels: int = 3, soft: bool = False) -> DistilledSet:
    """Two images of each of three classes, also beyond [0, 1]."""
    rng = torch.Generator().manual_seed(0)
    images = 1.2 * torch.rand(6, channels, 8, 8, generator=rng) - 0.1
    labels = torch.arange(3).repeat_interleave(2)
    if soft:
        labels = (4 * torch.nn.functional.one_hot(labels) + torch.rand(6, 3, generator=rng)).softmax(dim=1)
    return DistilledSet(images, labels, {"kind": "made", "seed": 1})


@pytest.fixture
def data(monkeypatch) -> dict[int, DataSet]:
    """Data of three classes by their number of channels, which an export finds by every name."""
    rng = np.random.default_rng(0)

    def split(channels: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.integers(256, size=(count, channels, 8, 8), dtype=np.uint8), np.arange(count) % 3

    made = {n: from_arrays("made", split(n, 12), split(n, 30), NAMES) for n in (1, 3)}
    monkeypatch.setattr("hglad.evaluation.export.load_data", lambda *_: made[1])
    return made


@pytest.fixture
def folder(tmp_path) -> str:
    """Folder of real images with the classes `NAMES`."""
    for split in ("train", "test"):
        for name in NAMES:
            (tmp_path / "animals" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "animals" / split / name / "0.png")
    return str(tmp_path / "animals")


def exported(tmp_path: Path, made: DistilledSet, form: str, data: str | None = "digits", **options) -> Path:
    """Folder of an export of a set."""
    made.save(tmp_path / "set")
    assert export_set(tmp_path / "set", form, tmp_path / form, data, **options) == len(made.images)
    return tmp_path / form


def card_of(place: Path) -> tuple[dict, str]:
    """Keys at the start of a card, and the whole of it."""
    text = (place / "README.md").read_text()
    return yaml.safe_load(text.split("---\n")[1]), text


READ = """
import json, sys, datasets, numpy
path, builder, out = sys.argv[1:]
options = {'path': builder, 'data_files': path} if builder else {'path': path}
split = datasets.load_dataset(**options)['train']
rows = [row | {'image': numpy.asarray(row['image']).tolist()} for row in split]
found = {'features': {k: str(v) for k, v in split.features.items()}, 'rows': rows}
found |= {'names': split.features['label'].names, 'format': split[0]['image'].format}
json.dump(found, open(out, 'w'))
"""


@pytest.mark.parametrize(("form", "channels", "soft"), [
    ("imagefolder", 1, True), ("parquet", 1, False), ("parquet", 3, True), ("file alone", 3, False)
])  # fmt: skip
def test_datasets_reads_names_images_and_labels(tmp_path, data, form, channels, soft):
    """In a fresh process without network, by its card, or the Parquet file alone."""
    made = made_set(channels, soft)
    place, builder = exported(tmp_path, made, "parquet" if form == "file alone" else form), ""
    if form == "file alone":
        (place,), builder = place.glob("data/*"), "parquet"
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    words = [sys.executable, "-c", READ, str(place), builder, str(tmp_path / "found.json")]
    subprocess.run(words, env=os.environ | offline, check=True, capture_output=True)
    found = read_json(tmp_path / "found.json")
    assert found["names"] == list(NAMES) and found["format"] == "PNG"
    rows = sorted(found["rows"], key=lambda row: row["label"])  # folders are read by the alphabet
    assert [row["label"] for row in rows] == made.hard_labels.tolist()
    expected = to_uint8(made.images).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(np.array([row["image"] for row in rows]).reshape(expected.shape), expected)
    if soft:
        names = [name for name in found["features"] if name.startswith("probabilit")]
        values = np.array([np.ravel([row[name] for name in names]) for row in rows], np.float32)
        assert np.array_equal(values, made.labels.numpy())


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", ["imagefolder", "pt"])
def test_what_is_exported_is_read_back_and_scores_as_before(tmp_path, data, form, channels, soft):
    made, real = made_set(channels, soft), data[channels]
    place = exported(tmp_path, made, form)
    back = read_set(place / "distilled.pt" if form == "pt" else place, real.train)
    if form == "imagefolder":  # 8 bits
        made = replace(made, images=to_uint8(made.images).float() / 255)
    else:
        content = torch.load(place / "distilled.pt", weights_only=True)
        assert content["classes"] == list(NAMES) and content["card"] == made.card
    assert torch.equal(back.images, made.images)
    assert back.labels.dtype == made.labels.dtype
    torch.testing.assert_close(back.labels, made.labels, rtol=0, atol=1e-7)
    network, quick = {"a": {"name": "convnet", "depth": 1, "width": 8}}, TrainingSettings(epochs=3, lr=0.01)
    one, other = (evaluate(each, real, network, 2, quick)["accuracy"].tolist() for each in (back, made))
    assert one == other
    if form == "imagefolder" and soft:
        (place / "train/ape/000.png").rename(place / "train/ape/other.png")
        with pytest.raises(HgladError, match=r"metadata.csv has no labels of ape/other.png: add them"):
            read_set(place, real.train)


def test_classes_are_numbered_where_a_name_is_no_folder():
    assert folder_names(("a", "b")) == ("a", "b")
    assert folder_names(("a/b", "c")) == ("0", "1")
    assert folder_names(("ape", "Ape", *"bcdefghij")) == tuple(f"{i:02d}" for i in range(11))


# The card


def test_card_of_a_set_of_digits(tmp_path):
    keys, text = card_of(exported(tmp_path, made_set(1), "parquet"))
    assert keys["license"] == "cc-by-4.0" and keys["size_categories"] == ["n<1K"]
    assert keys["task_categories"] == ["image-classification"]
    assert [feature["name"] for feature in keys["dataset_info"]["features"]] == ["image", "label"]
    parts = ("Optical Recognition of Handwritten Digits", "CC BY 4.0", "8 bits", "Not scored.", "seed: 1")
    assert [part for part in parts if part not in text] == []
    assert "8 bits" not in card_of(exported(tmp_path, made_set(1), "pt"))[1]


@pytest.mark.parametrize(("license", "keys"), [
    (None, {"license": "unknown"}),
    ("CC BY 4.0", {"license": "cc-by-4.0"}),
    ("for my friends only", {"license": "other", "license_name": "for my friends only"}),
])  # fmt: skip
def test_license_of_own_images(tmp_path, folder, license, keys):
    found, text = card_of(exported(tmp_path, made_set(), "pt", "folder", root=folder, license=license))
    assert {key: value for key, value in found.items() if key.startswith("license")} == keys
    assert f"- license: {license or 'unknown: state it'}\n" in text
    assert "- data: animals\n" in text and str(tmp_path) not in text


def test_card_has_the_scores_of_the_results_around_the_set(tmp_path):
    results = PROJECT / "data" / "results" / "digits"
    for file in sorted((results / "evaluations").glob("*.json")):
        content = read_json(file)
        rows, record = content["rows"], content["provenance"]
        if rows[0]["method"] == "pixels" and rows[0]["network"] == "AlexNet" and "iterate" not in rows[0]:
            break
    export_set(results / "sets" / record["set"], "pt", tmp_path / "out")
    _, text = card_of(tmp_path / "out")
    (line,) = [line for line in text.splitlines() if line.startswith("| AlexNet")]
    *_, accuracy, sets, networks, _ = (cell.strip() for cell in line.split("|"))
    mean = sum(row["accuracy"] for row in rows) / len(rows)
    assert accuracy.startswith(f"{mean:.1f} ± ") and (sets, networks) == ("1", str(len(rows)))
    assert f"({rows[0]['objective'].upper()})" in text and "- generator: none" in text
    assert re.search(r"Training \([^)]*AlexNet[^)]*\): epochs 200, ", text)


def test_card_has_the_scores_of_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made_set(1).save("set")
    words = "evaluate set --data digits --resolution 8 --repeats 2 --epochs 1 --json scores.json"
    assert main(words.split()) == 0
    words = "export set --data digits --format pt --out out --scores scores.json"
    assert main(words.split()) == 0
    mean = sum(row["accuracy"] for row in read_json("scores.json")["rows"]) / 2
    assert re.search(rf"\| convnet +\| {mean:.1f} ", Path("out/README.md").read_text())
    replace(made_set(1), card={"kind": "another"}).save("other")
    assert main(words.replace("set", "other", 1).replace("--out out", "--out new").split()) == 1
    assert "scores.json holds scores of another set" in capsys.readouterr().err
    assert not Path("new").exists()


@pytest.mark.parametrize(("words", "message"), [
    ("--out there", "there is there already: name a new folder"),
    ("--out set.pt", "--out is set.pt: expected the name of a folder"),
    ("--out new --data digit", "no data set 'digit'"),
    ("--out new", "the set does not say which data it stands for: name the data set with --data NAME"),
    ("--out new --data digits --license MIT", "digits has one: CC BY 4.0; leave it out"),
    ("--out new --data digits --scores none.json", "no file none.json"),
    ("--out there/file/new --data digits", "cannot write there/file/new"),
])  # fmt: skip
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    made_set(1).save("set")
    Path("there").mkdir()
    Path("there/file").write_text("text")
    assert main(["export", "set", "--format", "pt", *words.split()]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "there"]


def test_a_set_of_more_classes_than_the_data(tmp_path, folder):
    made = DistilledSet(torch.rand(4, 3, 8, 8), torch.arange(4), {"kind": "made"})
    with pytest.raises(HgladError, match="the set has 4 classes, animals has 3"):
        exported(tmp_path, made, "pt", "folder", root=folder)


def test_classes_of_data_that_is_not_at_hand_are_numbered(tmp_path, monkeypatch):
    monkeypatch.setenv("HGLAD_CACHE", str(tmp_path / "nothing"))
    settings = {"data": {"name": "cifar10", "root": None}, "prior": str(tmp_path / "mine.safetensors")}
    settings |= {"kind": "pixels", "objective": "dm", "ipc": 2, "seed": 0, "search": {}}
    settings |= {"metric": {"name": "feature"}}
    card = {"stages": [{"name": "pixels", "steps": 3}], "best": {"stage": 0, "step": 2}, "distance": 1.0}
    made = replace(made_set(), card=card | {"classes": 10, "settings": settings})
    with pytest.warns(UserWarning, match="classes are called 0 to 9, for their names are not at hand"):
        place = exported(tmp_path, made, "imagefolder", None)
    assert {path.name for path in (place / "train").iterdir()} == {"0", "1", "2"}
    _, text = card_of(place)
    assert "license: unknown" in text and "none given by its authors" in text
    assert str(tmp_path) not in text and "mine.safetensors" in text
