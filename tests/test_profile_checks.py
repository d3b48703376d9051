"""What does not fit the images and the generator is found before anything runs, in one line with its key."""

import re

import pytest
import torch
import yaml
from replacing import replace
from smoke_profile import changed
from torchvision.utils import save_image

from hglad.cli import main
from hglad.errors import HgladError
from hglad.evaluation.training import protocol
from hglad.experiments.definitions import plan
from hglad.experiments.presets import RATES, published_schedule
from hglad.experiments.presets import paper as paper_search
from hglad.experiments.profile import Profile
from hglad.experiments.profile_checks import check_profile, summary
from hglad.experiments.profile_file import profile_from, read_profile
from hglad.experiments.tasks import DistillTask
from hglad.paths import PROJECT
from hglad.priors import files
from hglad.priors.stylegan_xl import Head, StyleGANXLSettings, plan_layers

CONFIGS = {path.stem: path for path in sorted((PROJECT / "configs").glob("*.yaml"))}


def made(**changes) -> Profile:
    return profile_from(**changed(**changes))


@pytest.mark.parametrize("name", ["smoke", "digits", "digits-search"])
def test_profiles_whose_images_are_here_fit(name):
    check_profile(read_profile(CONFIGS[name]))


LAYERS = {"prior": "digits-16", "search.stages": [0, 1, 9]}
CASES = [
    (
        {"data.name": "didgits"},
        "data: no data set 'didgits' and no folder of that path; did you",
    ),
    ({"data.root": "nowhere"}, "data.root is 'nowhere', no folder seen from"),
    ({"sets.ipc": [500]}, "sets.ipc has 500: class "),
    (
        {"surrogate.network.depth": 6},
        "surrogate.network: convnet of depth 6 needs images of at",
    ),
    ({"metric.network.width": 0}, "metric.network: convnet has width=0"),
    (
        {"networks.big": {"name": "convnet", "depth": 5}},
        "networks.big: convnet of depth 5 needs",
    ),
    (
        {"networks.odd": {"name": "vit", "patch": 5}},
        "networks.odd: vit cannot cut 16 x 16 px into",
    ),
    (
        {"networks.odd": {"name": "convnet", "norm": "layer"}},
        "networks.odd: unknown norm of convnet",
    ),
    ({"data.resolution": 8}, "makes images of (1, 16, 16), the images of data are (1, 8, 8)"),
    ({"prior": "digits-61"}, "prior names the generator 'digits-61', which is not there: did you mean"),
    ({"studies.families": ["digits-61"]}, "studies.families names the generator 'digits-61'"),
    (LAYERS, "search (dm, hierarchical): split point 9 does not exist: expected 0 to 6"),
    ({"search.layer": 7}, "search (dm, single): split point 7 does not exist"),
    (
        {"sets.ipc": [1, 2], "surrogate.objectives.dm": {"at_ipc": {2: {"shares": [1, 2]}}}},
        "search (dm, hierarchical): search.shares is [1.0, 2.0]: expected a number for each of the 7",
    ),
    (
        {"search.stages": [6, 2]},
        "search (dm, hierarchical): search.stages is [6, 2]: expected 6",
    ),
    ({"search.shares": [1.0, 2.0]}, "a number for each of the 7 stages"),
    ({"search.steps": 3}, "search.steps is 3: expected at least one for each of the 7 stages"),
    ({"search.labels": [0, 1]}, "search.labels is [0, 1]: the generator digits-16 has 10 classes"),
    ({"search.labels": [10] * 10}, "search.labels is [10, 10"),
    (
        {"surrogate.objectives.dm.tuned": {"single": {"layer": 8}}},
        "(dm, single): split point 8",
    ),
    ({"surrogate.objectives.dc.options.distance": "l2"}, "objectives.dc: unknown distance of dc, 'l2'"),
    ({"surrogate.objectives.dc.options.outer_loops": 0}, "objectives.dc: objective 'dc' has outer_loops=0"),
    ({"surrogate.objectives.mtt.options.unroll": "half"}, "objectives.mtt: unknown unroll of mtt, 'half'"),
    (
        {"surrogate.objectives.mtt.options.student_steps": 0},
        "objectives.mtt: objective 'mtt' has",
    ),
    ({"surrogate.objectives.mtt.options.student_lr": -1.0}, "surrogate.objectives.mtt: "),
    ({"metric.options": {"normalization": "median"}}, "metric: unknown normalization of class_relevant,"),
    ({"metric.options": {"layer": 7}}, "metric: layer is 7; give"),
]


@pytest.mark.parametrize(("changes", "message"), CASES, ids=[message[:50] for _, message in CASES])
def test_what_does_not_fit_is_one_clear_line(changes, message):
    profile = made(**changes)
    with pytest.raises(HgladError) as caught:
        check_profile(profile)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        (
            {"name": "cifar10", "root": "nowhere"},
            "hglad data check cifar10 --root nowhere --download",
        ),
        (
            {"name": "folder", "root": "nowhere", "resolution": 8},
            r"put images there, {train,test}/<class>/<",
        ),
    ],
)
def test_how_to_get_missing_images_is_said(data, advice):
    with pytest.raises(HgladError, match=re.escape(advice)):
        check_profile(made(data=data))


def test_a_missing_data_set_of_torchvision_is_said_with_the_command(tmp_path):
    with pytest.raises(HgladError, match="^data: .*data check cifar10 --root .* --download fetches it$"):
        check_profile(made(data={"name": "cifar10", "root": str(tmp_path)}))


# A generator that is to be trained first


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose generator `dots` has a recipe for digits of 16 px and no file."""
    for folder in ("data/priors", "configs/priors"):
        (tmp_path / folder).mkdir(parents=True)
    generator = {"z_dim": 4, "w_dim": 4, "channel_base": 16, "channel_max": 4, "num_layers": 3}
    recipe = {"data": {"name": "digits", "resolution": 16}, "training": {"generator": generator}}
    (tmp_path / "configs" / "priors" / "dots.yaml").write_text(yaml.safe_dump(recipe))
    for module in (files,):
        monkeypatch.setattr(module, "PROJECT", tmp_path)


TO_TRAIN = {"prior": "dots", "studies.families": []}


def test_a_generator_to_come_is_judged_by_its_recipe(project):
    check_profile(made(**TO_TRAIN))
    assert summary(made(**TO_TRAIN)).endswith("; dots is trained first, the rest is planned after it")
    with pytest.raises(HgladError, match=r"split point 5 does not exist: expected 0 to 4"):
        check_profile(made(**TO_TRAIN, **{"search.layer": 5}))
    with pytest.raises(HgladError, match="the generator dots has 10 classes"):
        check_profile(made(**TO_TRAIN, **{"search.labels": [1]}))


def test_a_recipe_for_other_images_does_not_fit(project):
    with pytest.raises(HgladError, match=r"dots makes images of \(1, 16, 16\), the images of data are"):
        check_profile(made(**TO_TRAIN, **{"data.resolution": 8}))


# The shipped profiles of images that are not part of the project


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """A folder with `datasets/cifar10` and `datasets/imagenette` of a few noise images of ten classes."""
    folder = tmp_path_factory.mktemp("stand-ins")
    rng = torch.Generator().manual_seed(0)
    for name, size in (("cifar10", 32), ("imagenette", 64)):
        for part, count in (("train", 10), ("test", 1)):
            for label in range(10):
                place = folder / "datasets" / name / part / f"class{label}"
                place.mkdir(parents=True)
                for index in range(count):
                    save_image(torch.rand(3, size, size, generator=rng), place / f"{index}.png")
    return folder


@pytest.mark.parametrize("name", ["cifar10", "imagenette"])
def test_profiles_of_natural_images_fit_images_of_their_size(stand_ins, monkeypatch, tmp_path, name):
    monkeypatch.chdir(stand_ins)
    monkeypatch.setenv("HGLAD_CACHE", str(tmp_path))
    check_profile(read_profile(CONFIGS[name]))


def test_the_profile_of_cifar10_is_what_it_says(stand_ins, monkeypatch, tmp_path):
    profile = read_profile(CONFIGS["cifar10"])
    assert set(profile.sets["objectives"]) == {"dm", "dc", "mtt"} and len(profile.sets["seeds"]) >= 3
    assert [options["name"] for options in profile.networks.values()] == [
        "convnet", "resnet18", "vgg11", "alexnet", "vit",
    ]  # fmt: skip
    for objective in ("dc", "dm"):  # the base papers' own, in bfloat16, and DM's shorter
        own = replace(protocol(objective), epochs=300, precision="bfloat16")
        assert profile.training("ConvNet-3", objective) == own


# The profile of the paper against its reference


@pytest.fixture(scope="module")
def paper() -> Profile:
    return read_profile(CONFIGS["paper"])


@pytest.fixture(scope="module")
def split_points() -> int:
    """Of StyleGAN-XL's released network at 128 px: a stem of 16 px and three heads that double it."""
    return (
        len(
            plan_layers(
                StyleGANXLSettings(img_resolution=16, num_layers=10, heads=(Head(up_factor=2, layers=7),) * 3)
            )
        )
        + 1
    )


@pytest.mark.parametrize("objective", RATES)
def test_the_search_of_the_paper_is_its_preset(paper, split_points, objective):
    search = vars(paper.searched(objective, "hierarchical"))
    wanted = paper_search(split_points)["search"] | published_schedule("paper", objective, split_points)
    assert {key: search[key] for key in wanted} == {
        key: tuple(value) if isinstance(value, list) else value for key, value in wanted.items()
    }


@pytest.mark.parametrize(
    ("objective", "layer", "steps", "rates"),
    [("dc", 16, 1000, (1.0, 0.001)), ("dm", 20, 1000, (10.0, 0.01)), ("mtt", 12, 5000, (10_000.0, 10.0))],
)
def test_glad_of_the_paper_is_the_published_one(paper, objective, layer, steps, rates):
    search = paper.searched(objective, "single")
    assert (search.layer, search.steps) == (layer, steps)
    assert (search.lr_features, search.lr_latents) == rates
    assert search.momentum == 0.5 and search.selection == "last"


def test_experts_and_protocol_of_the_paper_are_the_published_ones(paper):
    mtt = paper.objective("mtt")
    assert (mtt.experts.count, mtt.experts.epochs, mtt.experts.lr) == (100, 15, 0.01)
    assert mtt.options == {
        "unroll": "tesla", "student_steps": 20, "expert_epochs": 3, "max_start_epoch": 5, "student_lr": 0.01,
        "lr_student_lr": 1e-6,
    }  # fmt: skip
    assert paper.surrogate.batch_real == 256 and paper.surrogate.network["depth"] == 5
    for label, options in paper.networks.items():
        for objective in RATES:
            assert paper.training(label, objective) == protocol("glad", options["name"])
    assert paper.evaluation.repeats == 5


# The command


def test_the_command_says_how_much_there_is(capsys):
    assert main(["check", str(CONFIGS["smoke"])]) == 0
    printed = capsys.readouterr().out
    sets = sum(isinstance(task, DistillTask) for task in plan(read_profile(CONFIGS["smoke"])))
    assert printed.startswith(f"{CONFIGS['smoke']} fits: experiments matching_objectives, ")
    assert f", {sets} sets, " in printed and printed.count("\n") == 1


def test_the_command_refuses_in_one_line(capsys, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(changed(**{"search.layer": 7})))
    assert main(["check", str(path)]) == 1
    assert capsys.readouterr().err == (
        "hglad: search (dm, single): split point 7 does not exist: expected 0 to 6 "
        "(input, L0_24_24, L1_24_24, L2_24_24, L3_24_24, L4_16_24, pixels)\n"
    )
