"""Commands that compute a profile: run, the jobs that it starts, check and experts."""

import os
import shlex
from dataclasses import replace
from pathlib import Path

from hglad.cli.common import command
from hglad.cli.names import NAMES
from hglad.errors import HgladError

SOME_FAILED = 3
FOLDERS = ("results", "notebooks", "book", "cluster")


def add_run(commands) -> None:
    """Arguments of `hglad run`."""
    parser = command(commands, "run", _run, "compute what is missing of a profile's runs")
    parser.add_argument("config", help="profile, such as configs/digits.yaml")
    parser.add_argument("--results", help="folder of the results (default: data/results/<profile>)")
    parser.add_argument("--only", metavar="NAME", help="one experiment: " + ", ".join(NAMES["experiments"]))
    parser.add_argument("--notebooks", metavar="DIR", help="execute the notebooks, too, into this folder")
    parser.add_argument("--book", metavar="DIR", help="and build the book, into DIR/_build/html")
    parser.add_argument("--dry-run", action="store_true", help="print the jobs and how long they would take")
    told = parser.add_mutually_exclusive_group()
    told.add_argument("--quiet", action="store_true", help="print nothing but what went wrong")
    told.add_argument("--json", action="store_true", help="print a JSON object a line for what happens")
    machine = parser.add_argument_group("where it runs")
    machine.add_argument("--cores", type=int, help="processors to use (default: all)")
    machine.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    machine.add_argument("--gpus", type=int, help="GPUs to use with --device cuda (default: all)")
    machine.add_argument("--cluster", metavar="DIR", help="Snakemake profile, such as configs/cluster/slurm")
    machine.add_argument(
        "--threads", type=int, help="processors of a job (default: cores by jobs; cluster: 4)"
    )
    machine.add_argument("--job-seconds", type=float, metavar="S", help="length of a job to aim at")
    machine.add_argument("--snakemake", default="", metavar="OPTIONS", help="further options of Snakemake")


def _run(options) -> int:
    from hglad.experiments.console import Console, JsonLines, Lines
    from hglad.experiments.engine import Request, run

    if options.book and not options.notebooks:
        raise HgladError("--book needs --notebooks DIR, the folder of the executed notebooks that it shows")
    folders = {name: None if (given := getattr(options, name)) is None else Path(given) for name in FOLDERS}
    request = Request(
        Path(options.config), only=options.only, machine=_machine(options), job_seconds=options.job_seconds,
        snakemake=tuple(shlex.split(options.snakemake)), dry=options.dry_run, **folders,
    )  # fmt: skip
    console = JsonLines() if options.json else Console() if options.quiet else Lines()
    return 0 if run(request, console) or options.dry_run else SOME_FAILED


def _machine(options):
    """Where the jobs of a run compute."""
    from hglad.experiments.batch_folder import Machine

    for name in ("cores", "gpus", "threads", "job_seconds"):
        if (value := getattr(options, name)) is not None and value <= 0:
            raise HgladError(f"--{name.replace('_', '-')} is {value}: expected a positive number")
    cores, gpus = options.cores or len(os.sched_getaffinity(0)), 0
    if options.device != "cpu" and not options.cluster:
        import torch

        gpus = options.gpus or (1 if ":" in options.device else torch.cuda.device_count())
    return Machine(options.device, cores, gpus, options.threads)


def add_job(commands) -> None:
    """Arguments of `hglad job`."""
    parser = commands.add_parser("job", description="compute one job of a plan; Snakemake calls this")
    parser.set_defaults(function=_job)
    parser.add_argument("folder", help="folder of the run")
    parser.add_argument("name", help="name of the job")


def _job(options) -> None:
    from hglad.experiments.batch_folder import RunFolder
    from hglad.experiments.worker import work

    work(RunFolder(options.folder), options.name)


def add_check(commands) -> None:
    """Arguments of `hglad check`."""
    parser = command(commands, "check", _check, "see whether a profile fits, and how much it computes")
    parser.add_argument("config", help="profile, such as configs/digits.yaml")


def _check(options) -> None:
    from hglad.experiments.profile_checks import check_profile, summary
    from hglad.experiments.profile_file import read_profile

    profile = read_profile(options.config)
    check_profile(profile)
    print(f"{options.config} fits: {summary(profile)}")


def add_experts(commands) -> None:
    """Arguments of `hglad experts`."""
    parser = command(commands, "experts", _experts, "train expert trajectories for trajectory matching")
    parser.add_argument("config", help="profile, such as configs/digits.yaml")
    parser.add_argument("--count", type=int, help="experts (default: the profile's)")
    parser.add_argument("--results", help="folder of the results (default: data/results/<profile>)")
    parser.add_argument("--cores", type=int, help="experts at the same time (default: all processors)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")


def _experts(options) -> None:
    from hglad.experiments.profile_file import read_profile
    from hglad.experiments.runner import run_all
    from hglad.experiments.store import Store
    from hglad.experiments.tasks import expert_tasks
    from hglad.objectives.experts import ExpertSettings

    profile = read_profile(options.config)
    settings = profile.objective("mtt").experts or ExpertSettings()
    settings = replace(settings, count=settings.count if options.count is None else options.count)
    store = Store.of_profile(profile.profile, options.results)
    tasks = expert_tasks(profile.data, profile.surrogate.network, settings)
    run_all(tasks, store, options.cores, options.device)
    print(f"{len(tasks)} experts in {store.experts_folder(tasks[0].folder_key)}")
