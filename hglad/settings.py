"""Every setting, typed and documented: how it is read, its errors in one line, the key of its results.

A setting is a field of a frozen pydantic model, its text stands below it. Nothing here needs torch.
"""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
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
        values = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            usual = field.get_default(call_default_factory=True)
            if value != usual and field.json_schema_extra != NOT_IN_KEY:
                values[name] = identity(value)
        return values

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
    "too_short": "at least {min_length}",
    "string_pattern_mismatch": "letters, digits, '-', '_' and '.', beginning with one of the first two",
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
        if isinstance(step, int):  # of a list, whose elements are of one class
            continue
        hints = _types(cls.model_fields[step].annotation) if cls and step in cls.model_fields else []
        cls = next((each for each in hints if isinstance(each, type) and issubclass(each, Settings)), None)
    return cls


def _types(hint: Any) -> list[Any]:
    """A type hint and those inside it."""
    return [hint, *(each for inner in get_args(hint) for each in _types(inner))]


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def identity(value: Any) -> Any:
    """What a fingerprint is made of: plain values, and of settings what differs from the defaults."""
    if isinstance(value, Settings):
        return value.identity()
    return [identity(each) for each in value] if isinstance(value, tuple | list) else value


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


def _as_tuple(value: Any) -> tuple:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


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
OneOrMore = Annotated[tuple[T, ...], pydantic.BeforeValidator(_as_tuple)]
"""One value or a list of them."""
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
STRATEGIES = ("color", "crop", "cutout", "flip", "scale", "rotate")
"""Of the siamese augmentation (DSA; Zhao & Bilen 2021)."""
DSA = "_".join(STRATEGIES)
Strategies = Annotated[str, pydantic.AfterValidator(_known_strategies)]
"""Strategies of DSA joined by "_"; the empty text is none."""


HAS_GENERATOR = {"with_generator": True}
NOT_IN_KEY = {"in_key": False}


def with_generator(default: Any, **more: Any) -> Any:
    """A field that means something only where a generator is searched; in pixel space it has its default."""
    return Field(default, json_schema_extra=HAS_GENERATOR, **more)


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

    @pydantic.model_validator(mode="after")
    def _folder_is_complete(self) -> Self:
        for key in ("root", "resolution"):
            if self.name == "folder" and getattr(self, key) is None:
                raise ValueError(f"{key} is missing: an image folder needs its root and a resolution")
        return self


class SearchSettings(Settings):
    """How the latents are optimized; every kind of search gets the same budget."""

    steps: Count = 1000
    """Optimization steps in all, shared by the stages. Source: GLaD."""
    budget: Literal["steps", "flops"] = with_generator("steps")
    """What is kept whatever the stages: `steps`, or `flops`, the generator's work of `steps` steps at
    `layer`, of which cheaper stages get more steps; pixel space, which has none, keeps its `steps`."""
    layer: NotNegative = with_generator(4)
    """Split point of the single-layer search."""
    stages: Distinct[NotNegative] = with_generator(())
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
    lr_features: Rate = with_generator(10.0)
    """Learning rate of the features f. Source: H-GLaD with DM."""
    lr_latents: Rate = with_generator(0.01)
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
    memory: float | None = Field(None, gt=0, json_schema_extra=NOT_IN_KEY)
    """GiB that the generator's graph may take; none: half of this process's share of the device's memory."""
    start: Literal["real", "noise"] = "real"
    """Start of the pixel prior: `real` (DM) or `noise` (DC)."""
    selection: Literal["metric", "last"] = "metric"
    """`metric`: keep the iterate with the smallest distance; `last`: keep the last one."""
    select_every: Count = 5
    """Steps between two measurements of the distance; a stage's first and last iterate are measured too."""
    stage_start: Literal["best", "last"] = with_generator("best")
    """Iterate of a stage that the next one starts from: the `best` by `selection`, or the `last`."""
    normalize_generated: bool = with_generator(True)
    """Whether the matching networks see distilled images normalized like real ones; they do not in the
    released code with a generator."""
    styles: Literal["kept", "redrawn", "frozen"] = with_generator("kept")
    """w when a later stage begins: `kept` as it is, `redrawn` from the mapping, or kept and `frozen`."""

    def without_generator(self) -> Self:
        """As a search in pixels takes them."""
        return self.changed(**{name: type(self).model_fields[name].default for name in WITH_GENERATOR})

    def check_without_generator(self, where: str, why: str, keys: Iterable[str] | None = None) -> None:
        """Refuse what means something with a generator only, of all values or of those at dotted keys."""
        for name in WITH_GENERATOR:
            value, usual = getattr(self, name), type(self).model_fields[name].default
            if value != usual and (keys is None or f"search.{name}" in keys):
                plain = list(value) if isinstance(value, tuple) else value
                raise ValueError(
                    f"{where}.{name} is {plain!r}, but {why}: it says something about a generator; remove it"
                )


WITH_GENERATOR = tuple(
    name for name, field in SearchSettings.model_fields.items() if field.json_schema_extra == HAS_GENERATOR
)
"""Settings of a search that mean something with a generator only."""


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
    precision: Precision = "float32"
    """Format of convolutions and products: "float32", or "bfloat16", faster on processors and GPUs made for
    it (`make bench`); weights and their average stay in float32."""
    test_precision: Precision = "float32"
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
    precision: Precision = "float32"
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
    compared: Distinct[str] = Field(("feature",), json_schema_extra=NOT_IN_KEY)
    """Further metrics that the ablation measures on the same iterates."""
    network: Network = {"name": "convnet"}
    """Classifier: `name` of a registered network and its options."""
    training: TrainingSettings = TrainingSettings()
    """How the classifier is trained on the real set."""
    seed: NotNegative = 0
    """Seed of the classifier."""
    options: dict[str, Any] = {}
    """Options of the metric itself, such as `layer` or `normalization` of class_relevant."""
    held_out: float = Field(0.25, gt=0, lt=1)
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


class EvaluationSettings(Settings):
    """How a distilled set is scored."""

    repeats: Count = 5
    """Networks trained per distilled set and architecture. Source: GLaD."""
    protocol: Literal["glad", "dm", "dc"] = "glad"
    """Named protocol, `glad`, `dm` or `dc`, whose values hold where `training` has none."""
    training: TrainingSettings = TrainingSettings()
    """Training of each network on the distilled set."""
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
    cross_full: bool = True
    """Train the other architectures on the full training set, too."""
    objectives: Distinct[str] = ()
    """Objectives of the metric ablation and of the searches in parts; empty: all of `sets`."""
    repeats: NotNegative = 0
    """Networks trained per set in these studies and for each other architecture; 0: `evaluation.repeats`."""
    part_seeds: NotNegative = 0
    """Distillation seeds of the paper's search and of it without each of its parts; 0 leaves it out."""
    parts: Distinct[str] = ()
    """Which searches without a part stand beside the paper's, by their names in the table; empty: all."""
    audit_seeds: NotNegative = 0
    """Distillation seeds of the paper's search with each behavior of the released code; 0 leaves it out."""
    baselines: Distinct[Baseline] = ()
    """Sets that nothing was optimized for, beside random images and the full set: `herding`, `k_center`,
    `class_mean`, `samples`, `samples_averaged`; none leaves the study of baselines out."""
    augmentations: Distinct[Strategies] = ()
    """Further augmentations of the training on the sets of that study, as `evaluation.training` takes them;
    the empty text is none."""


class ObjectiveSettings(Settings):
    """What belongs to one matching objective alone."""

    options: dict[str, Any] = {}
    """Options of the objective itself, such as `distance` of dc or `student_steps` of mtt."""
    experts: ExpertSettings | None = None
    """Expert trajectories, for an objective that matches them."""
    ipc: Distinct[Count] = ()
    """Images per class among those of `sets.ipc`, where all would take too long; empty: all."""


class Sets(Settings):
    """Distilled sets of the main table."""

    objectives: Annotated[Distinct[str], Field(min_length=1)]
    """Matching objectives of the main table, such as `[dm, dc]`."""
    searches: Distinct[Kind]
    """Searches of the main table, some of `pixels`, `single`, `hierarchical`; none where only baselines are
    measured."""
    ipc: Annotated[Distinct[Count], Field(min_length=1)]
    """Images per class, such as `[1, 10]`; the studies take the first."""
    seeds: Annotated[Distinct[NotNegative], Field(min_length=1)]
    """Distillation seeds, such as `[0, 1, 2]`; the studies take the first of them."""


class When(Settings):
    """Runs that an override is for: one value or a list for each key, and any where a key is left out."""

    objective: OneOrMore[str] = ()
    """Matching objective."""
    search: OneOrMore[Kind] = ()
    """Kind of search."""
    ipc: OneOrMore[Count] = ()
    """Images per class."""
    network: OneOrMore[str] = ()
    """Label in `networks` of the architecture that a set is evaluated on."""


class Override(Settings):
    """Other values for some runs."""

    when: When = When()
    """Runs that it is for."""
    set: dict[str, Any]
    """Dotted keys below `search`, `surrogate`, `metric` or `evaluation.training`, with their values."""

    def holds(self, run: dict[str, Any]) -> bool:
        """Whether it is for a run, which has some of the keys of `when`."""
        return all(not wanted or run.get(key) in wanted for key, wanted in vars(self.when).items())


OVERRIDABLE = ("search", "surrogate", "metric", "evaluation.training")
STUDY_NEEDS = {  # keys of studies -> what they need
    ("sweep_seeds", "families"): "there is no prior",
    ("matching_seeds",): "objectives is empty",
    ("augmentations",): "studies.baselines is empty",
    ("ablation_seeds", "part_seeds", "parts"): "the metric ablation takes studies.ablation_seeds and "
    "studies.part_seeds, and one is 0",
    ("ablation_seeds", "part_seeds", "parts", "audit_seeds", "cross_seeds"): "sets.searches has no "
    "'hierarchical'",
}


class Profile(Settings):
    """Settings of all experiments of one book; see each group for its keys."""

    profile: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    """Name; results lie in `data/results/<name>`."""
    data: DataSettings
    """Real images."""
    prior: str | None
    """Generator in `data/priors`, or a path to one; none: pixel space only."""
    objectives: dict[str, ObjectiveSettings] = {}
    """What belongs to each objective alone, by its name; all named are compared in pixel space."""
    surrogate: SurrogateSettings
    """Network and batches of the matching objective."""
    search: SearchSettings
    """Optimization of the latents."""
    metric: MetricSettings
    """Selection of the iterate."""
    evaluation: EvaluationSettings
    """Scoring of a distilled set."""
    networks: Annotated[dict[str, Network], Field(min_length=1)]
    """Architectures of the cross-architecture table, label to `name` and options; the first one is main."""
    sets: Sets
    """Distilled sets of the main table."""
    studies: Studies = Studies()
    """Size of the studies beside it."""
    overrides: Several[Override] = ()
    """Other values for some runs, applied in this order."""

    @property
    def priors(self) -> list[str]:
        """Generators that the runs take, the profile's own first, each once."""
        return list(dict.fromkeys([*([self.prior] if self.prior else []), *self.studies.families]))

    @property
    def main_network(self) -> str:
        """Label of the architecture of the main table."""
        return next(iter(self.networks))

    @property
    def used_objectives(self) -> list[str]:
        """Objectives of the searches and of the study of objectives, each once."""
        return list(dict.fromkeys([*self.sets.objectives, *self.objectives]))

    def objective(self, name: str) -> ObjectiveSettings:
        """What belongs to an objective; one that the profile does not name has nothing of its own."""
        return self.objectives.get(name, ObjectiveSettings())

    def ipcs(self, objective: str) -> tuple[int, ...]:
        """Images per class of an objective."""
        return self.objective(objective).ipc or self.sets.ipc

    def resolved(self, **run: Any) -> Self:
        """The profile as it is for some runs: with the overrides that hold for these keys of `When`."""
        changes = [override.set for override in self.overrides if override.holds(run)]
        return self.with_values({key: value for each in changes for key, value in each.items()})

    def with_values(self, changes: Mapping[str, Any], where: str = "") -> Self:
        """A copy with other values at dotted keys below `OVERRIDABLE`; raises `HgladError` as `read` does."""
        groups = {key.split(".")[0]: None for key in changes}
        for group in groups:
            if not any(group == known.split(".")[0] for known in OVERRIDABLE):
                raise HgladError(f"unknown key '{where}{group}': expected one below {', '.join(OVERRIDABLE)}")
        values = {group: getattr(self, group).model_dump() for group in groups}
        set_values(values, changes, where)
        updates = {
            group: type(getattr(self, group)).read(own, f"{where}{group}.") for group, own in values.items()
        }
        return self.model_copy(update=updates)

    def training(self, network: str, **run: Any) -> TrainingSettings:
        """Training of an architecture on a set, which some of the keys of `When` describe."""
        return self.resolved(network=network, **run).evaluation.training

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Refuse settings that contradict each other."""
        if self.prior is None:
            if not set(self.sets.searches) <= {"pixels"}:
                found = list(self.sets.searches)
                raise ValueError(
                    f"sets.searches is {found} without a prior: expected ['pixels'], or name one"
                )
            if sampled := [name for name in self.studies.baselines if name.startswith("samples")]:
                raise ValueError(
                    f"studies.baselines has '{sampled[0]}' without a prior: name one or leave it out"
                )
        for name, own in self.objectives.items():
            _among(f"objectives.{name}.ipc", own.ipc, "sets.ipc", self.sets.ipc)
        _among("studies.objectives", self.studies.objectives, "sets.objectives", self.sets.objectives)
        for index, override in enumerate(self.overrides):
            self._check_override(f"overrides[{index}]", override)
        self._check_generator_settings()
        self._check_studies()
        return self

    def _check_override(self, where: str, override: Override) -> None:
        when, keys = override.when, override.set
        _among(f"{where}.when.objective", when.objective, "the objectives", self.used_objectives)
        _among(f"{where}.when.ipc", when.ipc, "sets.ipc", self.sets.ipc)
        _among(f"{where}.when.network", when.network, "networks", self.networks)
        for key in keys:
            if not any(key.startswith(f"{group}.") for group in OVERRIDABLE):
                raise ValueError(f"{where}.set has '{key}': expected a key below {', '.join(OVERRIDABLE)}")
            if when.network and not key.startswith("evaluation."):
                raise ValueError(f"{where} sets {key} for a network: expected keys of evaluation.training")
            if when.ipc and key == "search.layer":
                raise ValueError(f"{where} sets search.layer at some ipc: expected one layer for every ipc")
        try:
            own = self.with_values(keys, f"{where}.set.")
        except HgladError as error:
            raise ValueError(str(error)) from None
        if when.search == ("pixels",):
            own.search.check_without_generator(f"{where}.set.search", "this search is in pixels", keys)

    def _check_generator_settings(self) -> None:
        """Settings of a generator's latents where every search is in pixels."""
        asked, studies = self.studies.experiments, self.studies
        swept = studies.sweep_seeds and (not asked or "glad_baseline" in asked)
        if self.prior is not None and (swept or not set(self.sets.searches) <= {"pixels"}):
            return
        why = "there is no prior" if self.prior is None else "sets.searches has pixels only"
        self.search.check_without_generator("search", why)
        for index, override in enumerate(self.overrides):
            own = self.with_values(override.set).search
            own.check_without_generator(f"overrides[{index}].set.search", why, override.set)

    def _check_studies(self) -> None:
        """Studies that were asked for and would not take place, or with fewer seeds; defaults ask nothing."""
        studies, usual = self.studies, Studies()
        asked = {key for key, value in vars(studies).items() if value and value != getattr(usual, key)}
        for key in sorted(key for key in asked if key.endswith("_seeds")):
            if getattr(studies, key) > len(self.sets.seeds):
                most, number = len(self.sets.seeds), getattr(studies, key)
                raise ValueError(
                    f"studies.{key} is {number}, but sets.seeds has {most}: expected at most {most}"
                )
        lacking = (
            self.prior is None, not self.objectives, not studies.baselines,
            not (studies.ablation_seeds and studies.part_seeds), "hierarchical" not in self.sets.searches,
        )  # fmt: skip
        for (keys, need), is_lacking in zip(STUDY_NEEDS.items(), lacking, strict=True):
            for key in keys if is_lacking else ():
                if key in asked:
                    value = getattr(studies, key)
                    raise ValueError(f"studies.{key} is {value!r}, but {need}: it has no effect")


def _among(key: str, values: Iterable[Any], name: str, known: Iterable[Any]) -> None:
    for value in values:
        if value not in known:
            advice = suggestion(value, map(str, known))
            raise ValueError(f"{key} has {value!r}, which is not among {name}: {advice}")


def set_values(values: dict[str, Any], changes: Mapping[str, Any], where: str = "") -> None:
    """Replace those of nested plain values that stand at dotted keys; `where` begins the keys in messages."""
    for key, value in changes.items():
        *groups, last = key.split(".")
        place = values
        for name in groups:
            place = place.setdefault(name, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise HgladError(f"unknown key '{where}{key}': {'.'.join(groups)} is a single value")
        place[last] = value
