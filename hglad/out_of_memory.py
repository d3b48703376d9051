"""What is done when memory runs out: the same work with less at a time, and in the end one clear line.

Memory that runs out is that of a GPU, or that of the machine where its system refuses it. Results are the
same up to rounding, since sums come in other orders.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from hglad.errors import HgladError

REFUSALS = (
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    "out of memory",
)  # in PyTorch's plain RuntimeErrors
Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in one of the ways of Python and PyTorch."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in REFUSALS)


def within_memory(compute: Callable[[int], Result], size: int, least: int, what: str, mend: str) -> Result:
    """`compute(size)`; where memory runs out, with half of it, again and again down to `least`.

    Args:
        compute: computes everything anew, with so many at a time.
        size: how many are tried first.
        least: how many it takes at least.
        what: they are, for the message.
        mend: what to lower when not even so few fit.

    Raises:
        HgladError: not even `least` at a time fit.
    """
    while True:
        try:
            return compute(size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if size <= least:
                raise HgladError(message(f"with {size} {what} at a time", mend)) from error
        free()  # here the frames of the error are gone, and with them their tensors
        size = max(least, size // 2)


def message(where: str, mend: str) -> str:
    """One line about memory that ran out."""
    return f"out of memory {where}: {mend}, or take a device with more memory"


def free() -> None:
    """Give back what nothing holds any more, so that the next try finds it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


SEARCH_MEND = "lower surrogate.batch_real, the surrogate's width, ipc or data.resolution"


def states_of(search, start=None) -> Iterator:
    """The states of `search.run(start)`; where memory runs out it goes on from the last with less at a time.

    Args:
        search: `hglad.search.loop.Search`.
        start: state to go on from.

    Raises:
        HgladError: a step does not fit with one image at a time; whatever `run` raises.
    """
    newest, drawn = start, search.generator.get_state()
    while True:
        try:
            for state in search.run(newest):
                newest = state
                yield state
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if not search.take_less_at_a_time():
                raise HgladError(message("with one image at a time", SEARCH_MEND)) from error
        free()
        if newest is None:  # not even the first one came
            search.generator.set_state(drawn)


@contextmanager
def clear_stop(where: str, mend: str) -> Iterator[None]:
    """Turn memory that runs out for good into one line; see `message`."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise HgladError(message(where, mend)) from error
        raise
