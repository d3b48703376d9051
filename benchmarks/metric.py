"""Suite `metric`: the real side of a selection metric, which every search needs before its first step.

Fast: `hglad.metrics`, which passes the real images through the classifier in parts that stay in the cache of
the processor, and keeps the result for the searches that follow in the same process. Straightforward: 512
images at once, for every search anew. Both return the mean vectors of the classes, (class, K). Images are
the handwritten digits, enlarged, in color; the weights of the classifier are drawn, not trained.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from bench import Case, Step
from hglad.data.datasets import RealData, load_data
from hglad.metrics import REAL_SIDES
from hglad.metrics.class_relevant import ClassRelevantDistance
from hglad.networks import Classifier, create_network

AT_ONCE = 512  # images


class _Plain(ClassRelevantDistance):
    """The same distance with as many images at once as fit into the memory of a small GPU."""

    @torch.no_grad()
    def vectors(self, images: Tensor, labels: Tensor) -> Tensor:
        pairs = zip(images.split(AT_ONCE), labels.to(images.device).split(AT_ONCE), strict=True)
        return torch.cat(
            [self.reduce(self.classifier.feature_maps(self.real.normalize(x), -1), y) for x, y in pairs]
        )


@cache
def _real(size: int, device: str) -> RealData:
    return load_data("digits", resolution=size, channels=3, device=device).train


@cache
def _classifier(size: int, width: int, device: str) -> Classifier:
    options = {"name": "convnet", "depth": 3, "width": width}
    generator = torch.Generator().manual_seed(0)
    network = create_network(image_shape=(3, size, size), classes=10, rng=generator, **options)
    return network.to(device)


def _step(metric: type, keep: bool, size: int, width: int, device: str) -> Step:
    real, classifier = _real(size, device), _classifier(size, width, device)

    def step() -> Tensor:
        if not keep:  # what an earlier search has left
            REAL_SIDES.pop(real, None)
        return metric(real, classifier).real_means

    return step


def cases(device: str, quick: bool) -> list[Case]:
    """The metric of the first search of a process, and that of each further one."""
    size, width = (8, 8) if quick else (32, 128)
    shape = (size, width, device)

    def case(name: str, fast: Callable[[], Step]) -> Case:
        note = f"{len(_real(size, device).images)} images of {size} px, ConvNet-3 of width {width}"
        return Case(f"class_relevant, {name} search", fast, lambda: _step(_Plain, False, *shape), note)

    return [
        case("first", lambda: _step(ClassRelevantDistance, False, *shape)),
        case("further", lambda: _step(ClassRelevantDistance, True, *shape)),
    ]
