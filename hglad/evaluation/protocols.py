"""Named evaluation protocols: how the papers train a network on a distilled set."""

from dataclasses import replace

from hglad.evaluation.training import BASE_PROTOCOL, GLAD_PROTOCOL, TrainingSettings
from hglad.registry import unknown

PROTOCOLS = {
    "glad": GLAD_PROTOCOL,
    "dm": BASE_PROTOCOL,
    "dc": replace(BASE_PROTOCOL, epochs=300, augmentation="crop_scale_rotate"),
}
"""`glad`: GLaD and H-GLaD; `dm`: DSA and DM; `dc`: DC, for images that were made without augmentation."""

OWN_RATES = {("glad", "vgg11"): 0.0001}  # Cazenavette et al. 2023


def protocol(name: str, network: str = "convnet") -> TrainingSettings:
    """Training of a registered network by a named protocol; an unknown one raises `HgladError`."""
    if name not in list(PROTOCOLS):  # a list or mapping from a file is no key
        raise unknown("evaluation protocol", name, list(PROTOCOLS))
    settings = PROTOCOLS[name]
    return replace(settings, lr=OWN_RATES.get((name, network), settings.lr))
