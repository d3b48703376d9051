"""The machine a run is on: its device, memory that runs out, progress on a terminal.

Where memory runs out, of a GPU or of a machine whose system refuses it, the same work is done with less at a
time, and in the end one line says what to lower. Results are the same up to rounding. PyTorch is imported
where it is asked for: the command line starts without it.
"""

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

from hglad.errors import HgladError

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")


def check_device(name: str) -> None:
    """Raise `HgladError` for a device that is not there, or that is neither a processor nor a GPU."""
    if name == "cpu":
        return
    import torch

    if not name.startswith("cuda"):
        raise HgladError(f"unknown device '{name}': expected cpu or cuda")
    if not torch.cuda.is_available():
        raise HgladError(f"device '{name}' is not there: PyTorch finds no GPU, use cpu")


def host_rng(rng: "torch.Generator") -> "torch.Generator":
    """A CPU generator that follows from `rng`, for draws that the host must know at once.

    A generator on the CPU is returned itself. The state of one on a GPU (seed and offset) is kept by the
    host, so reading it waits for nothing; the offset grows with every draw on the GPU, so a caller that
    also draws there gets a new host generator each time.
    """
    import torch

    if rng.device.type == "cpu":
        return rng
    state = (rng.initial_seed() * 0x9E3779B97F4A7C15 + rng.get_offset()) % 2**63
    return torch.Generator().manual_seed(state)


def progress_bar(total: float, text: str, unit: str, show: bool = True, **options) -> tqdm:
    """Bar with an estimate of the time that is left, on a terminal only; not even there without `show`."""
    return tqdm(total=total, desc=text, unit=unit, disable=None if show else True, **options)


TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # M_* of malloc.h


def keep_freed_memory() -> bool:
    """Ask the C library to keep what is freed; whether it does (Linux with glibc).

    PyTorch asks for the memory of every feature map anew. By default the C library hands blocks of this size
    back to the system at once, which then clears their pages again at every step: a fifth of the time of
    training a small network on a processor. The process keeps the most memory that it had at a time.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    wanted = {TRIM_THRESHOLD: 2**31 - 1, MMAP_THRESHOLD: 2**25, ARENA_MAX: 1}
    return all([mallopt(key, value) == 1 for key, value in wanted.items()])


REFUSALS = (  # in PyTorch's plain RuntimeErrors
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    "out of memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in one of the ways of Python and PyTorch."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in REFUSALS)


def free_memory() -> None:
    """Give back what nothing holds any more, so that the next try finds it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def out_of_memory(where: str, advice: str) -> Iterator[None]:
    """Turn memory that runs out for good into one line that says where it did and what to lower."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise HgladError(f"out of memory {where}: {advice}, or take a device with more memory") from error
        raise


def within_memory(compute: Callable[[int], Result], size: int, least: int, what: str, advice: str) -> Result:
    """`compute(size)`; where memory runs out, with half of it, again and again down to `least`.

    Args:
        compute: computes everything anew, with so many at a time.
        size: how many are tried first.
        least: how many it takes at least.
        what: they are, for the message.
        advice: what to lower when not even so few fit.

    Raises:
        HgladError: not even `least` at a time fit.
    """
    while size > least:
        try:
            return compute(size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        free_memory()  # here the frames of the error are gone, and with them their tensors
        size = max(least, size // 2)
    with out_of_memory(f"with {size} {what} at a time", advice):
        return compute(size)
