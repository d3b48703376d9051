"""Train a prior from a YAML file, resumable, and measure how good its samples are."""

import shutil
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from hglad.data.datasets import RealData, load_data
from hglad.errors import HgladError
from hglad.experiments.versions import Versions, declared
from hglad.networks import Classifier
from hglad.priors.files import prior_hash, save_prior
from hglad.priors.registry import GeneratorSettings, kind_of
from hglad.priors.training.gan import VERSION, GANSettings, GANTraining
from hglad.priors.training.quality import QualitySettings, measure_quality, train_convnet
from hglad.priors.training.stem import with_stem
from hglad.provenance import Stopwatch
from hglad.runtime import out_of_memory, progress_bar
from hglad.settings import DataSettings, fingerprint, identity, read_yaml, to_dict
from hglad.storage import spared

SAVE_EVERY = 100  # steps, well under a minute of work for the sizes that one machine trains


@dataclass(frozen=True)
class PriorSettings:
    """Contents of the YAML file that `hglad prior train` takes."""

    data: DataSettings
    """Data set that the generator learns."""
    training: GANSettings = field(default_factory=GANSettings)
    """Networks and optimisation."""
    quality: QualitySettings = field(default_factory=QualitySettings)
    """Assessment of the finished generator."""


def read_prior_settings(path: Path | str) -> PriorSettings:
    """Read and check a YAML file.

    Raises:
        HgladError: unreadable file, unknown key or wrong type.
    """
    return read_yaml(PriorSettings, path)


@out_of_memory("while training a generator", "lower training.batch_size or the channels of the generator")
def train_prior(settings: PriorSettings, out: Path | str, device: str = "cpu") -> dict:
    """Train a generator and write it with its card to `out`; continues a run that was stopped.

    Returns:
        The card: data hash, training settings, quality, provenance.
    """
    out = Path(out).with_suffix(".safetensors")
    dataset = load_data(settings.data.name, settings.data.root, settings.data.resolution, device=device)
    training = fit_to_data(settings.training, dataset.train)
    watch = Stopwatch(device)
    unlimited = _identified(replace(training, steps=0))  # steps can be raised later
    key = fingerprint(unlimited, dataset.train.content_hash, VERSION)
    parts = out.with_suffix(".parts")
    run = GANTraining(dataset.train, training, _guide(training, dataset.train, parts / key))
    seconds = _train(run, out.with_suffix(".state"), key)
    generator = run.finished()
    provenance = watch.provenance() | {"seconds": round(seconds, 1)}
    provenance |= declared(partial(_card_key, training, dataset.train))
    card = {
        "data": {
            **to_dict(settings.data),
            "content_hash": dataset.train.content_hash,
            "images": len(dataset.train.images),
        },
        "training": _described(training),
        "version": VERSION,
        "quality": measure_quality(
            generator, dataset, settings.quality, parts / fingerprint(key, training.steps, settings.quality)
        ),
        "provenance": provenance,
    }
    save_prior(out, generator, card)
    out.with_suffix(".state").unlink(missing_ok=True)
    shutil.rmtree(parts, ignore_errors=True)
    return card


def _card_key(training: GANSettings, real: RealData, version: Versions) -> str:
    """Fingerprint of the training, for the card; a search names the generator by its tensors."""
    parts = ("gan", "augment", f"prior {kind_of(training.generator)}")
    return fingerprint(_identified(training), real.content_hash, {part: version(part) for part in parts})


def fit_to_data(settings: GANSettings, real: RealData) -> GANSettings:
    """Settings of a generator that makes images of the size, channels and classes of `real`.

    Raises:
        HgladError: a stem with its heads makes other images, or the stem cannot have heads.
    """
    channels, height, _ = real.image_shape
    if settings.stem:
        return replace(settings, generator=_checked(settings, real))
    network = replace(
        settings.generator, img_resolution=height, img_channels=channels, c_dim=len(real.classes)
    )
    return replace(settings, generator=network)


def _checked(settings: GANSettings, real: RealData) -> GeneratorSettings:
    """Settings of stem and heads, which follow from the stem and not from the data."""
    network = with_stem(settings.stem, settings.generator)
    found = (network.img_channels, network.resolution, network.resolution, network.c_dim)
    expected = (*real.image_shape, len(real.classes))
    if found != expected:
        raise HgladError(
            f"training.stem {settings.stem!r} with its heads makes {_what(found)}: expected "
            f"{_what(expected)}, by another up_factor or another stem"
        )
    return network


def _what(made: tuple[int, ...]) -> str:
    channels, height, width, classes = made
    return f"{channels} x {height} x {width} images of {classes} classes"


def _described(settings: GANSettings) -> dict:
    """Plain values with the family's name, as the YAML file has them."""
    network = {"kind": kind_of(settings.generator)} | to_dict(settings.generator)
    return to_dict(settings) | {"generator": network}


def _identified(settings: GANSettings) -> dict:
    """What a training is known by: as `_described`, without later fields at their defaults."""
    network = {"kind": kind_of(settings.generator)} | identity(settings.generator)
    stem = {"stem": prior_hash(settings.stem)} if settings.stem else {}
    return identity(settings) | {"generator": network} | stem


def _guide(settings: GANSettings, real: RealData, states: Path) -> Classifier | None:
    """Classifier of guidance and features, trained on the training images; none where neither counts.

    `states` is the folder that keeps its training.
    """
    if not settings.classifier_weight and not settings.feature_weight:
        return None
    own = QualitySettings(
        epochs=settings.classifier_epochs,
        width=settings.classifier_width,
        seed=settings.seed,
        precision=settings.precision,
    )
    return train_convnet(real, real.images, real.labels, own, states / "guide").requires_grad_(False)


def _train(run: GANTraining, state: Path, key: str) -> float:
    """Train to the end, saving the state; the seconds it took over all its parts."""
    before = run.load(state, key) if state.is_file() else 0.0
    watch = Stopwatch()
    steps = progress_bar(run.settings.steps, "generator", "step", initial=run.step_count)
    while run.step_count < run.settings.steps:
        losses = run.step()
        steps.update()
        if run.step_count % SAVE_EVERY == 0:
            with spared(state):
                run.save(state, key, before + watch.seconds)
            steps.set_postfix({name: f"{loss.item():.2f}" for name, loss in losses.items()})
    steps.close()
    return before + watch.seconds
