"""Distilling one set: folder and card, fingerprint, and the same images after a stop at any moment."""

import random
from importlib import import_module
from pathlib import Path

import pytest
import torch
from replacing import replace

from hglad.errors import HgladError
from hglad.evaluation.sets import DistilledSet, to_uint8
from hglad.experiments.profile_file import profile_from
from hglad.experiments.versions import MODULES
from hglad.metrics import create_metric
from hglad.priors import load_prior, prior_hash, save_prior
from hglad.priors.stylegan_xl import StyleGANXL
from hglad.search import checkpoint
from hglad.search import distillation as module
from hglad.search.distillation import DistillationSettings, distill, load_real, train_metric_classifier
from hglad.settings import DataSettings, MetricSettings, SearchSettings, SurrogateSettings, TrainingSettings
from hglad.storage import read_metadata, read_tensors, write_tensors

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


def distil_and_save_every_step(settings: DistillationSettings, out: str) -> None:
    torch.set_num_threads(1)
    checkpoint.SAVE_EVERY = 0
    distill(settings, out)


@pytest.mark.parametrize("kind", ["pixels", "hierarchical"])
def test_a_killed_run_continues_with_the_same_images(settings, classifier, tmp_path, kill_midway, kind):
    search = replace(SEARCH, steps=120, stages=(0, 2, 4))
    settings = replace(of_kind(settings, kind), search=search, keep_iterates=True)
    expected = distill(settings, classifier=classifier)
    out, state = tmp_path / "set", tmp_path / "set.state"
    moments, killed = random.Random(0), 0
    for _ in range(3):
        killed += kill_midway(
            distil_and_save_every_step, (settings, str(out)), state.is_file, moments.uniform(0, 0.3)
        )
    assert killed and state.is_file() and not out.exists()
    found = distill(settings, out, classifier=classifier)
    assert torch.equal(found.images, expected.images) and torch.equal(found.iterates, expected.iterates)
    assert found.card["history"] == expected.card["history"]
    assert not state.exists() and DistilledSet.load(out).card["best"] == expected.card["best"]


class Stopped(Exception):
    pass


def stop_at(monkeypatch, index: int) -> None:
    """Save every state and stop behind the one with this index."""
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0)
    note, seen = checkpoint.Checkpoint.note, []

    def noted(self, state, check):
        note(self, state, check)
        seen.append(state)
        if len(seen) > index:
            raise Stopped

    monkeypatch.setattr(checkpoint.Checkpoint, "note", noted)


@pytest.mark.parametrize(("stopped_at", "missing"), [(0, 6), (4, 3), (7, 0)])
def test_a_run_goes_on_from_its_state_and_counts_all_its_time(
    settings, classifier, tmp_path, monkeypatch, stopped_at, missing
):
    settings = replace(settings, keep_iterates=True)
    expected = distill(settings, classifier=classifier)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, stopped_at)
        distill(settings, tmp_path / "set", classifier=classifier)
    state = tmp_path / "set.state"
    write_tensors(state, read_tensors(state), read_metadata(state) | {"seconds": "1000"})
    steps, step = [], module.Search._step
    monkeypatch.setattr(module.Search, "_step", lambda self, s: steps.append(s) or step(self, s))
    found = distill(settings, tmp_path / "set", classifier=classifier)
    assert torch.equal(found.images, expected.images) and len(steps) == missing
    assert torch.equal(found.iterates, expected.iterates) and not state.exists()
    assert 1000 <= found.card["provenance"]["seconds"] < 1100


def stopped(settings, classifier, folder, monkeypatch) -> Path:
    """State file of a run that was stopped behind its fifth state."""
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, 4)
        distill(settings, folder, classifier=classifier)
    return folder.with_name(f"{folder.name}.state")


def test_a_state_of_another_run_is_refused_unless_told_to_restart(
    settings, classifier, tmp_path, monkeypatch
):
    state = stopped(replace(settings, seed=7), classifier, tmp_path / "set", monkeypatch)
    with pytest.raises(
        HgladError, match=r"set\.state is the state of another run .*start over with --restart"
    ):
        distill(settings, tmp_path / "set", classifier=classifier)
    assert state.is_file()
    found = distill(settings, tmp_path / "set", classifier=classifier, restart=True)
    assert torch.equal(found.images, distill(settings, classifier=classifier).images)


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "other tensors", "text"])
def test_a_damaged_state_is_refused_unless_told_to_restart(
    settings, classifier, tmp_path, monkeypatch, damage
):
    state = stopped(settings, classifier, tmp_path / "set", monkeypatch)
    content, metadata = bytearray(state.read_bytes()), read_metadata(state)
    if damage == "other tensors":
        write_tensors(state, {"images": torch.zeros(3)}, metadata)
    elif damage == "text":
        state.write_text("not a state")
    else:
        content[-20] ^= 1
        state.write_bytes(content if damage == "flipped bit" else content[:-20])
    with pytest.raises(HgladError, match=r"set\.state.*delete it"):
        distill(settings, tmp_path / "set", classifier=classifier)
    found = distill(settings, tmp_path / "set", classifier=classifier, restart=True)
    assert torch.equal(found.images, distill(settings, classifier=classifier).images)


def test_the_time_of_each_stage_adds_up_over_all_parts(settings, classifier, tmp_path, monkeypatch):
    stopped(settings, classifier, tmp_path / "set", monkeypatch)
    card = distill(settings, tmp_path / "set", classifier=classifier).card
    assert len(card["stage_seconds"]) == len(card["stages"]) and min(card["stage_seconds"]) > 0
    assert sum(card["stage_seconds"]) <= card["provenance"]["seconds"] + 0.01
    assert [stage["flops"] > 0 for stage in card["stages"]] == [
        stage["name"] != "pixels" for stage in card["stages"]
    ]


def test_a_set_that_cannot_be_made_is_a_clear_error(settings, classifier):
    with pytest.raises(HgladError, match="split point 9 does not exist"):
        distill(replace(settings, kind="single", search=replace(SEARCH, layer=9)), classifier=classifier)
    with pytest.raises(HgladError, match="unknown metric 'class_relevent'"):
        distill(replace(settings, metric=replace(METRIC, name="class_relevent")), classifier=classifier)


WORDS = {
    "rates": "absolute", "selection": "last", "start": "noise", "stages": (0, 3), "truncation": 0.5,
    "labels": (0,), "features": "gaussian", "precision": "bfloat16", "latent_stage": True,
    "shares": (1.0, 2.0), "stage_lr_f": (0.1, 0.2), "stage_lr_w": (0.1, 0.2), "budget": "flops",
    "stage_start": "last", "styles": "frozen", "nan_to_zero": False, "normalise_generated": False,
    "momentum": 0.9,
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in SearchSettings.model_fields if name != "memory"])
def test_every_setting_of_the_search_changes_the_fingerprint(settings, name):
    settings = replace(settings, kind="single")
    value = WORDS[name] if name in WORDS else getattr(SEARCH, name) + 1
    other = replace(settings, search=replace(SEARCH, **{name: value}))
    assert other.fingerprint != settings.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "single"},
        {"ipc": 2},
        {"seed": 1},
        {"keep_iterates": True},
        {"data": DataSettings("digits", resolution=9)},
        {"surrogate": replace(SURROGATE, network=SURROGATE.network | {"width": 5})},
        {"surrogate": replace(SURROGATE, augmentation="color")},
        {"surrogate": replace(SURROGATE, batch_real=9)},
        {"metric": replace(METRIC, name="feature")},
        {"metric": replace(METRIC, network=METRIC.network | {"width": 5})},
        {"metric": replace(METRIC, training=replace(PROTOCOL, epochs=2))},
        {"metric": replace(METRIC, seed=1)},
        {"prior": "pixels"},
    ],
    ids=str,
)
def test_every_other_setting_changes_the_fingerprint(settings, change):
    assert replace(settings, **change).fingerprint != settings.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"metric": replace(METRIC, compared=())},
        {"search": replace(SEARCH, layer=1)},
        {"search": replace(SEARCH, memory=1.0)},
    ],
    ids=["compared metrics", "layer of another search", "memory"],
)
def test_settings_without_a_part_in_the_result_leave_the_fingerprint(settings, change):
    assert replace(settings, **change).fingerprint == settings.fingerprint


VERSIONS = {
    "hierarchical": [
        "search", "augment", "training", "priors.stylegan_xl", "objectives.dm", "metrics.class_relevant",
        "networks.convnet",
    ],
    "pixels": ["search", "augment", "training", "priors.pixels", "objectives.dm", "networks.convnet"],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in VERSIONS for name in VERSIONS[kind]])
def test_another_version_of_an_algorithm_changes_the_fingerprint(settings, monkeypatch, kind, name):
    settings = of_kind(settings, kind)
    before = settings.fingerprint
    monkeypatch.setattr(import_module(MODULES.get(name, f"hglad.{name}")), "VERSION", 1000)
    assert settings.fingerprint != before


@pytest.mark.parametrize(
    ("kind", "name"),
    [("hierarchical", "priors.pixels"), ("hierarchical", "networks.vit"), ("pixels", "priors.stylegan_xl")],
)
def test_a_version_of_what_is_not_used_leaves_the_fingerprint(settings, monkeypatch, kind, name):
    settings = of_kind(settings, kind)
    before = settings.fingerprint
    monkeypatch.setattr(import_module(MODULES.get(name, f"hglad.{name}")), "VERSION", 1000)
    assert settings.fingerprint == before


def test_the_fingerprint_follows_what_the_prior_holds_and_not_where_it_lies(settings, tmp_path):
    prior = load_prior(settings.prior)
    copies = [str(tmp_path / f"{name}.safetensors") for name in ("same", "other")]
    save_prior(copies[0], prior, {})
    prior.mapping.fc0.bias[0] += 1e-3
    save_prior(copies[1], prior, {})
    same, other = (replace(settings, prior=copy).fingerprint for copy in copies)
    assert same == settings.fingerprint != other
    save_prior(copies[0], prior, {})  # written over
    assert replace(settings, prior=copies[0]).fingerprint == other


def test_the_real_images_are_loaded_once():
    assert load_real(DATA) is load_real(DATA, "cpu") is load_real(replace(DATA), device="cpu")


def profile(prior: str, **search):
    network = {"name": "convnet", "depth": 1, "width": 4}
    return profile_from(
        profile="tiny", prior=prior, data={"name": "digits", "resolution": 8}, networks={"main": network},
        surrogate={"network": network, "batch_real": 8}, search=search, metric={"network": network},
        sets={"objectives": ["dm"], "searches": ["pixels"], "ipc": [1], "seeds": [0]},
        evaluation={}, studies={},
    )  # fmt: skip


def test_settings_of_a_profile(prior_file):
    kinds = ("pixels", "single")
    parts = {kind: DistillationSettings.of(profile(prior_file), "dm", kind, 2, 5) for kind in kinds}
    assert parts["pixels"].prior == "pixels" and parts["single"].prior == prior_file
    assert {(s.ipc, s.seed, s.objective, s.search.layer) for s in parts.values()} == {(2, 5, "dm", 4)}
    swept = DistillationSettings.of(
        profile(prior_file), "dm", "single", 2, 5, search={"layer": 1}, keep_iterates=True
    )
    assert swept.search.layer == 1 and swept.keep_iterates


def test_averaged_latents_of_a_profile_leave_its_pixel_runs_possible(prior_file, classifier):
    settings = DistillationSettings.of(profile(prior_file, steps=1, average=10), "dm", "pixels", 1, 0)
    assert distill(settings, classifier=classifier).images.shape == (10, 1, 8, 8)
    assert DistillationSettings.of(profile(prior_file, average=10), "dm", "single", 1, 0).search.average == 10


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


@pytest.mark.parametrize(
    "changes",
    [
        {"truncation": 0.5},
        {"features": "gaussian"},
        {"precision": "bfloat16"},
        {"lr_weights": 0.1},
        {"average": 20},
    ],
    ids=str,
)
def test_every_way_to_start_gives_another_set(settings, classifier, changes):
    usual, other = (
        distill(replace(settings, search=search), classifier=classifier).images
        for search in (SEARCH, replace(SEARCH, **changes))
    )
    assert other.isfinite().all() and not torch.equal(usual, other)
