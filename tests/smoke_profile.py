"""The values of the smoke profile, for tests that change some of them."""

from copy import deepcopy

import yaml

from hglad.paths import PROJECT

SMOKE = yaml.safe_load((PROJECT / "configs" / "smoke.yaml").read_text())


def changed(**changes) -> dict:
    """Those values with the ones at some dotted keys replaced."""
    values = deepcopy(SMOKE)
    for key, value in changes.items():
        *groups, last = key.split(".")
        group = values
        for name in groups:
            group = group.setdefault(name, {})
        group[last] = value
    return values
