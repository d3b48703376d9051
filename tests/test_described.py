"""Records of data sets: results can be named and read where the images are not."""

import pytest
import torch
from replacing import replace

from hglad.cli import main
from hglad.data.described import described, record, record_file
from hglad.search import distillation
from hglad.settings import DataSettings


@pytest.fixture
def recorded(small_digits, tmp_path):
    """Settings of a folder that is not there, and the folder of its record."""
    data = DataSettings("folder", str(tmp_path / "absent" / "mine"), 8)
    record(small_digits, record_file(data, tmp_path))
    return data, tmp_path


def test_a_folder_has_one_record_however_it_is_named(tmp_path):
    for data in (DataSettings("folder", "datasets/leaves", 32), DataSettings("datasets/leaves", None, 32)):
        assert record_file(data, tmp_path) == tmp_path / "leaves-32.json"
    assert record_file(DataSettings("cifar10", "datasets", 32), tmp_path) == tmp_path / "cifar10-32.json"


def test_a_record_has_all_but_the_pixels(recorded, small_digits):
    found = described(*recorded)
    for split in ("train", "test"):
        real, own = getattr(small_digits, split), getattr(found, split)
        assert own.content_hash == real.content_hash and own.offsets == real.offsets
        assert (own.classes, own.image_shape, len(own.images)) == (
            real.classes, real.image_shape, len(real.images),
        )  # fmt: skip
        assert torch.equal(own.mean, real.mean) and torch.equal(own.std, real.std)


def test_nothing_can_be_computed_from_a_record(recorded):
    train = described(*recorded).train
    batch = train.batch(2, torch.Generator())
    assert batch.is_meta and batch.shape == (10, 2, *train.image_shape)
    with pytest.raises(RuntimeError, match="meta tensor"):
        batch.sum().item()


def test_images_that_are_there_go_before_their_record(recorded, small_digits, monkeypatch):
    data, folder = recorded
    assert described(replace(data, resolution=16), folder) is None
    assert described(replace(data, holdout=0.25), folder) is None
    monkeypatch.setattr(distillation, "described", lambda data: described(data, folder))
    known = distillation.known_real(data)
    assert known.train.images.is_meta and known.train.content_hash == small_digits.train.content_hash
    digits = DataSettings("digits", resolution=8)
    assert distillation.known_real(digits) is distillation.load_real(digits)


def test_the_command_writes_a_record(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hglad.data.described.record_file", lambda data: tmp_path / "mine.json")
    assert main(["data", "check", "digits", "--resolution", "8", "--record"]) == 0
    assert (tmp_path / "mine.json").is_file() and '"digits"' in capsys.readouterr().out
