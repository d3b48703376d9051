"""Expert trajectories: files, resuming, drawing, what does not fit."""

import json
import os
import struct

import pytest
import torch
from replacing import replace
from torch.nn.functional import cross_entropy

from hglad import storage
from hglad.errors import HgladError
from hglad.networks import create_network
from hglad.objectives.experts import Experts, expert_card, expert_file, experts_key, train_expert
from hglad.settings import ExpertSettings, derive_seed
from hglad.storage import read_tensors

SETTINGS = ExpertSettings(count=2, epochs=4, lr=0.02, batch_size=32)
CONVNET = {"name": "convnet", "depth": 2, "width": 4}
NETWORKS = {
    "instance norm": CONVNET,
    "batch norm": CONVNET | {"norm": "batch"},
    "dropout": {"name": "vit", "depth": 1, "dim": 8, "heads": 2, "head_dim": 4, "mlp": 8, "dropout": 0.3},
}
GOLDEN = {1: [3.75166631]}  # version -> norm of the weights after the last epoch


def network(**options: object) -> torch.nn.Module:
    return create_network(image_shape=(1, 8, 8), classes=10, **CONVNET | options)


@pytest.fixture(scope="module")
def folder(few_digits, tmp_path_factory):
    """Two experts of the ConvNet."""
    path = tmp_path_factory.mktemp("experts")
    for index in range(2):
        train_expert(SETTINGS, CONVNET, few_digits, index, path)
    return path


def flat(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_file_holds_every_parameter_under_its_name_for_every_epoch(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "expert-000.safetensors",
        "expert-001.safetensors",
    ]
    shapes = {name: tensor.shape for name, tensor in read_tensors(expert_file(folder, 0)).items()}
    assert shapes == {name: (5, *parameter.shape) for name, parameter in network().named_parameters()}


def test_a_file_says_how_it_was_made(folder):
    card = expert_card(expert_file(folder, 1))
    assert card["expert"] == 1 and card["network"] == CONVNET and card["loss"] > 0
    assert card["settings"]["epochs"] == 4 and card["settings"]["lr"] == 0.02
    assert card["provenance"]["seconds"] >= 0


@pytest.mark.parametrize("index", [0, 1])
def test_an_expert_starts_from_the_initialization_of_its_number(folder, index):
    seed = derive_seed("expert", index)
    start = network(rng=torch.Generator().manual_seed(seed))
    found = Experts(folder).weights(index, 0)
    assert same(found, {name: parameter.detach() for name, parameter in start.named_parameters()})


def test_experts_differ_and_move(folder):
    there = Experts(folder)
    vectors = [flat(there.weights(index, epoch)) for index in range(2) for epoch in range(5)]
    for i, first in enumerate(vectors):
        assert all((first - second).norm() > 1e-3 for second in vectors[:i])


def test_an_expert_follows_from_its_number_alone(folder, few_digits, tmp_path):
    state = torch.random.get_rng_state()
    torch.manual_seed(5)
    train_expert(SETTINGS, CONVNET, few_digits, 1, tmp_path)
    torch.random.set_rng_state(state)
    assert same(read_tensors(expert_file(tmp_path, 1)), read_tensors(expert_file(folder, 1)))


def test_training_leaves_the_global_generator_alone(few_digits, tmp_path):
    state = torch.random.get_rng_state()
    train_expert(replace(SETTINGS, epochs=1), NETWORKS["dropout"], few_digits, 0, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_epoch_is_plain_gradient_descent(few_digits, tmp_path):
    """One step per epoch: no momentum, no weight decay, a constant rate."""
    settings = ExpertSettings(1, 3, lr=0.1, batch_size=1000, augmentation="")
    train_expert(settings, CONVNET, few_digits, 0, tmp_path)
    there, model = Experts(tmp_path), network().double()
    images = few_digits.normalize(few_digits.images.double() / 255)
    for epoch in range(3):
        model.load_state_dict(there.weights(0, epoch))
        model.zero_grad()
        cross_entropy(model(images), few_digits.labels).backward()
        after = there.weights(0, epoch + 1)
        for name, parameter in model.named_parameters():
            expected = parameter.detach() - 0.1 * parameter.grad
            torch.testing.assert_close(after[name].double(), expected, rtol=1e-4, atol=1e-6)


class Stopped(Exception):
    """Raised in the middle of a training."""


@pytest.mark.parametrize("epochs_before", [1, 3])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_stopped_expert_goes_on_with_the_same_bits(monkeypatch, few_digits, tmp_path, kind, epochs_before):
    monkeypatch.setattr(storage, "SAVE_SECONDS", 0)
    done = []

    def stop() -> None:
        done.append(1)
        if len(done) == epochs_before:
            raise Stopped

    train_expert(SETTINGS, NETWORKS[kind], few_digits, 0, tmp_path / "whole")
    with pytest.raises(Stopped):
        train_expert(SETTINGS, NETWORKS[kind], few_digits, 0, tmp_path / "parts", stop)
    assert not expert_file(tmp_path / "parts", 0).exists()
    done.clear()
    rest = []
    train_expert(SETTINGS, NETWORKS[kind], few_digits, 0, tmp_path / "parts", lambda: rest.append(1))
    assert len(rest) == SETTINGS.epochs - epochs_before
    files = [expert_file(tmp_path / part, 0) for part in ("whole", "parts")]
    assert same(*map(read_tensors, files))
    assert [path.name for path in (tmp_path / "parts").iterdir()] == [files[0].name]


def test_a_loss_that_is_not_finite_stops_an_expert(few_digits, tmp_path):
    with pytest.raises(HgladError, match=r"the training loss is .* with lr 1e\+30; lower lr"):
        train_expert(replace(SETTINGS, lr=1e30), CONVNET, few_digits, 0, tmp_path)
    assert not expert_file(tmp_path, 0).exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count is 0: expected at least 1"),
        ({"epochs": 0}, "epochs is 0: expected at least 1"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"augmentation": "flop"}, "did you mean 'flip'"),
    ],
)
def test_impossible_settings_are_a_clear_error(settings, message):
    with pytest.raises(HgladError, match=message):
        ExpertSettings(**settings)


def test_the_key_follows_from_everything_but_the_number_of_experts(few_digits):
    real = few_digits
    key = experts_key(SETTINGS, CONVNET, real)
    assert experts_key(replace(SETTINGS, count=7), CONVNET, real) == key
    others = [
        experts_key(replace(SETTINGS, epochs=5), CONVNET, real),
        experts_key(SETTINGS, CONVNET | {"width": 5}, real),
        experts_key(SETTINGS, CONVNET, real.split(0.5, 0)[0]),
    ]
    assert len({key, *others}) == 4


def test_an_epoch_is_read_as_it_was_written(folder):
    there, whole = Experts(folder), read_tensors(expert_file(folder, 1))
    assert (len(there), there.epochs) == (2, 4)
    for epoch in range(5):
        found = there.weights(1, epoch)
        assert same(found, {name: tensor[epoch] for name, tensor in whole.items()})
        assert all(tensor.dtype == torch.float32 for tensor in found.values())


def test_one_epoch_is_read_without_the_rest_of_the_file(tmp_path):
    """A sparse file of 1 GiB and 256 epochs: reading it all would touch at least 16,000 pages."""
    resource = pytest.importorskip("resource")
    header = json.dumps(
        {"weight": {"dtype": "F32", "shape": [256, 2**20], "data_offsets": [0, 2**30]}}
    ).encode()
    path = expert_file(tmp_path, 0)
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    assert Experts(tmp_path).weights(0, 200)["weight"].shape == (2**20,)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 4000


def test_fewer_experts_can_be_used_than_there_are(folder):
    assert len(Experts(folder, 1)) == 1 and len(Experts(str(folder), 2)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 5}, r"classifier.weight of shape \(10, 36\), the network \(10, 45\)"),
        ({"norm": "none"}, r"has features.1.bias of shape \(4,\), the network None"),
        ({"depth": 1}, r"classifier.weight of shape \(10, 36\), the network \(10, 144\)"),
        ({**NETWORKS["dropout"], "width": None}, r"of shape None, the network \("),
    ],
)
def test_experts_of_another_network_are_refused_by_name_and_shape(folder, options, message):
    options = {key: value for key, value in (CONVNET | options).items() if value is not None}
    if options["name"] == "vit":
        options.pop("width", None)
    other = create_network(image_shape=(1, 8, 8), classes=10, **options)
    with pytest.raises(HgladError, match=message) as error:
        Experts(folder).check(other)
    assert "expert-000" in str(error.value) and "\n" not in str(error.value)
    Experts(folder).check(network())


def test_missing_experts_are_a_clear_error(folder, tmp_path):
    for path, count, message in (
        (tmp_path, None, "no expert-000.safetensors among 0 experts in .*; make it with hglad experts"),
        (tmp_path / "none", 3, "no expert-000.safetensors among 0 experts"),
        (folder, 3, "no expert-002.safetensors among 2 experts"),
    ):
        with pytest.raises(HgladError, match=message):
            Experts(path, count)


@pytest.mark.parametrize("left", [0, 5, 300, -10])
def test_a_damaged_file_is_a_clear_error(folder, tmp_path, left):
    content = expert_file(folder, 0).read_bytes()
    expert_file(tmp_path, 0).write_bytes(content[:left])
    with pytest.raises(HgladError, match="cannot read the expert .*; delete it and train it again") as error:
        Experts(tmp_path)
    assert "\n" not in str(error.value)


def test_experts_that_are_too_short_are_a_clear_error(folder):
    there = Experts(folder)
    there.check_length(max_start_epoch=3, expert_epochs=2)
    message = "experts of 4 epochs in .*: a start below 3 and 3 more need 5; train them for longer or lower"
    with pytest.raises(HgladError, match=message):
        there.check_length(max_start_epoch=3, expert_epochs=3)
    with pytest.raises(HgladError, match=message):
        there.draw(torch.Generator(), max_start_epoch=3, expert_epochs=3)


def test_draws_are_of_every_expert_and_every_start_below_the_last(folder):
    there, generator, found = Experts(folder), torch.Generator().manual_seed(0), []
    vectors = {(index, epoch): flat(there.weights(index, epoch)) for index in range(2) for epoch in range(5)}
    for _ in range(60):
        pair = there.draw(generator, max_start_epoch=3, expert_epochs=2)
        (start,), (target,) = ([k for k, v in vectors.items() if torch.equal(v, flat(x))] for x in pair)
        assert target == (start[0], start[1] + 2)
        found.append(start)
    assert set(found) == {(index, epoch) for index in range(2) for epoch in range(3)}


def test_draws_follow_from_the_generator(folder):
    there, state = Experts(folder), torch.random.get_rng_state()
    first, second = (
        [flat(there.draw(generator, 3, 2)[0]) for _ in range(5)]
        for generator in (torch.Generator().manual_seed(4) for _ in range(2))
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_golden_values_of_the_experts(folder, check_golden):
    check_golden("experts", GOLDEN, [flat(Experts(folder).weights(0, 4)).norm().item()])


def test_experts_of_other_settings_are_refused(folder, few_digits):
    real = few_digits
    there = Experts(folder)
    there.check_key(experts_key(SETTINGS, CONVNET, real))
    other = experts_key(replace(SETTINGS, lr=0.5), CONVNET, real)
    with pytest.raises(HgladError, match=f"expert-000.safetensors has the fingerprint .*, expected {other}"):
        there.check_key(other)


def test_a_state_of_other_settings_is_left_alone(tmp_path, monkeypatch, few_digits):
    """The same folder, another rate: the expert starts afresh."""

    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    monkeypatch.setattr(storage, "SAVE_SECONDS", 0)
    real = few_digits
    with pytest.raises(Stopped):
        train_expert(SETTINGS, CONVNET, real, 0, tmp_path / "a", stop)
    other = replace(SETTINGS, lr=0.5)
    train_expert(other, CONVNET, real, 0, tmp_path / "a")
    train_expert(other, CONVNET, real, 0, tmp_path / "b")
    first, second = (read_tensors(expert_file(tmp_path / name, 0)) for name in "ab")
    assert same(first, second)


def test_an_expert_that_is_there_is_left_alone(folder, few_digits):
    before = expert_file(folder, 0).stat().st_mtime_ns
    train_expert(SETTINGS, CONVNET, few_digits, 0, folder)
    assert expert_file(folder, 0).stat().st_mtime_ns == before
