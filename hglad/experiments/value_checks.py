"""Checks of single values of a profile: each error names the key, what was expected and the nearest name."""

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any, get_type_hints

from hglad.data.augmentation import Augmentation
from hglad.errors import HgladError
from hglad.networks import NETWORKS
from hglad.settings import convert, suggestion


def check_names(key: str, names: Sequence[Any], known: Collection[str]) -> None:
    """Raise `HgladError` for the first name that is not known."""
    for name in names:
        if name not in list(known):  # a list or mapping from a file is no key
            raise HgladError(f"{key} has '{name}': {suggestion(name, known)}")


def check_once(key: str, values: Sequence[Any]) -> None:
    """Raise `HgladError` for the first value that is there twice."""
    for index, value in enumerate(values):
        if value in values[:index]:
            raise HgladError(f"{key} has {value!r} twice: expected every value once")


def check_whole(key: str, values: Sequence[Any], least: int) -> None:
    """Raise `HgladError` for the first value that is no whole number of at least `least`."""
    for value in values:
        if type(value) is not int or value < least:
            raise HgladError(f"{key} has {value!r}: expected whole numbers of at least {least}")


def check_counts(group: str, settings: Any, least: dict[str, int], otherwise: int) -> None:
    """Raise `HgladError` for a whole number of a settings dataclass that is below its least."""
    for key, value in vars(settings).items():
        if isinstance(value, int) and not isinstance(value, bool):
            check_whole(f"{group}.{key}", [value], least.get(key, otherwise))


def check_augmentation(key: str, text: str | None) -> None:
    """Raise `HgladError` for an unknown strategy; none is no text to check."""
    try:
        Augmentation(text or "")
    except HgladError as error:
        raise HgladError(f"{key}: {error}") from error


def check_options(key: str, factory: Callable, options: dict[str, Any], known: Collection[str]) -> None:
    """Raise `HgladError` for an option that is not known or has another type than the factory's."""
    hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    for option, value in options.items():
        if option not in known:
            raise HgladError(f"unknown key '{key}.{option}': {suggestion(option, known)}")
        convert(hints.get(option, Any), value, f"{key}.{option}")


def check_network(key: str, options: Any) -> None:
    """Raise `HgladError` unless this is the name of a network with options of it, of the right types."""
    if not isinstance(options, dict) or "name" not in options:
        raise HgladError(f"{key} is {options!r}: expected a mapping with a name, such as {{name: convnet}}")
    if ":" in str(options["name"]):
        return _check_library(key, options)
    check_names(f"{key}.name", [options["name"]], NETWORKS.names())
    own = {option: value for option, value in options.items() if option != "name"}
    known = NETWORKS.options(options["name"])
    for option in own:
        if option not in known:
            raise HgladError(f"unknown key '{key}.{option}': {suggestion(option, ['name', *known])}")
    check_options(key, NETWORKS.factories[options["name"]], own, known)


def _check_library(key: str, options: dict[str, Any]) -> None:
    """A network of torchvision or timm; what the model makes of its options shows when it is created."""
    try:
        NETWORKS.check(options["name"], options.keys() - {"name"})
    except HgladError as error:
        raise HgladError(f"{key}: {error}") from error
