"""Another library's model as a classifier network: embedding and feature maps are found in the model itself.

One trial pass on black images records what every module returns. The last linear layer is the one whose
output is the logits, the very same numbers in memory; the library says where its last feature maps are. Later
passes read both through hooks that live for one call, so a copy of the network holds nothing of the original.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hglad.errors import HgladError
from hglad.networks import Classifier
from hglad.networks.initialization import draw_seed, global_seed


@dataclass(frozen=True)
class Call:
    """What one module was given and what it returned."""

    path: str
    module: nn.Module
    given: Tensor
    returned: Tensor

    def returns(self, tensor: Tensor) -> bool:
        """Whether it returned `tensor`, or a view of all of it."""
        same_numbers = self.returned.data_ptr() == tensor.data_ptr()
        return same_numbers and self.returned.numel() == tensor.numel()


@dataclass(frozen=True)
class Tap:
    """Where a model has its feature maps: what the module `path` is given or returns, and how it is laid out.

    Tensors of four dimensions are (n, K, h', w'), or (n, h', w', K) with `channels_last`; those of three are
    tokens (n, prefix + h' w', K) of a `grid` (h', w').
    """

    path: str
    given: bool = False
    channels_last: bool = False
    grid: tuple[int, int] | None = None

    def maps(self, found: Tensor) -> tuple[Tensor, Tensor]:
        """Feature maps (n, K, h', w') and `found` made of them again, so that gradients pass through."""
        if found.dim() == 3:
            prefix = found.shape[1] - self.grid[0] * self.grid[1]
            maps = found[:, prefix:].mT.unflatten(-1, self.grid)
            return maps, torch.cat([found[:, :prefix], maps.flatten(2).mT], dim=1)
        if self.channels_last:
            maps = found.movedim(-1, 1)
            return maps, maps.movedim(1, -1)
        return found, found


Build = Callable[[], nn.Module]
FindTap = Callable[[nn.Module, Tensor, list[Call]], Tap | None]


class External(Classifier):
    """A model of another library, freshly initialized.

    Args:
        title: what messages call it, such as "timm:resnet18".
        image_shape: (channels, height, width) of the images it is given.
        channels: channels of the model's own input; a grey image is repeated to fill them.
        classes: number of logits.
        build: makes the model, with parameters from PyTorch's global generator.
        find_tap: where the model has its last feature maps, from the model, the images and the calls of the
            trial; None: nowhere.
        generator: draws the parameters.

    Raises:
        HgladError: a model that cannot be made, images that it does not take, other outputs than logits.
    """

    external = True  # draws and mixes images in training mode for all that is known

    def __init__(
        self,
        title: str,
        image_shape: tuple[int, int, int],
        channels: int,
        classes: int,
        build: Build,
        find_tap: FindTap,
        generator: torch.Generator,
    ) -> None:
        super().__init__(image_shape)
        if image_shape[0] not in (1, channels):
            raise HgladError(
                f"{title} takes images of 1 or {channels} channels, got {image_shape[0]}; give such images "
                "or a network of another library"
            )
        self.name, self.channels, self.build = title, channels, build
        self.model = self._drawn(generator)
        self._find_layers(classes, find_tap)

    @property
    def title(self) -> str:
        """What messages call this network."""
        return self.name

    @property
    def classifier(self) -> nn.Linear:
        """The last linear layer, embedding to logits; raises `AttributeError` for a model without one."""
        if self.head is None:
            raise AttributeError(f"{self.title} has no linear layer that gives its logits")
        return self.model.get_submodule(self.head)

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Draw parameters and buffers anew, in place, as the library initializes them."""
        fresh = self._drawn(generator).state_dict()
        for name, tensor in self.model.state_dict().items():
            tensor.copy_(fresh[name])

    def forward(self, images: Tensor) -> Tensor:
        """(..., ch, h, w) -> logits (..., classes)."""
        batch = self._checked(images).flatten(0, -4)
        return self._run(batch).unflatten(0, images.shape[:-3])

    def embed(self, images: Tensor) -> Tensor:
        """(..., ch, h, w) -> input of the last linear layer, (..., features).

        Raises `HgladError` for a model whose logits do not come from one linear layer.
        """
        seen: dict[str, Tensor] = {}
        with self._embedding_into(seen):
            self._run(self._checked(images).flatten(0, -4))
        return seen["embedding"].unflatten(0, images.shape[:-3])

    def maps_and_embedding(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `Classifier.maps_and_embedding`; raises `HgladError` for a model without such maps."""
        seen: dict[str, Tensor] = {}
        with self._embedding_into(seen), self._maps_into(seen):
            self._run(images)
        return seen["maps"], seen["embedding"]

    def feature_maps(self, images: Tensor, layer: int = -1) -> Tensor:
        """(n, ch, h, w) -> the last feature maps before the final pooling, (n, K, h', w').

        Of a transformer they are the patch tokens: those that enter its last block where the logits follow
        from a class token. Raises `HgladError` for a `layer` other than -1 and a model without such maps.
        """
        if layer != -1:
            return super().feature_maps(images, layer)
        seen: dict[str, Tensor] = {}
        with self._maps_into(seen):
            self._run(self._checked(images))
        return seen["maps"]

    def _run(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, ch, h, w)."""
        try:
            logits = self.model(images.expand(-1, self.channels, -1, -1))
        except ValueError as error:
            if not self.training or len(images) != 1 or "more than 1 value per channel" not in str(error):
                raise
            raise HgladError(
                f"{self.title} cannot train on a batch of one image: its batch norm has one value per "
                "channel to normalise by; choose a batch_size that leaves no single image, or another network"
            ) from error
        if not isinstance(logits, Tensor):
            raise HgladError(
                f"{self.title} returns a {type(logits).__name__} and not logits; leave out the option that "
                "asks for more outputs"
            )
        return logits

    def _drawn(self, generator: torch.Generator) -> nn.Module:
        with global_seed(draw_seed(generator)):
            try:
                return self.build()
            except Exception as error:  # whatever the library's constructor raises
                raise HgladError(
                    f"{self.title} cannot be made for images of {self.image_shape}: {_reason(error)}; "
                    "change its options or the size of the images"
                ) from error

    @torch.no_grad()
    def _find_layers(self, classes: int, find_tap: FindTap) -> None:
        """One pass on black images: whether it gives logits; where its last linear layer and maps are."""
        images = torch.zeros(2, *self.image_shape).expand(-1, self.channels, -1, -1)
        self.model.eval()
        try:
            logits, calls = trace(self.model, self.model, images)
            self.tap = find_tap(self.model, images, calls)
        except Exception as error:  # whatever the library's model raises
            raise HgladError(
                f"{self.title} does not take images of {' x '.join(map(str, self.image_shape[1:]))} px: "
                f"{_reason(error)}; give images of another size, mostly larger ones, or another network"
            ) from error
        self.model.train()
        if not isinstance(logits, Tensor) or logits.shape != (2, classes):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise HgladError(
                f"{self.title} returns {found} for 2 images, expected logits of shape {(2, classes)}; choose "
                "an image classifier"
            )
        heads = (call.path for call in reversed(calls) if _is_head(call) and call.returns(logits))
        self.head = next(heads, None)
        self.largest_maps = max(call.returned.numel() for call in calls) // len(images)  # of one image

    def _embedding_into(self, seen: dict[str, Tensor]):
        if self.head is None:
            raise HgladError(
                f"{self.title} has no embedding: its logits do not come from one linear layer; take another "
                "network, such as convnet"
            )

        def see(module: nn.Module, given: tuple[Any, ...]) -> None:
            seen["embedding"] = given[0]

        return hooked(self.model.get_submodule(self.head).register_forward_pre_hook, see)

    def _maps_into(self, seen: dict[str, Tensor]):
        if self.tap is None:
            raise HgladError(
                f"{self.title} has no feature maps that can be told from its layers; take another network, "
                "such as convnet"
            )

        def see_given(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            seen["maps"], again = self.tap.maps(given[0])
            return again, *given[1:]

        def see_returned(module: nn.Module, given: tuple[Any, ...], returned: Tensor) -> Tensor:
            seen["maps"], again = self.tap.maps(returned)
            return again

        module = self.model.get_submodule(self.tap.path)
        if self.tap.given:
            return hooked(module.register_forward_pre_hook, see_given)
        return hooked(module.register_forward_hook, see_returned)


def trace(model: nn.Module, function: Callable[[Tensor], Any], images: Tensor) -> tuple[Any, list[Call]]:
    """`function(images)` and the calls of the modules of `model` on the way, inner before outer.

    The calls keep their tensors, so that no two of them lie at the same place in memory by chance.
    """
    calls: list[Call] = []

    def note(path: str, module: nn.Module, given: tuple[Any, ...], returned: Any) -> None:
        if given and isinstance(given[0], Tensor) and isinstance(returned, Tensor):
            calls.append(Call(path, module, given[0], returned))

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            if path:
                hooks.enter_context(hooked(module.register_forward_hook, partial(note, path)))
        return function(images), calls


@contextmanager
def hooked(register: Callable[[Callable], Any], hook: Callable) -> Iterator[None]:
    """A hook for the time of the `with` block."""
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


def _is_head(call: Call) -> bool:
    """Whether a call is that of a linear layer on vectors."""
    return isinstance(call.module, nn.Linear) and call.given.dim() == 2


def _reason(error: Exception) -> str:
    """First line of an error's text, without its closing dot."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
