"""Classifiers of torchvision and timm as networks."""

import importlib.metadata
import sys
import warnings
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from hglad.analysis.activation import activation_maps
from hglad.data.datasets import DataSet, load_data
from hglad.errors import HgladError
from hglad.evaluation.baselines import random_real
from hglad.evaluation.evaluate import evaluate
from hglad.experiments.profile_file import profile_from, read_profile
from hglad.experiments.tasks import ClassifierTask
from hglad.networks import NETWORKS, create_network, initialize
from hglad.networks.chunks import CACHE, chunk_size, separable
from hglad.networks.initialization import dropout_from
from hglad.objectives import Derivatives, double_backward, forward_over_reverse
from hglad.objectives.dm import DistributionMatching
from hglad.settings import TrainingSettings, to_dict

PUBLISHED = {  # parameters with 1000 classes, as the libraries' documentation has them
    "torchvision:resnet18": 11_689_512,
    "torchvision:convnext_tiny": 28_589_128,
    "torchvision:densenet121": 7_978_856,
    "torchvision:efficientnet_b0": 5_288_548,
    "torchvision:mobilenet_v3_small": 2_542_856,
    "torchvision:regnet_x_400mf": 5_495_976,
    "torchvision:shufflenet_v2_x0_5": 1_366_792,
    "torchvision:swin_t": 28_288_354,
}
TIMM = (
    "timm:resnet18",
    "timm:mobilenetv3_small_050",
    "timm:test_convnext",
    "timm:test_efficientnet",
    "timm:test_vit",  # class token
    "timm:test_vit2",  # mean of the tokens
    "timm:test_mambaout",  # channels last
    "timm:nest_tiny_jx",  # channels moved behind the last layer
)
MODELS = (*PUBLISHED, *TIMM)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def flat(network: nn.Module) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in network.state_dict().values()])


def images(count: int = 2, channels: int = 3, side: int = 32) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=seeded(0))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    network = create_network(name, (3, 32, 32), 7)
    features = network.classifier.in_features
    assert count(network) == PUBLISHED[name] - (1000 - 7) * (features + 1)


@pytest.mark.parametrize("name", MODELS)
def test_embedding_and_maps_lead_to_the_logits(name):
    network = create_network(name, (3, 64, 64), 7).eval()
    nn.init.normal_(network.classifier.weight, generator=seeded(1))  # some heads start at zero
    batch = images(3, side=64)
    maps, embedding = network.maps_and_embedding(batch)
    logits = network.classifier(embedding)
    assert logits.shape == (3, 7) and (embedding[0] - embedding[1]).norm() > 1e-3 * embedding.norm()
    assert maps.dim() == 4 and 2 <= max(maps.shape[2:]) <= 4 < maps.shape[1]
    (slope,) = torch.autograd.grad(logits[:, 3].sum(), maps)
    assert (slope.flatten(2).abs().amax(dim=2) > 0).any(dim=1).all()
    torch.testing.assert_close(network.feature_maps(batch), maps)
    torch.testing.assert_close(network(batch), logits)
    torch.testing.assert_close(network.embed(batch), embedding)


@pytest.mark.parametrize("name", ["torchvision:vit_b_32", "torchvision:vgg11"])
def test_large_models_have_maps_of_their_own_kind(name):
    network = create_network(name, (3, 64, 64), 7).eval()
    maps, embedding = network.maps_and_embedding(images(side=64))
    assert maps.shape == {"torchvision:vit_b_32": (2, 768, 2, 2), "torchvision:vgg11": (2, 512, 4, 4)}[name]
    torch.testing.assert_close(network.classifier(embedding), network(images(side=64)))


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_vit2", "timm:test_mambaout"])
def test_maps_are_where_the_image_changed(name):
    network = create_network(name, (3, 64, 64), 5).eval()
    if name.startswith("timm:test_vit"):
        for block in network.model.blocks:  # tokens that do not hear of each other
            block.attn.forward = lambda tokens, **_: torch.zeros_like(tokens)
    dark, bright = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    bright[..., :16, 48:] = 1  # above, at the right
    change = (network.feature_maps(bright) - network.feature_maps(dark)).abs().sum(dim=(0, 1))
    row, column = divmod(int(change.argmax()), change.shape[1])
    assert (row, column) == (0, change.shape[1] - 1)


def test_leading_dimensions_are_kept():
    network = create_network("timm:test_resnet", (3, 32, 32), 5).eval()
    batch = images(6).unflatten(0, (2, 3))
    assert network(batch).shape == (2, 3, 5)
    torch.testing.assert_close(network.embed(batch)[1], network.embed(batch[1]), rtol=1e-4, atol=1e-6)
    with pytest.raises(HgladError, match="create it with their image_shape"):
        network(images(side=31))


@pytest.mark.parametrize("name", ["torchvision:googlenet", "torchvision:inception_v3"])
def test_no_auxiliary_logits_in_training(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = create_network(name, (3, 80, 80), 5)
    assert network.train()(images(side=80)).shape == (2, 5)


def test_grey_images_are_repeated_for_torchvision_and_counted_by_timm():
    grey = create_network("torchvision:mobilenet_v3_small", (1, 32, 32), 5).eval()
    colour = create_network("torchvision:mobilenet_v3_small", (3, 32, 32), 5).eval()
    batch = images(channels=1)
    assert torch.equal(grey(batch), colour(batch.expand(-1, 3, -1, -1)))
    network = create_network("timm:test_resnet", (2, 32, 32), 5)
    assert next(network.parameters()).shape[1] == 2


def test_options_reach_the_constructor():
    small = create_network("timm:test_vit", (3, 32, 32), 5, depth=2)
    assert len(small.model.blocks) == 2
    narrow = create_network("torchvision:mobilenet_v2", (3, 32, 32), 5, width_mult=0.25)
    assert count(narrow) < 300_000
    assert create_network("timm:test_vit", (3, 32, 48), 5).tap.grid == (2, 3)  # patches of 16 px


@pytest.mark.parametrize("name", ["torchvision:shufflenet_v2_x0_5", "torchvision:swin_t", *TIMM])
def test_parameters_follow_from_the_generator(name):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = flat(create_network(name, (3, 32, 32), 5, seeded(1)))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(1)
    assert torch.equal(first, flat(create_network(name, (3, 32, 32), 5, seeded(1))))
    assert not torch.equal(first, flat(create_network(name, (3, 32, 32), 5, seeded(2))))


def test_without_a_generator_the_seed_is_0():
    default = create_network("timm:test_resnet", (3, 32, 32), 5)
    assert torch.equal(flat(default), flat(create_network("timm:test_resnet", (3, 32, 32), 5, seeded(0))))


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_vit"])
def test_initialize_draws_as_at_the_start(name):
    network = create_network(name, (3, 32, 32), 5, seeded(1))
    network.train()(images(4))  # moves the statistics of batch norm
    for parameter in network.parameters():
        parameter.data.fill_(torch.nan)
    initialize(network, seeded(2))
    assert torch.equal(flat(network), flat(create_network(name, (3, 32, 32), 5, seeded(2))))


def test_a_copy_stands_alone():
    network = create_network("timm:test_vit", (3, 32, 32), 5).eval()
    copy, batch = deepcopy(network), images()
    maps, embedding = (tensor.detach() for tensor in network.maps_and_embedding(batch))
    for parameter in network.parameters():
        parameter.data.fill_(torch.nan)
    assert torch.equal(copy.feature_maps(batch), maps) and torch.equal(copy.embed(batch), embedding)
    network.load_state_dict(copy.state_dict())
    assert torch.equal(network.embed(batch), embedding)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert copy.to(torch.float64)(batch.double()).dtype == torch.float64


def test_a_hook_is_gone_after_a_failure():
    network = create_network("torchvision:resnet18", (3, 32, 32), 5)
    with pytest.raises(HgladError):
        network.maps_and_embedding(images(1))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_many_networks_at_once():
    networks = [create_network("timm:test_vit", (3, 32, 32), 5, seeded(seed)).eval() for seed in range(3)]
    parameters, buffers = stack_module_state(networks)
    batch = images()
    found = vmap(lambda p, b: functional_call(networks[0], (p, b), (batch,)))(parameters, buffers)
    expected = torch.stack([network(batch) for network in networks])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_convnext", "timm:test_resnet"])
def test_second_derivatives(name):
    network = create_network(name, (3, 32, 32), 5, seeded(3)).double()
    weights = tuple(parameter.detach() for parameter in network.parameters())
    direction = tuple(torch.randn(w.shape, generator=seeded(4), dtype=w.dtype) for w in weights)
    case = (weights, direction, images(3).double(), torch.arange(3), 3, False)
    loss = Derivatives(network).loss
    (first, mixed, _), (_, expected, _) = forward_over_reverse(loss, *case), double_backward(loss, *case)
    assert mixed.norm() > 0 and len(first) == len(weights)
    torch.testing.assert_close(mixed, expected, rtol=1e-6, atol=1e-9 * mixed.abs().max().item())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("torchvision:efficientnet_b0", {}),  # stochastic depth and dropout
        ("torchvision:densenet121", {"drop_rate": 0.5}),  # torch.nn.functional.dropout
        ("timm:test_vit", {"drop_path_rate": 0.5}),
        ("timm:test_vit", {"attn_drop_rate": 0.5}),  # inside the attention's kernel
    ],
)
def test_random_draws_follow_from_the_generator(name, options):
    network = create_network(name, (3, 32, 32), 5, **options).train()
    state = torch.random.get_rng_state()

    def embedding(generator: torch.Generator) -> torch.Tensor:
        with torch.no_grad(), dropout_from(network, generator):
            return network.embed(images(8))

    same = seeded(7)
    first, second = embedding(same), embedding(same)
    assert torch.equal(first, embedding(seeded(7))) and not torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_vit"])
def test_images_pass_in_chunks_in_evaluation_only(name):
    network = create_network(name, (3, 32, 32), 5)
    batch = torch.zeros(5000, 3, 32, 32)
    assert not separable(network.train()) and chunk_size(network, batch) == 5000
    assert separable(network.eval())
    outputs = []
    handles = [
        module.register_forward_hook(lambda module, given, returned: outputs.append(returned.numel()))
        for module in network.modules()
    ]
    network(images(1))
    for handle in handles:
        handle.remove()
    assert chunk_size(network, batch) == CACHE // (4 * max(outputs))


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("torchvision:resnt18", (3, 32, 32), {}, "unknown network .*did you mean 'torchvision:resnet18'"),
        ("timm:resnet18.a1_in1k", (3, 32, 32), {}, "did you mean 'timm:resnet18'"),
        ("timm:hf-hub:someone/model", (3, 32, 32), {}, "unknown network 'timm:hf-hub:someone/model'"),
        ("torchvison:resnet18", (3, 32, 32), {}, "unknown library of networks .*did you mean 'torchvision'"),
        ("torchvision:raft_small", (3, 32, 32), {}, "no image classifier"),
        ("torchvision:fcn_resnet50", (3, 32, 32), {}, "no image classifier"),
        ("torchvision:r3d_18", (3, 32, 32), {}, "no image classifier"),
        ("torchvision:quantized_resnet18", (3, 32, 32), {}, "no image classifier"),
        ("torchvision:resnet18", (3, 32, 32), {"weights": "DEFAULT"}, "'weights' .*without pretrained"),
        ("timm:test_resnet", (3, 32, 32), {"pretrained": True}, "'pretrained' .*without pretrained"),
        ("torchvision:resnet18", (3, 32, 32), {"widht": 2}, "unexpected keyword argument 'widht'"),
        ("timm:test_vit", (3, 32, 32), {"widht": 2}, "unexpected keyword argument 'widht'"),
        ("torchvision:resnet18", (2, 32, 32), {}, "images of 1 or 3 channels, got 2"),
        ("torchvision:alexnet", (3, 32, 32), {}, "does not take images of 32 x 32 px: .*mostly larger"),
        ("torchvision:vit_b_32", (3, 40, 40), {}, "cannot be made for images of .3, 40, 40.: "),
        ("torchvision:vit_b_32", (3, 32, 64), {}, "square images, got 32 x 64 px"),
        ("timm:test_vit", (3, 30, 30), {}, "does not take images of 30 x 30 px: Input height"),
        ("timm:test_convnext", (3, 64, 64), {"global_pool": "", "num_classes": 2}, "'num_classes'"),
        ("timm:test_convnext", (3, 64, 64), {"global_pool": ""}, "timm:test_convnext"),
    ],
)
def test_what_cannot_be_made_is_one_clear_line(name, shape, options, message):
    with pytest.raises(HgladError, match=message) as caught:
        create_network(name, shape, 5, **options)
    assert "\n" not in str(caught.value)


def test_a_batch_of_one_image_is_refused_where_batch_norm_cannot_train():
    network = create_network("torchvision:resnet18", (3, 32, 32), 5)
    with pytest.raises(HgladError, match="torchvision:resnet18 cannot train on a batch of one image"):
        network.train()(images(1))
    assert network.eval()(images(1)).shape == (1, 5)
    assert create_network("timm:test_vit", (3, 32, 32), 5).train()(images(1)).shape == (1, 5)


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:deit_tiny_distilled_patch16_224"])
def test_no_single_linear_layer_no_embedding(name):
    network = create_network(name, (3, 32, 32), 5).eval()
    assert network(images()).shape == (2, 5)
    with pytest.raises(HgladError, match=f"{name} has no embedding"):
        network.embed(images())
    assert not hasattr(network, "classifier")
    assert network.feature_maps(images()).dim() == 4


def test_what_a_model_does_not_give_is_one_clear_line():
    assert create_network("timm:coat_tiny", (3, 32, 32), 5).tap is None  # several lists of tokens
    network = create_network("timm:pit_ti_224", (3, 32, 32), 5).eval()
    with pytest.raises(HgladError, match="timm:pit_ti_224 has no feature maps"):
        network.feature_maps(images())
    with pytest.raises(HgladError, match="the logits of a timm:pit_ti_224 do not follow"):
        network.logits_of_maps(images())
    with pytest.raises(HgladError, match="give -1, the last maps of this timm:pit_ti_224"):
        network.feature_maps(images(), layer=2)
    assert network.embed(images()).shape[0] == 2


def test_a_missing_library_names_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for make in (lambda: create_network("timm:resnet18", (3, 32, 32)), lambda: NETWORKS.version("timm:x")):
        with pytest.raises(HgladError, match="pip install timm"):
            make()


def test_results_are_kept_under_the_version_of_the_library(monkeypatch):
    digits = read_profile("configs/digits.yaml")
    settings = to_dict(digits.metric) | {"network": {"name": "timm:test_resnet"}}
    profile = profile_from(**to_dict(digits) | {"metric": settings})
    before = ClassifierTask(profile.data, profile.metric).key
    assert before == ClassifierTask(profile.data, profile.metric).key
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "9.8.7+cpu")
    assert ClassifierTask(profile.data, profile.metric).key != before
    assert NETWORKS.version("timm:test_resnet") == "1 (timm 9.8.7)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "torchvision:resnt50"}, "networks.A: .*did you mean 'torchvision:resnet50'"),
        ({"name": "keras:resnet50"}, "networks.A: unknown library of networks 'keras'"),
        ({"name": "timm:resnet18", "pretrained": True}, "networks.A: option 'pretrained'"),
    ],
)
def test_a_profile_finds_a_wrong_model(options, message):
    digits = to_dict(read_profile("configs/digits.yaml"))
    right = {"name": "torchvision:resnet50", "zero_init_residual": True}
    assert profile_from(**digits | {"networks": {"A": right}}).networks == {"A": right}
    with pytest.raises(HgladError, match=message):
        profile_from(**digits | {"networks": {"A": options}})


@pytest.fixture(scope="module")
def digits_32() -> DataSet:
    """Digits that the strided stems of the libraries' models leave something of."""
    return load_data("digits", resolution=32)


def test_evaluation_with_a_model_of_a_library(digits_32):
    distilled = random_real(digits_32.train, 5, seed=0)
    networks = {"R": {"name": "timm:test_resnet"}, "V": {"name": "timm:test_vit", "drop_path_rate": 0.1}}
    training = TrainingSettings(epochs=12, lr=0.05, batch_size=25, augmentation="", ema_decay=None)
    frame = evaluate(distilled, digits_32, networks, 1, training)
    assert frame.equals(evaluate(distilled, digits_32, networks, 1, training))
    assert frame.set_index("network")["accuracy"]["R"] > 40  # 10 by chance


def test_distribution_matching_with_a_model_of_a_library(digits_32):
    real = digits_32.train
    network = create_network("timm:test_resnet", real.image_shape, 10)
    objective = DistributionMatching(network, batch_real=4)
    batch = real.batch(1, seeded(0)).flatten(0, 1).float()
    gradients = [objective.gradient(batch, torch.arange(10), real, seeded(s))[0] for s in (1, 1, 2)]
    assert gradients[0].isfinite().all() and (gradients[0].flatten(1).norm(dim=1) > 0).all()
    assert torch.equal(gradients[0], gradients[1]) and not torch.equal(gradients[0], gradients[2])


def test_class_activation_maps_of_a_model_of_a_library(digits_32):
    network = create_network("timm:test_resnet", digits_32.train.image_shape, 10)
    maps = activation_maps(network, images(3, channels=1), torch.arange(3), digits_32.train.normalize)
    assert maps.dim() == 3 and maps.amax() == 1


# Root mean square of the logits, then the mean class under a sharp softmax of them.
GOLDEN = {
    "torchvision:resnet18": {"1 (torchvision 0.26.0)": [0.4475515, 3.849263, 4.984391, 3.916381]},
    "timm:test_vit": {"1 (timm 1.0.31)": [0.1709606, 4.12641, 2.37589, 2.975189]},
}


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:test_vit"])
def test_golden_values_of_the_libraries_networks(check_golden, name):
    if (version := NETWORKS.version(name)) not in GOLDEN.get(name, {}) and version.startswith("1 "):
        pytest.skip(f"no values for this release: {version}")
    network = create_network(name, (1, 32, 32), 10, rng=seeded(1)).eval()
    with torch.no_grad():
        logits = network(torch.randn(3, 1, 32, 32, generator=seeded(2)))
    classes = (5 * logits / logits.std()).softmax(dim=1) @ torch.arange(10.0)
    check_golden(f"network {name}", GOLDEN[name], [logits.square().mean().sqrt().item(), *classes.tolist()])
