"""What is on record of a data set: enough to name, read and show its results where the images are not.

A record is `data/described/<name>-<resolution>.json`, written by `hglad data check --record`. A data set that
comes from one has images of the right shape without any content (on PyTorch's `meta` device): whatever would
look at a pixel fails, and nothing is computed from images that are not there.
"""

from itertools import accumulate
from pathlib import Path

import torch

from hglad.data.datasets import DataSet, RealData
from hglad.paths import PROJECT
from hglad.settings import DataSettings
from hglad.storage import read_json, write_json

FOLDER = PROJECT / "data" / "described"


def record_file(data: DataSettings, folder: Path = FOLDER) -> Path:
    """Where the record of a data set lies; an image folder is known by its own name."""
    place = data.root if data.name == "folder" and data.root else data.name
    return folder / f"{Path(place).name}-{data.resolution or 'own'}.json"


def record(dataset: DataSet, file: Path) -> None:
    """Write what is to be known of a data set."""
    splits = {
        split: {"counts": list(real.counts), "content_hash": real.content_hash}
        for split, real in (("train", dataset.train), ("test", dataset.test))
    }
    train = dataset.train
    statistics = {"mean": train.mean.tolist(), "std": train.std.tolist()}
    shape = {"image_shape": list(train.image_shape), "classes": list(train.classes)}
    write_json(file, {"name": dataset.name} | shape | statistics | splits)


def images_are_there(data: DataSettings) -> bool:
    """Whether the folder of the images exists, if the data set needs one."""
    return data.root is None or Path(data.root).is_dir()


def described(data: DataSettings, folder: Path = FOLDER) -> DataSet | None:
    """The data set as its record has it, without pixels; none where there is no record, or with a holdout."""
    file = record_file(data, folder)
    if data.holdout or not file.is_file():
        return None
    content = read_json(file)
    train, test = (_split(content, split) for split in ("train", "test"))
    return DataSet(content["name"], train, test)


def _split(content: dict, split: str) -> RealData:
    counts = content[split]["counts"]
    images = torch.empty(sum(counts), *content["image_shape"], dtype=torch.uint8, device="meta")
    offsets, classes = (0, *accumulate(counts)), tuple(content["classes"])
    mean, std = torch.tensor(content["mean"]), torch.tensor(content["std"])
    return RealData(content["name"], images, offsets, classes, mean, std, content[split]["content_hash"])
