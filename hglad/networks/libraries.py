"""Networks of torchvision and timm by name: "torchvision:resnet50", "timm:resnet18".

No pretrained weights and no download: the library initializes the model. A result that used one is kept under
the library's version beside `VERSION`, since a library changes its models without a number of their own.
"""

import importlib.metadata
import inspect
from collections.abc import Collection
from difflib import get_close_matches
from functools import partial
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hglad.errors import HgladError
from hglad.networks import NETWORKS
from hglad.networks.external import Call, External, Tap, trace

VERSION = 1  # raise when the same model of the same library gives other outputs

NOT_OPTIONS = {  # set by hglad itself, ways to load weights, and what makes other outputs than logits
    "num_classes", "in_chans", "weights", "progress", "pretrained", "pretrained_cfg",
    "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "features_only", "exportable", "scriptable",
}  # fmt: skip


class ModelLibrary:
    """What torchvision and timm have in common."""

    name: ClassVar[str]

    def models(self) -> list[str]:
        """Names of the image classifiers."""
        raise NotImplementedError

    def other_models(self) -> list[str]:
        """Names of models for other tasks."""
        return []

    def version(self) -> str:
        """Own number and the library's release, without what names its build, such as "1 (timm 1.0.31)"."""
        self._import()
        return f"{VERSION} ({self.name} {importlib.metadata.version(self.name).partition('+')[0]})"

    def check(self, model: str, options: Collection[str]) -> None:
        """As `Library.check`."""
        known = self.models()
        if model in self.other_models():
            raise HgladError(
                f"'{self.name}:{model}' is no image classifier; choose one, such as '{self.name}:resnet18'"
            )
        if model not in known:
            near = [f"'{self.name}:{found}'" for found in get_close_matches(model, known, n=3)]
            advice = (
                f"did you mean {' or '.join(near)}?"
                if near
                else f"the documentation of {self.name} lists its models"
            )
            raise HgladError(f"unknown network '{self.name}:{model}': {advice}")
        for option in sorted(NOT_OPTIONS.intersection(options)):
            raise HgladError(
                f"option {option!r} of '{self.name}:{model}' is not yours to set: the network fits the data "
                "and starts without pretrained weights; remove it"
            )

    def _import(self) -> ModuleType:
        try:
            return importlib.import_module(self.name)
        except ImportError as error:
            raise HgladError(f"networks of {self.name} need the package: pip install {self.name}") from error


class Torchvision(ModelLibrary):
    """Image classifiers of torchvision; they take three channels, so a grey image is repeated."""

    name = "torchvision"

    def models(self) -> list[str]:
        """Those that its module of classifiers registers, not its detectors, segmenters and video models."""
        models = self._import().models
        return models.list_models(module=models)

    def other_models(self) -> list[str]:
        """Detection, segmentation, optical flow, video, quantised."""
        return sorted(set(self._import().models.list_models()) - set(self.models()))

    def create(
        self,
        model: str,
        image_shape: tuple[int, int, int],
        classes: int,
        generator: torch.Generator,
        options: dict[str, Any],
    ) -> External:
        """As `Library.create`."""
        self.check(model, options)
        models = self._import().models
        arguments = self._arguments(model, image_shape) | options
        build = partial(models.get_model, model, weights=None, num_classes=classes, **arguments)
        return External(f"{self.name}:{model}", image_shape, 3, classes, build, torchvision_tap, generator)

    def _arguments(self, model: str, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        """What the model's constructor must be told: the size of the images, no auxiliary logits."""
        _, height, width = image_shape
        made = inspect.signature(self._import().models.get_model_builder(model)).return_annotation
        parameters = inspect.signature(made).parameters
        arguments: dict[str, Any] = {}
        if "image_size" in parameters:
            if height != width:
                raise HgladError(
                    f"torchvision:{model} takes square images, got {height} x {width} px; resize them or "
                    "choose another network"
                )
            arguments["image_size"] = height
        if "input_size" in parameters:
            arguments["input_size"] = (height, width)
        if "aux_logits" in parameters:  # with these come the paper's initial weights, soon not the default
            arguments |= {"aux_logits": False, "init_weights": True}
        return arguments


class Timm(ModelLibrary):
    """Image classifiers of timm, which take any number of channels; many also take the size of the images."""

    name = "timm"

    def models(self) -> list[str]:
        """Architectures; timm's names with a dot are those of their weights."""
        return self._import().list_models()

    def create(
        self,
        model: str,
        image_shape: tuple[int, int, int],
        classes: int,
        generator: torch.Generator,
        options: dict[str, Any],
    ) -> External:
        """As `Library.create`."""
        self.check(model, options)
        build = partial(self._build, model, image_shape, classes, options)
        return External(
            f"{self.name}:{model}", image_shape, image_shape[0], classes, build, timm_tap, generator
        )

    def _build(
        self, model: str, image_shape: tuple[int, int, int], classes: int, options: dict[str, Any]
    ) -> nn.Module:
        channels, *size = image_shape
        create = partial(
            self._import().create_model, model, pretrained=False, num_classes=classes, in_chans=channels
        )
        try:
            return create(**{"img_size": tuple(size)} | options)
        except TypeError:  # a model for every size, or an option that it does not have
            return create(**options)


def torchvision_tap(model: nn.Module, images: Tensor, calls: list[Call]) -> Tap | None:
    """The last maps before the last global pooling that are not themselves pooled; the tokens of a ViT."""
    if hasattr(model, "encoder") and hasattr(model, "patch_size"):
        grid = (images.shape[-2] // model.patch_size, images.shape[-1] // model.patch_size)
        *_, (name, _) = model.encoder.layers.named_children()
        return Tap(f"encoder.layers.{name}", given=True, grid=grid)  # its output for patches reaches no logit
    poolings = [index for index, call in enumerate(calls) if isinstance(call.module, nn.AdaptiveAvgPool2d)]
    before = calls[: poolings[-1]] if poolings else calls
    pooled = [call.returned for call in before if isinstance(call.module, nn.MaxPool2d)]
    for call in reversed(before):
        if call.returned.dim() == 4 and not any(call.returns(maps) for maps in pooled):
            return Tap(call.path)
    return None


def timm_tap(model: nn.Module, images: Tensor, calls: list[Call]) -> Tap | None:
    """What `forward_features` returns; where a class token is read from it, what enters the last block."""
    patches = getattr(model, "patch_embed", None) or getattr(model, "stem", None)
    grid = getattr(patches, "grid_size", None)
    if getattr(model, "global_pool", None) == "token" and hasattr(model, "blocks"):
        last = f"blocks.{len(model.blocks) - 1}"
        given = next((call.given for call in calls if call.path == last), None)
        return Tap(last, given=True, grid=grid) if _are_tokens(given, grid) else None
    maps, calls = trace(model, model.forward_features, images)
    if not isinstance(maps, Tensor) or not (maps.dim() == 4 or _are_tokens(maps, grid)):
        return None
    for call in reversed(calls):
        if call.returns(maps) and call.returned.dim() == maps.dim():
            as_given = call.returned.stride() == maps.stride()  # or the model moves the channels afterwards
            channels_last = (getattr(model, "output_fmt", "NCHW") == "NHWC") == as_given
            return Tap(call.path, channels_last=channels_last, grid=grid)
    return None


def _are_tokens(tokens: Tensor | None, grid: tuple[int, int] | None) -> bool:
    """Whether a tensor is (n, prefix + h' w', K) for a `grid` (h', w') and a few tokens in front."""
    if tokens is None or grid is None or tokens.dim() != 3:
        return False
    return 0 <= tokens.shape[1] - grid[0] * grid[1] < 8  # class, distillation and register tokens


NETWORKS._libraries |= {"torchvision": Torchvision(), "timm": Timm()}
