"""Generators that a profile names before they are there, and the recipes that train them."""

from pathlib import Path

from hglad.errors import HgladError
from hglad.paths import PROJECT
from hglad.priors.files import prior_path
from hglad.priors.nvidia import RELEASED
from hglad.settings import suggestion


def is_there(name: str) -> bool:
    """Whether a generator has a file: weights, or the recipe of an untrained one."""
    try:
        return prior_path(name).is_file()
    except HgladError:
        return False


def prior_recipe(name: str) -> Path | None:
    """Settings that `hglad prior train` makes a missing generator of `data/priors` from.

    None where the generator is there, where it is named by a path, and where there is no recipe of that name.
    """
    path = PROJECT / "configs" / "priors" / f"{name}.yaml"
    return path if not is_there(name) and Path(name).name == name and path.is_file() else None


def check_obtainable(key: str, name: str) -> None:
    """Raise `HgladError` for a generator that is not there and has no recipe, with what can be done."""
    if is_there(name) or prior_recipe(name):
        return
    if name in RELEASED:
        advice = f"get it by hglad prior import --name {name} --out data/priors/{name}.safetensors"
    else:
        advice = (
            f"{suggestion(name, _known())} Or write configs/priors/{Path(name).stem}.yaml to train it from"
        )
    raise HgladError(f"{key} names the generator '{name}', which is not there: {advice}")


def _known() -> set[str]:
    """Names of generators that are there or can be trained."""
    folders = (PROJECT / "data" / "priors", PROJECT / "configs" / "priors")
    return {file.stem for folder in folders for file in folder.glob("*") if file.suffix != ".json"}
