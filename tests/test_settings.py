"""Settings: what is read, what is refused and in which words, and the fingerprint that names a result."""

from dataclasses import dataclass, field, fields
from typing import Any

import pytest
import yaml
from replacing import replace

from hglad.errors import HgladError
from hglad.settings import (
    derive_seed,
    fingerprint,
    from_dict,
    identity,
    is_later,
    later,
    read_yaml,
    suggestion,
    to_dict,
)


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    layers: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    name: str
    count: int
    inner: Inner = field(default_factory=Inner)
    limit: float | None = None
    size: tuple[int, str] = (3, "px")
    options: dict[str, Any] = field(default_factory=dict)
    flag: bool = False


GIVEN = {"name": "a", "count": 3}
OUTER = Outer("a", 3)


def test_defaults_fill_what_is_not_given():
    assert from_dict(Outer, GIVEN) == OUTER


def test_values_as_yaml_gives_them():
    plain = "name: b, count: 4, limit: 2, flag: true"
    nested = "inner: {rate: 1, layers: [5]}, size: [7, mm], options: {x: [1]}"
    settings = from_dict(Outer, yaml.safe_load(f"{{{plain}, {nested}}}"))
    assert settings == Outer("b", 4, Inner(1.0, (5,)), 2.0, (7, "mm"), {"x": [1]}, True)
    assert type(settings.inner.rate) is float
    assert type(settings.limit) is float
    assert type(settings.inner.layers) is tuple


def test_none_and_ready_dataclasses_are_taken():
    settings = from_dict(Outer, GIVEN | {"limit": None, "inner": Inner(layers=())})
    assert settings == replace(OUTER, inner=Inner(layers=()))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "a"}, "key 'count' is missing: expected int"),
        ({"cuont": 1}, "unknown key 'cuont': did you mean 'count'?"),
        ({"zzz": 1}, "unknown key 'zzz': expected one of count, flag, inner, limit, name, options, size"),
        ({1: 2}, "unknown key '1': expected one of count, flag, inner, limit, name, options, size"),
        (GIVEN | {"inner": {"rte": 1}}, "unknown key 'inner.rte': did you mean 'rate'?"),
        (GIVEN | {"inner": 3}, "inner is 3: expected a mapping of keys to values"),
        (GIVEN | {"count": True}, "count is True (bool): expected int"),
        (GIVEN | {"count": 1.0}, "count is 1.0 (float): expected int"),
        (GIVEN | {"count": None}, "count is None (NoneType): expected int"),
        (GIVEN | {"flag": 1}, "flag is 1 (int): expected bool"),
        (GIVEN | {"name": 1}, "name is 1 (int): expected str"),
        (GIVEN | {"limit": "x"}, "limit is 'x' (str): expected float"),
        (GIVEN | {"limit": True}, "limit is True (bool): expected float"),
        (
            GIVEN | {"inner": {"rate": "1e-2"}},
            "inner.rate is '1e-2' (str): expected float; YAML reads 1e-2 as text: write 1.0e-2",
        ),
        (GIVEN | {"inner": {"layers": [1, "b"]}}, "inner.layers[1] is 'b' (str): expected int"),
        (GIVEN | {"inner": {"layers": 3}}, "inner.layers is 3 (int): expected tuple[int, ...]"),
        (GIVEN | {"size": [1]}, "size is [1] (list): expected tuple[int, str]"),
        (GIVEN | {"options": {1: 2}}, "options has the key 1 (int): expected text, in quotes"),
        (GIVEN | {"options": [1]}, "options is [1] (list): expected a mapping of keys to values"),
        ([1], "Outer is [1]: expected a mapping of keys to values"),
        (None, "Outer is None: expected a mapping of keys to values"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(HgladError) as caught:
        from_dict(Outer, values)
    assert str(caught.value) == message


@dataclass(frozen=True)
class Bounded:
    low: int = 0

    def __post_init__(self):
        if self.low < 0:
            raise HgladError(f"low is {self.low}: expected 0 or more")


@dataclass(frozen=True)
class Holder:
    bounds: Bounded = field(default_factory=Bounded)


def test_an_error_of_a_group_says_which_group_it_is():
    with pytest.raises(HgladError, match=r"^bounds: low is -1: expected 0 or more$"):
        from_dict(Holder, {"bounds": {"low": -1}})
    with pytest.raises(HgladError, match=r"^low is -1"):
        from_dict(Bounded, {"low": -1})


def test_a_key_that_is_there_twice_is_refused_at_any_depth(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("bounds: {low: 1, low: 2}")
    with pytest.raises(HgladError, match=f"cannot read {path}: the key 'low' is there twice: remove one"):
        read_yaml(Holder, path)
    path.write_text("bounds: {low: 2}")
    assert read_yaml(Holder, path) == Holder(Bounded(2))


def test_what_builds_the_settings_may_refuse_more(tmp_path):
    def build(cls, values):
        raise HgladError(f"{cls.__name__} of {values} is not wanted")

    path = tmp_path / "s.yaml"
    path.write_text("bounds: {low: 2}")
    with pytest.raises(HgladError, match=f"{path}: Holder of .* is not wanted"):
        read_yaml(Holder, path, build)


def test_yaml_does_read_1e_2_as_text():
    assert yaml.safe_load("[1e-2, 1.0e-2]") == ["1e-2", 0.01]


def test_suggestion_is_the_nearest_name_or_all_of_them():
    assert suggestion("resnet", ["vit", "resnet18"]) == "did you mean 'resnet18'?"
    assert suggestion("?", ["vit", "alexnet"]) == "expected one of alexnet, vit"
    assert suggestion("?", []) == "there is none yet"


def test_plain_values_go_through_yaml_and_back():
    settings = Outer("b", 4, Inner(0.1, (5, 6)), 1e-7, (7, "mm"), {"x": [1]}, True)
    plain = to_dict(settings)
    assert plain["inner"] == {"rate": 0.1, "layers": [5, 6]}
    assert from_dict(Outer, plain) == settings
    assert from_dict(Outer, yaml.safe_load(yaml.safe_dump(plain))) == settings


def test_fingerprint_is_that_of_earlier_versions():
    """Results are kept under it: another value makes everybody compute everything again."""
    assert fingerprint(OUTER) == "ae3c4b16add1"
    assert fingerprint("x", [1, 2.5, None]) == "107afb6b35d6"


@pytest.mark.parametrize(
    "change",
    [
        {"name": "b"},
        {"count": 4},
        {"inner": Inner(rate=0.25)},
        {"inner": Inner(layers=(2, 1))},
        {"limit": 1.0},
        {"size": (3, "mm")},
        {"options": {"x": 1}},
        {"flag": True},
    ],
    ids=str,
)
def test_fingerprint_depends_on_every_field(change):
    assert fingerprint(replace(OUTER, **change)) != fingerprint(OUTER)


@dataclass(frozen=True)
class InnerNow(Inner):
    """With fields that came later."""

    smooth: bool = later(False)
    extra: dict[str, Any] = later(dict)


@dataclass(frozen=True)
class OuterNow(Outer):
    inner: InnerNow = field(default_factory=InnerNow)
    count_most: int | None = later(None)


NOW = OuterNow("a", 3)


def test_fields_that_came_later_leave_the_fingerprint_as_it_was():
    assert fingerprint(NOW) == fingerprint(OUTER) == "ae3c4b16add1"
    assert fingerprint("x", NOW, 2) == fingerprint("x", OUTER, 2)
    assert (
        identity(NOW) == identity(OUTER) == to_dict(OUTER) | {"size": (3, "px"), "inner": identity(Inner())}
    )


def test_fields_that_came_later_count_where_they_are_used():
    used = [
        replace(NOW, count_most=0),
        replace(NOW, inner=InnerNow(smooth=True)),
        replace(NOW, inner=InnerNow(extra={"a": 1})),
        replace(NOW, inner=InnerNow(extra={"a": 2})),
        replace(NOW, count_most=0, inner=InnerNow(smooth=True)),
    ]
    assert len({fingerprint(NOW), *map(fingerprint, used)}) == 6
    assert identity(used[1])["inner"] == identity(Inner()) | {"smooth": True}


def test_fields_that_came_later_are_read_and_written_as_others():
    given = GIVEN | {"inner": {"smooth": True, "extra": {"b": 2}}, "count_most": 4}
    settings = from_dict(OuterNow, given)
    assert settings == replace(NOW, inner=InnerNow(smooth=True, extra={"b": 2}), count_most=4)
    assert from_dict(OuterNow, to_dict(settings)) == settings
    assert to_dict(NOW)["inner"]["extra"] == {} and "count_most" in to_dict(NOW)
    assert [f.name for f in fields(InnerNow) if is_later(f)] == ["smooth", "extra"]
    assert InnerNow().extra is not InnerNow().extra


def test_fingerprint_depends_on_each_part_and_their_order_but_not_on_that_of_keys():
    parts = [("a", "b"), ("b", "a"), ("ab",), (["a", "b"],)]
    assert len({fingerprint(*some) for some in parts}) == 4
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_derived_seeds():
    """A changed value would change every result; torch takes seeds below 2^63."""
    assert derive_seed("evaluate", 0, 1) == 255187948444467287
    assert derive_seed("a") == 66247282546293863
    seeds = {derive_seed("evaluate", seed, repeat) for seed in range(20) for repeat in range(20)}
    assert len(seeds) == 400
    assert 0 <= min(seeds) <= max(seeds) < 2**63
