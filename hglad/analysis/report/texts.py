"""Numbers, times and names as the tables and sentences write them."""

from collections.abc import Iterable

import pandas as pd

from hglad.analysis.labels import method_label

NONE = "–"


def signed(value: float) -> str:
    """One digit with a typographic minus; what rounds to zero has no sign."""
    text = f"{value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def interval_text(row: pd.Series) -> str:
    """95 % interval of a row with `low`, `high` and `seeds`, in points; a dash for one seed."""
    return NONE if row["seeds"] < 2 else f"{signed(row['low'])} to {signed(row['high'])}"


def per_class(ipc: float) -> str:
    """So many images per class, in words."""
    return f"{ipc:.0f} image{'s' if ipc != 1 else ''} per class"


def method_name(objective: str, method: str, many: bool) -> str:
    """Name of a method, with its objective where there are `many` of them."""
    return f"{method_label(method)} ({objective.upper()})" if many and objective else method_label(method)


def duration_text(seconds: float) -> str:
    """Seconds, or minutes from two on."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def joined(texts: Iterable[str]) -> str:
    """Each of the texts once, sorted."""
    return "; ".join(sorted(set(texts)))
