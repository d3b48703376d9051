"""The matching objective's own loss, over draws that stay the same: the metric that costs no idea."""

from copy import deepcopy

import torch
from torch import Tensor

from hglad.data.datasets import RealData
from hglad.metrics import Metric, register_metric, seeded
from hglad.networks import require
from hglad.objectives import Objective

VERSION = 1  # raise when the same images and the same objective give another loss

DRAWS = 4


@register_metric("loss")
class MatchingLoss(Metric):
    """Mean loss of the matching objective over a few draws, the same ones for every candidate.

    A draw is what one step of the search draws: network or expert, real batch, augmentation. The objective is
    copied, and each draw starts from the state that it had when the metric was made: a network in training
    and the student's learning rate of trajectory matching stay those of the start of the search.

    Args:
        real: real training images.
        objective: matching objective; it is left as it is.
        draws: number of draws.
        seed: of the draws.

    Raises:
        HgladError: an impossible number of draws or seed; in a call, what `Objective.gradient` refuses.
    """

    def __init__(self, real: RealData, objective: Objective, draws: int = DRAWS, seed: int = 0) -> None:
        require("the metric 'loss'", draws=draws)
        seeded(seed)  # refuses an impossible one
        self.real, self.objective = real, deepcopy(objective)
        self.state = deepcopy(self.objective.state_dict())
        self.draws, self.seed = draws, seed

    @classmethod
    def passes(cls, images: int, matching: float) -> float:
        """As `Metric.passes`: the steps of the objective."""
        return DRAWS * matching

    @torch.enable_grad()
    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """As `Metric.__call__`; of images equally many of each class, sorted or not."""
        order = labels.to(images.device).argsort(stable=True)  # as objectives ask for
        images, labels, rng = images.detach()[order], labels.to(images.device)[order], seeded(self.seed)
        losses = []
        for _ in range(self.draws):
            self.objective.load_state_dict(self.state)
            _, logs = self.objective.gradient(images, labels, self.real, rng)
            losses.append(logs["loss"])
        return torch.stack(losses).mean().item()
