"""Small result rows that several tests draw and count."""

import numpy as np
import pandas as pd

from hglad.experiments.store import Store


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


def cell_rows(accuracies: dict[int, list[float]], method: str = "pixels", **marks: object) -> pd.DataFrame:
    """Rows of one table cell: the accuracies of each seed's repeats."""
    cell = {"objective": "dm", "method": method, "layer": None, "ipc": 1, "network": "ConvNet"} | marks
    return pd.DataFrame(
        [
            cell | {"seed": seed, "repeat": repeat, "accuracy": value}
            for seed, values in accuracies.items()
            for repeat, value in enumerate(values)
        ]
    )


def together(*frames: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True)


def simulated(cells: int, seeds: int, generator: np.random.Generator) -> pd.DataFrame:
    """Rows of many cells whose seeds come from one normal distribution (mean 60, deviation 2)."""
    frame = pd.DataFrame({"ipc": np.arange(cells).repeat(seeds), "seed": np.tile(np.arange(seeds), cells)})
    marks = {"objective": "dm", "method": "pixels", "layer": None, "network": "ConvNet", "repeat": 0}
    return frame.assign(**marks, accuracy=generator.normal(60, 2, cells * seeds))


THREE_SEEDS = {0: [50.0, 52.0], 1: [52.0, 56.0], 2: [53.0, 55.0]}  # means 51, 54, 54

PROVENANCE = {
    "commit": "0123456789abcdef",
    "clean": True,
    "hglad": "0.1.0",
    "python": "3.11.7",
    "packages": {"torch": "2.11.0", "numpy": "2.4.6"},
    "device": "a processor, 1 of 2 threads",
    "started": "2026-01-02T03:04:05Z",
    "seconds": 1.5,
    "peak_memory_mib": 100,
    "data_hash": "abc",
}


def keep_rows(
    store: Store, key: str, rows: pd.DataFrame, training: dict, network: dict, made: str, **recorded: object
) -> None:
    """Keep rows in a store as an evaluation does, with the settings of its training and its network.

    `made` is the fingerprint of the set, or the name of a baseline; `recorded` adds to the provenance.
    """
    settings = {"method": rows["method"].iloc[0], "training": training, "network": network}
    store.write_rows(key, rows, PROVENANCE | {"settings": settings, "set": made} | recorded)


RANDOM = {0: [30.0, 32.0], 1: [35.0, 33.0], 2: [31.0, 36.0], 5: [10.0, 10.0]}
FULL = {0: [90.0], 1: [91.0], 2: [90.5]}


def baselines(**marks: object) -> pd.DataFrame:
    """Random real images at 1 image per class, and the full set."""
    return together(
        cell_rows(RANDOM, "random", objective=None, **marks),
        cell_rows(FULL, "full", objective=None, **marks | {"ipc": None}),
    )


def keyed(*frames: pd.DataFrame) -> pd.DataFrame:
    return together(*(frame.assign(key=f"key{i}") for i, frame in enumerate(frames)))
