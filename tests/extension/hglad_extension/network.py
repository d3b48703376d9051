"""One convolution, its mean over the image, and a linear layer."""

from torch import nn

from hglad.networks import Classifier, register_network, require

VERSION = 1


@register_network("one_layer")
class OneLayer(Classifier):
    """`width` filters of 5 x 5 pixels."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, width: int = 16) -> None:
        super().__init__(image_shape)
        require("one_layer", width=width)
        self.features = nn.Sequential(nn.Conv2d(image_shape[0], width, 5, padding=2), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(width, classes)
