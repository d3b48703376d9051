"""Read a profile from a file or from a notebook's parameters; one that contradicts itself is refused."""

from pathlib import Path
from typing import Any

from hglad.experiments.combinations import check_combinations
from hglad.experiments.profile import Profile
from hglad.settings import from_dict, read_yaml


def profile_from(**parameters: Any) -> Profile:
    """Profile from the parameters of a notebook.

    Raises:
        HgladError: unknown key (with the nearest one), wrong type, unknown network or objective, settings
            that contradict each other.
    """
    return _read(Profile, parameters)


def read_profile(path: Path | str) -> Profile:
    """Read and check a profile; neither its images nor its generator need to be there.

    Raises:
        HgladError: unreadable file, unknown key, wrong type, unknown network or objective, settings that
            contradict each other.
    """
    return read_yaml(Profile, path, _read)


def _read(cls: type[Profile], values: Any) -> Profile:
    profile = from_dict(cls, values)
    check_combinations(profile)
    return profile
