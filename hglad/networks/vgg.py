"""VGG-11 (Simonyan & Zisserman 2015) with instance norm and one linear layer."""

from torch import nn

from hglad.networks import Classifier, register_network, require_size, scaled
from hglad.networks.convnet import first_convolution, instance_norm, size_after

VERSION = 1  # raise when the same parameters give other outputs

BLOCKS = ((64,), (128,), (256, 256), (512, 512), (512, 512))  # widths; a max pool by 2 follows each


@register_network("vgg11")
class VGG11(Classifier):
    """Eight convolutions with instance norm and ReLU, max pools, a linear layer; from 4 px.

    From 128 px on an adaptive max pool brings the last maps to 7 x 7. On images below 32 px the inner pools
    that would leave maps of one pixel are left out: instance norm turns such a map into a constant. `width`
    is a factor on the number of channels.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, width: float = 1.0) -> None:
        super().__init__(image_shape)
        require_size("vgg11", image_shape, 4)
        layers: list[nn.Module] = []
        inputs, halvings = 0, 0
        for block in BLOCKS:
            if layers and min(size_after(image_shape, halvings + 1)) >= 2:
                layers.append(nn.MaxPool2d(2))
                halvings += 1
            for channels in scaled(block, width):
                if inputs:
                    convolution = nn.Conv2d(inputs, channels, 3, padding=1)
                else:
                    convolution = first_convolution(image_shape[0], channels, 3)
                layers += [convolution, instance_norm(channels), nn.ReLU(inplace=True)]
                inputs = channels
        large = min(image_shape[1:]) >= 128
        height, breadth = (7, 7) if large else size_after(image_shape, halvings + 1)
        self.features = nn.Sequential(*layers)
        self.pool = nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(7) if large else nn.Identity())
        self.classifier = nn.Linear(inputs * height * breadth, classes)
