"""Freed memory stays with the process, so that big tensors cost no page faults (Linux with glibc)."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # M_* of malloc.h


def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed; whether it did.

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
