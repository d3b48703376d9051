"""The non-linearity of StyleGAN3 as one operation: up-sampling, clamped leaky ReLU, down-sampling.

The low-pass filters are separable and the maps are small, so padding, zero insertion, filtering and
decimation along one axis are one small matrix: resampling is one matrix product per axis. Between the two
resamplings a map is several times larger than outside. One operation that goes through the maps in blocks
keeps these large intermediates in the processor's cache, and the backward pass makes them again rather than
reading them from memory: less time, and a fraction of it (Karras et al. 2021, appendix D, in a CUDA kernel).
"""

import scipy  # its parts load when they are first used, which takes a second
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SLOPE = 0.2  # of the leaky ReLU
BLOCK_BYTES = 2 * 2**20  # of large maps in one block on a processor: about a second-level cache


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


def filtered_leaky_relu(
    x: Tensor, scale: Tensor, bias: Tensor, up: Tensor, down: Tensor, limit: float
) -> Tensor:
    """Maps (n, ch, h', h') of maps (n, ch, h, h).

    Args:
        x: maps before scale and bias.
        scale: factor of each map, (n, ch).
        bias: added after scaling, (ch,).
        up: up-sampling matrix of one axis, (large, h).
        down: down-sampling matrix of one axis, (h', large).
        limit: clamp of the leaky ReLU's output.
    """
    return _FilteredLeakyReLU.apply(x, scale, bias, up, down, limit)


class _FilteredLeakyReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, bias, up, down, limit):
        """Maps (n, ch, h', h'), block by block."""
        ctx.save_for_backward(x, scale, bias, up, down)
        ctx.limit = limit
        size = len(down)
        out = x.new_empty(x.shape[0] * x.shape[1], size, size)
        maps, scale, bias = _per_map(x, scale, bias)
        for block in _blocks(maps, up):
            large = _resample(_affine(maps, scale, bias, block), up)
            active = torch.nn.functional.leaky_relu_(large, SLOPE).clamp_(-limit, limit)
            out[block] = _resample(active, down)
        return out.view(*x.shape[:2], size, size)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        """Gradients of maps, scale and bias; the large maps are made again."""
        x, scale, bias, up, down = ctx.saved_tensors
        maps, scale_per_map, bias_per_map = _per_map(x, scale, bias)
        gradient = gradient.flatten(0, 1)
        result = torch.empty_like(maps)
        sums, products = (scale_per_map.new_empty(len(maps)) for _ in range(2))
        for block in _blocks(maps, up):
            large = _resample(_affine(maps, scale_per_map, bias_per_map, block), up)
            back = _resample(gradient[block], down.T)
            back = torch.ops.aten.leaky_relu_backward(back, large, SLOPE, False)
            back = torch.ops.aten.hardtanh_backward(back, large, -ctx.limit / SLOPE, ctx.limit)
            back = _resample(back, up.T)
            sums[block] = back.sum(dim=(1, 2))
            products[block] = (back * maps[block]).sum(dim=(1, 2))
            torch.mul(back, scale_per_map[block, None, None], out=result[block])
        bias_gradient = sums.view(scale.shape).sum(dim=0)
        return result.view(x.shape), products.view(scale.shape), bias_gradient, None, None, None


def _per_map(x: Tensor, scale: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maps (n ch, h, h) with the scale and bias (n ch,) of each."""
    return x.flatten(0, 1), scale.flatten(), bias.repeat(len(x))


def _affine(maps: Tensor, scale: Tensor, bias: Tensor, block: slice) -> Tensor:
    return torch.addcmul(bias[block, None, None], maps[block], scale[block, None, None])


def _resample(maps: Tensor, matrix: Tensor) -> Tensor:
    """Apply `matrix` (out, in) to both axes of maps (b, in, in)."""
    rows = (maps.reshape(-1, maps.shape[-1]) @ matrix.T).view(len(maps), maps.shape[1], -1)
    return matrix @ rows


def _blocks(maps: Tensor, up: Tensor) -> list[slice]:
    """Parts of the maps; a GPU takes them all at once."""
    if maps.device.type != "cpu":
        return [slice(0, len(maps))]
    size = max(1, BLOCK_BYTES // (len(up) ** 2 * maps.element_size()))
    return [slice(start, min(start + size, len(maps))) for start in range(0, len(maps), size)]
