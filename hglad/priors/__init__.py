"""Generative priors: what a distilled set is parameterized by."""

from hglad.priors.base import PRIORS, Generator, Latents, Prior
from hglad.priors.files import load_prior, prior_card, prior_hash, prior_versions, save_prior
from hglad.priors.pixels import PixelPrior

__all__ = [
    "PRIORS", "Generator", "Latents", "PixelPrior", "Prior",
    "load_prior", "prior_card", "prior_hash", "prior_versions", "save_prior",
]  # fmt: skip
