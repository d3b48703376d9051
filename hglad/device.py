"""Whether a device is there, before anything is computed on it."""

import torch

from hglad.errors import HgladError


def check_device(name: str) -> None:
    """Raise `HgladError` for a device that is not there, or that is neither a processor nor a GPU."""
    if name == "cpu":
        return
    if not name.startswith("cuda"):
        raise HgladError(f"unknown device '{name}': expected cpu or cuda")
    if not torch.cuda.is_available():
        raise HgladError(f"device '{name}' is not there: PyTorch finds no GPU, use cpu")
