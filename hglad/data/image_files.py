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
from hglad.storage import read_metadata, read_tensors, spared, write_tensors

DECODER_VERSION = 1  # raised when `decode` gives other pixels: part of the content key
SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
GREY_MODES = frozenset(("1", "L", "LA"))
COLOUR_MODES = frozenset(("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"))
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


def class_folders(split: Path) -> tuple[str, ...]:
    """Sorted names of the class folders of a split; hidden folders do not count."""
    return tuple(sorted(f.name for f in split.iterdir() if f.is_dir() and not f.name.startswith(".")))


def folder_files(split: Path, classes: Sequence[str] | None = None) -> dict[str, list[Path]]:
    """Class name to image files: of all class folders of a split, or of those of `classes` that are there."""
    if not split.is_dir():
        raise HgladError(f"no folder {split}; put images there, one folder per class")
    classes = class_folders(split) if classes is None else classes
    if not classes:
        raise HgladError(f"no class folder in {split}; put images there, one folder per class")
    return {name: image_files(split / name) for name in classes if (split / name).is_dir()}


def annotated_files(folder: Path, classes: Sequence[str]) -> dict[str, list[Path]]:
    """Files of `images/` by the class in `val_annotations.txt` (file, class id, box), ordered as `classes`.

    A class without a file is left out, a class not among `classes` comes last.
    """
    listing = folder / "val_annotations.txt"
    if not listing.is_file():
        raise HgladError(f"no file {listing}; restore it, or load folders per class as data set 'folder'")
    files = {name: [] for name in classes}
    for line in filter(str.strip, listing.read_text().splitlines()):
        file, _, rest = line.partition("\t")
        files.setdefault(rest.partition("\t")[0], []).append(folder / "images" / file)
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


def image_files(folder: Path) -> list[Path]:
    """Image files at any depth of a class folder, sorted by path; none at all raises `HgladError`."""
    found = (Path(where) / name for where, _, names in os.walk(folder, followlinks=True) for name in names)
    files = sorted(p for p in found if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not files:
        raise HgladError(f"class {folder.name!r} has no image in {folder}; add some or remove the folder")
    return files


def load_images(files: dict[str, list[Path]], resolution: int, channels: int) -> tuple[Tensor, str]:
    """Decoded images uint8 (n, ch, h, w) in the order of `files` (class name to files) and their content key.

    The pixels come from the cache when it holds the key intact. A file that cannot be read or has
    the wrong channel count raises `HgladError` with its name.
    """
    paths = [path for group in files.values() for path in group]
    key = content_key(files, resolution, channels)
    cached = cache_folder() / "images" / f"{key}.safetensors"
    images = _read_cache(cached)
    if images is None:
        images = decode_all(paths, resolution, channels)
        _write_cache(cached, images)
    return images, key


def content_key(files: dict[str, list[Path]], resolution: int, channels: int) -> str:
    """Hex sha256 over class, name and content of every file and all that decides its pixels."""
    names = [f"{name}/{path.name}" for name, group in files.items() for path in group]
    paths = [path for group in files.values() for path in group]
    total = hashlib.sha256(f"decoder {DECODER_VERSION} resolution {resolution} channels {channels}".encode())
    for name, content in zip(names, _in_threads(_file_hash, paths, "hashing"), strict=True):
        total.update(hashlib.sha256(os.fsencode(name)).digest() + content)
    return total.hexdigest()


def decode_all(paths: Sequence[Path], resolution: int, channels: int) -> Tensor:
    """Decode files in parallel to uint8 (n, ch, h, w), `resolution` pixels high and wide."""
    images = np.empty((len(paths), channels, resolution, resolution), np.uint8)

    def fill(row: int) -> None:
        images[row] = decode(paths[row], resolution, channels)

    for _ in _in_threads(fill, range(len(paths)), "decoding"):
        pass
    return torch.from_numpy(images)


def decode(path: Path, resolution: int, channels: int) -> np.ndarray:
    """One file as uint8 (ch, h, w): short side resized to `resolution` (bicubic, antialiased), centre crop.

    Grey and palette files become RGB without loss when `channels` is 3, and alpha is dropped. A colour file
    where `channels` is 1 raises `HgladError`, as does a broken file. EXIF orientation is not applied.
    """
    image = fit(_in_channels(_read_image(path), channels, path), resolution)
    pixels = np.asarray(image)  # (h, w) or (h, w, ch)
    return pixels.reshape(resolution, resolution, channels).transpose(2, 0, 1)


def decode_unresized(paths: Sequence[Path], channels: int) -> list[np.ndarray]:
    """Decode files in parallel to uint8 (ch, h, w), each in its own size; channels and errors as `decode`."""

    def pixels(path: Path) -> np.ndarray:
        image = np.asarray(_in_channels(_read_image(path), channels, path))  # (h, w) or (h, w, ch)
        return image.reshape(*image.shape[:2], channels).transpose(2, 0, 1)

    return list(_in_threads(pixels, paths, "decoding"))


def fit(image: Image.Image, resolution: int, resample: int = Image.Resampling.BICUBIC) -> Image.Image:
    """Resize the short side to `resolution` and crop the centre."""
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
    except UnidentifiedImageError as error:
        raise HgladError(f"broken image {path}: no known image format; replace or remove the file") from error
    except Exception as error:  # the decoders raise OSError, SyntaxError, ValueError, struct.error and more
        reason = " ".join(str(error).split())
        raise HgladError(f"broken image {path}: {reason}; replace or remove the file") from error


def _in_channels(image: Image.Image, channels: int, path: Path) -> Image.Image:
    if image.mode not in GREY_MODES | COLOUR_MODES:
        raise HgladError(f"image {path} has {image.mode!r} pixels, expected 8-bit grey or colour; convert it")
    if "transparency" in image.info:
        image = image.convert("RGBA")  # a palette with alpha has no direct way to RGB
    if channels == 3:
        return image.convert("RGB")
    if image.mode in GREY_MODES:
        return image.convert("L")
    red, green, blue = image.convert("RGB").split()
    if not red.tobytes() == green.tobytes() == blue.tobytes():
        raise HgladError(f"wrong channel count: {path} has colour, expected 1 channel; pass channels=3")
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


def _write_cache(path: Path, images: Tensor) -> None:
    with spared(path):
        write_tensors(path, {"images": images}, {"sha256": _pixel_hash(images)})


def _read_cache(path: Path) -> Tensor | None:
    """Cached images, or None where the file is missing or damaged."""
    if not path.exists():
        return None
    try:
        images, expected = read_tensors(path).get("images"), read_metadata(path).get("sha256")
    except HgladError:
        return None
    return images if images is not None and _pixel_hash(images) == expected else None


def _pixel_hash(images: Tensor) -> str:
    return hashlib.sha256(images.numpy()).hexdigest()
