"""The machine a run is on: devices, memory that stays, and memory that runs out.

Where it does, the same results come with less at a time, then one line that says what to lower. A device
with little memory is stood in for by modules that refuse more than so many images, with PyTorch's own error;
what a system does that refuses memory is real.
"""

import ctypes
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
from faults import in_a_process
from replacing import replace
from torch import Tensor, nn

from hglad.data.datasets import load_data
from hglad.errors import HgladError
from hglad.evaluation import evaluate as evaluation
from hglad.evaluation.baselines import random_real
from hglad.evaluation.training import Ensemble, TrainingSettings, predict, train_classifier
from hglad.networks import create_network
from hglad.runtime import check_device, is_out_of_memory, keep_freed_memory, out_of_memory, within_memory

STEPS = """
import resource
import torch
from hglad.runtime import keep_freed_memory

torch.set_num_threads(1)

def faults_per_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        maps = [torch.ones(2**22) for _ in range(8)]  # 16 MiB each: a forward pass keeps them
        del maps                                      # and the backward pass gives them back
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 5

faults_per_step()
before, kept = faults_per_step(), keep_freed_memory()
faults_per_step()
print(before, kept, faults_per_step())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a matter of glibc")
def test_page_faults_of_a_step_fall():
    # What glibc starts with; given so, it does not change with the sizes that happen to be freed first.
    usual = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    ran = subprocess.run(
        [sys.executable, "-c", STEPS], capture_output=True, text=True, check=True, env=os.environ | usual
    )
    before, kept, after = ran.stdout.split()
    assert kept == "True"
    assert float(before) > 30_000  # of 4 KiB: all 128 MiB come as new pages
    assert float(after) < 300


def test_other_systems_and_libraries_are_left_as_they_are(monkeypatch):
    def without_mallopt(name):
        return object()

    def unknown(name):
        raise OSError(name)

    for library in (without_mallopt, unknown):
        monkeypatch.setattr(ctypes, "CDLL", library)
        assert keep_freed_memory() is False
    monkeypatch.undo()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tpu", "unknown device 'tpu': expected cpu or cuda"),
        ("cuda:3", "device 'cuda:3' is not there: PyTorch finds no GPU, use cpu"),
    ],
)
def test_a_device_that_is_not_there_is_a_clear_error(monkeypatch, name, message):
    check_device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(HgladError, match=message):
        check_device(name)


# Memory that runs out


class Device:
    """Refuses more than `most` images at a time in modules of a type; remembers how many it was given."""

    def __init__(self, most: int, of: type[nn.Module] = nn.Conv2d) -> None:
        self.most, self.of, self.given = most, of, []

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, self.of):
            count = inputs[0].shape[:-3].numel()
            self.given.append(count)
            if count > self.most:
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {count} images")

    @property
    def refused(self) -> int:
        """How many calls were too large."""
        return sum(count > self.most for count in self.given)


@contextmanager
def small(device: Device) -> Iterator[Device]:
    """Let every module of PyTorch ask `device` before it computes."""
    handle = nn.modules.module.register_module_forward_pre_hook(device)
    try:
        yield device
    finally:
        handle.remove()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def allocate_for_python() -> None:
    bytearray(2**62)


def allocate_for_torch() -> None:
    torch.empty(2**50)


def exhaust_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def fail_in_cublas() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def add_other_shapes() -> None:
    torch.ones(2) + torch.ones(3)


@pytest.mark.parametrize(
    ("fail", "expected"),
    [
        (allocate_for_python, True),
        (allocate_for_torch, True),
        (exhaust_a_gpu, True),
        (fail_in_cublas, True),
        (add_other_shapes, False),
        (lambda: [][0], False),
    ],
)
def test_the_ways_to_say_that_memory_ran_out(fail, expected):
    with pytest.raises(Exception) as caught:
        fail()
    assert is_out_of_memory(caught.value) is expected


def test_half_is_tried_until_it_fits():
    tried = []

    def compute(size: int) -> int:
        tried.append(size)
        return len(torch.empty(size, 2**48 if size > 3 else 1))

    assert within_memory(compute, 25, 1, "rows", "buy more") == 3
    assert tried == [25, 12, 6, 3]


def test_in_the_end_one_line_says_what_to_lower():
    with pytest.raises(HgladError) as caught:
        within_memory(lambda size: allocate_for_torch(), 8, 2, "rows", "lower the width")
    expected = "out of memory with 2 rows at a time: lower the width, or take a device with more memory"
    assert str(caught.value) == expected


def test_other_errors_are_not_tried_again_or_told_otherwise():
    tried = []
    with pytest.raises(RuntimeError, match="must match"), out_of_memory("here", "lower it"):
        add_other_shapes()
    with pytest.raises(RuntimeError, match="must match"):
        within_memory(lambda size: tried.append(size) or add_other_shapes(), 8, 1, "rows", "")
    assert tried == [8]


# Networks

VIT = {"depth": 1, "dim": 8, "heads": 2, "head_dim": 4, "mlp": 8}


def network(name: str = "convnet", **options: object) -> nn.Module:
    options = options or (VIT if name == "vit" else {"depth": 2, "width": 8})
    return create_network(name, (1, 8, 8), 10, seeded(), **options).double()


@pytest.mark.parametrize(("name", "layer"), [("convnet", nn.Conv2d), ("vit", nn.Module)])
def test_predictions_are_the_same_in_smaller_batches(few_digits, name, layer):
    own = network(name).float()
    expected = predict(own, few_digits)
    with small(Device(7, type(own) if layer is nn.Module else layer)) as device:
        assert torch.equal(predict(own, few_digits), expected)
    assert device.refused and device.given[-1] <= 7


def train(settings: TrainingSettings, few_digits, own: nn.Module) -> Tensor:
    images, labels = few_digits.images[:30].double() / 255, few_digits.labels[:30]
    trained = train_classifier(own, images, labels, few_digits.normalize, settings, seeded(1))
    return nn.utils.parameters_to_vector(trained.parameters()).detach()


PROTOCOL = TrainingSettings(epochs=3, batch_size=12, lr=0.05, augmentation="color", ema_decay=0.5)


def test_a_training_goes_on_in_smaller_chunks(few_digits):
    expected = train(PROTOCOL, few_digits, network())
    with small(Device(5)) as device:
        found = train(PROTOCOL, few_digits, network())
    torch.testing.assert_close(found, expected)
    assert device.refused == 2  # of 12 images and of 6; then it knows
    assert {count for count in device.given if count <= 5} == {3}


def test_a_batch_that_cannot_be_parted_is_one_line(few_digits):
    own = network(norm="batch", depth=2, width=8)
    with (
        small(Device(5)),
        pytest.raises(HgladError, match="with 12 training images at a time: lower batch_size"),
    ):
        train(PROTOCOL, few_digits, own)


# Evaluations

NETWORKS = {"ConvNet": {"name": "convnet", "depth": 2, "width": 8}}
QUICK = TrainingSettings(epochs=10, batch_size=8, lr=0.05, augmentation="color", ema_decay=None)


class Bar:
    """In place of the progress bar: counts epochs."""

    def __init__(self, *_: object) -> None:
        self.n = 0

    def __call__(self, *_: object) -> "Bar":
        return self

    __enter__ = __call__

    def __exit__(self, *_: object) -> None: ...

    def update(self, epochs: int) -> None:
        self.n += epochs


@pytest.fixture
def scores(small_digits, monkeypatch) -> Callable[..., pd.DataFrame]:
    """Scores of five networks that are trained on 20 digits, in lockstep as on a GPU."""
    distilled = random_real(small_digits.train, ipc=2, seed=0)
    monkeypatch.setattr(evaluation, "_stack", lambda trainings: True)

    def run(parts: Path | None = None) -> pd.DataFrame:
        return evaluation.evaluate(distilled, small_digits, NETWORKS, 5, QUICK, seed=4, parts=parts)

    return run


@pytest.mark.parametrize(
    ("most", "expected"),
    [(8 * 5, [5]), (8 * 3, [5, 2, 3]), (8 * 2, [5, 2, 3, 1, 2]), (8, [5, 2, 1, 1, 3, 1, 2, 1, 1])],
)
def test_fewer_networks_are_trained_at_once(scores, tmp_path, monkeypatch, most, expected):
    undisturbed, bar = scores(), Bar()
    monkeypatch.setattr(evaluation, "progress_bar", bar)
    tried = []

    def noting(network, *rest):
        tried.append(len(network.stacked[0]) if isinstance(network, Ensemble) else 1)
        return train_classifier(network, *rest)

    monkeypatch.setattr(evaluation, "train_classifier", noting)
    with small(Device(most, Ensemble)) as device:
        found = scores(tmp_path)
    assert tried == expected
    assert device.refused == sum(8 * count > most for count in tried if count > 1)
    assert found["repeat"].tolist() == list(range(5)) and bar.n == 5 * QUICK.epochs
    one, other = (torch.tensor(each.attrs["confusion"]) for each in (found, undisturbed))
    moved = (one - other).abs().sum((1, 2)) / 2
    assert (moved <= 0.02 * one.sum((1, 2))).all(), "more than rounding changes"
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".score"] * 5


def test_an_evaluation_with_no_room_for_an_image_is_a_out_of_memory(scores):
    with (
        small(Device(0)),
        pytest.raises(HgladError, match="^out of memory with 1 training images at a time: low"),
    ):
        scores()


# A system that refuses memory


def evaluate_with_little_memory(room: int) -> str:
    """Evaluate in a process that gets `room` more bytes than it has."""
    data = load_data("digits", resolution=8)
    data = replace(data, test=data.test.select(data.test.offsets[:-1]))  # one image of each class
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room,) * 2)
    options = {"name": "convnet", "depth": 2, "width": 2000}  # 144 MB of weights, as much of gradients
    try:
        settings = replace(QUICK, epochs=1, augmentation="")
        evaluation.evaluate(random_real(data.train, ipc=1, seed=0), data, {"ConvNet": options}, 1, settings)
    except HgladError as error:
        return str(error)
    return "done"


def test_a_system_that_refuses_memory_is_one_line():
    line = in_a_process(evaluate_with_little_memory, 2**25)
    assert line.startswith("out of memory ") and "lower batch_size, the width" in line
    assert "\n" not in line
    assert in_a_process(evaluate_with_little_memory, 2**34) == "done"
