"""Settings that are right one by one and cannot be together are refused when a profile is read."""

import pytest
import yaml
from replacing import replace
from smoke_profile import SMOKE, changed

from hglad.errors import HgladError
from hglad.experiments.combinations import NEEDS
from hglad.experiments.definitions import EXPERIMENTS, cross_architecture
from hglad.experiments.profile import Profile
from hglad.experiments.profile_file import profile_from, read_profile
from hglad.search.distillation import WITHOUT_GENERATOR
from hglad.settings import to_dict

NOTHING = {
    "sweep_seeds": 0, "families": [], "ablation_seeds": 0, "part_seeds": 0, "audit_seeds": 0,
    "cross_seeds": 0, "baselines": [], "augmentations": [],
}  # fmt: skip
PIXELS = {"prior": None, "sets.searches": ["pixels"], "studies": {"matching_seeds": 1} | NOTHING}
MTT_FREE = {"surrogate.objectives": {"dm": {}}}


def made(**changes) -> Profile:
    """The smoke profile with the values at some dotted keys replaced."""
    return profile_from(**changed(**changes))


CASES = [
    ({"profile": ""}, "profile is '': expected a name"),
    ({"profile": "../up"}, "profile is '../up': expected a name"),
    ({"data": {"name": "folder", "resolution": 8}}, "data.root is missing: an image folder needs its root"),
    ({"data": {"name": "folder", "root": "x"}}, "data.resolution is missing: an image folder needs"),
    ({"data.resolution": 0}, "data.resolution is 0: expected at least 1"),
    ({"surrogate.objectives.mtt": {}}, "mtt.experts is missing: mtt matches trajectories of networks that"),
    ({"sets.objectives": ["mtt"], **MTT_FREE}, "surrogate.objectives.mtt.experts is missing"),
    ({"surrogate.objectives.dc.ipc": [10]}, "dc.ipc has 10: expected some of sets.ipc, [1]"),
    (
        {"surrogate.objectives.dc.at_ipc": {10: {"average": 1}}},
        "dc.at_ipc has 10: expected some of those of this objective, [1]",
    ),
    (
        {"sets.ipc": [1, 2], "surrogate.objectives.dc": {"ipc": [1], "at_ipc": {2: {"steps": 9}}}},
        "dc.at_ipc has 2: expected some of those of this objective, [1]",
    ),
    (
        PIXELS | {"surrogate.objectives.dm.at_ipc": {1: {"average": 10}}},
        "surrogate.objectives.dm.at_ipc.1.average is 10, but there is no prior",
    ),
    (
        {"sets.ipc": [1, 2], "surrogate.objectives.dc.search": {"average": 10}},
        "search.average is 10 at 2 images per class, which would start alike: give 1, in a profile by "
        "surrogate.objectives.dc.at_ipc",
    ),
    ({"metric.name": "accuracy"}, "metric.name is 'accuracy', which keeps images for itself"),
    (PIXELS | {"search.average": 1000}, "search.average is 1000, but there is no prior"),
    ({"surrogate.objectives.dm.tuned": {"pixels": {"truncation": 0.5}}}, "tuned.pixels.truncation is 0.5,"),
    ({"studies.experiments": ["hierarchical"]}, "'hierarchical': did you mean 'hierarchical_search'?"),
    (
        {"studies.experiments": ["paper_vs_code"], "studies.audit_seeds": 0},
        "has 'paper_vs_code', which needs hierarchical in sets.searches and studies.audit_seeds",
    ),
    ({"studies.cross_seeds": 9}, "studies.cross_seeds is 9, but sets.seeds has 2: expected at most 2"),
    ({"studies.sweep_seeds": 4}, "studies.sweep_seeds is 4, but sets.seeds has 2"),
    ({"studies.part_seeds": 0}, "ablation_seeds is 1, but the metric ablation takes studies."),
    (
        {"studies.parts": ["no pixel stage"], "studies.ablation_seeds": 0, "studies.part_seeds": 0},
        "studies.parts is ('no pixel stage',), but the metric ablation takes studies.ablation_seeds and",
    ),
    ({"studies.parts": ["no pixels"]}, "studies.parts has 'no pixels': did you mean 'no pixel stage'?"),
    ({"sets.searches": ["pixels", "single"]}, "sets.searches has no 'hierarchical'"),
    (PIXELS | {"studies": NOTHING | {"sweep_seeds": 1}}, "studies.sweep_seeds is 1, but there is no prior"),
    (
        PIXELS | {"studies": NOTHING | {"families": ["digits-16"]}},
        "studies.families is ('digits-16',), but there is no prior",
    ),
    ({"studies.baselines": []}, "studies.augmentations is ('',), but studies.baselines is empty"),
    (
        {"surrogate.objectives": {}},
        "studies.matching_seeds is 1, but surrogate.objectives is empty: it has no effect",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), CASES, ids=[message[:50] for _, message in CASES])
def test_what_cannot_be_together_is_one_clear_line(changes, message):
    with pytest.raises(HgladError) as caught:
        made(**changes)
    assert message in str(caught.value) and "\n" not in str(caught.value)


OTHER = {  # a value that says something, for each setting of a generator
    "average": 10, "budget": "flops", "latent_stage": True, "shares": [1.0], "stage_lr_f": [1.0],
    "stage_lr_w": [1.0], "nan_to_zero": False, "truncation": 0.5, "labels": [3], "features": "gaussian",
    "lr_weights": 0.1, "precision": "bfloat16", "stage_start": "last", "normalise_generated": False,
    "styles": "frozen",
}  # fmt: skip


def test_every_setting_of_a_generator_has_a_value_here():
    assert OTHER.keys() == WITHOUT_GENERATOR.keys()


@pytest.mark.parametrize(("key", "value"), OTHER.items())
def test_settings_of_a_generator_are_refused_without_one(key, value):
    with pytest.raises(HgladError, match=f"search.{key} is .*, but there is no prior: it says"):
        made(**PIXELS | {f"search.{key}": value})
    only = PIXELS | {"prior": "digits-16"}
    with pytest.raises(HgladError, match=f"search.{key} is .*, but sets.searches has pixels only"):
        made(**only | {f"search.{key}": value})
    swept = {"studies": only["studies"] | {"sweep_seeds": 1}}  # single layers
    assert made(**only | swept | {f"search.{key}": value}).prior == "digits-16"


def test_defaults_ask_for_nothing():
    """A profile written out with all its defaults reads again, however few seeds and searches it has."""
    profile = made(**PIXELS | {"studies": {}, "sets.seeds": [5]})
    assert profile.studies.cross_seeds > len(profile.sets["seeds"])
    assert profile_from(**to_dict(profile)) == profile


def test_parts_of_a_profile_are_not_held_to_it():
    """Experiments make profiles of fewer seeds and searches out of one."""
    profile = made()
    part = replace(profile, sets=profile.sets | {"seeds": [0], "searches": ["pixels"]})
    assert cross_architecture(part).evaluations


def test_every_experiment_says_what_it_needs():
    assert NEEDS.keys() == EXPERIMENTS.keys()


def test_the_file_is_named(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(SMOKE | {"studies": SMOKE["studies"] | {"cross_seeds": 9}}))
    with pytest.raises(HgladError, match=f"^{path}: studies.cross_seeds is 9"):
        read_profile(path)
