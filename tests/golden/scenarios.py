"""What the golden values are of: each scenario names tensors and numbers that the library computes."""

import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import house
import torch
from torch import Tensor

SCENARIOS: dict[str, Callable[[Path], dict]] = {}
"""Name to a function from the folder of the expert trajectories to values by name."""
STEPS = {"steps": 6, "select_every": 2, "lr_features": 0.03, "lr_latents": 0.01, "lr_pixels": 0.1}
SEARCHES = {
    "pixels": STEPS | {"selection": "last"},
    "single": STEPS | {"layer": 3, "selection": "last"},
    "hierarchical": STEPS | {"stages": (1, 4, 6), "average": 5},
}
VARIANTS = {  # further settings of the search: each changes what a step or the begin of a stage does
    "last": {"selection": "last", "stage_start": "last", "clip": 0.5, "shares": (1, 2, 3)},
    "parts": {"latent_stage": True, "styles": "redrawn", "features": "gaussian", "truncation": 0.7},
    "back": {"stages": (3, 1), "budget": "flops", "layer": 2, "styles": "frozen", "momentum": 0.0},
    "own weights": {
        "lr_weights": 1e-3,
        "stages": (2, 5),
        "stage_lr_f": (0.02, 0.01),
        "stage_lr_w": (0.0, 0.1),
    },
    "as released": {"normalise_generated": False},
}
METRICS = {
    "class_relevant": {},
    "class_relevant sum": {"layer": 1, "normalization": "sum"},
    "class_relevant none": {"normalization": "none"},
    "feature": {"layer": 0},
    "random_feature": {"networks": 2},
    "released_feature": {"networks": 2},
    "loss": {"draws": 2},
    "accuracy": {"networks": 2, "epochs": 3, "augmentation": "crop"},
}
NO_CHANGE: dict = {}
TRAINING = {"epochs": 3, "batch_size": 64, "lr": 0.05, "ema_decay": 0.8}


def scenario(name: str) -> Callable:
    def enter(function: Callable) -> Callable:
        SCENARIOS[name] = function
        return function

    return enter


def summary(value: Tensor | float | list) -> dict:
    """A hash of the bits and a few numbers, for where the bits are others."""
    value = torch.as_tensor(value).detach().contiguous()
    flat = value.double().flatten()
    places = torch.linspace(0, len(flat) - 1, min(6, len(flat))).round().long()
    return {
        "bits": hashlib.sha256(value.numpy().tobytes()).hexdigest()[:16],
        "values": [float(f"{x:.7g}") for x in (*flat[places], flat.mean(), flat.norm())],
    }


def parameters(network: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@cache
def classifier() -> house.Classifier:
    """Network behind the metrics, trained on 200 images."""
    train = house.digits().train
    chosen = slice(0, None, 7)
    return house.trained(
        5, train.images[chosen], train.labels[chosen], epochs=4, batch_size=32, lr=0.02, ema_decay=None
    )


def candidate(ipc: int = 2) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 16, 16) that are partly real and partly noise, and their labels."""
    real = house.digits().train.batch(ipc, house.rng(7)).flatten(0, 1)
    noise = torch.rand(real.shape, generator=house.rng(8))
    return 0.7 * real + 0.3 * noise, torch.arange(10).repeat_interleave(ipc)


def _search(
    objective: str, kind: str, folder: Path, ipc: int = 1, metric: dict = NO_CHANGE, **search
) -> dict:
    found = house.distilled(objective, kind, folder, classifier(), ipc, search, metric)
    history = [distance for *_, distance in found.card["history"]]
    return {"images": found.images, "history": history, "best": list(found.card["best"].values())}


for objective in ("dm", "dc", "mtt"):
    for kind in SEARCHES:

        @scenario(f"search {objective} {kind}")
        def _kind(folder: Path, objective: str = objective, kind: str = kind) -> dict:
            return _search(objective, kind, folder, **SEARCHES[kind] | {"rates": "relative"})


@scenario("search absolute")
def _absolute(folder: Path) -> dict:
    rates = {"lr_features": 0.5, "lr_latents": 0.05, "lr_pixels": 0.5, "rates": "absolute"}
    return _search("dm", "hierarchical", folder, ipc=2, **SEARCHES["hierarchical"] | rates | {"average": 1})


@scenario("search noise accuracy")
def _noise(folder: Path) -> dict:
    metric = {"name": "accuracy", "options": {"epochs": 2}}
    return _search("dc", "pixels", folder, metric=metric, **STEPS | {"start": "noise", "rates": "absolute"})


for name, variant in VARIANTS.items():

    @scenario(f"search {name}")
    def _variant(folder: Path, variant: dict = variant) -> dict:
        search = SEARCHES["hierarchical"] | {"rates": "relative"} | variant
        return _search("dm", "hierarchical", folder, **search)


for objective in ("dm", "dc", "mtt"):

    @scenario(f"search {objective} resumed")
    def _resumed(folder: Path, objective: str = objective) -> dict:
        search = SEARCHES["hierarchical"] | {"rates": "relative"}
        return {"images": house.resumed(objective, "hierarchical", folder, classifier(), search, 4)}


@scenario("experts")
def _experts(folder: Path) -> dict:
    return house.expert_weights(folder)


def _gradients(folder: Path, name: str, ipc: int = 2, **options: object) -> dict:
    """Image gradients and logs of three steps in a row with one objective, then what it has become."""
    made, rng, found = house.objective(name, folder, **options), house.rng(11), {}
    images, labels = candidate(ipc)
    for step in range(3):
        gradient, logs = made.gradient(images, labels, house.digits().train, rng)
        images = images - 0.1 * gradient / gradient.norm()
        found |= {f"gradient {step}": gradient, f"loss {step}": logs["loss"]}
    return found | {f"state {key}": value for key, value in made.state_dict().items()}


for name, objective, options in (
    ("dm", "dm", {}),
    ("dm bfloat16", "dm", {"precision": "bfloat16"}),
    ("dc", "dc", {}),
    ("dc cosine", "dc", {"distance": "cosine", "batch_network": 7, "augmentation": ""}),
    ("dc mse", "dc", {"distance": "mse", "augmentation": "flip_rotate"}),
    ("mtt", "mtt", {}),
    ("mtt full", "mtt", {"unroll": "full", "batch_images": 7, "lr_student_lr": 1e-2}),
):

    @scenario(f"objective {name}")
    def _objective(folder: Path, objective: str = objective, options: dict = options) -> dict:
        return _gradients(folder, objective, **options)


for name, options in METRICS.items():

    @scenario(f"metric {name}")
    def _metric(folder: Path, name: str = name.split()[0], options: dict = options) -> dict:
        real, held_out = house.digits().train.split(0.25, 0)
        objective = house.objective("dc", folder)
        given = {"classifier": classifier(), "objective": objective, "held_out": held_out}
        metric = house.create_metric(name, real, **given, **options)
        found = {f"distance {ipc}": metric(*candidate(ipc)) for ipc in (1, 3)}
        if hasattr(metric, "by_class"):
            found["by class"] = metric.by_class(*candidate())
        return found


for name, options in (
    ("convnet", {"depth": 2, "width": 6, "norm": "batch"}),
    ("alexnet", {"width": 0.1}),
    ("vgg11", {"width": 0.1}),
    ("resnet18", {"width": 0.1}),
    ("vit", {"depth": 1, "dim": 16, "heads": 2, "head_dim": 8, "mlp": 16}),
):

    @scenario(f"network {name}")
    def _network(folder: Path, name: str = name, options: dict = options) -> dict:
        network = house.network(2, name=name, **options).eval()  # no dropout
        images, labels = candidate()
        logits = network(images)
        torch.nn.functional.cross_entropy(logits, labels).backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
        return {"parameters": parameters(network), "logits": logits, "gradient": gradient}


@scenario("training")
def _training(folder: Path) -> dict:
    network = house.trained(1, *candidate(), **TRAINING)
    constant = house.trained(2, *candidate(), epochs=2, batch_size=8, schedule="step", ema_decay=None)
    return {
        "parameters": parameters(network),
        "accuracy": house.test_accuracy(classifier()),
        "step": parameters(constant),
    }


@scenario("training together")
def _together(folder: Path) -> dict:
    pair = house.trained_together(*candidate(), **TRAINING)
    return {f"parameters {index}": parameters(network) for index, network in enumerate(pair)}


@scenario("evaluation")
def _evaluation(folder: Path) -> dict:
    found = house.DistilledSet(*candidate(), {})
    return {"accuracies": house.score(found, **TRAINING | {"epochs": 15})}


@scenario("baselines")
def _baselines(folder: Path) -> dict:
    train, prior = house.digits().train, house.load_prior("digits-16")
    made = {
        "random": house.random_real(train, 2, seed=1),
        "class_mean": house.class_mean(train),
        "herding": house.herding(train, 3, classifier()),
        "k_center": house.k_center(train, 3, classifier()),
        "samples": house.samples(prior, torch.arange(10), 1, seed=2, average=3),
    }
    return {name: found.images for name, found in made.items()}


@scenario("augmentation")
def _augmentation(folder: Path) -> dict:
    images = candidate()[0].repeat(1, 3, 1, 1) * torch.tensor([1.0, 0.5, 0.2])[:, None, None]
    strategies = ("color", "crop", "cutout", "flip", "scale", "rotate")
    return {name: house.augmented(name, images - 0.3, seed) for seed, name in enumerate(strategies)}


for name in ("digits-16", "digits-16-biggan"):

    @scenario(f"prior {name}")
    def _prior(folder: Path, name: str = name) -> dict:
        prior = house.load_prior(name)
        latents = prior.sample(torch.arange(10), house.rng(3), 2)
        middle = prior.advance(latents, 0, 2)
        found = {"w": latents.w, "features": middle.f, "images": prior.decode(middle, 2)}
        return {key: value for key, value in found.items() if value is not None}


GENERATOR = {"z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8, "num_layers": 3, "margin_size": 2}


@scenario("gan")
def _gan(folder: Path) -> dict:
    images, losses = house.gan(3, generator=GENERATOR | {"embedding": [10, 8]})
    hinge, more = house.gan(2, generator=GENERATOR | {"embedding": [10, 8]}, loss="hinge", shared_images=True)
    return {"images": images, "losses": losses, "hinge images": hinge, "hinge losses": more}


def compute() -> Iterator[tuple[str, dict[str, dict]]]:
    """(scenario, summaries by name) of all, on one thread; experts first, the others take them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory() as folder:
            for name in sorted(SCENARIOS, key=lambda name: name != "experts"):
                found = SCENARIOS[name](Path(folder))
                yield name, {key: summary(value) for key, value in found.items()}
    finally:
        torch.set_num_threads(threads)
