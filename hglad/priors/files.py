"""Priors on disk: tensors as safetensors with a card beside them, or the recipe of an untrained generator.

A card holds the settings, the data, the training and the quality of a generator.
"""

import dataclasses
import hashlib
from functools import lru_cache
from pathlib import Path

import torch

from hglad.errors import HgladError
from hglad.experiments.versions import Versions, current
from hglad.paths import PROJECT
from hglad.priors.recipe import build, read_recipe, recipe_card, recipe_hash
from hglad.priors.registry import Generator, family, kind_of
from hglad.settings import suggestion
from hglad.storage import read_json, read_tensors, write_json, write_tensors

SUFFIXES = (".safetensors", ".yaml")  # weights before recipes


def prior_path(name: str) -> Path:
    """File of a prior: a path to `.safetensors` or `.yaml`, or the name of one in `data/priors`.

    Raises:
        HgladError: no such file.
    """
    if name.endswith(SUFFIXES):
        if not Path(name).is_file():
            raise HgladError(f"no prior at {name}: expected a {Path(name).suffix} file")
        return Path(name)
    folder = PROJECT / "data" / "priors"
    for path in (folder / f"{name}{suffix}" for suffix in SUFFIXES):
        if path.is_file():
            return path
    known = [file.stem for file in folder.glob("*") if file.suffix in SUFFIXES]
    raise HgladError(
        f"unknown prior '{name}': {suggestion(name, known)} (or a path to a .safetensors or .yaml file)"
    )


def prior_card(name: str) -> dict:
    """Card of a prior: kind and settings; data, training and quality where it was trained, else the seed."""
    path = prior_path(name)
    if path.suffix == ".yaml":
        return recipe_card(read_recipe(path))
    return read_json(path.with_suffix(".json"))


def prior_hash(name: str, version: Versions = current) -> str:
    """Hash of a prior's settings and tensors, or of its recipe; "pixels" hashes to its name."""
    if name == "pixels":
        return name
    path = prior_path(name)
    if path.suffix == ".yaml":
        return recipe_hash(read_recipe(path), version)
    settings = repr(sorted(prior_card(name)["settings"].items())).encode()
    return _hash(settings, path, path.stat().st_mtime_ns)


@lru_cache
def _hash(settings: bytes, path: Path, changed: int) -> str:
    """Kept for as long as the file is not changed, at the time `changed`."""
    return hashlib.sha256(settings + path.read_bytes()).hexdigest()


def load_prior(name: str, device: torch.device | str = "cpu") -> Generator:
    """Load a frozen generator by its name in `data/priors` or by path; a recipe is built.

    Raises:
        HgladError: no such file, an unknown kind of prior, or tensors that do not fit the card.
    """
    path = prior_path(name)
    if path.suffix == ".yaml":
        return build(read_recipe(path)).to(device)
    card = prior_card(name)
    return family(card["kind"]).from_tensors(card["settings"], read_tensors(path)).to(device)


def save_prior(path: Path | str, prior: Generator, card: dict) -> None:
    """Write a generator and its card; `card` is completed with the kind, settings and layer names."""
    path = Path(path).with_suffix(".safetensors")
    settings = dataclasses.asdict(prior.settings) | {"layer_names": prior.layer_names}
    write_tensors(path, prior.state_dict())
    write_json(path.with_suffix(".json"), {"kind": kind_of(prior.settings), "settings": settings, **card})
