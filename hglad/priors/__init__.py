"""Generative priors: what a distilled set is parameterised by."""

from hglad.priors.base import Latents, Prior
from hglad.priors.files import load_prior, prior_card, prior_hash, save_prior
from hglad.priors.pixels import PixelPrior
from hglad.priors.registry import PRIORS

__all__ = ["PRIORS", "Latents", "PixelPrior", "Prior", "load_prior", "prior_card", "prior_hash", "save_prior"]
