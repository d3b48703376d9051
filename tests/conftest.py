"""Shared by the tests: digits at 8 px, a tiny random generator, processes that are killed in the middle."""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from hglad.data.datasets import DataSet, RealData, load_data
from hglad.experiments.checks import profile_of
from hglad.experiments.plans import plan
from hglad.experiments.runner import required, run_all
from hglad.experiments.store import Store
from hglad.experiments.tasks import DistillTask, EvaluateTask, MeasureTask, Task
from hglad.priors import save_prior
from hglad.priors.stylegan_xl import StyleGANXL, StyleGANXLSettings
from hglad.provenance import version_of
from hglad.search.distillation import DistillationSettings
from hglad.settings import Profile

torch.set_num_threads(1)  # tests compare bits, and pytest-xdist brings its own processes
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts with & ignore Ctrl-C


@pytest.fixture(autouse=True)
def time_limit(request) -> Iterator[None]:
    """A test that hangs fails: after two minutes, after ten where it is marked slow."""

    def fail(number, frame) -> None:
        raise TimeoutError(f"{request.node.name} takes too long")

    signal.signal(signal.SIGALRM, fail)
    signal.alarm(600 if request.node.get_closest_marker("slow") else 120)
    yield
    signal.alarm(0)


@pytest.fixture(scope="session")
def small_digits() -> DataSet:
    """The digits at 8 px."""
    return load_data("digits", resolution=8)


@pytest.fixture(scope="session")
def few_digits(small_digits) -> RealData:
    """8 to 17 training images of each class, (1, 8, 8)."""
    train = small_digits.train
    chosen = [torch.arange(start, start + 8 + label) for label, start in enumerate(train.offsets[:-1])]
    return train.select(torch.cat(chosen))


@pytest.fixture(scope="session")
def tiny_settings() -> StyleGANXLSettings:
    """Generator of 8 px digits with five split points."""
    return StyleGANXLSettings(
        z_dim=8, c_dim=10, w_dim=8, img_resolution=8, img_channels=1, channel_base=64, channel_max=8,
        num_layers=3, embedding=(10, 8), margin_size=2,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_prior(tiny_settings) -> StyleGANXL:
    """Untrained and frozen."""
    return StyleGANXL.random(tiny_settings, torch.Generator().manual_seed(0)).requires_grad_(False)


@pytest.fixture(scope="session")
def prior_file(tiny_prior, tmp_path_factory) -> str:
    """Path of the tiny generator, as a profile names it."""
    path = tmp_path_factory.mktemp("priors") / "tiny.safetensors"
    save_prior(path, tiny_prior, {})
    return str(path)


@pytest.fixture(scope="session")
def tiny_profile(prior_file) -> Profile:
    """Runs of a second: two objectives in pixels, one through a layer of the tiny generator."""
    network = {"name": "convnet", "depth": 1, "width": 4}
    training = {"epochs": 1, "batch_size": 256, "lr": 0.01, "augmentation": "", "ema_decay": None}
    mtt = {"options": {"student_steps": 2, "expert_epochs": 1, "max_start_epoch": 1}}
    values = dict(
        profile="tiny",
        data={"name": "digits", "resolution": 8},
        prior=prior_file,
        objectives={"dm": {}, "mtt": mtt | {"experts": {"count": 1, "epochs": 1}}},
        surrogate={"network": network, "augmentation": "color_crop", "batch_real": 8},
        search={"steps": 2, "layer": 2, "select_every": 1},
        metric={"network": network, "training": training},
        evaluation={"repeats": 1, "training": training, "full_set": training, "full_set_seeds": 1},
        networks={"main": network},
        sets={"objectives": ["dm"], "searches": ["pixels", "single"], "ipc": [1], "seeds": [0]},
        studies={"matching_seeds": 1, "sweep_seeds": 0, "baselines": ["herding", "samples", "class_mean"]},
    )
    return profile_of(values)


@pytest.fixture(scope="session")
def tiny_tasks(tiny_profile) -> list[Task]:
    """Every kind of task: classifiers, experts, sets, distances, evaluations of sets and of baselines."""
    settings = DistillationSettings.of(tiny_profile, "dm", "pixels", 1, 0, keep_iterates=True)
    evaluations = [task for task in plan(tiny_profile) if isinstance(task, EvaluateTask)]
    tasks = required([*evaluations, MeasureTask(settings)])
    behind = [task for each in tasks if isinstance(each, DistillTask) for task in each.experts]
    behind += [task.classifier for task in evaluations if task.classifier]
    return list({task.key: task for task in (*behind, *tasks)}.values())


@pytest.fixture(scope="session")
def tiny_store(tiny_tasks, tmp_path_factory) -> Store:
    """Results of all of them; tests do not change it."""
    store = Store(tmp_path_factory.mktemp("tiny") / "results")
    run_all(tiny_tasks, store, cores=1)
    return store


@pytest.fixture(scope="session")
def kill_midway() -> Callable[..., bool]:
    """Start `target(*args)` in a fresh process, wait for `ready()`, then `delay` seconds, send SIGKILL.

    Returns whether the process was still at work when it was killed; fails when it ended by an error.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hglad.experiments.plans", "hglad.priors.training.train"])

    def run(target: Callable, args: tuple, ready: Callable[[], bool], delay: float) -> bool:
        process = context.Process(target=target, args=args)
        process.start()
        deadline = time.monotonic() + 60
        while process.is_alive() and not ready():
            assert time.monotonic() < deadline, "the process did not get as far as it should"
            time.sleep(0.005)
        process.join(delay)
        process.kill()
        process.join()
        assert process.exitcode in (0, -9)
        return process.exitcode == -9

    return run


@pytest.fixture(scope="session")
def check_golden() -> Callable[..., None]:
    """Compare values with those kept for the present version of a component, {version: values}."""

    def check(component: str, golden: dict[int | str, list[float]], found: list[float]) -> None:
        version = version_of(component)
        assert version in golden, f"{component} has version {version}: add its values to this test, {found}"
        assert found == pytest.approx(golden[version], rel=2e-3), (
            f"results of {component} changed: raise its VERSION if this change is meant, and add {found}"
        )

    return check
