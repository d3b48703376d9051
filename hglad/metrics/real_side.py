"""What a metric takes from the real images: computed once in a process for each classifier.

Every search makes its metric anew, but the real side is the same for all of them. On CIFAR-10 the pass of
all training images through the classifier takes as long as a short search.
"""

import hashlib
from collections.abc import Callable
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from hglad.data.datasets import RealData

_known: WeakKeyDictionary[RealData, dict[str, Tensor]] = WeakKeyDictionary()


def real_side(real: RealData, network: nn.Module, options: object, compute: Callable[[], Tensor]) -> Tensor:
    """What `compute()` gives, or gave before for the same images, weights and `options`.

    `options` is all else that the result depends on; its `repr` tells one from another.
    """
    known = _known.setdefault(real, {})
    key = _digest(network, options)
    if key not in known:
        known[key] = compute()
    return known[key]


def forget() -> None:
    """Compute everything anew from now on."""
    _known.clear()


def _digest(network: nn.Module, options: object) -> str:
    content = hashlib.sha256(f"{type(network)} {network} {options!r}".encode())
    for name, tensor in network.state_dict().items():
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().cpu().contiguous().numpy())
    return content.hexdigest()
