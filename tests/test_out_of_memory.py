"""Memory that runs out: the same results with less at a time, then one line that says what to lower.

A device with little memory is stood in for by modules that refuse more than so many images, with PyTorch's
own error; what a system does that refuses memory is real.
"""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
from faults import in_a_process
from replacing import replace
from torch import Tensor, nn

from hglad.errors import HgladError
from hglad.evaluation import evaluate as evaluation
from hglad.evaluation.baselines import random_real
from hglad.evaluation.sets import DistilledSet
from hglad.evaluation.training import Ensemble, predict, train_classifier
from hglad.networks import create_network
from hglad.priors.stylegan_xl import StyleGANXL
from hglad.runtime import is_out_of_memory, within_memory
from hglad.search.distillation import (
    DistillationSettings,
    distill,
    load_real,
    make_search,
    train_metric_classifier,
)
from hglad.settings import DataSettings, MetricSettings, SearchSettings, SurrogateSettings, TrainingSettings
from hglad.storage import read_metadata


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


def test_other_errors_are_not_tried_again():
    tried = []
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


def test_a_batch_that_cannot_be_parted_is_a_out_of_memory(few_digits):
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


# Searches

DATA = DataSettings("digits", resolution=8)
SEARCH = SearchSettings(
    steps=6, stages=(1, 4), layer=2, rates="relative", lr_features=0.1, lr_latents=0.02, lr_pixels=0.1,
    select_every=2,
)  # fmt: skip
SURROGATE = SurrogateSettings({"name": "convnet", "depth": 1, "width": 4}, "color_crop", 8)
ONE_EPOCH = TrainingSettings(epochs=1, batch_size=256, lr=0.01, augmentation="", ema_decay=None)
METRIC = MetricSettings(network={"name": "convnet", "depth": 1, "width": 4}, training=ONE_EPOCH)


@pytest.fixture(scope="module")
def settings(prior_file) -> DistillationSettings:
    return DistillationSettings(DATA, prior_file, SEARCH, SURROGATE, METRIC)


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    return train_metric_classifier(METRIC, load_real(DATA))


@pytest.fixture
def generator_takes(monkeypatch) -> Callable[..., Device]:
    """Let the generator refuse more than so many images, from the given call on."""

    def limit(most: int, first: int = 0) -> Device:
        device = Device(most, StyleGANXL)

        def checked(prior, latents, layer):
            if len(device.given) >= first:
                device(prior, (torch.empty(len(latents), 1, 1, 1),))
            else:
                device.given.append(0)
            return decode(prior, latents, layer)

        monkeypatch.setattr(StyleGANXL, "decode", checked)
        return device

    decode = StyleGANXL.decode
    return limit


def assert_alike(found: DistilledSet, expected: DistilledSet) -> None:
    torch.testing.assert_close(found.images, expected.images, rtol=1e-3, atol=1e-4)
    assert [entry[:2] for entry in found.card["history"]] == [entry[:2] for entry in expected.card["history"]]
    distances = [[entry[2] for entry in each.card["history"]] for each in (found, expected)]
    assert distances[0] == pytest.approx(distances[1], rel=1e-3)


@pytest.mark.parametrize("kind", ["single", "hierarchical"])
@pytest.mark.parametrize(("most", "first"), [(3, 0), (3, 6), (1, 9)])
def test_a_search_goes_on_with_less_at_a_time(
    settings, classifier, generator_takes, tmp_path, kind, most, first
):
    settings = replace(settings, kind=kind)
    expected = distill(settings, classifier=classifier)
    device = generator_takes(most, first)
    found = distill(settings, tmp_path / "set", classifier=classifier)
    assert device.refused == {3: 2, 1: 3}[most]  # of 10 and 5 images, and of 2; then it knows
    assert_alike(found, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("objective", ["dm", "dc"])
def test_the_surrogate_gets_less_at_a_time_as_well(settings, classifier, objective):
    """80 real images, 8 of each class, on a device that has room for the 10 distilled ones and a few."""
    search = make_search(replace(settings, objective=objective), load_real(DATA), classifier)
    *_, expected = search.run()
    again = make_search(replace(settings, objective=objective), load_real(DATA), classifier)
    device = Device(10 if objective == "dm" else 2)
    again.objective.network.features[0].register_forward_pre_hook(device)
    *_, found = again.run()
    assert device.refused >= 2
    torch.testing.assert_close(found.images, expected.images, rtol=1e-3, atol=1e-4)


def test_a_search_that_does_not_fit_stops_and_goes_on_elsewhere(
    settings, classifier, generator_takes, tmp_path, monkeypatch
):
    expected = distill(settings, classifier=classifier)
    device, decode = generator_takes(0, 9), StyleGANXL.decode
    with pytest.raises(HgladError) as caught:
        distill(settings, tmp_path / "set", classifier=classifier)
    mend = "lower surrogate.batch_real, the surrogate's width, ipc or data.resolution"
    expected_line = f"out of memory with one image at a time: {mend}, or take a device with more memory"
    assert str(caught.value) == expected_line and decode is StyleGANXL.decode
    assert read_metadata(tmp_path / "set.state")["key"] == settings.fingerprint
    device.most = 10  # elsewhere
    assert_alike(distill(settings, tmp_path / "set", classifier=classifier), expected)


# A system that refuses memory


def evaluate_with_little_memory(room: int) -> str:
    """Evaluate in a process that gets `room` more bytes than it has."""
    data = load_real(DATA)
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
