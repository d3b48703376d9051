"""AlexNet as the field of dataset distillation uses it: stride 1, no norm, one linear layer."""

from torch import nn

from hglad.networks import Classifier, register_network, require_size, scaled
from hglad.networks.convnet import first_convolution, size_after

VERSION = 1  # raise when the same parameters give other outputs


@register_network("alexnet")
class AlexNet(Classifier):
    """Five convolutions, each followed by ReLU, three max pools, a linear layer; from 8 px.

    `width` is a factor on the number of channels.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, width: float = 1.0) -> None:
        super().__init__(image_shape)
        require_size("alexnet", image_shape, 8)
        small, middle, large = scaled((128, 192, 256), width)
        height, breadth = size_after(image_shape, 3)
        self.features = nn.Sequential(
            *(first_convolution(image_shape[0], small, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(small, middle, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(middle, large, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(large, middle, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(middle, middle, 3, padding=1), nn.ReLU(inplace=True)),
        )
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Linear(middle * height * breadth, classes)
