"""Every setting, typed and documented: how it is read, its errors in one line, the key of its results.

A setting is a field of a frozen pydantic model, its text stands below it. Nothing here needs torch.
"""

import dataclasses
import difflib
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import pydantic
import yaml
from pydantic import ConfigDict, Field

from hglad.errors import HgladError

T = TypeVar("T")
Several = Annotated[tuple[T, ...], Field(strict=False)]
"""Any number of values, as a list in YAML."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a hint, else the list of known names."""
    known = sorted(known)
    if not known:
        return "there is none yet"
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(known)}"


class _OneLineErrors(type(pydantic.BaseModel)):
    """Makes `Settings(...)` raise the error of `Settings.read`."""

    def __call__(cls, *values: Any, **named: Any) -> Any:
        """Settings from values in the order of the fields, or named."""
        try:
            return super().__call__(**dict(zip(cls.model_fields, values, strict=False)) | named)
        except pydantic.ValidationError as error:
            raise _one_line(cls, error) from None


class Settings(pydantic.BaseModel, metaclass=_OneLineErrors):
    """Base of all settings: frozen, with no other keys than its fields, no value silently converted."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @classmethod
    def read(cls, values: Any, where: str = "") -> Self:
        """Settings from plain values, as YAML or JSON gives them.

        Args:
            values: mapping from fields to values.
            where: prefix of a key in messages, such as `search.`

        Raises:
            HgladError: unknown key (with the nearest one), missing key, a value of another type or out of
                its range.
        """
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise _one_line(cls, error, where) from None

    @classmethod
    def from_yaml(cls, path: Path | str) -> Self:
        """Settings from a YAML file.

        Raises:
            HgladError: unreadable file, a key that is there twice, or what `read` refuses; names the file.
        """
        values = read_plain(path)
        try:
            return cls.read(values)
        except HgladError as error:
            raise HgladError(f"{path}: {error}") from None

    def changed(self, **updates: Any) -> Self:
        """A copy with other values, which are checked; raises `HgladError` as `read` does."""
        return self.read(vars(self) | updates)

    def identity(self) -> dict[str, Any]:
        """Plain values that differ from their defaults: a new option with a default changes no key."""
        return identity(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON or YAML."""
        return self.model_dump(mode="json")


def read_plain(path: Path | str) -> Any:
    """Plain values of a YAML file; raises `HgladError` for one that is unreadable or has a key twice."""
    try:
        return yaml.load(Path(path).read_text(), _YamlLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise HgladError(f"cannot read {path}: {' '.join(str(error).split())}") from error


class _YamlLoader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML would take the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """A mapping, as PyYAML makes it; raises `ConstructorError` for a key that is there twice."""
        seen = set()
        for key in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is there twice: remove one", node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


EXPECTED = {  # kind of pydantic error -> what was expected
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "too_short": "at least {min_length} of them",
    "literal_error": "{expected}",
}


def _one_line(cls: type[Settings], error: pydantic.ValidationError, where: str = "") -> HgladError:
    """The first of pydantic's errors, a misspelt key before anything else."""
    found = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    kind, value, place = found["type"], found["input"], found["loc"]
    if place and place[-1] == "[key]":
        return HgladError(f"{where}{_path(place[:-2])} has the key {value!r}: expected text, in quotes")
    key = where + _path(place)
    if kind == "extra_forbidden":
        return HgladError(
            f"unknown key '{key}': {suggestion(place[-1], _group(cls, place[:-1]).model_fields)}"
        )
    if kind == "missing":
        return HgladError(f"key '{key}' is missing: give it")
    if kind == "value_error":
        text = str(found["ctx"]["error"])
        between = "." if _group(cls, place) else " "  # of a group the text itself begins with a key
        return HgladError(f"{key}{between if key else ''}{text}")
    if not place:
        return HgladError(
            f"{where.rstrip('.') or cls.__name__} is {value!r}: expected {EXPECTED['dict_type']}"
        )
    expected = EXPECTED.get(kind, found["msg"]).format(**found.get("ctx", {}))
    if kind == "literal_error":
        near = difflib.get_close_matches(str(value), re.findall(r"'([^']*)'", expected), n=1)
        expected += f"; did you mean '{near[0]}'?" if near else ""
    if kind == "float_type" and _is_number(value):
        expected += "; YAML reads 1e-2 as text: write 1.0e-2"
    of_type = f" ({type(value).__name__})" if kind.endswith("_type") else ""
    plain = list(value) if isinstance(value, tuple) else value
    return HgladError(f"{key} is {plain!r}{of_type}: expected {expected}")


def _path(place: tuple[str | int, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).lstrip(".")


def _group(cls: type[Settings] | None, place: tuple[str | int, ...]) -> type[Settings] | None:
    """The settings at `place`; none where a single value stands."""
    for step in place:
        hint = cls.model_fields[step].annotation if cls else None
        hints = [each for each in (hint, *get_args(hint)) if isinstance(each, type)]
        cls = next((each for each in hints if issubclass(each, Settings)), None)
    return cls


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def fingerprint(*parts: Any) -> str:
    """Short hash of settings and plain values: the key under which a result is kept."""
    plain = [identity(part) for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def derive_seed(*parts: Any) -> int:
    """A seed that follows from names and numbers, so that streams of one run are independent."""
    return int(hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:15], 16)


def _once(values: tuple) -> tuple:
    """Refuse a value that is there twice."""
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"has {value!r} twice: expected every value once")
    return values


def _named(options: dict[str, Any]) -> dict[str, Any]:
    """Refuse options without the name of what they are options of."""
    if "name" not in options:
        raise ValueError(f"is {options!r}, without a name: expected a mapping such as {{name: convnet}}")
    return options


def _known_strategies(text: str) -> str:
    """Refuse an unknown strategy."""
    for name in text.split("_") if text else ():
        if name not in STRATEGIES:
            raise ValueError(f"is {text!r}: unknown strategy '{name}', {suggestion(name, STRATEGIES)}")
    return text


Distinct = Annotated[tuple[T, ...], Field(strict=False), pydantic.AfterValidator(_once)]
"""Different values, as a list in YAML."""
Network = Annotated[dict[str, Any], pydantic.AfterValidator(_named)]
"""`name` of a registered network and its options."""
Precision = Literal["float32", "bfloat16"]
Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0)]
Kind = Literal["pixels", "single", "hierarchical"]
KINDS: tuple[str, ...] = get_args(Kind)
"""Kinds of search."""
Baseline = Literal["herding", "k_center", "class_mean", "samples", "samples_averaged"]
BASELINES: tuple[str, ...] = get_args(Baseline)
"""Sets that nothing was optimised for."""
STRATEGIES = ("color", "crop", "cutout", "flip", "scale", "rotate")
"""Of the siamese augmentation (DSA; Zhao & Bilen 2021)."""
DSA = "_".join(STRATEGIES)
Strategies = Annotated[str, pydantic.AfterValidator(_known_strategies)]
"""Strategies of DSA joined by "_"; the empty text is none."""


def with_generator(default: Any, **more: Any) -> Any:
    """A field that means something only where a generator is searched; in pixel space it has its default."""
    return Field(
        default, json_schema_extra={"with_generator": True, "later": type(default) is not int}, **more
    )


def since(default: Any, **more: Any) -> Any:
    """A field that came later: absent from a fingerprint where it has its default, as before it came."""
    return Field(default, json_schema_extra={"later": True}, **more)


class DataSettings(Settings):
    """Which real images."""

    name: str = "digits"
    """Name of a data set (`hglad data list`), or `folder`."""
    root: str | None = None
    """Folder of the images where the data set needs one."""
    resolution: int | None = Field(None, ge=1)
    """Height and width in pixels; none: the data set's own."""
    show: bool = True
    """Whether notebooks show real images; off for data that must not be passed on."""
    holdout: float = Field(0.0, ge=0, lt=1)
    """Share of the training images in the place of the test images, to tune without these; 0: none."""


class SearchSettings(Settings):
    """How the latents are optimised; every kind of search gets the same budget."""

    steps: Count = 1000
    """Optimisation steps in all, shared by the stages. Source: GLaD."""
    budget: Literal["steps", "flops"] = with_generator("steps")
    """What is kept whatever the stages: `steps`, or `flops`, the generator's work of `steps` steps at
    `layer`, of which cheaper stages get more steps; pixel space, which has none, keeps its `steps`."""
    layer: NotNegative = 4
    """Split point of the single-layer search."""
    stages: Distinct[NotNegative] = ()
    """Split points of the hierarchical search; empty: all of them, the last one is pixel space. At a coarser
    one than before the features follow from w again."""
    latent_stage: bool = with_generator(False)
    """Begin the hierarchical search with a stage in w alone, from which the features follow. Source:
    H-GLaD."""
    shares: Several[Annotated[float, Field(gt=0)]] = with_generator(())
    """Share of the steps of each stage, in proportion, the latent stage's first; empty: even."""
    rates: Literal["absolute", "relative"] = "absolute"
    """`absolute`: lr_* are learning rates; `relative`: they are multiplied by |x| / |gradient of x| at the
    first step of each stage, so that a step moves x by about that share of its norm."""
    lr_features: Rate = 10.0
    """Learning rate of the features f. Source: H-GLaD with DM."""
    lr_latents: Rate = 0.01
    """Learning rate of the styles w. Source: H-GLaD with DM."""
    lr_pixels: Rate = 1.0
    """Learning rate in pixel space. Source: DM."""
    stage_lr_f: Several[Rate] = with_generator(())
    """Rate of f (of the images in pixel space) in each stage, the latent stage's first, where it is not used;
    empty: lr_features and lr_pixels."""
    stage_lr_w: Several[Rate] = with_generator(())
    """Rate of w in each stage, the latent stage's first; empty: lr_latents."""
    momentum: float = Field(0.5, ge=0, lt=1)
    """Momentum of SGD, started afresh in every stage. Source: DC, DM, GLaD."""
    clip: float | None = Field(10.0, gt=0)
    """Features are clamped to +- clip when a stage begins; none is without. Source: H-GLaD, released code."""
    nan_to_zero: bool = with_generator(True)
    """Features that are not a number become 0 when a stage begins; else the run stops there. Source: H-GLaD,
    released code."""
    average: Count = with_generator(1)
    """Mapped latents averaged per image at the start. Source: H-GLaD (1,000 at one image per class)."""
    truncation: float = with_generator(1.0, ge=0, le=1)
    """Pull of the starting latents towards the mean of their class: 1 none, 0 all the way."""
    labels: Several[NotNegative] = with_generator(())
    """Class of the generator for each class of the data; empty: the same (ImageNet's for its subsets)."""
    features: Literal["generated", "gaussian"] = with_generator("generated")
    """Features at the start: `generated` by the layers before it, or `gaussian` noise with the mean and
    deviation of each of their channels. Source: GLaD."""
    lr_weights: Rate = with_generator(0.0)
    """Learning rate of the generator's own weights, along with the latents; 0 leaves them frozen."""
    precision: Literal["float32", "bfloat16", "float16"] = with_generator("float32")
    """Format of the generator's high-resolution layers: `float32`, `bfloat16` or `float16`."""
    memory: float | None = Field(None, gt=0)
    """GiB that the generator's graph may take; none: half of this process's share of the device's memory."""
    start: Literal["real", "noise"] = "real"
    """Start of the pixel prior: `real` (DM) or `noise` (DC)."""
    selection: Literal["metric", "last"] = "metric"
    """`metric`: keep the iterate with the smallest distance; `last`: keep the last one."""
    select_every: Count = 5
    """Steps between two measurements of the distance; a stage's first and last iterate are measured too."""
    stage_start: Literal["best", "last"] = with_generator("best")
    """Iterate of a stage that the next one starts from: the `best` by `selection`, or the `last`."""
    normalise_generated: bool = with_generator(True)
    """Whether the matching networks see distilled images normalised like real ones; they do not in the
    released code with a generator."""
    styles: Literal["kept", "redrawn", "frozen"] = with_generator("kept")
    """w when a later stage begins: `kept` as it is, `redrawn` from the mapping, or kept and `frozen`."""


class TrainingSettings(Settings):
    """How a classifier is trained; the defaults are GLaD's evaluation (Cazenavette et al. 2023)."""

    epochs: Count = 1000
    """Passes over the images. Default: GLaD."""
    batch_size: Count = 256
    """Images per step; the last batch of an epoch may be smaller. Default: GLaD."""
    lr: float = Field(0.001, gt=0)
    """Peak learning rate of SGD. Default: GLaD (0.0001 for VGG-11)."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD. Default: GLaD, DC, DSA, DM."""
    weight_decay: Rate = 5e-4
    """L2 penalty of SGD. Default: GLaD, DC, DSA, DM."""
    schedule: Literal["warmup_cosine", "step", "constant"] = "warmup_cosine"
    """Over the epochs: "warmup_cosine" rises linearly in the first half, then falls to 0 by a cosine (GLaD);
    "step" divides lr by 10 after half of them (DC, DSA, DM); "constant" keeps it."""
    augmentation: Strategies = DSA
    """DSA strategies joined by "_", drawn per batch with parameters per image; "" for none. Default: GLaD."""
    ema_decay: float | None = Field(0.995, ge=0, lt=1)
    """Decay of the moving average of the weights, updated once per epoch; None for the last weights. Default:
    GLaD. It averages about 1 / (1 - decay) epochs: with far fewer epochs the first weights stay in."""
    precision: Precision = since("float32")
    """Format of convolutions and products: "float32", or "bfloat16", faster on processors and GPUs made for
    it (`make bench`); weights and their average stay in float32."""
    test_precision: Precision = since("float32")
    """Format of the test, as `precision`: faster for a large network, where single images may come out in
    another class than in float32."""


GLAD_PROTOCOL = TrainingSettings()
"""GLaD's and H-GLaD's evaluation; VGG-11 with lr 0.0001."""
BASE_PROTOCOL = TrainingSettings(lr=0.01, schedule="step", ema_decay=None)
"""The evaluation of DSA and DM."""
PROTOCOLS = {
    "glad": GLAD_PROTOCOL,
    "dm": BASE_PROTOCOL,
    "dc": BASE_PROTOCOL.changed(epochs=300, augmentation="crop_scale_rotate"),
}
"""`glad`: GLaD and H-GLaD; `dm`: DSA and DM; `dc`: DC, for images that were made without augmentation."""


class ExpertSettings(Settings):
    """How experts are trained: plain SGD at a constant rate, without momentum and weight decay."""

    count: Count = 100
    """Experts. Source: MTT."""
    epochs: Count = 50
    """Passes over the real images that each of them keeps. Source: MTT (15 in GLaD and H-GLaD)."""
    lr: float = Field(0.01, gt=0)
    """Learning rate. Source: MTT."""
    batch_size: Count = 256
    """Real images per step. Source: MTT."""
    augmentation: Strategies = DSA
    """DSA strategies joined by "_"; "" for none. Source: MTT."""
    precision: Precision = since("float32")
    """Format, as `evaluation.training.precision`."""

    @property
    def training(self) -> TrainingSettings:
        """The same in the terms of `TrainingSettings`."""
        own = {key: value for key, value in vars(self).items() if key != "count"}
        return TrainingSettings(**own, momentum=0.0, weight_decay=0.0, schedule="constant", ema_decay=None)


class MetricSettings(Settings):
    """Selection metric and the classifier behind it."""

    name: str = "class_relevant"
    """Registered metric that selects the iterate."""
    compared: Distinct[str] = ("feature",)
    """Further metrics that the ablation measures on the same iterates."""
    network: Network = {"name": "convnet"}
    """Classifier: `name` of a registered network and its options."""
    training: TrainingSettings = TrainingSettings()
    """How the classifier is trained on the real set."""
    seed: NotNegative = 0
    """Seed of the classifier."""
    options: dict[str, Any] = since({})
    """Options of the metric itself, such as `layer` or `normalization` of class_relevant."""
    held_out: float = since(0.25, gt=0, lt=1)
    """Share of the training images that `accuracy` is measured on and its search does not see."""

    @pydantic.field_validator("training")
    @classmethod
    def _is_not_tested(cls, training: TrainingSettings) -> TrainingSettings:
        if training.test_precision != "float32":
            raise ValueError(
                "test_precision is set, but the classifier of the metric is not tested: remove it"
            )
        return training


class SurrogateSettings(Settings):
    """Network and batches of the matching objective."""

    network: Network = {"name": "convnet"}
    """`name` of a registered network and its options."""
    augmentation: Strategies = DSA
    """Siamese augmentation strategies (DSA)."""
    batch_real: Count = 256
    """Real images per class and step. Source: DC, DM."""
    objectives: dict[str, Any] = {}
    """What each objective does otherwise, by its name; all named are compared."""


class EvaluationSettings(Settings):
    """How a distilled set is scored."""

    repeats: Count = 5
    """Networks trained per distilled set and architecture. Source: GLaD."""
    protocol: Literal["glad", "dm", "dc"] = "glad"
    """Named protocol, `glad`, `dm` or `dc`, whose values hold where `training` has none."""
    training: TrainingSettings = TrainingSettings()
    """Training of each network on the distilled set."""
    networks: dict[str, Any] = {}
    """Changes to `training` for some architectures, label of `networks` to keys; GLaD: VGG-11 at 0.0001."""
    full_set: TrainingSettings = TrainingSettings()
    """Training on the full training set, which has many more steps per epoch."""
    full_set_seeds: NotNegative = 3
    """Networks trained on the full training set; 0 leaves this baseline out."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _with_protocol(cls, values: Any) -> Any:
        """Values with those of the protocol in `training`."""
        own = values.get("training", {}) if isinstance(values, dict) else None
        usual = PROTOCOLS.get(str(values.get("protocol", "glad"))) if isinstance(own, dict) else None
        return values if usual is None else values | {"training": vars(usual) | own}


class ObjectiveSettings(Settings):
    """What one matching objective does otherwise than the rest of the profile says."""

    options: dict[str, Any] = {}
    """Options of the objective itself, such as `distance` of dc or `student_steps` of mtt."""
    ipc: Several[Count] = ()
    """Images per class among those of `sets.ipc`, where all would take too long; empty: all."""
    search: dict[str, Any] = {}
    """Changes to the keys of `search`."""
    tuned: dict[str, dict[str, Any]] = {}
    """Further changes for one kind of search, kind to keys of `search`, as `hglad tune` prints them."""
    at_ipc: dict[int, dict[str, Any]] = {}
    """Last changes to the keys of `search`, for every kind of search, at some numbers of images per class;
    the layer of GLaD is the same at all."""
    augmentation: Strategies | None = None
    """Siamese augmentation in place of that of `surrogate`; none: the same."""
    evaluation: dict[str, Any] = {}
    """Changes to the keys of `evaluation.training`."""
    experts: ExpertSettings | None = None
    """Expert trajectories of mtt."""

    @pydantic.field_validator("at_ipc", mode="before")
    @classmethod
    def _whole_keys(cls, at_ipc: Any) -> Any:
        """JSON and papermill make text of the numbers."""
        if not isinstance(at_ipc, dict):
            return at_ipc
        return {int(key) if str(key).isdecimal() else key: value for key, value in at_ipc.items()}


class Studies(Settings):
    """Size of the studies beside the main table."""

    experiments: Distinct[str] = ()
    """Experiments of the profile's book; empty: all that it has settings for."""
    sweep_seeds: NotNegative = 3
    """Distillation seeds of each fixed layer in the sweep."""
    families: Distinct[str] = ()
    """Further generators whose layers are swept, beside the profile's."""
    ablation_seeds: NotNegative = 3
    """Hierarchical runs of each objective whose iterates are all evaluated."""
    matching_seeds: NotNegative = 3
    """Distillation seeds of each objective in the study of objectives, at the first ipc."""
    cross_seeds: NotNegative = 3
    """Distilled sets per method that meet the other architectures."""
    cross_full: bool = since(True)
    """Train the other architectures on the full training set, too."""
    objectives: Distinct[str] = since(())
    """Objectives of the metric ablation and of the searches in parts; empty: all of `sets`."""
    repeats: NotNegative = since(0)
    """Networks trained per set in these studies and for each other architecture; 0: `evaluation.repeats`."""
    part_seeds: NotNegative = 0
    """Distillation seeds of the paper's search and of it without each of its parts; 0 leaves it out."""
    parts: Distinct[str] = since(())
    """Which searches without a part stand beside the paper's, by their names in the table; empty: all."""
    audit_seeds: NotNegative = 0
    """Distillation seeds of the paper's search with each behavior of the released code; 0 leaves it out."""
    baselines: Distinct[Baseline] = ()
    """Sets that nothing was optimised for, beside random images and the full set: `herding`, `k_center`,
    `class_mean`, `samples`, `samples_averaged`; none leaves the study of baselines out."""
    augmentations: Distinct[Strategies] = ()
    """Further augmentations of the training on the sets of that study, as `evaluation.training` takes them;
    the empty text is none."""


# Settings that are dataclasses still: from here on until they are on the base above.


def from_dict(cls: type, values: Any, where: str = "") -> Any:
    """Build a settings dataclass from plain values, as YAML or JSON gives them.

    Args:
        cls: frozen dataclass; nested dataclasses, tuples, dicts and optional fields are followed. Its static
            method `complete`, if it has one, fills in values that follow from others.
        values: mapping from field names to values.
        where: prefix of the key in messages, such as `search.`

    Raises:
        HgladError: unknown key (with the nearest one), missing key, or a value of another type.
    """
    if issubclass(cls, Settings):
        return cls.read(values, where)
    if not isinstance(values, dict):
        raise HgladError(
            f"{where.rstrip('.') or cls.__name__} is {values!r}: expected a mapping of keys to values"
        )
    if hasattr(cls, "complete"):
        values = _naming_group(where, cls.complete, values)
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise HgladError(f"unknown key '{where}{key}': {suggestion(key, fields)}")
    missing = [name for name, field in fields.items() if name not in values and _is_required(field)]
    if missing:
        raise HgladError(f"key '{where}{missing[0]}' is missing: expected {_type_name(hints[missing[0]])}")
    own = {key: convert(hints[key], value, f"{where}{key}") for key, value in values.items()}
    return _naming_group(where, cls, **own)


def _naming_group(where: str, check: Callable, *arguments: Any, **values: Any) -> Any:
    """Call `check`; where its error does not name the group that it looked at, put the group in front."""
    try:
        return check(*arguments, **values)
    except HgladError as error:
        if where in str(error):
            raise
        raise HgladError(f"{where.rstrip('.')}: {error}") from error


def read_yaml(cls: type, path: Path | str, build: Callable[[type, Any], Any] = from_dict) -> Any:
    """Read a settings dataclass from a YAML file, by `build`, which checks it."""
    try:
        return build(cls, read_plain(path))
    except HgladError as error:
        raise HgladError(f"{path}: {error}") from error


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is dict:
        return "a mapping of keys to values"
    plain = isinstance(hint, type) and not typing.get_args(hint)
    return hint.__name__ if plain else str(hint).replace("typing.", "")


def convert(hint: Any, value: Any, key: str) -> Any:
    """A plain value as the type `hint` asks for; raises `HgladError` naming `key` for another type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and types.NoneType in arguments:
            return None
        return convert(next(option for option in arguments if option is not types.NoneType), value, key)
    if isinstance(hint, type) and issubclass(hint, Settings):
        return value if isinstance(value, hint) else hint.read(value, f"{key}.")
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value, f"{key}.")
    if origin is tuple and isinstance(value, (list, tuple)):
        items = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(items) == len(value):
            return tuple(
                convert(item, v, f"{key}[{i}]") for i, (item, v) in enumerate(zip(items, value, strict=True))
            )
    elif origin is dict and isinstance(value, dict):
        return _with_keys(arguments[0], value, key)
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif hint is Any or (isinstance(value, origin or hint) and not (hint is int and isinstance(value, bool))):
        return value
    advice = "; YAML reads 1e-2 as text: write 1.0e-2" if hint is float and _is_number(value) else ""
    raise HgladError(f"{key} is {value!r} ({type(value).__name__}): expected {_type_name(hint)}{advice}")


def _with_keys(kind: type, values: dict, key: str) -> dict:
    if kind is int:  # papermill and JSON make text of them
        values = {int(name) if str(name).isdecimal() else name: value for name, value in values.items()}
    expected = "a whole number" if kind is int else "text, in quotes"
    for name in values:
        if type(name) is not kind:
            raise HgladError(f"{key} has the key {name!r} ({type(name).__name__}): expected {expected}")
    return values


def later(default: Any) -> Any:
    """A field that came later: absent from a fingerprint where it has its default, as before it came.

    Args:
        default: the value, or `dict` for a new empty one.
    """
    kind = "default_factory" if default is dict else "default"
    return dataclasses.field(**{kind: default}, metadata={"later": True})


def is_later(field: dataclasses.Field) -> bool:
    """Whether a field came later."""
    return field.metadata.get("later", False)


def identity(settings: Any) -> Any:
    """What a fingerprint is made of: the values of settings, without unused later fields."""
    if isinstance(settings, Settings):
        extra = {name: field.json_schema_extra or {} for name, field in type(settings).model_fields.items()}
        usual = {name: field.default for name, field in type(settings).model_fields.items()}
        values = {
            key: v for key, v in vars(settings).items() if not (extra[key].get("later") and v == usual[key])
        }
        return {key: identity(value) for key, value in values.items()}
    if dataclasses.is_dataclass(settings):
        used = [f for f in dataclasses.fields(settings) if not (is_later(f) and _is_default(settings, f))]
        return {f.name: identity(getattr(settings, f.name)) for f in used}
    if isinstance(settings, tuple):
        return tuple(map(identity, settings))
    return settings


def _is_default(settings: Any, field: dataclasses.Field) -> bool:
    made = field.default_factory
    return getattr(settings, field.name) == (field.default if made is dataclasses.MISSING else made())


def to_dict(settings: Any) -> Any:
    """Plain values of settings, ready for JSON or YAML."""
    if isinstance(settings, Settings):
        return settings.to_dict()
    return json.loads(
        json.dumps({f.name: plain(getattr(settings, f.name)) for f in dataclasses.fields(settings)})
    )


def plain(value: Any) -> Any:
    """A value with the settings in it as dictionaries."""
    if isinstance(value, Settings) or dataclasses.is_dataclass(value):
        return to_dict(value)
    return [plain(each) for each in value] if isinstance(value, tuple | list) else value
