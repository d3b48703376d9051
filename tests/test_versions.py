"""Declared versions: which components have one, that golden values stand for each, what a key asks for."""

import ast
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

import pytest

from hglad.errors import HgladError
from hglad.experiments import versions
from hglad.experiments.versions import asked, components, current, declared, differences, first, unversioned
from hglad.paths import PROJECT

HERE = Path(__file__).parent


def golden_components() -> set[str]:
    """First argument of every call of `check_golden` in the tests; a name that is filled in becomes `*`."""
    calls = [
        node
        for path in HERE.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "check_golden"
    ]
    return {_pattern(call.args[0]) for call in calls}


def _pattern(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "*" for part in node.values)
    return node.value


def test_every_component_has_golden_values():
    """A pattern such as "metric *" belongs to a test of all registered names."""
    patterns = golden_components()
    assert [name for name in components() if not any(fnmatch(name, p) for p in patterns)] == []
    assert [p for p in patterns if not any(fnmatch(name, p) for name in components())] == []


def test_every_version_in_the_library_belongs_to_a_component():
    """A number `VERSION` that no key asks for would promise what it does not keep."""
    modules = {versions.MODULES[name] for name in versions.MODULES}
    for kind, (package, registry) in versions.REGISTRIES.items():
        factories = getattr(import_module(package), registry).factories
        modules |= {factories[name.removeprefix(f"{kind} ")].__module__ for name in registered(kind)}
    modules.add("hglad.networks.libraries")
    declaring = {
        ".".join(path.relative_to(PROJECT).with_suffix("").parts)
        for path in (PROJECT / "hglad").rglob("*.py")
        if any(line.startswith("VERSION = ") for line in path.read_text().splitlines())
    }
    assert declaring == modules


def registered(kind: str) -> list[str]:
    return [name for name in components() if name.startswith(f"{kind} ") and name not in versions.MODULES]


@pytest.mark.parametrize("component", components())
def test_a_component_has_a_version_that_its_module_declares(component, monkeypatch):
    assert isinstance(current(component), int) and first(component) == 1 and unversioned(component) is None
    kind, _, name = component.partition(" ")
    module = versions.MODULES.get(component)
    if module is None:
        package, registry = versions.REGISTRIES[kind]
        module = getattr(import_module(package), registry).factories[name].__module__
    monkeypatch.setattr(import_module(module), "VERSION", 1000)
    assert current(component) == 1000 and first(component) == 1


@pytest.mark.parametrize("component", ["serach", "objective tm", "network torch:resnet18"])
def test_an_unknown_component_is_a_clear_error(component):
    with pytest.raises(HgladError, match="unknown (component|objective|library)"):
        current(component)


def test_a_network_of_a_library_has_the_release_in_its_version():
    assert current("network torchvision:resnet18").startswith("1 (torchvision ")
    assert first("network torchvision:resnet18") == current("network torchvision:resnet18")


def key_with(version) -> str:
    return f"a {version('search')} {version('objective dm')} {version('search')}"


def test_what_a_key_asks_for_is_what_it_follows_from(monkeypatch):
    assert asked(key_with) == {"objective dm": 1, "search": 1}
    before = declared(key_with)
    assert before == {
        "key": "a 1 1 1",
        "request": "a None None None",
        "algorithms": {"objective dm": 1, "search": 1},
    }
    monkeypatch.setattr(import_module("hglad.search.loop"), "VERSION", 2)
    assert declared(key_with)["request"] == before["request"]
    assert differences(before["algorithms"]) == ["search version 1, now 2"]
    assert differences({"objective gone": 3}) == ["objective gone version 3, now not there"]
