"""Sets as large as their data, random images beside uneven sets, and marks of tasks with one result."""

from dataclasses import replace

import pytest
import torch

from hglad import baselines
from hglad.baselines import full_set, herding
from hglad.data import DataSettings, load_data
from hglad.distilled import DistilledSet
from hglad.errors import HgladError
from hglad.evaluation import evaluate
from hglad.evaluation_task import EvaluateTask
from hglad.networks import create_network
from hglad.runner import required
from hglad.scoring import Scoring, SetFile, score_file
from hglad.training import TrainingSettings

ONE_EPOCH = TrainingSettings(epochs=1, lr=0.01, schedule="constant", ema_decay=None)


def test_the_full_set_takes_no_memory_beside_its_data():
    train = load_data("digits").train
    assert full_set(train).images.data_ptr() == train.images.data_ptr()


def test_the_full_set_trains_as_its_images_in_the_unit_range_do():
    data = load_data("digits")
    full, network = full_set(data.train), {"small": {"name": "convnet", "depth": 1, "width": 4}}
    floats = DistilledSet(full.images.float() / 255, full.labels, {})
    accuracies = [evaluate(each, data, network, 1, ONE_EPOCH)["accuracy"].tolist() for each in (full, floats)]
    assert accuracies[0] == accuracies[1]


def test_images_with_large_maps_are_embedded_in_small_batches(monkeypatch):
    real = load_data("digits").train
    network = create_network("convnet", real.image_shape, 10, depth=1, width=4)
    seen = []
    network.features.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    monkeypatch.setattr(baselines, "MAPS_MEMORY", 7 * 4 * 4 * real.images[0, 0].numel())  # of 7 images
    few = herding(real, 2, network)
    assert max(seen) == 7
    monkeypatch.undo()
    assert torch.equal(few.images, herding(real, 2, network).images)


@pytest.mark.parametrize("labels", [[*range(10), 0], list(range(9))])
def test_random_sets_need_as_many_images_of_each_class(labels, tmp_path):
    images = load_data("digits").train.images[: len(labels)].float() / 255
    DistilledSet(images, torch.tensor(sorted(labels)), {}).save(tmp_path / "set")
    with pytest.raises(HgladError, match=r"the set has \d to \d images per class.*leave --random"):
        score_file(SetFile(tmp_path / "set"), "digits", Scoring(repeats=1), random_sets=1)


def test_a_variant_that_is_a_run_of_the_main_table_does_not_mark_its_rows():
    usual = EvaluateTask(DataSettings("digits"), "random", 1, 0, "small", {"name": "convnet"}, 1, ONE_EPOCH)
    assert [task.variant for task in required([usual, replace(usual, variant="from real images")])] == [None]


def test_a_saved_full_set_keeps_its_values(tmp_path):
    full = full_set(load_data("digits").train)
    floats = replace(full, images=full.images.float() / 255)
    for name, each in (("uint8", full), ("float", floats)):
        each.save(tmp_path / name)
    assert torch.equal(DistilledSet.load(tmp_path / "uint8").images, full.images)
    assert (tmp_path / "uint8/grid.png").read_bytes() == (tmp_path / "float/grid.png").read_bytes()
