"""Classifiers of torchvision and timm by name: "torchvision:resnet50", "timm:resnet18".

No pretrained weights and no download: the library initializes the model. The linear layer that gives its
logits becomes `classifier`, so that what is left of it, `model`, gives the embedding.
"""

import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterable
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
    "num_classes", "in_chans", "weights", "pretrained", "checkpoint_path", "features_only", "aux_logits",
}  # fmt: skip
Outputs = list[tuple[nn.Module, Tensor]]  # what every module returned, inner before outer


def version(name: str) -> str:
    """Own number and the library's release, without what names its build, such as "1 (timm 1.0.31)"."""
    library = _package(name).__name__
    return f"{VERSION} ({library} {importlib.metadata.version(library).partition('+')[0]})"


def check(name: str, options: Iterable[str]) -> None:
    """Raise `HgladError` for a model that its library does not have and an option that is not the user's."""
    models = _package(name).models
    classifiers = {"module": models} if name.startswith("torchvision") else {}  # timm has no others
    known = [f"{name.partition(':')[0]}:{model}" for model in models.list_models(**classifiers)]
    if name not in known:
        raise unknown("network", name, known)
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


def make(name: str, image_shape: tuple[int, int, int], classes: int, **options: object) -> nn.Module:
    """A model with parameters from PyTorch's global generator, made for the images where it needs their size.

    Raises what its library raises for options and sizes that do not fit.
    """
    library, _, model = name.partition(":")
    channels, *size = image_shape
    if library == "timm":
        create = partial(_package(name).create_model, model, num_classes=classes, in_chans=channels)
        try:
            return create(**{"img_size": tuple(size)} | options)
        except TypeError:  # a model for every size, or an option that it does not have
            return create(**options)
    models = _package(name).models
    network = inspect.signature(models.get_model_builder(model)).return_annotation
    known = inspect.signature(network).parameters
    if "image_size" in known and size[0] != size[1]:
        raise ValueError(f"it takes square images, got {size[0]} x {size[1]} px")
    needs = {"image_size": size[0], "input_size": tuple(size)}
    needs |= {"aux_logits": False, "init_weights": True}  # the weights of the paper, soon not the default
    needs = {option: value for option, value in needs.items() if option in known}
    return models.get_model(model, weights=None, num_classes=classes, **needs | options)


class LibraryNetwork(Classifier):
    """A model of another library; without a linear layer that gives its logits `classifier` is the identity.

    Raises:
        HgladError: a model that cannot be made, images that it does not take, other outputs than logits.
    """

    external = True  # draws and mixes images in training mode for all that is known

    def __init__(
        self, name: str, image_shape: tuple[int, int, int], classes: int, rng: torch.Generator, options: dict
    ) -> None:
        super().__init__(image_shape)
        check(name, options)
        self.title, self.make = name, partial(make, name, image_shape, classes, **options)
        gray = name.startswith("torchvision") and image_shape[0] == 1
        self.channels = 3 if gray else image_shape[0]  # gray is repeated where the library counts no channels
        self.model, self.classifier = self._drawn(rng).eval(), nn.Identity()
        images, outputs = torch.zeros(2, self.channels, *image_shape[1:]), []

        def note(module: nn.Module, given: tuple, returned: object) -> None:
            if isinstance(returned, Tensor):
                outputs.append((module, returned))

        try:
            with torch.no_grad(), register_module_forward_hook(note):
                logits = self.model(images)
        except Exception as error:  # whatever the library's model raises
            raise self._unusable("does not take", error) from error
        if not isinstance(logits, Tensor) or logits.shape != (2, classes):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise HgladError(f"{name} returns {found} for 2 images, not one logit a class; take a classifier")
        self.largest_maps = max(returned.numel() for _, returned in outputs) // 2  # of one image
        self.maps = find_maps(self.model, images, outputs)
        paths = {module: path for path, module in self.model.named_modules()}
        for module, returned in outputs:
            if returned is logits and isinstance(module, nn.Linear):
                self.classifier, self.head = module, paths[module]
                self.model.set_submodule(self.head, nn.Identity())
        self.train()

    def draw_parameters(self, rng: torch.Generator) -> None:
        """Draw parameters and buffers anew, in place, as the library initializes them."""
        fresh = self._drawn(rng).state_dict()
        for name, tensor in self.state_dict().items():
            part, _, name = name.partition(".")
            tensor.copy_(fresh[name if part == "model" else f"{self.head}.{name}"])

    def forward(self, images: Tensor) -> Tensor:
        """(..., ch, h, w) -> logits (..., classes)."""
        logits = self.classifier(self._run(self._checked(images).flatten(0, -4)))
        return logits.unflatten(0, images.shape[:-3])

    def embed(self, images: Tensor) -> Tensor:
        """As `Classifier.embed`; raises `HgladError` where the logits need more than one linear layer."""
        if isinstance(self.classifier, nn.Identity):
            raise HgladError(f"{self.title} has no embedding: no linear layer gives its logits; take another")
        return self._run(self._checked(images).flatten(0, -4)).unflatten(0, images.shape[:-3])

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

        if self.maps.path is None:
            model = self.model
            embedding = self._run(images, lambda x: model.forward_head(see(model.forward_features(x))))
            return seen[0], embedding
        module = self.model.get_submodule(self.maps.path)
        if self.maps.given:
            hook = module.register_forward_pre_hook(lambda _, given: (see(given[0]), *given[1:]))
        else:
            hook = module.register_forward_hook(lambda _, given, returned: see(returned))
        with hook:
            embedding = self._run(images)
        return seen[0], embedding

    def _run(self, images: Tensor, function: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        try:
            return (function or self.model)(images.expand(-1, self.channels, -1, -1))
        except ValueError as error:  # such as batch norm in training on one image
            raise self._unusable(f"does not take {len(images)}", error) from error

    def _drawn(self, rng: torch.Generator) -> nn.Module:
        with global_seed(draw_seed(rng)):
            try:
                return self.make()
            except Exception as error:  # whatever the library's constructor raises
                raise self._unusable("cannot be made for", error) from error

    def _unusable(self, what: str, error: Exception) -> HgladError:
        size, lines = " x ".join(map(str, self.image_shape)), str(error).strip().splitlines()
        reason = lines[0].rstrip(".") if lines else type(error).__name__
        return HgladError(
            f"{self.title} {what} images of {size}: {reason}; change its options, the size of the images "
            "(mostly larger ones) or of the batch, or take another network"
        )


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


@torch.no_grad()
def find_maps(model: nn.Module, images: Tensor, outputs: Outputs) -> Maps | None:
    """Of timm what its models call features, of others the last maps before the last global pooling that are
    not themselves pooled; of transformers the patch tokens."""
    if hasattr(model, "forward_features"):
        found = model.forward_features(images)
        dimensions = found.dim() if isinstance(found, Tensor) else 0
        if dimensions == 4:
            return Maps(None, channels_last=getattr(model, "output_fmt", "NCHW") == "NHWC")
        grid = getattr(getattr(model, "patch_embed", getattr(model, "stem", None)), "grid_size", None)
        if grid is None or dimensions != 3 or not 0 <= found.shape[1] - grid[0] * grid[1] < 8:
            return None  # in front there may be class and register tokens
        if getattr(model, "global_pool", None) == "token" and hasattr(model, "blocks"):
            return Maps(f"blocks.{len(model.blocks) - 1}", given=True, grid=grid)
        return Maps(None, grid=grid)
    paths = {module: path for path, module in model.named_modules()}
    if hasattr(model, "patch_size") and hasattr(model, "encoder"):
        grid = (images.shape[-2] // model.patch_size, images.shape[-1] // model.patch_size)
        *_, last = model.encoder.layers.children()
        return Maps(paths[last], given=True, grid=grid)  # its output for patches reaches no logit
    poolings = [n for n, (module, _) in enumerate(outputs) if isinstance(module, nn.AdaptiveAvgPool2d)]
    before = outputs[: poolings[-1]] if poolings else outputs
    pooled = {id(maps) for module, maps in before if isinstance(module, nn.MaxPool2d)}
    found = [paths[module] for module, maps in before if maps.dim() == 4 and id(maps) not in pooled]
    return Maps(found[-1]) if found else None
