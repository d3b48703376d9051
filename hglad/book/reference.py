"""The reference of settings, made from the models: `python -m hglad.book.reference` renews the page.

A key's type, range and default are those of its field, its text the docstring below it; names and options are
those of the registries. What `book/profiles.md` has above `MARK` is written by hand and stays.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import yaml

from hglad.data.datasets import available
from hglad.experiments.plans import EXPERIMENTS
from hglad.metrics import METRICS
from hglad.networks import NETWORKS
from hglad.objectives import OBJECTIVES
from hglad.paths import PROJECT
from hglad.priors import PRIORS
from hglad.priors.training.train import PriorSettings
from hglad.settings import Profile, Settings

PAGE = PROJECT / "book" / "profiles.md"
MARK = "% Below this line: python -m hglad.book.reference\n"
NAMES = {
    "Networks": NETWORKS, "Objectives": OBJECTIVES, "Metrics": METRICS, "Experiments": EXPERIMENTS,
    "Families of generators": PRIORS,
}  # fmt: skip
TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
TYPES |= {"object": "mapping", "null": "null"}
BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}


def page(text: str) -> str:
    """The page with its reference renewed: all keys of a profile and of a generator's recipe, all names."""
    datasets = "".join(f"`{name}`\n: {about}\n\n" for name, about in available())
    names = [f"### {title}\n\n{''.join(_entries(registry))}" for title, registry in NAMES.items()]
    parts = ["## Keys\n\n", *_sections(Profile, "", {}), "## Keys of a recipe\n\n"]
    parts += [*_sections(PriorSettings, "", {}), "## Names\n\n### Data sets\n\n", datasets, *names]
    return text.partition(MARK)[0] + MARK + "\n" + "".join(parts).rstrip() + "\n"


def _sections(model: type[Settings], place: str, seen: dict[type[Settings], str]) -> Iterator[str]:
    """A section of a model and then one of each model inside it; one that came before is referred to."""
    seen[model], inner, schema = place, [], model.model_json_schema()["properties"]
    yield f"### {f'`{place}`' if place else model.__name__}\n\n{_first_paragraph(model)}\n\n"
    for key, field in model.model_fields.items():
        facts, text = _words(schema[key]), " ".join(field.description.split())
        if field.is_required():
            facts += ", required"
        elif not isinstance(field.get_default(call_default_factory=True), Settings):
            facts += f", default `{_yaml(schema[key].get('default'))}`"
        for each in _models(field.annotation):
            if each in seen:
                text += f" Keys: those of `{seen[each]}`."
            else:
                under = f"{place}.{key}".strip(".") + (
                    ".NAME" if get_origin(field.annotation) is dict else ""
                )
                seen[each], _ = under, inner.append((each, under))
        yield f"`{key}` <small>{facts}</small>\n: {text}\n\n"
    for each, under in inner:
        yield from _sections(each, under, seen)


def _models(annotation: Any) -> Iterator[type[Settings]]:
    """The settings inside a type."""
    if inspect.isclass(annotation) and issubclass(annotation, Settings):
        yield annotation
    for each in get_args(annotation):
        yield from _models(each)


def _words(schema: dict) -> str:
    """What a key takes, from its JSON schema, such as `whole number from 1 or null`."""
    if "anyOf" in schema:
        return " or ".join(map(_words, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of ({_words(schema.get('items', {}))})"
    kind = "mapping" if "$ref" in schema else TYPES.get(schema.get("type"), "any value")
    return " ".join([kind, *(f"{word} {schema[key]}" for key, word in BOUNDS.items() if key in schema)])


def _entries(registry: Any) -> Iterator[str]:
    """Every name of a registry with its options, and what they do where the docstring says it."""
    for name in registry.names():
        factory = registry.get(name)
        arguments = (inspect.getdoc(factory) or "").partition("Args:\n")[2].split("\n\n")[0]
        texts = dict(re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", arguments, re.MULTILINE))
        yield f"`{name}`\n: {_first_paragraph(factory)}\n"
        for option, parameter in inspect.signature(factory).parameters.items():
            if option in registry.options(name) and parameter.default is not parameter.empty:
                text = f": {' '.join(texts[option].split())}" if option in texts else ""
                yield f"  - `{option}`, default `{_yaml(parameter.default)}`{text}\n"
        yield "\n"


def _first_paragraph(thing: Any) -> str:
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split()).replace("<", "\\<")


def _yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("...\n").strip()


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
