"""Whether images and labels that other code made fit a data set: shape, scale, classes.

Each check returns its input in the form of our own sets, or raises `HgladError` with what to mend.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hglad.data.datasets import RealData
from hglad.errors import HgladError

LARGEST_SPILL = 0.2
"""Mean distance of the values to [0, 1] up to which float images pass as images in [0, 1].

Images that are optimised without a bound leave [0, 1] a little: sets of this project by DC, DM and MTT in
pixel space, of CIFAR-10 and of the digits, reach 0.11 (extremes -2.0 and 2.7). On another scale it is larger:
real images normalised to zero mean and unit variance have 0.49 to 0.56 (the digits and the two photographs of
scikit-learn), in [-1, 1] 0.25 to 0.58, in [0, 255] tens.
"""

Statistics = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation of each channel, of [0, 1]


CHANNEL_COUNTS = (1, 3)


def size_text(shape: Sequence[int]) -> str:
    """Height and width of a shape (..., h, w), for messages."""
    return "{} x {} pixels (height x width)".format(*shape[-2:])


def expected_size(real: RealData) -> str:
    """Second half of a message about images of another size."""
    size = "{} x {}".format(*real.image_shape[1:])
    return f"expected {size} as in {real.name!r}; load the data in that resolution or resize the images"


def shaped(images: Tensor, real: RealData) -> Tensor:
    """Images (n, ch, h, w) of the data set's shape; given so, as (n, h, w, ch), or grey as (n, h, w)."""
    channels, height, width = real.image_shape
    if images.ndim == 3 and channels == 1:
        images = images[:, None]
    shape = list(images.shape)
    if images.ndim != 4:
        raise HgladError(f"images have shape {shape}: expected (n, channels, height, width); reshape them")
    if not len(images):
        raise HgladError(f"images have shape {shape}, an empty set: expected 1 image or more; save it again")
    last = shape[1:] == [height, width, channels]
    last = last or (shape[3] in CHANNEL_COUNTS and shape[1] not in CHANNEL_COUNTS)  # of another size
    if last and images.shape[1:] != real.image_shape:
        images = images.movedim(3, 1)
    if images.shape[1] != channels:
        mend = {1: "repeat it", 3: "convert them to grey"}.get(images.shape[1], "reorder the axes")
        raise HgladError(
            f"images {shape} have {images.shape[1]} channels: expected {channels} as in {real.name!r}; {mend}"
        )
    if images.shape[1:] != real.image_shape:
        raise HgladError(f"images are {size_text(images.shape)}: {expected_size(real)}")
    return images


def normalisation(normalised: bool | Statistics, real: RealData) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation that the images were normalised with, float32 (ch,) each."""
    if isinstance(normalised, bool):
        return (real.mean.cpu(), real.std.cpu()) if normalised else None
    mean, std = (torch.tensor(list(values), dtype=torch.float32) for values in normalised)
    if not len(mean) == len(std) == real.image_shape[0] or not (std > 0).all():
        raise HgladError(
            f"images are normalised by mean {mean.tolist()} and std {std.tolist()}: "
            f"expected {real.image_shape[0]} numbers each, std above 0"
        )
    return mean, std


def in_unit_range(images: Tensor, undo: tuple[Tensor, Tensor] | None, any_range: bool) -> Tensor:
    """float32 images (n, ch, h, w) in about [0, 1]; a normalisation by (mean, std) is undone."""
    if images.dtype != torch.uint8 and not images.is_floating_point():
        expected = "expected uint8 (0 to 255) or float (0 to 1); convert them"
        raise HgladError(f"images are {images.dtype}: {expected}")
    floats = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    _check_finite(floats)
    if undo is not None:
        if floats.min() >= 0:
            expected = "expected some below 0 in normalised images"
            mend = "leave --normalised, --mean and --std (normalised=) out"
            raise HgladError(f"images reach from {_reach(floats)}: {expected}; {mend}")
        mean, std = (values.view(-1, 1, 1) for values in undo)
        floats = floats * std + mean
    if not any_range:
        _check_range(floats, undone=undo is not None)
    return floats.contiguous()


def _check_finite(images: Tensor) -> None:
    bad = ~images.isfinite()
    if bad.any():
        first = bad.nonzero()[0].tolist()
        raise HgladError(
            f"images have {int(bad.sum())} values that are NaN or infinite, the first at {first} "
            "(image, channel, row, column): expected numbers; distil again or drop these images"
        )


def _reach(images: Tensor) -> str:
    return f"{images.min():.4g} to {images.max():.4g} with mean {images.mean():.4g}"


def _check_range(images: Tensor, undone: bool) -> None:
    spill = (images - images.clamp(0, 1)).abs().mean()
    if spill > LARGEST_SPILL:
        what = "after the normalisation is undone, images" if undone else "images"
        whitened = "give --mean and --std (normalised=) as used; whitening (ZCA) stays"
        raise HgladError(
            f"{what} reach from {_reach(images)}: expected about 0 to 1; "
            f"{whitened if undone else _rescaling(images)}, or --any-range (any_range=True) if meant"
        )


def _rescaling(images: Tensor) -> str:
    """What to do with images on another scale."""
    if images.mean() > 2:
        return "divide them by 255"
    if images.min() >= -1.05 and images.max() <= 1.05:
        return "add 1 and halve them"
    if images.min() < 0:
        return "give --normalised (normalised=True) if they are normalised to zero mean"
    return "scale them"


def checked_labels(labels: Tensor, images: int, real: RealData) -> Tensor:
    """Classes int64 (n,), or probabilities float32 (n, classes) that are not all 0 and 1."""
    count = len(real.classes)
    if labels.shape == (images,):
        return _checked_classes(labels, real)
    if labels.shape == (images, count):
        return _checked_probabilities(labels)
    raise HgladError(
        f"labels have shape {list(labels.shape)} for {images} images: expected [{images}], "
        f"or [{images}, {count}] for the probabilities of the {count} classes of {real.name!r}"
    )


def _checked_classes(labels: Tensor, real: RealData) -> Tensor:
    last = len(real.classes) - 1
    values = labels.double()  # NaN and fractions are wrong classes as well
    wrong = ~((values >= 0) & (values <= last) & (values == values.floor()))
    if wrong.any():
        first = int(wrong.nonzero()[0])
        mend = "subtract 1" if (values.min(), values.max()) == (1, last + 1) else "check the data set"
        expected = f"expected 0 to {last}, the classes of {real.name!r}"
        raise HgladError(f"label {values[first].item():g} of image {first}: {expected}; {mend}")
    return labels.long()


def _checked_probabilities(labels: Tensor) -> Tensor:
    values = labels.float()
    wrong = ~((values >= 0).all(dim=1) & ((values.sum(dim=1) - 1).abs() <= 1e-3))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        low, total = values[row].min().item(), values[row].sum().item()
        raise HgladError(
            f"soft labels of image {row} have least {low:.4g} and sum {total:.4g}: expected probabilities, "
            "none below 0 and sum 1; apply softmax to logits"
        )
    return values.argmax(dim=1) if ((values == 0) | (values == 1)).all() else values
