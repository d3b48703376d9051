"""What notebooks print: links to numbers, tables of classes and baselines, and what must not be shown."""

import base64
import io
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure
from replacing import replace
from result_frames import THREE_SEEDS, cell_rows, keep_rows, together
from smoke_profile import changed

from hglad.analysis import report
from hglad.analysis.labels import LABELS
from hglad.analysis.laboratory import Laboratory, open_experiment
from hglad.evaluation.sets import to_uint8
from hglad.experiments.definitions import baselines, cross_architecture, glad_baseline
from hglad.experiments.profile import Profile
from hglad.experiments.profile_file import profile_from
from hglad.experiments.runner import run_all
from hglad.experiments.store import Store
from hglad.paths import PROJECT
from hglad.settings import GLAD_PROTOCOL

NETWORK = {"name": "convnet", "depth": 1, "width": 4}
QUICK = {"epochs": 1, "batch_size": 256, "lr": 0.1, "augmentation": "", "ema_decay": None}
SETTINGS = {
    "profile": "tiny",
    "data": {"name": "digits", "resolution": 8},
    "surrogate": {"network": NETWORK, "augmentation": "", "batch_real": 4, "objectives": {"dm": {}}},
    "search": {"steps": 2, "layer": 1, "rates": "relative", "select_every": 1},
    "metric": {"network": NETWORK, "training": QUICK},
    "evaluation": {"repeats": 2, "training": QUICK, "full_set": QUICK, "full_set_seeds": 1},
    "networks": {"main": NETWORK, "other": NETWORK | {"width": 3}},
    "sets": {"objectives": ["dm"], "searches": ["pixels", "single"], "ipc": [1, 2], "seeds": [0, 1]},
    "studies": {
        "sweep_seeds": 1, "baselines": ["herding", "class_mean", "samples"],
        "augmentations": ["", "crop_scale"],
    },
}  # fmt: skip
REAL = {"random", "herding", "k_center"}  # methods whose images are real ones


@pytest.fixture(scope="module")
def profile(prior_file) -> Profile:
    made = profile_from(**SETTINGS, prior=prior_file)
    return replace(made, studies=replace(made.studies, cross_seeds=2))  # without the hierarchical search


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def laboratories(profile, store) -> dict[str, Laboratory]:
    """Experiments whose results are all there, by name."""
    found = {make.__name__: make(profile) for make in (baselines, cross_architecture, glad_baseline)}
    for experiment in found.values():
        run_all(experiment.tasks(), store, cores=1)
    return {name: Laboratory(profile, store, experiment) for name, experiment in found.items()}


@pytest.fixture(scope="module")
def laboratory(laboratories) -> Laboratory:
    """Baselines beside pixels and GLaD, at two ipcs, under two augmentations."""
    return laboratories["baselines"]


# Links below a figure


def numbers_of(html: str) -> tuple[str, pd.DataFrame]:
    """Name of the file that the second link gives, and its content."""
    encoded, name = re.search(r'href="data:text/csv;base64,([\w+/=]+)" download="([^"]*)"', html).groups()
    return name, pd.read_csv(io.BytesIO(base64.b64decode(encoded)))


@pytest.fixture
def shown(monkeypatch) -> list:
    """What is displayed before the value of the cell."""
    found = []
    monkeypatch.setattr(report.show, "display", found.append)
    return found


NUMBERS = pd.DataFrame(
    {
        "method": ["GLaD, layer 1", 'the "last" one', "Größe 3 µm"],
        "ipc": [1, 10, np.nan],
        "seed": [0, 1, 2],
        "distance": [1.23456e-7, 123.456, 2.0],
        "accuracy": [97.2222, 8.0556, 100.0],
        "layer": [np.nan] * 3,
        "key": ["0a1b", "2c3d", "4e5f"],
    }
)


def test_links_give_the_figure_above_them_and_its_numbers(shown):
    links = report.picture(Figure(), NUMBERS, "some-figure")
    (image,) = shown
    assert image.data.startswith(b"\x89PNG")
    html = links._repr_html_()
    assert 'download="some-figure.png"' in html and "querySelector('img').src" in html
    name, table = numbers_of(html)
    assert name == "some-figure.csv"
    wanted = NUMBERS.drop(columns=["layer", "key"])  # nothing is in one, the other is of the store
    pd.testing.assert_frame_equal(table, wanted, check_dtype=False, rtol=1e-5)
    assert repr(links) == "some-figure: 3 rows"


def test_a_figure_without_numbers_has_no_links(shown):
    assert report.picture(Figure()).data.startswith(b"\x89PNG") and shown == []


def test_equal_numbers_are_equal_bytes(shown):
    first, again = (report.picture(Figure(), NUMBERS.copy(), "a")._repr_html_() for _ in range(2))
    assert first == again and shown[0].data == shown[1].data


def test_numbers_of_a_laboratory_come_back(laboratory, shown):
    rows = laboratory.rows
    _, table = numbers_of(report.picture(Figure(), rows, "baselines")._repr_html_())
    assert len(table) == len(rows) and "key" not in table
    np.testing.assert_allclose(table["accuracy"], rows["accuracy"], rtol=1e-5)
    for column in ("method", "augmentation"):
        assert table[column].fillna("").tolist() == rows[column].fillna("").tolist()


# Class by class

SHARES = np.array([[90.0, 10.0, 0.0], [30.0, 50.0, 20.0], [5.0, 5.0, 90.0]])
CLASSES = ("ant", "bee", "cat")


def test_the_worst_class_is_the_smallest_on_the_diagonal():
    matrices = {"one": SHARES, "other": SHARES[::-1, ::-1] + np.diag([0, 0, -60.0])}
    assert report.worst_classes(matrices, CLASSES).frame.to_dict("records") == [
        {"method": "one", "worst class": "bee", "accuracy on it (%)": "50.0"}
        | {"most often taken for": "ant (30 %), cat (20 %)", "mean of the classes (%)": "76.7"},
        {"method": "other", "worst class": "cat", "accuracy on it (%)": "30.0"}
        | {"most often taken for": "bee (10 %), ant (0 %)", "mean of the classes (%)": "56.7"},
    ]


def test_what_is_taken_for_as_often_comes_in_the_order_of_the_classes():
    shares = np.full((20, 20), 5.0)
    names = [str(label) for label in range(20)]
    (line,) = report.worst_classes({"none": shares}, names).frame.to_dict("records")
    assert line["worst class"] == "0" and line["most often taken for"] == "1 (5 %), 2 (5 %)"


def test_matrices_come_in_the_order_of_the_tables():
    keys = [("", "full"), ("dm", "single"), ("", "random"), ("dm", "pixels")]
    found = report.by_method({key: SHARES + place for place, key in enumerate(keys)})
    assert list(found) == ["random real", "pixels", "GLaD", "full set"]
    assert found["GLaD"][0, 0] == SHARES[0, 0] + 1
    several = report.by_method({(name, "pixels"): SHARES for name in ("dm", "dc")} | {("", "random"): SHARES})
    assert list(several) == ["random real", "pixels (DC)", "pixels (DM)"]


def test_numbers_by_class_have_a_row_for_each_true_class():
    table = report.class_numbers({"one": SHARES, "other": SHARES.T}, CLASSES)
    assert list(table) == ["method", "true_class", *CLASSES]
    assert table["method"].tolist() == ["one"] * 3 + ["other"] * 3
    assert table["true_class"].tolist() == [*CLASSES, *CLASSES]
    np.testing.assert_array_equal(table[list(CLASSES)], np.concatenate([SHARES, SHARES.T]))


def accuracy(shares: np.ndarray, data) -> float:
    """Of all test images, from the shares of each class."""
    counts = np.array(data.counts)
    return (shares.diagonal() * counts).sum() / counts.sum()


@pytest.mark.parametrize(
    ("name", "network", "ipc"),
    [
        ("baselines", None, None),
        ("baselines", "main", 2),
        ("cross_architecture", "main", 1),
        ("cross_architecture", "other", None),
        ("glad_baseline", None, None),
    ],
)
def test_shares_of_each_class_agree_with_the_accuracies(laboratories, small_digits, name, network, ipc):
    laboratory = laboratories[name]
    found = laboratory.confusions(network, ipc)
    rows = report.usual_rows(laboratory.main_rows)
    rows = rows[(rows["network"] == (network or "main")) & (rows["ipc"].isna() | (rows["ipc"] == (ipc or 1)))]
    methods = rows.fillna({"objective": ""}).groupby(["objective", "method"])["accuracy"].mean()
    assert found.keys() == set(methods.index) and ("", "full") in found
    for key, shares in found.items():
        np.testing.assert_allclose(shares.sum(axis=1), 100)
        assert accuracy(shares, small_digits.test) == pytest.approx(methods[key], abs=1e-3)
    assert methods.nunique() > 3, "methods that score alike could be taken for each other"


# Sweeps, augmentations, networks


def test_the_numbers_of_sweeps_name_generator_and_split_point():
    rows = cell_rows(THREE_SEEDS, "single", layer=1.0)
    table = report.sweep_numbers({"a": (rows, ("input", "L0")), "b": (rows.assign(layer=0), ("w", "pixels"))})
    assert table["generator"].tolist() == ["a"] * 6 + ["b"] * 6
    assert table["split_point"].tolist() == ["L0"] * 6 + ["w"] * 6
    assert table["accuracy"].tolist() == rows["accuracy"].tolist() * 2


def test_usual_rows_leave_out_other_augmentations(laboratory):
    usual = report.usual_rows(laboratory.rows)
    assert set(laboratory.rows["augmentation"].dropna()) == {"crop, scale"}
    assert usual["augmentation"].isna().all() and len(usual) == len(
        laboratory.rows.query("augmentation.isna()")
    )
    assert 2 * (len(usual) - 1) == len(laboratory.rows) - 1  # the full set is trained under one only
    rows = cell_rows(THREE_SEEDS)
    pd.testing.assert_frame_equal(report.usual_rows(rows), rows)


def test_the_augmentation_table_has_the_usual_one_first(laboratory):
    table = report.augmentation_table(laboratory).frame
    assert list(table) == ["ipc", "method", "none", "crop, scale"]
    methods = ["random real", "class mean", "herding", "samples", "pixels", "GLaD"]
    assert table["method"].tolist() == methods + [name for name in methods if name != "class mean"]
    assert table["ipc"].tolist() == ["1"] * 6 + ["2"] * 5
    rows = laboratory.rows.fillna({"augmentation": "none"})
    for _, line in table.iterrows():
        method = next(name for name, label in LABELS.items() if label == line["method"])
        own = rows[(rows["method"] == method) & (rows["ipc"] == int(line["ipc"]))]
        seeds = 1 if method == "class_mean" else 2
        for augmentation in ("none", "crop, scale"):
            mean = own[own["augmentation"] == augmentation]["accuracy"].mean()
            assert line[augmentation].startswith(f"{mean:.1f}")
            assert line[augmentation].endswith(f"({seeds}×2)")


def test_without_other_augmentations_the_table_has_one_column(laboratories):
    table = report.augmentation_table(laboratories["cross_architecture"]).frame
    assert list(table) == ["ipc", "method", "none"]


def test_an_objective_with_its_own_augmentation_has_its_column(monkeypatch):
    monkeypatch.chdir(PROJECT)
    monkeypatch.delenv("HGLAD_RESULTS", raising=False)
    values = yaml.safe_load((PROJECT / "configs" / "cifar10.yaml").read_text())
    table = report.augmentation_table(open_experiment("baselines", **values)).frame.set_index("method")
    assert list(table) == ["ipc", "crop, scale, rotate", "color, crop, cutout, flip, scale, rotate"]
    own = table.iloc[:, 2] != "–"
    assert set(table.index[own]) == {
        f"{m} ({o})" for m in ("pixels", "GLaD", "H-GLaD") for o in ("DM", "MTT")
    }
    assert ((table.iloc[:, 1] != "–") != own).all()


def test_networks_have_a_column_each_and_a_gap_for_each_method(laboratories):
    rows = laboratories["cross_architecture"].rows
    table = report.network_table(rows).frame
    assert list(table) == ["method", "main", "other"]
    gaps = report.gap_table(report.network_gaps(rows, "main")).frame
    assert (
        gaps["method"].tolist() == table["method"].tolist() == ["random real", "pixels", "GLaD", "full set"]
    )
    means = rows[rows["method"] == "pixels"].groupby("network")["accuracy"].mean()
    assert gaps["gap (points)"].iloc[1] == report.signed(means["main"] - means["other"])


# Pictures


@pytest.fixture
def drawn(monkeypatch) -> dict:
    """Rows of images by label, as they are handed to the figure that then draws them."""
    found, draw = {}, report.baselines.image_rows

    def noting(rows, classes):
        found.update(rows)
        return draw(rows, classes)

    monkeypatch.setattr(report.baselines, "image_rows", noting)
    return found


def is_real(image, data) -> bool:
    return bool((data.images == to_uint8(image)).flatten(1).all(dim=1).any())


def hidden(laboratory: Laboratory, *methods: str) -> Laboratory:
    """The same laboratory of data that may not be shown; only with some methods where they are named."""
    profile = replace(laboratory.profile, data=replace(laboratory.profile.data, show=False))
    evaluations = [t for t in laboratory.experiment.evaluations if not methods or t.method in methods]
    experiment = replace(laboratory.experiment, evaluations=evaluations)
    return Laboratory(profile, laboratory.store, experiment)


def test_baselines_are_shown_by_class(laboratory, small_digits, drawn):
    assert report.baseline_pictures(laboratory).data.startswith(b"\x89PNG")
    assert list(drawn) == ["random real", "class mean", "herding", "samples"]
    real = {label: [is_real(image, small_digits.train) for image in rows] for label, rows in drawn.items()}
    assert {label for label, flags in real.items() if all(flags)} == {"random real", "herding"}
    assert not any(real["samples"] + real["class mean"])
    assert all(rows.shape == (10, 1, 8, 8) for rows in drawn.values())


def test_no_real_image_is_shown_where_the_profile_says_so(laboratory, small_digits, drawn):
    report.baseline_pictures(hidden(laboratory))
    assert list(drawn) == ["class mean", "samples"]
    assert not any(is_real(image, small_digits.train) for rows in drawn.values() for image in rows)


def test_with_nothing_but_real_images_there_is_a_sentence_instead(laboratory, drawn):
    found = report.baseline_pictures(hidden(laboratory, *REAL))
    assert "real images, which the profile does not show" in repr(found) and not drawn


# Beside published numbers


def test_nothing_published_is_said(laboratory, shown):
    assert repr(report.published_beside(laboratory)).startswith("Nothing is on record as published")
    assert shown == []


def test_baselines_of_the_published_data_stand_beside_their_numbers(tmp_path, shown):
    """Those under another augmentation do not; the data set is in the provenance."""
    store = Store(tmp_path)
    frames = {
        "a": cell_rows(THREE_SEEDS, "herding", objective=None),
        "b": cell_rows(THREE_SEEDS, "herding", objective=None, augmentation="crop, scale"),
    }
    for key, rows in frames.items():
        images = {"dataset": "cifar10", "shape": [3, 32, 32]}
        keep_rows(store, key, rows, vars(GLAD_PROTOCOL), {"name": "convnet"}, "herding", images=images)
    results = SimpleNamespace(rows=together(*(store.rows([key]) for key in frames)), store=store)
    notes = report.published_beside(results).lines
    assert notes[0] == "Our ± is a 95 % t interval over distillation seeds."
    (table,) = shown
    assert table.frame.iloc[0].to_dict() == {
        "published method": "herding",
        "objective": "–",
        "ipc": "1",
        "evaluation": "same architecture (ConvNet-3)",
        "published": "21.5 ± 1.2",
        "ours": "53.0 ± 4.3 (3×2)",
        "what differs": "training of the networks: not on record for this source",
        "source": "NCFM (CVPR 2025), table 1",
    }


@pytest.mark.parametrize(("networks", "wrapped"), [(4, False), (5, True)])
def test_a_table_of_many_networks_breaks_its_lines(networks, wrapped):
    rows = together(*(cell_rows(THREE_SEEDS, network=f"Network-{number}") for number in range(networks)))
    assert ("white-space: normal" in report.network_table(rows)._repr_html_()) == wrapped


def test_starts_are_told_by_objective_and_number_of_images_per_class():
    values = changed(**{"sets.ipc": [1, 2, 10], "sets.objectives": ["dm", "dc", "mtt"]})
    averaged = {"tuned": {"hierarchical": {"average": 1000}}}
    values["surrogate"]["objectives"]["dm"] = averaged | {"at_ipc": {n: {"average": 1} for n in (2, 10)}}
    values["surrogate"]["objectives"]["mtt"] |= averaged | {"ipc": [1]}
    assert report.start_sentences(profile_from(**values)).lines == (
        "DM, MTT at ipc 1: "
        "GLaD from one mapped latent, H-GLaD from the mean of 1,000 mapped latents for each image",
        "DM at ipc 2 and 10: GLaD and H-GLaD from one mapped latent for each image",
        "DC at ipc 1 and 2 and 10: GLaD and H-GLaD from one mapped latent for each image",
    )


def run_card(best: tuple[int, int], history: list[tuple], objective: str = "dm", **search) -> dict:
    layers = {"latent": 0, "L0": 1, "pixels": 2}
    return {
        "settings": {"objective": objective, "ipc": 1, "search": {"selection": "metric"} | search},
        "stages": [{"name": name, "layer": layer, "steps": 4} for name, layer in layers.items()],
        "best": dict(zip(("stage", "step"), best, strict=True)),
        "history": history,
    }


CARRIED = [(0, 0, 0.5), (0, 2, 0.3), (0, 4, 0.6), (1, 0, 0.31), (1, 4, 0.7), (2, 0, 0.29), (2, 4, 0.8)]
KEPT_START = [(0, 0, 0.3), (0, 4, 0.6), (1, 0, 0.3), (1, 4, 0.7), (2, 0, 0.29), (2, 4, 0.8)]


@pytest.mark.parametrize(
    ("best", "history", "search", "expected"),
    [
        ((1, 4), CARRIED, {}, (1, 4)),
        ((2, 0), CARRIED, {}, (0, 2)),
        ((2, 0), CARRIED, {"stage_start": "best"}, (0, 2)),
        ((2, 0), CARRIED, {"stage_start": "last"}, (1, 4)),
        ((2, 0), KEPT_START, {}, (0, 0)),
        ((0, 0), KEPT_START, {}, (0, 0)),
    ],
)
def test_an_iterate_is_of_the_stage_that_made_it_and_not_of_one_that_begins_there(
    best, history, search, expected
):
    assert report.made_at(run_card(best, history, **search)) == expected


def test_kept_iterates_are_counted_by_stage_in_the_order_of_the_layers():
    without_latents = run_card((1, 4), CARRIED, "dc")
    without_latents["stages"][0]["name"] = "input"
    cards = [
        run_card((2, 0), CARRIED),
        run_card((2, 0), KEPT_START),
        run_card((2, 4), CARRIED),
        without_latents,
    ]
    assert report.kept_table(cards).frame.values.tolist() == [
        ["none: the start", "1", "0"],
        ["latent", "1", "–"],
        ["input", "–", "0"],
        ["L0", "0", "1"],
        ["pixels", "1", "0"],
    ]
