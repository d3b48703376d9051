"""Distilled sets: what is saved comes back bit for bit, what is not one is refused, the grid shows it."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hglad.errors import HgladError
from hglad.evaluation.sets import DistilledSet, save_grid, to_uint8
from hglad.storage import read_tensors, write_tensors

CLASSES, IPC = 3, 2


def some_set(channels: int = 3, iterates: bool = False) -> DistilledSet:
    """Images outside [0, 1] as well, as a generator makes them."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(CLASSES * IPC, channels, 4, 5, generator=rng)
    labels = torch.arange(CLASSES).repeat_interleave(IPC)
    kept = to_uint8(torch.rand(7, *images.shape, generator=rng)) if iterates else None
    return DistilledSet(images, labels, {"seed": 0, "history": [[0, 0, 1.5]], "note": None}, kept)


@pytest.mark.parametrize("iterates", [False, True])
def test_round_trip_bit_for_bit(tmp_path, iterates):
    made = some_set(iterates=iterates)
    made.save(tmp_path / "set")
    read = DistilledSet.load(tmp_path / "set")
    assert torch.equal(read.images.view(torch.int32), made.images.view(torch.int32))
    assert torch.equal(read.labels, made.labels)
    assert read.labels.dtype == torch.int64
    assert read.card == made.card
    assert (read.iterates is None) == (made.iterates is None)
    assert not iterates or torch.equal(read.iterates, made.iterates)
    assert read.ipc == IPC


def test_the_folder_holds_what_others_read(tmp_path):
    made = some_set()
    made.save(tmp_path / "set")
    assert sorted(os.listdir(tmp_path / "set")) == ["card.json", "distilled.safetensors", "grid.png"]
    tensors = read_tensors(tmp_path / "set" / "distilled.safetensors")
    assert torch.equal(tensors["images_uint8"], to_uint8(made.images))


def test_saving_again_replaces_everything(tmp_path):
    some_set(iterates=True).save(tmp_path / "set")
    some_set().save(tmp_path / "set")
    assert DistilledSet.load(tmp_path / "set").iterates is None
    assert os.listdir(tmp_path) == ["set"]


def test_an_empty_folder_may_be_filled(tmp_path):
    some_set().save(tmp_path)
    assert DistilledSet.load(tmp_path).ipc == IPC


def test_other_files_are_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(HgladError, match=f"{tmp_path} holds other files"):
        some_set().save(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "text"


def test_to_uint8_rounds_and_clamps():
    values = torch.tensor([-1.0, 0.0, 0.4 / 255, 0.6 / 255, 99.4 / 255, 99.6 / 255, 1.0, 1.7])
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 99, 100, 255, 255]
    assert to_uint8(values).dtype == torch.uint8


def test_uint8_images_survive_the_way_over_floats():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(levels.float() / 255), levels)


@pytest.mark.parametrize("shape", [(6, 4, 5), (5, 3, 4, 5), (7, 3, 4, 5), (1, 6, 3, 4, 5)])
def test_shapes_that_do_not_fit_are_named(shape):
    labels = torch.arange(CLASSES).repeat_interleave(IPC)
    with pytest.raises(HgladError) as caught:
        DistilledSet(torch.zeros(shape), labels, {})
    assert str(list(shape)) in str(caught.value)
    assert "for 6 labels: expected (n, channels, height, width) and n labels" in str(caught.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_grid_has_one_column_per_class(tmp_path, channels):
    made = some_set(channels)
    save_grid(made.images, IPC, tmp_path / "grid.png")
    grid = np.asarray(Image.open(tmp_path / "grid.png"))  # make_grid turns grey into three channels
    height, width = made.images.shape[2:]
    assert grid.shape == (IPC * (height + 1) + 1, CLASSES * (width + 1) + 1, 3)
    for label in range(CLASSES):
        for row in range(IPC):
            top, left = row * (height + 1) + 1, label * (width + 1) + 1
            shown = torch.from_numpy(grid[top : top + height, left : left + width].copy()).permute(2, 0, 1)
            difference = shown.int() - to_uint8(made.images[label * IPC + row]).int()
            assert difference.abs().max() <= 1  # the writer rounds halves otherwise


@pytest.mark.parametrize("labels", [torch.ones(6, dtype=torch.int32), torch.ones(6), torch.ones(6, 3).long()])
def test_labels_of_another_kind_are_named(labels):
    with pytest.raises(HgladError, match=r"expected int64 \(n,\) or probabilities, float \(n, classes\)"):
        DistilledSet(torch.zeros(6, 3, 4, 5), labels, {})


def test_soft_labels_round_trip(tmp_path):
    soft = torch.rand(CLASSES * IPC, CLASSES, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    made = DistilledSet(some_set().images, soft, {})
    made.save(tmp_path / "set")
    read = DistilledSet.load(tmp_path / "set")
    assert torch.equal(read.labels, soft) and torch.equal(read.hard_labels, soft.argmax(dim=1))
    assert sum(read.counts) == CLASSES * IPC and len(read.counts) == CLASSES


@pytest.mark.parametrize("labels", [[0, 0, 0, 1, 2, 2], [1, 1, 2, 2, 2, 2], []])
def test_an_uneven_set_has_no_ipc(labels):
    made = DistilledSet(torch.zeros(len(labels), 3, 4, 5), torch.tensor(labels, dtype=torch.int64), {})
    assert list(made.counts) == [labels.count(label) for label in range(max(labels, default=-1) + 1)]
    with pytest.raises(HgladError, match="images per class: it has no single ipc; use its counts"):
        _ = made.ipc


def grid_of(made: DistilledSet, folder: Path) -> bytes:
    made.save(folder)
    return (folder / "grid.png").read_bytes()


def test_the_grid_of_an_unsorted_set_is_that_of_the_sorted_one(tmp_path):
    made, order = some_set(), torch.tensor([4, 2, 0, 5, 1, 3])
    unsorted = DistilledSet(made.images[order], made.labels[order], {})
    assert unsorted.ipc == IPC
    assert grid_of(unsorted, tmp_path / "a") == grid_of(made, tmp_path / "b")


def test_the_grid_of_an_uneven_set_shows_every_image_once(tmp_path):
    images = torch.linspace(0.1, 0.9, 5).view(5, 1, 1, 1).expand(5, 3, 4, 6)
    grid_of(DistilledSet(images, torch.tensor([0, 0, 0, 1, 2]), {}), tmp_path / "set")
    grid = np.asarray(Image.open(tmp_path / "set" / "grid.png"))
    assert grid.shape == (2 * 5 + 1, 3 * 7 + 1, 3)
    shown = [grid[1 + 5 * row, 1 + 7 * column, 0] for row in range(2) for column in range(3)]
    np.testing.assert_allclose(shown[:5], np.linspace(0.1, 0.9, 5) * 255, atol=1)


def test_the_grid_is_a_png_under_any_name(tmp_path):
    save_grid(some_set().images, IPC, tmp_path / "grid")
    assert Image.open(tmp_path / "grid").format == "PNG"


def test_a_folder_without_a_set_is_named(tmp_path):
    with pytest.raises(HgladError, match=f"no file {tmp_path}/none/distilled.safetensors"):
        DistilledSet.load(tmp_path / "none")


@pytest.mark.parametrize("name", ["card.json", "distilled.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_set_is_named(tmp_path, name, damage):
    some_set().save(tmp_path / "set")
    file = tmp_path / "set" / name
    content = file.read_bytes()
    file.unlink() if damage == "missing" else file.write_bytes(content[: len(content) // 2])
    with pytest.raises(HgladError, match=str(file)):
        DistilledSet.load(tmp_path / "set")


def test_tensors_of_something_else_are_refused(tmp_path):
    write_tensors(tmp_path / "distilled.safetensors", {"weight": torch.ones(1), "bias": torch.ones(1)})
    with pytest.raises(HgladError, match="safetensors has bias, weight: expected images and labels"):
        DistilledSet.load(tmp_path)
