"""Components by name: networks, objectives, metrics; a new one is a class under a decorator."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

from hglad.errors import HgladError
from hglad.settings import suggestion


def unknown(kind: str, name: object, known: list[str]) -> HgladError:
    """The error for a name that is not among `known`, with the nearest one as advice."""
    return HgladError(f"unknown {kind} {name!r}: {suggestion(str(name), known) if known else 'it has none'}")


class Registry:
    """Factories by name; `given` names the arguments that the caller and not the user fills in."""

    def __init__(self, kind: str, given: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.given = given
        self.factories: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorator that enters a class or function under `name`."""

        def enter(factory: Callable[..., Any]) -> Callable[..., Any]:
            if name in self.factories:
                raise HgladError(f"the {self.kind} {name!r} is registered twice; choose another name")
            self.factories[name] = factory
            return factory

        return enter

    def names(self) -> list[str]:
        return sorted(self.factories)

    def options(self, name: str) -> list[str]:
        """Names of the options that the user may set for `name`."""
        if name not in self.factories:
            raise unknown(self.kind, name, self.names())
        return [key for key in inspect.signature(self.factories[name]).parameters if key not in self.given]

    def default(self, name: str, option: str, otherwise: object = None) -> Any:
        """Default of an option of `name`; `otherwise` where it has no such option."""
        found = inspect.signature(self.factories[name]).parameters.get(option)
        return otherwise if found is None else found.default

    def create(self, name: str, *arguments: object, **options: object) -> Any:
        """Call the factory `name`; an unknown name or option raises `HgladError`."""
        known = self.options(name)
        for option in options:
            if option not in known:
                raise unknown(f"option of the {self.kind} {name!r},", option, known)
        return self.factories[name](*arguments, **options)

    def version(self, name: str) -> int:
        """Version of the algorithm `name`: the number `VERSION` of the module that defines it."""
        self.options(name)
        return sys.modules[self.factories[name].__module__].VERSION
