"""Sets of other code: every layout comes back as it was written, what does not fit is named in one line."""

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
from hglad.evaluation.sets import LARGEST_SPILL, DistilledSet, is_own, read_set, to_uint8

NAMES = ("ant", "bee", "cat")
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
SOFT = torch.tensor(
    [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0, 1, 0], [0.1, 0.8, 0.1], [0, 0.2, 0.8], [0, 0, 1.0]]
)


def real_set(channels: int, height: int = 6, width: int = 7) -> RealData:
    """Two noise images of each class; height and width differ, so that no order of the axes passes unseen."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, channels, height, width), dtype=np.uint8)
    return from_arrays("insects", (pixels, LABELS.numpy()), (pixels, LABELS.numpy()), NAMES).train


@pytest.fixture(scope="module")
def real() -> RealData:
    return real_set(3)


@pytest.fixture(scope="module")
def grey() -> RealData:
    return real_set(1)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Multiples of 1/255, which uint8 keeps."""
    return torch.randint(0, 256, (6, 3, 6, 7), generator=torch.Generator().manual_seed(1)).float() / 255


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


def assert_same(found: DistilledSet, images: Tensor, labels: Tensor) -> None:
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


# What is read


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".npz", ".safetensors"])
@pytest.mark.parametrize("form", ["float", "uint8", "channels last", "half", "double"])
def test_every_format_and_form(tmp_path, real, images, suffix, form):
    stored = {
        "float": images, "uint8": to_uint8(images), "channels last": to_uint8(images).permute(0, 2, 3, 1),
        "half": images.half(), "double": images.double(),
    }[form]  # fmt: skip
    path = save(tmp_path / f"set{suffix}", {"images": stored, "labels": LABELS})
    found = read_set(path, real)
    assert_same(found, images.half().float() if form == "half" else images, LABELS)
    assert found.card["file"] == path.name and found.card["layout"] == "entries images, labels"


@pytest.mark.parametrize(
    "names", [("x", "y"), ("data", "targets"), ("image_syn", "label_syn"), ("Images", "Y")]
)
def test_usual_names_of_the_entries(tmp_path, real, images, names):
    path = save(tmp_path / "set.pt", {"lr": torch.tensor(0.1), names[0]: images, names[1]: LABELS})
    assert_same(read_set(path, real), images, LABELS)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
def test_labels_of_another_type(tmp_path, real, images, dtype):
    assert_same(
        read_set(save(tmp_path / "a.npz", {"x": images, "y": LABELS.to(dtype)}), real), images, LABELS
    )


def test_results_of_several_experiments_with_numpy_accuracies(tmp_path, real, images):
    content = {
        "data": [[images, LABELS], [images.flip(3).requires_grad_(), LABELS]],
        "accs_all_exps": {"ConvNet": [np.float64(31.5), np.float32(30.0), np.int64(3)]},
    }
    torch.save(content, tmp_path / "res_DM_CIFAR10_ConvNet_2ipc.pt")
    path = tmp_path / "res_DM_CIFAR10_ConvNet_2ipc.pt"
    assert_same(read_set(path, real), images, LABELS)
    second = read_set(path, real, experiment=1)
    assert_same(second, images.flip(3), LABELS)
    assert not second.images.requires_grad and second.card["layout"] == "experiment 1 of results"
    assert "experiment is 2 of 2 in it: expected 0 to 1" in refusal(path, real, experiment=2)
    assert "experiment is -1 of 2 in it" in refusal(path, real, experiment=-1)


def test_numpy_numbers_are_refused_again_afterwards(tmp_path, real, images):
    torch.save({"data": [[images, LABELS]], "accs": np.float64(1)}, tmp_path / "set.pt")
    read_set(tmp_path / "set.pt", real)
    with pytest.raises(pickle.UnpicklingError, match="multiarray.scalar"):
        torch.load(tmp_path / "set.pt", weights_only=True)


@pytest.mark.parametrize("labels", [LABELS, {"labels": LABELS}, LABELS.tolist()])
def test_images_and_labels_in_two_files(tmp_path, real, images, labels):
    torch.save(images, tmp_path / "images_best.pt")
    torch.save(labels, tmp_path / "labels_best.pt")
    found = read_set(tmp_path / "images_best.pt", real, labels=tmp_path / "labels_best.pt")
    assert_same(found, images, LABELS)
    assert found.card["labels"]["file"] == "labels_best.pt" and len(found.card["labels"]["sha256"]) == 64
    assert "it holds images alone: expected labels as well; give --labels FILE" in refusal(
        tmp_path / "images_best.pt", real
    )


def test_arrays_in_two_files(tmp_path, real, images):
    np.save(tmp_path / "x.npy", images.numpy())
    np.save(tmp_path / "y.npy", LABELS.numpy())
    assert_same(read_set(tmp_path / "x.npy", real, labels=str(tmp_path / "y.npy")), images, LABELS)


def test_other_labels_than_those_in_the_file(tmp_path, real, images):
    save(tmp_path / "set.pt", {"images": images, "labels": LABELS})
    torch.save(SOFT, tmp_path / "soft.pt")
    assert torch.equal(read_set(tmp_path / "set.pt", real, labels=tmp_path / "soft.pt").labels, SOFT)


def test_a_pair(tmp_path, real, images):
    torch.save((images, LABELS), tmp_path / "set.pt")
    assert_same(read_set(tmp_path / "set.pt", real), images, LABELS)


def test_grey_images_without_a_channel_axis(tmp_path, grey, images):
    path = save(tmp_path / "set.npz", {"images": to_uint8(images[:, 0]), "labels": LABELS})
    assert_same(read_set(path, grey), images[:, :1], LABELS)


@pytest.mark.parametrize("names", [["ant", "bee", "cat"], ["0", "1", "2"], ["000", "001", "002"]])
def test_image_folders_by_name_and_by_index(tmp_path, real, images, names):
    found = read_set(save_folder(tmp_path / "set", images, names), real)
    assert_same(found, images, LABELS)
    assert found.card["layout"] == f"folders by class {'name' if names[0] == 'ant' else 'index'}"


def test_indices_count_and_not_the_order_of_the_names(tmp_path, real, images):
    found = read_set(save_folder(tmp_path / "set", images, ["1", "02", "0"]), real)
    assert_same(found, images.roll(2, 0), LABELS)


def test_grey_pictures_with_three_equal_channels(tmp_path, grey, images):
    folder = save_folder(tmp_path / "set", images[:, :1], ["ant", "bee", "cat"])
    assert Image.open(next(folder.rglob("*.png"))).mode == "RGB"
    assert_same(read_set(folder, grey), images[:, :1], LABELS)


def test_own_folders_are_read_as_they_are(tmp_path, real, images):
    wild = DistilledSet(images * 40 - 20, LABELS, {"seed": 3})
    wild.save(tmp_path / "set")
    found = read_set(tmp_path / "set", real)
    assert torch.equal(found.images, wild.images) and found.card == {"seed": 3}
    assert is_own(tmp_path / "set") and not is_own(tmp_path)
    assert "leave the options out" in refusal(tmp_path / "set", real, normalized=True)
    assert f"{tmp_path / 'set'}: images " in refusal(tmp_path / "set", real_set(1))


def test_the_card_follows_the_content(tmp_path, real, images):
    first = read_set(save(tmp_path / "a.pt", {"x": images, "y": LABELS}), real).card["sha256"]
    second = read_set(save(tmp_path / "a.pt", {"x": images.flip(2), "y": LABELS}), real).card["sha256"]
    folder = save_folder(tmp_path / "set", images, ["0", "1", "2"])
    third = read_set(folder, real).card["sha256"]
    save_image(images[0].flip(2), folder / "0" / "0.png")
    assert len({first, second, third, read_set(folder, real).card["sha256"]}) == 4


# Scale


def test_normalization_by_the_data_sets_own_statistics_is_undone(tmp_path, real, images):
    path = save(tmp_path / "set.pt", {"images": real.normalize(images), "labels": LABELS})
    assert "give --normalized (normalized=True) if they are normalized to zero mean" in refusal(path, real)
    found = read_set(path, real, normalized=True)
    assert_same(found, images, LABELS)
    torch.testing.assert_close(real.normalize(found.images), real.normalize(images))
    assert found.card["normalized"] == {"mean": real.mean.tolist(), "std": real.std.tolist()}


def test_normalization_by_other_statistics_is_undone(tmp_path, real, images):
    mean, std = (0.49, 0.48, 0.45), (0.20, 0.21, 0.22)
    shifted = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    path = save(tmp_path / "set.pt", {"images": shifted, "labels": LABELS})
    assert_same(read_set(path, real, normalized=(mean, std)), images, LABELS)
    for wrong in ((mean, (0.2,)), ((0.5,), (0.2,)), (mean, (0.2, 0.0, 0.2))):
        assert "expected 3 numbers each, std above 0" in refusal(path, real, normalized=wrong)


def test_images_that_leave_the_unit_range_a_little_are_kept(tmp_path, real, images):
    noisy = images + 0.4 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    spill = (noisy - noisy.clamp(0, 1)).abs().mean()
    assert 0.05 < spill < LARGEST_SPILL and noisy.min() < -0.5
    assert_same(read_set(save(tmp_path / "set.pt", {"images": noisy, "labels": LABELS}), real), noisy, LABELS)


@pytest.mark.parametrize(
    "change, options, text",
    [
        (lambda x: x * 255, {}, "expected about 0 to 1; divide them by 255"),
        (lambda x: (x * 255).round(), {}, "divide them by 255"),
        (lambda x: 2 * x - 1, {}, "add 1 and halve them"),
        (lambda x: 9 * x - 4, {"normalized": True}, "after the normalization is undone, images reach from -"),
        (lambda x: x + 1, {}, "scale them"),
        (lambda x: x, {"normalized": True}, "expected some below 0 in normalized images"),
        (to_uint8, {"normalized": True}, "expected some below 0 in normalized images"),
    ],
)
def test_another_scale_is_named(tmp_path, real, images, change, options, text):
    path = save(tmp_path / "set.pt", {"images": change(images), "labels": LABELS})
    line = refusal(path, real, **options)
    assert text in line and line.startswith(f"{path}: ")


def test_any_range_takes_images_as_they_are(tmp_path, real, images):
    path = save(tmp_path / "set.pt", {"images": 9 * images - 4, "labels": LABELS})
    assert_same(read_set(path, real, any_range=True), 9 * images - 4, LABELS)


# Labels


def test_soft_labels_are_kept_and_saved(tmp_path, real, images):
    found = read_set(save(tmp_path / "set.pt", {"images": images, "labels": SOFT.double()}), real)
    assert_same(found, images, SOFT)
    assert found.ipc == 2 and found.counts == (2, 2, 2) and found.hard_labels.tolist() == LABELS.tolist()
    found.save(tmp_path / "own")
    again = read_set(tmp_path / "own", real)
    assert torch.equal(again.labels, SOFT) and torch.equal(again.images, found.images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_one_hot_labels_become_classes(tmp_path, real, images, dtype):
    one_hot = torch.eye(3)[LABELS].to(dtype)
    assert_same(read_set(save(tmp_path / "a.pt", {"x": images, "y": one_hot}), real), images, LABELS)


@pytest.mark.parametrize("labels", [LABELS, SOFT])
def test_sets_are_sorted_by_class(tmp_path, real, images, labels):
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    path = save(tmp_path / "set.pt", {"images": images[order], "labels": labels[order]})
    assert_same(read_set(path, real), images, labels)


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
        found = read_set(path, real)
    with pytest.raises(HgladError, match="the set has 1 to 2 images per class: it has no single ipc"):
        _ = found.ipc
    soft = save(tmp_path / "soft.pt", {"images": images[:2], "labels": torch.tensor([[0.5, 0.3, 0.2]] * 2)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # each class has its share of the probabilities
        assert read_set(soft, real).counts == (2, 0, 0)


# Images


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda x: x.index_fill(0, torch.tensor(4), torch.nan), "126 values that are NaN or infinite"),
        (lambda x: x.index_fill(2, torch.tensor(1), torch.nan), "the first at [0, 0, 1, 0]"),
        (lambda x: x.index_fill(3, torch.tensor(5), torch.inf), "the first at [0, 0, 0, 5]"),
        (lambda x: x[:, :1], "images [6, 1, 6, 7] have 1 channels: expected 3 as in 'insects'; repeat it"),
        (lambda x: x[:, :2], "images [6, 2, 6, 7] have 2 channels: expected 3 as in 'insects'; reorder"),
        (lambda x: x[..., :6], "images are 6 x 6 pixels (height x width): expected 6 x 7 as in 'insects'"),
        (lambda x: x[..., :3], "images are 6 x 3 pixels"),
        (lambda x: x.mT, "images are 7 x 6 pixels (height x width): expected 6 x 7"),
        (lambda x: x[:, :, :4].permute(0, 2, 3, 1), "images are 4 x 7 pixels"),
        (lambda x: x[:0], "images have shape [0, 3, 6, 7], an empty set"),
        (lambda x: x[0], "images have shape [3, 6, 7]: expected (n, channels, height, width)"),
        (lambda x: x.flatten(1), "images have shape [6, 126]"),
        (lambda x: (x * 255).to(torch.int32), "images are torch.int32: expected uint8 (0 to 255) or float"),
        (lambda x: x > 0.5, "images are torch.bool"),
        (lambda x: x.to_sparse(), "its images are of type Tensor: expected one dense tensor"),
        (lambda x: list(x), "its images are of type list: expected one dense tensor"),
        (lambda x: "pictures", "its images are of type str: expected one dense tensor"),
        (lambda x: None, "its images are of type NoneType"),
    ],
)  # fmt: skip
def test_images_that_do_not_fit_are_named(tmp_path, real, images, change, text):
    torch.save({"images": change(images), "labels": LABELS}, tmp_path / "set.pt")
    line = refusal(tmp_path / "set.pt", real)
    assert text in line and line.startswith(f"{tmp_path / 'set.pt'}: ")


def test_colour_where_the_data_set_is_grey(tmp_path, grey, images):
    path = save(tmp_path / "set.pt", {"images": images, "labels": LABELS})
    assert "have 3 channels: expected 1 as in 'insects'; convert them to gray" in refusal(path, grey)
    folder = save_folder(tmp_path / "set", images, ["ant", "bee", "cat"])
    assert "have 3 channels: expected 1 as in 'insects'; convert them to gray" in refusal(folder, grey)


# Files and folders


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
    ],
)  # fmt: skip
def test_layouts_without_a_set_are_named(tmp_path, real, content, options, text):
    torch.save(content, tmp_path / "set.pt")
    assert text in refusal(tmp_path / "set.pt", real, **options)


def test_files_that_are_missing_or_of_another_kind(tmp_path, real, images):
    assert f"no file {tmp_path}/none.pt: expected" in refusal(tmp_path / "none.pt", real)
    (tmp_path / "set.zip").write_bytes(b"PK")
    assert "set.zip is no set: expected a file that ends in .pt, .pth, .npz" in refusal(
        tmp_path / "set.zip", real
    )
    torch.save(images, tmp_path / "images.pt")
    assert f"no file {tmp_path}/y.pt" in refusal(tmp_path / "images.pt", real, labels=tmp_path / "y.pt")
    torch.save({"a": 1}, tmp_path / "y.pt")
    assert f"{tmp_path}/y.pt: it has a: expected an entry 'labels'" in refusal(
        tmp_path / "images.pt", real, labels=tmp_path / "y.pt"
    )


def test_folders_that_do_not_fit_are_named(tmp_path, real, images):
    (tmp_path / "empty").mkdir()
    assert "no class folder in" in refusal(tmp_path / "empty", real)
    folder = save_folder(tmp_path / "set", images, ["ant", "bee", "dog"])
    text = (
        "folder 'dog' does not fit 'insects': expected class names such as 'ant' for all folders, or 0 to 2"
    )
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
@pytest.mark.parametrize("protocol", [2, 4])
def test_bare_pickles_do_not_run(tmp_path, real, suffix, protocol):
    path = tmp_path / f"set{suffix}"
    path.write_bytes(pickle.dumps(Hostile(tmp_path / "ran"), protocol))
    assert f"cannot read {path}: " in refusal(path, real)
    assert not (tmp_path / "ran").exists()


def test_object_arrays_do_not_run(tmp_path, real):
    objects = np.array([Hostile(tmp_path / "ran")], dtype=object)
    np.savez(tmp_path / "set.npz", images=objects, labels=LABELS.numpy())
    assert "Object arrays cannot be loaded" in refusal(tmp_path / "set.npz", real)
    assert not (tmp_path / "ran").exists()


def test_arrays_in_a_torch_file_are_named(tmp_path, real, images):
    torch.save({"images": images.numpy(), "labels": LABELS}, tmp_path / "set.pt")
    line = refusal(tmp_path / "set.pt", real)
    assert "multiarray._reconstruct" in line or "numpy.ndarray" in line


@pytest.mark.parametrize("kind", ["zip.pt", "legacy.pt", "set.npz", "set.npy", "set.safetensors"])
def test_cut_and_damaged_files_end_in_one_line(tmp_path, real, images, kind):
    """Each cut, and each of many files with one wrong byte, is read as a set or refused in one line."""
    path = tmp_path / kind
    content = {"images": to_uint8(images), "labels": LABELS}
    if kind == "legacy.pt":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    elif kind == "set.npy":
        np.save(path, content["images"].numpy())
    else:
        save(path, content)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for cut in sorted({0, 1, len(whole) - 1, *rng.integers(0, len(whole), 60).tolist()}):
        path.write_bytes(whole[:cut])
        assert str(path) in refusal(path, real)
    for place in rng.integers(0, len(whole), 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << rng.integers(8)]) + whole[place + 1 :])
        try:
            read_set(path, real)
        except HgladError as error:
            assert str(path) in str(error) and "\n" not in str(error)


def test_cut_images_end_in_one_line(tmp_path, real, images):
    """Of a PNG file the last bytes may be missing, checksums and an end mark; its pixels are there then."""
    folder = save_folder(tmp_path / "set", images, ["0", "1", "2"])
    file = folder / "1" / "2.png"
    whole = file.read_bytes()
    for cut in range(0, len(whole), 9):
        file.write_bytes(whole[:cut])
        if cut < len(whole) - 24:
            assert str(file) in refusal(folder, real)
        else:
            assert_same(read_set(folder, real), images, LABELS)
