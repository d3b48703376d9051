"""What metrics draw, from a seed of their own: the same for every candidate."""

from copy import deepcopy

import torch

from hglad.errors import HgladError
from hglad.networks import Classifier
from hglad.networks.initialization import initialize

HIGHEST_SEED = 2**63 - 1


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU, whose draws no device changes; raises `HgladError` for an impossible seed."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= HIGHEST_SEED:
        raise HgladError(f"the seed of a metric is {seed!r}; give a whole number from 0 to 2^63 - 1")
    return torch.Generator().manual_seed(seed)


def untrained(classifier: Classifier, generator: torch.Generator) -> Classifier:
    """A network of the classifier's architecture with fresh parameters, in eval mode."""
    return initialize(deepcopy(classifier), generator).eval()
