"""Class-activation maps: where in an image a classifier finds the evidence for a class."""

from collections.abc import Callable

import torch
from torch import Tensor

from hglad.networks import Classifier


@torch.enable_grad()
def activation_maps(
    classifier: Classifier, images: Tensor, labels: Tensor, normalize: Callable[[Tensor], Tensor]
) -> Tensor:
    """Grad-CAM map A_c of each image for its class, scaled to a maximum of 1 (Selvaraju et al. 2017).

    Args:
        classifier: trained network; is put into evaluation mode.
        images: (n, ch, h, w) in [0, 1].
        labels: class of each image (n,).
        normalize: turns images into the network's input, such as `RealData.normalize`.

    Returns:
        (n, h', w') at the size of the network's last feature maps; 0 everywhere where nothing in the image
        speaks for the class.

    Raises:
        HgladError: images with other channels than `normalize` expects.
    """
    inputs = normalize(images.detach().requires_grad_())  # so that a frozen network has a graph as well
    maps, embedding = classifier.eval().maps_and_embedding(inputs)  # (n, K, h', w'), (n, features)
    logits = classifier.classifier(embedding).gather(1, labels[:, None])
    (gradient,) = torch.autograd.grad(logits.sum(), maps)
    weights = gradient.mean(dim=(2, 3))  # alpha_c (n, K)
    activation = torch.einsum("nk,nkhw->nhw", weights, maps).relu().detach()
    return activation / activation.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
