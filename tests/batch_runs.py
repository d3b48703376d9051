"""A profile that takes seconds, and `hglad run` on it in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

TRAINING = {"epochs": 2, "batch_size": 64, "lr": 0.01, "ema_decay": None, "augmentation": "crop_scale_rotate"}
NETWORK = {"name": "convnet", "depth": 2, "width": 8}


def tiny_profile(folder: Path, **changes) -> Path:
    """Write a profile of pixels on digits: six results, or others by keys such as sets={...}."""
    profile = {
        "profile": "tiny",
        "data": {"name": "digits", "resolution": 8},
        "prior": None,
        "surrogate": {"network": NETWORK, "batch_real": 8, "augmentation": "", "objectives": {"dm": {}}},
        "search": {"steps": 4, "lr_pixels": 0.1, "select_every": 2},
        "metric": {
            "name": "class_relevant",
            "compared": [],
            "network": NETWORK,
            "training": TRAINING,
            "seed": 0,
        },
        "evaluation": {"repeats": 1, "training": TRAINING, "full_set": TRAINING, "full_set_seeds": 1},
        "networks": {"ConvNet-2": NETWORK},
        "sets": {"objectives": ["dm"], "searches": ["pixels"], "ipc": [1], "seeds": [0, 1]},
        "studies": {"experiments": ["matching_objectives"], "sweep_seeds": 0, "ablation_seeds": 0}
        | {"matching_seeds": 2, "cross_seeds": 0},
    }
    for group, values in changes.items():
        profile[group] = profile[group] | values if isinstance(values, dict) else values
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(profile))
    return path


def command(config: Path, results: Path, *options: str) -> list[str]:
    """Words of `hglad run`."""
    return [
        sys.executable,
        "-m",
        "hglad",
        "run",
        str(config),
        "--results",
        str(results),
        "--cores",
        "2",
        *options,
    ]


def hglad_run(
    config: Path, results: Path, *options: str, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess:
    """`hglad run` to its end, in a working folder."""
    words = command(config, results, *options)
    return subprocess.run(words, capture_output=True, text=True, env=os.environ | environment, cwd=folder)


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie, which has ended and waits for its parent to ask."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def results_of(folder: Path) -> dict[str, bytes]:
    """All that is computed, without what says when and where: tensors whole, rows of evaluations."""
    from hglad.storage import read_json

    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    kept = {}
    for name, path in found.items():
        if name.startswith(".") or "/." in name:
            continue
        if name.endswith("distilled.safetensors"):
            kept[name] = path.read_bytes()
        elif name.startswith("evaluations/") and name.endswith(".json"):
            kept[name] = repr(read_json(path)["rows"]).encode()
    return kept
