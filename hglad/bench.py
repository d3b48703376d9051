"""Benchmarks: a fast implementation beside the straightforward one, in turn and in one process.

A suite is a file of `benchmarks/` with a function `cases(device, quick)`; the ratio of two steps that follow
each other holds on a noisy machine too. The first step, with what it compiles, and the memory are measured
apart, in a fresh process per implementation.
"""

import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from hglad.errors import HgladError
from hglad.paths import PROJECT
from hglad.provenance import Stopwatch
from hglad.registry import unknown
from hglad.runtime import progress_bar

FOLDER = PROJECT / "benchmarks"
SIDES = ("fast", "plain")
REPEATS = 5

Step = Callable[[], Tensor]


@dataclass(frozen=True)
class Case:
    """Two implementations of one gradient.

    `fast` and `plain` (the straightforward one) set their implementation up and return its step: a function
    without arguments that returns the gradient. Call number i of either consumes the same random draws.

    `exact` is the same, smaller, in float64. Second derivatives of a ReLU network jump where a unit switches:
    in float32 two correct implementations differ by the few units that rounding switches, in float64 by none.
    """

    name: str
    fast: Callable[[], Step]
    plain: Callable[[], Step]
    note: str = ""
    exact: "Case | None" = None


@dataclass(frozen=True)
class Suite:
    """The cases of `<folder>/<name>.py` on a device, at full size or `quick` (seconds, for tests)."""

    name: str
    device: str = "cpu"
    quick: bool = False
    folder: Path = field(default_factory=lambda: FOLDER)

    def cases(self) -> list[Case]:
        """All cases; raises `HgladError` for an unknown suite and where there is no checkout."""
        if not self.folder.is_dir():
            raise HgladError(f"no folder {self.folder}: benchmarks need a checkout; run hglad from one")
        names = sorted(path.stem for path in self.folder.glob("*.py") if "\ndef cases(" in path.read_text())
        if self.name not in names:
            raise unknown("suite", self.name, names)
        return _module(self.folder / f"{self.name}.py").cases(self.device, self.quick)

    def chosen(self, only: str = "") -> list[Case]:
        """The case named `only`, else those with it in their names; raises `HgladError` for none."""
        cases = {case.name: case for case in self.cases()}
        chosen = [only] if only in cases else [name for name in cases if only in name]
        if not chosen:
            names = "; ".join(cases)
            raise HgladError(
                f"no case of suite {self.name!r} has {only!r} in its name, expected one of {names}"
            )
        return [cases[name] for name in chosen]


def _module(path: Path):
    name = f"benchmarks_{path.stem}"
    if name not in sys.modules:
        spec = spec_from_file_location(name, path)
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def seeded(step: Callable[[torch.Generator], Tensor], device: str) -> Step:
    """A step whose call number i draws from a generator with seed i, on the device."""
    seeds = count()
    return lambda: step(torch.Generator(device).manual_seed(next(seeds)))


def run(suite: Suite, repeats: int | None = None, only: str = "", show: bool = True) -> Iterator[dict]:
    """Measure the cases with `only` in their names one after the other; yields a row for each.

    A row is what `measure` returns, with what `first_step` returns beside it for each implementation. One
    whose first step fails is left out of the timing, and its "failed" says why. `repeats` None is 1 for a
    quick suite, else 5. Raises `HgladError` for what cannot be measured.
    """
    repeats = (1 if suite.quick else REPEATS) if repeats is None else repeats
    if repeats < 1:
        raise HgladError(f"repeats is {repeats}, expected 1 or more; give --repeats 1")
    cases = suite.chosen(only)
    with progress_bar(len(cases) * (repeats + 2), f"bench {suite.name}", "step", show) as bar:
        for case in cases:
            first = {side: first_step(suite, case.name, side) for side in SIDES}
            bar.update()
            able = [side for side in SIDES if "failed" not in first[side]]
            row = measure(case, repeats, suite.device, able, bar.update)
            yield row | {side: first[side] | row.get(side, {}) for side in SIDES}


def measure(
    case: Case,
    repeats: int,
    device: str = "cpu",
    sides: Sequence[str] = SIDES,
    tick: Callable[[], object] = lambda: None,
) -> dict:
    """Time the implementations in turn, after one call of each to warm up.

    Of each: seconds per step. Of both: the ratio plain / fast of steps that follow each other, and the
    largest relative difference of their gradients, also that of `case.exact`. `tick` is called after every
    turn.
    """
    steps = {side: getattr(case, side)() for side in sides}
    seconds, differences = [], []
    for turn in range(repeats + 1):
        order = sides[:: -1 if turn % 2 else 1]  # neither is always the first
        done = {side: timed(steps[side], device) for side in order}
        seconds.append({side: done[side][0] for side in sides})
        if len(sides) == 2:
            differences.append(difference(done["fast"][1], done["plain"][1]))
        tick()
    later = seconds[1:]
    row = {"name": case.name, "note": case.note, "n": repeats}
    row |= {side: {"seconds": spread([each[side] for each in later])} for side in sides}
    if differences:
        row["ratio"] = spread([each["plain"] / each["fast"] for each in later])
        row["difference"] = max(differences)
        if case.exact:
            row["difference_float64"] = difference(case.exact.fast()(), case.exact.plain()())
    return row


def timed(step: Step, device: str) -> tuple[float, Tensor]:
    """Seconds of one step and its gradient."""
    synchronise(device)
    start = time.perf_counter()
    gradient = step()
    synchronise(device)
    return time.perf_counter() - start, gradient


def synchronise(device: str) -> None:
    """Wait for the GPU; nothing on a CPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest value."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def difference(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    return ((found - expected).norm() / expected.norm()).item()


def first_step(suite: Suite, name: str, side: str) -> dict:
    """The first step of an implementation, in a process of its own and without earlier compilations.

    {"first_call": seconds, "memory_mib": peak during the step beyond what was there before it}; or
    {"failed": reason} when it came to an end, as for lack of memory or for want of a compiler.
    """
    context = multiprocessing.get_context("forkserver")  # one server imports torch for all of them
    context.set_forkserver_preload([__name__])
    try:
        with ProcessPoolExecutor(1, context) as pool:
            return pool.submit(_first_step, suite, name, side, torch.get_num_threads()).result()
    except (HgladError, RuntimeError, MemoryError) as error:  # RuntimeError: killed processes, too
        return {"failed": " ".join(str(error).split())[:200] or type(error).__name__}


def _first_step(suite: Suite, name: str, side: str, threads: int) -> dict:
    torch.set_num_threads(threads)
    step = next(getattr(case, side) for case in suite.cases() if case.name == name)()
    with TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        measured = _gpu_step if torch.device(suite.device).type == "cuda" else _cpu_step
        seconds, memory = measured(step, suite.device)
    return {"first_call": seconds, "memory_mib": memory / 2**20}


def _gpu_step(step: Step, device: str) -> tuple[float, float]:
    """Seconds and bytes."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    seconds, _ = timed(step, device)
    return seconds, torch.cuda.max_memory_allocated(device) - before


def _cpu_step(step: Step, device: str) -> tuple[float, float]:
    """Seconds and bytes."""
    _limit_memory()
    before = _resident("VmRSS")
    seconds, _ = timed(step, device)
    return seconds, max(0, _resident("VmHWM") - before)


def _limit_memory() -> None:
    """Let this process fail alone when it asks for more than 9/10 of what is free (Linux)."""
    if sys.platform == "linux":
        limit = _kibibytes("/proc/meminfo", "MemAvailable") * 1024 * 9 // 10
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _resident(key: str) -> int:
    """Resident bytes of this process: VmRSS now, VmHWM at their peak; elsewhere than on Linux the peak."""
    if sys.platform == "linux":  # where ru_maxrss starts at the peak of the process that started this one
        return _kibibytes("/proc/self/status", key) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _kibibytes(path: str, key: str) -> int:
    with open(path) as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def report(suite: Suite, rows: list[dict], watch: Stopwatch) -> dict:
    """What `hglad bench --json` writes: the rows and where they come from."""
    provenance = watch.provenance() | {"threads": torch.get_num_threads()}
    return {"suite": suite.name, "quick": suite.quick, "cases": rows, "provenance": provenance}


HEADER = (
    f"{'case':<36} {'plain s':>9} {'fast s':>9} {'first s':>8} {'ratio':>7} {'(min - max)':>15} "
    f"{'difference':>10} {'float64':>8} {'plain MiB':>9} {'fast MiB':>9}"
)


def table_line(row: dict) -> str:
    """One row under `HEADER`: medians; "first" is the first step of the fast one, with what it compiles."""
    plain, fast = (row[side].get("seconds", {}).get("median") for side in ("plain", "fast"))
    memory = [_number(row[side].get("memory_mib"), "9.0f") for side in ("plain", "fast")]
    ratio = row.get("ratio", {})
    between = "({min:.2f} - {max:.2f})".format(**ratio) if ratio else "-"
    notes = [row["note"]] + [
        f"{side} did not run: {row[side]['failed']}" for side in SIDES if "failed" in row[side]
    ]
    return " ".join(
        [
            f"{row['name']:<36}",
            _number(plain, "9.4f"),
            _number(fast, "9.4f"),
            _number(row["fast"].get("first_call"), "8.2f"),
            _number(ratio.get("median"), "7.2f"),
            f"{between:>15}",
            _number(row.get("difference"), "10.1e"),
            _number(row.get("difference_float64"), "8.1e"),
            *memory,
            *(f" {note}" for note in notes if note),
        ]
    )


def _number(value: float | None, form: str) -> str:
    return f"{'-':>{form.split('.')[0]}}" if value is None else f"{value:{form}}"
