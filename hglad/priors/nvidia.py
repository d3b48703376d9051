"""Released StyleGAN-XL networks to safetensors, without running anything of the file they come in.

Such a pickle, as NVIDIA's training code writes them, is a dictionary of networks, {"G_ema": ..., "D": ...}.
Each module of the authors is a call of `torch_utils.persistence._reconstruct_persistent_obj` with the source
code of its class, which is passed over here, and with its attributes, which are all that is needed. A
generator with super-resolution heads began as a stem from another file; its layers tell its structure.
"""

import itertools
import math
import mmap
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hglad.errors import HgladError
from hglad.priors.base import check_tensors
from hglad.priors.files import RELEASED, save_prior
from hglad.priors.pickles import (
    PARAMETERS,
    RECONSTRUCTORS,
    TENSORS,
    Record,
    TensorReader,
    in_words,
    read_pickle,
)
from hglad.priors.stylegan_xl import StyleGANXL, StyleGANXLSettings, plan_layers
from hglad.provenance import Stopwatch
from hglad.registry import unknown

ADDRESS = "https://s3.eu-central-1.amazonaws.com/avg-projects/stylegan_xl/models/{name}.pkl"
PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
TORCH_MODULE = "torch.nn.modules."
DICTIONARIES = {"collections.OrderedDict", "dnnlib.EasyDict", "dnnlib.util.EasyDict"}

# The names that may occur. A generator is made of those in READ and REBUILDING. The discriminator in the same
# file brings feature networks with hooks and bound methods; they become records that nobody looks at.
READ = {PERSISTENT, *DICTIONARIES, *PARAMETERS, *TENSORS, "torch.storage._load_from_bytes", "_codecs.encode"}
REBUILDING = RECONSTRUCTORS | {
    f"{module}.{name}"
    for module in ("builtins", "__builtin__")
    for name in (
        "object", "dict", "list", "set", "frozenset", "tuple", "int", "float", "complex", "bool", "str",
        "bytes", "bytearray", "slice", "range",
    )
}  # fmt: skip
PASSED_OVER = {
    "builtins.getattr", "__builtin__.getattr",  # how a pickle holds a bound method
    "__builtin__.__main__",  # how dill holds the variables of a program
    "collections.defaultdict", "functools.partial", "numpy.dtype", "numpy.ndarray",
    "numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer", "torch.Size", "torch.device",
    "torch.float16", "torch.float32", "torch.float64",
}  # fmt: skip
PASSED_OVER_MODULES = (
    "torch.nn.", "torch._C._nn.", "torch.utils.hooks.", "torchvision.", "timm.", "dill._dill.",
    "numpy.core.multiarray.", "numpy._core.multiarray.", "feature_networks.", "pg_modules.", "training.",
    "torch_utils.", "dnnlib.",
)  # fmt: skip

DEEPEST, MOST_MODULES, MOST_LAYERS = 8, 2000, 100  # a generator has four levels and about sixty modules
FILTER_TOLERANCE = 1e-5  # of a filter's largest tap; versions of SciPy differ by about 1e-7
MAPPING_LAYERS = 2


def import_prior(
    out: Path | str,
    path: Path | str | None = None,
    name: str | None = None,
    key: str = "G_ema",
    cache: Path | str | None = None,
) -> dict:
    """Turn a network pickle into a safetensors file with a card beside it; returns the card.

    Args:
        out: `.safetensors` file to write.
        path: file that StyleGAN-XL's training wrote.
        name: one of `RELEASED`, to be downloaded instead.
        key: network in the file; the averaged generator as a rule.
        cache: folder that keeps the download (default: that of `out`).

    Raises:
        HgladError: not one of `path` and `name`, a failed download, what `read_generator` refuses, or another
            checksum than the one kept beside the file.
    """
    if (path is None) == (name is None):
        raise HgladError("prior import needs a FILE or --name NAME, and not both: hglad prior import --help")
    if name is not None and name not in RELEASED:
        raise unknown("released network", name, list(RELEASED))
    address = None if name is None else ADDRESS.format(name=name)
    path = Path(path) if name is None else download(address, Path(cache or Path(out).parent) / f"{name}.pkl")
    watch = Stopwatch()
    try:
        import pooch  # its progress bar would warn on every page of the book

        digest = pooch.file_hash(path)
        expected = _kept_checksum(path) or digest
        if expected != digest:
            advice = f"delete the file to fetch it anew, or {path.name}.sha256 if another file is meant"
            raise HgladError(f"its sha256 is {digest}, {path.name}.sha256 has {expected[:64]}: {advice}")
        generator, class_name = read_generator(path, key)
    except OSError as error:
        raise HgladError(
            f"cannot read {path}: {error.strerror or error}; expected a network pickle"
        ) from error
    except HgladError as error:  # quotations of the file may bring line breaks, terminal codes, long text
        printable = "".join(character if character.isprintable() else " " for character in str(error)[:1000])
        raise HgladError(f"{path}: {' '.join(printable.split())[:400]}") from error
    source = {"file": path.name, "sha256": digest, "address": address, "network": key, "class": class_name}
    card = {"source": source, "provenance": watch.provenance()}
    save_prior(out, generator, card)
    return card


def download(address: str, path: Path) -> Path:
    """Download `address` to `path` unless it is there.

    The checksum of the first download is kept beside it (`path` + ".sha256", as `sha256sum` writes it) and
    holds for all later ones.

    Raises:
        HgladError: no connection, no such address, no room, or another checksum than before.
    """
    if path.is_file():
        return path
    import pooch  # its progress bar would warn on every page of the book

    pooch.get_logger().setLevel("WARNING")
    try:
        transfer = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30)
        pooch.retrieve(address, _kept_checksum(path), path.name, path.parent, downloader=transfer)
        if _kept_checksum(path) is None:
            path.with_name(f"{path.name}.sha256").write_text(f"{pooch.file_hash(path)}  {path.name}\n")
    except ValueError as error:  # of pooch, for another checksum
        kept = f"{path.name}.sha256"
        advice = f"delete {kept} if another file is meant"
        raise HgladError(f"{path}: its sha256 is not the one in {kept}: {advice}") from error
    except OSError as error:
        advice = "check the network and the free space"
        raise HgladError(f"cannot download {address} to {path}: {error}; {advice}") from error
    return path


def _kept_checksum(path: Path) -> str | None:
    kept = path.with_name(f"{path.name}.sha256")
    return kept.read_text(errors="replace").partition(" ")[0].strip() if kept.is_file() else None


def read_generator(path: Path | str, key: str = "G_ema") -> tuple[StyleGANXL, str]:
    """The generator under `key` of a network pickle, frozen, and the name of its class.

    Raises:
        HgladError: not such a file, a network of another kind, or tensors that do not fit the settings.
    """
    with open(path, "rb") as file:
        if not Path(path).stat().st_size:
            raise HgladError("the file is empty: fetch it anew")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            networks = _dictionary(read_pickle(content, is_allowed), "the content of the file")
    if key not in networks:
        raise unknown("network in this file,", key, [name for name in networks if isinstance(name, str)])
    network = Module.of(networks[key], key)
    if network.class_name not in ("Generator", "SuperresGenerator"):
        raise HgladError(f"'{key}' is a {network.class_name}: expected a Generator or SuperresGenerator")
    reader = TensorReader()
    tensors = {name: reader.read(record, name) for name, record in _tensor_records(network)}
    if network.integer("c_dim") == 0:  # the class embedding comes along unused
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("mapping.embed.")}
    return _build(network, tensors), network.class_name


def is_allowed(name: str) -> bool:
    """Whether a network pickle may contain a name; none of them is imported all the same."""
    return name in READ | REBUILDING | PASSED_OVER or name.startswith(PASSED_OVER_MODULES)


def _dictionary(value: Any, where: str) -> dict:
    if isinstance(value, Record) and value.name in DICTIONARIES:
        return value.items
    if not isinstance(value, dict):
        raise HgladError(f"{where} is {in_words(value)}: expected a dictionary, as in StyleGAN-XL's files")
    return value


@dataclass(frozen=True)
class Module:
    """A network or layer in the file."""

    where: str
    """Its place, for messages."""
    class_name: str
    """Its class."""
    state: dict[str, Any]
    """Its attributes, among them `_parameters`, `_buffers` and `_modules`."""

    @classmethod
    def of(cls, record: Any, where: str) -> "Module":
        """Take the record of a module apart."""
        name = record.name if isinstance(record, Record) else ""
        if name == PERSISTENT and record.arguments:
            meta = _dictionary(record.arguments[0], f"'{where}'")
            return cls(where, str(meta.get("class_name"))[:100], _dictionary(meta.get("state"), f"'{where}'"))
        if name.startswith(TORCH_MODULE):
            return cls(where, name.rpartition(".")[2], _dictionary(record.state, f"'{where}'"))
        raise HgladError(f"'{where}' is {in_words(record)}: expected a network from StyleGAN-XL's training")

    def part(self, kind: str) -> dict[str, Any]:
        """Those of its `_parameters`, `_buffers` or `_modules` that are not None."""
        part = _dictionary(self.state.get(kind, {}), f"{kind} of '{self.where}'")
        return {str(name): value for name, value in part.items() if value is not None}

    def child(self, name: str) -> "Module":
        """One of its modules."""
        children = self.part("_modules")
        if name not in children:
            raise HgladError(f"'{self.where}' has no layer '{name}': expected a StyleGAN-XL network")
        return Module.of(children[name], f"{self.where}.{name}")

    def attribute(self, name: str, *kinds: type) -> Any:
        """An attribute of one of the types `kinds`."""
        if name not in self.state:
            raise HgladError(f"'{self.where}' has no '{name}': expected StyleGAN-XL, not StyleGAN2 or 3")
        value = self.state[name]
        if type(value) not in kinds:
            raise HgladError(f"{name} of '{self.where}' is {in_words(value)}: expected {kinds[-1].__name__}")
        return value

    def integer(self, name: str) -> int:
        return self.attribute(name, int)

    def number(self, name: str) -> float:
        """An attribute that is a positive number."""
        value = self.attribute(name, int, float)
        if not 1e-3 <= value <= 1e6:
            raise HgladError(f"{name} of '{self.where}' is {value!r:.40}: expected 0.001 to 1,000,000")
        return float(value)


def _tensor_records(network: Module) -> Iterator[tuple[str, Any]]:
    """Names and records of all parameters and buffers."""
    visited = itertools.count()  # modules may contain each other: a small file can describe an endless tree

    def walk(module: Module, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
        if depth > DEEPEST or next(visited) >= MOST_MODULES:
            limits = f"{MOST_MODULES} layers or {DEEPEST} levels"
            raise HgladError(f"'{network.where}' has more than {limits}: expected a StyleGAN-XL network")
        for name, record in (*module.part("_parameters").items(), *module.part("_buffers").items()):
            yield prefix + name, record
        for name, child in module.part("_modules").items():
            yield from walk(Module.of(child, f"{module.where}.{name}"), f"{prefix}{name}.", depth + 1)

    return walk(network, "", 0)


def _build(network: Module, tensors: dict[str, Tensor]) -> StyleGANXL:
    """The generator whose layers are those of the file.

    The resolution behind a head in the middle shows in nothing but its layers, so each possibility is tried.
    """
    synthesis = network.child("synthesis")
    names = synthesis.attribute("layer_names", list)
    if not 4 <= len(names) <= MOST_LAYERS:
        raise HgladError(f"'{synthesis.where}' has {len(names)} layers: expected 4 to {MOST_LAYERS}")
    for name in names:
        if not (isinstance(name, str) and re.fullmatch(r"L\d{1,3}_\d{1,4}_\d{1,5}", name)):
            found = f"'{synthesis.where}' has a layer {str(name)[:40]!r}"
            raise HgladError(f"{found}: expected one like L0_36_512")
    stem = _stem_settings(network, names, tensors)
    refusal = HgladError(f"no stem and heads give {network.integer('img_resolution')} px")
    for structure in _structures(network, names, tensors, stem["num_critical"]):
        settings = stem | structure
        try:
            _check_layers(StyleGANXLSettings.from_card(settings), names, tensors)
        except HgladError as error:
            refusal = error
        except (ArithmeticError, ValueError) as error:
            refusal = HgladError(f"no layers can be laid out for its settings ({error}): the file is damaged")
        else:
            return StyleGANXL.from_tensors(settings, tensors)
    raise refusal


def _check_layers(settings: StyleGANXLSettings, names: list[str], tensors: dict[str, Tensor]) -> None:
    """Raise `HgladError` where settings give other layers, tensors or filters than the file has."""
    planned = [plan.name for plan in plan_layers(settings)]
    for ours, theirs in itertools.zip_longest(planned, names, fillvalue="no layer"):
        if ours != theirs:
            raise HgladError(f"its settings give {ours} where the file has {theirs}: the file is damaged")
    with torch.device("meta"):  # takes no memory, whatever size the settings ask for
        check_tensors(StyleGANXL(settings).state_dict(), tensors)
    designed = StyleGANXL(settings).state_dict()
    for name in (name for name in designed if name.endswith(("up_filter", "down_filter"))):
        error = (tensors[name] - designed[name]).abs().max()
        if not error <= FILTER_TOLERANCE * designed[name].abs().max():
            raise HgladError(f"'{name}' is not the filter that its settings ask for: the file was altered")


def _stem_settings(network: Module, names: list[str], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Settings besides the resolution and number of layers, which heads change."""
    mapping, synthesis = network.child("mapping"), network.child("synthesis")
    layers = mapping.integer("num_layers")
    if layers != MAPPING_LAYERS:
        raise HgladError(f"'{mapping.where}' has {layers} layers: expected {MAPPING_LAYERS}")
    settings = {key: network.integer(key) for key in ("z_dim", "c_dim", "w_dim", "img_channels")}
    for key in ("channel_base", "channel_max", "num_critical", "margin_size", "num_fp16_res"):
        settings[key] = synthesis.integer(key)
    for key in ("first_cutoff", "first_stopband", "last_stopband_rel", "output_scale"):
        settings[key] = synthesis.number(key)
    if "mapping.embed.weight" in tensors:
        settings["embedding"] = list(tensors["mapping.embed.weight"].shape)
    shared = {}
    for layer in map(synthesis.child, names[:-1]):  # all but the one that makes the image
        found = {key: layer.integer(key) for key in ("conv_kernel", "filter_size", "lrelu_upsampling")}
        found["use_radial_filters"] = layer.attribute("use_radial_filters", bool)
        found["conv_clamp"] = layer.number("conv_clamp")
        shared = shared or found
        if found != shared:
            raise HgladError(f"'{layer.where}' has {found}: expected those of the first layer, {shared}")
    return settings | shared


def _structures(
    network: Module, names: list[str], tensors: dict[str, Tensor], num_critical: int
) -> Iterator[dict[str, Any]]:
    """Possible resolutions and layers of the stem and of each head.

    The first layer of each part keeps the sampling, so that its two filters are equal; besides these, only
    the critically sampled layers at the end have equal ones.
    """
    resolution = network.integer("img_resolution")
    if network.class_name == "Generator":
        yield {"img_resolution": resolution, "num_layers": len(names) - 1}
        return

    def begins(name: str) -> bool:
        up, down = (tensors.get(f"synthesis.{name}.{kind}") for kind in ("up_filter", "down_filter"))
        return up is not None and down is not None and torch.equal(up, down)

    starts = [0, *(i for i in range(1, len(names) - num_critical) if begins(names[i])), len(names)]
    first, *heads = [end - start for start, end in itertools.pairwise(starts)]  # layers of each part
    if not 1 <= len(heads) <= 6:
        found = "its layers make many parts" if heads else f"'{network.where}' has no layers behind its stem"
        raise HgladError(f"{found}: expected 1 to 6 super-resolution heads")
    synthesis = network.child("synthesis")
    built = _dictionary(synthesis.state.get("_init_kwargs"), f"{synthesis.where}._init_kwargs")
    built = Module(f"{synthesis.where}._init_kwargs", "", built)  # what it was before heads were put on it
    stem = {"img_resolution": built.integer("img_resolution"), "num_layers": first + num_critical}
    # With what a next head cut off.
    layers = [*(length + num_critical for length in heads[:-1]), heads[-1] - 1]
    for factors in itertools.product((2, 4, 8, 16), repeat=len(heads) - 1):
        factors = (*factors, network.integer("up_factor"))
        if stem["img_resolution"] * math.prod(factors) == resolution:
            heads = [{"up_factor": f, "layers": n} for f, n in zip(factors, layers, strict=True)]
            yield stem | {"heads": heads}
