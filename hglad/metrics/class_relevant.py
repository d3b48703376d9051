"""Class-relevant feature distance: features weighted by where the class is seen.

This is the companion's reading of H-GLaD's metric: with F the last feature maps of a classifier trained on
the real set and alpha_c the Grad-CAM weights of class c (Selvaraju et al. 2017),

    A_c = ReLU(sum_k alpha_ck F_k) / max,    r_c = mean over h, w of F * A_c,
    D = sum over c of || mean of r_c over the real images - mean of r_c over the distilled images ||^2.
"""

import torch
from torch import Tensor

from hglad.metrics.feature import FeatureDistance
from hglad.metrics.registry import register_metric

VERSION = 1  # raise when the same images give another distance


@register_metric("class_relevant")
class ClassRelevantDistance(FeatureDistance):
    """Feature distance whose vectors are taken where the activation map of the class is high."""

    def reduce(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Vectors r_c (n, K) of feature maps (n, K, h, w)."""
        activation = torch.einsum("nk,nkhw->nhw", self.grad_cam_weights(maps, labels), maps).relu()
        activation = activation / activation.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
        return (maps * activation[:, None]).mean(dim=(2, 3))

    @torch.enable_grad()
    def grad_cam_weights(self, maps: Tensor, labels: Tensor) -> Tensor:
        """alpha_c (n, K): spatial mean of the gradient of the class's logit with respect to the maps."""
        maps = maps.detach().requires_grad_()
        logits = self.classifier.classifier(self.classifier.pool(maps).flatten(1))
        (gradient,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), maps)
        return gradient.mean(dim=(2, 3))
