"""Declared versions of the algorithms: the numbers in the keys of results, by the name of the component.

A component is a module with a number `VERSION`, such as "search", or a registered part: "objective dm".
A key is made by asking for the versions of its components, so what was asked for is what it follows from.
"""

from collections.abc import Callable, Mapping
from importlib import import_module

from hglad.errors import HgladError
from hglad.settings import suggestion

Version = int | str
Versions = Callable[[str], Version | None]

MODULES = {
    "search": "hglad.search.loop",
    "augment": "hglad.data.augmentation",
    "training": "hglad.evaluation.training",
    "experts": "hglad.objectives.experts",
    "baselines": "hglad.evaluation.baselines",
    "prior pixels": "hglad.priors.pixels",
    "recipe": "hglad.priors.files",
    "gan": "hglad.priors.training.gan",
}
REGISTRIES = {
    "objective": ("hglad.objectives", "OBJECTIVES"),
    "metric": ("hglad.metrics", "METRICS"),
    "network": ("hglad.networks", "NETWORKS"),
    "prior": ("hglad.priors", "PRIORS"),
}  # imported when they are asked for, because their parts have keys as well


def _registry(kind: str):
    package, name = REGISTRIES[kind]
    return getattr(import_module(package), name)


def components() -> list[str]:
    """Names of all components, but for the networks of libraries."""
    registered = [f"{kind} {name}" for kind in REGISTRIES for name in _registry(kind).names()]
    return sorted([*MODULES, *registered])


def current(component: str) -> Version:
    """Version of a component now; a network of a library has that library's release in it.

    Raises:
        HgladError: no such component (any more).
    """
    if component in MODULES:
        return import_module(MODULES[component]).VERSION
    kind, _, name = component.partition(" ")
    if kind not in REGISTRIES:
        raise HgladError(f"unknown component '{component}': {suggestion(component, components())}")
    return _registry(kind).version(name)


def first(component: str) -> Version:
    """Version of a component while results did not record theirs: 1; a release of a library as it is."""
    now = current(component)
    return 1 if isinstance(now, int) else now


def unversioned(component: str) -> None:
    """No version: a key made with it is that of a request, whichever algorithms serve it."""


def asked(make: Callable[[Versions], object]) -> dict[str, Version]:
    """Components whose versions `make` asks for, with the current ones."""
    found: dict[str, Version] = {}

    def note(component: str) -> Version:
        return found.setdefault(component, current(component))

    make(note)
    return dict(sorted(found.items()))


def differences(made: Mapping[str, Version]) -> list[str]:
    """What has another version now than it had, such as "search version 1, now 2"."""
    now = {component: _now(component) for component in made}
    return [
        f"{component} version {version}, now {now[component]}"
        for component, version in sorted(made.items())
        if now[component] != version
    ]


def _now(component: str) -> Version:
    try:
        return current(component)
    except HgladError:
        return "not there"


def declared(key_with: Callable[[Versions], str]) -> dict[str, object]:
    """For the provenance of a result: its `key`, `request` and `algorithms` (component to version)."""
    return {"key": key_with(current), "request": key_with(unversioned), "algorithms": asked(key_with)}


class Versioned:
    """What has a key that follows from settings, data and the versions of algorithms."""

    def key_with(self, version: Versions) -> str:
        """Fingerprint with the versions that `version` gives for each component."""
        raise NotImplementedError

    @property
    def request(self) -> str:
        """Fingerprint without versions: equal for results of the same settings by other algorithms."""
        return self.key_with(unversioned)

    @property
    def versions(self) -> dict[str, Version]:
        """Components that the key follows from, those of the set or classifier behind it included."""
        return asked(self.key_with)

    def declared(self) -> dict[str, object]:
        """As `declared`."""
        return declared(self.key_with)
