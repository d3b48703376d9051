"""Writes network pickles in the format of NVIDIA's training code, out of settings and tensors.

The modules `torch_utils.persistence`, `dnnlib.util`, ... made here only give `pickle`, while it writes, the
names that such files hold; whoever calls one of their functions fails the test.
"""

import functools
import io
import itertools
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from hglad.priors.stylegan_xl import LayerPlan, StyleGANXLSettings, plan_layers

MODULES: dict[str, types.ModuleType] = {}
BUFFERS = {"w_avg", "transform", "freqs", "phases", "magnitude_ema", "up_filter", "down_filter"}


def foreign(module: str, name: str, base: type | None = None) -> object:
    """A function (or a class derived from `base`) that pickles as `module.name` and fails when it is used."""
    for package in itertools.accumulate(module.split("."), "{}.{}".format):
        MODULES.setdefault(package, types.ModuleType(package))

    def used(*arguments, **options):
        raise AssertionError(f"{module}.{name} of a pickle was called")

    if base is not None:
        used = type(name, (base,), {"__setstate__": used})
    used.__module__, used.__name__, used.__qualname__ = module, name, name
    setattr(MODULES[module], name, used)
    return used


RECONSTRUCT = foreign("torch_utils.persistence", "_reconstruct_persistent_obj")
EasyDict = foreign("dnnlib.util", "EasyDict", dict)
FOREIGN_LAYER = foreign("timm.models.layers.conv2d_same", "Conv2dSame", object)
LOAD_TYPE = foreign("dill._dill", "_load_type")


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def persistent(class_name: str, source: str = "", **state) -> Call:
    """A module of the authors with its attributes; `source` is the text of the Python module it is from."""
    meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": state}
    return Call(RECONSTRUCT, meta)


def module_state(parameters=(), buffers=(), modules=()) -> dict:
    """What every PyTorch module has among its attributes."""
    return {
        "training": False,
        "_parameters": OrderedDict(parameters),
        "_buffers": OrderedDict(buffers),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_forward_hooks": OrderedDict(),
        "_forward_pre_hooks": OrderedDict(),
        "_state_dict_hooks": OrderedDict(),
        "_load_state_dict_pre_hooks": OrderedDict(),
        "_modules": OrderedDict(modules),
        "_init_args": (),
        "_init_kwargs": {},
    }


class Writer:
    """One generator: its `settings` (a stem, or with heads) and tensors under their official names."""

    def __init__(self, settings: StyleGANXLSettings, tensors: dict[str, Tensor], source: str = ""):
        self.settings, self.tensors, self.source = settings, tensors, source
        self.plans = {f"synthesis.{plan.name}": plan for plan in plan_layers(settings)}
        self.changes: dict[str, dict] = {}
        """Attributes to set otherwise, by the path of the module ("" is the generator)."""

    def network(self, class_name: str | None = None) -> Call:
        """The generator as it pickles."""
        heads = bool(self.settings.heads)
        return self._module("", class_name or ("SuperresGenerator" if heads else "Generator"))

    def _module(self, path: str, class_name: str) -> Call:
        prefix = f"{path}." if path else ""
        inside = {name[len(prefix) :]: x for name, x in self.tensors.items() if name.startswith(prefix)}
        children = dict.fromkeys(name.partition(".")[0] for name in inside if "." in name)
        own = {name: x for name, x in inside.items() if "." not in name}
        if path == "mapping.embed":
            return nn.Embedding.from_pretrained(own["weight"], freeze=False)
        state = module_state(
            {name: nn.Parameter(x, requires_grad=False) for name, x in own.items() if name not in BUFFERS},
            {name: x for name, x in own.items() if name in BUFFERS} | self._empty_filters(path),
            {name: self._module(f"{prefix}{name}", "Layer") for name in children},
        )
        attributes = self._attributes(path) | self.changes.get(path, {})
        return persistent(class_name, self.source, **state | attributes)

    def _empty_filters(self, path: str) -> dict:
        to_image = path in self.plans and self.plans[path].to_image
        return {"up_filter": None, "down_filter": None} if to_image else {}

    def _attributes(self, path: str) -> dict:
        s = self.settings
        if path == "":
            return {
                **{key: getattr(s, key) for key in ("z_dim", "c_dim", "w_dim", "img_channels")},
                "img_resolution": s.resolution,
                "num_ws": len(self.plans) + 1,
                **({"up_factor": s.heads[-1].up_factor, "path_stem": "stem.pkl"} if s.heads else {}),
            }
        if path == "mapping":
            return {"num_layers": 2, "num_ws": len(self.plans) + 1, "w_avg_beta": 0.998}
        if path == "synthesis":
            return self._synthesis()
        return (
            self._layer(self.plans[path]) if path in self.plans else {"bias_gain": 1, "activation": "linear"}
        )

    def _synthesis(self) -> dict:
        s = self.settings
        keys = (
            "w_dim", "img_channels", "num_critical", "margin_size", "output_scale", "num_fp16_res",
            "channel_base", "channel_max", "first_cutoff", "first_stopband", "last_stopband_rel",
        )  # fmt: skip
        return {
            **{key: getattr(s, key) for key in keys},
            "img_resolution": s.resolution,
            "num_layers": len(self.plans) - 1,
            "layer_names": [plan.name for plan in self.plans.values()],
            "sampling_rates": np.array([plan.target.sampling_rate for plan in self.plans.values()], float),
            "_init_kwargs": EasyDict(
                w_dim=s.w_dim,
                img_resolution=s.img_resolution,
                num_layers=s.num_layers,
                magnitude_ema_beta=0.998,
            ),
        }

    def _layer(self, plan: LayerPlan) -> dict:
        s = self.settings
        return {
            "is_torgb": plan.to_image,
            "use_fp16": np.bool_(plan.bears_16_bit),
            "in_channels": plan.source.channels,
            "out_channels": plan.target.channels,
            "in_size": np.array([plan.source.size] * 2),
            "out_size": np.array([plan.target.size] * 2),
            "in_cutoff": np.float64(plan.source.cutoff),
            "out_cutoff": np.float64(plan.target.cutoff),
            "conv_kernel": 1 if plan.to_image else s.conv_kernel,
            "filter_size": s.filter_size,
            "lrelu_upsampling": s.lrelu_upsampling,
            "use_radial_filters": s.use_radial_filters,
            "conv_clamp": int(s.conv_clamp),
        }


def discriminator() -> Call:
    """What a released file holds besides its generators: foreign layers, hooks, bound methods, odd keys."""
    layer = FOREIGN_LAYER()
    layer.kernel = torch.Size([3, 3])
    method = Call(getattr, layer, "forward")  # a bound method
    rebound = Call(Call(LOAD_TYPE, "MethodType"), functools.partial(RECONSTRUCT, {}), layer)  # one of dill's
    feature = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GELU())
    state = module_state(modules={"feature": feature, "layer": layer, "same": feature})
    return persistent("ProjectedDiscriminator", "", **state, hooks={(0, 1): method, "0": rebound, 1: {2, 3}})


def write(path: Path, protocol: int = 4, **networks) -> Path:
    """Write a network pickle: `networks` by their keys, and the settings of the training set."""
    content = {**networks, "training_set_kwargs": EasyDict(path="data.zip", use_labels=True)}
    path.write_bytes(dumps(content, protocol))
    return path


class _Pickler(pickle._Pickler):
    """Writes functions that calls return, which `pickle` itself only does for what `dill` makes of them."""

    def save_reduce(self, func, args, *rest, **options):
        if not isinstance(func, Call):
            return super().save_reduce(func, args, *rest, **options)
        self.save(func)
        self.save(args)
        self.write(pickle.REDUCE)
        self.memoize(options["obj"])


def dumps(content: object, protocol: int = 4) -> bytes:
    """Pickle of `content`, which may hold calls of what other calls return."""
    stream = io.BytesIO()
    with mock.patch.dict(sys.modules, MODULES):
        _Pickler(stream, protocol).dump(content)
    return stream.getvalue()
