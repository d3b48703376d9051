"""Exports of sets, read back by `datasets`, PyTorch and `hglad evaluate`: the same images and scores."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from replacing import replace

from hglad.cli import main
from hglad.data.datasets import DataSet, from_arrays
from hglad.errors import HgladError
from hglad.evaluation.evaluate import evaluate
from hglad.evaluation.export import FORMS, export_set, folder_names
from hglad.evaluation.sets import DistilledSet, read_set, to_uint8
from hglad.experiments.store import Store
from hglad.paths import PROJECT
from hglad.settings import TrainingSettings
from hglad.storage import read_json

NAMES = ("zebra", "ape", "mole")  # not by the alphabet, which `datasets` would sort them by
QUICK = TrainingSettings(epochs=3, lr=0.01, augmentation="", ema_decay=None)
NETWORK = {"convnet": {"name": "convnet", "depth": 1, "width": 8}}


def made_set(channels: int = 3, soft: bool = False) -> DistilledSet:
    """Two images of each of three classes, also beyond [0, 1]."""
    rng = torch.Generator().manual_seed(0)
    images = 1.2 * torch.rand(6, channels, 8, 8, generator=rng) - 0.1
    labels = torch.arange(3).repeat_interleave(2)
    if soft:
        labels = (4 * torch.nn.functional.one_hot(labels) + torch.rand(6, 3, generator=rng)).softmax(dim=1)
    return DistilledSet(images, labels, {"kind": "made", "seed": 1})


@pytest.fixture(scope="module")
def data() -> dict[int, DataSet]:
    """Data of three classes by their number of channels."""
    rng = np.random.default_rng(0)

    def split(channels: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.integers(256, size=(count, channels, 8, 8), dtype=np.uint8), np.arange(count) % 3

    return {n: from_arrays("made", split(n, 12), split(n, 30), NAMES) for n in (1, 3)}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Folder of real images with the classes `NAMES`."""
    for split in ("train", "test"):
        for name in NAMES:
            (tmp_path / "animals" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "animals" / split / name / "0.png")
    return tmp_path / "animals"


def exported(tmp_path: Path, made: DistilledSet, form: str, **request: object) -> Path:
    """Folder of an export of a set of digits' classes."""
    made.save(tmp_path / "set")
    export_set(tmp_path / "set", form, tmp_path / form, **{"data": "digits"} | request)
    return tmp_path / form


def load_with_datasets(path: Path, tmp_path: Path, builder: str | None = None) -> dict:
    """Features and rows that a fresh process without network reads with `datasets`."""
    script = (
        "import json, sys, datasets, numpy\n"
        "path, builder, out = sys.argv[1:]\n"
        "options = {'path': builder, 'data_files': path} if builder else {'path': path}\n"
        "split = datasets.load_dataset(**options)['train']\n"
        "rows = [row | {'image': numpy.asarray(row['image']).tolist()} for row in split]\n"
        "found = {'features': {k: str(v) for k, v in split.features.items()}, 'rows': rows}\n"
        "found |= {'names': split.features['label'].names, 'format': split[0]['image'].format}\n"
        "json.dump(found, open(out, 'w'))\n"
    )
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    out = tmp_path / "found.json"
    words = [sys.executable, "-c", script, str(path), builder or "", str(out)]
    subprocess.run(words, env=os.environ | offline, check=True, capture_output=True)
    return yaml.safe_load(out.read_text())


def front_matter(readme: Path) -> dict:
    """Keys at the start of a card."""
    return yaml.safe_load(readme.read_text().split("---\n")[1])


# Hugging Face `datasets`


@pytest.mark.parametrize(("form", "channels", "soft"), [
    ("imagefolder", 3, False), ("imagefolder", 1, True), ("parquet", 1, False), ("parquet", 3, True),
])  # fmt: skip
def test_datasets_reads_the_folder_with_its_card(tmp_path, data, monkeypatch, form, channels, soft):
    monkeypatch.setattr("hglad.evaluation.export.load_data", lambda *_: data[channels])
    made = made_set(channels, soft)
    found = load_with_datasets(exported(tmp_path, made, form), tmp_path)
    assert found["names"] == list(NAMES)
    assert found["format"] == "PNG"
    rows = sorted(found["rows"], key=lambda row: row["label"])  # folders are read by the alphabet
    assert [row["label"] for row in rows] == made.hard_labels.tolist()
    expected = to_uint8(made.images).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(np.array([row["image"] for row in rows]).reshape(expected.shape), expected)
    if soft:
        names = [name for name in found["features"] if name.startswith("probabilit")]
        values = np.array([np.ravel([row[name] for name in names]) for row in rows], np.float32)
        assert np.array_equal(values, made.labels.numpy())


def test_datasets_reads_the_parquet_file_alone(tmp_path, data, monkeypatch):
    monkeypatch.setattr("hglad.evaluation.export.load_data", lambda *_: data[3])
    (file,) = exported(tmp_path, made_set(), "parquet").glob("data/*")
    found = load_with_datasets(file, tmp_path, "parquet")
    assert found["names"] == list(NAMES)
    assert found["features"]["image"].startswith("Image(")
    assert len(found["rows"]) == 6


# Round trip through `hglad evaluate`


def scores(made: DistilledSet, data: DataSet) -> list[float]:
    return evaluate(made, data, NETWORK, 2, QUICK)["accuracy"].tolist()


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", ["imagefolder", "pt"])
def test_scores_are_those_of_the_set(tmp_path, data, monkeypatch, form, channels, soft):
    monkeypatch.setattr("hglad.evaluation.export.load_data", lambda *_: data[channels])
    made = made_set(channels, soft)
    place = exported(tmp_path, made, form)
    back = read_set(place / "distilled.pt" if form == "pt" else place, data[channels].train)
    if form == "imagefolder":  # 8 bits
        made = replace(made, images=to_uint8(made.images).float() / 255)
    assert torch.equal(back.images, made.images)
    assert back.labels.dtype == made.labels.dtype
    torch.testing.assert_close(back.labels, made.labels, rtol=0, atol=1e-7)
    assert scores(back, data[channels]) == scores(made, data[channels])


def test_pt_is_plain_tensors(tmp_path):
    made = made_set(1)
    content = torch.load(exported(tmp_path, made, "pt") / "distilled.pt", weights_only=True)
    assert torch.equal(content["images"], made.images)
    assert content["images"].dtype == torch.float32
    assert content["classes"] == [str(digit) for digit in range(10)]
    assert content["card"] == made.card


def test_soft_labels_of_an_image_are_missed(tmp_path, data, monkeypatch):
    monkeypatch.setattr("hglad.evaluation.export.load_data", lambda *_: data[3])
    place = exported(tmp_path, made_set(soft=True), "imagefolder") / "train"
    (place / "ape" / "000.png").rename(place / "ape" / "other.png")
    with pytest.raises(HgladError, match=r"metadata.csv has no labels of ape/other.png: add them"):
        read_set(place, data[3].train)


def test_classes_are_numbered_where_a_name_is_no_folder():
    assert folder_names(("a", "b")) == ("a", "b")
    assert folder_names(("a/b", "c")) == ("0", "1")
    assert folder_names(("ape", "Ape", *"bcdefghij")) == tuple(f"{i:02d}" for i in range(11))


# The card


def test_card_of_a_set_of_digits(tmp_path):
    text = (exported(tmp_path, made_set(1), "parquet") / "README.md").read_text()
    keys = front_matter(tmp_path / "parquet" / "README.md")
    assert keys["license"] == "cc-by-4.0"
    assert keys["task_categories"] == ["image-classification"]
    assert keys["size_categories"] == ["n<1K"]
    assert [feature["name"] for feature in keys["dataset_info"]["features"]] == ["image", "label"]
    parts = ("Optical Recognition of Handwritten Digits", "CC BY 4.0", "8 bits", "Not scored.", "seed: 1")
    assert [part for part in parts if part not in text] == []


def test_only_rounded_images_are_said_to_be_rounded(tmp_path):
    assert "8 bits" not in (exported(tmp_path, made_set(1), "pt") / "README.md").read_text()


@pytest.mark.parametrize(("license", "keys"), [
    (None, {"license": "unknown"}),
    ("CC BY 4.0", {"license": "cc-by-4.0"}),
    ("for my friends only", {"license": "other", "license_name": "for my friends only"}),
])  # fmt: skip
def test_license_of_own_images(tmp_path, folder, license, keys):
    place = exported(tmp_path, made_set(), "pt", data="folder", root=str(folder), license=license)
    found = front_matter(place / "README.md")
    assert {key: value for key, value in found.items() if key.startswith("license")} == keys
    text = (place / "README.md").read_text()
    assert f"- license: {license or 'unknown: state it'}\n" in text
    assert "- data: animals\n" in text
    assert str(tmp_path) not in text


def test_card_has_the_scores_of_the_results_around_the_set(tmp_path):
    store = Store(PROJECT / "data" / "results" / "digits")
    key = store.provenance(["011925416950"])[0]["set"]
    export_set(store.set_folder(key), "pt", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    mean = store.rows(["011925416950"])["accuracy"].mean()
    (line,) = [line for line in text.splitlines() if line.startswith("| AlexNet")]
    *_, accuracy, sets, networks, _ = (cell.strip() for cell in line.split("|"))
    assert accuracy.startswith(f"{mean:.1f} ± ")
    assert (sets, networks) == ("1", "2")
    assert "- objective: distribution matching (DM)" in text
    assert "- generator: none" in text
    assert re.search(r"Training \([^)]*AlexNet[^)]*\): epochs 200, ", text)


def test_card_has_the_scores_of_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made_set(1).save("set")
    words = "evaluate set --data digits --resolution 8 --repeats 2 --epochs 1 --json scores.json"
    assert main(words.split()) == 0
    words = "export set --data digits --format pt --out out --scores scores.json"
    assert main(words.split()) == 0
    rows = read_json("scores.json")["rows"]
    mean = sum(row["accuracy"] for row in rows) / 2
    assert re.search(rf"\| convnet +\| {mean:.1f} ", Path("out/README.md").read_text())
    replace(made_set(1), card={"kind": "another"}).save("other")
    assert main(words.replace("set", "other", 1).replace("--out out", "--out new").split()) == 1
    assert "scores.json holds scores of another set" in capsys.readouterr().err
    assert not Path("new").exists()


# What is refused


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
    assert error.count("\n") == 1
    assert message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "there"]


def test_a_set_of_more_classes_than_the_data(tmp_path, folder):
    made = DistilledSet(torch.rand(4, 3, 8, 8), torch.arange(4), {"kind": "made"})
    with pytest.raises(HgladError, match="the set has 4 classes, animals has 3"):
        exported(tmp_path, made, "pt", data="folder", root=str(folder))


def test_classes_of_data_that_is_not_at_hand_are_numbered(tmp_path, monkeypatch):
    monkeypatch.setenv("HGLAD_CACHE", str(tmp_path / "nothing"))
    settings = {"data": {"name": "cifar10", "root": None}, "prior": str(tmp_path / "mine.safetensors")}
    made = made_set()
    card = {"settings": settings | {"kind": "pixels", "objective": "dm", "ipc": 2, "seed": 0, "search": {}}}
    card["settings"] |= {"metric": {"name": "feature"}}
    card |= {"stages": [{"name": "pixels", "steps": 3}], "best": {"stage": 0, "step": 2}, "distance": 1.0}
    replace(made, card=card | {"classes": 10}).save(tmp_path / "set")
    with pytest.warns(UserWarning, match="classes are called 0 to 9, for their names are not at hand"):
        export_set(tmp_path / "set", "imagefolder", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out" / "train").iterdir()} == {"0", "1", "2"}
    text = (tmp_path / "out" / "README.md").read_text()
    assert "license: unknown" in text and "none given by its authors" in text
    assert str(tmp_path) not in text and "mine.safetensors" in text


def test_the_command_offers_every_form():
    assert set(("imagefolder", "parquet", "pt")) == set(FORMS)
