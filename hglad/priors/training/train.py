"""Train a prior from a YAML file, resumable, and measure how good its samples are."""

import shutil
from pathlib import Path
from typing import Any

from hglad.data import augmentation
from hglad.data.datasets import RealData, load_data
from hglad.errors import HgladError
from hglad.priors.base import PRIORS, GeneratorSettings, kind_of
from hglad.priors.files import prior_card, prior_hash, save_prior
from hglad.priors.training.gan import VERSION, GANSettings, GANTraining
from hglad.priors.training.quality import QualitySettings, measure_quality, train_convnet
from hglad.provenance import Stopwatch
from hglad.runtime import out_of_memory, progress_bar
from hglad.settings import DataSettings, Settings, fingerprint
from hglad.storage import Checkpoint


class PriorSettings(Settings):
    """Contents of the YAML file that `hglad prior train` takes."""

    data: DataSettings
    """Data set that the generator learns."""
    training: GANSettings = GANSettings()
    """Networks and optimization."""
    quality: QualitySettings = QualitySettings()
    """Assessment of the finished generator."""


@out_of_memory("while training a generator", "lower training.batch_size or the channels of the generator")
def train_prior(settings: PriorSettings, out: Path | str, device: str = "cpu") -> dict[str, Any]:
    """Train a generator and write it with its card to `out`; continues a run that was stopped.

    Returns:
        The card: data hash, training settings, quality, provenance.
    """
    out = Path(out).with_suffix(".safetensors")
    dataset = load_data(settings.data.name, settings.data.root, settings.data.resolution, device=device)
    real, training = dataset.train, fit_to_data(settings.training, dataset.train)
    watch, kind = Stopwatch(device), kind_of(training.generator)
    plain = training.to_dict() | {"generator": {"kind": kind} | training.generator.to_dict()}
    known = plain | {"stem": training.stem and prior_hash(training.stem)}
    key = fingerprint(known | {"steps": None}, real.content_hash, VERSION)  # steps can be raised later
    parts = out.with_suffix(".parts")
    guide = None
    if training.classifier_weight or training.feature_weight:
        shape = {"epochs": training.classifier_epochs, "width": training.classifier_width}
        own = QualitySettings(**shape, seed=training.seed, precision=training.precision)
        guide = train_convnet(real, real.images, real.labels, own, parts / key / "guide")
        guide.requires_grad_(False)
    run = GANTraining(real, training, guide)
    seconds = _train(run, Checkpoint(out.with_suffix(".state"), key))
    generator = run.finished()
    judged = parts / fingerprint(key, training.steps, settings.quality)
    versions = {"augment": augmentation.VERSION, "gan": VERSION, f"prior {kind}": PRIORS.version(kind)}
    card = {
        "data": {**settings.data.to_dict(), "content_hash": real.content_hash, "images": len(real.images)},
        "training": plain,
        "version": VERSION,
        "quality": measure_quality(generator, dataset, settings.quality, judged),
        "provenance": watch.provenance()
        | {"seconds": round(seconds, 1), "algorithms": versions}
        | {"key": fingerprint(known, real.content_hash, versions)},
    }
    save_prior(out, generator, card)
    out.with_suffix(".state").unlink(missing_ok=True)
    shutil.rmtree(parts, ignore_errors=True)
    return card


def _train(run: GANTraining, checkpoint: Checkpoint) -> float:
    """Train to the end, saving the state; the seconds it took over all its parts."""
    found = checkpoint.load()
    if found is not None:
        run.resume(found[0], found[1]["step"])
    with progress_bar(run.settings.steps, "generator", "step", initial=run.step_count) as bar:
        while run.step_count < run.settings.steps:
            losses = run.step()
            bar.update()
            if checkpoint.due:
                checkpoint.save(run.state(), step=run.step_count)
                bar.set_postfix({name: f"{loss.item():.2f}" for name, loss in losses.items()})
    return checkpoint.seconds


def fit_to_data(settings: GANSettings, real: RealData) -> GANSettings:
    """Settings of a generator that makes images of the size, channels and classes of `real`.

    Raises:
        HgladError: a stem with its heads makes other images, or the stem cannot have heads.
    """
    channels, height, _ = real.image_shape
    if not settings.stem:
        shape = {"img_resolution": height, "img_channels": channels, "c_dim": len(real.classes)}
        return settings.changed(generator=settings.generator.changed(**shape))
    network = with_stem(settings.stem, settings.generator)
    images = "{0} x {1} x {1} images of {2} classes"
    made = images.format(network.img_channels, network.resolution, network.c_dim)
    expected = images.format(channels, height, len(real.classes))
    if made != expected:
        raise HgladError(
            f"training.stem {settings.stem!r} with its heads makes {made}: expected {expected}, by another "
            "up_factor or another stem"
        )
    return settings.changed(generator=network)


def with_stem(stem: str, top: GeneratorSettings) -> GeneratorSettings:
    """Settings of a generator from those of its stem and the heads that are put on it.

    Raises:
        HgladError: no such stem, one of another family, no head, or other settings beside the heads.
    """
    card = prior_card(stem)
    return top.on_stem(PRIORS.get(card["kind"]).Settings.from_card(card["settings"]))


def training_seconds(settings: PriorSettings) -> float:
    """Estimate of a training on one core."""
    training, network = settings.training, settings.training.generator
    if training.stem:
        network = with_stem(training.stem, network)
    elif settings.data.resolution:
        network = network.changed(img_resolution=settings.data.resolution)
    seconds = training.steps * network.step_seconds(training.batch_size)
    return seconds / 2 if training.precision == "bfloat16" else seconds
