"""Images of latents and the gradient with respect to these latents, within a budget of memory.

Where the generator's graph of all images fits, each step decodes once. Where it does not, images are decoded
without a graph, and once more part by part when their gradient is there: one more forward pass for a graph of
the size that was asked for.
"""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from hglad.priors.base import Latents, Prior

GIB = 2**30
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class Pullback:
    """Decodes latents of `prior`; `budget` in GiB, `None` is half of this process's share of the device."""

    def __init__(self, prior: Prior, budget: float | None = None):
        self.prior, self.budget = prior, budget
        self.parts: dict[int, int] = {}
        """Images per part, by split point; measured once."""
        self.most: int | None = None
        """Bound of it, and of what is decoded at once, set when memory ran out."""

    def images(self, latents: Latents, layer: int) -> Tensor:
        """Images (n, ch, h, w) outside the graph."""
        with torch.no_grad():
            if not self.most or self.most >= len(latents):
                return self.prior.decode(latents, layer)
            return torch.cat([self.prior.decode(part, layer) for part in latents.split(self.most)])

    def __call__(self, latents: Latents, layer: int) -> tuple[Tensor, Callable[[Tensor], Latents]]:
        """Images (n, ch, h, w) outside the graph, and the function from dL/dimages to dL/dlatents.

        The function can be called once.
        """
        size = self._images_at_once(latents, layer)
        if size >= len(latents):
            return self._decode(latents, layer)
        parts = latents.split(size)
        with torch.no_grad():
            images = torch.cat([self.prior.decode(part, layer) for part in parts])

        def pull(gradient: Tensor) -> Latents:
            chunks = zip(parts, gradient.split(size), strict=True)
            return _joined([self._decode(part, layer)[1](chunk) for part, chunk in chunks])

        return images, pull

    def _decode(self, latents: Latents, layer: int) -> tuple[Tensor, Callable[[Tensor], Latents]]:
        variables = latents.map(lambda x: x.detach().requires_grad_())
        images = self.prior.decode(variables, layer)

        def pull(gradient: Tensor) -> Latents:
            named = variables.tensors()
            gradients = torch.autograd.grad(  # zeros for styles that no layer behind the split point takes
                images, list(named.values()), gradient, materialize_grads=True
            )
            return Latents.of(dict(zip(named, gradients, strict=True)))

        return images.detach(), pull

    def _images_at_once(self, latents: Latents, layer: int) -> int:
        if layer not in self.parts:
            self.parts[layer] = self._images_that_fit(latents, layer)
        return min(self.parts[layer], self.most or self.parts[layer])

    def _images_that_fit(self, latents: Latents, layer: int) -> int:
        device = next(iter(latents.tensors().values())).device
        budget = share_of_memory(device) / 2 if self.budget is None else self.budget * GIB
        return max(1, int(budget // max(1, self.graph_bytes(latents, layer))))

    def graph_bytes(self, latents: Latents, layer: int) -> int:
        """Bytes that the graph of one image keeps, besides what all images share."""
        one = latents.split(1)[0]
        shared = [*one.weights.values(), *getattr(self.prior, "state_dict", dict)().values()]
        seen = {x.untyped_storage().data_ptr() for x in shared}
        kept = []

        def note(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                kept.append(x)  # alive, so that no later tensor gets the same address
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            self._decode(one, layer)
        return sum(x.untyped_storage().nbytes() for x in kept)


def _joined(parts: list[Latents]) -> Latents:
    """Gradients of all images: one after the other, and those of shared weights added."""
    tensors = [part.tensors() for part in parts]
    own = {name: torch.cat([part[name] for part in tensors]) for name in tensors[0] if name in ("w", "f")}
    shared = {name: sum(part[name] for part in tensors) for name in tensors[0] if name not in own}
    return Latents.of(own | shared)


def share_of_memory(device: torch.device) -> int:
    """Bytes of a GPU, or of main memory times this process's share of the processors.

    It does not depend on what is free at the moment: the same run is to be split in the same way.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in map(Path, CGROUP_LIMITS):  # what a container may take
        if file.is_file() and file.read_text().strip().isdigit():
            limits.append(int(file.read_text()))
    return min(limits) * min(1, torch.get_num_threads() / (os.cpu_count() or 1))
