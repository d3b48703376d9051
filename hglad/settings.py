"""Settings as frozen dataclasses: read with checks, hashed to a fingerprint."""

import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from hglad.errors import HgladError


def suggestion(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a hint, else the list of known names."""
    known = sorted(known)
    if not known:
        return "there is none yet"
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(known)}"


def from_dict(cls: type, values: Any, where: str = "") -> Any:
    """Build a settings dataclass from plain values, as YAML or JSON gives them.

    Args:
        cls: frozen dataclass; nested dataclasses, tuples, dicts and optional fields are followed. Its static
            method `complete`, if it has one, fills in values that follow from others.
        values: mapping from field names to values.
        where: prefix of the key in messages, such as `search.`

    Raises:
        HgladError: unknown key (with the nearest one), missing key, or a value of another type.
    """
    if not isinstance(values, dict):
        raise HgladError(
            f"{where.rstrip('.') or cls.__name__} is {values!r}: expected a mapping of keys to values"
        )
    if hasattr(cls, "complete"):
        values = _naming_group(where, cls.complete, values)
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise HgladError(f"unknown key '{where}{key}': {suggestion(key, fields)}")
    missing = [name for name, field in fields.items() if name not in values and _is_required(field)]
    if missing:
        raise HgladError(f"key '{where}{missing[0]}' is missing: expected {_type_name(hints[missing[0]])}")
    own = {key: convert(hints[key], value, f"{where}{key}") for key, value in values.items()}
    return _naming_group(where, cls, **own)


def _naming_group(where: str, check: Callable, *arguments: Any, **values: Any) -> Any:
    """Call `check`; where its error does not name the group that it looked at, put the group in front."""
    try:
        return check(*arguments, **values)
    except HgladError as error:
        if where in str(error):
            raise
        raise HgladError(f"{where.rstrip('.')}: {error}") from error


class _YamlLoader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML would take the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """A mapping, as PyYAML makes it; raises `ConstructorError` for a key that is there twice."""
        seen = set()
        for key in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is there twice: remove one", node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(cls: type, path: Path | str, build: Callable[[type, Any], Any] = from_dict) -> Any:
    """Read a settings dataclass from a YAML file.

    Args:
        cls: frozen dataclass.
        path: YAML file.
        build: makes it of the plain values, `from_dict` or what checks more than that.

    Raises:
        HgladError: unreadable file, a key that is there twice, or what `build` refuses; names the file.
    """
    try:
        values = yaml.load(Path(path).read_text(), _YamlLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise HgladError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    try:
        return build(cls, values)
    except HgladError as error:
        raise HgladError(f"{path}: {error}") from error


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is dict:
        return "a mapping of keys to values"
    plain = isinstance(hint, type) and not typing.get_args(hint)
    return hint.__name__ if plain else str(hint).replace("typing.", "")


def convert(hint: Any, value: Any, key: str) -> Any:
    """A plain value as the type `hint` asks for; raises `HgladError` naming `key` for another type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and types.NoneType in arguments:
            return None
        return convert(next(option for option in arguments if option is not types.NoneType), value, key)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value, f"{key}.")
    if origin is tuple and isinstance(value, (list, tuple)):
        items = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(items) == len(value):
            return tuple(
                convert(item, v, f"{key}[{i}]") for i, (item, v) in enumerate(zip(items, value, strict=True))
            )
    elif origin is dict and isinstance(value, dict):
        return _with_keys(arguments[0], value, key)
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif hint is Any or (isinstance(value, origin or hint) and not (hint is int and isinstance(value, bool))):
        return value
    advice = "; YAML reads 1e-2 as text: write 1.0e-2" if hint is float and _is_number(value) else ""
    raise HgladError(f"{key} is {value!r} ({type(value).__name__}): expected {_type_name(hint)}{advice}")


def _with_keys(kind: type, values: dict, key: str) -> dict:
    if kind is int:  # papermill and JSON make text of them
        values = {int(name) if str(name).isdecimal() else name: value for name, value in values.items()}
    expected = "a whole number" if kind is int else "text, in quotes"
    for name in values:
        if type(name) is not kind:
            raise HgladError(f"{key} has the key {name!r} ({type(name).__name__}): expected {expected}")
    return values


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def later(default: Any) -> Any:
    """A field that came later: absent from a fingerprint where it has its default, as before it came.

    Args:
        default: the value, or `dict` for a new empty one.
    """
    kind = "default_factory" if default is dict else "default"
    return dataclasses.field(**{kind: default}, metadata={"later": True})


def is_later(field: dataclasses.Field) -> bool:
    """Whether a field came later."""
    return field.metadata.get("later", False)


def identity(settings: Any) -> Any:
    """What a fingerprint is made of: the values of a settings dataclass, without unused later fields."""
    if dataclasses.is_dataclass(settings):
        used = [f for f in dataclasses.fields(settings) if not (is_later(f) and _is_default(settings, f))]
        return {f.name: identity(getattr(settings, f.name)) for f in used}
    if isinstance(settings, tuple):
        return tuple(map(identity, settings))
    return settings


def _is_default(settings: Any, field: dataclasses.Field) -> bool:
    made = field.default_factory
    return getattr(settings, field.name) == (field.default if made is dataclasses.MISSING else made())


def to_dict(settings: Any) -> Any:
    """Plain values of a settings dataclass, ready for JSON or YAML."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def fingerprint(*parts: Any) -> str:
    """Short hash of dataclasses and plain values: the key under which a result is kept."""
    plain = [identity(part) for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def derive_seed(*parts: Any) -> int:
    """A seed that follows from names and numbers, so that streams of one run are independent."""
    return int(hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:15], 16)
