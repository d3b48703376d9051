"""Distilling one set: folder and card, and the same images after a stop at any moment."""

import random
from pathlib import Path

import pytest
import torch
from replacing import replace

from hglad import storage
from hglad.errors import HgladError, HgladWarning
from hglad.evaluation.sets import DistilledSet, to_uint8
from hglad.metrics import create_metric
from hglad.priors import prior_hash, save_prior
from hglad.priors.stylegan_xl import StyleGANXL
from hglad.search.distillation import DistillationSettings, distill, load_real, train_metric_classifier
from hglad.search.loop import Search
from hglad.settings import DataSettings, MetricSettings, SearchSettings, SurrogateSettings, TrainingSettings
from hglad.storage import Checkpoint

DATA = DataSettings("digits", resolution=8)
PROTOCOL = TrainingSettings(epochs=1, batch_size=256, lr=0.01, augmentation="", ema_decay=None)
SEARCH = SearchSettings(
    steps=6, stages=(1, 4), layer=2, rates="relative", lr_features=0.1, lr_latents=0.02, lr_pixels=0.1,
    select_every=2,
)  # fmt: skip
SURROGATE = SurrogateSettings({"name": "convnet", "depth": 1, "width": 4}, "color_crop", 8)
METRIC = MetricSettings(network={"name": "convnet", "depth": 1, "width": 4}, training=PROTOCOL)


@pytest.fixture(scope="module")
def settings(prior_file):
    return DistillationSettings(DATA, prior_file, SEARCH, SURROGATE, METRIC)


@pytest.fixture(scope="module")
def classifier(settings):
    return train_metric_classifier(settings.metric, load_real(settings.data))


def of_kind(settings: DistillationSettings, kind: str) -> DistillationSettings:
    return replace(settings, kind=kind, prior="pixels" if kind == "pixels" else settings.prior)


@pytest.mark.parametrize("ipc", [1, 3])
@pytest.mark.parametrize("kind", ["pixels", "single", "hierarchical"])
def test_a_distilled_set_is_a_folder_with_its_card(settings, classifier, tmp_path, kind, ipc):
    settings = replace(of_kind(settings, kind), ipc=ipc)
    made = distill(settings, tmp_path / "set", classifier=classifier)
    read = DistilledSet.load(tmp_path / "set")
    assert torch.equal(read.images, made.images) and made.images.shape == (10 * ipc, 1, 8, 8)
    assert read.labels.tolist() == sorted(list(range(10)) * ipc) and read.iterates is None
    assert {path.name for path in tmp_path.iterdir()} == {"set"}  # the state is gone
    card = read.card
    assert sum(stage["steps"] for stage in card["stages"]) == 6
    assert [card["best"]["stage"], card["best"]["step"], card["distance"]] in card["history"]
    assert card["distance"] == min(distance for *_, distance in card["history"])
    assert card["settings"]["kind"] == kind and card["settings"]["ipc"] == ipc
    assert card["prior_hash"] == prior_hash(settings.prior) and card["provenance"]["seconds"] > 0
    metric = create_metric("class_relevant", load_real(DATA).train, classifier=classifier)
    assert metric(read.images, read.labels) == card["distance"]


def test_the_classifier_of_the_metric_is_trained_when_it_is_not_given(settings, classifier):
    given, trained = distill(settings, classifier=classifier), distill(settings)
    assert torch.equal(given.images, trained.images)
    assert given.card["history"] == trained.card["history"]


def test_every_measured_iterate_is_kept_when_asked_for(settings, classifier):
    made = distill(replace(settings, keep_iterates=True), classifier=classifier)
    history = made.card["history"]
    assert made.iterates.dtype == torch.uint8 and made.iterates.shape == (len(history), 10, 1, 8, 8)
    best = [entry[2] for entry in history].index(made.card["distance"])
    assert torch.equal(made.iterates[best], to_uint8(made.images))
    assert len(made.iterates.unique(dim=0)) > len(history) / 2


def distill_and_save_every_step(settings: DistillationSettings, out: str) -> None:
    torch.set_num_threads(1)
    storage.SAVE_SECONDS = 0
    distill(settings, out)


@pytest.mark.parametrize("kind", ["pixels", "hierarchical"])
def test_a_killed_run_continues_with_the_same_images(settings, classifier, tmp_path, kill_midway, kind):
    search = replace(SEARCH, steps=120, stages=(0, 2, 4))
    settings = replace(of_kind(settings, kind), search=search, keep_iterates=True)
    expected = distill(settings, classifier=classifier)
    out, state = tmp_path / "set", tmp_path / "set.state"
    moments, killed = random.Random(0), 0
    for _ in range(2):
        killed += kill_midway(
            distill_and_save_every_step, (settings, str(out)), state.is_file, moments.uniform(0, 0.3)
        )
    assert killed and state.is_file() and not out.exists()
    found = distill(settings, out, classifier=classifier)
    assert torch.equal(found.images, expected.images) and torch.equal(found.iterates, expected.iterates)
    assert found.card["history"] == expected.card["history"]
    assert not state.exists() and DistilledSet.load(out).card["best"] == expected.card["best"]


class Stopped(Exception):
    pass


def stopped(settings, classifier, out: Path, monkeypatch, index: int = 4) -> Path:
    """State file of a run that saves every state and is stopped behind the one with this index."""
    save, saved = Checkpoint.save, []

    def saving(self, *args, **kwargs) -> None:
        save(self, *args, **kwargs)
        saved.append(self)
        if len(saved) > index:
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(storage, "SAVE_SECONDS", 0)
        patch.setattr(Checkpoint, "save", saving)
        distill(settings, out, classifier=classifier)
    return out.with_name(f"{out.name}.state")


@pytest.mark.parametrize(("stopped_at", "missing"), [(0, 6), (4, 3), (7, 0)])
def test_a_run_goes_on_from_its_state_and_counts_all_its_time(
    settings, classifier, tmp_path, monkeypatch, stopped_at, missing
):
    settings = replace(settings, keep_iterates=True)
    expected = distill(settings, classifier=classifier)
    state = Checkpoint(
        stopped(settings, classifier, tmp_path / "set", monkeypatch, stopped_at), settings.fingerprint
    )
    tensors, plain = state.load()
    state.before = 1000.0
    state.save(tensors, force=True, **plain)
    steps, step = [], Search._step
    monkeypatch.setattr(Search, "_step", lambda self, s: steps.append(s) or step(self, s))
    found = distill(settings, tmp_path / "set", classifier=classifier)
    assert torch.equal(found.images, expected.images) and len(steps) == missing
    assert torch.equal(found.iterates, expected.iterates) and not state.path.exists()
    card = found.card
    assert 1000 <= card["provenance"]["seconds"] < 1100
    assert len(card["stage_seconds"]) == len(card["stages"]) and min(card["stage_seconds"]) > 0
    assert sum(card["stage_seconds"]) < 100  # those of the steps alone
    assert [stage["flops"] > 0 for stage in card["stages"]] == [
        stage["name"] != "pixels" for stage in card["stages"]
    ]


@pytest.mark.parametrize("damage", ["other run", "flipped bit", "restart"])
def test_a_state_that_is_not_of_this_run_is_left_aside(settings, classifier, tmp_path, monkeypatch, damage):
    """So is a good one when asked to begin anew: the step at which it would go on is done again."""
    other = replace(settings, seed=7) if damage == "other run" else settings
    state = stopped(other, classifier, tmp_path / "set", monkeypatch)
    if damage == "flipped bit":
        content = bytearray(state.read_bytes())
        content[-20] ^= 1
        state.write_bytes(content)
    steps, step = [], Search._step
    monkeypatch.setattr(Search, "_step", lambda self, s: steps.append(s) or step(self, s))
    if damage == "restart":
        found = distill(settings, tmp_path / "set", classifier=classifier, restart=True)
    else:
        with pytest.warns(HgladWarning, match=r"set\.state is no state to go on from"):
            found = distill(settings, tmp_path / "set", classifier=classifier)
    assert len(steps) == SEARCH.steps
    assert torch.equal(found.images, distill(settings, classifier=classifier).images)


def test_a_search_that_breaks_keeps_its_last_good_state(settings, classifier, tmp_path, monkeypatch):
    """With a limit on memory, or one line about a rate, a run can go on elsewhere or with more room."""
    expected, step, count = distill(settings, classifier=classifier), Search._step, []

    def breaking(self, state):
        count.append(state)
        if len(count) == 3:
            raise HgladError("no room")
        return step(self, state)

    with monkeypatch.context() as patch, pytest.raises(HgladError, match="no room"):
        patch.setattr(Search, "_step", breaking)
        distill(settings, tmp_path / "set", classifier=classifier)
    saved, _ = Checkpoint(tmp_path / "set.state", settings.fingerprint).load()
    assert all(x.isfinite().all() for name in ("latents", "velocity") for x in saved["state"][name].values())
    monkeypatch.setattr(Search, "_step", lambda self, state: count.append(state) or step(self, state))
    found = distill(settings, tmp_path / "set", classifier=classifier)
    assert torch.equal(found.images, expected.images) and len(count) == 3 + 4


def test_a_state_that_is_not_finite_is_not_kept(settings, classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "SAVE_SECONDS", 0)
    search = replace(SEARCH, rates="absolute", lr_features=1e39)
    settings = replace(settings, search=search)
    with pytest.raises(HgladError, match="images are not finite at step 1 of stage"):
        distill(settings, tmp_path / "set", classifier=classifier)
    _, plain = Checkpoint(tmp_path / "set.state", settings.fingerprint).load()
    assert (plain["state"]["stage"], plain["state"]["step"]) == (0, 0)


def test_a_set_that_cannot_be_made_is_a_clear_error(settings, classifier):
    with pytest.raises(HgladError, match="split point 9 does not exist"):
        distill(replace(settings, kind="single", search=replace(SEARCH, layer=9)), classifier=classifier)
    with pytest.raises(HgladError, match="unknown metric 'class_relevent'"):
        distill(replace(settings, metric=replace(METRIC, name="class_relevent")), classifier=classifier)


def test_the_real_images_are_loaded_once():
    assert load_real(DATA) is load_real(DATA, "cpu") is load_real(replace(DATA), device="cpu")


@pytest.fixture
def other_prior(tiny_settings, tmp_path):
    """Path of a generator with another number of classes."""

    def save(classes: int) -> str:
        changed = replace(tiny_settings, c_dim=classes, embedding=(max(classes, 1), 8))
        path = str(tmp_path / f"{classes}.safetensors")
        save_prior(path, StyleGANXL.untrained(changed, torch.Generator().manual_seed(0)), {})
        return path

    return save


def test_classes_of_another_generator_must_be_named(settings, classifier, other_prior):
    twelve = replace(settings, prior=other_prior(12))
    for labels in ((), (0, 1), (*range(9), 12)):
        wrong = replace(twelve, search=replace(SEARCH, labels=labels))
        with pytest.raises(
            HgladError, match="has 12 classes, expected one of 0 to 11 for each of the 10 classes"
        ):
            distill(wrong, classifier=classifier)
    named = replace(twelve, search=replace(SEARCH, labels=tuple(range(2, 12))))
    distilled = distill(named, classifier=classifier)
    assert distilled.labels.tolist() == list(range(10)) and distilled.images.isfinite().all()


def test_an_unconditional_generator_needs_no_classes(settings, classifier, other_prior):
    distilled = distill(replace(settings, prior=other_prior(0)), classifier=classifier)
    assert distilled.labels.tolist() == list(range(10))
