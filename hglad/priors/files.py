"""Priors on disk: tensors as safetensors with a card beside them, or the recipe of an untrained generator.

A card holds the settings, the data, the training and the quality of a generator. A recipe is a small YAML
file that stands for weights that its seed draws: a generator without training helps distillation too
(Cazenavette et al., CVPR 2023, GLaD: random generators).
"""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationInfo, field_validator

from hglad.errors import HgladError
from hglad.paths import PROJECT
from hglad.priors.base import PRIORS, Generator, GeneratorSettings, kind_of
from hglad.provenance import versions_of
from hglad.settings import Settings, fingerprint, suggestion
from hglad.storage import read_json, read_tensors, write_json, write_tensors

RELEASED = (
    "imagenet16", "imagenet32", "imagenet64", "imagenet128", "imagenet256", "imagenet512", "imagenet1024",
    "cifar10", "ffhq256", "ffhq512", "ffhq1024", "pokemon256", "pokemon512", "pokemon1024",
)  # fmt: skip
"""Networks that NVIDIA's and StyleGAN-XL's authors released, as `hglad prior import --name` knows them."""

VERSION = 1  # of recipes; raise when the same one builds another generator
SUFFIXES = (".safetensors", ".yaml")  # weights before recipes


def generator_settings(values: Any, where: str, kind: str = "") -> GeneratorSettings:
    """Settings of a generator from plain values, with its `kind` among them unless it is given.

    Settings are returned as they are.

    Raises:
        HgladError: unknown kind or key, or a value of another type; `where` precedes the key in the message.
    """
    if isinstance(values, GeneratorSettings):
        return values
    if not isinstance(values, dict):
        raise HgladError(f"{where.rstrip('.')} is {values!r}: expected a mapping of keys to values")
    own = dict(values)
    return PRIORS.get(kind or own.pop("kind", "stylegan_xl")).Settings.read(own, where)


class RecipeSettings(Settings):
    """Contents of the YAML file of an untrained generator."""

    kind: str
    """Family of the generator."""
    settings: Any = Field({}, validate_default=True)
    """Settings of that family; those that are not given keep its defaults."""
    seed: int = Field(0, ge=0)
    """Seed of the weights and of the samples that its statistics are measured on."""

    @field_validator("settings")
    @classmethod
    def _of_its_kind(cls, values: Any, info: ValidationInfo) -> Any:
        return generator_settings(values, "settings.", info.data["kind"]) if "kind" in info.data else values

    def card(self) -> dict[str, Any]:
        """Card of the generator, as of one that was trained: kind, settings, and the seed."""
        return {"kind": self.kind, "settings": self.settings.to_dict(), "seed": self.seed}


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


def prior_card(name: str) -> dict[str, Any]:
    """Card of a prior: kind and settings; data, training and quality where it was trained, else the seed."""
    path = prior_path(name)
    if path.suffix == ".yaml":
        return RecipeSettings.from_yaml(path).card()
    return read_json(path.with_suffix(".json"))


def prior_versions(name: str) -> dict[str, int | str]:
    """Versions of the algorithms behind a prior: of its family, and of what builds an untrained one."""
    if name == "pixels":
        return versions_of("prior pixels")
    recipe = ["recipe"] if prior_path(name).suffix == ".yaml" else []
    return versions_of(f"prior {prior_card(name)['kind']}", *recipe)


def prior_hash(name: str) -> str:
    """Hash of a prior's settings and tensors, or of its recipe; "pixels" hashes to its name.

    Of a recipe it is not the weights that count, whose last bits differ between processors, and of its
    settings those that are not at their defaults, so that one can be added.
    """
    if name == "pixels":
        return name
    path, card = prior_path(name), prior_card(name)
    if path.suffix == ".yaml":
        defaults = PRIORS.get(card["kind"]).Settings().to_dict()
        own = {key: value for key, value in card["settings"].items() if value != defaults[key]}
        return fingerprint(card | {"settings": own}, VERSION)
    return _hash(repr(sorted(card["settings"].items())).encode(), path, path.stat().st_mtime_ns)


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
        recipe = RecipeSettings.from_yaml(path)
        rng = torch.Generator().manual_seed(recipe.seed)
        return PRIORS.get(recipe.kind).untrained(recipe.settings, rng).to(device)
    card = prior_card(name)
    return PRIORS.get(card["kind"]).from_tensors(card["settings"], read_tensors(path)).to(device)


def save_prior(path: Path | str, prior: Generator, card: dict[str, Any]) -> None:
    """Write a generator and its card; `card` is completed with the kind, settings and layer names."""
    path = Path(path).with_suffix(".safetensors")
    settings = prior.settings.to_dict() | {"layer_names": prior.layer_names}
    write_tensors(path, prior.state_dict())
    write_json(path.with_suffix(".json"), {"kind": kind_of(prior.settings), "settings": settings, **card})


def training_recipe(name: str) -> Path | None:
    """Settings that `hglad prior train` makes a missing generator of `data/priors` from.

    None where the generator is there, where it is named by a path, and where there is no recipe of that name.
    """
    path = PROJECT / "configs" / "priors" / f"{name}.yaml"
    return path if Path(name).name == name and path.is_file() and not _is_there(name) else None


def check_obtainable(key: str, name: str) -> None:
    """Raise `HgladError` for a generator that is not there and has no recipe, with what can be done."""
    if _is_there(name) or training_recipe(name):
        return
    folders = (PROJECT / "data" / "priors", PROJECT / "configs" / "priors")
    known = {file.stem for folder in folders for file in folder.glob("*") if file.suffix != ".json"}
    advice = f"{suggestion(name, known)} Or write configs/priors/{Path(name).stem}.yaml to train it from"
    if name in RELEASED:
        advice = f"get it by hglad prior import --name {name} --out data/priors/{name}.safetensors"
    raise HgladError(f"{key} names the generator '{name}', which is not there: {advice}")


def _is_there(name: str) -> bool:
    try:
        return prior_path(name).is_file()
    except HgladError:
        return False
