"""Class-relevant feature distance: features weighted by where the class is seen.

This is the companion's reading of H-GLaD's metric: with F the last feature maps of a classifier trained on
the real set and alpha_c the Grad-CAM weights of class c (Selvaraju et al. 2017),

    A_c = ReLU(sum_k alpha_ck F_k) / max,    r_c = mean over h, w of F * A_c,
    D = sum over c of || mean of r_c over the real images - mean of r_c over the distilled images ||^2.

Two parts of the reading are options: the block that F is taken from, and what A_c is divided by.
"""

import torch
from torch import Tensor

from hglad.data.datasets import RealData
from hglad.metrics import register_metric
from hglad.metrics.feature import FeatureDistance
from hglad.networks import Classifier
from hglad.registry import unknown

VERSION = 1  # raise when the same images give another distance

NORMALIZATIONS = {  # activation maps (n, h, w) -> what they are divided by, up to broadcasting
    "max": lambda activation: activation.amax(dim=(1, 2), keepdim=True),
    "sum": lambda activation: activation.mean(dim=(1, 2), keepdim=True),  # r_c has the other 1 / hw
    "none": lambda activation: activation.new_ones(()),
}


@register_metric("class_relevant")
class ClassRelevantDistance(FeatureDistance):
    """Feature distance whose vectors are taken where the activation map of the class is high.

    Args:
        real: real training images.
        classifier: network trained on them; it is put in eval mode.
        layer: block whose feature maps are taken, as in `Classifier.feature_maps`; -1: the last. The Grad-CAM
            weights of an earlier one come through the rest of the network.
        normalization: of the activation map: "max" (its highest value is 1), "sum" (r_c is the mean of the
            features weighted by it) or "none" (it grows with the logit).

    Raises:
        HgladError: no such block, a network whose maps do not give its logits, an unknown normalization.
    """

    def __init__(
        self, real: RealData, classifier: Classifier, layer: int = -1, normalization: str = "max"
    ) -> None:
        if normalization not in NORMALIZATIONS:
            raise unknown("normalization of class_relevant,", normalization, list(NORMALIZATIONS))
        self.normalization = normalization
        super().__init__(real, classifier, layer)

    def reduce(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Vectors r_c (n, K) of feature maps (n, K, h, w)."""
        return (maps * self.activation(maps, labels)[:, None]).mean(dim=(2, 3))

    def activation(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Activation maps A_c (n, h, w) of feature maps (n, K, h, w)."""
        activation = torch.einsum("nk,nkhw->nhw", self.grad_cam_weights(maps, labels), maps).relu()
        return activation / NORMALIZATIONS[self.normalization](activation).clamp(min=1e-12)

    @torch.enable_grad()
    def grad_cam_weights(self, maps: Tensor, labels: Tensor) -> Tensor:
        """alpha_c (n, K): spatial mean of the gradient of the class's logit with respect to the maps."""
        maps = maps.detach().requires_grad_()
        logits = self.classifier.logits_of_maps(maps, self.layer)
        (gradient,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), maps)
        return gradient.mean(dim=(2, 3))
