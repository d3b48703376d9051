"""Named protocols: those that the papers published, and how a profile takes them with changes of its own."""

import re
from copy import deepcopy

import pytest
import yaml

from hglad.errors import HgladError
from hglad.evaluation.training import protocol
from hglad.experiments.profile import Profile
from hglad.experiments.profile_file import profile_from, read_profile
from hglad.paths import PROJECT
from hglad.settings import PROTOCOLS, TrainingSettings

SHARED = {"batch_size": 256, "momentum": 0.9, "weight_decay": 5e-4}
SHARED |= {"precision": "float32", "test_precision": "float32"}
DSA = "color_crop_cutout_flip_scale_rotate"
PUBLISHED = {
    "glad": {
        "epochs": 1000, "lr": 0.001, "schedule": "warmup_cosine", "augmentation": DSA, "ema_decay": 0.995,
    },
    "dm": {"epochs": 1000, "lr": 0.01, "schedule": "step", "augmentation": DSA, "ema_decay": None},
    "dc": {
        "epochs": 300, "lr": 0.01, "schedule": "step", "augmentation": "crop_scale_rotate", "ema_decay": None,
    },
}  # fmt: skip
DIGITS = yaml.safe_load((PROJECT / "configs" / "digits.yaml").read_text())


def profile_with(**evaluation) -> Profile:
    """The digits profile with another `evaluation`."""
    values = deepcopy(DIGITS)
    kept = {key: values["evaluation"][key] for key in ("repeats", "full_set")}
    return profile_from(**values | {"evaluation": kept | evaluation})


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_profile_takes_a_protocol_and_its_own_keys_over_it(name):
    assert vars(profile_with(protocol=name).evaluation.training) == SHARED | PUBLISHED[name]
    own = {"epochs": 7, "ema_decay": None}
    found = profile_with(protocol=name, training=own).evaluation.training
    assert vars(found) == SHARED | PUBLISHED[name] | own


def test_without_a_name_the_protocol_is_that_of_glad():
    assert profile_with().evaluation.training == TrainingSettings() == protocol("glad")


def test_the_protocol_does_not_reach_the_full_set():
    full = profile_with(protocol="dc", full_set={"epochs": 5}).evaluation.full_set
    assert full == TrainingSettings(epochs=5)


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"protocol": "gladd"}, "protocol is 'gladd': expected 'glad', 'dm' or 'dc'; did you mean 'glad'?"),
        ({"protocol": ["dc"]}, "protocol is ['dc']: expected 'glad', 'dm' or 'dc'"),
        ({"protocol": None}, "protocol is None: expected 'glad', 'dm' or 'dc'"),
        ({"protocol": "dc", "training": {"epoch": 3}}, "unknown key 'evaluation.training.epoch': did you"),
        ({"training": 3}, "evaluation.training is 3 (int): expected a mapping of keys to values"),
        ({"training": {"precision": "float16"}}, "precision is 'float16': expected 'float32' or 'bfloat16'"),
        ({"networks": {"VGG": {"lr": 1.0e-4}}}, "evaluation.networks has 'VGG': did you mean 'VGG-11'?"),
        ({"networks": {"VGG-11": {"rate": 1.0}}}, "unknown key 'evaluation.networks.VGG-11.rate'"),
        ({"networks": {"VGG-11": 1.0e-4}}, "evaluation.networks.VGG-11 is 0.0001: expected a mapping"),
        ({"networks": {"VGG-11": None}}, "evaluation.networks.VGG-11 is None: expected a mapping"),
        (
            {"networks": {"VGG-11": {"lr": "1e-4"}}},
            "expected a number; YAML reads 1e-2 as text: write 1.0e-2",
        ),
        ({"networks": ["VGG-11"]}, "evaluation.networks is ['VGG-11'] (list): expected a mapping"),
    ],
)
def test_what_an_evaluation_cannot_take_is_named_in_one_line(evaluation, message):
    with pytest.raises(HgladError, match=re.escape(message)) as caught:
        profile_with(**evaluation)
    assert "\n" not in str(caught.value)


def test_changes_for_an_architecture_come_over_those_for_an_objective():
    values = deepcopy(DIGITS)
    values["surrogate"]["objectives"]["dc"]["evaluation"] = {"lr": 0.3, "epochs": 4}
    values["evaluation"] |= {"networks": {"VGG-11": {"lr": 0.2}}}
    profile = profile_from(**values)
    usual = profile.evaluation.training
    found = {(n, o): profile.training(n, o) for n in ("VGG-11", "ConvNet-3") for o in (None, "dm", "dc")}
    assert {key: (each.lr, each.epochs) for key, each in found.items()} == {
        ("ConvNet-3", None): (usual.lr, usual.epochs),
        ("ConvNet-3", "dm"): (usual.lr, usual.epochs),
        ("ConvNet-3", "dc"): (0.3, 4),
        ("VGG-11", None): (0.2, usual.epochs),
        ("VGG-11", "dm"): (0.2, usual.epochs),
        ("VGG-11", "dc"): (0.2, 4),
    }


def test_the_profile_of_the_baselines_is_trained_as_dc_was():
    training = read_profile(PROJECT / "configs" / "cifar10-baselines.yaml").training("ConvNet-3")
    own = {"augmentation": "", "precision": "bfloat16"}
    assert vars(training) == SHARED | PUBLISHED["dc"] | own
