"""`dataclasses.replace` for settings, too."""

import dataclasses

from hglad.settings import Settings


def replace(thing, **changes):
    """A copy with other values."""
    return thing.changed(**changes) if isinstance(thing, Settings) else dataclasses.replace(thing, **changes)
