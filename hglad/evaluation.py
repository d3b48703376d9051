"""Score a set: train fresh networks on it, test them once, at the end, on real images. And the baselines."""

import pandas as pd
import torch
from tqdm import tqdm

from hglad.data import DataSet, RealData
from hglad.distilled import DistilledSet
from hglad.errors import HgladError
from hglad.networks import Classifier, create_network
from hglad.progress import progress_bar
from hglad.settings import derive_seed
from hglad.training import TrainingSettings, accuracy, train_classifier


def evaluate(
    distilled: DistilledSet,
    data: DataSet,
    networks: dict[str, dict],
    repeats: int,
    training: TrainingSettings,
    seed: int = 0,
    show: bool = False,
) -> pd.DataFrame:
    """Train `repeats` networks of each architecture on a set and measure their test accuracy.

    Args:
        distilled: images and labels to train on.
        data: normalisation comes from its training split, accuracy from its test split.
        networks: label to `name` of a registered network and its options.
        repeats: networks per architecture, each with its own seed.
        training: protocol.
        seed: seed from which those of the networks follow.
        show: show a progress bar on a terminal.

    Returns:
        One row per network: `network`, `repeat`, `accuracy` in percent.

    Raises:
        HgladError: no network or repeat, images that do not fit the network, a loss that is not finite.
    """
    if repeats < 1 or not networks:
        raise HgladError(
            f"evaluation got {repeats} repeats of {len(networks)} networks: expected 1 or more of each"
        )
    for options in networks.values():
        _create(options, data, None)  # a wrong name is found before the first network is trained
    rows = []
    with progress_bar(len(networks) * repeats * training.epochs, "evaluation", "epoch", show) as bar:
        for label, options in networks.items():
            for repeat in range(repeats):
                score = _score(distilled, data, options, training, seed, repeat, bar)
                rows.append({"network": label, "repeat": repeat, "accuracy": score})
    return pd.DataFrame(rows)


def _score(
    distilled: DistilledSet,
    data: DataSet,
    options: dict,
    training: TrainingSettings,
    seed: int,
    repeat: int,
    bar: tqdm,
) -> float:
    device = data.train.images.device
    rng = torch.Generator(device).manual_seed(derive_seed("evaluate", seed, repeat))
    network = _create(options, data, rng).to(device)
    images, labels = distilled.images.to(device), distilled.labels.to(device)
    normalize = data.train.normalize
    network = train_classifier(
        network, images, labels, normalize, training, rng, lambda epoch, loss: bar.update()
    )
    return round(accuracy(network, data.test), 4)


def _create(options: dict, data: DataSet, generator: torch.Generator | None) -> Classifier:
    real = data.train
    return create_network(
        image_shape=real.image_shape, classes=len(real.classes), generator=generator, **options
    )


def random_real(real: RealData, ipc: int, seed: int) -> DistilledSet:
    """Baseline: `ipc` random training images of each class."""
    rng = torch.Generator(real.images.device).manual_seed(derive_seed("random_real", seed))
    labels = torch.arange(len(real.classes)).repeat_interleave(ipc)
    return DistilledSet(real.batch(ipc, rng).flatten(0, 1).cpu(), labels, {"kind": "random", "seed": seed})


def full_set(real: RealData) -> DistilledSet:
    """Upper reference: all training images."""
    return DistilledSet(real.images.float() / 255, real.labels, {"kind": "full"})
