"""Scoring sets from files: whose rows they are, what a stop leaves, and the table by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from hglad.data.datasets import DataSet, load_data
from hglad.errors import HgladError
from hglad.evaluation import score as evaluation
from hglad.evaluation.baselines import random_real
from hglad.evaluation.score import evaluate
from hglad.evaluation.score_file import Scoring, SetFile, score_file, score_table
from hglad.evaluation.sets import DistilledSet

HASTY = Scoring(changes=(("epochs", 2), ("lr", 0.01), ("augmentation", ""), ("ema_decay", None)), repeats=2)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Folder of what evaluations under way keep."""
    monkeypatch.setenv("HGLAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def distilled(small_digits) -> DistilledSet:
    """Two images per class, with noise, so that it is no set of real ones."""
    real = random_real(small_digits.train, 2, seed=5)
    noise = torch.rand(real.images.shape, generator=torch.Generator().manual_seed(0))
    return replace(real, images=0.9 * real.images + 0.1 * noise, card={"kind": "noisy"})


def expected(sets: DistilledSet, data: DataSet, scoring: Scoring) -> list[dict]:
    """Rows by the evaluation itself."""
    networks = {name: {"name": name} for name in scoring.networks}
    training = {name: scoring.training(name) for name in networks}
    return evaluate(sets, data, networks, scoring.repeats, training, scoring.seed).to_dict("records")


def without(rows: list[dict], *keys: str) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in keys} for row in rows]


# The rows


def test_rows_are_those_of_the_evaluation(distilled, small_digits):
    scoring = replace(HASTY, seed=3)
    rows = scoring.rows(distilled, small_digits).to_dict("records")
    assert rows == expected(distilled, small_digits, scoring)
    assert [(row["network"], row["repeat"]) for row in rows] == [("convnet", 0), ("convnet", 1)]
    assert rows != expected(distilled, small_digits, HASTY)  # another seed


def test_changes_come_after_the_protocol_of_each_architecture():
    scoring = Scoring(protocol="glad", changes=(("epochs", 7),))
    assert [scoring.training(name).lr for name in ("convnet", "vgg11")] == [0.001, 0.0001]
    assert {scoring.training(name).epochs for name in ("convnet", "vgg11")} == {7}
    assert Scoring(protocol="dc", changes=(("lr", 0.5),)).training("vgg11").lr == 0.5
    assert Scoring(protocol="dc").training("convnet").schedule == "step"


def test_random_images_are_scored_as_the_given_set_is(distilled, small_digits, tmp_path):
    distilled.save(tmp_path / "set")
    result = score_file(SetFile(tmp_path / "set"), "digits", HASTY, random_sets=2)
    assert json.loads(json.dumps(result)) == result
    sets = {("given", 0): distilled}
    sets |= {("random", seed): random_real(small_digits.train, 2, seed) for seed in range(2)}
    assert [(row["set"], row["seed"]) for row in result["rows"]] == [name for name in sets for _ in range(2)]
    rows = [row for each in sets.values() for row in expected(each, small_digits, HASTY)]
    assert without(result["rows"], "set", "seed") == rows
    assert result["set"] == {"kind": "noisy"}
    assert result["training"]["convnet"]["epochs"] == 2 and result["training"]["convnet"]["momentum"] == 0.9
    assert {"commit", "device", "packages", "seconds"} <= result["provenance"].keys()


def test_a_file_of_others_gives_the_rows_of_its_images(distilled, small_digits, tmp_path):
    torch.save({"images": distilled.images, "labels": distilled.labels}, tmp_path / "theirs.pt")
    result = score_file(SetFile(tmp_path / "theirs.pt"), "digits", HASTY, resolution=8)
    assert without(result["rows"], "set", "seed") == expected(distilled, small_digits, HASTY)
    assert result["set"]["kind"] == "foreign" and result["set"]["file"] == "theirs.pt"


def test_soft_labels_of_others_are_trained_on(distilled, small_digits, tmp_path):
    soft = 0.9 * torch.nn.functional.one_hot(distilled.labels, 10) + 0.01
    torch.save((distilled.images, soft), tmp_path / "theirs.pt")
    result = score_file(SetFile(tmp_path / "theirs.pt"), "digits", HASTY, resolution=8)
    rows = expected(replace(distilled, labels=soft), small_digits, HASTY)
    assert without(result["rows"], "set", "seed") == rows


def test_an_own_set_brings_its_resolution_unless_another_is_asked_for(distilled, tmp_path):
    distilled.save(tmp_path / "set")
    _, data = SetFile(tmp_path / "set").load("digits", None, None, "cpu")
    assert data.train.image_shape == load_data("digits", resolution=8).train.image_shape
    with pytest.raises(HgladError, match=r"images are 8 x 8 pixels \(height x width\): expected 16 x 16"):
        SetFile(tmp_path / "set").load("digits", None, 16, "cpu")


def test_fewer_than_no_random_sets_are_refused(tmp_path):
    with pytest.raises(HgladError, match="-1 sets of random images: expected 0 or more"):
        score_file(SetFile(tmp_path / "set"), "digits", HASTY, random_sets=-1)


# Stops


def test_a_stopped_scoring_goes_on_and_leaves_nothing(distilled, small_digits, cache, monkeypatch):
    tested = []

    def stop_behind_three(*given):
        if len(tested) == 3:
            raise KeyboardInterrupt
        tested.append(given)
        return measure(*given)

    measure, scoring = evaluation.confusion_matrix, replace(HASTY, repeats=5)
    undisturbed = expected(distilled, small_digits, scoring)
    monkeypatch.setattr(evaluation, "confusion_matrix", stop_behind_three)
    with pytest.raises(KeyboardInterrupt):
        scoring.rows(distilled, small_digits)
    assert len(list(cache.rglob("*.score"))) == 3
    tested.clear()
    rows = scoring.rows(distilled, small_digits).to_dict("records")
    assert len(tested) == 2, "a finished network was trained again, or another one was not"
    assert rows == undisturbed
    assert not list((cache / "evaluations").iterdir())


def changed(real, content: str):
    return replace(real, content_hash=content)


def test_what_one_scoring_has_finished_serves_no_other(distilled, small_digits):
    """The folder of each is another one; more repeats of the same go on in the same."""
    digits, base = small_digits, HASTY._key(distilled, small_digits)
    assert replace(HASTY, repeats=9)._key(distilled, digits) == base
    others = [
        replace(HASTY, seed=1)._key(distilled, digits),
        replace(HASTY, protocol="dm")._key(distilled, digits),
        replace(HASTY, changes=(("epochs", 3),))._key(distilled, digits),
        replace(HASTY, networks=("alexnet",))._key(distilled, digits),
        HASTY._key(replace(distilled, images=distilled.images + 1e-6), digits),
        HASTY._key(replace(distilled, labels=distilled.labels.flip(0)), digits),
        HASTY._key(distilled, replace(digits, train=changed(digits.train, "other"))),
        HASTY._key(distilled, replace(digits, test=changed(digits.test, "other"))),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_another_version_of_the_training_begins_anew(distilled, small_digits, monkeypatch):
    base = HASTY._key(distilled, small_digits)
    monkeypatch.setattr("hglad.evaluation.training.VERSION", 1000)
    assert HASTY._key(distilled, small_digits) != base


def test_a_finished_evaluation_is_no_longer_in_the_cache(distilled, small_digits, cache):
    assert len(HASTY.rows(distilled, small_digits)) == 2
    assert not list(cache.rglob("*.*"))


def test_an_error_in_the_set_is_found_before_anything_is_kept(distilled, small_digits, cache):
    images = distilled.images.clone()
    images[3, 0, 2, 2] = torch.nan
    with pytest.raises(HgladError, match="1 of 20 images have values that are not finite"):
        HASTY.rows(replace(distilled, images=images), small_digits)
    assert not list(cache.rglob("*.*"))


# The table


def rows_of(name: str, seed: int, *accuracies: float, network: str = "convnet") -> list[dict]:
    return [
        {"network": network, "repeat": repeat, "accuracy": value, "set": name, "seed": seed}
        for repeat, value in enumerate(accuracies)
    ]


GIVEN = rows_of("given", 0, 50.0, 54.0)  # mean 52, deviation of the networks 2.828, t(1) = 12.706
RANDOM = rows_of("random", 0, 40.0, 44.0) + rows_of("random", 1, 46.0, 46.0)  # means of the sets 42 and 46


def test_the_given_set_varies_over_networks_and_random_images_over_sets():
    table = score_table(pd.DataFrame(GIVEN + RANDOM))
    assert table.to_dict("records") == [
        {"network": "convnet", "images": "given", "accuracy (%)": 52.0, "sd": 2.83}
        | {"95 % t interval": "26.6 to 77.4", "over": "networks", "gain over random": "+8.0"},
        {"network": "convnet", "images": "random", "accuracy (%)": 44.0, "sd": 2.83}
        | {"95 % t interval": "18.6 to 69.4", "over": "sets", "gain over random": ""},
    ]


def test_without_random_images_there_is_no_gain():
    table = score_table(pd.DataFrame(GIVEN))
    assert list(table["images"]) == ["given"] and "gain over random" not in table


def test_one_network_has_no_interval():
    (line,) = score_table(pd.DataFrame(rows_of("given", 0, 50.0))).to_dict("records")
    assert line["95 % t interval"] == "-" and line["accuracy (%)"] == 50 and pd.isna(line["sd"])


def test_the_gain_is_that_on_the_same_network():
    other = rows_of("given", 0, 20.0, 22.0, network="vit") + rows_of("random", 0, 25.0, network="vit")
    table = score_table(pd.DataFrame(GIVEN + RANDOM + other))
    gains = table.set_index(["network", "images"])["gain over random"]
    assert gains["convnet", "given"] == "+8.0" and gains["vit", "given"] == "-4.0"


@pytest.mark.parametrize("labels", [[*range(10), 0], list(range(9))])
def test_random_sets_need_as_many_images_of_each_class(labels, tmp_path):
    images = load_data("digits").train.images[: len(labels)].float() / 255
    DistilledSet(images, torch.tensor(sorted(labels)), {}).save(tmp_path / "set")
    with pytest.raises(HgladError, match=r"the set has \d to \d images per class.*leave --random"):
        score_file(SetFile(tmp_path / "set"), "digits", Scoring(repeats=1), random_sets=1)
