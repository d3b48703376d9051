"""Sets that nothing was optimized for: what a distilled set must be better than, and the full set."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize as unit_length

from hglad.data.datasets import RealData
from hglad.errors import HgladError
from hglad.evaluation.sets import DistilledSet
from hglad.networks import Classifier
from hglad.networks.passes import largest_maps
from hglad.priors.base import Prior
from hglad.settings import derive_seed

VERSION = 1  # raise when the same seeds give other sets

AVERAGED = 1000  # mapped latents whose mean starts GLaD's search at one image per class

MAPS_MEMORY = 2**28  # bytes of the largest feature maps at a time; 250 images of 32 px have half of it

GENERATED = ("class_mean", "samples", "samples_averaged")  # all others are made of real images

Selection = Callable[[Tensor, int], list[int]]


def random_real(real: RealData, ipc: int, seed: int) -> DistilledSet:
    """`ipc` random training images of each class."""
    rng = torch.Generator(real.images.device).manual_seed(derive_seed("random_real", seed))
    images = real.batch(ipc, rng).flatten(0, 1)
    return _by_class(images, ipc, {"kind": "random", "seed": seed})


def full_set(real: RealData) -> DistilledSet:
    """Upper reference: all training images, uint8 as the data holds them; floats take four times that."""
    return DistilledSet(real.images, real.labels, {"kind": "full"})


def class_mean(real: RealData) -> DistilledSet:
    """The mean of each class's training images, one image per class."""
    means = [images.double().mean(dim=0) / 255 for images in real.images.split(list(real.counts))]
    return _by_class(torch.stack(means).float(), 1, {"kind": "class_mean"})


def herding(real: RealData, ipc: int, network: Classifier) -> DistilledSet:
    """Training images whose mean embedding follows that of their class (Welling 2009; Rebuffi et al. 2017).

    Args:
        real: training images.
        ipc: images per class.
        network: classifier trained on them; embeddings are its, scaled to unit length.
    """
    return _selected(real, ipc, network, _herd, "herding")


def k_center(real: RealData, ipc: int, network: Classifier) -> DistilledSet:
    """Training images that leave no image of their class far away (Sener & Savarese 2018, greedy).

    The first one is nearest to the mean of its class, each further one farthest from those before it, in the
    embedding of `network`, a classifier trained on the training images.
    """
    return _selected(real, ipc, network, _spread, "k_center")


def samples(prior: Prior, labels: Tensor, ipc: int, seed: int, average: int = 1) -> DistilledSet:
    """Images of a generator as they come, clamped to [0, 1]: where its search starts.

    Args:
        prior: generator.
        labels: class of the generator for each class of the data, (classes,).
        ipc: images per class.
        seed: seed of the latents.
        average: mapped latents that each is the mean of; GLaD takes `AVERAGED` at one image per class.
    """
    rng = torch.Generator(labels.device).manual_seed(derive_seed("samples", seed))
    wanted = labels.repeat_interleave(ipc).split(100)
    with torch.no_grad():
        images = [prior.decode(prior.sample(part, rng, average), 0) for part in wanted]
    kind = "samples" if average == 1 else "samples_averaged"
    return _by_class(torch.cat(images).clamp(0, 1), ipc, {"kind": kind, "seed": seed})


def _by_class(images: Tensor, ipc: int, card: dict) -> DistilledSet:
    return DistilledSet(images.cpu(), torch.arange(len(images) // ipc).repeat_interleave(ipc), card)


def _selected(real: RealData, ipc: int, network: Classifier, select: Selection, kind: str) -> DistilledSet:
    smallest = min(real.counts)
    if ipc > smallest:
        name = real.classes[real.counts.index(smallest)]
        raise HgladError(
            f"{kind} of {ipc} images per class: class {name!r} has {smallest}; give at most as many"
        )
    maps = largest_maps(network.eval(), real.images) * torch.float32.itemsize
    batch = max(1, min(250, MAPS_MEMORY // maps)) if maps else 250
    chosen = []
    for images in real.images.split(list(real.counts)):
        with torch.no_grad():
            parts = [network.embed(real.normalize(part.float() / 255)) for part in images.split(batch)]
        points = unit_length(torch.cat(parts), dim=1)  # (images, features)
        chosen.append(images[select(points, ipc)])
    return _by_class(torch.cat(chosen).float() / 255, ipc, {"kind": kind})


def _herd(points: Tensor, count: int) -> list[int]:
    """Each choice brings the mean of all chosen points as near to the mean of all points as it can."""
    mean, total = points.mean(dim=0), torch.zeros_like(points[0])
    free, chosen = torch.ones(len(points), dtype=torch.bool, device=points.device), []
    for number in range(1, count + 1):
        distance = (mean - (total + points) / number).square().sum(dim=1)
        chosen.append(int(distance.masked_fill(~free, torch.inf).argmin()))
        free[chosen[-1]] = False
        total = total + points[chosen[-1]]
    return chosen


def _spread(points: Tensor, count: int) -> list[int]:
    """Greedy k-center: from the point nearest to the mean on, always the one farthest from those chosen."""
    chosen = [int((points - points.mean(dim=0)).square().sum(dim=1).argmin())]
    nearest = (points - points[chosen[0]]).square().sum(dim=1)
    while len(chosen) < count:
        nearest[chosen[-1]] = -1  # never again, also where all that is left are copies of it
        chosen.append(int(nearest.argmax()))
        nearest = nearest.minimum((points - points[chosen[-1]]).square().sum(dim=1))
    return chosen
