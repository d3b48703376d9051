"""Priors on disk: tensors as safetensors, with a card beside them (settings, data, training, quality)."""

import dataclasses
import hashlib
from functools import lru_cache
from pathlib import Path

import torch

from hglad.errors import HgladError
from hglad.paths import PROJECT
from hglad.priors.stylegan_xl import StyleGANXL
from hglad.settings import suggestion
from hglad.storage import read_json, read_tensors, write_json, write_tensors


def prior_path(name: str) -> Path:
    """File of a prior: a path to `.safetensors`, or the name of one in `data/priors`.

    Raises:
        HgladError: no such file.
    """
    if name.endswith(".safetensors"):
        if not Path(name).is_file():
            raise HgladError(f"no prior at {name}: expected a .safetensors file")
        return Path(name)
    folder = PROJECT / "data" / "priors"
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        known = [file.stem for file in folder.glob("*.safetensors")]
        raise HgladError(
            f"unknown prior '{name}': {suggestion(name, known)} (or a path to a .safetensors file)"
        )
    return path


def prior_card(name: str) -> dict:
    """Card of a prior: kind, settings, data, training and quality."""
    return read_json(prior_path(name).with_suffix(".json"))


def prior_hash(name: str) -> str:
    """sha256 of a prior's settings and tensors; "pixels" hashes to its name."""
    if name == "pixels":
        return name
    path = prior_path(name)
    settings = repr(sorted(prior_card(name)["settings"].items())).encode()
    return _hash(settings, path, path.stat().st_mtime_ns)


@lru_cache
def _hash(settings: bytes, path: Path, changed: int) -> str:
    """Kept for as long as the file is not changed, at the time `changed`."""
    return hashlib.sha256(settings + path.read_bytes()).hexdigest()


def load_prior(name: str, device: torch.device | str = "cpu") -> StyleGANXL:
    """Load a frozen generator by its name in `data/priors` or by path.

    Raises:
        HgladError: no such file, or tensors that do not fit the card.
    """
    return StyleGANXL.from_tensors(prior_card(name)["settings"], read_tensors(prior_path(name))).to(device)


def save_prior(path: Path | str, prior: StyleGANXL, card: dict) -> None:
    """Write a generator and its card; `card` is completed with the settings and layer names."""
    path = Path(path).with_suffix(".safetensors")
    settings = dataclasses.asdict(prior.settings) | {"layer_names": prior.synthesis.layer_names}
    write_tensors(path, prior.state_dict())
    write_json(path.with_suffix(".json"), {"kind": "stylegan_xl", "settings": settings, **card})
