"""Published numbers beside own ones: which belong together, and what is said to differ."""

import io

import pandas as pd
import pytest
import torch
from result_frames import THREE_SEEDS, cell_rows, keep_rows, together

from hglad.analysis import published, tables
from hglad.analysis.published import CROSS, NETWORKS, SAME, Images, images_of
from hglad.cli import main
from hglad.errors import HgladError
from hglad.experiments.store import Store
from hglad.paths import PROJECT
from hglad.settings import DSA, GLAD_PROTOCOL
from hglad.storage import write_json, write_tensors

TRAINING = vars(GLAD_PROTOCOL)
IMAGENETTE = Images("imagenette", 128)


def write_card(store: Store, key: str, **changes: object) -> None:
    settings = {
        "data": {"name": "imagenette", "root": "somewhere", "resolution": 128},
        "prior": "imagenet128",
        "surrogate": {"augmentation": DSA},
    }
    card = {"settings": settings | changes, "stages": [{"steps": 600}, {"steps": 400}]}
    write_json(store.set_folder(key) / "card.json", card)


def kept(store: Store, method: str, key: str, network: dict, label: str, **training: object) -> pd.DataFrame:
    rows = cell_rows(THREE_SEEDS, method, network=label)
    keep_rows(store, key, rows, TRAINING | training, network, f"set of {method}")
    write_card(store, f"set of {method}")
    return store.rows([key])


def beside(rows: pd.DataFrame, store: Store, images: Images) -> pd.DataFrame:
    """Published numbers that have one of ours beside them."""
    found = published.numbers(rows, store, images)
    return found[found["missing"] == ""].reset_index(drop=True)


def test_own_numbers_stand_beside_those_of_the_same_method_and_network(tmp_path):
    store = Store(tmp_path)
    rows = together(
        kept(store, "single", "a", {"name": "convnet"}, "ConvNet-5"),
        kept(store, "single", "b", {"name": "convnet", "depth": 3}, "ConvNet-3"),
        kept(store, "k_center", "c", {"name": "convnet"}, "ConvNet-5"),
    )
    table = beside(rows, store, IMAGENETTE)
    assert table[["method", "published_method", "published", "mean"]].values.tolist() == [
        ["single", "GLaD", 32.2, 53.0]
    ]
    assert (table["sd"][0], table["sd_networks"][0]) == pytest.approx((3**0.5, 2))
    assert table["source"][0] == "GSDD (ICLR 2026 submission), table 1 and 2"
    assert table["published_spread"][0] == "none (5 networks of one set)"
    assert table["differences"][0] == "generator: imagenet128 (published: StyleGAN-XL trained on ImageNet)"


def test_what_differs_is_named(tmp_path):
    store = Store(tmp_path)
    narrow = {"name": "convnet", "width": 32}
    rows = kept(store, "single", "a", narrow, "ConvNet-5", epochs=200, ema_decay=None)
    write_card(store, "set of single", prior="digits-16")
    (text,) = beside(rows, store, IMAGENETTE)["differences"]
    for part in (
        "convnet of width 32 (published: 128)",
        "epochs of training: 200 (published: 1000)",
        "ema_decay of training: none (published: 0.995)",
        "generator: digits-16 (published: StyleGAN-XL trained on ImageNet)",
    ):
        assert part in text
    assert "steps" not in text and "lr of training" not in text


def test_a_mean_over_architectures_is_that_of_the_sets_that_all_have_met(tmp_path):
    store = Store(tmp_path)
    rows = together(
        kept(store, "single", "a", {"name": "alexnet"}, "AlexNet"),
        kept(store, "single", "b", {"name": "vgg11"}, "VGG-11", lr=0.0001),
        kept(store, "single", "c", {"name": "convnet", "depth": 3}, "ConvNet-3"),
    )
    rows.loc[rows["network"] == "VGG-11", "accuracy"] -= 10
    rows = rows[(rows["network"] != "VGG-11") | (rows["seed"] > 0)].assign(objective="mtt")
    (line,) = beside(rows, store, IMAGENETTE).to_dict("records")
    assert line["evaluation"].startswith("cross-architecture mean")
    assert (line["mean"], line["seeds"], line["repeats"]) == (49, 2, 2)
    assert "ours without ResNet-18, ViT" in line["differences"]
    assert "lr of training" not in line["differences"]  # VGG-11's own rate is the published one


def test_every_published_number_has_ours_or_the_reason_why_not(tmp_path):
    store = Store(tmp_path)
    network = {"name": "convnet", "depth": 3}
    rows = together(
        kept(store, "random", "a", network, "ConvNet-3").assign(objective=None),
        kept(store, "pixels", "b", network, "ConvNet-3").assign(objective="dc"),
        kept(store, "full", "c", network, "ConvNet-3").assign(objective=None, ipc=None),
    )
    ours, others = tables.published_tables(published.numbers(rows, store, Images("cifar10", 32)))
    assert ours.cells[["published method", "objective", "ipc"]].values.tolist() == [
        ["random real images", "–", "1"],
        ["pixel", "DC", "1"],
        ["pixel (DSA)", "DC", "1"],
        ["whole training set", "–", "all images"],
    ]
    assert ours.frame["ours"].str.startswith("53.0").all()
    assert ours.notes == (
        "Our ± is a 95 % t interval over distillation seeds.",
        "The published ± is of a kind that is not on record: random real images, whole training set.",
        "The published ± is a standard deviation over networks (20 networks of each of 5 sets): "
        "pixel (DC), pixel (DSA) (DC).",
    )
    why = others.frame.set_index("published method")["why not here"]
    assert set(why["herding"]) == {"not measured in this profile"}
    assert set(why["NCFM"]) == {"not a method of this project"}
    assert len(ours.frame) + len(others.frame) > 30


def test_nothing_published_is_an_empty_table(tmp_path):
    store = Store(tmp_path)
    rows = kept(store, "single", "a", {"name": "convnet"}, "ConvNet-3")
    assert beside(rows, store, Images("digits", 16)).empty


def test_the_data_set_is_on_the_cards_of_the_sets(tmp_path):
    store = Store(tmp_path)
    kept(store, "single", "a", {"name": "convnet"}, "ConvNet-5")
    assert images_of(store, ["a"]) == IMAGENETTE
    write_card(store, "set of single", data={"name": "folder", "root": "data/cifar10", "resolution": 32})
    assert images_of(store, ["a"]) == Images("cifar10", 32)
    write_card(store, "set of single", data={"name": "cifar10", "root": None, "resolution": None})
    images = {"images": torch.zeros(2, 3, 32, 32)}
    write_tensors(store.set_folder("set of single") / "distilled.safetensors", images)
    assert images_of(store, ["a"]) == Images("cifar10", 32)
    kept(store, "hierarchical", "b", {"name": "convnet"}, "ConvNet-5")
    with pytest.raises(HgladError, match="are of cifar10 at 32 px, imagenette at 128 px: expected one"):
        images_of(store, ["a", "b"])


def recorded(store: Store, key: str, dataset: str, size: int) -> None:
    """An evaluation of a baseline, which has no card: its provenance says what it was scored on."""
    images = {"dataset": dataset, "shape": [3, size, size]}
    rows = cell_rows(THREE_SEEDS, "herding", objective=None)
    keep_rows(store, key, rows, TRAINING, {"name": "convnet"}, "herding", images=images)


def test_the_data_set_of_baselines_is_in_their_provenance(tmp_path):
    store = Store(tmp_path)
    recorded(store, "a", "cifar10", 32)
    assert images_of(store, ["a"]) == Images("cifar10", 32)
    kept(store, "single", "b", {"name": "convnet"}, "ConvNet-5")
    with pytest.raises(HgladError, match="are of cifar10 at 32 px, imagenette at 128 px: expected one"):
        images_of(store, ["a", "b"])
    recorded(store, "c", "imagenette", 128)
    assert images_of(store, ["b", "c"]) == IMAGENETTE  # of both kinds
    recorded(store, "d", "imagenette", 64)
    with pytest.raises(HgladError, match="are of imagenette at 128 px, imagenette at 64 px"):
        images_of(store, ["c", "d"])


def test_a_data_set_that_is_nowhere_on_record_is_an_error(tmp_path):
    store = Store(tmp_path)
    rows = cell_rows(THREE_SEEDS, "random", objective=None)
    keep_rows(store, "a", rows, TRAINING, {"name": "convnet"}, "random")
    with pytest.raises(HgladError, match="are of no data set: expected one for published numbers"):
        images_of(store, ["a"])


def test_committed_results_stand_beside_the_base_papers(capsys):
    """The protocol of the committed run is theirs; what was shortened is on its cards."""
    folder = PROJECT / "data" / "results" / "cifar10-matching"
    assert main(["results", "table", str(folder), "--published", "--format", "csv"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out)).set_index(["published_method", "objective"])
    dc = table.loc[("pixel", "dc"), "differences"]
    assert "of training" not in dc and "(published: 1000)" in dc
    assert (
        "standard deviation over networks (20 networks of each of 5 sets)"
        in table.loc[("pixel", "dc"), "published_spread"]
    )
    assert "of a kind that is not on record" in table.loc[("pixel", "mtt"), "published_spread"]
    assert "siamese augmentation: none" in table.loc[("pixel (DSA)", "dc"), "differences"]
    assert table.loc[("pixel", "dm"), "published"] == 26.0


def test_every_published_kind_of_evaluation_is_understood():
    kinds = pd.read_csv(PROJECT / "data" / "published.csv")["evaluation"].unique()
    assert all(SAME.fullmatch(kind) or CROSS.fullmatch(kind) for kind in kinds)
    names = {name for kind in kinds if (found := CROSS.match(kind)) for name in found[1].split(", ")}
    assert names == set(NETWORKS)
