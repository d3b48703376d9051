"""Generators of higher resolutions, trained as a new head on a stem that stays as it is."""

import copy

import pytest
import torch
import yaml
from replacing import replace

from hglad.data.datasets import load_data
from hglad.errors import HgladError
from hglad.experiments.workflow import PriorTask
from hglad.priors import load_prior, prior_card, save_prior
from hglad.priors.geometry import Head, StyleGANXLSettings
from hglad.priors.training.gan import GANSettings, GANTraining
from hglad.priors.training.quality import QualitySettings
from hglad.priors.training.stem import with_stem
from hglad.priors.training.train import PriorSettings, fit_to_data, read_prior_settings, train_prior
from hglad.settings import DataSettings

DATA = DataSettings("digits", resolution=16)
HEAD = {"up_factor": 2, "layers": 3}
QUALITY = QualitySettings(samples=20, epochs=1, width=4)


@pytest.fixture
def training(prior_file) -> GANSettings:
    """One head on the tiny generator of 8 px."""
    generator = {"heads": [HEAD]}
    small = {"steps": 4, "batch_size": 4, "width": 4, "r1_every": 2, "augmentation": "crop"}
    return GANSettings(generator, stem=prior_file, **small)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", resolution=16)


def test_the_stem_stays_as_it_is_and_the_head_learns(training, digits, tiny_prior):
    run = GANTraining(digits.train, fit_to_data(training, digits.train))
    before = copy.deepcopy(run.generator.state_dict())
    for _ in range(3):
        run.step()
    after, stem = run.finished().state_dict(), tiny_prior.state_dict()
    kept = [name for name in before if name in stem and torch.equal(before[name], stem[name])]
    layers = {name.split(".")[1] for name in kept if name.startswith("synthesis.L")}
    assert layers == {"L0_12_8"} and any(name.startswith("mapping") for name in kept)
    assert all(torch.equal(after[name], stem[name]) for name in kept if name != "mapping.w_avg")
    learnt = [name for name in before if name.endswith(".weight") and name not in kept]
    assert len(learnt) == 8 and all(not torch.equal(after[name], before[name]) for name in learnt)
    images = run.generator.decode(run.generator.sample(torch.arange(10), torch.Generator()), 0)
    assert images.shape == (10, 1, 16, 16)


def test_a_trained_one_is_whole_and_can_be_a_stem_itself(training, tmp_path):
    card = train_prior(PriorSettings(DATA, training, QUALITY), tmp_path / "first")
    assert card["training"]["stem"] == training.stem and card["training"]["generator"]["img_resolution"] == 8
    first = load_prior(str(tmp_path / "first.safetensors"))
    assert first.settings.heads == (Head(2, 3),) and first.settings.resolution == 16
    assert prior_card(str(tmp_path / "first.safetensors"))["settings"]["img_resolution"] == 8
    again = with_stem(str(tmp_path / "first.safetensors"), StyleGANXLSettings(heads=(Head(4, 4),)))
    assert again.heads == (Head(2, 3), Head(4, 4)) and again.resolution == 64


def test_a_stopped_training_of_a_head_goes_on_with_the_same_bits(training, digits, tmp_path):
    whole, parts = (GANTraining(digits.train, fit_to_data(training, digits.train)) for _ in range(2))
    for run in (whole, parts):
        run.step()
    parts.save(tmp_path / "state")
    resumed = GANTraining(digits.train, fit_to_data(training, digits.train))
    resumed.load(tmp_path / "state")
    for run in (whole, resumed):
        run.step()
    pairs = zip(whole.average.state_dict().values(), resumed.average.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_another_stem_is_another_training(training, tiny_prior, tmp_path):
    """So that a state of the same recipe on another stem is not gone on with."""
    changed = copy.deepcopy(tiny_prior)
    changed.synthesis.input.weight.mul_(2)
    keys = []
    for number, stem in enumerate((tiny_prior, changed, changed)):
        save_prior(tmp_path / "stem.safetensors", stem, {})
        settings = replace(training, stem=str(tmp_path / "stem.safetensors"))
        card = train_prior(PriorSettings(DATA, settings, QUALITY), tmp_path / f"{number}")
        keys.append(card["provenance"]["key"])
    assert keys[0] != keys[1] == keys[2]


def test_a_recipe_names_the_stem_and_its_cost_is_known(training, tmp_path):
    values = {
        "data": {"name": "digits", "resolution": 16},
        "training": {
            "stem": training.stem,
            "generator": {"heads": [HEAD]},
            "steps": 7,
        },
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    assert read_prior_settings(tmp_path / "r.yaml").training.generator.heads == (Head(2, 3),)
    assert 0 < PriorTask(tmp_path / "r.yaml", tmp_path / "out").cost < 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generator": {}}, "has no heads: with a stem expected"),
        ({"generator": {"kind": "biggan"}}, "has no heads: with a stem expected"),
        (
            {"generator": {"heads": [HEAD], "w_dim": 9}},
            "more than heads: expected no other",
        ),
        (
            {"generator": {"heads": [HEAD | {"up_factor": 4}]}},
            "makes 1 x 32 x 32 images of 10 classes: expected 1 x 16 x 16 images of 10 classes, by",
        ),
        ({"stem": "nothing"}, "unknown prior 'nothing'"),
        ({"stem": "digits-16-biggan"}, "is a biggan: expected a stylegan_xl"),
    ],
)
def test_what_cannot_be_put_together_is_one_line(training, digits, changes, message):
    with pytest.raises(HgladError, match=message) as found:
        fit_to_data(replace(training, **changes), digits.train)
    assert "\n" not in str(found.value)
