"""What can be a job: each kind of task under the name of its rule in the Snakefile."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hglad.errors import HgladError
from hglad.experiments.evaluation_task import EvaluateTask
from hglad.experiments.store import Store
from hglad.experiments.tasks import ClassifierTask, DistillTask, ExpertTask, MeasureTask
from hglad.settings import fingerprint, from_dict, to_dict


@dataclass(frozen=True)
class PriorTask:
    """Train the generator that a profile names, by its recipe in `configs/priors`."""

    recipe: str
    """Settings file of `hglad prior train`."""
    out: str
    """File to write."""
    phase = 0

    @property
    def cost(self) -> float:
        """Estimate in seconds of one core, by the steps that were timed at 16, 32 and 64 px."""
        from hglad.priors.training.stem import with_stem
        from hglad.priors.training.train import read_prior_settings

        settings = read_prior_settings(self.recipe)
        training, network = settings.training, settings.training.generator
        if training.stem:
            network = with_stem(training.stem, network)
        pixels = (settings.data.resolution or 32) ** 2
        faster = 0.5 if training.precision == "bfloat16" else 1.0
        if getattr(network, "lrelu_upsampling", 2) == 1:
            faster /= 2
        values = training.batch_size * getattr(network, "channel_base", 0) * pixels
        return training.steps * faster * (0.6 + 2e-8 * values)

    @cached_property
    def key(self) -> str:
        """Name among the tasks of a plan."""
        return fingerprint("prior", self.recipe, self.out)

    def done(self, store: Store) -> bool:
        """Whether the generator is there."""
        return Path(self.out).is_file()

    def run(self, store: Store, device: str) -> None:
        """Train it; a stopped training goes on."""
        from hglad.priors.training.train import read_prior_settings, train_prior

        train_prior(read_prior_settings(self.recipe), self.out, device)


@dataclass(frozen=True)
class NotebookTask:
    """Execute one notebook of a profile with papermill."""

    config: str
    name: str
    out: str
    cost = 8.0  # seconds
    phase = 3

    @cached_property
    def key(self) -> str:
        """Name among the tasks of a plan."""
        return fingerprint("notebook", self.config, self.name, self.out)

    def done(self, store: Store) -> bool:
        """Whether the executed copy is there and up to date."""
        from hglad.book.notebooks import stale

        return self.name not in stale(self.config, store.root, self.out)

    def run(self, store: Store, device: str) -> None:
        """Execute it."""
        from hglad.book.notebooks import execute_one

        execute_one(self.config, store.root, self.out, self.name)


@dataclass(frozen=True)
class BookTask:
    """Build the book around the executed notebooks of a profile."""

    profile: str
    notebooks: str
    out: str
    cost = 15.0  # seconds
    phase = 4

    @cached_property
    def key(self) -> str:
        """Name among the tasks of a plan."""
        return fingerprint("book", self.profile, self.notebooks, self.out)

    def done(self, store: Store) -> bool:
        """Never: Sphinx finds out by itself which pages have changed."""
        return False

    def run(self, store: Store, device: str) -> None:
        """Build it."""
        from hglad.book.build import build

        build(self.profile, self.notebooks, self.out)


RULES = {
    "prior": PriorTask,
    "classifier": ClassifierTask,
    "experts": ExpertTask,
    "distil": DistillTask,
    "measure": MeasureTask,
    "evaluate": EvaluateTask,
    "notebook": NotebookTask,
    "book": BookTask,
}


def rule_of(task) -> str:
    """Name of the rule that computes a task."""
    return next(name for name, kind in RULES.items() if type(task) is kind)


def needs(task) -> list:
    """Tasks whose results a task reads, so that they must be done before."""
    if isinstance(task, DistillTask):
        return [task.classifier, *task.experts]
    if isinstance(task, MeasureTask):
        run = DistillTask(task.settings)
        return [run, *needs(run)]
    if isinstance(task, EvaluateTask):
        behind = [DistillTask(task.distilled)] if task.distilled else []
        return behind + ([task.classifier] if task.classifier else [])
    return []


def title(task) -> str:
    """A task in words, its seed left out, as the terminal shows it."""
    if isinstance(task, MeasureTask):
        return "metrics of " + _run_title(task.settings)
    if isinstance(task, DistillTask):
        return _run_title(task.settings)
    if isinstance(task, EvaluateTask):
        source = _run_title(task.distilled) if task.distilled else _count(task.method, task.ipc)
        return f"{source} on {task.network}" + (", every iterate" if task.iterates else "")
    if isinstance(task, NotebookTask):
        return task.name
    if isinstance(task, PriorTask):
        return Path(task.out).stem
    return task.profile if isinstance(task, BookTask) else task.data.name


def _run_title(settings) -> str:
    return _count(f"{settings.objective} {settings.kind}", settings.ipc)


def _count(text: str, ipc: int | None) -> str:
    return text if ipc is None else f"{text} ipc {ipc}"


def seed_of(task) -> int | None:
    """Distillation seed (of an expert its number), where a task has one."""
    source = getattr(task, "settings", task)
    return getattr(source, "seed", getattr(task, "index", None))


def to_plain(task) -> dict:
    """A task as JSON takes it."""
    return {"rule": rule_of(task), "key": task.key, "settings": to_dict(task)}


def from_plain(plain: dict):
    """The task that `to_plain` described.

    Raises:
        HgladError: code, data or generator are no longer those that the task was planned with.
    """
    task = from_dict(RULES[plain["rule"]], plain["settings"])
    if task.key != plain["key"]:
        raise HgladError(
            f"the {plain['rule']} task {plain['key']} is {task.key} by now: code, data or generator have "
            "changed since the run began; start hglad run again"
        )
    return task
