"""Selection metrics: what every registered one must do, and the distances against their equations."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from hglad.errors import HgladError
from hglad.metrics import METRICS, class_relevant, create_metric, feature
from hglad.metrics.class_relevant import ClassRelevantDistance
from hglad.networks import create_network
from hglad.networks.registry import Classifier
from hglad.training import TrainingSettings, train_classifier

MODULES = {"class_relevant": class_relevant, "feature": feature}
every_metric = pytest.mark.parametrize("name", METRICS.names())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_of(real) -> tuple[Tensor, Tensor]:
    return real.images.float() / 255, real.labels


def noise(count: int) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=seeded(3))


@pytest.fixture(scope="module")
def classifier(few_digits) -> Classifier:
    network = create_network("convnet", (1, 8, 8), 10, depth=2, width=8)
    settings = TrainingSettings(epochs=20, batch_size=32, lr=0.05, augmentation="", ema_decay=None)
    images, labels = few_digits.images, few_digits.labels
    return train_classifier(network, images, labels, few_digits.normalize, settings, seeded())


@pytest.fixture
def make(classifier, few_digits):
    return lambda name, real=few_digits: create_metric(name, classifier, real)


@every_metric
def test_the_real_set_has_no_distance_to_itself(make, few_digits, name):
    metric = make(name)
    images, labels = images_of(few_digits)
    assert len(set(few_digits.counts)) > 1  # classes of different sizes
    assert 0 <= metric(images, labels) < 1e-9 < metric(1 - images, labels)


@every_metric
def test_other_images_have_a_distance(make, name):
    assert make(name)(noise(20), torch.arange(10).repeat_interleave(2)) > 0.01


@every_metric
def test_real_images_are_nearer_than_noise_and_more_of_them_nearer_still(make, small_digits, name):
    metric, train = make(name, small_digits.train), small_digits.train
    real, far = {}, {}
    for ipc in (1, 10):
        labels = torch.arange(10).repeat_interleave(ipc)
        real[ipc] = metric(train.batch(ipc, seeded()).flatten(0, 1), labels)
        far[ipc] = metric(noise(10 * ipc), labels)
    assert real[1] < far[1] and real[10] < far[10] / 2 and real[10] < real[1] / 4


@every_metric
def test_images_under_wrong_labels_are_farther(make, few_digits, name):
    metric, (images, labels) = make(name), images_of(few_digits)
    assert metric(images, labels.roll(20)) > 100 * metric(images, labels) + 0.01


@every_metric
def test_the_order_of_the_images_does_not_matter(make, few_digits, name):
    metric = make(name)
    images = few_digits.batch(3, seeded()).flatten(0, 1)
    labels, order = torch.arange(10).repeat_interleave(3), torch.randperm(30, generator=seeded())
    assert metric(images[order], labels[order]) == pytest.approx(metric(images, labels), rel=1e-4)


@every_metric
def test_images_are_measured_by_themselves_whatever_the_batch(make, few_digits, name, monkeypatch):
    images, labels = images_of(few_digits)
    images = images + 0.1
    whole = make(name)(images, labels)
    monkeypatch.setattr(feature, "BATCH", 7)
    assert make(name)(images, labels) == pytest.approx(whole, rel=1e-4)


@every_metric
def test_measuring_changes_nothing_and_draws_nothing(make, few_digits, name, classifier):
    metric, (images, labels) = make(name), images_of(few_digits)
    classifier.zero_grad()
    kept, weights, state = images.clone(), deepcopy(classifier.state_dict()), torch.random.get_rng_state()
    images.requires_grad_()
    first, second = metric(images, labels), metric(images, labels)
    assert first == second and isinstance(first, float)
    assert torch.equal(images, kept) and images.grad is None
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert all(torch.equal(value, weights[key]) for key, value in classifier.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state) and not classifier.training


def slow_class_relevant(classifier: Classifier, real, images: Tensor, labels: Tensor) -> float:
    """The equation, image by image in double precision."""
    network = deepcopy(classifier).double()

    def vector(image: Tensor, label: int) -> Tensor:
        maps = network.feature_maps(real.normalize(image.double())[None])[0]  # (K, h, w)
        maps = maps.detach().requires_grad_()
        logit = network.classifier(network.pool(maps[None]).flatten(1))[0, label]
        (gradient,) = torch.autograd.grad(logit, maps)
        channels, height, width = maps.shape
        alpha = [gradient[k].sum() / (height * width) for k in range(channels)]
        activation = sum(a * m for a, m in zip(alpha, maps, strict=True)).clamp(min=0)
        activation = activation / activation.max() if activation.max() > 0 else activation
        return torch.stack([(m * activation).sum() / (height * width) for m in maps]).detach()

    distance = 0.0
    for label in range(10):
        ours = torch.stack([vector(x, label) for x, y in zip(images, labels, strict=True) if y == label])
        start, end = real.offsets[label], real.offsets[label + 1]
        theirs = torch.stack([vector(x.double() / 255, label) for x in real.images[start:end]])
        distance += (theirs.mean(0) - ours.mean(0)).square().sum().item()
    return distance


def test_class_relevant_distance_is_its_equation(make, classifier, few_digits):
    images = torch.cat([few_digits.batch(1, seeded()).flatten(0, 1), noise(10)])
    labels = torch.arange(10).repeat(2)
    expected = slow_class_relevant(classifier, few_digits, images, labels)
    assert make("class_relevant")(images, labels) == pytest.approx(expected, rel=1e-4)


def test_feature_distance_is_its_equation(make, classifier, few_digits):
    labels = torch.arange(10).repeat(2)
    network, images = deepcopy(classifier).double(), noise(20)
    features = [
        network.feature_maps(few_digits.normalize(x.double())).mean(dim=(2, 3))
        for x in (images, few_digits.images / 255)
    ]
    expected = sum(
        (features[0][labels == c].mean(0) - features[1][few_digits.labels == c].mean(0)).square().sum().item()
        for c in range(10)
    )
    assert make("feature")(images, labels) == pytest.approx(expected, rel=1e-4)


class PooledNetwork(Classifier):
    """One convolution, a mean over all positions and a linear head."""

    def __init__(self):
        super().__init__((1, 8, 8))
        self.features = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(5, 10)


def test_grad_cam_weights_of_a_pooled_head_are_its_weights(few_digits):
    network = PooledNetwork()
    for parameter in network.parameters():
        parameter.data.normal_(generator=seeded())
    metric = ClassRelevantDistance(network, few_digits)
    labels = torch.tensor([3, 0, 9, 3])
    maps = network.feature_maps(noise(4))
    weights = metric.grad_cam_weights(maps, labels) * 8 * 8  # the mean over 8 x 8 positions divides
    torch.testing.assert_close(weights, network.classifier.weight[labels].detach())


def test_a_class_that_is_seen_nowhere_gives_no_relevant_features(few_digits):
    network = PooledNetwork()
    metric = ClassRelevantDistance(network, few_digits)
    network.classifier.weight.data.fill_(-1)  # no position speaks for any class
    maps = torch.rand(2, 5, 8, 8, generator=seeded())
    assert not metric.reduce(maps, torch.tensor([0, 1])).any()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("class_relevent", {}, "did you mean 'class_relevant'"),
        ("feature", {"batch": 3}, "unknown option of the metric 'feature'"),
    ],
)
def test_unknown_metrics_and_options_are_a_clear_error(classifier, few_digits, name, options, message):
    with pytest.raises(HgladError, match=message):
        create_metric(name, classifier, few_digits, **options)


GOLDEN = {"class_relevant": {1: [0.086978599]}, "feature": {1: [0.048111904]}}  # distance of noise


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values(few_digits, check_golden, name):
    network = create_network("convnet", (1, 8, 8), 10, depth=2, width=8)
    metric = create_metric(name, network, few_digits)
    found = [metric(noise(20), torch.arange(10).repeat_interleave(2))]
    check_golden(f"metrics/{name}", MODULES[name].VERSION, GOLDEN[name], found)
