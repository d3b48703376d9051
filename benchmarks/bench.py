"""Time fast implementations beside straightforward ones, in turn and in one process: `make bench`.

    python benchmarks/bench.py [--suites matching,generator] [--device cuda] [--json FILE]

A suite is a file of this folder with a function `cases(device, quick)`. Written are, of each implementation,
the first step (with what it compiles), median, extremes and number of the later ones; of both the ratio of
the medians and the relative difference of their results; with them machine, versions and commit.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from statistics import median

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from hglad.provenance import Stopwatch
from hglad.storage import write_json

SUITES = ("matching", "generator", "evaluation", "metric")
TURNS = 3  # of either implementation: the machine's other work then meets both

Step = Callable[[], Tensor]


@dataclass(frozen=True)
class Case:
    """Two implementations of one result.

    `fast` and `plain` (the straightforward one) set their implementation up and return its step: a function
    without arguments that returns the result. Call number i of either consumes the same random draws.

    `exact` is the same, smaller, in float64. Second derivatives of a ReLU network jump where a unit switches:
    in float32 two correct implementations differ by the few units that rounding switches, in float64 by none.
    """

    name: str
    fast: Callable[[], Step]
    plain: Callable[[], Step]
    note: str = ""
    exact: "Case | None" = None


def seeded(step: Callable[[torch.Generator], Tensor], device: str) -> Step:
    """A step whose call number i draws from a generator with seed i, on the device."""
    seeds = count()
    return lambda: step(torch.Generator(device).manual_seed(next(seeds)))


def difference(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    return ((found - expected).norm() / expected.norm()).item()


def measure(case: Case, seconds: float) -> dict:
    """Time both implementations in turn, each for so many seconds in all."""
    steps, sides, first = {"fast": case.fast(), "plain": case.plain()}, {}, {}
    for side, step in steps.items():
        begin = time.perf_counter()
        first[side] = step()
        if first[side].is_cuda:
            torch.cuda.synchronize()
        sides[side] = {"first": time.perf_counter() - begin, "times": []}
    row = {"name": case.name, "note": case.note, "difference": difference(first["fast"], first["plain"])}
    if case.exact:
        row["difference_float64"] = difference(case.exact.fast()(), case.exact.plain()())
    for turn in range(TURNS):
        for side in sorted(steps, reverse=turn % 2 == 1):  # neither is always the first
            timer = Timer("step()", globals={"step": steps[side]}, num_threads=torch.get_num_threads())
            sides[side]["times"] += timer.blocked_autorange(min_run_time=seconds / TURNS).times
    for side, found in sides.items():
        times = found.pop("times")
        row[side] = found | {"n": len(times), "median": median(times), "min": min(times), "max": max(times)}
    return row | {"ratio": row["plain"]["median"] / row["fast"]["median"]}


def main() -> None:
    """Measure, print a line per case, write all of it after every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suites", default=",".join(SUITES), help="files of benchmarks/, commas between")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each implementation (default: 20)")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: does it run at all")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with this text in their names")
    parser.add_argument("--json", metavar="FILE", help="write the measurements and their provenance there")
    options = parser.parse_args()
    watch, rows = Stopwatch(options.device), []
    print(f"{'case':<44} {'plain s':>9} {'fast s':>9} {'ratio':>6} {'first s':>8} {'difference':>10}")
    for suite in options.suites.split(","):
        for case in import_module(suite).cases(options.device, options.quick):
            if options.only not in case.name:
                continue
            rows.append({"suite": suite} | measure(case, options.seconds))
            plain, fast = rows[-1]["plain"], rows[-1]["fast"]
            print(
                f"{case.name:<44} {plain['median']:9.4f} {fast['median']:9.4f} {rows[-1]['ratio']:6.2f} "
                f"{fast['first']:8.2f} {rows[-1]['difference']:10.1e}  {case.note}",
                flush=True,
            )
            if options.json:
                machine = watch.provenance() | {"threads": torch.get_num_threads()}
                write_json(options.json, {"quick": options.quick, "cases": rows, "provenance": machine})


if __name__ == "__main__":
    main()
