"""Stop a search at values that are not finite, without waiting for a GPU at every step."""

from math import isfinite

import torch
from torch import Tensor

from hglad.errors import HgladError


class FiniteCheck:
    """Notes what each step gave and looks at it later, all steps at once.

    Args:
        objective: name of the matching objective, for the message.
        every: steps between two looks; each look waits for the device.
        rates: learning rates of the objective's own, which may be at fault, too.
    """

    def __init__(self, objective: str, every: int, rates: tuple[str, ...] = ()) -> None:
        self.objective, self.every, self.rates = objective, every, rates
        self.places: list[tuple[str, str]] = []  # (where, what to lower)
        self.numbers: list[Tensor] = []  # (3,) each: loss, broken values of the gradient, of the images

    def note(self, where: str, mend: str, images: Tensor, loss: Tensor, gradient: Tensor) -> None:
        """Note one step; raises `HgladError` when a look is due and finds something."""
        broken = [(~x.isfinite()).sum() for x in (gradient, images)]
        self.numbers.append(torch.stack([loss.detach().double(), *broken]))
        self.places.append((where, mend))
        if len(self.numbers) >= self.every:
            self.look()

    def look(self) -> None:
        """Raise `HgladError` for the first step since the last look with a value that is not finite."""
        if not self.numbers:
            return
        rows = torch.stack(self.numbers).tolist()  # the only place that waits for the device
        places, self.numbers, self.places = self.places, [], []
        for (where, mend), (loss, gradient, images) in zip(places, rows, strict=True):
            if images:
                raise HgladError(f"images are not finite at {where} ({int(images)} values): lower {mend}")
            if gradient or not isfinite(loss):
                values = f", its gradient has {int(gradient)} values that are not finite" if gradient else ""
                raise HgladError(
                    f"objective {self.objective!r} has the loss {loss:g}{values} at {where}: lower "
                    + " or ".join((mend, *self.rates))
                )
