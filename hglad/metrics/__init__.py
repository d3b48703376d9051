"""Selection metrics by name: how far a distilled set is from what the real one does, smaller is better.

A new metric is one file: a class under `@register_metric(name)` whose constructor names what it needs of
`GIVEN` first, then its options.
"""

import hashlib
import inspect
from collections.abc import Callable
from copy import deepcopy
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hglad.data.datasets import RealData
from hglad.errors import HgladError
from hglad.networks import Classifier, initialize
from hglad.networks.passes import forward_size
from hglad.objectives import Objective
from hglad.registry import Registry

GIVEN = {
    "real": "the real training images",
    "classifier": "a network trained on the real set",
    "objective": "the matching objective of the search",
    "held_out": "real images that the search never sees",
}
"""What a metric can be given."""

METRICS = Registry("metric", __package__, given=tuple(GIVEN))
register_metric = METRICS.register


class Metric:
    """Distance of images to the real set; what it needs of that is computed once, at construction.

    A distance that is a sum over the classes has `by_class(images, labels)`, too: its summands, (class,).
    """

    @classmethod
    def passes(cls, images: int, matching: float) -> float:
        """Images through its network in one call, for an estimate: a training step counts 3, and `matching`
        are those of a step of the objective."""
        return images

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """Distance of images (n, channels, height, width) in [0, 1] with labels (n,)."""
        raise NotImplementedError


def needs(name: str) -> list[str]:
    """Which of `GIVEN` a metric asks for, in the order of its constructor; raises as `METRICS.get`."""
    return [key for key in inspect.signature(METRICS.get(name)).parameters if key in GIVEN]


def is_by_class(name: str) -> bool:
    """Whether a metric is a sum over the classes, whose summands it tells by `by_class`."""
    return hasattr(METRICS.get(name), "by_class")


def create_metric(
    name: str,
    real: RealData,
    *,
    classifier: Classifier | None = None,
    objective: Objective | None = None,
    held_out: RealData | None = None,
    **options: object,
) -> Metric:
    """A metric by name, made of those of the given things that it needs (`needs`).

    Args:
        name: registered name.
        real: real training images, the ones that the search sees.
        classifier: network trained on `real`; some metrics use its architecture only.
        objective: matching objective of the search; a metric leaves it as it is.
        held_out: real images apart from `real`. Never the test images: a metric selects.
        options: options of the metric.

    Raises:
        HgladError: unknown name or option, with the nearest one; something needed is missing; an option that
            is impossible.
    """
    given = {"real": real, "classifier": classifier, "objective": objective, "held_out": held_out}
    needed = needs(name)
    for key in needed:
        if given[key] is None:
            raise HgladError(f"the metric {name!r} needs {GIVEN[key]}, got none; pass it as {key}=...")
    return METRICS.create(name, *(given[key] for key in needed), **options)


HIGHEST_SEED = 2**63 - 1


def seeded(seed: int) -> torch.Generator:
    """What a metric draws from, on the CPU: no device changes it. An impossible seed raises `HgladError`."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= HIGHEST_SEED:
        raise HgladError(f"the seed of a metric is {seed!r}; give a whole number from 0 to 2^63 - 1")
    return torch.Generator().manual_seed(seed)


def untrained(classifier: Classifier, rng: torch.Generator) -> Classifier:
    """A network of the classifier's architecture with fresh parameters, in eval mode."""
    return initialize(deepcopy(classifier), rng).eval()


MOST = 512  # images at once
REAL_SIDES: WeakKeyDictionary[RealData, dict[str, Tensor]] = WeakKeyDictionary()


def real_side(
    real: RealData, network: nn.Module, options: object, of_class: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """What `of_class` gives of the images (n, ch, h, w) in [0, 1] of every class and its number, stacked.

    It is computed once in a process for the same images, weights and `options`, all else that it depends on,
    told apart by their `repr`: every search makes its metric anew, and on CIFAR-10 the pass of all training
    images through the classifier takes as long as a short search.
    """
    content = hashlib.sha256(f"{type(network)} {network} {options!r}".encode())
    for name, tensor in network.state_dict().items():
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().cpu().contiguous().numpy())
    known, key = REAL_SIDES.setdefault(real, {}), content.hexdigest()
    if key not in known:
        classes = enumerate(real.images.split(list(real.counts)))
        known[key] = torch.stack([of_class(images.float() / 255, label) for label, images in classes])
    return known[key]


def parts_of(images: Tensor, classifier: Classifier) -> tuple[Tensor, ...]:
    """Images (n, ch, h, w) in parts that suit the processor or GPU."""
    return images.split(min(MOST, forward_size(classifier, images)))
