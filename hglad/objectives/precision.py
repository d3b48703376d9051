"""Number format of first-order passes over real images; second derivatives always stay in float32."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from hglad.registry import unknown

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def first_order(precision: str) -> Callable[[torch.device], AbstractContextManager]:
    """Context for a pass on a device; raises `HgladError` for an unknown precision."""
    if precision not in PRECISIONS:
        raise unknown("precision", precision, list(PRECISIONS))
    dtype = PRECISIONS[precision]
    return lambda device: torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
