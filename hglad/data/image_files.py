"""Image files: find by class, hash, decode in parallel, keep the pixels in a cache keyed by content."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from hglad.errors import HgladError
from hglad.paths import cache_folder
from hglad.storage import best_effort, read_metadata, read_tensors, write_tensors

DECODER_VERSION = 1  # raised when `decode` gives other pixels: part of the content key
SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
GRAY_MODES = frozenset(("1", "L", "LA"))
COLOR_MODES = frozenset(("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"))
IMAGENETTE_NAMES = {  # ImageNette comes as folders of WordNet ids, without a list of names
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
FilesByClass = dict[str, list[Path]]


def class_folders(split: Path) -> tuple[str, ...]:
    """Sorted names of the class folders of a split; hidden folders do not count."""
    if not split.is_dir():
        raise HgladError(f"no folder {split}; put images there, one folder per class")
    return tuple(sorted(f.name for f in split.iterdir() if f.is_dir() and not f.name.startswith(".")))


def folder_files(split: Path, classes: Sequence[str] | None = None) -> FilesByClass:
    """Image files at any depth of all class folders of a split, or of those of `classes` that are there.

    Raises:
        HgladError: no such folder, no class in it, a class without an image.
    """
    found = class_folders(split)
    if not found:
        raise HgladError(f"no class folder in {split}; put images there, one folder per class")
    files: FilesByClass = {}
    for name in found if classes is None else [name for name in classes if name in found]:
        walk = os.walk(split / name, followlinks=True)
        paths = (Path(where) / file for where, _, each in walk for file in each if not file.startswith("."))
        files[name] = sorted(path for path in paths if path.suffix.lower() in SUFFIXES)
        if not files[name]:
            raise HgladError(f"class {name!r} has no image in {split / name}; add some or remove the folder")
    return files


def annotated_files(folder: Path, classes: Sequence[str]) -> FilesByClass:
    """Files of `images/` by the class in `val_annotations.txt` (file, class id, box), ordered as `classes`.

    A class without a file is left out, a class not among `classes` comes last.
    """
    listing = folder / "val_annotations.txt"
    if not listing.is_file():
        raise HgladError(f"no file {listing}; restore it, or load folders per class as data set 'folder'")
    files: FilesByClass = {name: [] for name in classes}
    for line in filter(str.strip, listing.read_text().splitlines()):
        file, name, *_ = f"{line}\t".split("\t")
        files.setdefault(name, []).append(folder / "images" / file)
    return {name: sorted(group) for name, group in files.items() if group}


def readable_names(root: Path, ids: Sequence[str]) -> list[str]:
    """Class names out of `words.txt` or `LOC_synset_mapping.txt`, for ImageNette known without them; an id
    without a name of its own stays."""
    listed = dict(IMAGENETTE_NAMES)
    for file in filter(Path.is_file, (root / "words.txt", root / "LOC_synset_mapping.txt")):
        pairs = (line.split(maxsplit=1) for line in file.read_text(encoding="utf-8").splitlines())
        listed |= {pair[0]: pair[1].split(",")[0].strip() for pair in pairs if len(pair) == 2}
    names = [listed.get(wnid, wnid) for wnid in ids]
    return [name if names.count(name) == 1 else wnid for name, wnid in zip(names, ids, strict=True)]


def load_images(files: FilesByClass, resolution: int, channels: int) -> tuple[Tensor, str]:
    """Decoded images uint8 (n, ch, h, w) in the order of `files` and their content key.

    The pixels come from the cache when it holds the key intact. A file that cannot be read or has
    the wrong channel count raises `HgladError` with its name.
    """
    key = content_key(files, resolution, channels)
    cached = cache_folder() / "images" / f"{key}.safetensors"
    if cached.exists():
        try:
            images, expected = read_tensors(cached).get("images"), read_metadata(cached).get("sha256")
            if images is not None and hashlib.sha256(images.numpy()).hexdigest() == expected:
                return images, key
        except HgladError:  # damaged
            pass
    paths = [path for group in files.values() for path in group]
    pixels = np.empty((len(paths), channels, resolution, resolution), np.uint8)

    def fill(row: int) -> None:
        pixels[row] = decode(paths[row], resolution, channels)

    for _ in _in_threads(fill, range(len(paths)), "decoding"):
        pass
    images = torch.from_numpy(pixels)
    with best_effort(cached):
        write_tensors(cached, {"images": images}, {"sha256": hashlib.sha256(pixels).hexdigest()})
    return images, key


def content_key(files: FilesByClass, resolution: int, channels: int) -> str:
    """Hex sha256 over class, name and content of every file and all that decides its pixels."""
    named = [(f"{name}/{path.name}", path) for name, group in files.items() for path in group]
    total = hashlib.sha256(f"decoder {DECODER_VERSION} resolution {resolution} channels {channels}".encode())
    contents = _in_threads(_file_hash, [path for _, path in named], "hashing")
    for (name, _), content in zip(named, contents, strict=True):
        total.update(hashlib.sha256(os.fsencode(name)).digest() + content)
    return total.hexdigest()


def decode(path: Path, resolution: int | None, channels: int) -> np.ndarray:
    """One file as uint8 (ch, h, w): short side resized to `resolution` (bicubic, antialiased), center crop.

    A `resolution` of None leaves the size as it is. Gray and palette files become RGB without loss when
    `channels` is 3, and alpha is dropped. A color file where `channels` is 1 raises `HgladError`, as does a
    broken file. EXIF orientation is not applied.
    """
    image = _in_channels(_read_image(path), channels, path)
    pixels = np.asarray(image if resolution is None else fit(image, resolution))  # (h, w) or (h, w, ch)
    return pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)


def decode_unresized(paths: Sequence[Path], channels: int) -> list[np.ndarray]:
    """Decode files in parallel to uint8 (ch, h, w), each in its own size; channels and errors as `decode`."""
    return list(_in_threads(lambda path: decode(path, None, channels), paths, "decoding"))


def fit(image: Image.Image, resolution: int, resample: int = Image.Resampling.BICUBIC) -> Image.Image:
    """Resize the short side to `resolution` and crop the center."""
    short = min(image.size)
    if short != resolution:
        width, height = (side * resolution // short for side in image.size)
        image = image.resize((width, height), resample)
    left, top = (image.width - resolution) // 2, (image.height - resolution) // 2
    return image.crop((left, top, left + resolution, top + resolution))


def _read_image(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except Exception as error:  # the decoders raise OSError, SyntaxError, ValueError, struct.error and more
        reason = " ".join(str(error).split())
        if isinstance(error, UnidentifiedImageError):
            reason = "no known image format"
        raise HgladError(f"broken image {path}: {reason}; replace or remove the file") from error


def _in_channels(image: Image.Image, channels: int, path: Path) -> Image.Image:
    if image.mode not in GRAY_MODES | COLOR_MODES:
        raise HgladError(f"image {path} has {image.mode!r} pixels, expected 8-bit gray or color; convert it")
    if "transparency" in image.info:
        image = image.convert("RGBA")  # a palette with alpha has no direct way to RGB
    if channels == 3:
        return image.convert("RGB")
    if image.mode in GRAY_MODES:
        return image.convert("L")
    red, green, blue = image.convert("RGB").split()
    if not red.tobytes() == green.tobytes() == blue.tobytes():
        raise HgladError(f"wrong channel count: {path} has color, expected 1 channel; pass channels=3")
    return red


def _file_hash(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise HgladError(f"cannot read image {path}: {error.strerror}; restore the file") from error


def _in_threads(function: Callable, items: Sequence, title: str) -> Iterator:
    """Results in order; PIL and hashlib release the interpreter lock, so threads suffice."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(function, items)
        yield from tqdm(results, title, len(items), unit="image", leave=False, disable=None)
