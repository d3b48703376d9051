"""The calls of the library that golden values are made by: what follows its interfaces stands here."""

from pathlib import Path

import torch
from torch import Tensor

from hglad.data.augmentation import Augmentation
from hglad.data.datasets import DataSet, load_data
from hglad.evaluation.baselines import class_mean, herding, k_center, random_real, samples
from hglad.evaluation.evaluate import evaluate
from hglad.evaluation.sets import DistilledSet
from hglad.evaluation.training import Ensemble, accuracy, train_classifier
from hglad.metrics import create_metric
from hglad.networks import Classifier, create_network
from hglad.objectives import create_objective
from hglad.objectives.experts import Experts, train_expert
from hglad.priors import load_prior
from hglad.priors.training.gan import GANSettings, GANTraining
from hglad.priors.training.train import fit_to_data
from hglad.search.distillation import DistillationSettings, distill, load_real, make_search
from hglad.search.state import SearchState
from hglad.settings import (
    DataSettings,
    ExpertSettings,
    MetricSettings,
    SearchSettings,
    SurrogateSettings,
    TrainingSettings,
)
from hglad.storage import Checkpoint

NETWORK = {"name": "convnet", "depth": 3, "width": 8}
EXPERTS = {"count": 2, "epochs": 3, "batch_size": 128, "augmentation": "crop_scale"}
OPTIONS = {
    "dm": {},
    "dc": {"outer_loops": 3, "inner_loops": 2},
    "mtt": {"student_steps": 3, "expert_epochs": 1, "max_start_epoch": 2, "lr_student_lr": 1e-4},
}

__all__ = [
    "class_mean", "create_metric", "herding", "k_center", "load_data", "load_prior", "random_real",
    "samples",
]  # fmt: skip


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def digits() -> DataSet:
    return load_real(DataSettings("digits", resolution=16))


def network(seed: int, classes: int = 10, name: str = "convnet", **options: object) -> Classifier:
    options = options or {"depth": 3, "width": 8}
    return create_network(name, image_shape=(1, 16, 16), classes=classes, rng=rng(seed), **options)


def expert_weights(folder: Path) -> dict[str, Tensor]:
    """Train the experts in `folder`; weights of the last one after its last epoch."""
    for index in range(EXPERTS["count"]):
        train_expert(ExpertSettings(**EXPERTS), NETWORK, digits().train, index, folder)
    return Experts(folder).weights(1, EXPERTS["epochs"])


def objective(name: str, folder: Path, **options: object):
    """A matching objective with tiny settings."""
    given = {"network": network(0), "augmentation": "color_crop_cutout_scale_rotate"}
    given |= {"experts": Experts(folder)} if name == "mtt" else {"batch_real": 6}
    return create_objective(name, **given | OPTIONS[name] | options)


def settings(name: str, kind: str, ipc: int, search: dict, metric: dict) -> DistillationSettings:
    """Settings of one run."""
    return DistillationSettings(
        data=DataSettings("digits", resolution=16),
        prior="pixels" if kind == "pixels" else "digits-16",
        search=SearchSettings(**search),
        surrogate=SurrogateSettings(network=NETWORK, augmentation="color_crop_scale", batch_real=6),
        metric=MetricSettings(network=NETWORK, training=TrainingSettings(epochs=2, ema_decay=None), **metric),
        objective=name,
        kind=kind,
        ipc=ipc,
        seed=3,
        options=OPTIONS[name],
        experts=ExpertSettings(**EXPERTS) if name == "mtt" else None,
    )


def distilled(
    name: str, kind: str, folder: Path, classifier: Classifier, ipc: int, search: dict, metric: dict
) -> DistilledSet:
    """The set that one run gives."""
    experts = folder if name == "mtt" else None
    return distill(settings(name, kind, ipc, search, metric), classifier=classifier, experts=experts)


def resumed(name: str, kind: str, folder: Path, classifier: Classifier, search: dict, stop: int) -> Tensor:
    """Images of a run that is stopped behind `stop` states, saved, and gone on with from the file."""
    experts = folder if name == "mtt" else None
    parts = (settings(name, kind, 1, search, {}), digits(), classifier, "cpu", experts)
    states = make_search(*parts).run()
    *_, state = (next(states) for _ in range(stop))
    tensors, plain = state.saved()
    Checkpoint(folder / "search.state", "golden").save(tensors, force=True, **plain)
    tensors, plain = Checkpoint(folder / "search.state", "golden").load()
    *_, last = make_search(*parts).run(SearchState.restored(tensors, plain, "cpu"))
    return last.images


def trained(seed: int, images: Tensor, labels: Tensor, **training: object) -> Classifier:
    """A network trained on images."""
    chosen = TrainingSettings(**training)
    return train_classifier(network(seed), images, labels, digits().train.normalize, chosen, rng(seed))


def trained_together(images: Tensor, labels: Tensor, **training: object) -> list[Classifier]:
    """Two networks that were trained as one batched computation."""
    pair, chosen = [network(seed) for seed in (0, 1)], TrainingSettings(**training)
    rngs, normalize = [rng(0), rng(1)], digits().train.normalize
    train_classifier(Ensemble(pair), images, labels, normalize, chosen, rngs).unstack_into(pair)
    return pair


def test_accuracy(model: Classifier) -> float:
    return accuracy(model, digits().test)


def score(found: DistilledSet, **training: object) -> list[float]:
    """Test accuracy of two networks trained on a set."""
    networks = {"ConvNet": NETWORK}
    return evaluate(found, digits(), networks, 2, TrainingSettings(**training), seed=1)["accuracy"].tolist()


def augmented(strategies: str, images: Tensor, seed: int) -> Tensor:
    """Images under one drawn transform."""
    return Augmentation(strategies).draw(len(images), images.shape[-2:], rng(seed))(images)


def gan(steps: int, **training: object) -> tuple[Tensor, list[float]]:
    """Sample of a generator in training and the last losses."""
    values = {"batch_size": 8, "width": 8, "r1_every": 2} | training
    run = GANTraining(digits().train, fit_to_data(GANSettings(**values), digits().train))
    for _ in range(steps):
        losses = run.step()
    prior = run.finished()
    images = prior.decode(prior.sample(torch.arange(10), rng(0)), 0)
    return images, [loss.item() for loss in losses.values()]
