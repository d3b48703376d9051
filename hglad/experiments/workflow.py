"""`hglad run`: what is missing of a profile as jobs of Snakemake, which orders, starts and retries them."""

import os
import pickle
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import filelock
import psutil
import torch
import yaml

from hglad.errors import HgladError
from hglad.experiments.checks import check_images, check_profile, read_profile
from hglad.experiments.plans import EXPERIMENTS, plan
from hglad.experiments.runner import compute, estimated_seconds, missing_tasks, why_missing
from hglad.experiments.store import Store, held
from hglad.paths import PROJECT
from hglad.priors.files import training_recipe
from hglad.runtime import check_device, keep_freed_memory
from hglad.storage import check_writable, read_json, write_json, write_whole

START = 4.0  # seconds until a process has imported what it computes with
WORTH = 8.0  # seconds of work that are worth a process of their own
SHORTEST, LONGEST, ON_CLUSTER = 20.0, 600.0, 1800.0  # seconds of a job, by default
RULES = ("prior", "classifier", "experts", "distill", "measure", "evaluate")


@dataclass(frozen=True)
class PriorTask:
    """Train a generator that a profile names, by its recipe in `configs/priors`."""

    recipe: Path
    rule, phase, requires = "prior", 0, ()

    @property
    def out(self) -> Path:
        """Its file."""
        return PROJECT / "data" / "priors" / f"{self.recipe.stem}.safetensors"

    @property
    def key(self) -> str:
        """Name of the generator."""
        return self.recipe.stem

    title = key

    @property
    def cost(self) -> float:
        """Guess of the seconds on one core."""
        from hglad.priors.training.train import PriorSettings, training_seconds

        return training_seconds(PriorSettings.from_yaml(self.recipe))

    def done(self, store: Store) -> bool:
        """Whether the generator is there."""
        return self.out.is_file()

    def run(self, store: Store, device: str) -> None:
        """Train it; a stopped training goes on."""
        from hglad.priors.training.train import PriorSettings, train_prior

        train_prior(PriorSettings.from_yaml(self.recipe), self.out, device)


@dataclass(frozen=True)
class Job:
    """Tasks of one rule that one process computes, one after the other."""

    name: str  # rule and number; names files
    tasks: list
    seconds: float  # estimate of all tasks together
    needs: list[str] = field(default_factory=list)  # names of the jobs that must be done before

    @property
    def rule(self) -> str:
        """Rule of its tasks."""
        return self.tasks[0].rule

    @property
    def title(self) -> str:
        """In words: `distill: 3 of dm hierarchical ipc 1`."""
        titles = Counter(task.title for task in self.tasks)
        return f"{self.rule}: " + ", ".join(f"{count} of {text}" for text, count in titles.items())


def pack(tasks: list, seconds: dict[str, float], longest: float, at_once: int = 1) -> list[Job]:
    """Jobs of about `longest` seconds each at most, because a process takes seconds to start.

    A task that takes longer is a job of its own. A rule with little to do is shared among `at_once` processes
    as long as that pays. Tasks of one title, such as the seeds of a search, keep together; tasks that wait
    for others are not put together with such as need not. The longest jobs of a rule come first.
    """
    missing, jobs = {task.key for task in tasks}, []
    for rule in RULES:
        own = [task for task in tasks if task.rule == rule]
        order = {title: number for number, title in enumerate(dict.fromkeys(task.title for task in own))}
        waits = {task.key: any(need.key in missing for need in task.requires) for task in own}
        own.sort(key=lambda task: (waits[task.key], order[task.title]))
        most = min(longest, max(WORTH, sum(seconds[task.key] for task in own) / at_once))
        packs: list[list] = []
        for task in own:
            together = [*packs[-1], task] if packs else [task]
            fits = sum(seconds[each.key] for each in together) <= most
            if packs and fits and waits[task.key] == waits[packs[-1][0].key]:
                packs[-1] = together
            else:
                packs.append([task])
        sized = [(sum(seconds[task.key] for task in pack), pack) for pack in packs]
        for number, (total, pack) in enumerate(sorted(sized, key=lambda one: -one[0])):
            jobs.append(Job(f"{rule}-{number:04}", pack, total))
    home = {task.key: job.name for job in jobs for task in job.tasks}
    for job in jobs:
        job.needs.extend({home[need.key] for task in job.tasks for need in task.requires if need.key in home})
    return jobs


@dataclass(frozen=True)
class Batch:
    """What `hglad run` is asked for."""

    config: Path  # profile
    results: Path | None = None  # their folder; None: the profile's
    only: str | None = None  # one experiment; None: all
    device: str = "cpu"  # of every job, `cpu` or `cuda`
    cores: int = 1  # processors for jobs on this machine
    gpus: int = 0  # of which every job takes one
    threads: int | None = None  # of a job; None: as the number of tasks suggests
    cluster: Path | None = None  # folder of a Snakemake profile; None: this machine
    job_seconds: float | None = None  # length of a job to aim at; None: by the work and the processors
    snakemake: tuple[str, ...] = ()  # further options of Snakemake
    dry_run: bool = False  # only say what would be done
    quiet: bool = False  # only say what went wrong

    def run(self) -> bool:
        """Compute what is missing of a profile.

        Returns:
            Whether everything is there now; not when jobs failed, or in a dry run with something to do.

        Raises:
            HgladError: bad input, another run at work on these results, or Snakemake cannot go on.
        """
        if self.only is not None:
            EXPERIMENTS.get(self.only)
        if self.cluster is not None and not (self.cluster / "config.yaml").is_file():
            advice = "expected a folder with a config.yaml, such as configs/cluster/slurm"
            raise HgladError(f"no Snakemake profile at {self.cluster}: {advice}")
        profile = read_profile(self.config)
        check_profile(profile)
        store = Store.of_profile(profile.profile, self.results)
        recipes = [recipe for name in profile.priors if (recipe := training_recipe(name))]
        priors = [PriorTask(recipe) for recipe in recipes]
        if priors:
            check_images(profile)
            self._say(f"{profile.profile}: its generator is trained first, the rest is planned after it")
            if not self._compute(profile.profile, priors, [], store):
                return False
        every = plan(profile, self.only)
        missing = missing_tasks(every, store)
        if missing:
            check_images(profile)
        return self._compute(profile.profile, missing, every, store)

    def _say(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)

    def _compute(self, name: str, tasks: list, every: list, store: Store) -> bool:
        """Plan jobs, say so, and have them done; records of `every` task tell how long they take."""
        if not tasks:
            self._say(f"{name}: nothing to do, all {len(every)} results are there")
            return True
        committed = Store(PROJECT / "data" / "results" / name)
        seconds, guessed = estimated_seconds([*every, *tasks], (store, committed))
        # Threads follow from all tasks of the profile, those that are done included: their number moves last
        # bits, and a run that was stopped and goes on must end as if it had not been.
        usual = 4 if self.cluster else max(1, self.cores // (self.gpus or max(1, len(every))))
        threads = self.threads or usual
        at_once, longest = self.gpus or max(1, self.cores // threads), self.job_seconds
        if self.cluster:
            cluster = yaml.safe_load((self.cluster / "config.yaml").read_text()) or {}
            at_once, longest = int(cluster.get("jobs", 100)), longest or ON_CLUSTER
        share = sum(seconds[task.key] for task in tasks) / at_once / 4  # short enough to end together
        longest = longest or min(max(share, SHORTEST), LONGEST)
        jobs = pack(tasks, seconds, longest, 1 if self.cluster else at_once)
        at_once = min(at_once, len(jobs))
        work = sum(job.seconds + START for job in jobs)
        took = timedelta(seconds=round(max(work / at_once, *(job.seconds + START for job in jobs))))
        basis = f"by records, a guess for {sum(task.key in guessed for task in tasks)} of them"
        counts = f"{len(tasks)} tasks in {len(jobs)} jobs, {at_once} at once on {self.device}"
        self._say(f"{name}: {counts}: about {took} ({basis})")
        for reason, count in why_missing(tasks, store).most_common():
            self._say(f"  {count} {reason}")
        if self.dry_run:
            for job in jobs:
                self._say(f"  {timedelta(seconds=round(job.seconds))}  {job.title}")
            return False
        return self._execute(name, jobs, threads, store)

    def _execute(self, name: str, jobs: list[Job], threads: int, store: Store) -> bool:
        """Write the plan, run Snakemake on it, say which jobs failed; whether none did."""
        folder = (store.root / ".batch").resolve()
        check_writable(folder)
        try:
            with held(folder / "lock", wait=False):
                for old in ("done", "logs", "tasks", ".snakemake"):  # of a run that is over, or dead
                    shutil.rmtree(folder / old, ignore_errors=True)
                graph = {}
                for job in jobs:
                    with write_whole(folder / "tasks" / job.name) as draft:
                        draft.write_bytes(pickle.dumps([(task.key, task) for task in job.tasks]))
                    graph[job.name] = {"rule": job.rule, "needs": job.needs}
                machine = {"device": self.device, "gpus": self.gpus, "threads": threads}
                place = {"directory": os.getcwd(), "results": str(store.root.resolve())}  # of relative paths
                write_json(folder / "plan.json", {"python": sys.executable, "jobs": graph} | machine | place)
                self._snakemake(folder)
        except filelock.Timeout as error:
            advice = "wait until it has ended, or end it; its jobs are in"
            raise HgladError(f"another hglad run is at work on {store.root}: {advice} {folder}") from error
        failed = [job for job in jobs if not all(task.done(store) for task in job.tasks)]
        if failed and not list((folder / "logs").glob("*")):
            raise HgladError(f"Snakemake began no job: see above, and its log in {folder}/.snakemake/log")
        for job in failed:
            print(f"hglad: {job.title}: {_reason(job, folder)}", file=sys.stderr)
        if failed:
            done = f"{len(jobs) - len(failed)} of {len(jobs)} jobs"
            self._say(f"{name}: {done} are done; the same command goes on from there")
        return not failed

    def _snakemake(self, folder: Path) -> None:
        """Snakemake's command line in this process, which ends when it has done what it can."""
        from snakemake.cli import main

        words = [
            "--snakefile",
            Path(__file__).with_name("Snakefile"),
            "--directory",
            folder,
            "--nolock",
            "--keep-going",
            "--nocolor",
        ]
        words += ["--workflow-profile", "none", "--rerun-triggers", "mtime", "--scheduler", "greedy"]
        words += ["--quiet", *(["all"] if self.quiet else ["rules", "host", "reason"])]
        if self.cluster:
            words += ["--profile", self.cluster.resolve()]
        else:
            os.environ["HGLAD_RUN"] = str(os.getpid())
            words += ["--cores", self.cores, "--resources", f"gpu={self.gpus}"]
        os.environ.pop("SNAKEMAKE_PROFILE", None)
        paths = filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")])
        os.environ |= {"TQDM_DISABLE": "1", "PYTHONPATH": os.pathsep.join(paths)}
        here, interrupted = Path.cwd(), []

        def interrupt(number, frame) -> None:  # Snakemake waits for its jobs, and cancels those of a cluster
            interrupted.append(number)
            for child in psutil.Process().children(recursive=True) if not self.cluster else []:
                child.terminate()
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            main([str(word) for word in (*words, *self.snakemake)])
        except SystemExit:
            pass  # which jobs are done says more
        finally:
            signal.signal(signal.SIGINT, before)
            os.chdir(here)
        if interrupted:
            raise KeyboardInterrupt


def _reason(job: Job, folder: Path) -> str:
    """Why a job is not done: the last line of its log where that is an error."""
    log = folder / "logs" / job.name
    if not log.is_file():
        return "not begun: a job that it needs is not done, or the run was ended"
    said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if said and said[-1].startswith("hglad: "):
        return f"{said[-1].removeprefix('hglad: ')} (log: {log})"
    return f"killed, for lack of memory (--cores N: fewer at once) or at a time limit (log: {log})"


def work(folder: Path, name: str) -> None:
    """Compute the tasks of a job whose results are missing, in the process that Snakemake started for it.

    Raises:
        HgladError: code, data or generator have changed since the run began.
        Exception: what the first failing task said; the others are computed all the same.
    """
    folder, errors = folder.resolve(), []
    plan = read_json(folder / "plan.json")
    if "HGLAD_RUN" in os.environ:
        threading.Thread(target=_end_with, args=(int(os.environ["HGLAD_RUN"]),), daemon=True).start()
    os.chdir(plan["directory"])
    torch.set_num_threads(plan["threads"])
    keep_freed_memory()
    store = Store(plan["results"])
    with _one_gpu(folder, plan["gpus"]):
        check_device(plan["device"])  # starts CUDA, which sees one GPU by now
        for key, task in pickle.loads((folder / "tasks" / name).read_bytes()):
            task.__dict__.pop("key", None)  # as this process has it
            if task.key != key:
                advice = "code, data or generator have changed since the run began; start hglad run again"
                raise HgladError(f"the {task.rule} task {key} is {task.key} by now: {advice}")
            try:
                compute(task, store, plan["device"])
            except Exception as error:
                errors.append(error)
    if errors:
        raise errors[0]


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone: results are written whole or not at all."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@contextmanager
def _one_gpu(folder: Path, count: int) -> Iterator[None]:
    """Let this process see one GPU of `count` that no other job has; to be entered before CUDA starts."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    for name in names if count > 1 else []:
        try:
            with held(folder / f"gpu-{name}.lock", wait=False):
                os.environ["CUDA_VISIBLE_DEVICES"] = name
                yield
                return
        except filelock.Timeout:
            continue
    if count > 1:
        raise HgladError(f"all GPUs of the run are taken ({', '.join(names)}): start it with fewer, --gpus N")
    yield
