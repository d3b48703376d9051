"""AlexNet as the field of dataset distillation uses it: stride 1, no norm, one linear layer."""

from torch import nn

from hglad.networks.convnet import first_convolution, size_after
from hglad.networks.registry import Classifier, register_network, require_size

VERSION = 1  # raise when the same parameters give other outputs


@register_network("alexnet")
class AlexNet(Classifier):
    """Five convolutions, each followed by ReLU, three max pools, a linear layer; from 8 px."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(image_shape)
        require_size("alexnet", image_shape, 8)
        height, width = size_after(image_shape, 3)
        self.features = nn.Sequential(
            first_convolution(image_shape[0], 128, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(192, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 192, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(192, 192, 3, padding=1),
            nn.ReLU(),
        )
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Linear(192 * height * width, classes)
