"""Real data: the tensor of one split, the registry, and the way from image files to pixels."""

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import Imagenette

import hglad.data.image_files as image_files
from hglad.data.datasets import (
    IMAGENET_SUBSETS,
    RealData,
    available,
    channel_statistics,
    describe,
    draw,
    from_arrays,
    load_data,
)
from hglad.data.image_files import IMAGENETTE_NAMES
from hglad.errors import HgladError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HGLAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def colours(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def image_folder(root, classes=("cat", "dog"), test="test", shape=(8, 8), suffix="png"):
    for split, count in (("train", 3), (test, 2)):
        for number, name in enumerate(classes):
            for i in range(count):
                seed = 100 * number + 10 * count + i
                save(root / split / name / f"{i}.{suffix}", colours(*shape, seed))
    return root


def numbered(counts):
    """Every pixel of image i holds i; two channels tell a transposed layout."""
    total = sum(counts)
    images = torch.arange(total, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 2, 3, 4).contiguous()
    offsets = (0, *torch.tensor(counts).cumsum(0).tolist())
    classes = tuple(f"class{i}" for i in range(len(counts)))
    return RealData("numbers", images, offsets, classes, torch.tensor([0.5, 0.25]), torch.ones(2), "0" * 64)


def content(batch):
    return (batch[..., 0, 0, 0] * 255).round().long()


def one_line(error, *parts):
    assert "\n" not in str(error.value)
    for part in parts:
        assert str(part) in str(error.value)


def test_digits_are_uint8_sorted_by_class_and_split_by_a_fifth(digits):
    assert digits.train.images.dtype == torch.uint8
    assert digits.train.image_shape == (1, 16, 16)
    assert (len(digits.train.images), len(digits.test.images)) == (1437, 360)
    assert digits.train.classes == tuple("0123456789")
    assert digits.train.labels.tolist() == sorted(digits.train.labels.tolist())
    for test, train in zip(digits.test.counts, digits.train.counts, strict=True):
        assert abs(test / (test + train) - 0.2) < 0.01


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


def test_statistics_are_of_the_training_images_in_both_splits(digits):
    pixels = digits.train.images.double() / 255
    for split in (digits.train, digits.test):
        torch.testing.assert_close(split.mean, pixels.mean((0, 2, 3)).float())
        torch.testing.assert_close(split.std, pixels.std((0, 2, 3), unbiased=False).float())


def test_statistics_per_channel_and_of_a_constant_channel():
    images = torch.zeros(2, 2, 1, 2, dtype=torch.uint8)
    images[:, 0] = torch.tensor([[0, 51]], dtype=torch.uint8)
    mean, std = channel_statistics(images)
    torch.testing.assert_close(mean, torch.tensor([0.1, 0.0]))
    torch.testing.assert_close(std, torch.tensor([0.1, 1 / 255]))


def test_normalize_gives_zero_mean_and_unit_variance(digits):
    images = digits.train.normalize(digits.train.images.float() / 255)
    assert abs(images.mean()) < 1e-4
    assert abs(images.std() - 1) < 1e-3


def test_normalize_works_per_channel_under_any_leading_dimensions():
    data = numbered([2])
    images = torch.full((5, 4, 2, 3, 3), 0.5)
    assert data.normalize(images)[0, 0, :, 0, 0].tolist() == [0.0, 0.25]


def test_normalize_refuses_other_channels(digits):
    with pytest.raises(HgladError) as error:
        digits.train.normalize(torch.zeros(2, 3, 16, 16))
    one_line(error, "wrong channel count", 3, 1, "digits")


def test_batch_draws_each_class_without_replacement():
    data = numbered([5, 9, 7])
    batch = data.batch(5, generator())
    assert batch.shape == (3, 5, 2, 3, 4)
    assert batch.dtype == torch.float32
    for rows, start, end in zip(content(batch), data.offsets, data.offsets[1:], strict=False):
        assert len(set(rows.tolist())) == 5
        assert all(start <= row < end for row in rows.tolist())


def test_batch_of_a_small_class_comes_in_whole_permutations():
    rows = content(numbered([3, 20]).batch(8, generator()))
    small = rows[0].tolist()
    assert sorted(small[:3]) == sorted(small[3:6]) == [0, 1, 2]
    assert len(set(small[6:])) == 2
    assert len(set(rows[1].tolist())) == 8


def test_each_permutation_of_a_small_class_is_a_new_one():
    rows = content(numbered([10, 10]).batch(20, generator()))
    assert not torch.equal(rows[:, :10], rows[:, 10:])


def test_batch_is_scaled_to_one(digits):
    batch = digits.train.batch(5, generator())
    assert (batch.min(), batch.max()) == (0, 1)


def test_batch_depends_on_the_generator_alone():
    data = numbered([9, 9])
    torch.manual_seed(1)
    first = data.batch(4, generator(7))
    torch.manual_seed(2)
    assert torch.equal(first, data.batch(4, generator(7)))
    assert not torch.equal(first, data.batch(4, generator(8)))


def test_draws_are_uniform():
    source = generator()
    drawn = torch.cat([draw((0, 4, 10), 3, source) for _ in range(2000)], dim=1)
    for row, start, count in zip(drawn, (0, 4), (4, 6), strict=True):
        share = (row - start).bincount(minlength=count) / len(row)
        assert (share - 1 / count).abs().max() < 0.02


@pytest.mark.parametrize("per_class", [0, -1])
def test_batch_of_nothing_is_an_error(per_class):
    with pytest.raises(HgladError) as error:
        numbered([2]).batch(per_class, generator())
    one_line(error, "per_class", per_class)


def test_select_sorts_by_class_and_keeps_order_inside():
    data = numbered([3, 3]).select([5, 2, 0, 3])
    assert data.images[:, 0, 0, 0].tolist() == [2, 0, 5, 3]
    assert (data.offsets, data.labels.tolist()) == ((0, 2, 4), [0, 0, 1, 1])


def test_select_by_mask_equals_select_by_index():
    data = numbered([2, 2])
    by_mask = data.select(torch.tensor([True, False, False, True]))
    by_index = data.select([0, 3])
    assert torch.equal(by_mask.images, by_index.images)
    assert by_mask.content_hash == by_index.content_hash != data.content_hash


@pytest.mark.parametrize(("indices", "part"), [([0, 4], "index 4"), ([-1], "index -1"), ([0], "'class1'")])
def test_select_refuses_bad_indices(indices, part):
    with pytest.raises(HgladError) as error:
        numbered([2, 2]).select(indices)
    one_line(error, part, "'numbers'")


def test_split_is_stratified_disjoint_and_complete():
    data = numbered([10, 20])
    kept, held = data.split(0.3, seed=1)
    assert (kept.counts, held.counts) == ((7, 14), (3, 6))
    both = torch.cat([kept.images, held.images])[:, 0, 0, 0]
    assert sorted(both.tolist()) == list(range(30))
    assert torch.equal(kept.mean, data.mean)
    assert len({data.content_hash, kept.content_hash, held.content_hash}) == 3


def test_split_depends_on_the_seed_alone():
    data = numbered([10, 20])
    state = torch.get_rng_state()
    first, again, other = (data.split(0.3, seed)[1] for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert torch.equal(torch.get_rng_state(), state)


def test_split_leaves_an_image_on_each_side():
    kept, held = numbered([2, 2]).split(0.01, seed=0)
    assert kept.counts == held.counts == (1, 1)


@pytest.mark.parametrize(("last", "fraction", "part"), [(4, 1.0, "1.0"), (4, 0, "0"), (1, 0.5, "'class1'")])
def test_split_refuses_what_cannot_be_split(last, fraction, part):
    with pytest.raises(HgladError) as error:
        numbered([4, last]).split(fraction, seed=0)
    one_line(error, part)


def test_real_data_refuses_float_images():
    with pytest.raises(HgladError) as error:
        RealData("floats", torch.zeros(2, 1, 4, 4), (0, 2), ("a",), torch.zeros(1), torch.ones(1), "")
    one_line(error, "floats", "uint8")


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


def test_cifar_reads_torchvisions_files(tmp_path, monkeypatch):
    pixels = {"train": colours(4, 3072)[..., 0], "test": colours(2, 3072, seed=1)[..., 0]}
    cifar_archive(tmp_path, monkeypatch, pixels)
    data = load_data("cifar10", root=tmp_path)
    assert data.train.images.flatten(1).tolist() == pixels["train"][[1, 3, 0, 2]].tolist()
    assert (data.train.counts, data.train.classes) == ((2, 2), ("plane", "car"))
    assert data.test.images.shape == (2, 3, 32, 32)
    assert load_data("cifar10", root=tmp_path, resolution=16).train.image_shape == (3, 16, 16)
    with pytest.raises(HgladError) as error:
        load_data("cifar10", root=tmp_path, channels=1)
    one_line(error, "wrong channel count", "cifar10")


def cifar_archive(root, monkeypatch, pixels):
    """A small archive in the layout of CIFAR-10, with its own checksums."""
    from torchvision.datasets import CIFAR10

    files = {
        "data_batch_1": {"data": pixels["train"], "labels": [1, 0, 1, 0]},
        "test_batch": {"data": pixels["test"], "labels": [0, 1]},
        "batches.meta": {"label_names": ["plane", "car"]},
    }
    folder = root / CIFAR10.base_folder
    folder.mkdir()
    for name, entry in files.items():
        (folder / name).write_bytes(pickle.dumps(entry))
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in files}
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    monkeypatch.setattr(CIFAR10, "meta", meta)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenette"])
def test_an_archive_that_is_not_there_is_an_error(name, tmp_path):
    with pytest.raises(HgladError) as error:
        load_data(name, root=tmp_path)
    one_line(error, name, tmp_path, "download=True")


def test_imagenette_reads_torchvisions_folder(tmp_path):
    image_folder(tmp_path / "imagenette2-320", ("n01440764", "n03888257"), test="val", suffix="JPEG")
    data = load_data("imagenette", root=tmp_path)
    assert data.train.classes == ("tench", "parachute")
    assert (data.train.counts, data.test.counts) == ((3, 3), (2, 2))
    assert data.train.image_shape == (3, 128, 128)


def test_tiny_imagenet_in_its_original_layout(tmp_path):
    tiny_imagenet(tmp_path)
    data = load_data("tiny-imagenet", root=tmp_path)
    assert data.train.classes == ("goldfish", "crane fly")
    assert data.train.image_shape == (3, 64, 64)
    assert (data.train.counts, data.test.counts) == ((2, 2), (1, 2))
    for row, value in enumerate((20, 10, 30)):  # val_1 is the goldfish
        assert data.test.images[row].unique().tolist() == [value]


def tiny_imagenet(root):
    for wnid in ("n001", "n002"):
        for i in range(2):
            save(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", colours(64, 64, seed=i))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("0 0 1 1\n")
    for i, value in enumerate((10, 20, 30)):
        save(root / "val" / "images" / f"val_{i}.JPEG", np.full((64, 64), value, np.uint8))
    lines = [f"val_{i}.JPEG\t{wnid}\t0\t0\t9\t9\n" for i, wnid in enumerate(("n002", "n001", "n002"))]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "words.txt").write_text("n001\tgoldfish, Carassius auratus\nn002\tcrane fly\nn003\tother\n")


def test_tiny_imagenet_with_an_unknown_class_or_a_lost_file(tmp_path):
    tiny_imagenet(tmp_path)
    listing = tmp_path / "val" / "val_annotations.txt"
    intact = listing.read_text()
    listing.write_text(intact + "val_2.JPEG\tn999\t0\t0\t9\t9\n")
    with pytest.raises(HgladError) as error:
        load_data("tiny-imagenet", root=tmp_path)
    one_line(error, "n999", "training split")
    listing.write_text(intact)
    (tmp_path / "val" / "images" / "val_2.JPEG").unlink()
    with pytest.raises(HgladError) as error:
        load_data("tiny-imagenet", root=tmp_path)
    one_line(error, "val_2.JPEG")


@pytest.mark.parametrize("name", ["imagenette", "imagewoof", "imagenet-birds"])
def test_imagenet_subset_takes_the_classes_by_rank(name, tmp_path):
    canonical = {"imagenet-birds": "imagesquawk"}.get(name, name)
    imagenet(tmp_path, IMAGENET_SUBSETS[canonical])
    data = load_data(name, root=tmp_path, resolution=4)
    assert data.name == data.train.name == canonical
    assert data.train.classes == tuple(f"n{index:04d}" for index in IMAGENET_SUBSETS[canonical])
    for split in (data.train, data.test):
        assert split.images[:, 0, 0, 0].tolist() == [index % 256 for index in IMAGENET_SUBSETS[canonical]]


def imagenet(root, indices):
    for index in range(1000):
        (root / "train" / f"n{index:04d}").mkdir(parents=True)
    for index in indices:
        for split in ("train", "val"):
            save(root / split / f"n{index:04d}" / "image.png", np.full((4, 4), index % 256, np.uint8))


def test_imagenet_subsets_have_ten_classes_each_and_are_registered():
    names = {name for name, _ in available()}
    assert {"digits", "cifar10", "cifar100", "tiny-imagenet", "folder", *IMAGENET_SUBSETS} == names
    assert all(len(set(indices)) == 10 and max(indices) < 1000 for indices in IMAGENET_SUBSETS.values())


def test_an_imagenet_folder_needs_all_thousand_classes(tmp_path):
    image_folder(tmp_path)
    with pytest.raises(HgladError) as error:
        load_data("imagenet-a", root=tmp_path)
    one_line(error, tmp_path / "train", "2 classes", "1000")


@pytest.mark.parametrize("test", ["test", "val"])
def test_an_image_folder_by_path_and_by_root(test, tmp_path):
    root = image_folder(tmp_path / "pets", test=test)
    by_path = load_data(str(root), resolution=8)
    by_root = load_data("folder", root=root, resolution=8)
    assert by_path.name == "pets"
    (tmp_path / "animals").symlink_to(root)
    assert load_data(str(tmp_path / "animals"), resolution=8).name == "animals"  # as the user calls it
    assert by_path.train.classes == ("cat", "dog")
    assert (by_path.train.counts, by_path.test.counts) == ((3, 3), (2, 2))
    assert torch.equal(by_path.train.images, by_root.train.images)
    expected = colours(8, 8, seed=100 + 30 + 2).transpose(2, 0, 1)
    assert np.array_equal(by_path.train.images[-1].numpy(), expected)
    assert torch.equal(by_path.test.mean, channel_statistics(by_path.train.images)[0])


def test_an_image_folder_of_wordnet_ids_has_names(tmp_path):
    ids = ("n01440764", "n03888257", "n09999999")
    root = image_folder(tmp_path / "some", ids)
    data = load_data(str(root), resolution=8)
    assert data.train.classes == data.test.classes == ("tench", "parachute", "n09999999")
    (root / "words.txt").write_text("n01440764\tfish\nn09999999\tbluebottle, fly\n")
    named = load_data(str(root), resolution=8)
    assert named.train.classes == ("fish", "parachute", "bluebottle")
    assert named.train.content_hash == data.train.content_hash  # results stay those of the images


def test_the_names_of_imagenette_are_torchvisions():
    known = {wnid: names[0] for wnid, names in Imagenette._WNID_TO_CLASS.items()}
    assert known == IMAGENETTE_NAMES


def test_the_content_hash_follows_files_and_resolution_but_not_the_place(tmp_path):
    first, second = (image_folder(tmp_path / name) for name in ("one", "two"))
    original = load_data(str(first), resolution=8)
    assert original.train.content_hash == load_data(str(second), resolution=8).train.content_hash
    assert original.train.content_hash != load_data(str(first), resolution=4).train.content_hash
    save(second / "train" / "cat" / "0.png", colours(8, 8, seed=999))
    changed = load_data(str(second), resolution=8)
    assert changed.train.content_hash != original.train.content_hash
    assert changed.test.content_hash == original.test.content_hash
    (first / "train" / "cat" / "0.png").rename(first / "train" / "cat" / "00.png")
    assert load_data(str(first), resolution=8).train.content_hash != original.train.content_hash


def test_files_decode_once(tmp_path, monkeypatch):
    root = image_folder(tmp_path / "pets")
    first = load_data(str(root), resolution=8)
    decoded = []
    original = image_files.decode
    monkeypatch.setattr(image_files, "decode", lambda *args: decoded.append(args[0]) or original(*args))
    assert torch.equal(load_data(str(root), resolution=8).train.images, first.train.images)
    assert decoded == []
    save(root / "test" / "dog" / "0.png", colours(8, 8, seed=5))
    load_data(str(root), resolution=8)
    assert len(decoded) == 4
    assert all("test" in path.parts for path in decoded)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_cache_is_decoded_again(damage, tmp_path, cache):
    root = image_folder(tmp_path / "pets")
    first = load_data(str(root), resolution=8)
    files = list((cache / "images").iterdir())
    assert len(files) == 2
    for file in files:
        intact = file.read_bytes()
        flipped = intact[:-5] + bytes([intact[-5] ^ 1]) + intact[-4:]
        file.write_bytes({"truncated": intact[:-7], "flipped": flipped, "empty": b""}[damage])
    again = load_data(str(root), resolution=8)
    assert torch.equal(again.train.images, first.train.images)
    assert torch.equal(again.test.images, first.test.images)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (5, 9)])
def test_decoding_scales_the_short_side_and_crops_the_centre(shape, tmp_path):
    rows, columns = np.linspace(0, 1, shape[0])[:, None], np.linspace(0, 1, shape[1])[None]
    ramp = np.stack(np.broadcast_arrays(255 * rows, 255 * columns, 128.0), -1).round().astype(np.uint8)
    save(tmp_path / "ramp.png", ramp)
    pixels = image_files.decode(tmp_path / "ramp.png", 8, 3).astype(float)
    assert pixels.shape == (3, 8, 8)
    middle = pixels[:, 3:5, 3:5].mean((1, 2))
    assert np.abs(middle - 127.5).max() < 12  # the centre of the ramp stays the centre
    long = 1 if shape[1] > shape[0] else 0
    spans = [np.ptp(pixels[0].mean(1)), np.ptp(pixels[1].mean(0))]
    assert spans[long] < 0.75 * spans[1 - long]  # the ends of the long side are cut off


def test_shrinking_is_antialiased(tmp_path):
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    save(tmp_path / "board.png", board)
    pixels = image_files.decode(tmp_path / "board.png", 8, 1)
    assert np.abs(pixels.astype(int) - 127).max() <= 3


def test_grey_and_palette_files_become_rgb_without_loss(tmp_path):
    grey = colours(8, 8)[..., 0]
    save(tmp_path / "grey.png", grey)
    assert np.array_equal(image_files.decode(tmp_path / "grey.png", 8, 3), np.stack([grey] * 3))
    palette = Image.fromarray(colours(8, 8)).quantize(16)
    palette.save(tmp_path / "palette.png")
    expected = np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(image_files.decode(tmp_path / "palette.png", 8, 3), expected)


def test_grey_pixels_in_a_colour_file_become_one_channel(tmp_path):
    grey = colours(8, 8)[..., 0]
    save(tmp_path / "grey.png", np.stack([grey] * 3, -1))
    assert np.array_equal(image_files.decode(tmp_path / "grey.png", 8, 1), grey[None])


def test_a_colour_file_in_a_grey_set_names_the_file(tmp_path):
    root = image_folder(tmp_path / "pets")
    with pytest.raises(HgladError) as error:
        load_data(str(root), resolution=8, channels=1)
    one_line(error, "wrong channel count", root / "train" / "cat" / "0.png")


def test_sixteen_bit_pixels_are_refused(tmp_path):
    save(tmp_path / "deep.png", np.full((8, 8), 40_000, np.uint16))
    with pytest.raises(HgladError) as error:
        image_files.decode(tmp_path / "deep.png", 8, 1)
    one_line(error, "deep.png", "8-bit")


@pytest.mark.parametrize("content", [b"", b"no image", "truncated"])
def test_a_broken_image_names_the_file(content, tmp_path):
    root = image_folder(tmp_path / "pets", shape=(32, 32))
    broken = root / "train" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:900] if content == "truncated" else content)
    with pytest.raises(HgladError) as error:
        load_data(str(root), resolution=8)
    one_line(error, "broken image", broken)


def test_other_files_and_hidden_folders_do_not_count(tmp_path):
    root = image_folder(tmp_path / "pets")
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    (root / "train" / ".hidden").mkdir()
    assert load_data(str(root), resolution=8).train.counts == (3, 3)


def test_an_empty_class_is_named(tmp_path):
    root = image_folder(tmp_path / "pets")
    (root / "train" / "newt").mkdir()
    with pytest.raises(HgladError) as error:
        load_data(str(root), resolution=8)
    one_line(error, "'newt'", root / "train" / "newt")


@pytest.mark.parametrize(("extra", "missing"), [("train", "test"), ("test", "training")])
def test_a_class_of_one_split_only_is_named(extra, missing, tmp_path):
    root = image_folder(tmp_path / "pets")
    save(root / extra / "newt" / "0.png", colours(8, 8))
    with pytest.raises(HgladError) as error:
        load_data(str(root), resolution=8)
    one_line(error, "'newt'", f"missing in the {missing} split")


@pytest.mark.parametrize(("name", "nearest"), [("cifar-10", "cifar10"), ("wof", "imagewoof")])
def test_an_unknown_name_suggests_the_nearest(name, nearest):
    with pytest.raises(HgladError) as error:
        load_data(name)
    one_line(error, repr(name), repr(nearest))


@pytest.mark.parametrize("name", ["tiny-imagenet", "imagenet-a", "imagewoof", "folder"])
def test_a_missing_root_is_an_error(name):
    with pytest.raises(HgladError) as error:
        load_data(name, resolution=8)
    one_line(error, name, "root")


def test_an_image_folder_needs_resolution_train_and_test(tmp_path):
    root = image_folder(tmp_path / "pets")
    with pytest.raises(HgladError) as error:
        load_data(str(root))
    one_line(error, "resolution", root)
    (root / "test").rename(root / "other")
    with pytest.raises(HgladError) as error:
        load_data(str(root), resolution=8)
    one_line(error, "test/", "val/", root)
    (root / "train").rename(root / "training")
    with pytest.raises(HgladError) as error:
        load_data(str(root), resolution=8)
    one_line(error, "train/", root)


@pytest.mark.parametrize("options", [{"resolution": 0}, {"resolution": -4}, {"channels": 2}])
def test_impossible_shapes_are_refused(options):
    with pytest.raises(HgladError) as error:
        load_data("digits", **options)
    one_line(error, *options.values())


def test_the_description_is_json_with_counts_and_hashes(digits):
    summary = json.loads(json.dumps(describe(digits)))
    assert summary["name"] == "digits"
    assert summary["image_shape"] == [1, 16, 16]
    assert summary["images"] == {"train": 1437, "test": 360}
    assert summary["counts"]["train"] == dict(zip("0123456789", digits.train.counts, strict=True))
    assert summary["content_hash"]["test"] == digits.test.content_hash
    assert summary["mean"] == [round(float(digits.train.mean), 4)]


def test_a_path_object_is_a_name_too(tmp_path):
    root = image_folder(tmp_path / "pets")
    assert load_data(Path(root), resolution=8).name == "pets"
    with pytest.raises(HgladError) as error:
        load_data(tmp_path / "nothing")
    one_line(error, tmp_path / "nothing")
