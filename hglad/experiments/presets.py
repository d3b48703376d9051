"""Searches as the paper describes them and as its public code performs them, as changes to a profile.

"Released" is the authors' public code, commit a6a5d4c of H-PD, as far as it was read.
"""

from typing import Any

from hglad.errors import HgladError
from hglad.settings import suggestion

RATES = {"dc": (1.0, 0.001), "dm": (10.0, 0.01), "mtt": (10_000.0, 10.0)}
"""Published rates of f (and pixels) and of w, for StyleGAN-XL at 128 pixels."""
RELEASED_STEPS = {"dc": 101, "dm": 11, "mtt": 101}
"""Steps of each stage in the released code, whose loops begin at 0 and include the last number."""
EVEN = {"budget": "steps", "shares": [], "stage_lr_f": [], "stage_lr_w": []}
"""No stage is longer or faster than another."""


def paper(split_points: int, ipc: int = 1) -> dict[str, dict[str, Any]]:
    """The paper's search: latents alone, every layer, pixels; the best iterate by its distance.

    Args:
        split_points: those of the generator, pixel space included.
        ipc: images per class; only with one do averaged latents make sense.

    Returns:
        Changes to `search` and to `metric`.
    """
    return {
        "search": {
            "latent_stage": True,
            "stages": list(range(1, split_points)),
            "average": 1000 if ipc == 1 else 1,
            "clip": 10.0,
            "selection": "metric",
            "stage_start": "best",
            "styles": "kept",
            "normalise_generated": True,
        }
        | EVEN,
        "metric": {"name": "class_relevant", "options": {}},
    }


def released(split_points: int, ipc: int = 1) -> dict[str, dict[str, Any]]:
    """What the released code does.

    Its stages run from the first layer to the one before the last: neither the latents alone nor pixels. Its
    history of iterates keeps references to tensors that the optimiser changes in place, so that its best
    iterate is always the last, whatever the distance says; the distance itself compares features of different
    untrained networks. Generated images are not normalised, real ones are. Averaged latents are off unless
    asked for.

    See `paper` for arguments and result.
    """
    return {
        "search": {
            "latent_stage": False,
            "stages": list(range(1, split_points - 1)),
            "average": 1,
            "clip": 10.0,
            "selection": "last",
            "stage_start": "last",
            "styles": "kept",
            "normalise_generated": False,
        }
        | EVEN,
        "metric": {"name": "released_feature", "options": {}},
    }


PRESETS = {"paper": paper, "released": released}


def preset(name: str, split_points: int, ipc: int = 1) -> dict[str, dict[str, Any]]:
    """Changes of a preset by name; an unknown name raises `HgladError`."""
    if name not in PRESETS:
        raise HgladError(f"unknown preset '{name}': {suggestion(name, PRESETS)}")
    return PRESETS[name](split_points, ipc)


def published_schedule(name: str, objective: str, split_points: int, ipc: int = 1) -> dict[str, Any]:
    """Rates and steps that belong to a preset: those of StyleGAN-XL, changes to `search`.

    The steps of a stage are the released code's in both presets: the paper gives its cost as GLaD's time.
    """
    if objective not in RATES:
        raise HgladError(f"no published rates of objective '{objective}': {suggestion(objective, RATES)}")
    stages = preset(name, split_points, ipc)["search"]
    count = len(stages["stages"]) + stages["latent_stage"]
    lr_f, lr_w = RATES[objective]
    rates = {"rates": "absolute", "lr_features": lr_f, "lr_pixels": lr_f, "lr_latents": lr_w}
    return rates | {"steps": count * RELEASED_STEPS[objective]}
