"""Scoring a set on the digits: seeds, what the score sees, networks at a time, stops, and sets in files."""

import json
import random
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from replacing import replace

from hglad import storage
from hglad.data.datasets import DataSet, load_data
from hglad.errors import HgladError
from hglad.evaluation import evaluate as module
from hglad.evaluation import training as training_module
from hglad.evaluation.baselines import random_real
from hglad.evaluation.evaluate import evaluate, evaluate_file, score_table
from hglad.evaluation.sets import DistilledSet
from hglad.evaluation.training import protocol, train_classifier
from hglad.settings import TrainingSettings
from hglad.storage import read_tensors, write_tensors

SMALL = {"ConvNet": {"name": "convnet", "depth": 2, "width": 8}}
QUICK = TrainingSettings(epochs=20, batch_size=50, lr=0.05, augmentation="", ema_decay=None)
HASTY = replace(QUICK, epochs=2)


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_data("digits")


@pytest.fixture(scope="module")
def real_set(digits) -> DistilledSet:
    return random_real(digits.train, ipc=10, seed=0)


# Seeds, and what the score sees


def test_rows_follow_from_the_seed_alone_whatever_else_is_scored(real_set, digits):
    networks = SMALL | {"Deeper": {"name": "convnet", "depth": 3, "width": 8}}
    rows = evaluate(real_set, digits, networks, 2, HASTY, seed=3)
    assert list(rows.columns) == ["network", "repeat", "accuracy"]
    assert rows["network"].tolist() == ["ConvNet"] * 2 + ["Deeper"] * 2
    assert rows["repeat"].tolist() == [0, 1, 0, 1]
    assert rows["accuracy"].between(0, 100).all()
    torch.manual_seed(1)
    pd.testing.assert_frame_equal(evaluate(real_set, digits, SMALL, 1, HASTY, seed=3), rows[:1])
    other = evaluate(real_set, digits, SMALL, 2, HASTY, seed=4)
    assert set(other["accuracy"]).isdisjoint(rows["accuracy"])
    assert rows["accuracy"][:2].nunique() == 2, "repeats share a seed"


@pytest.mark.parametrize("kind", [None, torch.float32, torch.float64], ids=["hard", "float32", "float64"])
def test_a_real_subset_teaches_and_wrong_labels_do_not(real_set, digits, kind):
    def score(labels: torch.Tensor) -> float:
        made = replace(real_set, labels=labels)
        return evaluate(made, digits, SMALL, 1, QUICK)["accuracy"].item()

    labels = real_set.labels
    right = labels if kind is None else (0.9 * F.one_hot(labels, 10) + 0.01).to(kind)
    shuffled = right[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    next_class = (labels + 1) % 10 if kind is None else right.roll(1, dims=1)
    assert score(right) > 60
    assert score(shuffled) < 30  # chance is 10
    assert score(next_class) < 10


def test_training_images_normalize_and_test_images_count(real_set, digits):
    next_class = (digits.test.labels + 1) % 10
    images = digits.test.images[next_class.argsort(stable=True)]
    swapped = replace(digits.test, images=images, offsets=(0, *next_class.bincount().cumsum(0).tolist()))
    rows = evaluate(real_set, DataSet("swapped", digits.train, swapped), SMALL, 1, QUICK)
    (confusion,) = torch.tensor(rows.attrs["confusion"])
    assert confusion.sum(dim=1).tolist() == list(swapped.counts)
    percent = 100 * confusion.trace().item() / len(swapped.images)
    assert rows["accuracy"].item() == pytest.approx(percent, abs=1e-4) and percent < 10
    shifted = replace(digits, train=replace(digits.train, mean=digits.train.mean + 0.2))
    both = [evaluate(real_set, each, SMALL, 2, HASTY)["accuracy"].tolist() for each in (digits, shifted)]
    assert both[0] != both[1], "not normalized with the statistics of the training split"


def test_each_architecture_has_its_own_protocol(real_set, digits):
    faster = replace(HASTY, lr=0.5)
    found = evaluate(real_set, digits, {"a": TINY, "b": TINY}, 1, {"a": HASTY, "b": faster})
    single = [evaluate(real_set, digits, {"x": TINY}, 1, training) for training in (HASTY, faster)]
    assert found.attrs["confusion"] == [each.attrs["confusion"][0] for each in single]
    assert found["accuracy"].nunique() == 2


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ((1, 16, 20), torch.arange(10), "network made for images of"),
        ((3, 16, 16), torch.arange(10), "wrong channel count: 3, expected 1"),
        ((1, 16, 16), torch.arange(1, 11), "label 10 of image 9: expected 0 to 9, the classes of 'digits'"),
        ((1, 16, 16), torch.arange(-1, 9), "label -1 of image 0: expected 0 to 9"),
        ((1, 16, 16), torch.full((10, 9), 1 / 9), "labels have shape [10, 9] for 10 images: expected [10]"),
        ((1, 16, 16), torch.full((10, 10), 0.2), "soft labels of image 0 have least 0.2 and sum 2"),
        (None, torch.arange(10), "2 of 10 images have values that are not finite"),
    ],
)
def test_a_set_that_does_not_fit_is_refused_and_nothing_kept(digits, images, labels, message, tmp_path):
    pixels = torch.zeros(10, *(images or (1, 16, 16)))
    if images is None:
        pixels[3, 0, 2, 2], pixels[7, 0, 0, 0], pixels[7, 0, 1, 1] = torch.nan, torch.inf, torch.nan
    with pytest.raises(HgladError, match=re.escape(message)):
        evaluate(DistilledSet(pixels, labels, {}), digits, SMALL, 1, HASTY, parts=tmp_path)
    assert not list(tmp_path.iterdir())
    for networks, repeats in ((SMALL, 0), ({}, 1)):
        with pytest.raises(HgladError, match=f"evaluation got {repeats} repeats of {len(networks)} networks"):
            evaluate(DistilledSet(pixels, labels, {}), digits, networks, repeats, HASTY)


# Networks at a time

TINY = {"name": "convnet", "depth": 1, "width": 2}
VIT = {"name": "vit", "patch": 8, "depth": 1, "dim": 8, "heads": 2, "head_dim": 4, "mlp": 8, "dropout": 0.2}
AUGMENTED = replace(HASTY, augmentation="color_crop_cutout_scale_rotate", ema_decay=0.5)


@pytest.fixture
def threads():
    """Sets the threads of PyTorch; those of before come back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def confusions(real_set, digits) -> Callable[..., list]:
    """Confusion matrices of an evaluation of the real set."""

    def run(training: TrainingSettings, repeats: int = 2, networks: dict = SMALL, **options) -> list:
        return evaluate(real_set, digits, networks, repeats, training, **options).attrs["confusion"]

    return run


@pytest.mark.parametrize("options", [TINY, TINY | {"norm": "batch"}], ids=["convnet", "batch norm"])
def test_networks_side_by_side_score_as_one_after_the_other(confusions, options, threads):
    """To the image: each has one thread in both cases, and draws from a generator of its own."""
    networks = {"a": options, "b": options | {"depth": 2}}
    alone = confusions(AUGMENTED, 3, networks)
    for count in (2, 3):
        threads(count)
        torch.manual_seed(count)
        assert confusions(AUGMENTED, 3, networks) == alone
        assert torch.get_num_threads() == count


@pytest.mark.parametrize(
    ("options", "count", "repeats", "most"),
    [(TINY, 3, 4, 3), (TINY, 3, 2, 2), (TINY, 1, 2, 1), (VIT, 2, 2, 1)],
)
def test_as_many_networks_at_a_time_as_there_are_threads(
    confusions, options, count, repeats, most, threads, monkeypatch
):
    """But one where dropout draws from PyTorch's one global generator."""
    threads(count)
    under_way, found, lock = set(), [], threading.Lock()

    def watched(network, images, labels, normalize, *rest):
        def noting(batch):
            with lock:
                found.append(len(under_way))
            time.sleep(0.002)
            return normalize(batch)

        with lock:
            under_way.add(id(network))
        try:
            return train_classifier(network, images, labels, noting, *rest)
        finally:
            under_way.discard(id(network))

    monkeypatch.setattr(module, "train_classifier", watched)
    confusions(replace(HASTY, epochs=10 if most > 1 else 3), repeats, {"a": options})
    assert max(found) == most


class Ticks:
    """In place of the progress bar: `at` is called with the number of epochs that are done."""

    def __init__(self, at: Callable[[int], object]):
        self.at, self.n = at, 0

    def __call__(self, *_) -> "Ticks":
        return self

    __enter__ = __call__

    def __exit__(self, *_) -> None: ...

    def update(self, epochs: int) -> None:
        self.n += epochs
        self.at(self.n)


LONG = replace(HASTY, epochs=3000)  # about ten seconds for each network of TINY


@pytest.mark.parametrize(("count", "how"), [(1, "error"), (2, "error"), (3, "interrupt")])
def test_an_error_and_an_interrupt_end_all_networks_within_an_epoch(
    confusions, count, how, threads, monkeypatch
):
    def stop(epochs: int) -> None:
        if epochs == 10 and how == "error":
            raise HgladError("the loss is nan")
        if epochs == 10:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threads(count)
    ticks, running = Ticks(stop), threading.active_count()
    monkeypatch.setattr(module, "progress_bar", ticks)
    with pytest.raises(HgladError if how == "error" else KeyboardInterrupt):
        confusions(LONG, 4, {"a": TINY})
    assert 10 <= ticks.n < 500
    assert torch.get_num_threads() == count and threading.active_count() == running


def test_in_lockstep_the_scores_are_those_of_networks_side_by_side(confusions, monkeypatch):
    side_by_side = torch.tensor(confusions(replace(AUGMENTED, epochs=10), 3))
    monkeypatch.setattr(module, "_stack", lambda runs: True)
    in_lockstep = torch.tensor(confusions(replace(AUGMENTED, epochs=10), 3))
    moved = (in_lockstep - side_by_side).abs().sum((1, 2)) / 2
    assert (moved <= 0.01 * side_by_side.sum((1, 2))).all(), "more than rounding changes"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_repeats_are_trained_in_lockstep(monkeypatch):
    data = load_data("digits", resolution=8, device="cuda")
    made, asked, stack = random_real(data.train, ipc=2, seed=0), [], module._stack
    monkeypatch.setattr(module, "_stack", lambda runs: asked.append(stack(runs)) or asked[-1])
    found = evaluate(made, data, SMALL, 3, HASTY)
    assert asked == [True]
    monkeypatch.setattr(module, "_stack", lambda runs: False)
    one, other = (
        torch.tensor(each.attrs["confusion"]) for each in (found, evaluate(made, data, SMALL, 3, HASTY))
    )
    assert ((one - other).abs().sum((1, 2)) <= 0.02 * one.sum((1, 2))).all()


# What a stopped evaluation had reached


class Stop(BaseException):
    """Ends an evaluation from inside."""


PAIR = {"plain": TINY, "deeper": TINY | {"depth": 2}}
SOME = replace(AUGMENTED, epochs=6)


@pytest.mark.parametrize("count", [1, 2])
def test_an_evaluation_that_is_stopped_again_and_again_gives_the_same_scores(
    confusions, count, threads, tmp_path, monkeypatch
):
    undisturbed = confusions(SOME, 3, PAIR)
    threads(count)
    monkeypatch.setattr(storage, "SAVE_SECONDS", 0)
    trained, stops, moments = [], 0, random.Random(count)

    def noting(network, *rest):
        trained.append(rest[-1].stem)
        return train_classifier(network, *rest)

    def stop_at(limit: int) -> Ticks:
        def check(epochs: int) -> None:
            if epochs >= limit:
                raise Stop

        return Ticks(check)

    monkeypatch.setattr(module, "train_classifier", noting)
    for _ in range(100):
        finished = {path.stem for path in tmp_path.glob("*.score")}
        trained.clear()
        monkeypatch.setattr(module, "progress_bar", stop_at(6 * len(finished) + moments.randint(3, 12)))
        try:
            again = confusions(SOME, 3, PAIR, parts=tmp_path)
            break
        except Stop:
            stops += 1
        assert not finished & set(trained), "a finished network was trained again"
    assert again == undisturbed and stops >= 2
    assert not list(tmp_path.glob("*.training"))  # each is deleted when its score is there
    monkeypatch.setattr(module, "progress_bar", Ticks(lambda epochs: None))
    monkeypatch.setattr(module, "train_classifier", None)  # not called: all scores are there
    assert confusions(SOME, 3, PAIR, parts=tmp_path) == undisturbed


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "another network"])
def test_a_damaged_score_is_made_again(confusions, how, tmp_path):
    undisturbed = confusions(HASTY, parts=tmp_path)
    file = tmp_path / "0-1.score"
    if how == "another network":
        write_tensors(file, {"confusion": torch.eye(10).long()}, {"network": "resnet18"})
    else:
        file.write_bytes({"truncated": file.read_bytes()[:-99], "empty": b"", "text": b"x" * 999}[how])
    assert confusions(HASTY, parts=tmp_path) == undisturbed
    assert read_tensors(file)["confusion"].tolist() == undisturbed[1]


def test_an_evaluation_in_lockstep_goes_on_where_it_was_stopped(confusions, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "SAVE_SECONDS", 0)
    monkeypatch.setattr(module, "_stack", lambda runs: True)
    expected, tested, matrix = confusions(SOME, 3), [], module.confusion_matrix

    def stop_at_the_second(*given):
        tested.append(0)
        if len(tested) == 2:
            raise Stop
        return matrix(*given)

    monkeypatch.setattr(module, "confusion_matrix", stop_at_the_second)
    with pytest.raises(Stop):
        confusions(SOME, 3, parts=tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0-0.ensemble", "0-0.score"]
    for _ in range(2):
        assert confusions(SOME, 3, parts=tmp_path) == expected
        assert len(tested) == 4, "a score that was there was measured again"
        assert sorted(file.name for file in tmp_path.iterdir()) == ["0-0.score", "0-1.score", "0-2.score"]


# Sets in files

CHANGES = {"epochs": 2, "lr": 0.01, "augmentation": "", "ema_decay": None}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Folder of what evaluations under way keep."""
    monkeypatch.setenv("HGLAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def noisy(small_digits) -> DistilledSet:
    """Two images per class, with noise, so that it is no set of real ones."""
    real = random_real(small_digits.train, 2, seed=5)
    noise = torch.rand(real.images.shape, generator=torch.Generator().manual_seed(0))
    return replace(real, images=0.9 * real.images + 0.1 * noise, card={"kind": "noisy"})


def expected(made: DistilledSet, data: DataSet, seed: int = 0) -> list[dict]:
    """Rows by the evaluation itself."""
    training = replace(TrainingSettings(), **CHANGES)
    return evaluate(made, data, {"convnet": {"name": "convnet"}}, 2, training, seed).to_dict("records")


def plain(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in ("set", "seed")} for row in rows]


def test_our_set_and_random_images_are_scored_as_the_evaluation_scores_them(
    noisy, small_digits, tmp_path, cache
):
    noisy.save(tmp_path / "set")
    options = {"changes": CHANGES, "repeats": 2, "seed": 3}
    result = evaluate_file(tmp_path / "set", "digits", random_sets=2, **options)
    assert json.loads(json.dumps(result)) == result
    sets = {("given", 0): noisy}
    sets |= {("random", number): random_real(small_digits.train, 2, number) for number in range(2)}
    assert [(row["set"], row["seed"]) for row in result["rows"]] == [name for name in sets for _ in range(2)]
    assert plain(result["rows"]) == [row for each in sets.values() for row in expected(each, small_digits, 3)]
    assert result["set"] == {"kind": "noisy"}
    assert result["training"]["convnet"]["epochs"] == 2 and result["training"]["convnet"]["momentum"] == 0.9
    assert {"commit", "device", "packages", "seconds", "data_hash"} <= result["provenance"].keys()
    assert list(result["provenance"]["algorithms"]) == ["augment", "network convnet", "training"]
    assert not list(cache.rglob("*.*"))
    with pytest.raises(HgladError, match=r"images are 8 x 8 pixels \(height x width\): expected 16 x 16"):
        evaluate_file(tmp_path / "set", "digits", resolution=16, **options)


@pytest.mark.parametrize("soft", [False, True])
def test_a_file_of_others_gives_the_rows_of_its_images(noisy, small_digits, tmp_path, cache, soft):
    labels = 0.9 * F.one_hot(noisy.labels, 10) + 0.01 if soft else noisy.labels
    torch.save((noisy.images, labels), tmp_path / "theirs.pt")
    result = evaluate_file(tmp_path / "theirs.pt", "digits", changes=CHANGES, repeats=2, resolution=8)
    assert plain(result["rows"]) == expected(replace(noisy, labels=labels), small_digits)
    assert result["set"]["kind"] == "foreign" and result["set"]["file"] == "theirs.pt"


def test_a_stopped_scoring_goes_on_and_serves_no_other(noisy, tmp_path, cache, monkeypatch):
    noisy.save(tmp_path / "set")
    replace(noisy, labels=noisy.labels.flip(0)).save(tmp_path / "other")
    tested, measure = [], module.confusion_matrix

    def stop_behind_three(*given):
        if len(tested) == 3:
            raise Stop
        tested.append(given)
        return measure(*given)

    def score(name: str = "set", **options) -> list[dict] | None:
        options = {"changes": CHANGES, "repeats": 5} | options
        try:
            return evaluate_file(tmp_path / name, "digits", **options)["rows"]
        except Stop:
            return None

    undisturbed = score()
    monkeypatch.setattr(module, "confusion_matrix", stop_behind_three)
    assert score() is None and len(list(cache.rglob("*.score"))) == 3
    others = [{"name": "other"}, {"seed": 1}, {"protocol": "dm"}, {"changes": CHANGES | {"epochs": 3}}]
    for number, options in enumerate([*others, {"networks": ["alexnet"]}, {}]):
        tested.clear()
        with monkeypatch.context() as patch:
            patch.setattr(training_module, "VERSION", training_module.VERSION if options else 1000)
            assert score(**options) is None and len(list((cache / "evaluations").iterdir())) == number + 2
    tested.clear()
    assert score(repeats=6)[:5] == undisturbed
    assert len(tested) == 3, "a finished network was trained again, or another one was not"


@pytest.mark.parametrize("labels", [[*range(10), 0], list(range(9))])
def test_random_sets_need_as_many_images_of_each_class(labels, tmp_path):
    images = load_data("digits").train.images[: len(labels)].float() / 255
    DistilledSet(images, torch.tensor(sorted(labels)), {}).save(tmp_path / "set")
    with pytest.raises(HgladError, match=r"the set has \d to \d images per class.*leave --random"):
        evaluate_file(tmp_path / "set", "digits", random_sets=1)
    with pytest.raises(HgladError, match="-1 sets of random images: expected 0 or more"):
        evaluate_file(tmp_path / "set", "digits", random_sets=-1)


def rows_of(name: str, seed: int, *accuracies: float, network: str = "convnet") -> list[dict]:
    return [
        {"network": network, "repeat": repeat, "accuracy": value, "set": name, "seed": seed}
        for repeat, value in enumerate(accuracies)
    ]


GIVEN = rows_of("given", 0, 50.0, 54.0)  # mean 52, deviation of the networks 2.828, t(1) = 12.706
RANDOM = rows_of("random", 0, 40.0, 44.0) + rows_of("random", 1, 46.0, 46.0)  # means of the sets 42 and 46


def test_the_given_set_varies_over_networks_and_random_images_over_sets():
    other = rows_of("given", 0, 20.0, 22.0, network="vit") + rows_of("random", 0, 25.0, network="vit")
    gains = score_table(pd.DataFrame(GIVEN + RANDOM + other))["gain over random"]
    assert gains.tolist() == ["+8.0", "", "-4.0", ""]  # each over the same network
    table = score_table(pd.DataFrame(GIVEN + RANDOM))
    assert table.to_dict("records") == [
        {"network": "convnet", "images": "given", "accuracy (%)": 52.0, "sd": 2.83}
        | {"95 % t interval": "26.6 to 77.4", "over": "networks", "gain over random": "+8.0"},
        {"network": "convnet", "images": "random", "accuracy (%)": 44.0, "sd": 2.83}
        | {"95 % t interval": "18.6 to 69.4", "over": "sets", "gain over random": ""},
    ]


def test_without_random_images_there_is_no_gain_and_with_one_network_no_interval():
    (line,) = score_table(pd.DataFrame(rows_of("given", 0, 50.0))).to_dict("records")
    assert line["images"] == "given" and "gain over random" not in line
    assert line["95 % t interval"] == "-" and line["accuracy (%)"] == 50 and pd.isna(line["sd"])


# Protocols

DSA = "color_crop_cutout_flip_scale_rotate"


@pytest.mark.parametrize(
    ("name", "epochs", "lr", "schedule", "augmentation", "ema_decay"),
    [
        ("glad", 1000, 0.001, "warmup_cosine", DSA, 0.995),
        ("dm", 1000, 0.01, "step", DSA, None),
        ("dc", 300, 0.01, "step", "crop_scale_rotate", None),
    ],
)
def test_protocols_are_the_published_ones(name, epochs, lr, schedule, augmentation, ema_decay):
    published = TrainingSettings(
        epochs=epochs, batch_size=256, lr=lr, momentum=0.9, weight_decay=5e-4, schedule=schedule,
        augmentation=augmentation, ema_decay=ema_decay, precision="float32", test_precision="float32",
    )  # fmt: skip
    assert protocol(name) == protocol(name, "resnet18") == published
    assert protocol(name, "vgg11").lr == (0.0001 if name == "glad" else lr)
