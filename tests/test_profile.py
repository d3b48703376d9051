"""Profiles: the shipped ones read, bad ones are refused in one line, every setting is explained."""

import ast
import re
from copy import deepcopy
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest
import yaml
from replacing import replace

from hglad.errors import HgladError
from hglad.experiments.definitions import EXPERIMENTS, experiments_of
from hglad.experiments.profile import Profile
from hglad.experiments.profile_file import profile_from, read_profile
from hglad.paths import PROJECT, results_folder
from hglad.priors.training.train import PriorSettings
from hglad.search.distillation import DistillationSettings
from hglad.settings import KINDS, ObjectiveSettings, SearchSettings, TrainingSettings, to_dict

PROFILES = sorted((PROJECT / "configs").glob("*.yaml"))
DIGITS = yaml.safe_load((PROJECT / "configs" / "digits.yaml").read_text())
NO_BASELINES = {"baselines": [], "augmentations": []}
NO_GENERATOR = NO_BASELINES | {"sweep_seeds": 0, "families": []}


def changed(key: str, value: object) -> dict:
    """The digits profile with the value at a dotted key replaced."""
    values = deepcopy(DIGITS)
    *groups, last = key.split(".")
    group = values
    for name in groups:
        group = group[name]
    group[last] = value
    return values


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_shipped_profiles_read_under_their_own_name(path):
    assert read_profile(path).profile == path.stem


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "configs" / "priors").glob("*.yaml")), ids=lambda path: path.stem
)
def test_shipped_settings_of_priors_read(path):
    assert isinstance(PriorSettings.from_yaml(path), PriorSettings)


def test_the_values_of_a_profile_arrive():
    profile = read_profile(PROJECT / "configs" / "digits.yaml")
    assert profile.data.name == "digits"
    assert profile.search == SearchSettings(**DIGITS["search"])
    assert profile.evaluation.training == TrainingSettings(**DIGITS["evaluation"]["training"])
    assert list(profile.networks) == list(DIGITS["networks"])
    assert set(profile.sets["searches"]) == set(KINDS)


def test_parameters_of_a_notebook_make_the_same_profile():
    assert profile_from(**DIGITS) == read_profile(PROJECT / "configs" / "digits.yaml")
    assert profile_from(**to_dict(profile_from(**DIGITS))) == profile_from(**DIGITS)


@pytest.mark.parametrize("key", [field.name for field in fields(Profile)])
def test_no_key_of_a_profile_may_be_missing(tmp_path, key):
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in DIGITS.items() if name != key}))
    with pytest.raises(HgladError, match=re.escape(f"{path}: key '{key}' is missing")):
        read_profile(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("serach", {}, "unknown key 'serach': did you mean 'search'?"),
        ("search.step", 3, "unknown key 'search.step': did you mean 'steps'?"),
        ("search.steps", "many", "search.steps is 'many' (str): expected int"),
        ("search.steps", 0, "search.steps is 0: expected at least 1"),
        ("search.stages", [2, 2], "search.stages is [2, 2]: expected every split point at most once"),
        ("search.shares", [1, "2"], "search.shares[1] is '2' (str): expected float"),
        ("metric.options", {"layers": 1}, "unknown key 'metric.options.layers': did you mean 'layer'?"),
        ("surrogate.objectives.dm.tuned", {"pixel": {}}, "tuned has 'pixel': did you mean 'pixels'?"),
        ("surrogate.objectives.dm.tuned", {"pixels": {"lr": 1}}, "unknown key 'surrogate.objectives"),
        ("surrogate.objectives.dm.at_ipc", {1: {"step": 1}}, "unknown key 'surrogate.objectives.dm.at_ipc.1"),
        ("surrogate.objectives.dm.at_ipc", {1: 3}, "dm.at_ipc.1 is 3: expected a mapping"),
        ("surrogate.objectives.dm.at_ipc", {0: {}}, "dm.at_ipc has 0: expected whole numbers of at least 1"),
        ("surrogate.objectives.dm.at_ipc", {1: {"average": 0}}, "search.average is 0: expected at least 1"),
        ("surrogate.objectives.dm.at_ipc", {1: {"layer": 2}}, "at_ipc.1 has layer 2: expected one layer"),
        (
            "surrogate.objectives.dm.at_ipc",
            {"one": {}},
            "at_ipc has the key 'one' (str): expected a whole number",
        ),
        (
            "metric.training",
            {"test_precision": "bfloat16"},
            "test_precision is 'bfloat16': the classifier of the metric is not tested; remove it",
        ),
        ("data.holdout", 1.5, "data.holdout is 1.5: expected 0 (none) to below 1"),
        ("search.rates", "fast", "search.rates is 'fast': expected absolute or relative"),
        ("search.selection", "best", "search.selection is 'best': expected metric or last"),
        ("search.select_every", 0, "search.select_every is 0: expected at least 1"),
        ("search.lr_pixels", "1e-2", "expected float; YAML reads 1e-2 as text: write 1.0e-2"),
        ("search.lr_pixels", "fast", "search.lr_pixels is 'fast' (str): expected float"),
        ("surrogate.network.name", "convnt", "surrogate.network.name has 'convnt': did you mean 'convnet'?"),
        ("surrogate.network", "convnet", "surrogate.network is 'convnet' (str): expected a mapping"),
        ("surrogate.network.dept", 3, "unknown key 'surrogate.network.dept': did you mean 'depth'?"),
        ("surrogate.augmentation", "colour", "colour"),
        ("surrogate.batch_real", 0, "surrogate.batch_real has 0: expected whole numbers of at least 1"),
        ("metric.name", "features", "metric has 'features': did you mean 'feature'?"),
        ("metric.compared", ["featur"], "metric has 'featur': did you mean 'feature'?"),
        ("metric.network", {"width": 3}, "metric.network is {'width': 3}: expected a mapping with a name"),
        ("metric.training.epochs", 0, "epochs"),
        ("evaluation.repeats", 0, "evaluation.repeats has 0: expected whole numbers of at least 1"),
        ("evaluation.training.epoch", 3, "unknown key 'evaluation.training.epoch': did you mean 'epochs'?"),
        ("evaluation.training", {"lr": -1}, "lr is -1.0; give a positive number"),
        ("networks", {}, "networks is {}: expected a label with {name: convnet}"),
        ("networks.A", {"name": "resnet"}, "networks.A.name has 'resnet': did you mean 'resnet18'?"),
        ("sets.searches", None, "sets.searches is None: expected a list such as"),
        ("sets.objectives", [], "sets.objectives is []: expected a list such as ['dm']"),
        ("sets.ipc", [], "sets.ipc is []: expected a list such as [1, 10]"),
        ("studies.baselines", ["hearding"], "studies.baselines has 'hearding': did you mean 'herding'?"),
        ("studies.baselines", ["random"], "studies.baselines has 'random': expected one of class_mean"),
        ("studies.baselines", "herding", "studies.baselines is 'herding' (str): expected tuple[str, ...]"),
        ("studies.augmentations", ["flop"], "unknown augmentation strategy 'flop'"),
        ("metric.held_out", 1.0, "metric.held_out is 1.0: expected a share between 0 and 1"),
        ("sets.searches", ["pixel"], "sets.searches has 'pixel': did you mean 'pixels'?"),
        ("sets.objectives", ["dn"], "sets.objectives has 'dn': "),
        ("sets.ipc", 1, "sets.ipc is 1: expected a list such as [1, 10]"),
        ("sets.ipc", [0], "sets.ipc has 0: expected whole numbers of at least 1"),
        ("sets.ipc", [1.0], "sets.ipc has 1.0: expected whole numbers of at least 1"),
        ("sets.seeds", ["0"], "sets.seeds has '0': expected whole numbers of at least 0"),
        ("sets.seeds", [True], "sets.seeds has True: expected whole numbers of at least 0"),
        ("sets.seed", [1], "unknown key 'sets.seed': did you mean 'seeds'?"),
        ("sets", {"ipc": [1]}, "sets.objectives is None: expected a list such as ['dm']"),
        ("studies.sweep_seeds", -1, "studies.sweep_seeds has -1: expected whole numbers of at least 0"),
        ("data", "digits", "data is 'digits': expected a mapping of keys to values"),
        ("data.resolution", "16 px", "data.resolution is '16 px' (str): expected int"),
        ("surrogate.network.depth", "3", "surrogate.network.depth is '3' (str): expected int"),
        ("surrogate.augmentation", "colour", "surrogate.augmentation: unknown augmentation strategy"),
        ("surrogate.objectives.dc.augmentation", "flap", "surrogate.objectives.dc.augmentation: unknown"),
        ("surrogate.objectives.dm.ipc", [0], "surrogate.objectives.dm.ipc has 0: expected whole numbers of"),
        ("metric.options", {"layer": "last"}, "metric.options.layer is 'last' (str): expected int"),
        ("metric.seed", -1, "metric.seed has -1: expected whole numbers of at least 0"),
        ("metric.compared", ["feature", "feature"], "metric.compared has 'feature' twice"),
        ("metric.training.lr", 0, "metric.training: the training setting lr is 0.0; give a positive number"),
        ("evaluation.full_set.epochs", 0, "evaluation.full_set: the training setting epochs"),
        ("evaluation.protocol", "glat", "evaluation.protocol: unknown evaluation protocol 'glat': did you"),
        ("networks", {3: {"name": "convnet"}}, "networks has the key 3 (int): expected text, in quotes"),
        ("search.average", 0, "search.average is 0: expected at least 1"),
        ("search.momentum", 1.0, "search.momentum is 1.0: expected a number from 0 to below 1"),
        ("search.lr_features", -1.0, "search.lr_features is -1.0: expected 0 or a positive number"),
        ("search.lr_weights", float("inf"), "search.lr_weights is inf: expected 0 or a positive number"),
        ("search.start", "zeros", "search.start is 'zeros': expected real or noise"),
        ("search.layer", -2, "search.layer is -2: expected a split point, 0 or more"),
        ("search.labels", [1, -1], "search.labels is [1, -1]: expected numbers from 0"),
        ("surrogate.objectives.mtt.experts.count", 0, "surrogate.objectives.mtt.experts: experts.count is 0"),
        ("sets.seeds", [0, 1, 0], "sets.seeds has 0 twice: expected every value once"),
        ("studies.augmentations", ["flip", "flip"], "studies.augmentations has 'flip' twice"),
    ],
)  # fmt: skip
def test_bad_values_are_named_with_their_file_in_one_line(tmp_path, key, value, message):
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(changed(key, value)))
    with pytest.raises(HgladError) as caught:
        read_profile(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"a: [1,\nb: {", "line 2"),
        (b"\xff\xfe\x80\x81", "can't decode"),
        (b"", "Profile is None: expected a mapping of keys to values"),
        (b"- 1\n- 2\n", "Profile is [1, 2]: expected a mapping of keys to values"),
    ],
    ids=["missing", "not yaml", "not text", "empty", "list"],
)
def test_unreadable_files_are_named_in_one_line(tmp_path, content, message):
    path = tmp_path / "p.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HgladError) as caught:
        read_profile(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_that_is_there_twice_is_named_with_its_line(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("profile: a\nsearch:\n  steps: 3\n  steps: 4\n")
    with pytest.raises(HgladError, match="the key 'steps' is there twice: remove one.*line 3"):
        read_profile(path)


def leaves(cls: type, where: str = "") -> list[tuple[str, object]]:
    """Dotted key and type of every setting that a profile reaches, groups included."""
    found = []
    for name in getattr(cls, "model_fields", None) or get_type_hints(cls):
        hint = get_type_hints(cls)[name]
        found.append((where + name, hint))
        inner = next(
            (each for each in (hint, *get_args(hint)) if is_dataclass(each) or hasattr(each, "model_fields")),
            None,
        )
        found += leaves(inner, f"{where}{name}.") if inner else []
    return found


LEAVES = leaves(Profile) + leaves(ObjectiveSettings, "surrogate.objectives.mtt.")
SETS_LEAVES = [(f"sets.{key}", list) for key in ("objectives", "searches", "ipc", "seeds")]


def test_the_walk_over_the_settings_reaches_every_group():
    groups = {key.rpartition(".")[0] for key, _ in LEAVES}
    assert groups >= {
        "", "data", "surrogate", "search", "metric", "metric.training", "evaluation", "evaluation.training",
        "evaluation.full_set", "studies", "surrogate.objectives.mtt", "surrogate.objectives.mtt.experts",
    }  # fmt: skip


WRONG = ({"a": "mapping"}, ["a list"], "a text", 0.5, True)


def accepts(hint: object, value: object) -> bool:
    """Whether a value may stand where a setting of this type is expected."""
    kinds = [get_origin(each) or each for each in (hint, *get_args(hint))]
    if isinstance(value, list):
        return list in kinds or (tuple in kinds and str in kinds)
    mapping = any(kind is dict or is_dataclass(kind) or hasattr(kind, "model_fields") for kind in kinds)
    return (isinstance(value, dict) and mapping) or type(value) in kinds


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key, hint in LEAVES + SETS_LEAVES for value in WRONG if not accepts(hint, value)],
)
def test_a_value_of_another_type_is_named_with_its_key(key, value):
    values = deepcopy(DIGITS)
    *groups, last = key.split(".")
    group = values
    for name in groups:
        group = group.setdefault(name, {})
    group[last] = value
    with pytest.raises(HgladError) as caught:
        profile_from(**values)
    assert key in str(caught.value) and "expected" in str(caught.value) and "\n" not in str(caught.value)


def test_the_folder_of_results(monkeypatch, tmp_path):
    monkeypatch.delenv("HGLAD_RESULTS", raising=False)
    assert results_folder("digits") == PROJECT / "data" / "results" / "digits"
    monkeypatch.setenv("HGLAD_RESULTS", str(tmp_path))
    assert results_folder("digits") == tmp_path


def is_dataclass_node(node: ast.AST) -> bool:
    """Whether a class is a dataclass or a model of settings."""
    if not isinstance(node, ast.ClassDef):
        return False
    named = [ast.unparse(each) for each in (*node.decorator_list, *node.bases)]
    return any("dataclass" in name or name in ("Settings", "GeneratorSettings") for name in named)


def is_text(node: ast.AST | None) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        and bool(node.value.value.strip())
    )


def unexplained(cls: ast.ClassDef) -> list[str]:
    """Fields of a dataclass without a docstring below them."""
    following = [*cls.body[1:], None]
    return [
        node.target.id
        for node, below in zip(cls.body, following, strict=True)
        if isinstance(node, ast.AnnAssign) and not is_text(below)
    ]


def settings_classes() -> dict[str, ast.ClassDef]:
    """Every dataclass of settings in the package, by file and name."""
    found = {}
    for path in sorted((PROJECT / "hglad").rglob("*.py")):
        for node in filter(is_dataclass_node, ast.walk(ast.parse(path.read_text()))):
            if path.name == "profile.py" or node.name.endswith("Settings"):
                found[f"{path.relative_to(PROJECT / 'hglad')}:{node.name}"] = node
    return found


@pytest.mark.parametrize(("name", "cls"), settings_classes().items(), ids=settings_classes())
def test_every_setting_has_a_docstring(name, cls):
    assert ast.get_docstring(cls)
    assert unexplained(cls) == []


def test_the_search_for_settings_finds_them_all():
    names = {name.split(":")[1] for name in settings_classes()}
    assert names >= {
        "Profile", "DistillationSettings", "GANSettings", "QualitySettings",
        "PriorSettings", "StyleGANXLSettings",
    }  # fmt: skip


def test_a_missing_docstring_is_noticed():
    source = 'class A:\n    a: int = 1\n    """Explained."""\n    b: int = 2\n    c: int\n    """ """\n'
    assert unexplained(ast.parse(source).body[0]) == ["b", "c"]


def test_paths_are_the_package_s_not_the_caller_s(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Path(PROJECT, "configs", "digits.yaml").is_file()
    assert read_profile(PROJECT / "configs" / "digits.yaml").profile == "digits"


def with_objectives(objectives: dict) -> dict:
    return DIGITS | {"surrogate": DIGITS["surrogate"] | {"objectives": objectives}}


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ({"dn": {}}, "unknown objective 'dn'"),
        ({"dc": {"option": {}}}, "unknown key 'surrogate.objectives.dc.option': did you mean 'options'"),
        (
            {"dc": {"options": {"distanze": "mse"}}},
            "unknown key 'surrogate.objectives.dc.options.distanze'",
        ),
        ({"dc": {"options": {"network": {}}}}, "unknown key 'surrogate.objectives.dc.options.network'"),
        (
            {"dc": {"options": {"outer_loops": "1"}}},
            "surrogate.objectives.dc.options.outer_loops is '1' (str)",
        ),
        (
            {"dc": {"search": {"lr_pixel": 1.0}}},
            "unknown key 'surrogate.objectives.dc.search.lr_pixel': did you mean",
        ),
        ({"dc": {"evaluation": {"epochs": 0}}}, "epochs"),
        (
            {"dm": {"experts": {"count": 1}}},
            "surrogate.objectives.dm.experts is set, but dm takes none: remove it",
        ),
        ({"mtt": {"options": {"lr_student_lr": "1e-6"}}}, "YAML reads 1e-2 as text: write 1.0e-2"),
        (
            {"mtt": {"options": {"max_start_epoch": 5}, "experts": {"epochs": 4}}},
            "surrogate.objectives.mtt.experts.epochs is 4: a start below 5 and 3 more need 7",
        ),
    ],
)
def test_what_an_objective_cannot_take_is_a_clear_error(objectives, message):
    with pytest.raises(HgladError) as error:
        profile_from(**with_objectives(objectives))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_settings_of_an_objective_change_only_its_own_runs():
    profile = profile_from(**with_objectives({"dc": {"search": {"steps": 7}, "augmentation": "flip"}}))
    dc, dm = (DistillationSettings.of(profile, name, "pixels", 1, 0) for name in ("dc", "dm"))
    assert (dc.search.steps, dc.surrogate.augmentation) == (7, "flip")
    assert dm.search == profile.search
    assert dm.surrogate == replace(profile.surrogate, objectives={})


def test_a_profile_without_a_prior_has_pixels_only():
    without = DIGITS | {"prior": None, "studies": DIGITS["studies"] | NO_GENERATOR}
    with pytest.raises(HgladError, match="without a prior: expected \\['pixels'\\]"):
        profile_from(**without)
    profile = profile_from(**without | {"sets": DIGITS["sets"] | {"searches": ["pixels"]}})
    assert experiments_of(profile) == ["matching_objectives"]
    with pytest.raises(HgladError, match="has no prior for the search 'hierarchical'"):
        DistillationSettings.of(profile, "dm", "hierarchical", 1, 0)


def test_without_searches_there_are_baselines_only():
    surrogate = DIGITS["surrogate"] | {"objectives": {}}
    studies = DIGITS["studies"] | NO_GENERATOR | {"baselines": ["herding", "class_mean"]}
    without = DIGITS | {"surrogate": surrogate, "sets": DIGITS["sets"] | {"searches": []}}
    profile = profile_from(**without | {"prior": None, "studies": studies})
    assert experiments_of(profile) == ["baselines"]
    for name in ("samples", "samples_averaged"):
        sampled = studies | {"baselines": ["herding", name]}
        with pytest.raises(HgladError, match=f"studies.baselines has '{name}' without a prior: name one"):
            profile_from(**without | {"prior": None, "studies": sampled})
        assert experiments_of(profile_from(**without | {"studies": sampled}))[-1] == "baselines"


def test_experiments_follow_from_the_settings():
    studies = DIGITS["studies"] | {"ablation_seeds": 1, "part_seeds": 1, "audit_seeds": 1}
    studies |= {"baselines": ["herding"], "augmentations": []}
    assert experiments_of(profile_from(**DIGITS | {"studies": studies})) == list(EXPERIMENTS)
    asked = studies | {"experiments": ["paper_vs_code", "glad_baseline"]}
    assert experiments_of(profile_from(**DIGITS | {"studies": asked})) == ["glad_baseline", "paper_vs_code"]
    without = DIGITS | {"studies": DIGITS["studies"] | NO_BASELINES}
    assert experiments_of(profile_from(**without))[1:] == [
        "glad_baseline", "hierarchical_search", "cross_architecture", "claims",
    ]  # fmt: skip
    changes = {
        "studies": {"ablation_seeds": 0, "cross_seeds": 0},
        "surrogate": DIGITS["surrogate"] | {"objectives": {}},
    }
    left = ["glad_baseline", "hierarchical_search", "claims"]
    assert experiments_of(profile_from(**DIGITS | changes)) == left
    sets = DIGITS["sets"] | {"searches": ["pixels", "single"]}
    assert experiments_of(profile_from(**DIGITS | changes | {"sets": sets})) == ["glad_baseline"]
