"""ResNet-18 (He et al. 2016) with instance norm and a stride-1 stem without pooling."""

from torch import Tensor, nn

from hglad.networks import Classifier, register_network, require_size, scaled
from hglad.networks.convnet import first_convolution, instance_norm

VERSION = 1  # raise when the same parameters give other outputs


class BasicBlock(nn.Module):
    """Two 3x3 convolutions without bias; a 1x1 projection where the shape changes."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False),
            instance_norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            instance_norm(width),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != width:
            projection = nn.Conv2d(inputs, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, instance_norm(width))

    def forward(self, maps: Tensor) -> Tensor:
        return (self.residual(maps) + self.shortcut(maps)).relu_()


@register_network("resnet18")
class ResNet18(Classifier):
    """Stem, eight basic blocks, global average pool, linear layer; the last maps must keep 2 x 2 pixels.

    `width` is a factor on the number of channels.
    """

    block_end = (nn.ReLU, BasicBlock)

    def __init__(self, image_shape: tuple[int, int, int], classes: int, width: float = 1.0) -> None:
        super().__init__(image_shape)
        # Below, the last maps have one pixel, which instance norm turns into a constant.
        require_size("resnet18", image_shape, 5 if image_shape[0] == 1 else 9)
        widths = scaled((64, 128, 256, 512), width)
        inputs = widths[0]
        stem = first_convolution(image_shape[0], inputs, 3, bias=False)
        layers = [stem, instance_norm(inputs), nn.ReLU(inplace=True)]
        for stage, channels in enumerate(widths):
            stride = 1 if stage == 0 else 2
            layers += [BasicBlock(inputs, channels, stride), BasicBlock(channels, channels, stride=1)]
            inputs = channels
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)
