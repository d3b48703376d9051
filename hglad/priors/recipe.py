"""Untrained generators by recipe: a small YAML file stands for weights that its seed draws.

A generator without training helps distillation too (Cazenavette et al., CVPR 2023, GLaD: random generators).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hglad.errors import HgladError
from hglad.experiments.versions import Versions, current
from hglad.priors.registry import Generator, family, generator_settings, kind_of
from hglad.settings import fingerprint, read_yaml, to_dict

VERSION = 1  # raise when the same recipe builds another generator


@dataclass(frozen=True)
class RecipeSettings:
    """Contents of the YAML file of an untrained generator."""

    kind: str
    """Family of the generator."""
    settings: Any = field(default_factory=dict)
    """Settings of that family; those that are not given keep its defaults."""
    seed: int = 0
    """Seed of the weights and of the samples that its statistics are measured on."""

    def __post_init__(self):
        if self.seed < 0:
            raise HgladError(f"seed is {self.seed}: expected 0 or a positive whole number")
        own = {"kind": self.kind} | self.settings if isinstance(self.settings, dict) else self.settings
        object.__setattr__(self, "settings", generator_settings(own, "settings."))
        if kind_of(self.settings) != self.kind:
            raise HgladError(f"settings are those of a {kind_of(self.settings)}: expected a {self.kind}")


def read_recipe(path: Path | str) -> RecipeSettings:
    """Read and check a recipe; an unreadable file, unknown keys and wrong values raise `HgladError`."""
    return read_yaml(RecipeSettings, path)


def recipe_card(recipe: RecipeSettings) -> dict:
    """Card of the generator, as of one that was trained: kind, settings, and the seed."""
    return {"kind": recipe.kind, "settings": to_dict(recipe.settings), "seed": recipe.seed}


def recipe_hash(recipe: RecipeSettings, version: Versions = current) -> str:
    """Hash of what the recipe builds; not of the weights, whose last bits differ between processors.

    Settings at their defaults have no part in it, so that one can be added.
    """
    card, defaults = recipe_card(recipe), to_dict(type(recipe.settings)())
    own = {key: value for key, value in card["settings"].items() if value != defaults[key]}
    return fingerprint(card | {"settings": own}, version("recipe"))


def build(recipe: RecipeSettings) -> Generator:
    """The generator, frozen, on the CPU."""
    return family(recipe.kind).untrained(recipe.settings, torch.Generator().manual_seed(recipe.seed))
