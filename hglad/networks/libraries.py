"""Classifiers of torchvision and timm by name: "torchvision:resnet50", "timm:resnet18".

No pretrained weights and no download: the library initializes the model. Its last linear layer becomes
`classifier`, so that what is left of it, `model`, gives the embedding.
"""

import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import partial
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from hglad.errors import HgladError
from hglad.networks.classifier import Classifier
from hglad.networks.passes import draw_seed, global_seed
from hglad.registry import unknown

VERSION = 1  # raise when the same model of the same library gives other outputs

NOT_OPTIONS = {  # set by hglad itself, ways to load weights, and what makes other outputs than logits
    "num_classes", "in_chans", "weights", "progress", "pretrained", "pretrained_cfg", "cache_dir",
    "pretrained_cfg_overlay", "checkpoint_path", "features_only", "exportable", "scriptable", "aux_logits",
}  # fmt: skip
Outputs = list[tuple[nn.Module, Tensor]]  # what every module returned, inner before outer


def version(name: str) -> str:
    """Own number and the library's release, without what names its build, such as "1 (timm 1.0.31)"."""
    library = _package(name).__name__
    return f"{VERSION} ({library} {importlib.metadata.version(library).partition('+')[0]})"


def check(name: str, options: Iterable[str]) -> None:
    """Raise `HgladError` for a model that its library does not have and an option that is not the user's."""
    package, (library, _, model) = _package(name), name.partition(":")
    everything = package.models.list_models()
    known = everything if library == "timm" else package.models.list_models(module=package.models)
    if model not in known:
        near = " or ".join(f"'{library}:{found}'" for found in get_close_matches(model, known, cutoff=0))
        kind = f"'{name}' is no image classifier" if model in everything else f"unknown network '{name}'"
        raise HgladError(f"{kind}: did you mean {near}?")
    for option in sorted(NOT_OPTIONS.intersection(options)):
        raise HgladError(
            f"option {option!r} of '{name}' is not yours to set: the network fits the data and starts "
            "without pretrained weights; remove it"
        )


def _package(name: str) -> ModuleType:
    library = name.partition(":")[0]
    if library not in ("torchvision", "timm"):
        raise unknown("library of networks", library, ["torchvision", "timm"])
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise HgladError(f"networks of {library} need the package: pip install {library}") from error


class Maps(NamedTuple):
    """Where a model has its last feature maps: what the module `path` is `given` or returns; None:
    what goes from `forward_features` to `forward_head`."""

    path: str | None
    given: bool = False
    channels_last: bool = False  # (n, h', w', K) instead of (n, K, h', w')
    grid: tuple[int, int] | None = None  # (h', w') of tokens (n, prefix + h' w', K)

    def read(self, found: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (n, K, h', w') and `found` made of them again, so that gradients pass through them."""
        if found.dim() == 3:
            prefix = found.shape[1] - self.grid[0] * self.grid[1]
            maps = found[:, prefix:].mT.unflatten(-1, self.grid)
            return maps, torch.cat([found[:, :prefix], maps.flatten(2).mT], dim=1)
        maps = found.movedim(-1, 1) if self.channels_last else found
        return maps, maps.movedim(1, -1) if self.channels_last else maps


class LibraryNetwork(Classifier):
    """A model of another library; without a linear layer at its end its `classifier` is the identity.

    Raises:
        HgladError: a model that cannot be made, images that it does not take, other outputs than logits.
    """

    external = True  # draws and mixes images in training mode for all that is known

    def __init__(
        self, name: str, image_shape: tuple[int, int, int], classes: int, rng: torch.Generator, options: dict
    ) -> None:
        super().__init__(image_shape)
        check(name, options)
        library, _, model = name.partition(":")
        make = {"torchvision": torchvision_model, "timm": timm_model}[library]
        self.title, self.channels = name, 3 if library == "torchvision" else image_shape[0]
        self.build = partial(make, model, image_shape, classes, **options)
        self.model, self.classifier = self._drawn(rng).eval(), nn.Identity()
        images, outputs = torch.zeros(2, *image_shape), []

        def note(module: nn.Module, given: tuple, returned: object) -> None:
            if isinstance(returned, Tensor):
                outputs.append((module, returned))

        try:
            with torch.no_grad(), register_module_forward_hook(note):
                logits = self._run(images, self.model)
        except Exception as error:  # whatever the library's model raises
            raise self._unusable("does not take", error) from error
        if not isinstance(logits, Tensor) or logits.shape != (2, classes):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise HgladError(f"{name} returns {found} for 2 images, not one logit a class; take a classifier")
        self.largest_maps = max(returned.numel() for _, returned in outputs) // 2  # of one image
        if library == "timm":
            self.maps, layer = timm_maps(self.model, images), self.model.get_classifier()
        else:
            self.maps = torchvision_maps(self.model, images, outputs)
            layer = [None, *(module for module in self.model.modules() if isinstance(module, nn.Linear))][-1]
        if isinstance(layer, nn.Linear):
            self.head = next(path for path, module in self.model.named_modules() if module is layer)
            self.model.set_submodule(self.head, nn.Identity())
            self.classifier = layer
        self.train()

    def draw_parameters(self, rng: torch.Generator) -> None:
        """Draw parameters and buffers anew, in place, as the library initializes them."""
        fresh = self._drawn(rng).state_dict()
        for name, tensor in self.state_dict().items():
            part, _, name = name.partition(".")
            tensor.copy_(fresh[name if part == "model" else f"{self.head}.{name}"])

    def forward(self, images: Tensor) -> Tensor:
        """(..., ch, h, w) -> logits (..., classes)."""
        found = self.classifier(self._run(self._checked(images).flatten(0, -4), self.model))
        return found.unflatten(0, images.shape[:-3])

    def embed(self, images: Tensor) -> Tensor:
        """As `Classifier.embed`; raises `HgladError` where the logits need more than one linear layer."""
        if isinstance(self.classifier, nn.Identity):
            raise HgladError(
                f"{self.title} has no embedding, since no linear layer gives its logits; take another network"
            )
        return self._run(self._checked(images).flatten(0, -4), self.model).unflatten(0, images.shape[:-3])

    def maps_and_embedding(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `Classifier.maps_and_embedding`; raises `HgladError` for a model whose maps are not known.

        Those of a transformer are the patch tokens, as they enter its last block where it has a class token.
        """
        if self.maps is None:
            raise HgladError(f"{self.title} has no feature maps that its layers show; take another network")
        seen: list[Tensor] = []

        def see(found: Tensor) -> Tensor:
            maps, again = self.maps.read(found)
            seen.append(maps)
            return again

        def features_first(images: Tensor) -> Tensor:
            return self.model.forward_head(see(self.model.forward_features(images)))

        if self.maps.path is None:
            output = self._run(images, features_first)
            return seen[0], output
        module = self.model.get_submodule(self.maps.path)
        if self.maps.given:
            hook = module.register_forward_pre_hook(lambda _, given: (see(given[0]), *given[1:]))
        else:
            hook = module.register_forward_hook(lambda _, given, returned: see(returned))
        with hook:
            output = self._run(images, self.model)
        return seen[0], output

    def _run(self, images: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        try:
            return function(images.expand(-1, self.channels, -1, -1))
        except ValueError as error:
            if not self.training or len(images) != 1 or "more than 1 value per channel" not in str(error):
                raise
            raise HgladError(
                f"{self.title} cannot train on a batch of one image: its batch norm has one value per "
                "channel to normalize by; choose a batch_size that leaves no single image, or another network"
            ) from error

    def _drawn(self, rng: torch.Generator) -> nn.Module:
        with global_seed(draw_seed(rng)):
            try:
                return self.build()
            except Exception as error:  # whatever the library's constructor raises
                raise self._unusable("cannot be made for", error) from error

    def _unusable(self, what: str, error: Exception) -> HgladError:
        size, lines = " x ".join(map(str, self.image_shape)), str(error).strip().splitlines()
        reason = lines[0].rstrip(".") if lines else type(error).__name__
        return HgladError(
            f"{self.title} {what} images of {size}: {reason}; change its options or the size of the images "
            "(mostly larger ones), or take another network"
        )


def torchvision_model(
    model: str, image_shape: tuple[int, int, int], classes: int, **options: object
) -> nn.Module:
    """With parameters from PyTorch's global generator; some need the size of the images."""
    from torchvision import models

    channels, height, width = image_shape
    if channels not in (1, 3):
        raise ValueError(f"it takes images of 1 or 3 channels, got {channels}")
    parameters = inspect.signature(
        inspect.signature(models.get_model_builder(model)).return_annotation
    ).parameters
    if "image_size" in parameters and height != width:
        raise ValueError(f"it takes square images, got {height} x {width} px")
    needs = {"image_size": height, "input_size": (height, width)}
    needs |= {"aux_logits": False, "init_weights": True}  # the weights of the paper, soon not the default
    needs = {name: value for name, value in needs.items() if name in parameters}
    return models.get_model(model, weights=None, num_classes=classes, **needs | options)


def timm_model(model: str, image_shape: tuple[int, int, int], classes: int, **options: object) -> nn.Module:
    """With parameters from PyTorch's global generator; many also take the size of the images."""
    import timm

    channels, *size = image_shape
    create = partial(timm.create_model, model, pretrained=False, num_classes=classes, in_chans=channels)
    try:
        return create(**{"img_size": tuple(size)} | options)
    except TypeError:  # a model for every size, or an option that it does not have
        return create(**options)


def torchvision_maps(
    model: nn.Module, images: Tensor, outputs: list[tuple[nn.Module, Tensor]]
) -> Maps | None:
    """The last maps before the last global pooling that are not themselves pooled; the tokens of a ViT."""
    paths = {module: path for path, module in model.named_modules()}
    if hasattr(model, "encoder") and hasattr(model, "patch_size"):
        grid = (images.shape[-2] // model.patch_size, images.shape[-1] // model.patch_size)
        *_, last = model.encoder.layers.children()
        return Maps(paths[last], given=True, grid=grid)  # its output for patches reaches no logit
    poolings = [
        index for index, (module, _) in enumerate(outputs) if isinstance(module, nn.AdaptiveAvgPool2d)
    ]
    before = outputs[: poolings[-1]] if poolings else outputs
    pooled = {id(maps) for module, maps in before if isinstance(module, nn.MaxPool2d)}
    found = [paths[module] for module, maps in before if maps.dim() == 4 and id(maps) not in pooled]
    return Maps(found[-1]) if found else None


@torch.no_grad()
def timm_maps(model: nn.Module, images: Tensor) -> Maps | None:
    """What `forward_features` returns; where a class token is read from it, what enters the last block."""
    grid = getattr(getattr(model, "patch_embed", None) or getattr(model, "stem", None), "grid_size", None)
    found = model.forward_features(images)
    if not isinstance(found, Tensor) or found.dim() not in (3, 4):
        return None
    if found.dim() == 4:
        return Maps(None, channels_last=getattr(model, "output_fmt", "NCHW") == "NHWC")
    if grid is None or not 0 <= found.shape[1] - grid[0] * grid[1] < 8:  # class and register tokens
        return None
    if getattr(model, "global_pool", None) == "token" and hasattr(model, "blocks"):
        return Maps(f"blocks.{len(model.blocks) - 1}", given=True, grid=grid)
    return Maps(None, grid=grid)
