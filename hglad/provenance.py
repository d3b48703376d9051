"""Where a result comes from: commit, versions, device, time."""

import os
import platform
import resource
import subprocess
import time
from functools import lru_cache
from importlib.metadata import version

import torch

from hglad.paths import PROJECT

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn")


@lru_cache
def commit() -> dict:
    """Commit when this process first asked, and whether it holds all of the code; None outside git."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", PROJECT, *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "hglad")  # not installed into somebody's own repository
        changed = git(
            "status", "--porcelain", "--untracked-files=no", "--", "hglad", "configs", "data/priors"
        ) + git("status", "--porcelain", "--untracked-files=normal", "--", "hglad")
        return {"commit": git("rev-parse", "HEAD"), "clean": not changed}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "clean": None}


def device_name(device: torch.device | str = "cpu") -> str:
    """Model of the GPU, or of the processor with its number of threads in use."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} of {os.cpu_count()} threads"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


class Stopwatch:
    """Takes the time of a run and describes it as provenance."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.device, self.start = device, time.time()
        commit()  # asked now: the checkout may move on while a long run goes on with the code it has loaded

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.time() - self.start

    def provenance(self) -> dict:
        """Commit, versions, device, start (UTC), duration in seconds and peak memory in MiB."""
        cuda = torch.device(self.device).type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.device) / 2**20 if cuda else _peak_memory()
        return {
            **commit(),
            "hglad": version("hglad"),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in PACKAGES},
            "device": device_name(self.device),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.start)),
            "seconds": round(self.seconds, 2),
            "peak_memory_mib": round(peak),
        }


def _peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
