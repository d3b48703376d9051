"""From results to what a reader sees: one tidy frame, statistics, tables, figures, and names for them."""

LABELS = {
    "random": "random real",
    "class_mean": "class mean",
    "herding": "herding",
    "k_center": "k-center",
    "samples": "samples",
    "samples_averaged": "averaged samples",
    "pixels": "pixels",
    "single": "GLaD",
    "hierarchical": "H-GLaD",
    "full": "full set",
}
"""Methods, in the order of tables and figures."""
METRIC_LABELS = {
    "class_relevant": "class-relevant feature distance",
    "feature": "unweighted feature distance",
    "random_feature": "distance of untrained features",
    "released_feature": "distance as released",
    "loss": "matching loss, fixed draws",
    "held_out_error": "error on held-out training images (%)",
}
OBJECTIVE_LABELS = {
    "": LABELS["random"],
    "dc": "gradient matching (DC)",
    "dm": "distribution matching (DM)",
    "mtt": "trajectory matching (MTT)",
}
NONE = "–"


def method_label(name: str) -> str:
    """Name of a method for a reader; one that is not known here keeps its own."""
    return LABELS.get(name, name.replace("_", " "))


def method_place(name: str) -> tuple[int, str]:
    """Where a method stands in a table: in the order of `LABELS`, those not known here last, by name."""
    known = list(LABELS)
    return (known.index(name), "") if name in LABELS else (len(known), name)


def objective_label(name: str) -> str:
    """Name of an objective for a reader; none is random real images."""
    return OBJECTIVE_LABELS.get(name, name.upper())


def metric_label(name: str) -> str:
    """Name of a metric for a reader."""
    return METRIC_LABELS.get(name, name.replace("_", " "))


def signed(value: float, digits: int = 1) -> str:
    """With its sign, a typographic minus; what rounds to zero has no sign, what is missing is a dash."""
    text = f"{value:+.{digits}f}"
    if text == "+nan":
        return NONE
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")
