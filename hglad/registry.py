"""Components by name: networks, objectives, metrics, priors; a new one is a class under a decorator."""

import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from hglad.errors import HgladError
from hglad.settings import suggestion


def unknown(kind: str, name: object, known: list[str]) -> HgladError:
    """The error for a name that is not among `known`, with the nearest one as advice."""
    return HgladError(f"unknown {kind} {name!r}: {suggestion(str(name), known) if known else 'it has none'}")


@cache
def import_members(package: str | None) -> None:
    """Import every module of a package and, of other installed packages, those under the entry point `hglad`.

    What they register is known from then on: a new component is one file, and no other file names it.

    Raises:
        HgladError: a package under the entry point that cannot be imported.
    """
    if package is not None:
        for module in pkgutil.iter_modules(import_module(package).__path__):
            if not module.ispkg:
                import_module(f"{package}.{module.name}")
    for entry in entry_points(group="hglad"):
        try:
            entry.load()
        except Exception as error:
            raise HgladError(
                f"the entry point '{entry.name}' of {entry.dist.name} cannot be imported ({error}): mend or "
                "remove that package"
            ) from error


class Registry:
    """Factories by name.

    Args:
        kind: what is registered, for messages.
        package: package whose modules register something; they are imported at the first look.
        given: names of the arguments of a factory that the caller and not the user fills in.
    """

    def __init__(self, kind: str, package: str | None = None, given: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.package = package
        self.given = given
        self._factories: dict[str, Callable[..., Any]] = {}

    @property
    def factories(self) -> dict[str, Callable[..., Any]]:
        """Everything registered, by name."""
        import_members(self.package)
        return self._factories

    def register(self, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorator that enters a class or function under `name`."""

        def enter(factory: Callable[..., Any]) -> Callable[..., Any]:
            if name in self._factories:
                raise HgladError(f"the {self.kind} {name!r} is registered twice; choose another name")
            self._factories[name] = factory
            return factory

        return enter

    def names(self) -> list[str]:
        return sorted(self.factories)

    def get(self, name: str) -> Callable[..., Any]:
        """The factory `name`; an unknown name raises `HgladError`."""
        if name not in self.factories:
            raise unknown(self.kind, name, self.names())
        return self.factories[name]

    def options(self, name: str) -> list[str]:
        """Names of the options that the user may set for `name`."""
        return [key for key in inspect.signature(self.get(name)).parameters if key not in self.given]

    def default(self, name: str, option: str, otherwise: object = None) -> Any:
        """Default of an option of `name`; `otherwise` where it has no such option."""
        found = inspect.signature(self.get(name)).parameters.get(option)
        return otherwise if found is None else found.default

    def check(self, name: str, options: Iterable[str]) -> None:
        """Raise `HgladError` for an unknown name, and for an option that is unknown or not the user's."""
        known = self.options(name)
        for option in options:
            if option not in known:
                raise unknown(f"option of the {self.kind} {name!r},", option, known)

    def create(self, name: str, *arguments: object, **options: object) -> Any:
        """Call the factory `name`; an unknown name or option raises `HgladError`."""
        self.check(name, options)
        return self.factories[name](*arguments, **options)

    def version(self, name: str) -> int:
        """Version of the algorithm `name`: the number `VERSION` of the module that defines it."""
        return sys.modules[self.get(name).__module__].VERSION
