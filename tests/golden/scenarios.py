"""What the golden values are of: each scenario names tensors and numbers that the library computes."""

import hashlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import house
import torch
from torch import Tensor

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
    "own weights": {"lr_weights": 1e-3, "stages": (2, 5), "stage_lr_f": (0.02, 0.01), "stage_lr_w": (0, 0.1)},
    "as released": {"normalize_generated": False},
    "absolute": {
        "lr_features": 0.5,
        "lr_latents": 0.05,
        "lr_pixels": 0.5,
        "rates": "absolute",
        "average": 1,
        "ipc": 2,
    },
}
OBJECTIVES = {
    "dm": {},
    "dm bfloat16": {"precision": "bfloat16"},
    "dc": {},
    "dc cosine": {"distance": "cosine", "batch_network": 7, "augmentation": ""},
    "dc mse": {"distance": "mse", "augmentation": "flip_rotate"},
    "mtt": {},
    "mtt full": {"unroll": "full", "batch_images": 7, "lr_student_lr": 1e-2},
}
NETWORKS = {
    "convnet": {"depth": 2, "width": 6, "norm": "batch"},
    "alexnet": {"width": 0.1},
    "vgg11": {"width": 0.1},
    "resnet18": {"width": 0.1},
    "vit": {"depth": 1, "dim": 16, "heads": 2, "head_dim": 8, "mlp": 16},
}
GENERATOR = {
    "z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8, "num_layers": 3, "margin_size": 2,
    "embedding": [10, 8],
}  # fmt: skip
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
BY_ACCURACY = {"name": "accuracy", "options": {"epochs": 2}}
TRAINING = {"epochs": 3, "batch_size": 64, "lr": 0.05, "ema_decay": 0.8}


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


def search(
    objective: str, kind: str, folder: Path, ipc: int = 1, metric: dict = NO_CHANGE, **changes
) -> dict:
    settings = SEARCHES[kind] | {"rates": "relative"} | changes
    found = house.distilled(objective, kind, folder, classifier(), ipc, settings, metric)
    history = [distance for *_, distance in found.card["history"]]
    return {"images": found.images, "history": history, "best": list(found.card["best"].values())}


def resumed_search(objective: str, folder: Path) -> dict:
    settings = SEARCHES["hierarchical"] | {"rates": "relative"}
    return {"images": house.resumed(objective, "hierarchical", folder, classifier(), settings, 4)}


def gradients(name: str, folder: Path, **options: object) -> dict:
    """Image gradients and logs of three steps in a row with one objective, then what it has become."""
    made, rng, found = house.objective(name, folder, **options), house.rng(11), {}
    images, labels = candidate()
    for step in range(3):
        gradient, logs = made.gradient(images, labels, house.digits().train, rng)
        images = images - 0.1 * gradient / gradient.norm()
        found |= {f"gradient {step}": gradient, f"loss {step}": logs["loss"]}
    return found | {f"state {key}": value for key, value in made.state_dict().items()}


def distances(name: str, folder: Path, **options: object) -> dict:
    real, held_out = house.digits().train.split(0.25, 0)
    given = {"classifier": classifier(), "objective": house.objective("dc", folder), "held_out": held_out}
    metric = house.create_metric(name, real, **given, **options)
    found = {f"distance {ipc}": metric(*candidate(ipc)) for ipc in (1, 3)}
    return found | ({"by class": metric.by_class(*candidate())} if hasattr(metric, "by_class") else {})


def derivative(name: str, folder: Path, **options: object) -> dict:
    network = house.network(2, name=name, **options).eval()  # no dropout
    images, labels = candidate()
    logits = network(images)
    torch.nn.functional.cross_entropy(logits, labels).backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    return {"parameters": parameters(network), "logits": logits, "gradient": gradient}


def training(folder: Path) -> dict:
    network = house.trained(1, *candidate(), **TRAINING)
    constant = house.trained(2, *candidate(), epochs=2, batch_size=8, schedule="step", ema_decay=None)
    accuracy = house.test_accuracy(classifier())
    return {"parameters": parameters(network), "accuracy": accuracy, "step": parameters(constant)}


def training_together(folder: Path) -> dict:
    pair = house.trained_together(*candidate(), **TRAINING)
    return {f"parameters {index}": parameters(network) for index, network in enumerate(pair)}


def evaluation(folder: Path) -> dict:
    found = house.DistilledSet(*candidate(), {})
    return {"accuracies": house.score(found, **TRAINING | {"epochs": 15})}


def baselines(folder: Path) -> dict:
    train, prior = house.digits().train, house.load_prior("digits-16")
    made = {
        "random": house.random_real(train, 2, seed=1),
        "class_mean": house.class_mean(train),
        "herding": house.herding(train, 3, classifier()),
        "k_center": house.k_center(train, 3, classifier()),
        "samples": house.samples(prior, torch.arange(10), 1, seed=2, average=3),
    }
    return {name: found.images for name, found in made.items()}


def augmentation(folder: Path) -> dict:
    images = candidate()[0].repeat(1, 3, 1, 1) * torch.tensor([1.0, 0.5, 0.2])[:, None, None]
    strategies = ("color", "crop", "cutout", "flip", "scale", "rotate")
    return {name: house.augmented(name, images - 0.3, seed) for seed, name in enumerate(strategies)}


def prior(name: str, folder: Path) -> dict:
    generator = house.load_prior(name)
    latents = generator.sample(torch.arange(10), house.rng(3), 2)
    middle = generator.advance(latents, 0, 2)
    found = {"w": latents.w, "features": middle.f, "images": generator.decode(middle, 2)}
    return {key: value for key, value in found.items() if value is not None}


def gan(folder: Path) -> dict:
    images, losses = house.gan(3, generator=GENERATOR)
    hinge, more = house.gan(2, generator=GENERATOR, loss="hinge", shared_images=True)
    return {"images": images, "losses": losses, "hinge images": hinge, "hinge losses": more}


SCENARIOS: dict[str, Callable[[Path], dict]] = {"experts": house.expert_weights}
"""Name to a function from the folder of the expert trajectories to values by name; experts come first."""
for objective in ("dm", "dc", "mtt"):
    SCENARIOS |= {f"search {objective} {kind}": partial(search, objective, kind) for kind in SEARCHES}
    SCENARIOS[f"search {objective} resumed"] = partial(resumed_search, objective)
for name, changes in VARIANTS.items():
    SCENARIOS[f"search {name}"] = partial(search, "dm", "hierarchical", **changes)
SCENARIOS["search noise accuracy"] = partial(
    search, "dc", "pixels", selection="metric", start="noise", rates="absolute", metric=BY_ACCURACY
)
SCENARIOS |= {f"objective {n}": partial(gradients, n.split()[0], **each) for n, each in OBJECTIVES.items()}
SCENARIOS |= {f"metric {n}": partial(distances, n.split()[0], **each) for n, each in METRICS.items()}
SCENARIOS |= {f"network {n}": partial(derivative, n, **each) for n, each in NETWORKS.items()}
SCENARIOS |= {f"prior {n}": partial(prior, n) for n in ("digits-16", "digits-16-biggan")}
SCENARIOS |= {"training": training, "training together": training_together, "evaluation": evaluation}
SCENARIOS |= {"baselines": baselines, "augmentation": augmentation, "gan": gan}


def compute() -> Iterator[tuple[str, dict[str, dict]]]:
    """(scenario, summaries by name) of all, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory() as folder:
            for name, values in SCENARIOS.items():
                yield name, {key: summary(value) for key, value in values(Path(folder)).items()}
    finally:
        torch.set_num_threads(threads)
