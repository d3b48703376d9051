"""Classifier networks: own ones and those of libraries, their parameters, how batches pass through them."""

import importlib.metadata
import sys
import warnings
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import avg_pool2d

from hglad.data.datasets import load_data
from hglad.errors import HgladError
from hglad.evaluation.baselines import random_real
from hglad.evaluation.evaluate import evaluate
from hglad.networks import NETWORKS, create_network, initialize, passes
from hglad.networks.convnet import AveragePool
from hglad.networks.passes import (
    accumulate_gradient,
    chunk_size,
    dropout_from,
    forward_size,
    limit_chunks,
    separable,
)
from hglad.objectives import Derivatives, double_backward, forward_over_reverse, use_batch_statistics
from hglad.settings import TrainingSettings
from hglad.storage import read_tensors

FIXTURE = Path(__file__).parent / "fixtures" / "matching.safetensors"
PARAMETERS = {  # 10 classes, 3 channels: at 32 px, at 128 px
    "convnet": (320_010, 615_690),
    "alexnet": (1_872_202, 2_333_002),
    "vgg11": (9_231_114, 9_476_874),
    "resnet18": (11_173_962, 11_173_962),
    "vit": (9_523_722, 16_176_650),
}
PUBLISHED = {  # parameters with 1000 classes, as the libraries' documentation has them
    "torchvision:resnet18": 11_689_512,
    "torchvision:convnext_tiny": 28_589_128,
    "torchvision:densenet121": 7_978_856,
    "torchvision:efficientnet_b0": 5_288_548,
    "torchvision:mobilenet_v3_small": 2_542_856,
    "torchvision:shufflenet_v2_x0_5": 1_366_792,
    "torchvision:swin_t": 28_288_354,
}
DEPTHS = {8: 3, 32: 3, 64: 4, 128: 5, 256: 6}  # of a ConvNet, by the side of the image
TIMM = (
    "timm:mobilenetv3_small_050",
    "timm:test_convnext",
    "timm:test_resnet",
    "timm:test_vit",  # class token
    "timm:test_vit2",  # mean of the tokens
    "timm:test_mambaout",  # channels last
    "timm:nest_tiny_jx",  # channels moved behind the last layer
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=seeded(seed))


def flat(network: nn.Module) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten().double() for tensor in network.state_dict().values()])


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def convnet(**options: object) -> nn.Module:
    return create_network("convnet", (1, 8, 8), 10, **{"depth": 2, "width": 4} | options)


def without_statistics() -> nn.Module:
    network = convnet(norm="batch")
    use_batch_statistics(network)
    return network


def vit(dropout: float) -> nn.Module:
    return create_network("vit", (1, 8, 8), 10, depth=1, dim=8, heads=2, head_dim=4, mlp=8, dropout=dropout)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_published_ones(name):
    assert tuple(count(create_network(name, (3, side, side))) for side in (32, 128)) == PARAMETERS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_of_library_models_are_the_published_ones(name):
    network = create_network(name, (3, 32, 32), 7)
    assert count(network) == PUBLISHED[name] - (1000 - 7) * (network.classifier.in_features + 1)


def test_reference_convnet_gives_the_reference_embedding_and_logits():
    tensors = read_tensors(FIXTURE)
    network = create_network("convnet", (3, 32, 32), 4, depth=3, width=16)
    network.load_state_dict({name[4:]: value for name, value in tensors.items() if name.startswith("net.")})
    with torch.no_grad():
        torch.testing.assert_close(
            network.embed(tensors["x_syn"]), tensors["embed_syn"], rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(network(tensors["x_syn"]), tensors["logits_syn"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("name", [*NETWORKS.names(), "vit with norm", "vit without norm"])
def test_every_network_takes_images_of_the_usual_sizes(name, side, channels):
    name, *variant = name.split(" ", 1)
    options = {"layer_norm": variant == ["with norm"]} if variant else {}
    with torch.device("meta"):  # shapes only
        network = NETWORKS.create(name, (channels, side, side), 7, **options)
        images = torch.empty(2, channels, side, side)
    maps, embedding = network.feature_maps(images), network.embed(images)
    assert maps.shape[0] == 2 and min(maps.shape[2:]) >= 2
    assert embedding.shape == (2, network.classifier.in_features)
    assert network(images).shape == (2, 7)


LIBRARY_CASES = [(name, (3, 64, 64)) for name in (*PUBLISHED, *TIMM, "torchvision:googlenet")]
OWN_CASES = [(name, shape) for name in NETWORKS.names() for shape in ((1, 16, 16), (3, 32, 24))]


@pytest.mark.parametrize(("name", "shape"), [*OWN_CASES, *LIBRARY_CASES])
def test_embedding_and_maps_lead_to_the_logits(name, shape):
    network = create_network(name, shape, 7).eval()
    nn.init.normal_(network.classifier.weight, generator=seeded(1))  # some heads start at zero
    images = noise(3, *shape)
    maps, embedding = network.maps_and_embedding(images)
    logits = network.classifier(embedding)
    assert logits.shape == (3, 7) and embedding.shape == (3, network.classifier.in_features)
    assert maps.dim() == 4 and (embedding[0] - embedding[1]).norm() > 1e-3 * embedding.norm()
    (slope,) = torch.autograd.grad(logits[:, 3].sum(), maps)
    assert (slope.flatten(2).abs().amax(dim=2) > 0).any(dim=1).all()
    torch.testing.assert_close(network.feature_maps(images), maps)
    torch.testing.assert_close(network(images), logits)
    stacked = network.embed(images[None].expand(2, -1, -1, -1, -1))
    torch.testing.assert_close(stacked, embedding.expand(2, -1, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("torchvision:resnet18", (512, 2, 2)),
        ("torchvision:vgg11", (512, 4, 4)),  # before the last pooling
        ("torchvision:vit_b_32", (768, 2, 2)),  # patches of 32 px
        ("torchvision:swin_t", (768, 2, 2)),
        ("timm:test_vit", (64, 4, 4)),
        ("timm:test_mambaout", (64, 2, 2)),
    ],
)
def test_library_models_have_maps_of_their_own_kind(name, maps):
    network = create_network(name, (3, 64, 64), 5)
    assert network.eval().feature_maps(noise(2, 3, 64, 64)).shape == (2, *maps)


@pytest.mark.parametrize("name", ["vit", "timm:test_vit", "timm:test_vit2", "timm:test_mambaout"])
def test_maps_are_where_the_image_changed(name):
    network = create_network(name, (3, 64, 64), 5).eval()
    if name.startswith("timm:test_vit"):
        for block in network.model.blocks:  # tokens that do not hear of each other
            block.attn.forward = lambda tokens, **_: torch.zeros_like(tokens)
    if name == "vit":
        network.blocks = network.blocks[-1:]
    dark, bright = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    bright[..., :16, 48:] = 1  # above, at the right
    change = (network.feature_maps(bright) - network.feature_maps(dark)).abs().sum(dim=(0, 1))
    row, column = divmod(int(change.argmax()), change.shape[1])
    assert (row, column) == (0, change.shape[1] - 1)


@pytest.mark.parametrize(
    ("name", "side", "options", "kind", "expected"),
    [
        *(("convnet", side, {"width": 2}, nn.Conv2d, depth) for side, depth in DEPTHS.items()),
        ("convnet", 16, {"width": 4}, nn.GroupNorm, 3),
        ("convnet", 16, {"width": 4, "norm": "batch"}, nn.BatchNorm2d, 3),
        ("convnet", 16, {"width": 4, "norm": "batch"}, nn.GroupNorm, 0),
        ("convnet", 16, {"width": 4, "norm": "none"}, (nn.GroupNorm, nn.BatchNorm2d), 0),
        ("vit", 32, {}, nn.LayerNorm, 13),
        ("vit", 128, {}, nn.LayerNorm, 0),
        ("vit", 128, {"layer_norm": True}, nn.LayerNorm, 21),
        ("vit", 16, {"layer_norm": False}, nn.LayerNorm, 0),
    ],
)
def test_depth_and_norms_follow_from_the_image_and_the_options(name, side, options, kind, expected):
    network = create_network(name, (3, side, side), **options)
    assert sum(isinstance(module, kind) for module in network.modules()) == expected


def test_instance_norm_ignores_brightness_and_contrast_of_a_map():
    norm, maps = convnet().features[1], noise(2, 4, 8, 8)
    torch.testing.assert_close(norm(3 * maps + 5), norm(maps), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "resnet18"])
def test_width_scales_the_channels(name):
    full, half = (count(create_network(name, (3, 32, 32), width=width)) for width in (1.0, 0.5))
    assert 0.2 < half / full < 0.3
    with pytest.raises(HgladError, match="width is 0; give a factor above 0"):
        create_network(name, (3, 32, 32), width=0)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 2, 4, 6), (2, 1, 7, 8), (1, 1, 5, 5), (3, 2, 2, 2)])
def test_average_pooling_is_that_of_pytorch_with_its_derivatives(shape):
    maps = noise(*shape).double()
    weight, results = noise(*avg_pool2d(maps, 2).shape, seed=1), []
    for pool in (AveragePool(), lambda maps: avg_pool2d(maps, 2)):
        leaf = maps.clone().requires_grad_()
        pooled = pool(leaf)
        (first,) = torch.autograd.grad((pooled.square() * weight).sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaf)
        results.append((pooled, first, second))
    for found, expected in zip(*results, strict=True):
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("convnett", (3, 32, 32), {}, "did you mean 'convnet'"),
        ("convnet", (3, 32, 32), {"widht": 3}, "did you mean 'width'"),
        ("convnet", (3, 32, 32), {"norm": "instanse"}, "did you mean 'instance'"),
        ("convnet", (3, 32, 32), {"depth": 0}, "depth=0"),
        ("convnet", (3, 16, 16), {"depth": 5}, "at least 32 x 32 px, got 16 x 16"),
        ("alexnet", (3, 32, 7), {}, "at least 8 x 8 px, got 32 x 7"),
        ("vgg11", (3, 3, 3), {}, "at least 4 x 4"),
        ("resnet18", (3, 8, 8), {}, "at least 9 x 9"),
        ("vit", (3, 18, 16), {}, "18 x 16 px into patches of 4 px"),
        ("vit", (3, 16, 16), {"patch": 32}, "at least 32 x 32"),
        ("vit", (3, 16, 16), {"dropout": 1.5}, "dropout=1.5"),
        ("convnet", (3, 32), {}, "channels, height, width"),
        ("convnet", (0, 32, 32), {}, "channels=0"),
        ("torchvision:resnt18", (3, 32, 32), {}, "unknown network .*did you mean 'torchvision:resnet18'"),
        ("timm:resnet18.a1_in1k", (3, 32, 32), {}, "did you mean .*'timm:resnet18"),
        ("timm:hf-hub:someone/model", (3, 32, 32), {}, "unknown network 'timm:hf-hub:someone/model'"),
        ("torchvison:resnet18", (3, 32, 32), {}, "unknown library of networks .*did you mean 'torchvision'"),
        ("torchvision:raft_small", (3, 32, 32), {}, "unknown network"),
        ("torchvision:quantized_resnet18", (3, 32, 32), {}, "unknown network"),
        ("torchvision:resnet18", (3, 32, 32), {"weights": "DEFAULT"}, "'weights' .*without pretrained"),
        ("timm:test_resnet", (3, 32, 32), {"pretrained": True}, "'pretrained' .*without pretrained"),
        ("torchvision:resnet18", (3, 32, 32), {"widht": 2}, "unexpected keyword argument 'widht'"),
        ("timm:test_vit", (3, 32, 32), {"widht": 2}, "unexpected keyword argument 'widht'"),
        ("torchvision:resnet18", (2, 32, 32), {}, "does not take images of 2 x 32 x 32: Given groups=1"),
        ("torchvision:alexnet", (3, 32, 32), {}, "does not take images of 3 x 32 x 32: .*mostly larger"),
        ("torchvision:vit_b_32", (3, 40, 40), {}, "cannot be made for images of 3 x 40 x 40: "),
        ("torchvision:vit_b_32", (3, 32, 64), {}, "square images, got 32 x 64 px"),
        ("timm:test_vit", (3, 30, 30), {}, "does not take images of 3 x 30 x 30: Input height"),
        ("timm:test_convnext", (3, 64, 64), {"global_pool": "", "num_classes": 2}, "'num_classes'"),
        ("timm:test_convnext", (3, 64, 64), {"global_pool": ""}, "timm:test_convnext"),
    ],
)
def test_what_cannot_be_made_is_one_clear_line(name, shape, options, message):
    with pytest.raises(HgladError, match=message) as caught:
        create_network(name, shape, 5, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["convnet", "timm:test_resnet"])
@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 32, 33), (3, 32, 32)])
def test_images_of_another_shape_are_a_clear_error(name, shape):
    network = create_network(name, (3, 32, 32))
    for function in (network, network.embed, network.feature_maps):
        with pytest.raises(HgladError, match="create it with their image_shape"):
            function(torch.zeros(shape))


# Parameters and random draws


@pytest.mark.parametrize("name", [*NETWORKS.names(), "torchvision:shufflenet_v2_x0_5", *TIMM])
def test_parameters_follow_from_the_generator_alone(name):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    network = create_network(name, (3, 32, 32), 5, seeded(1))
    first, without = flat(network), flat(create_network(name, (3, 32, 32), 5))
    assert torch.equal(without, flat(create_network(name, (3, 32, 32), 5, seeded(0))))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(1)
    assert torch.equal(first, flat(create_network(name, (3, 32, 32), 5, seeded(1))))
    network.train()(noise(4, 3, 32, 32))  # moves the statistics of batch norm
    for parameter in network.parameters():
        parameter.data.fill_(torch.nan)
    assert initialize(network, seeded(2)) is network
    assert torch.equal(flat(network), flat(create_network(name, (3, 32, 32), 5, seeded(2))))
    assert not torch.equal(first, flat(network))


@pytest.mark.parametrize("name", NETWORKS.names())
def test_initialize_has_the_spread_of_torch(name):
    network = create_network(name, (3, 16, 16), rng=seeded(3))
    torch.manual_seed(0)  # of PyTorch's own draws
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.numel() > 5000:
            mine = module.weight.detach().clone()
            module.reset_parameters()
            assert mine.std() == pytest.approx(module.weight.std().item(), rel=0.03)
            assert mine.abs().max() == pytest.approx(module.weight.abs().max().item(), rel=0.01)


def test_initialize_bias_bound_and_norm():
    network = create_network("convnet", (3, 16, 16), norm="batch")
    network.features[1].running_mean.fill_(9)
    network.features[1].weight.data.fill_(9)
    initialize(network, seeded(0))
    bound = (3 * 9) ** -0.5
    assert 0.9 * bound < network.features[0].bias.abs().max() <= bound
    assert (network.features[1].running_mean == 0).all() and (network.features[1].weight == 1).all()


def test_initialize_vit_tokens_are_normal():
    positions = create_network("vit", (3, 32, 32)).tokens.positions.detach()
    assert positions.std() == pytest.approx(1, abs=0.02) and positions.abs().max() > 3


def test_initialize_refuses_a_module_without_a_rule():
    with pytest.raises(HgladError, match="no rule to initialize a PReLU"):
        initialize(nn.PReLU(), seeded(0))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit", {"depth": 1}),
        ("torchvision:efficientnet_b0", {}),  # stochastic depth and dropout
        ("torchvision:densenet121", {"drop_rate": 0.5}),  # torch.nn.functional.dropout
        ("timm:test_vit", {"drop_path_rate": 0.5}),
        ("timm:test_vit", {"attn_drop_rate": 0.5}),  # inside the attention's kernel
    ],
)
def test_random_draws_follow_from_the_generator(name, options):
    network = create_network(name, (3, 32, 32), 5, **options).train()
    state = torch.random.get_rng_state()

    def embedding(rng: torch.Generator) -> torch.Tensor:
        with torch.no_grad(), dropout_from(network, rng):
            return network.embed(noise(8, 3, 32, 32))

    same = seeded(7)
    first, second = embedding(same), embedding(same)
    assert torch.equal(first, embedding(seeded(7))) and not torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_network_without_draws_leaves_the_generator_alone():
    rng = seeded(7)
    with dropout_from(convnet().train(), rng):
        assert torch.equal(rng.get_state(), seeded(7).get_state())


# Networks of libraries


@pytest.mark.parametrize("name", ["torchvision:googlenet", "torchvision:inception_v3"])
def test_no_auxiliary_logits_in_training(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = create_network(name, (3, 80, 80), 5)
    assert network.train()(noise(2, 3, 80, 80)).shape == (2, 5)


def test_gray_images_are_repeated_for_torchvision_and_counted_by_timm():
    gray, colored = (
        create_network("torchvision:mobilenet_v3_small", (channels, 32, 32), 5).eval() for channels in (1, 3)
    )
    images = noise(2, 1, 32, 32)
    assert torch.equal(gray(images), colored(images.expand(-1, 3, -1, -1)))
    assert next(create_network("timm:test_resnet", (2, 32, 32), 5).parameters()).shape[1] == 2


def test_options_reach_the_constructor():
    assert len(create_network("timm:test_vit", (3, 32, 32), 5, depth=2).model.blocks) == 2
    assert count(create_network("torchvision:mobilenet_v2", (3, 32, 32), 5, width_mult=0.25)) < 300_000
    wide = create_network("timm:test_vit", (3, 32, 48), 5)
    assert wide.feature_maps(noise(2, 3, 32, 48)).shape[2:] == (2, 3)  # patches of 16 px


@pytest.mark.parametrize("name", ["timm:test_vit", "torchvision:resnet18"])
def test_a_copy_stands_alone(name):
    network = create_network(name, (3, 32, 32), 5).eval()
    copy, images = deepcopy(network), noise(2, 3, 32, 32)
    maps, embedding = (tensor.detach() for tensor in network.maps_and_embedding(images))
    for parameter in network.parameters():
        parameter.data.fill_(torch.nan)
    assert torch.equal(copy.feature_maps(images), maps) and torch.equal(copy.embed(images), embedding)
    network.load_state_dict(copy.state_dict())
    assert torch.equal(network.embed(images), embedding)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert copy.to(torch.float64)(images.double()).dtype == torch.float64


def test_a_batch_of_one_image_is_refused_where_batch_norm_cannot_train():
    network, image = create_network("torchvision:resnet18", (3, 32, 32), 5), noise(1, 3, 32, 32)
    for function in (network.train(), network.maps_and_embedding):
        with pytest.raises(HgladError, match="resnet18 does not take 1 .*more than 1 value per channel"):
            function(image)
    assert not any(module._forward_hooks for module in network.modules())
    assert network.eval()(image).shape == (1, 5)
    assert create_network("timm:test_vit", (3, 32, 32), 5).train()(image).shape == (1, 5)


def test_many_networks_at_once():
    networks = [create_network("timm:test_vit", (3, 32, 32), 5, seeded(seed)).eval() for seed in range(3)]
    parameters, buffers = stack_module_state(networks)
    images = noise(2, 3, 32, 32)
    found = vmap(lambda p, b: functional_call(networks[0], (p, b), (images,)))(parameters, buffers)
    expected = torch.stack([network(images) for network in networks])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_convnext", "timm:test_resnet"])
def test_second_derivatives(name):
    network = create_network(name, (3, 32, 32), 5, seeded(3)).double()
    weights = tuple(parameter.detach() for parameter in network.parameters())
    direction = tuple(torch.randn(w.shape, generator=seeded(4), dtype=w.dtype) for w in weights)
    case = (weights, direction, noise(3, 3, 32, 32).double(), torch.arange(3), 3, False)
    loss = Derivatives(network).loss
    (first, mixed, _), (_, expected, _) = forward_over_reverse(loss, *case), double_backward(loss, *case)
    assert mixed.norm() > 0 and len(first) == len(weights)
    torch.testing.assert_close(mixed, expected, rtol=1e-6, atol=1e-9 * mixed.abs().max().item())


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:deit_tiny_distilled_patch16_224"])
def test_no_single_linear_layer_no_embedding(name):
    network, images = create_network(name, (3, 32, 32), 5).eval(), noise(2, 3, 32, 32)
    assert network(images).shape == (2, 5) and network.feature_maps(images).dim() == 4
    with pytest.raises(HgladError, match=f"{name} has no embedding"):
        network.embed(images)


def test_what_a_model_does_not_give_is_one_clear_line():
    network, images = create_network("timm:pit_ti_224", (3, 32, 32), 5).eval(), noise(2, 3, 32, 32)
    with pytest.raises(HgladError, match="timm:pit_ti_224 has no feature maps"):
        network.feature_maps(images)
    with pytest.raises(HgladError, match="the logits of a timm:pit_ti_224 do not follow"):
        network.logits_of_maps(images)
    with pytest.raises(HgladError, match="give -1, the last maps of this timm:pit_ti_224"):
        network.feature_maps(images, layer=2)
    assert network.embed(images).shape[0] == 2


def test_a_missing_library_names_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for make in (lambda: create_network("timm:resnet18", (3, 32, 32)), lambda: NETWORKS.version("timm:x")):
        with pytest.raises(HgladError, match="pip install timm"):
            make()


def test_the_version_has_the_release_of_the_library(monkeypatch):
    assert NETWORKS.version("convnet") == 1
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "9.8.7+cpu")
    assert NETWORKS.version("timm:test_resnet") == "1 (timm 9.8.7)"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torchvision:resnet50", ["zero_init_residual"], None),
        ("convnet", ["depth"], None),
        ("timm:resnet18", ["pretrained"], "option 'pretrained'"),
        ("convnet", ["dept"], "unknown option of the network 'convnet', 'dept': did you mean 'depth'"),
    ],
)
def test_names_and_options_are_checked_without_making_the_network(name, options, message):
    if message is None:
        return NETWORKS.check(name, options)
    with pytest.raises(HgladError, match=message):
        NETWORKS.check(name, options)


def test_evaluation_with_models_of_libraries():
    digits = load_data("digits", resolution=32)  # strided stems leave something of them
    networks = {"R": {"name": "timm:test_resnet"}, "V": {"name": "timm:test_vit", "drop_path_rate": 0.1}}
    training = TrainingSettings(epochs=12, lr=0.05, batch_size=25, augmentation="", ema_decay=None)
    distilled = random_real(digits.train, 5, seed=0)
    frame = evaluate(distilled, digits, networks, 1, training)
    assert frame.equals(evaluate(distilled, digits, networks, 1, training))
    assert frame.set_index("network")["accuracy"]["R"] > 40  # 10 by chance


# How many images pass at once


def batch(count: int) -> torch.Tensor:
    return noise(count, 1, 8, 8).double()


def test_the_maps_of_a_chunk_fill_the_cache(monkeypatch):
    monkeypatch.setattr(passes, "CACHE", 10 * 4 * 64 * 8)  # 10 images of 4 maps, 8 x 8, 8 bytes
    assert chunk_size(convnet(), batch(3)) == 10
    assert chunk_size(convnet(), batch(3).float()) == 20
    assert chunk_size(convnet(width=8), batch(3)) == 5
    monkeypatch.setattr(passes, "CACHE", 1)
    assert chunk_size(convnet(), batch(30)) == passes.SMALLEST == 4


@pytest.mark.parametrize(
    ("make", "training", "alone"),
    [
        (convnet, True, True),
        (lambda: convnet(norm="none"), True, True),
        (lambda: convnet(norm="batch"), True, False),
        (lambda: convnet(norm="batch"), False, True),
        (without_statistics, False, False),
        (lambda: vit(0.1), True, False),
        (lambda: vit(0.1), False, True),
        (lambda: vit(0.0), True, True),
    ],
)
def test_a_network_that_mixes_images_or_draws_gets_the_batch_whole(monkeypatch, make, training, alone):
    monkeypatch.setattr(passes, "CACHE", 1)
    network = make().train(training)
    assert separable(network) is alone
    convolution = any(isinstance(module, nn.Conv2d) for module in network.modules())
    assert chunk_size(network, batch(30)) == (4 if alone and convolution else 30)


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_vit"])
def test_images_pass_a_library_model_in_chunks_in_evaluation_only(name):
    network, images = create_network(name, (3, 32, 32), 5), torch.zeros(5000, 3, 32, 32)
    assert not separable(network.train()) and chunk_size(network, images) == 5000
    assert separable(network.eval())
    sizes = []
    for module in network.modules():
        module.register_forward_hook(lambda module, given, returned: sizes.append(returned.numel()))
    network(images[:1])
    assert chunk_size(network, images) == passes.CACHE // (4 * max(sizes))


def test_on_another_device_large_maps_pass_without_a_graph_in_parts():
    """512 images of 256 px: each map of a ConvNet of width 128 has 33.5 MB an image."""
    images = torch.empty(512, 3, 256, 256, device="meta")
    network = create_network("convnet", (3, 256, 256), 10, depth=6, width=128).to("meta")
    assert chunk_size(network, images) == 512
    assert forward_size(network.eval(), images) == 32
    assert forward_size(network, images[:8]) == 8
    small = create_network("convnet", (3, 32, 32), 10, depth=3, width=128).to("meta").eval()
    assert forward_size(small, torch.empty(512, 3, 32, 32, device="meta")) == 512
    mixing = create_network("convnet", (3, 256, 256), 10, depth=6, width=128, norm="batch").to("meta")
    assert forward_size(mixing.train(), images) == 512


def test_a_limit_holds_for_networks_that_treat_each_image_alone():
    network, mixing = convnet(), convnet(norm="batch")
    for each in (network, mixing):
        limit_chunks(each, 3)
    assert chunk_size(network, batch(30)) == forward_size(network, batch(30)) == 3
    assert chunk_size(network, torch.empty(30, 1, 8, 8, device="meta")) == 3
    assert chunk_size(mixing.train(), batch(30)) == 30


@pytest.mark.parametrize("soft", [False, True], ids=["classes", "soft labels"])
@pytest.mark.parametrize("count", [1, 4, 10, 13])
def test_accumulated_gradients_are_those_of_one_backward_pass(monkeypatch, count, soft):
    monkeypatch.setattr(passes, "CACHE", 1)
    network, images, labels = convnet().double(), batch(count), torch.arange(count) % 10
    if soft:
        labels = noise(count, 10, seed=1).double().softmax(dim=1)
    sizes = []
    hook = network.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    loss = accumulate_gradient(network, images, labels)
    assert sizes == {1: [1], 4: [4], 10: [4, 4, 2], 13: [4, 4, 4, 1]}[count]
    assert not loss.requires_grad
    hook.remove()
    expected = nn.functional.cross_entropy(network(images), labels)
    gradients = torch.autograd.grad(expected, tuple(network.parameters()))
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    accumulate_gradient(network, images, labels)  # is added to what is there
    scale = max(gradient.norm() for gradient in gradients)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        assert (parameter.grad - 2 * gradient).norm() <= 1e-12 * scale


# Root mean square of embedding and logits, then the mean class under a sharp softmax of the logits.
GOLDEN = {
    "alexnet": {1: [0.03308424, 0.01636074, 1.865778, 0.488251, 1.372824]},
    "convnet": {1: [0.508954, 0.389095, 6.132091, 5.557779, 6.970749]},
    "resnet18": {1: [0.8374516, 0.5829028, 7.805048, 7.881312, 7.809184]},
    "vgg11": {1: [1.32775, 0.7549554, 0.001542882, 0.001678544, 0.001281936]},
    "vit": {1: [0.9999979, 0.5809399, 5.18766, 5.235085, 5.236885]},
}
# Root mean square of the logits, then the mean class under a sharp softmax of them.
LIBRARY_GOLDEN = {
    "torchvision:resnet18": {"1 (torchvision 0.26.0)": [0.4475515, 3.849263, 4.984391, 3.916381]},
    "timm:test_vit": {"1 (timm 1.0.31)": [0.1709606, 4.12641, 2.37589, 2.975189]},
}


def logits_in_short(network: nn.Module, images: torch.Tensor) -> list[float]:
    with torch.no_grad():
        logits = network(images)
    classes = (5 * logits / logits.std()).softmax(dim=1) @ torch.arange(10.0)
    return [logits.square().mean().sqrt().item(), *classes.tolist()]


@pytest.mark.parametrize("name", NETWORKS.names())
def test_golden_values_of_the_networks(check_golden, name):
    network = create_network(name, (3, 32, 32), 10, rng=seeded(1)).eval()
    images = torch.randn(3, 3, 32, 32, generator=seeded(2))
    with torch.no_grad():
        size = network.embed(images).square().mean().sqrt().item()
    check_golden(f"network {name}", GOLDEN.get(name, {}), [size, *logits_in_short(network, images)])


@pytest.mark.parametrize("name", LIBRARY_GOLDEN)
def test_golden_values_of_the_libraries_networks(check_golden, name):
    if (version := NETWORKS.version(name)) not in LIBRARY_GOLDEN[name] and version.startswith("1 "):
        pytest.skip(f"no values for this release: {version}")
    network = create_network(name, (1, 32, 32), 10, rng=seeded(1)).eval()
    images = torch.randn(3, 1, 32, 32, generator=seeded(2))
    check_golden(f"network {name}", LIBRARY_GOLDEN[name], logits_in_short(network, images))
