"""Runs on disks that are full, folders that are read-only and results that are damaged, all of them real."""

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from faults import fill, mounted, read_only
from nbformat.v4 import new_code_cell, new_notebook
from replacing import replace
from torchvision.utils import save_image

from hglad import storage
from hglad.book.notebooks import execute
from hglad.cli import main
from hglad.data.datasets import load_data
from hglad.errors import HgladError, HgladWarning
from hglad.experiments.evaluation_task import EvaluateTask
from hglad.experiments.runner import run_all
from hglad.experiments.store import Store
from hglad.experiments.tasks import ClassifierTask, DistillTask, MeasureTask, expert_tasks
from hglad.priors.training.gan import GANSettings
from hglad.priors.training.quality import QualitySettings
from hglad.priors.training.train import PriorSettings, train_prior
from hglad.search import checkpoint
from hglad.search.distillation import DistillationSettings, load_real
from hglad.settings import (
    DataSettings,
    ExpertSettings,
    MetricSettings,
    SearchSettings,
    SurrogateSettings,
    TrainingSettings,
)

DATA = DataSettings("digits", resolution=8)
NETWORK = {"name": "convnet", "depth": 1, "width": 4}
QUICK = TrainingSettings(epochs=2, batch_size=256, lr=0.01, augmentation="", ema_decay=None)
METRIC = MetricSettings(network=NETWORK, training=QUICK)
SEARCH = SearchSettings(steps=6, stages=(1, 4), rates="relative", select_every=2)
SURROGATE = SurrogateSettings(NETWORK, "color", 4)
FULL = r"^cannot write .*No space left on device.*; check its folder and the free space$"


@pytest.fixture(scope="module")
def settings(prior_file) -> DistillationSettings:
    return DistillationSettings(DATA, prior_file, SEARCH, SURROGATE, METRIC, keep_iterates=True)


@pytest.fixture(scope="module")
def evaluation_task(settings) -> EvaluateTask:
    return EvaluateTask(DATA, "hierarchical", 1, 0, "main", NETWORK, 2, QUICK, settings)


@pytest.fixture(scope="module")
def tasks(settings, evaluation_task) -> dict[str, object]:
    """One task of each kind, in the order in which they need each other."""
    return {
        "classifier": ClassifierTask(DATA, METRIC),
        "expert": expert_tasks(DATA, NETWORK, ExpertSettings(count=1, epochs=3))[0],
        "set": DistillTask(settings),
        "evaluation": evaluation_task,
        "distances": MeasureTask(settings),
    }


@pytest.fixture(scope="module")
def undisturbed(tasks, tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    for task in tasks.values():
        task.run(store, "cpu")
    return store


@pytest.fixture
def copied(undisturbed, tmp_path) -> Store:
    shutil.copytree(undisturbed.root, tmp_path / "copied")
    return Store(tmp_path / "copied")


@pytest.fixture
def saved_at_every_step(monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0)
    monkeypatch.setattr(storage, "SAVE_SECONDS", 0)


def files(folder: Path) -> dict[str, bytes]:
    """Content by path of what is below a folder, but for locks."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(".locks")}


def images_of(store: Store, tasks: dict[str, object]) -> bytes:
    """File of the images of the set."""
    return tasks["set"].place(store).with_name("distilled.safetensors").read_bytes()


def same_results(first: Store, second: Store, tasks: dict[str, object]) -> None:
    """The same numbers, to the bit; provenance differs."""
    pd.testing.assert_frame_equal(first.rows(), second.rows())
    assert images_of(first, tasks) == images_of(second, tasks)


# Full disks


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", 8 * 2**20) as folder:
        yield folder


def test_every_kind_of_result_on_a_full_disk(disk, tasks, undisturbed, saved_at_every_step):
    """Each run ends with one line and leaves what was there; with room again the next one does the work."""
    store = Store(disk / "results")
    for name, task in tasks.items():
        before, filler = files(store.root), fill(disk)
        with warnings.catch_warnings(record=True) as said, pytest.raises(HgladError, match=FULL):
            warnings.simplefilter("always")
            task.run(store, "cpu")
        states = [str(each.message) for each in said if issubclass(each.category, HgladWarning)]
        assert len(states) == len(set(states)) and all("goes on without it" in text for text in states)
        assert bool(states) is (name not in ("distances", "expert")), "states are saved at every step"
        assert not task.done(store) and files(store.root) == before, name
        filler.unlink()
        run_all([task], store, cores=1)
        assert task.done(store)
    same_results(store, undisturbed, tasks)


def test_a_run_that_finds_room_before_its_end_keeps_its_result(
    disk, tasks, copied, undisturbed, saved_at_every_step, monkeypatch
):
    """The disk is full while states are to be saved, and has room when the set is."""
    store, note = Store(disk / "results"), checkpoint.Checkpoint.note
    shutil.copytree(copied.root / "classifiers", store.root / "classifiers")
    filler = fill(disk)

    def noting(self, state, check) -> None:
        note(self, state, check)
        if state.stage == 1:
            filler.unlink(missing_ok=True)

    monkeypatch.setattr(checkpoint.Checkpoint, "note", noting)
    with pytest.warns(HgladWarning, match="No space left.*; the run goes on without it"):
        tasks["set"].run(store, "cpu")
    assert images_of(store, tasks) == images_of(undisturbed, tasks)


def make_images(folder: Path) -> Path:
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            (folder / split / name).mkdir(parents=True)
            save_image(torch.rand(3, 32, 32), folder / split / name / "1.png")
    return folder


def test_a_cache_that_cannot_be_written_is_done_without(disk, tmp_path, monkeypatch):
    monkeypatch.setenv("HGLAD_CACHE", str(disk / "cache"))
    folder, filler = make_images(tmp_path / "images"), fill(disk)
    with pytest.warns(HgladWarning, match="cannot write .*/cache.*No space left.*; the run goes on"):
        without = load_data(folder, resolution=32)
    filler.unlink()
    for _ in range(2):  # written, then read
        again = load_data(folder, resolution=32)
        assert torch.equal(again.train.images, without.train.images)
        assert len(list((disk / "cache" / "images").iterdir())) == 2


def test_a_notebook_on_a_full_disk_leaves_the_old_copy(disk, tmp_path):
    cell = new_code_cell("size = 1", metadata={"tags": ["parameters"]})
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    template = tmp_path / "template.ipynb"
    nbformat.write(new_notebook(cells=[cell, new_code_cell("print('x' * size)")], metadata=kernel), template)
    out = disk / "copy.ipynb"
    execute(template, {"size": 3}, out)
    before, filler = out.read_bytes(), fill(disk)
    with pytest.raises(HgladError, match=FULL):
        execute(template, {"size": 1_000_000}, out)
    assert out.read_bytes() == before and sorted(path.name for path in disk.iterdir()) == [
        "copy.ipynb",
        "filler",
    ]
    filler.unlink()
    execute(template, {"size": 1_000_000}, out)
    assert len(out.read_bytes()) > 1_000_000


def test_a_generator_on_a_full_disk(disk, tiny_settings):
    quality = QualitySettings(samples=20, epochs=1, width=4)
    settings = PriorSettings(DATA, GANSettings(generator=tiny_settings, steps=2, batch_size=4), quality)
    filler, out = fill(disk), disk / "own.safetensors"
    with pytest.raises(HgladError, match=FULL):
        train_prior(settings, out)
    assert list(disk.iterdir()) == [filler]
    filler.unlink()
    train_prior(settings, out)
    assert {path.name for path in disk.iterdir()} == {"own.safetensors", "own.json"}


# Read-only folders


def test_what_is_there_can_be_read_from_a_read_only_folder(tasks, copied, capsys):
    with read_only(copied.root):
        run_all(list(tasks.values()), copied, cores=1)  # all there: nothing to do
        assert main(["results", "table", str(copied.root)]) == 0
    assert "Test accuracy in %" in capsys.readouterr().out


def test_what_is_missing_is_one_line_before_anything_is_computed(tasks, settings, copied):
    endless = replace(settings, search=replace(SEARCH, steps=10**9))
    with (
        read_only(copied.root),
        pytest.raises(HgladError, match="^cannot write .*Read-only file system.*; check"),
    ):
        run_all([*tasks.values(), DistillTask(endless)], copied, cores=1)


# Damaged results


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def zero(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def results_of(store: Store, tasks: dict[str, object]) -> list[Path]:
    """Every file of every result."""
    places = [task.place(store) for task in tasks.values()]
    beside = [tasks["set"].place(store).with_name("distilled.safetensors")]
    return [*places, *beside, store.confusion_file(tasks["evaluation"].key)]


@pytest.mark.parametrize("damage", [truncate, empty, zero, Path.unlink])
def test_a_damaged_result_is_made_again_and_no_other(tasks, copied, undisturbed, damage):
    for file in results_of(copied, tasks):
        before = files(copied.root)
        damage(file)
        if damage is Path.unlink and file == copied.confusion_file(tasks["evaluation"].key):
            continue  # evaluations of old have none
        lost = [name for name, task in tasks.items() if not task.done(copied)]
        assert len(lost) == 1, file
        run_all(list(tasks.values()), copied, cores=1)
        after = files(copied.root)
        assert after.keys() == before.keys()
        changed = {name for name in before if before[name] != after[name]}
        place = tasks[lost[0]].place(copied).relative_to(copied.root)
        own = place.parent if lost == ["set"] else place.with_suffix("")
        assert all(task.done(copied) for task in tasks.values())
        assert all(name.startswith(str(own)) for name in changed)
    same_results(copied, undisturbed, tasks)


def test_a_damaged_result_that_is_only_read_is_named(tasks, copied, capsys):
    file = tasks["evaluation"].place(copied)
    truncate(file)
    assert main(["results", "table", str(copied.root)]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"hglad: cannot read {file}: ") and shown.count("\n") == 1
    assert shown.endswith("; delete it to have it made again\n")


def test_warnings_of_the_command_line_are_one_line(tmp_path, capsys):
    """A class without an image."""
    real = load_real(DATA)
    chosen = real.train.offsets[:5]
    content = {"images": real.train.images[list(chosen)].float() / 255, "labels": torch.arange(5)}
    torch.save(content, tmp_path / "set.pt")
    command = ["evaluate", str(tmp_path / "set.pt"), "--data", "digits", "--resolution", "8"]
    assert main([*command, "--epochs", "1", "--repeats", "1"]) == 0
    line = "hglad: set.pt has no image of 5 classes of 'digits': 5, 6, 7, 8, 9\n"
    assert capsys.readouterr().err == line
