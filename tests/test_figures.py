"""Figures show the numbers they are given, in one color per method, and are the same bytes each time."""

import base64
import io
import re

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from PIL import Image
from result_frames import make_distances

from hglad.analysis import claims, figures
from hglad.analysis.statistics import summarize
from hglad.errors import HgladError
from hglad.networks import create_network

STAGES = [{"name": "input", "steps": 10}, {"name": "L0_24_24", "steps": 10}, {"name": "pixels", "steps": 5}]
CLASSES = ("ant", "bee", "cat")


def make_rows(objectives=("dm",), networks=("A",), ipcs=(1, 10), seeds=3, full=95.0) -> pd.DataFrame:
    """Two repeats of each seed per cell around known means, and two full-set networks."""
    rng, methods = np.random.default_rng(0), ("random", "pixels", "single", "hierarchical")
    rows = [
        {"objective": None if method == "random" else objective, "method": method, "ipc": ipc, "seed": seed}
        | {"network": network, "repeat": repeat, "accuracy": 50 + 5 * place + rng.normal()}
        for objective in objectives
        for place, method in enumerate(methods)
        for network in networks
        for ipc in ipcs
        for seed in range(seeds)
        for repeat in range(2)
    ]
    whole = {"objective": None, "method": "full", "ipc": None, "repeat": 0}
    rows += [whole | {"seed": s, "network": n, "accuracy": full + s} for n in networks for s in range(2)]
    return pd.DataFrame(rows)


def make_sweep() -> pd.DataFrame:
    rows = make_rows(ipcs=(1,))
    rows = rows[rows["method"].isin(["single", "pixels"])]
    rows = rows.assign(generator="one", layer=[4 if method == "pixels" else 1 for method in rows["method"]])
    return rows.assign(split_point=rows["layer"].map({1: "L0", 4: "pixels"}))


def make_history() -> pd.DataFrame:
    moments = [(0, 0, 2.0), (0, 10, 1.0), (1, 10, 1.0), (1, 20, 0.4), (2, 20, 0.4), (2, 25, 0.6)]
    parts = [pd.DataFrame(moments, columns=["stage", "at", "distance"]).assign(seed=seed) for seed in (3, 4)]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(
        selected=table["at"].eq(20) & table["stage"].eq(1), accuracy=[1, 2, 3, 4, 5, np.nan] * 2
    )


def make_images(count: int = 10) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def named_distances() -> pd.DataFrame:
    return make_distances().assign(stage_name=lambda rows: rows["stage"].map({0: "input", 1: "pixels"}))


SHARES = pd.DataFrame([[90.0, 10.0, 60.0], [80.0, 60.0, 11.0]], ["pixels", "GLaD"], CLASSES)
FINDINGS = pd.DataFrame(
    {"mean": [1.0, -1.0, 0.5], "low": [0.5, -2.0, np.nan], "high": [1.5, 0.5, np.nan]}
).assign(panel=["a", "a", "b"], line=["x", "y", "x"], verdict=["holds", "open", "too few seeds"])
FIGURES = {
    "by ipc": lambda: figures.accuracy(make_rows()),
    "by network": lambda: figures.accuracy(make_rows(("dm", "dc"), ("A", "B"), (1,)), "network"),
    "sweeps": lambda: figures.layer_sweeps(pd.concat([make_sweep(), make_sweep().assign(generator="b")]), 1),
    "steps": lambda: figures.over_steps(make_history(), STAGES, "feature", ("distance", "accuracy")),
    "scatter": lambda: figures.distance_and_accuracy(named_distances(), ["good", "bad"]),
    "choices": lambda: figures.chosen_accuracy(claims.choices(make_distances(), ["good", "bad"])),
    "differences": lambda: figures.differences(FINDINGS, "line", "panel"),
    "shares": lambda: figures.heat_map(SHARES, "accuracy (%)", framed=[1, 2]),
    "names": lambda: figures.heat_map(SHARES.gt(50).replace({True: "x", False: "y"}), names=["x", "y"]),
    "rows": lambda: figures.image_rows({"a": make_images(), "b": make_images()}, range(10)),
    "panels": lambda: figures.image_panels({"a": make_images(20), "b": make_images(20)}, 2),
    "changes": lambda: figures.image_changes({"a": make_images(), "b": 1 - make_images()}, range(10)),
    "overlays": lambda: figures.activation_overlays(
        {"a": make_images()}, {"a": make_images()[:, 0, ::2, ::2]}, range(10)
    ),
}  # fmt: skip


def intervals(axes) -> dict[str, list[tuple[float, float, float]]]:
    """Mean, low and high of every interval, by color."""
    found: dict[str, list] = {}
    for container in axes.containers:
        line, _, (bars,) = container.lines
        for segment in bars.get_segments():
            ends = (line.get_ydata()[0], segment[0, 1], segment[1, 1])
            found.setdefault(to_hex(line.get_color()).lower(), []).append(ends)
    return found


@pytest.mark.parametrize("name", FIGURES)
def test_same_rows_give_the_same_small_png_and_leave_the_style_of_others_alone(name):
    before = dict(matplotlib.rcParams)
    first, again = (figures.as_png(FIGURES[name]()) for _ in range(2))
    assert first == again and len(first) < 400_000
    assert Image.open(io.BytesIO(first)).info.keys() <= {"dpi"}
    assert dict(matplotlib.rcParams) == before


def test_bars_are_the_t_intervals_over_seeds_and_dots_the_seeds():
    rows = make_rows(full=80.0)
    axes = figures.accuracy(rows).axes[0]
    for method in ("random", "pixels", "hierarchical"):
        own, color = rows[rows["method"] == method], figures.COLORS[method]
        expected = summarize(own, ["ipc"])[["mean", "low", "high"]].to_numpy()
        assert np.allclose(intervals(axes)[color.lower()], expected)
        lines = [line for line in axes.lines if line.get_color() == color and line.get_alpha() == 0.45]
        dots = [value for line in lines for value in line.get_ydata()]
        assert dots == pytest.approx(own.groupby(["ipc", "seed"])["accuracy"].mean().tolist())
    (dashes,) = [each for each in axes.collections if each.get_label() == "full set"]
    assert dashes.get_segments()[0][:, 1].tolist() == [80.5, 80.5]
    assert len(set(figures.COLORS.values())) == len(figures.COLORS)


def test_below_three_seeds_a_mean_has_no_bar():
    for ends in intervals(figures.accuracy(make_rows(seeds=2)).axes[0]).values():
        assert all(mean == low == high for mean, low, high in ends)


def test_a_full_set_far_above_the_others_is_a_number_and_leaves_them_the_axis():
    figure = figures.accuracy(make_rows(full=1095.0))
    assert [text.get_text() for text in figure.axes[0].texts] == ["full set: 1095.5 ↑"]
    assert figure.axes[0].get_ylim()[1] < 80


def test_each_objective_has_a_panel_with_the_baselines():
    figure = figures.accuracy(make_rows(("dm", "dc")))
    assert [axes.get_title() for axes in figure.axes] == ["DM", "DC"]
    assert all(figures.COLORS["random"] in intervals(axes) for axes in figure.axes)


def test_steps_of_the_stages_follow_each_other_with_accuracy_below():
    upper, lower = FIGURES["steps"]().axes
    assert [text.get_text() for text in upper.texts] == [stage["name"] for stage in STAGES]
    assert upper.lines[0].get_xdata().tolist() == [0, 10, 10, 20, 20, 25]
    assert (upper.lines[1].get_xdata()[0], upper.lines[1].get_ydata()[0]) == (20, 0.4)
    assert lower.lines[0].get_ydata().tolist() == [1, 2, 3, 4, 5]


def test_a_difference_is_drawn_with_its_interval_in_the_color_of_its_verdict():
    upper, lower = FIGURES["differences"]().axes
    assert [label.get_text() for label in upper.get_yticklabels()] == ["x", "y"]
    line, _, (bars,) = upper.containers[0].lines
    assert bars.get_segments()[0][:, 0].tolist() == [0.5, 1.5] and line.get_color() == "#009E73"
    assert lower.containers[0].lines[2][0].get_segments()[0][:, 0].tolist() == [0.5, 0.5]


def test_a_table_of_shares_shows_its_numbers_and_frames_the_worst():
    axes = FIGURES["shares"]().axes[0]
    assert [text.get_text() for text in axes.texts] == ["90", "10", "60", "80", "60", "11"]
    assert [patch.get_xy() for patch in axes.patches] == [(1, 0), (2, 1)]


def test_images_are_drawn_clamped_in_order_and_a_panel_has_a_column_per_class():
    images = torch.stack([torch.full((1, 2, 2), value) for value in (-1.0, 0.5, 2.0)])
    drawn = figures.image_rows({"a": images}, CLASSES).axes[0].images[0].get_array()
    assert drawn[1, [1, 4, 7], 0].tolist() == [0, 0.5, 1]
    by_class = torch.arange(4).view(4, 1, 1, 1) / 4  # two classes of two images
    drawn = figures.image_panels({"a": by_class}, 2).axes[0].images[0].get_array()
    assert drawn[[1, 1, 3, 3], [1, 3, 1, 3], 0].tolist() == [0, 0.5, 0.25, 0.75]


def test_changes_have_one_scale_and_need_two_stages():
    dark, bright = torch.zeros(3, 1, 2, 2), torch.full((3, 1, 2, 2), 0.5)
    first, second, _ = figures.image_changes({"a": dark, "b": bright, "c": bright}, CLASSES).axes
    assert first.images[0].get_array()[1, 1].tolist() == pytest.approx([103 / 255, 0, 31 / 255], abs=0.01)
    assert second.images[0].get_array()[1, 1].min() > 0.96  # no change is white
    with pytest.raises(HgladError, match="changes between 1 stage: expected the images of 2"):
        figures.image_changes({"a": dark}, CLASSES)


def test_names_of_classes_over_their_columns_do_not_meet():
    figure = figures.image_rows(
        {"a": make_images(9)}, ["a very long class name", "cassette player", "n01"] * 3
    )
    FigureCanvasAgg(figure).draw()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert all(left.x1 <= right.x0 for left, right in zip(boxes, boxes[1:], strict=False))


def test_links_give_the_figure_above_them_and_its_numbers(monkeypatch):
    displayed: list = []
    monkeypatch.setattr(figures, "display", displayed.append)
    rows = pd.DataFrame({"method": ['the "last" one'], "x": [1.23456e-7], "none": [np.nan], "key": ["0a"]})
    links = figures.show(matplotlib.figure.Figure(), rows, "some-figure")
    assert displayed[0].data.startswith(b"\x89PNG") and repr(links) == "some-figure: 1 rows"
    pattern = r'href="data:text/csv;base64,([\w+/=]+)" download="(.*?)"'
    encoded, name = re.search(pattern, links._repr_html_()).groups()
    assert name == "some-figure.csv"
    table = pd.read_csv(io.BytesIO(base64.b64decode(encoded)))
    assert list(table) == ["method", "x"] and table["method"][0] == 'the "last" one'
    assert figures.show(matplotlib.figure.Figure()).data.startswith(b"\x89PNG") and len(displayed) == 1


def test_large_pictures_take_few_colors_and_look_the_same():
    pixels = torch.rand(1, 3, 300, 300, generator=torch.Generator().manual_seed(0)) / 4
    figure, exact = figures.image_panels({"a": pixels}, 1), io.BytesIO()
    image = Image.open(io.BytesIO(figures.as_png(figure)))
    figure.savefig(exact, dpi=figures.DPI)
    both = (np.asarray(each.convert("RGB"), float) for each in (image, Image.open(exact)))
    first, second = both
    assert image.mode == "P" and np.abs(first - second).mean() < 12


@pytest.mark.parametrize("name", ["convnet", "resnet18", "vit"])
def test_activation_maps_are_their_equation(name):
    """Weights are the mean gradients of the class's logit; the map is the positive part of their sum."""
    torch.manual_seed(0)
    network = create_network(name, image_shape=(1, 16, 16), classes=3)
    images, labels = torch.rand(3, 1, 16, 16), torch.tensor([0, 1, 2])
    found = figures.activation_maps(network.requires_grad_(False), images, labels, lambda x: x * 2)
    maps, embedding = network.eval().maps_and_embedding((images * 2).requires_grad_())
    logits = network.classifier(embedding)[torch.arange(3), labels]
    (gradient,) = torch.autograd.grad(logits.sum(), maps)
    expected = (gradient.mean((2, 3), keepdim=True) * maps).sum(1).clamp(min=0)
    expected = expected / expected.amax((1, 2), keepdim=True).clamp(min=1e-12)
    torch.testing.assert_close(found, expected.detach())
    assert found.min() >= 0 and not images.requires_grad
