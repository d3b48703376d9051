"""Networks: published sizes, the reference network, initialization."""

from pathlib import Path

import pytest
import torch
from torch import nn

from hglad.errors import HgladError
from hglad.networks import NETWORKS, Classifier, create_network, initialize
from hglad.networks.initialization import dropout_from
from hglad.registry import Registry
from hglad.storage import read_tensors

FIXTURE = Path(__file__).parent / "fixtures" / "matching.safetensors"
PARAMETERS = {  # 10 classes, 3 channels: at 32 px, at 128 px
    "convnet": (320_010, 615_690),
    "alexnet": (1_872_202, 2_333_002),
    "vgg11": (9_231_114, 9_476_874),
    "resnet18": (11_173_962, 11_173_962),
    "vit": (9_523_722, 16_176_650),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_published_ones(name):
    counts = tuple(count(create_network(name, (3, side, side), 10)) for side in (32, 128))
    assert counts == PARAMETERS[name]


def test_reference_convnet_gives_the_reference_embedding_and_logits():
    tensors = read_tensors(FIXTURE)
    network = create_network("convnet", (3, 32, 32), 4, depth=3, width=16)
    network.load_state_dict({name[4:]: value for name, value in tensors.items() if name.startswith("net.")})
    images = tensors["x_syn"]
    with torch.no_grad():
        torch.testing.assert_close(network.embed(images), tensors["embed_syn"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network(images), tensors["logits_syn"], rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 32, 24)])
@pytest.mark.parametrize("name", NETWORKS.names())
def test_every_network_tells_images_apart_and_carries_gradients_to_its_maps(name, shape):
    network = create_network(name, shape, 7).eval()
    images = torch.rand(2, *shape, generator=seeded(0))
    maps, embedding = network.maps_and_embedding(images)
    logits = network.classifier(embedding)
    assert logits.shape == (2, 7) and maps.dim() == 4
    assert embedding.shape == (2, network.classifier.in_features)
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    (slope,) = torch.autograd.grad(logits[:, 3].sum(), maps)
    assert (slope.flatten(1).abs().amax(dim=1) > 0).all()
    torch.testing.assert_close(network.feature_maps(images), maps)
    torch.testing.assert_close(network(images), logits)


def test_embed_keeps_leading_dimensions():
    network = create_network("convnet", (3, 16, 16), 10, width=8)
    images = torch.rand(2, 3, 3, 16, 16, generator=seeded(0))
    embedding = network.embed(images)
    assert embedding.shape[:2] == (2, 3)
    torch.testing.assert_close(embedding[1], network.embed(images[1]))


@pytest.mark.parametrize(("side", "depth"), [(8, 3), (32, 3), (64, 4), (128, 5), (256, 6)])
def test_convnet_depth_grows_with_the_image(side, depth):
    network = create_network("convnet", (3, side, side), width=2)
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == depth


@pytest.mark.parametrize(("norm", "kind"), [("instance", nn.GroupNorm), ("batch", nn.BatchNorm2d)])
def test_convnet_norms(norm, kind):
    network = create_network("convnet", (3, 16, 16), norm=norm, width=4)
    assert [type(network.features[index]) for index in (1, 5, 9)] == [kind] * 3
    assert len(create_network("convnet", (3, 16, 16), norm="none", width=4).features) == 8


def test_instance_norm_ignores_brightness_and_contrast_of_a_map():
    first = create_network("convnet", (3, 16, 16), width=4).features[1]
    maps = torch.randn(2, 4, 8, 8, generator=seeded(0))
    torch.testing.assert_close(first(3 * maps + 5), first(maps), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("side", "options", "norms"),
    [(32, {}, 13), (128, {}, 0), (128, {"layer_norm": True}, 21), (16, {"layer_norm": False}, 0)],
)
def test_vit_layer_norm_of_both_variants(side, options, norms):
    network = create_network("vit", (3, side, side), **options)
    assert sum(isinstance(module, nn.LayerNorm) for module in network.modules()) == norms


def test_vit_maps_are_where_their_patches_are():
    network = create_network("vit", (1, 8, 12), depth=1, dim=16, dropout=0.0)
    images = torch.zeros(1, 1, 8, 12)
    images[..., 4:8, 8:12] = 1  # the patch in row 1, column 2
    change = network.feature_maps(images) - network.feature_maps(torch.zeros(1, 1, 8, 12))
    assert change[0].any(dim=0).nonzero().tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("convnett", (3, 32, 32), {}, "did you mean 'convnet'"),
        ("convnet", (3, 32, 32), {"widht": 3}, "did you mean 'width'"),
        ("resnet18", (3, 32, 32), {"widht": 3}, "did you mean .width."),
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
    ],
)
def test_what_cannot_be_made_is_a_clear_error(name, shape, options, message):
    with pytest.raises(HgladError, match=message):
        create_network(name, shape, **options)


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (2, 3, 16, 17), (3, 16, 16)])
def test_images_of_another_shape_are_a_clear_error(shape):
    with pytest.raises(HgladError, match="image_shape"):
        create_network("convnet", (3, 16, 16), width=4)(torch.zeros(shape))


def test_registry_refuses_a_name_twice():
    registry = Registry("thing")
    registry.register("one")(dict)
    with pytest.raises(HgladError, match="registered twice"):
        registry.register("one")(dict)


@pytest.mark.parametrize("name", NETWORKS.names())
def test_initialize_draws_every_parameter_from_the_generator(name):
    network = create_network(name, (3, 16, 16))
    draws = []
    for seed in (1, 1, 2):
        for parameter in network.parameters():
            parameter.data.fill_(torch.nan)
        draws.append(flat(initialize(network, seeded(seed))))
    assert draws[0].isfinite().all()
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


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


def test_creation_neither_reads_nor_moves_the_global_generator():
    state = torch.random.get_rng_state()
    first = create_network("vit", (3, 16, 16), depth=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(1)
    assert torch.equal(flat(first), flat(create_network("vit", (3, 16, 16), depth=1)))
    other = create_network("vit", (3, 16, 16), rng=seeded(5), depth=1)
    assert not torch.equal(flat(first), flat(other))


def test_dropout_follows_from_the_generator_and_leaves_the_global_one():
    network = create_network("vit", (3, 16, 16), depth=1).train()
    images = torch.rand(2, 3, 16, 16, generator=seeded(0))
    state = torch.random.get_rng_state()

    def logits(generator: torch.Generator) -> torch.Tensor:
        with torch.no_grad(), dropout_from(network, generator):
            return network(images)

    same = seeded(7)
    first, second = logits(same), logits(same)
    assert torch.equal(first, logits(seeded(7))) and not torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_registered_network_is_created_by_name(monkeypatch):
    class Linear(Classifier):
        def __init__(self, image_shape, classes, scale=1):
            super().__init__(image_shape)
            self.features, self.pool, self.classifier = nn.Identity(), nn.Flatten(), nn.Linear(48, classes)

    monkeypatch.setattr(NETWORKS, "_factories", dict(NETWORKS.factories))
    NETWORKS.register("linear")(Linear)
    assert create_network("linear", (3, 4, 4), 5, scale=2)(torch.zeros(2, 3, 4, 4)).shape == (2, 5)


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "resnet18"])
def test_width_scales_the_channels(name):
    full = sum(p.numel() for p in create_network(name, (3, 32, 32)).parameters())
    half = sum(p.numel() for p in create_network(name, (3, 32, 32), width=0.5).parameters())
    assert 0.2 < half / full < 0.3
    with pytest.raises(HgladError, match="width is 0; give a factor above 0"):
        create_network(name, (3, 32, 32), width=0)


# Root mean square of embedding and logits, then the mean class under a sharp softmax of the logits.
GOLDEN = {
    "alexnet": {1: [0.03308424, 0.01636074, 1.865778, 0.488251, 1.372824]},
    "convnet": {1: [0.508954, 0.389095, 6.132091, 5.557779, 6.970749]},
    "resnet18": {1: [0.8374516, 0.5829028, 7.805048, 7.881312, 7.809184]},
    "vgg11": {1: [1.32775, 0.7549554, 0.001542882, 0.001678544, 0.001281936]},
    "vit": {1: [0.9999979, 0.5809399, 5.18766, 5.235085, 5.236885]},
}


@pytest.mark.parametrize("name", NETWORKS.names())
def test_golden_values_of_the_networks(check_golden, name):
    network = create_network(name, (3, 32, 32), 10, rng=seeded(1)).eval()
    images = torch.randn(3, 3, 32, 32, generator=seeded(2))
    with torch.no_grad():
        embedding, logits = network.embed(images), network(images)
    classes = (5 * logits / logits.std()).softmax(dim=1) @ torch.arange(10.0)
    found = [x.square().mean().sqrt().item() for x in (embedding, logits)] + classes.tolist()
    check_golden(f"network {name}", GOLDEN.get(name, {}), found)
