"""Distilled sets: ours come back bit for bit, those of others as written, what does not fit is named."""

import json
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torchvision.utils import save_image

from hglad.data.datasets import RealData, from_arrays
from hglad.errors import HgladError
from hglad.evaluation.sets import LARGEST_SPILL, DistilledSet, read_set, save_grid, to_uint8
from hglad.storage import read_tensors, write_tensors

NAMES = ("ant", "bee", "cat")
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
SOFT = torch.tensor(
    [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0, 1, 0], [0.1, 0.8, 0.1], [0, 0.2, 0.8], [0, 0, 1.0]]
)
ORDER = torch.tensor([4, 2, 0, 5, 1, 3])


def real_set(channels: int) -> RealData:
    """Two noise images of each class; height and width differ, so that no order of the axes passes unseen."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, channels, 6, 7), dtype=np.uint8)
    return from_arrays("insects", (pixels, LABELS.numpy()), (pixels, LABELS.numpy()), NAMES).train


@pytest.fixture(scope="module")
def real() -> RealData:
    return real_set(3)


@pytest.fixture(scope="module")
def gray() -> RealData:
    return real_set(1)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Multiples of 1/255, which uint8 keeps."""
    return torch.randint(0, 256, (6, 3, 6, 7), generator=torch.Generator().manual_seed(1)).float() / 255


# Ours


def wild_set(channels: int = 3, iterates: bool = False, labels: Tensor = LABELS) -> DistilledSet:
    """Images outside [0, 1] as well, as a generator makes them."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(len(labels), channels, 4, 5, generator=rng)
    kept = to_uint8(torch.rand(7, *images.shape, generator=rng)) if iterates else None
    return DistilledSet(images, labels, {"seed": 0, "history": [[0, 0, 1.5]], "note": None}, kept)


@pytest.mark.parametrize("iterates", [False, True])
@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["hard", "soft"])
def test_our_sets_come_back_bit_for_bit_and_replace_one_another(tmp_path, iterates, labels):
    wild_set(iterates=not iterates).save(tmp_path)
    made = wild_set(iterates=iterates, labels=labels)
    made.save(tmp_path)
    found = DistilledSet.load(tmp_path)
    assert torch.equal(found.images.view(torch.int32), made.images.view(torch.int32))
    assert torch.equal(found.labels, labels) and found.labels.dtype == labels.dtype
    assert found.card == made.card and found.ipc == 2 and found.counts == (2, 2, 2)
    assert (found.iterates is None) == (not iterates)
    assert not iterates or torch.equal(found.iterates, made.iterates)
    assert sorted(os.listdir(tmp_path)) == ["card.json", "distilled.safetensors", "grid.png"]
    tensors = read_tensors(tmp_path / "distilled.safetensors")
    assert torch.equal(tensors["images_uint8"], to_uint8(made.images))


def test_other_files_are_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(HgladError, match=f"{tmp_path} holds other files"):
        wild_set().save(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "text"


def test_to_uint8_rounds_and_clamps():
    values = torch.tensor([-1.0, 0.0, 0.4 / 255, 0.6 / 255, 99.4 / 255, 99.6 / 255, 1.0, 1.7])
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 99, 100, 255, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_grid_has_a_column_for_each_class_whatever_the_order(tmp_path, channels):
    made = wild_set(channels)
    made.save(tmp_path / "a")
    DistilledSet(made.images[ORDER], made.labels[ORDER], {}).save(tmp_path / "b")
    assert (tmp_path / "a/grid.png").read_bytes() == (tmp_path / "b/grid.png").read_bytes()
    grid = np.asarray(Image.open(tmp_path / "a/grid.png"))  # make_grid turns gray into three channels
    assert grid.shape == (2 * 5 + 1, 3 * 6 + 1, 3)
    for place, image in enumerate(made.images):
        top, left = (place % 2) * 5 + 1, (place // 2) * 6 + 1
        shown = torch.from_numpy(grid[top : top + 4, left : left + 5].copy()).permute(2, 0, 1)
        assert (shown.int() - to_uint8(image).int()).abs().max() <= 1  # the writer rounds halves otherwise


def test_the_grid_of_an_uneven_set_shows_every_image_once(tmp_path):
    images = torch.linspace(0.1, 0.9, 5).view(5, 1, 1, 1).expand(5, 3, 4, 6)
    save_grid(images, None, tmp_path / "grid")
    picture = Image.open(tmp_path / "grid")
    assert picture.format == "PNG" and picture.size == (3 * 7 + 1, 2 * 5 + 1)
    shown = [np.asarray(picture)[1 + 5 * row, 1 + 7 * column, 0] for row in range(2) for column in range(3)]
    np.testing.assert_allclose(shown[:5], np.linspace(0.1, 0.9, 5) * 255, atol=1)


@pytest.mark.parametrize("labels", [[0, 0, 0, 1, 2, 2], [1, 1, 2, 2, 2, 2], []])
def test_an_uneven_set_has_no_ipc(labels):
    made = DistilledSet(torch.zeros(len(labels), 3, 4, 5), torch.tensor(labels, dtype=torch.int64), {})
    assert list(made.counts) == [labels.count(label) for label in range(max(labels, default=-1) + 1)]
    with pytest.raises(HgladError, match="images per class: it has no single ipc; use its counts"):
        _ = made.ipc


@pytest.mark.parametrize("labels", [torch.ones(6, dtype=torch.int32), torch.ones(6), torch.ones(6, 3).long()])
def test_labels_of_another_kind_are_named(labels):
    with pytest.raises(HgladError, match=r"expected int64 \(n,\) or probabilities, float \(n, classes\)"):
        DistilledSet(torch.zeros(6, 3, 4, 5), labels, {})


@pytest.mark.parametrize("name", ["card.json", "distilled.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut", "else"])
def test_a_damaged_set_is_named(tmp_path, name, damage):
    wild_set().save(tmp_path / "set")
    file = tmp_path / "set" / name
    content = file.read_bytes()
    if damage == "else":
        write_tensors(tmp_path / "set/distilled.safetensors", {"weight": torch.ones(1)})
        file = "safetensors has weight: expected images and labels"
    else:
        file.unlink() if damage == "missing" else file.write_bytes(content[: len(content) // 2])
    with pytest.raises(HgladError, match=str(file)):
        DistilledSet.load(tmp_path / "set")


# Of others: what is read


def save(path: Path, content: dict) -> Path:
    """Write named tensors in the format of the suffix."""
    if path.suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in content.items()})
    elif path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in content.items()}, path)
    else:
        torch.save(content, path)
    return path


def save_folder(folder: Path, images: Tensor, names: list[str]) -> Path:
    """One folder per class, two PNG files each."""
    for i, image in enumerate(images):
        (folder / names[i // 2]).mkdir(parents=True, exist_ok=True)
        save_image(image, folder / names[i // 2] / f"{i}.png")
    return folder


def assert_same(found: DistilledSet, images: Tensor, labels: Tensor = LABELS) -> None:
    torch.testing.assert_close(found.images, images, rtol=0, atol=1e-6)
    assert torch.equal(found.labels, labels) and found.labels.dtype == labels.dtype
    assert (found.images.dtype, found.images.device.type) == (torch.float32, "cpu")
    assert found.card["kind"] == "foreign" and os.sep not in json.dumps(found.card)


def refusal(path: Path, real: RealData, **options) -> str:
    """The one line of the error."""
    with pytest.raises(HgladError) as caught:
        read_set(path, real, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".npz", ".safetensors"])
@pytest.mark.parametrize("form", ["float", "uint8", "channels last", "half", "double"])
def test_every_format_and_form(tmp_path, real, images, suffix, form):
    stored = {
        "float": images, "uint8": to_uint8(images), "channels last": to_uint8(images).permute(0, 2, 3, 1),
        "half": images.half(), "double": images.double(),
    }[form]  # fmt: skip
    path = save(tmp_path / f"set{suffix}", {"images": stored, "labels": LABELS})
    found = read_set(path, real)
    assert_same(found, images.half().float() if form == "half" else images)
    assert found.card["file"] == path.name and found.card["layout"] == "entries images, labels"


@pytest.mark.parametrize(
    "names", [("x", "y"), ("data", "targets"), ("image_syn", "label_syn"), ("Images", "Y")]
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
def test_usual_names_of_the_entries_and_types_of_labels(tmp_path, real, images, names, dtype):
    content = {"lr": torch.tensor(0.1), names[0]: images, names[1]: LABELS.to(dtype)}
    assert_same(read_set(save(tmp_path / "set.pt", content), real), images)


def test_results_of_several_experiments_with_numpy_accuracies(tmp_path, real, images):
    path = tmp_path / "res_DM_CIFAR10_ConvNet_2ipc.pt"
    data = [[images, LABELS], [images.flip(3).requires_grad_(), LABELS]]
    torch.save({"data": data, "accs": {"ConvNet": [np.float64(31.5), np.float32(30.0), np.int64(3)]}}, path)
    assert_same(read_set(path, real), images)
    second = read_set(path, real, experiment=1)
    assert_same(second, images.flip(3))
    assert not second.images.requires_grad and second.card["layout"] == "experiment 1 of results"
    assert "experiment is 2 of 2 in it: expected 0 to 1" in refusal(path, real, experiment=2)
    assert "experiment is -1 of 2 in it" in refusal(path, real, experiment=-1)
    with pytest.raises(pickle.UnpicklingError, match="multiarray.scalar"):  # refused again afterwards
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("labels", [LABELS, {"labels": LABELS}, LABELS.tolist()])
def test_images_and_labels_in_two_files(tmp_path, real, images, labels):
    torch.save(images, tmp_path / "images_best.pt")
    torch.save(labels, tmp_path / "labels_best.pt")
    found = read_set(tmp_path / "images_best.pt", real, labels=tmp_path / "labels_best.pt")
    assert_same(found, images)
    assert found.card["labels"]["file"] == "labels_best.pt" and len(found.card["labels"]["sha256"]) == 64
    alone = refusal(tmp_path / "images_best.pt", real)
    assert "it holds images alone: expected labels as well; give --labels FILE" in alone


def test_other_layouts(tmp_path, real, gray, images):
    np.save(tmp_path / "x.npy", images.numpy())
    np.save(tmp_path / "y.npy", LABELS.numpy())
    assert_same(read_set(tmp_path / "x.npy", real, labels=str(tmp_path / "y.npy")), images)
    torch.save((images, LABELS), tmp_path / "pair.pt")
    assert_same(read_set(tmp_path / "pair.pt", real), images)
    torch.save(SOFT, tmp_path / "soft.pt")
    assert_same(read_set(tmp_path / "pair.pt", real, labels=tmp_path / "soft.pt"), images, SOFT)
    path = save(tmp_path / "set.npz", {"images": to_uint8(images[:, 0]), "labels": LABELS})
    assert_same(read_set(path, gray), images[:, :1])  # without an axis of channels


@pytest.mark.parametrize(
    ("names", "shift"),
    [(["ant", "bee", "cat"], 0), (["0", "1", "2"], 0), (["000", "001", "002"], 0), (["1", "02", "0"], 2)],
)
def test_image_folders_by_name_and_by_index(tmp_path, real, gray, images, names, shift):
    found = read_set(save_folder(tmp_path / "set", images, names), real)
    assert_same(found, images.roll(shift, 0))
    assert found.card["layout"] == f"folders by class {'name' if names[0] == 'ant' else 'index'}"
    folder = save_folder(tmp_path / "gray", images[:, :1], names)
    assert Image.open(next(folder.rglob("*.png"))).mode == "RGB"  # three equal channels
    assert_same(read_set(folder, gray), images[:, :1].roll(shift, 0))


def test_own_folders_are_read_as_they_are(tmp_path, real, gray, images):
    wild = DistilledSet(images * 40 - 20, LABELS, {"seed": 3})
    wild.save(tmp_path / "set")
    found = read_set(tmp_path / "set", real)
    assert torch.equal(found.images, wild.images) and found.card == {"seed": 3}
    assert "leave the options out" in refusal(tmp_path / "set", real, normalized=True)
    assert f"{tmp_path / 'set'}: images " in refusal(tmp_path / "set", gray)


def test_the_card_follows_the_content(tmp_path, real, images):
    paths = [save(tmp_path / f"{i}.pt", {"x": images.roll(i, 2), "y": LABELS}) for i in range(2)]
    folder = save_folder(tmp_path / "set", images, ["0", "1", "2"])
    keys = {read_set(path, real).card["sha256"] for path in (*paths, folder)}
    save_image(images[0].flip(2), folder / "0" / "0.png")
    assert len(keys | {read_set(folder, real).card["sha256"]}) == 4


# Scale


@pytest.mark.parametrize("own", [True, False])
def test_a_normalization_is_undone(tmp_path, real, images, own):
    mean, std = (real.mean, real.std) if own else (torch.tensor([0.49, 0.48, 0.45]), torch.tensor([0.2] * 3))
    shifted = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    path = save(tmp_path / "set.pt", {"images": shifted, "labels": LABELS})
    assert "give --normalized (normalized=True) if they are normalized to zero mean" in refusal(path, real)
    found = read_set(path, real, normalized=own or (mean.tolist(), std.tolist()))
    assert_same(found, images)
    assert found.card["normalized"] == {"mean": mean.tolist(), "std": std.tolist()}
    for wrong in (([0.4] * 3, [0.2]), ([0.5], [0.2]), ([0.4] * 3, [0.2, 0.0, 0.2])):
        assert "expected 3 numbers each, std above 0" in refusal(path, real, normalized=wrong)


def test_images_that_leave_the_unit_range_a_little_are_kept_and_far_ones_where_it_is_meant(
    tmp_path, real, images
):
    noisy = images + 0.4 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    assert 0.05 < (noisy - noisy.clamp(0, 1)).abs().mean() < LARGEST_SPILL and noisy.min() < -0.5
    assert_same(read_set(save(tmp_path / "a.pt", {"images": noisy, "labels": LABELS}), real), noisy)
    far = save(tmp_path / "b.pt", {"images": 9 * images - 4, "labels": LABELS})
    assert_same(read_set(far, real, any_range=True), 9 * images - 4)


@pytest.mark.parametrize(
    "change, options, text",
    [
        (lambda x: x * 255, {}, "expected about 0 to 1; divide them by 255"),
        (lambda x: 2 * x - 1, {}, "add 1 and halve them"),
        (lambda x: 9 * x - 4, {"normalized": True}, "after the normalization is undone, images reach from -"),
        (lambda x: x + 1, {}, "scale them"),
        (lambda x: x, {"normalized": True}, "expected some below 0 in normalized images"),
        (to_uint8, {"normalized": True}, "expected some below 0 in normalized images"),
        (lambda x: x.index_fill(0, torch.tensor(4), torch.nan), {}, "126 values that are NaN or infinite"),
        (lambda x: x.index_fill(2, torch.tensor(1), torch.nan), {}, "the first at [0, 0, 1, 0]"),
        (lambda x: x.index_fill(3, torch.tensor(5), torch.inf), {}, "the first at [0, 0, 0, 5]"),
        (lambda x: x[:, :1], {}, "[6, 1, 6, 7] have 1 channels: expected 3 as in 'insects'; repeat it"),
        (lambda x: x[:, :2], {}, "[6, 2, 6, 7] have 2 channels: expected 3 as in 'insects'; reorder"),
        (
            lambda x: x[..., :6],
            {},
            "images are 6 x 6 pixels (height x width): expected 6 x 7 as in 'insects'",
        ),
        (lambda x: x[..., :3], {}, "images are 6 x 3 pixels"),
        (lambda x: x.mT, {}, "images are 7 x 6 pixels (height x width): expected 6 x 7"),
        (lambda x: x[:, :, :4].permute(0, 2, 3, 1), {}, "images are 4 x 7 pixels"),
        (lambda x: x[:0], {}, "images have shape [0, 3, 6, 7], an empty set"),
        (lambda x: x[0], {}, "images have shape [3, 6, 7]: expected (n, channels, height, width)"),
        (lambda x: x.flatten(1), {}, "images have shape [6, 126]"),
        (lambda x: (x * 255).to(torch.int32), {}, "images are torch.int32: expected uint8 (0 to 255) or flo"),
        (lambda x: x > 0.5, {}, "images are torch.bool"),
        (lambda x: x.to_sparse(), {}, "its images are of type Tensor: expected one dense tensor"),
        (lambda x: list(x), {}, "its images are of type list: expected one dense tensor"),
        (lambda x: None, {}, "its images are of type NoneType"),
    ],
)
def test_images_that_do_not_fit_are_named(tmp_path, real, images, change, options, text):
    path = tmp_path / "set.pt"
    torch.save({"images": change(images), "labels": LABELS}, path)
    line = refusal(path, real, **options)
    assert text in line and line.startswith(f"{path}: ")


def test_color_where_the_data_set_is_gray(tmp_path, gray, images):
    path = save(tmp_path / "set.pt", {"images": images, "labels": LABELS})
    folder = save_folder(tmp_path / "set", images, ["ant", "bee", "cat"])
    for place in (path, folder):
        text = "have 3 channels: expected 1 as in 'insects'; convert them to gray"
        assert text in refusal(place, gray)


# Labels


def test_soft_labels_are_kept_and_one_hot_ones_become_classes_in_their_order(tmp_path, real, images):
    for labels in (SOFT.double(), torch.eye(3)[LABELS], torch.eye(3, dtype=torch.int64)[LABELS], LABELS):
        path = save(tmp_path / "set.pt", {"images": images[ORDER], "labels": labels[ORDER]})
        assert_same(read_set(path, real), images, SOFT if labels.dtype == torch.float64 else LABELS)


@pytest.mark.parametrize(
    "labels, text",
    [
        (LABELS + 1, "label 3 of image 4: expected 0 to 2, the classes of 'insects'; subtract 1"),
        (LABELS * 2, "label 4 of image 4: expected 0 to 2, the classes of 'insects'; check the data set"),
        (LABELS - 1, "label -1 of image 0"),
        (LABELS + 0.5, "label 0.5 of image 0"),
        (LABELS / 0, "label nan of image 0"),
        (LABELS[:5], "labels have shape [5] for 6 images: expected [6]"),
        (SOFT[:, :2], "labels have shape [6, 2] for 6 images: expected [6], or [6, 3]"),
        (LABELS[:, None], "labels have shape [6, 1] for 6 images"),
        (3 * SOFT, "soft labels of image 0 have least 0.3 and sum 3: expected probabilities"),
        (SOFT.add(1e-6).log(), "apply softmax to logits"),
        (SOFT + torch.tensor([0.2, 0, -0.2]), "have least -0.1 and sum 1"),
        (SOFT * torch.nan, "have least nan and sum nan"),
        (torch.ones(6, dtype=torch.complex64), "its labels are of type Tensor: expected one dense tensor"),
    ],
)
def test_labels_that_do_not_fit_are_named(tmp_path, real, images, labels, text):
    path = save(tmp_path / "set.pt", {"images": images, "labels": labels})
    line = refusal(path, real)
    assert text in line and line.startswith(f"{path}: ")


def test_a_class_without_images_is_a_warning(tmp_path, real, images):
    path = save(tmp_path / "set.pt", {"images": images[:3], "labels": LABELS[:3]})
    with pytest.warns(UserWarning, match="set.pt has no image of 1 classes of 'insects': cat"):
        read_set(path, real)
    soft = save(tmp_path / "soft.pt", {"images": images[:2], "labels": torch.tensor([[0.5, 0.3, 0.2]] * 2)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # each class has its share of the probabilities
        assert read_set(soft, real).counts == (2, 0, 0)


# Files and folders that are no sets


@pytest.mark.parametrize(
    "content, options, text",
    [
        ({"weight": torch.ones(1), 3: 4}, {}, "it has weight, 3: expected an entry 'images'; rename that of"),
        ({}, {}, "it has nothing: expected an entry 'images'"),
        ({"images": torch.ones(1)}, {}, "it holds entry images alone: expected labels as well"),
        ({"data": []}, {}, "experiment is 0 of 0 in it: expected 1 or more"),
        ({"data": [torch.ones(2)]}, {}, "experiment 0 is a Tensor: expected images and labels; save both"),
        ((torch.ones(1), torch.ones(1)), {"experiment": 1}, "experiment is 1, but the file holds a single"),
        ([torch.ones(2), 1, 2], {}, "its images are of type list"),
        (np.float64(3), {}, "its images are of type _Number"),
        ({"images": np.ones(3), "labels": LABELS}, {}, "which is not loaded; where you trust it, save"),
        (torch.ones(1), {"labels": "none.pt"}, "no file none.pt: expected"),
        (torch.ones(1), {"labels": __file__}, "is no set: expected a file that ends in .pt, .pth, .npz"),
    ],
)  # fmt: skip
def test_layouts_without_a_set_are_named(tmp_path, real, content, options, text):
    torch.save(content, tmp_path / "set.pt")
    assert text in refusal(tmp_path / "set.pt", real, **options)
    torch.save({"a": 1}, tmp_path / "y.pt")
    torch.save(torch.ones(1), tmp_path / "x.pt")
    labels = refusal(tmp_path / "x.pt", real, labels=tmp_path / "y.pt")
    assert f"{tmp_path}/y.pt: it has a: expected an entry 'labels'" in labels


def test_folders_that_do_not_fit_are_named(tmp_path, real, images):
    (tmp_path / "empty").mkdir()
    assert "no class folder in" in refusal(tmp_path / "empty", real)
    folder = save_folder(tmp_path / "set", images, ["ant", "bee", "dog"])
    text = "folder 'dog' does not fit 'insects': expected class names such as 'ant' for all folders, or 0 to"
    assert text in refusal(folder, real)
    assert "folder '3' does not fit" in refusal(save_folder(tmp_path / "far", images, ["1", "2", "3"]), real)
    mixed = save_folder(tmp_path / "mixed", images, ["ant", "1", "2"])
    assert "for all folders, or 0 to 2 for all; rename it" in refusal(mixed, real)
    assert "leave --labels and --experiment out" in refusal(folder, real, labels=tmp_path / "labels.pt")
    (folder / "dog").rename(folder / "cat")
    save_image(images[0, :, :5], folder / "bee" / "2.png")
    assert "2.png is 5 x 7 pixels (height x width): expected 6 x 7 as in 'insects'" in refusal(folder, real)


class Hostile:
    """Runs a command where it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["images", "labels", "other"])
def test_hostile_pickles_do_not_run(tmp_path, real, images, zipped, place):
    content = {"images": images, "labels": LABELS, place: Hostile(tmp_path / "ran")}
    path = tmp_path / "set.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    line = refusal(path, real)
    assert "it asks for posix.system, which is not loaded; where you trust it, save" in line
    assert "weights_only" not in line and not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()  # it would have run


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".npy", ".safetensors"])
@pytest.mark.parametrize("protocol", [2, 4, None])
def test_bare_pickles_and_object_arrays_do_not_run(tmp_path, real, suffix, protocol):
    path = tmp_path / f"set{suffix}"
    if protocol is None:
        objects = np.array([Hostile(tmp_path / "ran")], dtype=object)
        with open(path, "wb") as file:
            np.savez(file, images=objects, labels=LABELS.numpy())
    else:
        path.write_bytes(pickle.dumps(Hostile(tmp_path / "ran"), protocol))
    assert f"cannot read {path}: " in refusal(path, real)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["zip.pt", "legacy.pt", "set.npz", "set.npy", "set.safetensors", "1.png"])
def test_cut_and_damaged_files_end_in_one_line(tmp_path, real, images, kind):
    """Each cut, and each of many files with one wrong byte, is read as a set or refused in one line."""
    path = tmp_path / kind
    content = {"images": to_uint8(images), "labels": LABELS}
    if kind == "legacy.pt":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    elif kind == "set.npy":
        np.save(path, content["images"].numpy())
    elif kind == "1.png":
        path = save_folder(tmp_path / "set", images, ["0", "1", "2"]) / "0" / kind
    else:
        save(path, content)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    place = tmp_path / "set" if kind == "1.png" else path
    checked = (
        24 if kind == "1.png" else 1
    )  # the last bytes of a PNG, checksums and an end mark, may be missing
    for cut in sorted({0, 1, len(whole) - checked - 1, *rng.integers(0, len(whole) - checked, 60).tolist()}):
        path.write_bytes(whole[:cut])
        assert str(path) in refusal(place, real)
    for byte in rng.integers(0, len(whole), 60):
        path.write_bytes(whole[:byte] + bytes([whole[byte] ^ 1 << rng.integers(8)]) + whole[byte + 1 :])
        try:
            read_set(place, real)
        except HgladError as error:
            assert str(place) in str(error) and "\n" not in str(error)
