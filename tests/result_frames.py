"""Small result rows that several tests draw and count."""

import numpy as np
import pandas as pd


def make_distances() -> pd.DataFrame:
    """Two runs of two stages; the second stage begins with the images of iterate 1."""
    runs = []
    for seed in range(2):
        run = pd.DataFrame({"iterate": range(5), "stage": [0, 0, 1, 1, 1], "step": [0, 5, 0, 5, 10]})
        run["accuracy"] = np.array([20.0, 50.0, 50.0, 70.0, 60.0]) + seed
        run["good"] = 100 - run["accuracy"]
        run["bad"] = run["accuracy"] + 1
        runs.append(run.assign(objective="dm", layer=run["stage"], seed=seed))
    return pd.concat(runs, ignore_index=True)


def make_variants() -> pd.DataFrame:
    """Rows of a search and of two that differ from it, for two objectives and three seeds."""
    gains = {"all": 0.0, "worse": -2.0, "same": 0.1}
    return pd.DataFrame(
        {"objective": objective, "variant": variant, "method": "hierarchical", "seed": seed, "repeat": repeat}
        | {"accuracy": 90.0 + seed + gain + 0.01 * (seed + repeat) * (variant != "all")}
        for objective in ("dm", "dc")
        for variant, gain in gains.items()
        for seed in range(3)
        for repeat in range(2)
    )
