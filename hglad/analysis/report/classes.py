"""Which classes the networks get wrong."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from hglad.analysis.labels import method_place
from hglad.analysis.report.show import Table
from hglad.analysis.report.texts import method_name


def worst_classes(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> Table:
    """Worst class of each method and what its test images are taken for.

    Args:
        matrices: method to shares (true class, predicted class) in percent.
        classes: names.
    """
    rows = []
    for method, shares in matrices.items():
        worst = int(shares.diagonal().argmin())
        others = shares[worst].copy()
        others[worst] = -1
        wrong = (-others).argsort(kind="stable")[:2]  # of equal ones the first, on every processor
        rows.append(
            {
                "method": method,
                "worst class": classes[worst],
                "accuracy on it (%)": f"{shares[worst, worst]:.1f}",
                "most often taken for": ", ".join(f"{classes[k]} ({others[k]:.0f} %)" for k in wrong),
                "mean of the classes (%)": f"{shares.diagonal().mean():.1f}",
            }
        )
    return Table(pd.DataFrame(rows))


def by_method(matrices: Mapping[tuple, np.ndarray]) -> dict[str, np.ndarray]:
    """Matrices of (objective, method) under the names of the methods, in the order of the tables."""
    many = len({objective for objective, _ in matrices if objective}) > 1
    order = sorted(matrices, key=lambda pair: (method_place(pair[1]), pair[0]))
    return {method_name(*pair, many=many): matrices[pair] for pair in order}


def class_numbers(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> pd.DataFrame:
    """Share (%) of the test images of each class that each method's networks take for each class."""
    parts = []
    for method, shares in matrices.items():
        part = pd.DataFrame(shares, columns=list(classes))
        parts.append(part.assign(method=method, true_class=list(classes)))
    table = pd.concat(parts, ignore_index=True)
    return table[["method", "true_class", *classes]]
