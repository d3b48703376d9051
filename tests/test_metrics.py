"""Selection metrics: what every registered one must do, and the distances against their equations."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from hglad import metrics as module
from hglad.errors import HgladError
from hglad.evaluation.training import accuracy, train_classifier
from hglad.metrics import METRICS, REAL_SIDES, create_metric, is_by_class, needs
from hglad.metrics.class_relevant import ClassRelevantDistance
from hglad.metrics.feature import FeatureDistance
from hglad.networks import Classifier, create_network
from hglad.objectives import create_objective
from hglad.objectives.experts import Experts, train_expert
from hglad.settings import ExpertSettings, TrainingSettings

NETWORK = {"name": "convnet", "image_shape": (1, 8, 8), "classes": 10, "depth": 2, "width": 8}
VIT = {"name": "vit", "image_shape": (1, 8, 8), "depth": 2, "dim": 8, "heads": 2, "head_dim": 4, "mlp": 8}
SMALL = {"accuracy": {"epochs": 10}, "loss": {"draws": 2}}  # options that save time
OBJECTIVES = {
    "dm": {"batch_real": 8},
    "dc": {"batch_real": 8, "outer_loops": 3, "inner_loops": 1},
    "mtt": {"student_steps": 2, "expert_epochs": 1, "max_start_epoch": 2, "lr_student_lr": 1e-3},
}
every_metric = pytest.mark.parametrize("name", METRICS.names())
every_distance = pytest.mark.parametrize("name", ["class_relevant", "feature", "random_feature"])
every_objective = pytest.mark.parametrize("kind", OBJECTIVES)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_of(real) -> tuple[Tensor, Tensor]:
    return real.images.float() / 255, real.labels


def noise(count: int) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=seeded(3))


def labels_of(ipc: int) -> Tensor:
    return torch.arange(10).repeat_interleave(ipc)


@pytest.fixture(scope="module")
def classifier(few_digits) -> Classifier:
    settings = TrainingSettings(epochs=20, batch_size=32, lr=0.05, augmentation="", ema_decay=None)
    images, labels = few_digits.images, few_digits.labels
    return train_classifier(
        create_network(**NETWORK), images, labels, few_digits.normalize, settings, seeded()
    )


@pytest.fixture(scope="module")
def held_out(small_digits):
    """20 training images of each class apart from those of `few_digits`."""
    starts = small_digits.train.offsets[:-1]
    return small_digits.train.select(torch.cat([torch.arange(s + 30, s + 50) for s in starts]))


@pytest.fixture(scope="module")
def experts(few_digits, tmp_path_factory) -> Experts:
    folder, settings = tmp_path_factory.mktemp("experts"), ExpertSettings(count=2, epochs=3, lr=0.02)
    network = {key: value for key, value in NETWORK.items() if key not in ("image_shape", "classes")}
    for index in range(settings.count):
        train_expert(settings, network, few_digits, index, folder)
    return Experts(folder)


@pytest.fixture
def objective(experts) -> Callable:
    def make(kind: str = "dm"):
        settings = {"experts": experts} if kind == "mtt" else {}
        return create_objective(kind, network=create_network(**NETWORK), **OBJECTIVES[kind], **settings)

    return make


@pytest.fixture
def given(classifier, objective, held_out) -> dict:
    """All that a metric can be given besides the real set."""
    return {"classifier": classifier, "objective": objective(), "held_out": held_out}


@pytest.fixture
def make(given, few_digits) -> Callable:
    """A metric with small settings, others as keywords."""
    return lambda name, real=few_digits, **options: create_metric(
        name, real, **given, **(SMALL.get(name, {}) | options)
    )


# Every metric


@every_metric
def test_measuring_changes_nothing_and_draws_nothing(make, few_digits, given, name):
    state = torch.random.get_rng_state()
    metric, images, labels = make(name), few_digits.batch(2, seeded()).flatten(0, 1), labels_of(2)
    network = given["classifier"].eval()
    network.zero_grad()
    kept, weights = images.clone(), deepcopy(network.state_dict())
    images.requires_grad_()
    with torch.no_grad():  # as a search that records no gradients does
        silent = metric(images, labels)
    first, second = metric(images, labels), metric(images, labels)
    assert silent == first == second == make(name)(images, labels) and isinstance(first, float)
    assert torch.equal(images, kept) and images.grad is None
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state) and not network.training


@pytest.mark.parametrize("name", [name for name in METRICS.names() if name != "accuracy"])  # draws an order
def test_the_order_of_the_images_does_not_matter(make, few_digits, name):
    metric, images, labels = make(name), few_digits.batch(3, seeded()).flatten(0, 1), labels_of(3)
    order = torch.randperm(30, generator=seeded())
    assert metric(images[order], labels[order]) == pytest.approx(metric(images, labels), rel=1e-4)


@every_metric
def test_a_metric_gets_what_it_needs_and_misses_it_in_one_line(few_digits, given, name):
    needed = {key: given[key] for key in set(needs(name)) - {"real"}}
    create_metric(name, few_digits, **needed)
    for key in needed:
        with pytest.raises(HgladError, match=f"the metric '{name}' needs .*pass it as {key}=") as raised:
            create_metric(name, few_digits, **(needed | {key: None}))
        assert "\n" not in str(raised.value)


def test_needs_are_those_of_the_constructor():
    assert needs("loss") == ["real", "objective"] and needs("accuracy") == ["classifier", "held_out"]
    assert needs("class_relevant") == needs("released_feature") == ["real", "classifier"]
    assert [name for name in METRICS.names() if is_by_class(name)] == ["class_relevant", "feature"]


# Distances of features


@every_distance
def test_the_real_set_has_no_distance_to_itself(make, few_digits, name):
    metric = make(name)
    images, labels = images_of(few_digits)
    assert len(set(few_digits.counts)) > 1  # classes of different sizes
    assert 0 <= metric(images, labels) < 1e-9 < metric(1 - images, labels)


@pytest.mark.parametrize("name", ["class_relevant", "feature", "random_feature", "released_feature"])
@pytest.mark.parametrize("layer", [-1, 0])
def test_images_are_measured_by_themselves_whatever_the_batch(make, few_digits, name, layer, monkeypatch):
    images, labels = images_of(few_digits)
    images = images + 0.1
    whole = make(name, layer=layer)(images, labels)
    monkeypatch.setattr(module, "MOST", 7)
    REAL_SIDES.clear()
    assert make(name, layer=layer)(images, labels) == pytest.approx(whole, rel=1e-4)


@pytest.fixture
def passes(monkeypatch) -> list:
    """Real images that have gone through a network, one number a pass."""
    counts, usual = [], Classifier.feature_maps

    def counted(self, images: Tensor, layer: int = -1) -> Tensor:
        counts.append(len(images))
        return usual(self, images, layer)

    REAL_SIDES.clear()
    monkeypatch.setattr(Classifier, "feature_maps", counted)
    return counts


@pytest.mark.parametrize("name", ["class_relevant", "feature", "random_feature", "released_feature"])
def test_the_real_side_is_computed_once_for_all_searches(make, few_digits, passes, name):
    found = make(name)(noise(20), labels_of(2))
    first = sum(passes)
    networks = {"random_feature": 5, "released_feature": 5}.get(name, 1)
    assert first > networks * len(few_digits.images)
    passes.clear()
    assert make(name)(noise(20), labels_of(2)) == found and sum(passes) < len(few_digits.images)


def test_the_real_side_is_that_of_these_weights_images_and_options(few_digits, small_digits):
    network = create_network(**NETWORK, rng=seeded())

    def distances() -> list[float]:
        metrics = [
            ClassRelevantDistance(real, network, layer, normalization)
            for real in (few_digits, small_digits.train)
            for layer in (0, -1)
            for normalization in ("max", "none")
        ]
        metrics += [FeatureDistance(few_digits, network)]
        return [metric(noise(20), labels_of(2)) for metric in metrics]

    seen = []
    for _ in range(2):
        used = distances()
        REAL_SIDES.clear()
        assert used == distances() and not set(used) & set(seen) and len(set(used)) == len(used)
        seen += used
        with torch.no_grad():  # trained on in place
            network.classifier.weight.mul_(2)
            network.features[0].weight.mul_(2)


def slow_class_relevant(
    classifier: Classifier, real, images: Tensor, labels: Tensor, cut: int, normalization: str
) -> float:
    """The equation, image by image in double precision, for the maps behind `cut` modules."""
    network = deepcopy(classifier).double()
    front, rest = network.features[:cut], nn.Sequential(*network.features[cut:], network.pool)

    def weighted_mean(m: Tensor, activation: Tensor) -> Tensor:
        if normalization == "sum":
            return (m * activation).sum() / activation.sum() if activation.sum() > 0 else 0 * m.sum()
        if normalization == "max" and activation.max() > 0:
            activation = activation / activation.max()
        return (m * activation).sum() / m.numel()

    def vector(image: Tensor, label: int) -> Tensor:
        maps = front(real.normalize(image.double())[None])[0].detach().requires_grad_()  # (K, h, w)
        logit = network.classifier(rest(maps[None]).flatten(1))[0, label]
        (gradient,) = torch.autograd.grad(logit, maps)
        alpha = [g.sum() / g.numel() for g in gradient]
        activation = sum(a * m for a, m in zip(alpha, maps, strict=True)).clamp(min=0)
        return torch.stack([weighted_mean(m, activation) for m in maps]).detach()

    distance = 0.0
    for label in range(10):
        ours = torch.stack([vector(x, label) for x, y in zip(images, labels, strict=True) if y == label])
        start, end = real.offsets[label], real.offsets[label + 1]
        theirs = torch.stack([vector(x.double() / 255, label) for x in real.images[start:end]])
        distance += (theirs.mean(0) - ours.mean(0)).square().sum().item()
    return distance


@pytest.mark.parametrize(
    ("layer", "cut", "normalization"),
    [(-1, 7, "max"), (-1, 7, "none"), (-1, 7, "sum"), (0, 3, "max"), (-2, 3, "sum"), (1, 7, "none")],
)
def test_class_relevant_distance_is_its_equation(make, classifier, few_digits, layer, cut, normalization):
    images = torch.cat([few_digits.batch(1, seeded()).flatten(0, 1), noise(10)])
    labels = torch.arange(10).repeat(2)
    expected = slow_class_relevant(classifier, few_digits, images, labels, cut, normalization)
    metric = make("class_relevant", layer=layer, normalization=normalization)
    assert metric(images, labels) == pytest.approx(expected, rel=1e-4)


def maps_of(network: Classifier, real, cut: int, images: Tensor, labels: Tensor) -> Tensor:
    """Mean maps (class, K, h, w) behind `cut` modules, in double precision."""
    maps = deepcopy(network).double().features[:cut](real.normalize(images.double())).detach()
    return torch.stack([maps[labels == label].mean(dim=0) for label in range(10)])


def slow_feature(network: Classifier, real, images: Tensor, labels: Tensor, cut: int = 7) -> float:
    ours = maps_of(network, real, cut, images, labels).mean(dim=(2, 3))
    theirs = maps_of(network, real, cut, real.images / 255, real.labels).mean(dim=(2, 3))
    return (ours - theirs).square().sum().item()


@pytest.mark.parametrize(("layer", "cut"), [(-1, 7), (0, 3)])
def test_feature_distance_is_its_equation(make, classifier, few_digits, layer, cut):
    images, labels = noise(20), torch.arange(10).repeat(2)
    expected = slow_feature(classifier, few_digits, images, labels, cut)
    assert make("feature", layer=layer)(images, labels) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["class_relevant", "feature"])
def test_a_class_adds_what_its_own_images_do(make, few_digits, name):
    metric, (images, labels) = make(name), images_of(few_digits)
    apart = metric.by_class(noise(20), labels_of(2))
    assert apart.shape == (10,) and apart.sum().item() == metric(noise(20), labels_of(2))
    images[labels == 3] = 1 - images[labels == 3]
    apart = metric.by_class(images, labels)
    assert apart[3] > 1e-5 and apart[torch.arange(10) != 3].max() < 1e-9


def drawn(count: int, seed: int) -> list[Classifier]:
    """Untrained networks, one after the other from one seed."""
    generator = seeded(seed)
    return [create_network(**NETWORK, rng=generator) for _ in range(count)]


def test_random_feature_distance_is_the_mean_over_untrained_networks(make, few_digits):
    images, labels = noise(20), torch.arange(10).repeat(2)
    expected = sum(slow_feature(network, few_digits, images, labels) for network in drawn(3, 4)) / 3
    found = make("random_feature", networks=3, seed=4)(images, labels)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("layer", "cut"), [(-1, 7), (0, 3)])
def test_released_distance_is_its_equation(make, few_digits, layer, cut):
    images, labels = noise(20), torch.arange(10).repeat(2)
    *references, candidate = drawn(4, 4)
    real = [maps_of(n, few_digits, cut, few_digits.images / 255, few_digits.labels) for n in references]
    ours = maps_of(candidate, few_digits, cut, images, labels)
    expected = (ours - sum(real) / 3).square().sum().item()
    found = make("released_feature", networks=3, seed=4, layer=layer)(images, labels)
    assert found == pytest.approx(expected, rel=1e-4)


class PooledNetwork(Classifier):
    """One convolution, a mean over all positions and a linear head."""

    def __init__(self):
        super().__init__((1, 8, 8))
        self.features = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(5, 10)


@pytest.mark.parametrize("normalization", ["max", "sum", "none"])
def test_a_class_that_is_seen_nowhere_gives_no_relevant_features(few_digits, normalization):
    network = PooledNetwork()
    metric = ClassRelevantDistance(few_digits, network, normalization=normalization)
    network.classifier.weight.data.fill_(-1)  # no position speaks for any class
    maps = torch.rand(2, 5, 8, 8, generator=seeded())
    assert not metric.reduce(maps, torch.tensor([0, 1])).any()


# The loss of the matching objective


@every_objective
def test_the_loss_is_the_mean_over_draws_from_the_start_of_the_search(few_digits, objective, kind):
    images, labels, generator = noise(20), labels_of(2), seeded(4)
    losses = [
        objective(kind).gradient(images, labels, few_digits, generator)[1]["loss"].item() for _ in range(3)
    ]
    assert len(set(losses)) == 3
    metric = create_metric("loss", few_digits, objective=objective(kind), draws=3, seed=4)
    for _ in range(2):
        assert metric(images, labels) == pytest.approx(sum(losses) / 3, rel=1e-5)


@every_objective
def test_the_loss_leaves_the_state_and_the_draws_of_the_search_untouched(few_digits, objective, kind):
    images, labels = noise(20), labels_of(2)
    measured, alone = objective(kind), objective(kind)
    generators, metric = [seeded(9), seeded(9)], None
    for _ in range(4):
        gradients = [
            each.gradient(images, labels, few_digits, generator)[0]
            for each, generator in zip((measured, alone), generators, strict=True)
        ]
        assert torch.equal(*gradients)
        metric = metric or create_metric("loss", few_digits, objective=measured, draws=2)
        before = deepcopy(measured.state_dict())
        metric(few_digits.batch(1, seeded()).flatten(0, 1), labels_of(1))
        after = measured.state_dict()
        assert before.keys() == after.keys() and all(torch.equal(after[key], before[key]) for key in before)


def test_the_loss_of_classes_of_different_sizes_is_a_clear_error(make, few_digits):
    with pytest.raises(HgladError, match="equally many of each of the 10 classes"):
        make("loss")(*images_of(few_digits))


# Accuracy on held-out images


def test_the_error_rate_is_that_of_networks_trained_on_the_images(make, few_digits, held_out):
    images, labels, generator = few_digits.batch(4, seeded()).flatten(0, 1), labels_of(4), seeded(7)
    settings = TrainingSettings(epochs=12, lr=0.01, augmentation="flip", ema_decay=None)
    found = []
    for _ in range(2):
        network = create_network(**NETWORK, rng=generator)
        train_classifier(network, images, labels, held_out.normalize, settings, generator)
        found.append(100 - accuracy(network, held_out))
    metric = make("accuracy", networks=2, epochs=12, seed=7, augmentation="flip")
    assert metric(images, labels) == pytest.approx(sum(found) / 2, abs=1e-9)


# Bad input


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("class_relevent", {}, "did you mean 'class_relevant'"),
        ("feature", {"batch": 3}, "unknown option of the metric 'feature'"),
        ("class_relevant", {"normalization": "maxx"}, "unknown normalization .* did you mean 'max'"),
        ("class_relevant", {"layer": 2}, "layer is 2; give -2 to 1, one of the blocks of this ConvNet"),
        ("feature", {"layer": -3}, "layer is -3; give -2 to 1"),
        ("random_feature", {"layer": "last"}, "layer is 'last'; give -2 to 1"),
        ("released_feature", {"layer": True}, "layer is True; give -2 to 1"),
        ("random_feature", {"networks": 0}, "the metric 'random_feature' has networks=0"),
        ("released_feature", {"networks": 2.5}, "the metric 'released_feature' has networks=2.5"),
        ("random_feature", {"seed": -1}, "the seed of a metric is -1; give a whole number from 0"),
        ("loss", {"draws": 0}, "the metric 'loss' has draws=0"),
        ("loss", {"seed": "0"}, "the seed of a metric is '0'"),
        ("accuracy", {"networks": True}, "the metric 'accuracy' has networks=True"),
        ("accuracy", {"epochs": 0}, "the metric 'accuracy' has epochs=0"),
        ("accuracy", {"augmentation": "flipp"}, "did you mean 'flip'"),
        ("accuracy", {"seed": 2**63}, "the seed of a metric is"),
    ],
)
def test_unknown_metrics_and_impossible_options_are_a_clear_error(make, name, options, message):
    with pytest.raises(HgladError, match=message) as raised:
        make(name, **options)
    assert "\n" not in str(raised.value)


def test_networks_that_cannot_give_maps_or_their_logits_are_a_clear_error(few_digits):
    network = create_network(**VIT)
    assert create_metric("feature", few_digits, classifier=network)(noise(20), labels_of(2)) > 0
    with pytest.raises(HgladError, match="layer is 0; give -1, the last maps of this ViT"):
        create_metric("feature", few_digits, classifier=network, layer=0)
    with pytest.raises(HgladError, match="the logits of a ViT do not follow .* take another network"):
        create_metric("class_relevant", few_digits, classifier=network)


def test_the_highest_seed_is_a_seed():
    assert seeded(2**63 - 1).initial_seed() == module.seeded(2**63 - 1).initial_seed()


def test_what_a_call_costs():
    cost = {name: METRICS.get(name).passes(10, 700) for name in METRICS.names()}
    assert cost.pop("loss") == 2800 and cost.pop("accuracy") == 3000 and set(cost.values()) == {10}
