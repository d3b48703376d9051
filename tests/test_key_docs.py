"""The page of keys is made from the settings: complete, up to date, in words."""

import re

import pytest

from hglad.book.key_docs import (
    GROUPS,
    MARK,
    PAGE,
    RECIPES,
    argument_texts,
    default_in_yaml,
    field_texts,
    page,
    type_in_words,
)
from hglad.metrics import METRICS
from hglad.networks import NETWORKS
from hglad.objectives import OBJECTIVES
from hglad.settings import ExpertSettings, SearchSettings


@pytest.fixture(scope="module")
def text() -> str:
    return PAGE.read_text()


def test_the_committed_page_is_up_to_date(text):
    assert text == page(text), "run python -m hglad.book.key_docs"


def test_what_is_written_by_hand_is_kept():
    assert page(f"# By hand\n\n{MARK}old keys").startswith(f"# By hand\n\n{MARK}\n## Keys\n")


@pytest.mark.parametrize("group", [*GROUPS, *RECIPES], ids=lambda group: group.name)
def test_every_key_is_there_with_its_text(text, group):
    texts = field_texts(group.settings)
    section = text.partition(f"\n### {group.name.capitalize()}\n")[2].partition("\n### ")[0]
    assert texts
    for name, text in texts.items():
        assert f"`{name}` <small>" in section and f"\n: {text}" in section


def test_every_name_and_option_is_there(text):
    for registry in (NETWORKS, OBJECTIVES, METRICS):
        for name in registry.names():
            assert f"\n`{name}`\n: " in text
    for option in ("unroll", "normalization", "layer_norm", "outer_loops"):
        assert f"\n  - `{option}`, default `" in text


def test_every_reference_of_the_page_leads_somewhere(text):
    asked = set(re.findall(r"\{ref\}`[^<`]*<([\w-]+)>`", text))
    assert asked and asked <= set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


def test_nothing_is_taken_for_html(text):
    outside = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    assert set(re.findall(r"(?<!\\)<[^>]*>", outside)) <= {"<small>", "</small>"}


def test_texts_are_those_below_the_fields():
    assert field_texts(ExpertSettings)["epochs"] == (
        "Passes over the real images that each of them keeps. Source: MTT (15 in GLaD and H-GLaD)."
    )
    assert field_texts(SearchSettings)["budget"].startswith("What is kept whatever the stages: `steps`, or")


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "whole number"),
        (float | None, "number or null"),
        (tuple[int, ...], "list of whole numbers"),
        (tuple[str, ...], "list of texts"),
        (dict[str, int], "mapping"),
        (ExpertSettings | None, "mapping or null"),
        (bool, "true or false"),
    ],
)
def test_types_are_in_words(hint, words):
    assert type_in_words(hint) == words


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (0.5, "0.5"), ("", "''"), ((1, 2), "[1, 2]"), (True, "true"), (5e-4, "0.0005")],
)
def test_defaults_are_as_in_yaml(value, text):
    assert default_in_yaml(value) == text


def test_arguments_are_read_with_their_continuation():
    found = argument_texts(METRICS.factories["class_relevant"])
    assert found["classifier"] == "network trained on them; it is put in eval mode."
    assert found["layer"].startswith("block whose feature maps are taken") and "  " not in found["layer"]
