"""`hglad run`: plan what is missing, have Snakemake compute it, say how far it is."""

import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from hglad.book.notebooks import stale
from hglad.errors import HgladError
from hglad.experiments.batch_folder import Machine, RunFolder, read_note
from hglad.experiments.console import Console, Outcome, Plan
from hglad.experiments.definitions import check_name
from hglad.experiments.definitions import plan as plan_tasks
from hglad.experiments.estimates import Estimates, wall_seconds
from hglad.experiments.follow import follow
from hglad.experiments.jobs import group
from hglad.experiments.prior_recipes import prior_recipe
from hglad.experiments.profile import Profile
from hglad.experiments.profile_checks import check_images, check_profile
from hglad.experiments.profile_file import read_profile
from hglad.experiments.rules import BookTask, NotebookTask, PriorTask
from hglad.experiments.runner import missing_tasks
from hglad.experiments.snakemake import failures, snakemake
from hglad.experiments.staleness import Reasons
from hglad.experiments.store import Store
from hglad.paths import PROJECT

SHORTEST, LONGEST, ON_CLUSTER = 20.0, 600.0, 1800.0  # seconds of a job, by default
THREADS_ON_CLUSTER = 4


@dataclass(frozen=True)
class Request:
    """What `hglad run` is asked for."""

    config: Path
    """Profile."""
    results: Path | None = None
    """Folder of the results; none: the profile's."""
    only: str | None = None
    """One experiment; none: all."""
    notebooks: Path | None = None
    """Folder for the executed notebooks; none executes none."""
    book: Path | None = None
    """Folder that gets `_build/html`; none builds no book."""
    machine: Machine = Machine()
    """Where jobs compute."""
    cluster: Path | None = None
    """Folder of a Snakemake profile for a cluster; none: this machine."""
    job_seconds: float | None = None
    """Length of a job to aim at; none: by the work and the number of processors."""
    snakemake: tuple[str, ...] = ()
    """Further options of Snakemake."""
    dry: bool = False
    """Say what would be done."""


def run(request: Request, console: Console) -> bool:
    """Compute what is missing of a profile, then its notebooks and its book where they are asked for.

    Returns:
        Whether everything is there now; not when jobs failed, or in a dry run with something to do.

    Raises:
        HgladError: bad input, or Snakemake cannot go on.
    """
    check_name(request.only)
    _check_cluster(request.cluster)
    profile = read_profile(request.config)
    check_profile(profile)
    store = Store.of_profile(profile.profile, request.results)
    trained = _prior_tasks(profile)
    if trained:
        check_images(profile)
        console.say(f"{profile.profile}: its generator is trained first, the rest is planned after it")
        if not _run_tasks(request, profile.profile, trained, [], store, console) or request.dry:
            return False
    every = plan_tasks(profile, request.only)
    missing = missing_tasks(every, store)
    if missing:
        check_images(profile)
    pages = _page_tasks(request, profile, store, bool(missing))
    complete = _run_tasks(request, profile.profile, missing + pages, every, store, console)
    if complete and request.book:
        console.say(f"book: {request.book / '_build' / 'html' / 'index.html'}")
    return complete


def _check_cluster(folder: Path | None) -> None:
    if folder is not None and not (folder / "config.yaml").is_file():
        advice = "expected a folder with a config.yaml, such as configs/cluster/slurm"
        raise HgladError(f"no Snakemake profile at {folder}: {advice}")


def _prior_tasks(profile: Profile) -> list[PriorTask]:
    """Generators that the profile names, that are not there, and that have a recipe."""
    recipes = {name: prior_recipe(name) for name in profile.priors}
    return [PriorTask(str(recipe), str(_trained(name))) for name, recipe in recipes.items() if recipe]


def _trained(name: str) -> Path:
    return PROJECT / "data" / "priors" / f"{name}.safetensors"


def _page_tasks(request: Request, profile: Profile, store: Store, renewed: bool) -> list:
    """Notebooks that are out of date, all of them when results change, and the book."""
    if request.notebooks is None:
        return []
    out, config = str(request.notebooks.resolve()), str(Path(request.config).resolve())
    names = stale(config, store.root, out, everything=renewed)
    if request.only:
        names = [name for name in names if name.removesuffix(".ipynb").split("_", 1)[1] == request.only]
    tasks = [NotebookTask(config, name, out) for name in names]
    return tasks + ([BookTask(profile.profile, out, str(request.book))] if request.book else [])


def _run_tasks(request: Request, name: str, tasks: list, every: list, store: Store, console: Console) -> bool:
    """Compute tasks that are missing; `every` task of the profile tells the time that they may take."""
    if not tasks:
        console.nothing(name, len(every))
        return True
    committed = Store(PROJECT / "data" / "results" / name)
    estimates = Estimates.of(every, (store, committed))
    machine = _spread(request.machine, len(every), request.cluster is not None)
    at_once = _cluster_jobs(request.cluster) or machine.gpus or max(1, machine.cores // machine.threads)
    longest = _longest(request, sum(map(estimates.seconds, tasks)) / at_once)
    jobs = group(tasks, estimates.seconds, longest, 1 if request.cluster else at_once)
    at_once, reasons = min(at_once, len(jobs)), _reasons(tasks, store)
    guessed = sum(not estimates.recorded(task) for task in tasks)
    seconds = wall_seconds(jobs, at_once)
    plan = Plan(name, jobs, len(every), reasons, seconds, at_once, machine.device, guessed)
    console.plan(plan, request.dry)
    return not request.dry and _execute(request, plan, machine, store, console)


def _reasons(tasks: list, store: Store) -> Counter:
    """Why tasks are to be computed; of results why they are missing."""
    reasons = Reasons(store)
    return Counter("to be shown" if task.phase >= 3 else reasons.why(task) for task in tasks)


def _longest(request: Request, share: float) -> float:
    """Seconds of a job: a quarter of the work of each that runs at once, so that they end together."""
    if request.job_seconds or request.cluster:
        return request.job_seconds or ON_CLUSTER
    return min(max(share / 4, SHORTEST), LONGEST)


def _cluster_jobs(folder: Path | None) -> int:
    """Jobs that a cluster's profile lets run at once; 0 without a cluster."""
    if folder is None:
        return 0
    jobs = (yaml.safe_load((folder / "config.yaml").read_text()) or {}).get("jobs", 100)
    return jobs if isinstance(jobs, int) else 100


def _spread(machine: Machine, tasks: int, cluster: bool) -> Machine:
    """The machine with threads for each job; where none are asked for, as many as so many tasks leave.

    Counted are all tasks of the profile, those that are done included, because the number of threads moves
    the last bits: a run that was stopped and goes on must end as if it had not been.
    """
    at_once = machine.gpus or max(1, tasks)
    usual = THREADS_ON_CLUSTER if cluster else max(1, machine.cores // at_once)
    return replace(machine, threads=machine.threads or usual)


def _execute(request: Request, plan: Plan, machine: Machine, store: Store, console: Console) -> bool:
    folder = RunFolder.create(store.root)
    with folder.alive():
        program = [sys.executable, "-m", "hglad.experiments.lifeline", "hglad", "job"]
        folder.write(plan.jobs, machine, store.root, program)
        begin = time.time()
        with snakemake(folder, machine, request.cluster, request.snakemake) as process:
            for event in follow(folder, process, plan.jobs):
                console.event(event)
        failed = failures(folder, plan.jobs)
        computing = sum(read_note(note).get("computing", 0.0) for note in folder.noted("done").values())
        console.end(plan, Outcome(failed, time.time() - begin, computing, folder.path))
    return not failed
