"""What the engine costs a job: many jobs with a simulated training, through the real Snakefile.

python benchmarks/batch.py --json data/benchmarks/batch.json
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from hglad.experiments.batch_folder import Machine, RunFolder
from hglad.experiments.jobs import Job
from hglad.experiments.snakemake import snakemake
from hglad.provenance import Stopwatch
from hglad.storage import write_json

TINY = Path(__file__).with_name("tiny_job.py")


def simulated(count: int) -> list[Job]:
    """Half of them distil, the other half evaluate what those made."""
    pairs = count // 2
    first = [Job(f"distil-{number:04}", "distil", [], 1.0) for number in range(pairs)]
    then = [Job(f"evaluate-{n:04}", "evaluate", [], 1.0, [f"distil-{n:04}"]) for n in range(count - pairs)]
    return first + then


def measure(count: int, cores: int, results: Path) -> dict:
    """Wall time of a run of `count` jobs that compute nothing."""
    machine, jobs = Machine(cores=cores, threads=1), simulated(count)
    begin = time.perf_counter()
    folder = RunFolder.create(results)
    folder.write(jobs, machine, results, [sys.executable, "-S", "-E", str(TINY)])
    with snakemake(folder, machine) as process:
        process.wait()
    seconds = time.perf_counter() - begin
    if len(folder.noted("done")) != count:
        raise SystemExit(f"{len(folder.noted('done'))} of {count} jobs are done: see {folder.path}")
    return {
        "jobs": count,
        "cores": cores,
        "seconds": round(seconds, 2),
        "seconds_per_job": round(seconds / count, 4),
    }


def main() -> None:
    """Measure 100 and 1,000 jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", default="100,1000", help="numbers of jobs (default: 100,1000)")
    parser.add_argument(
        "--cores", type=int, default=len(os.sched_getaffinity(0)), help="jobs at once (default: all)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the measurements and their provenance there")
    options = parser.parse_args()
    watch, rows = Stopwatch(), []
    for count in map(int, options.counts.split(",")):
        with tempfile.TemporaryDirectory() as results:
            rows.append(measure(count, options.cores, Path(results)))
        print(
            f"{count} jobs: {rows[-1]['seconds']} s, {1000 * rows[-1]['seconds_per_job']:.0f} ms each",
            flush=True,
        )
    if options.json:
        write_json(options.json, {"suite": "batch", "cases": rows, "provenance": watch.provenance()})


if __name__ == "__main__":
    main()
