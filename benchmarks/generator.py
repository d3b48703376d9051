"""Time of one generator pass, forward and backward: dense matrices against the textbook operations.

    python benchmarks/generator.py [--resolution 32] [--channels 64] [--images 10] [--repeats 5]

The textbook layer convolves with weights modulated per sample (a grouped convolution) and resamples by
zero insertion, padding and filtering, as the published plain-PyTorch operators do. Both run in turn in one
process, so that their ratio holds on a noisy machine.
"""

import argparse
import statistics
import time
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from hglad.priors.stylegan_xl import StyleGANXL, StyleGANXLSettings, SynthesisLayer, leaky_relu
from hglad.provenance import device_name


def textbook_layer(layer: SynthesisLayer, x: Tensor, w: Tensor) -> Tensor:
    """The same function as `layer(x, w)`, written with per-sample weights and zero insertion."""
    if layer.to_image:
        return layer(x, w)
    styles = layer.affine(w)
    weight = layer.weight * layer.weight.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
    styles = styles * styles.square().mean(dim=1, keepdim=True).rsqrt()
    weight = weight[None] * styles[:, None, :, None, None]  # (n, out, in, k, k)
    weight = weight * (weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    weight = weight * layer.magnitude_ema.rsqrt()
    n, padding = len(x), weight.shape[-1] - 1
    x = F.conv2d(x.flatten(0, 1)[None], weight.flatten(0, 1), padding=padding, groups=n).unflatten(
        1, (n, -1)
    )[0]
    x = resample_by_zeros(x + layer.bias[:, None, None], layer)
    x = leaky_relu(x).clamp(-layer.clamp, layer.clamp)
    return filter_axes(x, layer.down_filter)[..., :: layer.down, :: layer.down]


def resample_by_zeros(x: Tensor, layer: SynthesisLayer) -> Tensor:
    """Insert zeros, pad and filter both axes."""
    up, taps = layer.up, len(layer.up_filter)
    n, channels, size, _ = x.shape
    grid = x.new_zeros(n, channels, size, up, size, up)
    grid[:, :, :, 0, :, 0] = x
    total = len(layer.up_matrix) + taps - 1 - size * up
    low = ((layer.out_size - 1) * layer.down + 1 - size * up + taps + len(layer.down_filter) - 2 + up) // 2
    grid = F.pad(grid.reshape(n, channels, size * up, size * up), [low, total - low] * 2)
    return filter_axes(grid, layer.up_filter * up)


def filter_axes(x: Tensor, filter: Tensor) -> Tensor:
    """Filter both axes, one channel at a time."""
    kernel = filter.flip(0).expand(x.shape[1], 1, 1, -1)
    return F.conv2d(F.conv2d(x, kernel, groups=x.shape[1]), kernel.mT, groups=x.shape[1])


def textbook_images(prior: StyleGANXL, w: Tensor) -> Tensor:
    """Images in [0, 1] by the textbook layers."""
    x = prior.synthesis.input(w[:, 0])
    for index in range(len(prior.synthesis.layer_names)):
        x = textbook_layer(prior.synthesis.layer(index), x, w[:, index + 1])
    return (x * prior.settings.output_scale + 1) / 2


def seconds(function, w: Tensor) -> float:
    """Time of one forward and backward pass."""
    start = time.perf_counter()
    function(w).square().sum().backward()
    return time.perf_counter() - start


def main() -> None:
    """Print both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("resolution", 32), ("channels", 64), ("images", 10), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    settings = StyleGANXLSettings(
        img_resolution=options.resolution, channel_base=options.channels * 64, channel_max=options.channels
    )
    draw = torch.Generator().manual_seed(0)
    prior = StyleGANXL.random(settings, draw).requires_grad_(False)
    w = prior.sample(torch.arange(options.images) % 10, draw).w.requires_grad_()

    def dense_images(w: Tensor) -> Tensor:
        return prior.decode(prior.start(w), 0)

    error = (textbook_images(prior, w) - dense_images(w)).norm() / dense_images(w).norm()
    times = [
        (seconds(partial(textbook_images, prior), w), seconds(dense_images, w))
        for _ in range(options.repeats)
    ]
    textbook, dense = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(a / b for a, b in times)
    print(f"{device_name()}, torch {torch.__version__}, {options.images} images, n = {options.repeats}")
    print(
        f"textbook {textbook:.3f} s, dense {dense:.3f} s, ratio {ratio:.1f}, relative difference {error:.1e}"
    )


if __name__ == "__main__":
    main()
