"""Real data: the tensor of one split, the registry, the way from image files to pixels, augmentation."""

import hashlib
import json
import pickle
from math import cos, radians, sin
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, Imagenette

import hglad.data.image_files as image_files
from hglad.cli import main
from hglad.data import Augmentation, RealData, Transform, available, from_arrays, load_data
from hglad.data.augmentation import STRATEGIES
from hglad.data.datasets import (
    IMAGENET_SUBSETS,
    channel_statistics,
    describe,
    draw,
    read_record,
    record_file,
    write_record,
)
from hglad.errors import HgladError
from hglad.search import distillation
from hglad.settings import DSA, DataSettings

NAMES = DSA.split("_")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HGLAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=seeded())


def colors(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def image_folder(root, classes=("cat", "dog"), test="test", shape=(8, 8), suffix="png"):
    for split, count in (("train", 3), (test, 2)):
        for number, name in enumerate(classes):
            for i in range(count):
                save(root / split / name / f"{i}.{suffix}", colors(*shape, 100 * number + 10 * count + i))
    return root


def numbered(*counts: int) -> RealData:
    """Every pixel of image i holds i; two channels tell a transposed layout."""
    images = torch.arange(sum(counts), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 2, 3, 4).contiguous()
    offsets = (0, *torch.tensor(counts).cumsum(0).tolist())
    classes = tuple(f"class{i}" for i in range(len(counts)))
    return RealData("numbers", images, offsets, classes, torch.tensor([0.5, 0.25]), torch.ones(2), "0" * 64)


def numbers(batch: torch.Tensor) -> torch.Tensor:
    return (batch[..., 0, 0, 0] * 255).round().long()


def fails(*parts: object):
    """An error of one line with all these parts."""

    def check(error: HgladError) -> bool:
        return "\n" not in str(error) and all(str(part) in str(error) for part in parts)

    return pytest.raises(HgladError, check=check)


# One split


def test_digits_are_uint8_sorted_by_class_and_split_by_a_fifth(digits):
    train, test = digits.train, digits.test
    assert train.images.dtype == torch.uint8 and train.image_shape == (1, 16, 16)
    assert (len(train.images), len(test.images), train.classes) == (1437, 360, tuple("0123456789"))
    assert train.labels.tolist() == sorted(train.labels.tolist())
    assert all(abs(a / (a + b) - 0.2) < 0.01 for a, b in zip(test.counts, train.counts, strict=True))


def test_digits_hold_the_same_bits_everywhere(digits):
    assert digits.train.content_hash == "a6edf4ac8d4b96ecfdf3d4972b685f2cd989e2bd298a53a3e028dbe95d4ddd96"
    assert digits.test.content_hash == "8d947cbac6b4cad878db7eab533edb2488241a5f464230d75c2312f78bc468fd"


def test_digits_at_native_size_are_scikit_learns_images():
    from sklearn.datasets import load_digits

    data = load_data("digits", resolution=8)
    pixels, labels = load_digits(return_X_y=True)
    pixels = np.floor(pixels * 255 / 16 + 0.5).astype(np.uint8)
    expected = sorted((row.tobytes(), int(label)) for row, label in zip(pixels, labels, strict=True))
    found = [
        (image.numpy().tobytes(), label)
        for split in (data.train, data.test)
        for image, label in zip(split.images, split.labels.tolist(), strict=True)
    ]
    assert sorted(found) == expected


def test_digits_as_rgb_repeat_the_channel(digits):
    rgb = load_data("digits", channels=3).train
    assert torch.equal(rgb.images, digits.train.images.expand(-1, 3, -1, -1))
    assert rgb.content_hash != digits.train.content_hash


def test_statistics_are_of_the_training_images_and_normalize_to_zero_and_one(digits):
    pixels = digits.train.images.double() / 255
    for split in (digits.train, digits.test):
        torch.testing.assert_close(split.mean, pixels.mean((0, 2, 3)).float())
        torch.testing.assert_close(split.std, pixels.std((0, 2, 3), unbiased=False).float())
    images = digits.train.normalize(digits.train.images.float() / 255)
    assert abs(images.mean()) < 1e-4 and abs(images.std() - 1) < 1e-3
    with fails("wrong channel count", 3, 1, "digits"):
        digits.train.normalize(torch.zeros(2, 3, 16, 16))


def test_statistics_per_channel_and_of_a_constant_channel():
    images = torch.zeros(2, 2, 1, 2, dtype=torch.uint8)
    images[:, 0] = torch.tensor([[0, 51]], dtype=torch.uint8)
    mean, std = channel_statistics(images)
    torch.testing.assert_close(mean, torch.tensor([0.1, 0.0]))
    torch.testing.assert_close(std, torch.tensor([0.1, 1 / 255]))
    normalized = numbered(2).normalize(torch.full((5, 4, 2, 3, 3), 0.5))  # under any leading dimensions
    assert normalized[0, 0, :, 0, 0].tolist() == [0.0, 0.25]


def test_batch_draws_each_class_without_replacement():
    data = numbered(5, 9, 7)
    batch = data.batch(5, seeded())
    assert batch.shape == (3, 5, 2, 3, 4) and batch.dtype == torch.float32
    for rows, start, end in zip(numbers(batch).tolist(), data.offsets, data.offsets[1:], strict=False):
        assert len(set(rows)) == 5 and all(start <= row < end for row in rows)


def test_batch_of_a_small_class_comes_in_whole_permutations():
    rows = numbers(numbered(3, 20).batch(8, seeded())).tolist()
    assert sorted(rows[0][:3]) == sorted(rows[0][3:6]) == [0, 1, 2]
    assert len(set(rows[0][6:])) == 2 and len(set(rows[1])) == 8
    rows = numbers(numbered(10, 10).batch(20, seeded()))
    assert not torch.equal(rows[:, :10], rows[:, 10:])  # each permutation is a new one


def test_batch_is_scaled_to_one_and_depends_on_the_generator_alone(digits):
    torch.manual_seed(1)
    first = digits.train.batch(5, seeded(7))
    torch.manual_seed(2)
    assert (first.min(), first.max()) == (0, 1)
    assert torch.equal(first, digits.train.batch(5, seeded(7)))
    assert not torch.equal(first, digits.train.batch(5, seeded(8)))


def test_draws_are_uniform():
    rng = seeded()
    drawn = torch.cat([draw((0, 4, 10), 3, rng) for _ in range(2000)], dim=1)
    for row, start, count in zip(drawn, (0, 4), (4, 6), strict=True):
        share = (row - start).bincount(minlength=count) / len(row)
        assert (share - 1 / count).abs().max() < 0.02


def test_select_sorts_by_class_and_keeps_order_inside():
    data = numbered(3, 3)
    chosen = data.select([5, 2, 0, 3])
    assert chosen.images[:, 0, 0, 0].tolist() == [2, 0, 5, 3]
    assert (chosen.offsets, chosen.labels.tolist()) == ((0, 2, 4), [0, 0, 1, 1])
    by_mask, by_index = data.select(torch.arange(6) % 2 == 0), data.select([0, 2, 4])
    assert torch.equal(by_mask.images, by_index.images)
    assert by_mask.content_hash == by_index.content_hash != data.content_hash


def test_split_is_stratified_disjoint_and_complete():
    data, state = numbered(10, 20), torch.get_rng_state()
    kept, held = data.split(0.3, seed=1)
    assert (kept.counts, held.counts) == ((7, 14), (3, 6))
    both = torch.cat([kept.images, held.images])[:, 0, 0, 0]
    assert sorted(both.tolist()) == list(range(30)) and torch.equal(kept.mean, data.mean)
    assert len({data.content_hash, kept.content_hash, held.content_hash}) == 3
    assert torch.equal(held.images, data.split(0.3, seed=1)[1].images)
    assert not torch.equal(held.images, data.split(0.3, seed=2)[1].images)
    assert torch.equal(torch.get_rng_state(), state)
    kept, held = numbered(2, 2).split(0.01, seed=0)
    assert kept.counts == held.counts == (1, 1)


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        (lambda: numbered(2).batch(0, seeded()), ["per_class", 0]),
        (lambda: numbered(2).batch(-1, seeded()), ["per_class", -1]),
        (lambda: numbered(2, 2).select([0, 4]), ["index 4", "'numbers'"]),
        (lambda: numbered(2, 2).select([-1]), ["index -1", "'numbers'"]),
        (lambda: numbered(2, 2).select([0]), ["'class1'", "'numbers'"]),
        (lambda: numbered(4, 4).split(1.0, 0), ["1.0"]),
        (lambda: numbered(4, 4).split(0, 0), ["fraction is 0"]),
        (lambda: numbered(4, 1).split(0.5, 0), ["'class1'"]),
        (lambda: RealData("f", noise(2, 1, 4, 4), (0, 2), ("a",), noise(1), noise(1), ""), ["'f'", "uint8"]),
    ],
)
def test_what_a_split_cannot_do_is_one_clear_line(wrong, parts):
    with fails(*parts):
        wrong()


def test_moving_keeps_everything_together(digits):
    moved = digits.train.to("meta")
    assert {moved.images.device.type, moved.mean.device.type, moved.std.device.type} == {"meta"}
    assert (moved.offsets, moved.content_hash) == (digits.train.offsets, digits.train.content_hash)


def test_arrays_in_any_order_give_the_same_labels():
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    data = from_arrays("mine", (images, np.array([1, 0, 1, 0])), (images, np.array([0, 0, 1, 1])), ["a", "b"])
    assert data.train.images.flatten().tolist() == [1, 3, 0, 2]
    assert data.train.labels.tolist() == data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.train.content_hash != data.test.content_hash


# Data sets by name


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Pixels of a small archive in the layout of CIFAR-10, with its own checksums."""
    pixels = {"train": colors(4, 3072)[..., 0], "test": colors(2, 3072, seed=1)[..., 0]}
    files = {
        "data_batch_1": {"data": pixels["train"], "labels": [1, 0, 1, 0]},
        "test_batch": {"data": pixels["test"], "labels": [0, 1]},
        "batches.meta": {"label_names": ["plane", "car"]},
    }
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    for name, entry in files.items():
        (folder / name).write_bytes(pickle.dumps(entry))
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in files}
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return pixels


def test_cifar_reads_torchvisions_files(cifar, tmp_path):
    data = load_data("cifar10", root=tmp_path)
    assert data.train.images.flatten(1).tolist() == cifar["train"][[1, 3, 0, 2]].tolist()
    assert (data.train.counts, data.train.classes) == ((2, 2), ("plane", "car"))
    assert data.test.images.shape == (2, 3, 32, 32)
    assert load_data("cifar10", root=tmp_path, resolution=16).train.image_shape == (3, 16, 16)
    with fails("wrong channel count", "cifar10"):
        load_data("cifar10", root=tmp_path, channels=1)


def test_imagenette_reads_torchvisions_folder(tmp_path):
    image_folder(tmp_path / "imagenette2-320", ("n01440764", "n03888257"), test="val", suffix="JPEG")
    data = load_data("imagenette", root=tmp_path)
    assert data.train.classes == ("tench", "parachute") and data.train.image_shape == (3, 128, 128)
    assert (data.train.counts, data.test.counts) == ((3, 3), (2, 2))
    known = {wnid: names[0] for wnid, names in Imagenette._WNID_TO_CLASS.items()}
    assert known == image_files.IMAGENETTE_NAMES


def test_tiny_imagenet_in_its_original_layout(tmp_path):
    for wnid in ("n001", "n002"):
        for i in range(2):
            save(tmp_path / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", colors(64, 64, seed=i))
    for i, value in enumerate((10, 20, 30)):
        save(tmp_path / "val" / "images" / f"val_{i}.JPEG", np.full((64, 64), value, np.uint8))
    lines = [f"val_{i}.JPEG\t{wnid}\t0\t0\t9\t9\n" for i, wnid in enumerate(("n002", "n001", "n002"))]
    listing = tmp_path / "val" / "val_annotations.txt"
    listing.write_text("".join(lines))
    (tmp_path / "words.txt").write_text("n001\tgoldfish, Carassius auratus\nn002\tcrane fly\nn003\tother\n")
    data = load_data("tiny-imagenet", root=tmp_path)
    assert data.train.classes == ("goldfish", "crane fly") and data.train.image_shape == (3, 64, 64)
    assert (data.train.counts, data.test.counts) == ((2, 2), (1, 2))
    for row, value in enumerate((20, 10, 30)):  # val_1 is the goldfish
        assert data.test.images[row].unique().tolist() == [value]
    listing.write_text("".join(lines) + "val_2.JPEG\tn999\t0\t0\t9\t9\n")
    with fails("n999", "training split"):
        load_data("tiny-imagenet", root=tmp_path)
    listing.write_text("".join(lines))
    (tmp_path / "val" / "images" / "val_2.JPEG").unlink()
    with fails("val_2.JPEG"):
        load_data("tiny-imagenet", root=tmp_path)


@pytest.mark.parametrize("name", ["imagenette", "imagewoof", "imagenet-birds"])
def test_imagenet_subset_takes_the_classes_by_rank(name, tmp_path):
    canonical = {"imagenet-birds": "imagesquawk"}.get(name, name)
    for index in range(1000):
        (tmp_path / "train" / f"n{index:04d}").mkdir(parents=True)
    for index in IMAGENET_SUBSETS[canonical]:
        for split in ("train", "val"):
            pixels = np.full((4, 4), index % 256, np.uint8)
            save(tmp_path / split / f"n{index:04d}" / "image.png", pixels)
    data = load_data(name, root=tmp_path, resolution=4)
    assert data.name == data.train.name == canonical
    assert data.train.classes == tuple(f"n{index:04d}" for index in IMAGENET_SUBSETS[canonical])
    for split in (data.train, data.test):
        assert split.images[:, 0, 0, 0].tolist() == [index % 256 for index in IMAGENET_SUBSETS[canonical]]


def test_every_data_set_is_known_by_its_name():
    names = {name for name, _ in available()}
    assert {"digits", "cifar10", "cifar100", "tiny-imagenet", "folder", *IMAGENET_SUBSETS} == names
    assert all(len(set(indices)) == 10 and max(indices) < 1000 for indices in IMAGENET_SUBSETS.values())


@pytest.mark.parametrize("test", ["test", "val"])
def test_an_image_folder_by_path_and_by_root(test, tmp_path):
    root = image_folder(tmp_path / "pets", test=test)
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    (root / "train" / ".hidden").mkdir()
    by_path, by_root = load_data(root, resolution=8), load_data("folder", root=str(root), resolution=8)
    (tmp_path / "animals").symlink_to(root)
    assert load_data(str(tmp_path / "animals"), resolution=8).name == "animals"  # as the user calls it
    assert by_path.name == "pets" and by_path.train.classes == ("cat", "dog")
    assert (by_path.train.counts, by_path.test.counts) == ((3, 3), (2, 2))
    assert torch.equal(by_path.train.images, by_root.train.images)
    assert np.array_equal(by_path.train.images[-1].numpy(), colors(8, 8, 100 + 30 + 2).transpose(2, 0, 1))
    assert torch.equal(by_path.test.mean, channel_statistics(by_path.train.images)[0])


def test_an_image_folder_of_wordnet_ids_has_names(tmp_path):
    root = image_folder(tmp_path / "some", ("n01440764", "n03888257", "n09999999"))
    data = load_data(root, resolution=8)
    assert data.train.classes == data.test.classes == ("tench", "parachute", "n09999999")
    (root / "words.txt").write_text("n01440764\tfish\nn09999999\tbluebottle, fly\n")
    named = load_data(root, resolution=8)
    assert named.train.classes == ("fish", "parachute", "bluebottle")
    assert named.train.content_hash == data.train.content_hash  # results stay those of the images


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("cifar-10", {}, ["'cifar-10'", "'cifar10'"]),
        ("wof", {}, ["'wof'", "imagewoof"]),
        ("digits", {"resolution": 0}, [0]),
        ("digits", {"resolution": -4}, [-4]),
        ("digits", {"channels": 2}, [2]),
        *[(name, {"resolution": 8}, [name, "root"]) for name in ("tiny-imagenet", "imagenet-a", "folder")],
        *[
            (name, {"root": "nothing"}, [name, "nothing", "download=True"])
            for name in ("cifar10", "imagenette")
        ],
    ],
)
def test_what_cannot_be_loaded_is_one_clear_line(name, options, parts):
    with fails(*parts):
        load_data(name, **options)


def test_what_an_image_folder_lacks_is_one_clear_line(tmp_path):
    root = image_folder(tmp_path / "pets")
    with fails(root / "train", "2 classes", "1000"):
        load_data("imagenet-a", root=root)
    with fails("resolution", root):
        load_data(root)
    with fails("wrong channel count", root / "train" / "cat" / "0.png"):
        load_data(root, resolution=8, channels=1)
    for extra, missing in (("train", "test"), ("test", "training")):
        save(root / extra / "newt" / "0.png", colors(8, 8))
        with fails("'newt'", f"missing in the {missing} split"):
            load_data(root, resolution=8)
        (root / extra / "newt" / "0.png").unlink()
        with fails("'newt'", root / extra / "newt"):
            load_data(root, resolution=8)
        (root / extra / "newt").rmdir()
    (root / "test").rename(root / "other")
    with fails("test/", "val/", root):
        load_data(root, resolution=8)
    (root / "train").rename(root / "training")
    with fails("no folder", root / "train"):
        load_data(root, resolution=8)
    (root / "train").mkdir()
    with fails("no class folder", root / "train"):
        load_data(root, resolution=8)


# Image files


def test_the_content_hash_follows_files_and_resolution_but_not_the_place(tmp_path):
    first, second = (image_folder(tmp_path / name) for name in ("one", "two"))
    original = load_data(first, resolution=8)
    assert original.train.content_hash == load_data(second, resolution=8).train.content_hash
    assert original.train.content_hash != load_data(first, resolution=4).train.content_hash
    save(second / "train" / "cat" / "0.png", colors(8, 8, seed=999))
    changed = load_data(second, resolution=8)
    assert changed.train.content_hash != original.train.content_hash
    assert changed.test.content_hash == original.test.content_hash
    (first / "train" / "cat" / "0.png").rename(first / "train" / "cat" / "00.png")
    assert load_data(first, resolution=8).train.content_hash != original.train.content_hash


def test_files_decode_once(tmp_path, monkeypatch):
    root, decoded, original = image_folder(tmp_path / "pets"), [], image_files.decode
    first = load_data(root, resolution=8)
    monkeypatch.setattr(image_files, "decode", lambda *args: decoded.append(args[0]) or original(*args))
    assert torch.equal(load_data(root, resolution=8).train.images, first.train.images)
    assert decoded == []
    save(root / "test" / "dog" / "0.png", colors(8, 8, seed=5))
    load_data(root, resolution=8)
    assert len(decoded) == 4 and all("test" in path.parts for path in decoded)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_cache_is_decoded_again(damage, tmp_path, cache):
    root = image_folder(tmp_path / "pets")
    first = load_data(root, resolution=8)
    files = list((cache / "images").iterdir())
    assert len(files) == 2
    for file in files:
        intact = file.read_bytes()
        flipped = intact[:-5] + bytes([intact[-5] ^ 1]) + intact[-4:]
        file.write_bytes({"truncated": intact[:-7], "flipped": flipped, "empty": b""}[damage])
    again = load_data(root, resolution=8)
    assert torch.equal(again.train.images, first.train.images)
    assert torch.equal(again.test.images, first.test.images)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (5, 9)])
def test_decoding_scales_the_short_side_and_crops_the_center(shape, tmp_path):
    rows, columns = np.linspace(0, 1, shape[0])[:, None], np.linspace(0, 1, shape[1])[None]
    ramp = np.stack(np.broadcast_arrays(255 * rows, 255 * columns, 128.0), -1).round().astype(np.uint8)
    save(tmp_path / "ramp.png", ramp)
    pixels = image_files.decode(tmp_path / "ramp.png", 8, 3).astype(float)
    assert pixels.shape == (3, 8, 8)
    assert np.abs(pixels[:, 3:5, 3:5].mean((1, 2)) - 127.5).max() < 12  # the center stays the center
    long = 1 if shape[1] > shape[0] else 0
    spans = [np.ptp(pixels[0].mean(1)), np.ptp(pixels[1].mean(0))]
    assert spans[long] < 0.75 * spans[1 - long]  # the ends of the long side are cut off
    (whole,) = image_files.decode_unresized([tmp_path / "ramp.png"], 3)
    assert np.array_equal(whole, ramp.transpose(2, 0, 1))


def test_shrinking_is_antialiased(tmp_path):
    save(tmp_path / "board.png", (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    pixels = image_files.decode(tmp_path / "board.png", 8, 1)
    assert np.abs(pixels.astype(int) - 127).max() <= 3


def test_channels_are_converted_without_loss(tmp_path):
    gray, file = colors(8, 8)[..., 0], tmp_path / "image.png"
    save(file, gray)
    assert np.array_equal(image_files.decode(file, 8, 3), np.stack([gray] * 3))
    save(file, np.stack([gray] * 3, -1))
    assert np.array_equal(image_files.decode(file, 8, 1), gray[None])
    palette = Image.fromarray(colors(8, 8)).quantize(16)
    palette.save(file)
    expected = np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(image_files.decode(file, 8, 3), expected)
    save(file, np.full((8, 8), 40_000, np.uint16))
    with fails("image.png", "8-bit"):
        image_files.decode(file, 8, 1)


@pytest.mark.parametrize("content", [b"", b"no image", "truncated"])
def test_a_broken_image_names_the_file(content, tmp_path):
    root = image_folder(tmp_path / "pets", shape=(32, 32))
    broken = root / "train" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:900] if content == "truncated" else content)
    with fails("broken image", broken):
        load_data(root, resolution=8)


# Records


def test_the_description_is_json_with_counts_and_hashes(digits):
    summary = json.loads(json.dumps(describe(digits)))
    assert (summary["name"], summary["image_shape"]) == ("digits", [1, 16, 16])
    assert summary["images"] == {"train": 1437, "test": 360}
    assert summary["counts"]["train"] == dict(zip("0123456789", digits.train.counts, strict=True))
    assert summary["content_hash"]["test"] == digits.test.content_hash
    assert summary["mean"] == [round(float(digits.train.mean), 4)]


def test_a_folder_has_one_record_however_it_is_named(tmp_path):
    for name, root in (("folder", "datasets/leaves"), ("datasets/leaves", None)):
        data = DataSettings(name=name, root=root, resolution=32)
        assert record_file(data, tmp_path) == tmp_path / "leaves-32.json"
    data = DataSettings(name="cifar10", root="datasets")
    assert record_file(data, tmp_path) == tmp_path / "cifar10-own.json"


def test_a_record_has_all_but_the_pixels(small_digits, tmp_path, monkeypatch):
    data = DataSettings(name="folder", root=str(tmp_path / "absent" / "mine"), resolution=8)
    write_record(small_digits, record_file(data, tmp_path))
    found = read_record(data, tmp_path)
    for real, own in ((small_digits.train, found.train), (small_digits.test, found.test)):
        for field in ("name", "content_hash", "offsets", "classes", "image_shape"):
            assert getattr(own, field) == getattr(real, field)
        assert torch.equal(own.mean, real.mean) and torch.equal(own.std, real.std)
    batch = found.train.batch(2, torch.Generator())  # nothing can be computed from it
    assert batch.is_meta and batch.shape == (10, 2, 1, 8, 8)
    assert read_record(data.changed(resolution=16), tmp_path) is None
    assert read_record(data.changed(holdout=0.25), tmp_path) is None
    monkeypatch.setattr(distillation, "read_record", lambda data: read_record(data, tmp_path))
    assert distillation.known_real(data).train.content_hash == small_digits.train.content_hash
    digits = DataSettings(name="digits", resolution=8)  # images that are there go first
    assert distillation.known_real(digits) is distillation.load_real(digits)


def test_the_command_writes_a_record(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hglad.data.datasets.record_file", lambda data: tmp_path / "mine.json")
    assert main(["data", "check", "digits", "--resolution", "8", "--record"]) == 0
    assert (tmp_path / "mine.json").is_file() and '"digits"' in capsys.readouterr().out


# Augmentation, against plain restatements of each strategy


def ramps(height: int, width: int) -> torch.Tensor:
    """Two channels (n=1): the horizontal and the vertical coordinate, 0 in the middle, +-1 at the borders."""
    x = (2 * torch.arange(width) + 1) / width - 1
    y = (2 * torch.arange(height) + 1) / height - 1
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])[None]


@pytest.mark.parametrize("size", [(16, 16), (15, 24)])
def test_crop_shifts_whole_pixels_and_fills_with_zero(size):
    images, transform = noise(64, 2, *size), Augmentation("crop").draw(64, size, seeded(1))
    reach = torch.tensor([int(side * 0.125 + 0.5) for side in size])
    assert (transform.parameters.amin(0) == -reach).all() and (transform.parameters.amax(0) == reach).all()
    for image, (down, right), got in zip(
        images, transform.parameters.tolist(), transform(images), strict=True
    ):
        padded = torch.nn.functional.pad(image, (4, 4, 4, 4))
        expected = padded[:, 4 + down : 4 + down + size[0], 4 + right : 4 + right + size[1]]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("size", "square"), [((16, 16), (8, 8)), ((7, 10), (4, 5))])
def test_cutout_blanks_one_rectangle_of_half_the_sides(size, square):
    transform = Augmentation("cutout").draw(300, size, seeded(1))
    result = transform(torch.ones(300, 2, *size))
    blank = result == 0
    assert torch.equal(blank[:, 0], blank[:, 1]) and (result[~blank] == 1).all()
    for image, center in zip(blank[:, 0], transform.parameters.tolist(), strict=True):
        expected = torch.zeros(size, dtype=torch.bool)
        top, left = (middle - side // 2 for middle, side in zip(center, square, strict=True))
        expected[max(0, top) : top + square[0], max(0, left) : left + square[1]] = True
        assert torch.equal(image, expected)
    assert blank[:, 0].flatten(1).sum(1).max() == square[0] * square[1]
    assert blank[:, 0].any(0).all()  # every pixel is hit by some square


def test_flip_mirrors_about_half_of_the_images():
    images = noise(400, 1, 4, 6)
    result = Augmentation("flip").draw(400, (4, 6), seeded(1))(images)
    kept = (result == images).flatten(1).all(1)
    mirrored = (result == images.flip(3)).flatten(1).all(1)
    assert (kept ^ mirrored).all() and 160 < mirrored.sum() < 240


def test_scale_is_between_its_ratio_and_its_inverse_for_each_axis():
    ramp, transform = ramps(32, 32), Augmentation("scale").draw(500, (32, 32), seeded(1))
    result = transform(ramp.expand(500, -1, -1, -1))
    ratios = result[:, :, 16, 16] / ramp[0, :, 16, 16]  # horizontal, vertical
    for ratio in ratios.unbind(1):
        assert 1 / 1.2 - 1e-3 < ratio.min() < 0.84 and 1.19 < ratio.max() < 1.2 + 1e-3
    assert (ratios[:, 0] - ratios[:, 1]).abs().max() > 0.2
    expected = ratios[:, :1] * ramp[0, 0, 10, 16:20]
    torch.testing.assert_close(result[:, 0, 10, 16:20], expected, atol=1e-4, rtol=0)


def test_rotation_turns_by_up_to_15_degrees_both_ways():
    ramp, inside = ramps(32, 32), (slice(8, 24), slice(8, 24))
    result = Transform("rotate", torch.tensor([[0.0], [0.5], [1.0]]))(ramp.expand(3, -1, -1, -1))
    for image, angle in zip(result, (-15, 0, 15), strict=True):
        expected = cos(radians(angle)) * ramp[0, 0] - sin(radians(angle)) * ramp[0, 1]
        torch.testing.assert_close(image[0][inside], expected[inside], atol=1e-4, rtol=0)


def test_color_is_brightness_then_saturation_then_contrast():
    images, transform = noise(8, 3, 5, 5), Augmentation("color").draw(8, (5, 5), seeded(1))
    for image, (brightness, saturation, contrast), got in zip(
        images, transform.parameters, transform(images), strict=True
    ):
        bright = image + brightness - 0.5
        saturated = bright.mean(0) + 2 * saturation * (bright - bright.mean(0))
        expected = saturated.mean() + (contrast + 0.5) * (saturated - saturated.mean())
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [*NAMES, ""])
def test_a_transform_is_exact_in_gradient_and_the_same_for_a_class_or_an_image_alone(name):
    transform, images = Augmentation(name).draw(3, (6, 6), seeded(2)), noise(3, 2, 6, 6)
    assert torch.autograd.gradcheck(transform, (images.double().requires_grad_(),))
    expected = transform(images)
    torch.testing.assert_close(
        transform.repeat(2)(images.repeat_interleave(2, dim=0)), expected.repeat_interleave(2, dim=0)
    )
    for index in range(3):
        torch.testing.assert_close(transform.select(index)(images[index : index + 1])[0], expected[index])
    same = Augmentation(name).draw(20, (16, 16), seeded(2))(noise(1, 2, 16, 16).expand(20, -1, -1, -1))
    assert (len(torch.unique(same, dim=0)) > 1) == bool(name)  # every image has parameters of its own


def test_one_strategy_is_drawn_per_call_and_all_equally_often_from_the_generator_alone():
    rng, augmentation, state = seeded(), Augmentation(DSA), torch.random.get_rng_state()
    drawn = [augmentation.draw(1, (8, 8), rng).strategy for _ in range(600)]
    assert set(drawn) == set(STRATEGIES) - {"none"}
    assert all(70 < drawn.count(name) < 130 for name in NAMES)
    first, second = (augmentation.draw(5, (8, 8), seeded(3)) for _ in range(2))
    assert first.strategy == second.strategy and torch.equal(first.parameters, second.parameters)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        (lambda: Augmentation("color_crpo"), ["did you mean 'crop'"]),
        (lambda: Augmentation("color__flip"), ["unknown augmentation strategy ''"]),
        (lambda: Augmentation("none"), ["'none'"]),
        (lambda: Augmentation("flip").draw(2, (8, 8), seeded())(noise(3, 1, 8, 8)), ["drawn for 2 images"]),
        (lambda: Augmentation("flip").draw(2, (8, 8), seeded())(noise(2, 8, 8)), ["(2, 8, 8)"]),
        (lambda: Augmentation("flip").draw(2, (8, 8), seeded())(noise(2, 1, 8, 8).byte()), ["uint8"]),
    ],
)
def test_what_an_augmentation_cannot_do_is_one_clear_line(wrong, parts):
    with fails(*parts):
        wrong()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_draws_on_a_gpu_without_waiting_for_it():
    torch.cuda.set_sync_debug_mode("error")
    try:
        rng, images = torch.Generator("cuda").manual_seed(0), torch.ones(4, 3, 16, 16, device="cuda")
        transforms = [Augmentation(DSA).draw(4, (16, 16), rng) for _ in range(60)]
        results = [transform(images) for transform in transforms]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert {transform.strategy for transform in transforms} == set(NAMES)
    assert all(result.isfinite().all() for result in results)
