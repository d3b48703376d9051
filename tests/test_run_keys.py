"""What the key of a run follows from, and its settings by a profile."""

from importlib import import_module

import pytest
from replacing import replace

from hglad.experiments.profile_file import profile_from
from hglad.experiments.versions import MODULES
from hglad.priors import load_prior, save_prior
from hglad.search.distillation import DistillationSettings
from hglad.settings import DataSettings, MetricSettings, SearchSettings, SurrogateSettings, TrainingSettings

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


def of_kind(settings: DistillationSettings, kind: str) -> DistillationSettings:
    return replace(settings, kind=kind, prior="pixels" if kind == "pixels" else settings.prior)


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
