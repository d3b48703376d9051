"""Where the project's own files lie, found through the package and never through the working directory."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def results_folder(profile: str) -> Path:
    """Folder of a profile's results: `$HGLAD_RESULTS` when set, else the committed one in `data/results`."""
    chosen = os.environ.get("HGLAD_RESULTS")
    return Path(chosen).resolve() if chosen else PROJECT / "data" / "results" / profile


def cache_folder() -> Path:
    """Folder of decoded images: `$HGLAD_CACHE`, else `hglad` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hglad"
    return Path(os.environ.get("HGLAD_CACHE", default))
