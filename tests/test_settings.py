"""Settings: read in one line of an error, frozen, explained; what a key is made of."""

import re
import subprocess
import sys

import pytest
import yaml

import hglad.settings
from hglad.data.augmentation import STRATEGIES as TRANSFORMS
from hglad.errors import HgladError
from hglad.evaluation.training import SCHEDULES
from hglad.paths import PROJECT
from hglad.settings import (
    DSA,
    PROTOCOLS,
    STRATEGIES,
    WITH_GENERATOR,
    DataSettings,
    EvaluationSettings,
    ExpertSettings,
    MetricSettings,
    Override,
    Profile,
    SearchSettings,
    Sets,
    Settings,
    TrainingSettings,
    When,
    derive_seed,
    fingerprint,
    read_plain,
    set_values,
    suggestion,
)

CLASSES = [
    each for each in vars(hglad.settings).values() if isinstance(each, type) and issubclass(each, Settings)
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_setting_is_explained(cls):
    assert cls.__doc__ and all(field.description for field in cls.model_fields.values())


def test_nothing_here_needs_torch():
    code = "import sys, hglad.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (SearchSettings, {"step": 3}, "unknown key 'step': did you mean 'steps'?"),
        (SearchSettings, {"steps": "many"}, "steps is 'many' (str): expected a whole number"),
        (SearchSettings, {"steps": True}, "steps is True (bool): expected a whole number"),
        (SearchSettings, {"steps": 1.0}, "steps is 1.0 (float): expected a whole number"),
        (SearchSettings, {"steps": 0}, "steps is 0: expected at least 1"),
        (SearchSettings, {"layer": -2}, "layer is -2: expected at least 0"),
        (SearchSettings, {"stages": [2, 2]}, "stages has 2 twice: expected every value once"),
        (SearchSettings, {"stages": 2}, "stages is 2 (int): expected a list"),
        (SearchSettings, {"shares": [1, "2"]}, "shares[1] is '2' (str): expected a number"),
        (SearchSettings, {"shares": [1, 0]}, "shares[1] is 0: expected more than 0"),
        (SearchSettings, {"lr_pixels": "1e-2"}, "expected a number; YAML reads 1e-2 as text: write 1.0e-2"),
        (SearchSettings, {"lr_pixels": "fast"}, "lr_pixels is 'fast' (str): expected a number"),
        (SearchSettings, {"lr_weights": float("inf")}, "lr_weights is inf: expected a finite number"),
        (SearchSettings, {"momentum": 1.0}, "momentum is 1.0: expected below 1"),
        (SearchSettings, {"rates": "relativ"}, "rates is 'relativ': expected 'absolute' or 'relative'; did"),
        (SearchSettings, {"selection": None}, "selection is None: expected 'metric' or 'last'"),
        (DataSettings, {"root": 3}, "root is 3 (int): expected text"),
        (DataSettings, {"name": "folder", "resolution": 3}, "root is missing: an image folder needs"),
        (DataSettings, {"holdout": 1.0}, "holdout is 1.0: expected below 1"),
        (TrainingSettings, {"augmentation": "flop"}, "augmentation is 'flop': unknown strategy 'flop', did"),
        (TrainingSettings, {"ema_decay": 1.5}, "ema_decay is 1.5: expected below 1"),
        (MetricSettings, {"network": {"width": 3}}, "network is {'width': 3}, without a name: expected a ma"),
        (MetricSettings, {"network": "convnet"}, "network is 'convnet' (str): expected a mapping of keys"),
        (MetricSettings, {"training": {"epoch": 1}}, "unknown key 'training.epoch': did you mean 'epochs'?"),
        (MetricSettings, {"training": {"test_precision": "bfloat16"}}, "training.test_precision is set, but"),
        (EvaluationSettings, {"protocol": "glat"}, "protocol is 'glat': expected 'glad', 'dm' or 'dc'; did"),
        (EvaluationSettings, {"protocol": ["dc"]}, "protocol is ['dc']: expected 'glad', 'dm' or 'dc'"),
        (EvaluationSettings, {"protocol": "dc", "training": {"epoch": 3}}, "unknown key 'training.epoch'"),
        (EvaluationSettings, {"training": 3}, "training is 3 (int): expected a mapping of keys to values"),
        (Sets, {"objectives": ["dm"], "ipc": [1], "seeds": [0]}, "key 'searches' is missing: give it"),
        (When, {"search": "pixel"}, "search[0] is 'pixel': expected 'pixels', 'single' or 'hierarchical'; d"),
        (Override, {"set": {3: 1}}, "set has the key 3: expected text, in quotes"),
        (Override, [1, 2], "Override is [1, 2]: expected a mapping of keys to values"),
        (Override, None, "Override is None: expected a mapping of keys to values"),
    ],
)  # fmt: skip
def test_a_bad_value_is_one_line_with_its_key(cls, values, message):
    with pytest.raises(HgladError) as caught:
        cls.read(values)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(HgladError, match=re.escape("here.") if isinstance(values, dict) else "here is"):
        cls.read(values, "here.")
    if isinstance(values, dict) and all(isinstance(key, str) for key in values):
        with pytest.raises(HgladError) as direct:  # so it is where settings are made directly
            cls(**values)
        assert str(direct.value) == str(caught.value)


def test_values_arrive_and_stay_as_they_are():
    settings = SearchSettings(steps=3, stages=[0, 2], lr_pixels=1)
    assert (settings.stages, settings.lr_pixels, type(settings.lr_pixels)) == ((0, 2), 1.0, float)
    assert DataSettings("digits", resolution=8) == DataSettings(name="digits", resolution=8)
    with pytest.raises(ValueError, match="frozen"):
        settings.steps = 4
    assert settings.changed(steps=4) == SearchSettings(steps=4, stages=(0, 2), lr_pixels=1.0)
    with pytest.raises(HgladError, match="steps is 0: expected at least 1"):
        settings.changed(steps=0)
    assert SearchSettings.read(settings.to_dict()) == settings and settings.to_dict()["stages"] == [0, 2]


def test_a_protocol_is_the_usual_training_and_own_keys_come_over_it():
    for name, usual in PROTOCOLS.items():
        assert EvaluationSettings(protocol=name).training == usual
        own = EvaluationSettings.read({"protocol": name, "training": {"epochs": 7, "ema_decay": None}})
        assert own.training == usual.changed(epochs=7, ema_decay=None)
    assert EvaluationSettings().training == TrainingSettings() == PROTOCOLS["glad"]
    assert EvaluationSettings(protocol="dc", full_set={"epochs": 5}).full_set == TrainingSettings(epochs=5)
    assert PROTOCOLS["dc"].changed(epochs=1000, augmentation=DSA) == PROTOCOLS["dm"]
    assert (PROTOCOLS["dm"].lr, PROTOCOLS["dm"].schedule, PROTOCOLS["dm"].ema_decay) == (0.01, "step", None)


def test_names_are_those_of_what_they_stand_for():
    assert set(STRATEGIES) == set(TRANSFORMS) - {"none"}
    assert all(TrainingSettings(schedule=name).schedule == name for name in SCHEDULES)
    training = ExpertSettings(epochs=3, lr=0.5).training
    assert (training.epochs, training.lr, training.momentum, training.schedule) == (3, 0.5, 0.0, "constant")


def test_unreadable_files_are_named_in_one_line(tmp_path):
    contents = {None: "No such file", b"a: [1,\nb: {": "line 2", b"\xff\xfe\x80\x81": "can't decode"}
    contents |= {
        b"": "SearchSettings is None",
        b"steps: 3\nsteps: 4\n": "the key 'steps' is there twice: remove",
    }
    for content, message in contents.items():
        path = tmp_path / f"{len(message)}.yaml"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(HgladError, match=re.escape(message)) as caught:
            SearchSettings.from_yaml(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_is_named_before_the_key(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("steps: 0\n")
    with pytest.raises(HgladError, match=re.escape(f"{path}: steps is 0: expected at least 1")):
        SearchSettings.from_yaml(path)
    path.write_text("steps: 3\n")
    assert SearchSettings.from_yaml(path) == SearchSettings(steps=3) and read_plain(path) == {"steps": 3}


def test_identity_is_what_differs_from_the_defaults():
    assert SearchSettings().identity() == {} == SearchSettings(steps=1000, memory=3.0).identity()
    assert SearchSettings(steps=3, stages=(0, 1)).identity() == {"steps": 3, "stages": [0, 1]}
    metric = MetricSettings(compared=(), training={"epochs": 3}, seed=1)
    assert metric.identity() == {"training": {"epochs": 3}, "seed": 1}  # not what is measured beside it

    class Later(SearchSettings):
        """With one more option."""

        extra: float = 0.5
        """An option that came later."""

    assert Later(steps=3).identity() == SearchSettings(steps=3).identity()
    assert Later(steps=3, extra=1.0).identity() == {"steps": 3, "extra": 1.0}


def test_fingerprints_follow_from_settings_and_values():
    one = fingerprint(SearchSettings(steps=3), ["a", 1], {"b": 2})
    assert one == fingerprint(SearchSettings(steps=3, memory=1.0), ("a", 1), {"b": 2}) and len(one) == 12
    others = [fingerprint(SearchSettings(steps=4), ["a", 1], {"b": 2}), fingerprint(SearchSettings(), ["a"])]
    assert len({one, *others}) == 3
    assert fingerprint([SearchSettings()]) == fingerprint([{}]) and derive_seed("a", 1) != derive_seed("a", 2)
    assert 0 <= derive_seed("expert", 0) < 2**60


def test_what_means_something_with_a_generator_only_says_so():
    assert {"average", "layer", "stages", "styles", "precision"} < set(WITH_GENERATOR)
    assert not {"steps", "lr_pixels", "momentum", "selection", "start", "memory"} & set(WITH_GENERATOR)
    usual = SearchSettings(steps=3, lr_pixels=2.0)
    assert usual.changed(average=5, layer=1, truncation=0.5).without_generator() == usual
    usual.check_without_generator("search", "there is no prior")
    with pytest.raises(
        ValueError, match=re.escape("search.stages is [0, 1], but there is no prior: it says")
    ):
        usual.changed(stages=(0, 1)).check_without_generator("search", "there is no prior")


def test_values_are_set_at_dotted_keys():
    values = {"a": {"b": 1}, "c": 2}
    set_values(values, {"a.b": 3, "d.e.f": 4, "c": 5})
    assert values == {"a": {"b": 3}, "c": 5, "d": {"e": {"f": 4}}}
    with pytest.raises(HgladError, match=re.escape("unknown key 'x.c.d': c is a single value")):
        set_values(values, {"c.d": 1}, "x.")


def test_the_nearest_name_is_advice():
    assert suggestion("stepz", ["steps", "layer"]) == "did you mean 'steps'?"
    assert (
        suggestion("zzz", ["b", "a"]) == "expected one of a, b" and suggestion("a", []) == "there is none yet"
    )


@pytest.mark.parametrize("path", sorted((PROJECT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_profiles_read_under_their_own_name_and_survive_plain_values(path):
    profile = Profile.from_yaml(path)
    assert (
        profile.profile == path.stem
        and Profile.read(yaml.safe_load(yaml.safe_dump(profile.to_dict()))) == profile
    )
