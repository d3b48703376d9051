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
        return self._decoded(latents.split(self.most or len(latents)), layer)

    def __call__(self, latents: Latents, layer: int) -> tuple[Tensor, Callable[[Tensor], Latents]]:
        """Images (n, ch, h, w) outside the graph, and the function from dL/dimages to dL/dlatents.

        The function can be called once.
        """
        if layer not in self.parts:
            device = next(iter(latents.tensors().values())).device
            budget = share_of_memory(device) / 2 if self.budget is None else self.budget * GIB
            self.parts[layer] = max(1, int(budget // max(1, self.graph_bytes(latents, layer))))
        size = min(self.parts[layer], self.most or self.parts[layer])
        if size >= len(latents):
            return self._graph(latents, layer)
        parts = latents.split(size)

        def pull(gradient: Tensor) -> Latents:
            chunks = zip(parts, gradient.split(size), strict=True)
            pulled = [self._graph(part, layer)[1](chunk).tensors() for part, chunk in chunks]
            own = [name for name in pulled[0] if name in ("w", "f")]  # one image after the other
            shared = [name for name in pulled[0] if name not in own]  # of weights: added
            joined = {name: torch.cat([each[name] for each in pulled]) for name in own}
            return Latents.of(joined | {name: sum(each[name] for each in pulled) for name in shared})

        return self._decoded(parts, layer), pull

    def _decoded(self, parts: list[Latents], layer: int) -> Tensor:
        with torch.no_grad():
            images = [self.prior.decode(part, layer) for part in parts]
        return images[0] if len(images) == 1 else torch.cat(images)

    def _graph(self, latents: Latents, layer: int) -> tuple[Tensor, Callable[[Tensor], Latents]]:
        variables = latents.map(lambda x: x.detach().requires_grad_())
        images = self.prior.decode(variables, layer)

        def pull(gradient: Tensor) -> Latents:
            named = variables.tensors()
            gradients = torch.autograd.grad(  # zeros for styles that no layer behind the split point takes
                images, list(named.values()), gradient, materialize_grads=True
            )
            return Latents.of(dict(zip(named, gradients, strict=True)))

        return images.detach(), pull

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
            self._graph(one, layer)
        return sum(x.untyped_storage().nbytes() for x in kept)


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
