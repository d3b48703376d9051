"""Low-pass filters of StyleGAN3 and the dense matrices that resample one axis with them.

The filters are separable and the maps are small, so padding, zero insertion, filtering and decimation along
one axis are one small matrix; a layer then needs one matrix product per axis.
"""

import scipy  # its parts load when they are first used, which takes a second
import torch
from torch import Tensor


def lowpass(taps: int, cutoff: float, width: float, sampling_rate: float) -> Tensor | None:
    """Kaiser low-pass filter (taps,); `None` where a single tap means no filter (Karras et al. 2021, C.1)."""
    if taps == 1:
        return None
    return torch.as_tensor(
        scipy.signal.firwin(numtaps=taps, cutoff=cutoff, width=width, fs=sampling_rate), dtype=torch.float32
    )


def upsampling_matrix(filter: Tensor, size: int, factor: int, padding: tuple[int, int]) -> Tensor:
    """Matrix (out, size) that inserts zeros, pads (or crops, where negative) and filters one axis.

    The gain `factor` makes up for the inserted zeros.
    """
    taps = len(filter)
    out = size * factor + sum(padding) - taps + 1
    position = torch.arange(size)[None, :] * factor + padding[0]  # of each input in the padded axis
    offset = position - torch.arange(out)[:, None]  # (out, size)
    weight = filter.flip(0)[offset.clamp(0, taps - 1)] * factor
    return torch.where((offset >= 0) & (offset < taps), weight, 0.0)


def downsampling_matrix(filter: Tensor, size: int, factor: int) -> Tensor:
    """Matrix (out, size) that filters one axis and keeps every `factor`-th sample."""
    taps = len(filter)
    out = (size - taps) // factor + 1
    offset = torch.arange(size)[None, :] - torch.arange(out)[:, None] * factor
    return torch.where((offset >= 0) & (offset < taps), filter.flip(0)[offset.clamp(0, taps - 1)], 0.0)


def resample_transposed(maps: Tensor, matrix: Tensor) -> Tensor:
    """Apply `matrix` (out, in) to both axes of square maps (..., in, in); the result has its axes swapped.

    Two of these in a row cancel the swap, which saves two copies of the largest maps of a layer.
    """
    return (maps @ matrix.T).mT @ matrix.T
