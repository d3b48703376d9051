"""What a step of a search costs: the generator's work, counted without doing it."""

from copy import deepcopy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hglad.priors.base import Latents, Prior


def step_flops(prior: Prior) -> tuple[float, ...]:
    """Floating-point operations of one image's way through the generator and back, by split point.

    Forward pass and vector-Jacobian product, with products and convolutions counted and the cheap
    element-wise rest left out; 0 in pixel space, and everywhere for a prior without a network. Counted on
    tensors without memory, so that it takes no time and no device.
    """
    if not isinstance(prior, nn.Module):
        return (0.0,) * len(prior.layers)
    shadow = deepcopy(prior).to("meta")
    w = torch.empty(1, shadow.num_ws, shadow.settings.w_dim, device="meta")
    counts = [_pass_flops(shadow, w, layer) for layer in range(len(prior.layers) - 1)]
    return (*counts, 0.0)


def _pass_flops(prior: Prior, w: torch.Tensor, layer: int) -> float:
    with torch.no_grad():
        start = prior.advance(Latents(w, None), 0, layer)
    variables = start.map(lambda x: x.detach().requires_grad_())
    with FlopCounterMode(display=False) as counter:
        prior.decode(variables, layer).sum().backward()
    return float(counter.get_total_flops())
