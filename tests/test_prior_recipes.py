"""A generator that is not there: whether a recipe can make it, and what is said where none can."""

from pathlib import Path

import pytest

from hglad.errors import HgladError
from hglad.experiments import prior_recipes
from hglad.experiments.prior_recipes import check_obtainable, is_there, prior_recipe
from hglad.paths import PROJECT
from hglad.priors import files
from hglad.priors.training.train import read_prior_settings

RECIPES = sorted((PROJECT / "configs" / "priors").glob("*.yaml"))


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project without generators, with a recipe `leaves`."""
    for folder in ("data/priors", "configs/priors"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "configs" / "priors" / "leaves.yaml").write_text("data: {name: digits}\n")
    for module in (prior_recipes, files):
        monkeypatch.setattr(module, "PROJECT", tmp_path)
    return tmp_path


def test_a_missing_generator_has_its_recipe(project):
    assert not is_there("leaves")
    assert prior_recipe("leaves") == project / "configs" / "priors" / "leaves.yaml"
    check_obtainable("prior", "leaves")


@pytest.mark.parametrize("suffix", [".safetensors", ".yaml"])
def test_one_that_is_there_needs_none(project, suffix):
    (project / "data" / "priors" / f"leaves{suffix}").touch()
    assert is_there("leaves") and prior_recipe("leaves") is None
    check_obtainable("prior", "leaves")


@pytest.mark.parametrize(
    "name", ["trees", "configs/priors/leaves", "../priors/leaves", "leaves.safetensors", ""]
)
def test_names_without_a_recipe(project, name):
    assert prior_recipe(name) is None
    with pytest.raises(HgladError, match="prior names the generator .*, which is not there: ") as caught:
        check_obtainable("prior", name)
    assert "\n" not in str(caught.value)


def test_what_can_be_done_is_said(project):
    with pytest.raises(HgladError, match="did you mean 'leaves'?.*write configs/priors/leafs.yaml"):
        check_obtainable("prior", "leafs")
    with pytest.raises(
        HgladError, match="hglad prior import --name imagenet128 --out data/priors/imagenet128"
    ):
        check_obtainable("studies.families", "imagenet128")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_make_generators_small_enough_to_be_committed(path):
    from hglad.priors.registry import family, kind_of
    from hglad.priors.training.stem import with_stem

    training = read_prior_settings(path).training
    settings = with_stem(training.stem, training.generator) if training.stem else training.generator
    made = family(kind_of(settings))(settings)
    assert sum(x.numel() * x.element_size() for x in made.state_dict().values()) < 12e6
