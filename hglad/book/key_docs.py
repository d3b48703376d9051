"""The reference of a profile's keys, made from the settings themselves: `python -m hglad.book.key_docs`.

Types and defaults are those of the dataclasses, texts the strings below their fields; names and options are
those of the registries. What `book/profiles.md` has below `MARK` is written anew, what is above stays.
"""

import ast
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from hglad.analysis.tables import write_text
from hglad.data.augmentation import STRATEGIES
from hglad.data.datasets import available
from hglad.experiments.plans import EXPERIMENTS
from hglad.metrics import METRICS
from hglad.networks import NETWORKS
from hglad.objectives import OBJECTIVES, SHARED
from hglad.paths import PROJECT
from hglad.priors import PRIORS
from hglad.priors.files import RecipeSettings
from hglad.priors.training.gan import GANSettings
from hglad.priors.training.quality import QualitySettings
from hglad.priors.training.train import PriorSettings
from hglad.registry import Registry
from hglad.settings import (
    PROTOCOLS,
    DataSettings,
    EvaluationSettings,
    ExpertSettings,
    MetricSettings,
    ObjectiveSettings,
    Override,
    Profile,
    SearchSettings,
    Sets,
    Settings,
    Studies,
    SurrogateSettings,
    TrainingSettings,
    When,
)

PAGE = PROJECT / "book" / "profiles.md"
MARK = "% Below this line: python -m hglad.book.key_docs\n"
WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "any value"}


@dataclass(frozen=True)
class Group:
    """Keys under one heading."""

    name: str
    """Heading, and where other groups refer to."""
    settings: type
    """Dataclass whose fields are the keys."""
    paths: tuple[str, ...] = ()
    """Where the keys stand, unless under the heading's name alone."""


GROUPS = (
    Group("profile", Profile),
    Group("data", DataSettings, ("data",)),
    Group("surrogate", SurrogateSettings, ("surrogate",)),
    Group("objective", ObjectiveSettings, ("objectives.NAME",)),
    Group("experts", ExpertSettings, ("objectives.NAME.experts",)),
    Group("search", SearchSettings, ("search",)),
    Group("metric", MetricSettings, ("metric",)),
    Group("evaluation", EvaluationSettings, ("evaluation",)),
    Group("training", TrainingSettings, ("metric.training", "evaluation.training", "evaluation.full_set")),
    Group("sets", Sets, ("sets",)),
    Group("studies", Studies, ("studies",)),
    Group("override", Override, ("overrides[N]",)),
    Group("when", When, ("overrides[N].when",)),
)
RECIPES = (
    Group("recipe", PriorSettings),
    Group("generator training", GANSettings, ("training",)),
    Group("quality", QualitySettings, ("quality",)),
    Group("untrained", RecipeSettings),
)

REFERENCES = {  # a key whose type does not say where its values stand -> their heading
    (Profile, "networks"): "networks",
    (DataSettings, "name"): "data sets",
    (SurrogateSettings, "network"): "networks",
    (SurrogateSettings, "augmentation"): "augmentation strategies",
    (ObjectiveSettings, "options"): "objectives",
    (MetricSettings, "name"): "metrics",
    (MetricSettings, "network"): "networks",
    (MetricSettings, "options"): "metrics",
    (EvaluationSettings, "protocol"): "evaluation protocols",
    (Studies, "experiments"): "experiments",
    (GANSettings, "generator"): "families of generators",
}


def field_texts(cls: type) -> dict[str, str]:
    """The string below each field of a dataclass, on one line, by the name of the field."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
    pairs = zip(body, body[1:], strict=False)
    texts = {
        node.target.id: ast.literal_eval(below.value)
        for node, below in pairs
        if isinstance(node, ast.AnnAssign) and isinstance(below, ast.Expr)
    }
    return {name: " ".join(text.split()) for name, text in texts.items()}


def type_in_words(hint: Any) -> str:
    """What a YAML file holds for a type hint, such as "list of whole numbers"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "text"
    if origin in (types.UnionType, typing.Union):
        own = [type_in_words(each) for each in arguments if each is not types.NoneType]
        return " or ".join(own) + (" or null" if types.NoneType in arguments else "")
    if origin is tuple:
        plural = {"whole number": "whole numbers", "number": "numbers", "text": "texts"}
        word = type_in_words(arguments[0])
        return f"list of {plural.get(word, word)}"
    if origin is dict or is_dataclass(hint) or issubclass(hint, Settings):
        return "mapping"
    return WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def default_in_yaml(value: Any) -> str:
    """A default as a profile would have it, on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _default(field: Field | FieldInfo) -> str:
    if isinstance(field, FieldInfo):
        if isinstance(field.default, Settings):
            return ""
        return "required" if field.is_required() else f"`{default_in_yaml(field.default)}`"
    if is_dataclass(field.default_factory):
        return ""
    if field.default_factory is not MISSING:
        return f"`{default_in_yaml(field.default_factory())}`"
    return "required" if field.default is MISSING else f"`{default_in_yaml(field.default)}`"


def _entry(name: str, facts: str, text: str) -> str:
    """One item of a definition list."""
    return f"`{name}`{facts and f' <small>{facts}</small>'}\n: {text}\n"


def _key_entry(name: str, field: Field | FieldInfo, hint: Any, text: str, heading: str | None) -> str:
    default = _default(field)
    facts = [type_in_words(hint), default if default in ("", "required") else f"default {default}"]
    more = f" See {{ref}}`{heading} <{_label(heading)}>`." if heading else ""
    return _entry(name, ", ".join(filter(None, facts)), text + more)


def _group(group: Group, groups: dict[type, Group]) -> str:
    cls = group.settings
    texts, hints = field_texts(cls), typing.get_type_hints(cls)
    entries = []
    own = cls.model_fields if issubclass(cls, Settings) else {field.name: field for field in fields(cls)}
    for name, field in own.items():
        hint = hints[name]
        inner = next((groups[each].name for each in (hint, *typing.get_args(hint)) if each in groups), None)
        heading = REFERENCES.get((cls, name), inner)
        entries.append(_key_entry(name, field, hint, texts[name], heading))
    under = ", ".join(f"`{path}`" for path in group.paths)
    lead = f"Under {under}. {_first_paragraph(cls)}" if under else _first_paragraph(cls)
    return "\n".join([_heading(group.name), f"{lead}\n", *entries])


def _label(name: str) -> str:
    return f"key-{name.replace(' ', '-')}"


def _heading(name: str) -> str:
    return f"({_label(name)})=\n### {name.capitalize()}\n"


def _first_paragraph(thing: Any) -> str:
    """Of a docstring, on one line."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def argument_texts(thing: Any) -> dict[str, str]:
    """Texts of the section `Args` of a docstring, by the name of the argument."""
    section = (inspect.getdoc(thing) or "").partition("Args:\n")[2].split("\n\n")[0]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _registered(title: str, registry: Registry, hidden: tuple[str, ...] = ()) -> str:
    """Every name of a registry with its options, and what they do where its docstring says it."""
    parts = [_heading(title)]
    for name in registry.names():
        factory = registry.factories[name]
        options = [option for option in registry.options(name) if option not in hidden]
        items = "".join(f"\n  - {_option(factory, option)}" for option in options)
        parts.append(_entry(name, "", _first_paragraph(factory) + (items and "\n" + items)))
    return "\n".join(parts)


def _option(factory: Callable, option: str) -> str:
    default = default_in_yaml(inspect.signature(factory).parameters[option].default)
    text = argument_texts(factory).get(option)
    return f"`{option}`, default `{default}`" + (f": {text}" if text else "")


def _names(title: str, entries: dict[str, str]) -> str:
    """Names with their texts; those that share one stand together."""
    names: dict[str, list[str]] = {}
    for name, text in entries.items():
        names.setdefault(text, []).append(name)
    plain = [_entry("`, `".join(own), "", text.replace("<", "\\<")) for text, own in names.items()]
    return "\n".join([_heading(title), *plain])


def reference() -> str:
    """Markdown of all keys of a profile and of a generator's recipe, and of the names that they take."""
    groups = {group.settings: group for group in (*GROUPS, *RECIPES)}
    priors = {kind: _first_paragraph(PRIORS.get(kind)) for kind in PRIORS.names()}
    protocols = {name: _settings_in_words(settings) for name, settings in PROTOCOLS.items()}
    experiments = {name: _first_paragraph(function) for name, function in EXPERIMENTS.factories.items()}
    return "\n".join(
        [
            "## Keys\n",
            *(_group(group, groups) for group in GROUPS),
            "## Names\n",
            _names("data sets", dict(available())),
            _registered("networks", NETWORKS),
            _registered("objectives", OBJECTIVES, SHARED),
            _registered("metrics", METRICS),
            _names("evaluation protocols", protocols),
            _heading("augmentation strategies"),
            ", ".join(f"`{name}`" for name in STRATEGIES if name != "none") + ", joined by `_`.\n",
            _names("experiments", experiments),
            "## Recipes of generators\n",
            *(_group(group, groups) for group in RECIPES),
            _names("families of generators", priors),
        ]
    )


def _settings_in_words(settings: Any) -> str:
    return ", ".join(f"{key} {default_in_yaml(value)}" for key, value in vars(settings).items()) + "."


def page(text: str) -> str:
    """The page with its reference renewed; what stands above `MARK` is kept."""
    return text.partition(MARK)[0] + MARK + "\n" + reference().rstrip() + "\n"


if __name__ == "__main__":
    write_text(PAGE, page(PAGE.read_text()))
