"""Errors and warnings for a user: one line that names the value, what was expected and what to do."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class HgladError(Exception):
    """Bad input or a run that cannot go on; the command line prints its text without a traceback."""


class HgladWarning(UserWarning):
    """What a user should know of a run that goes on; the command line prints its text alone."""


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Print own warnings as the line `hglad: ...` on stderr, instead of Python's two lines with a place."""
    shown = warnings.showwarning

    def show(message, category, *place, **options) -> None:
        if issubclass(category, HgladWarning):
            print(f"hglad: {message}", file=sys.stderr)
        else:
            shown(message, category, *place, **options)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown
