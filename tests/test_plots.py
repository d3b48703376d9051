"""The figures show the numbers they are given, in one colour per method, and are the same bytes each time."""

import io
from itertools import pairwise

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from PIL import Image
from replacing import replace
from result_frames import make_distances, make_variants

from hglad.analysis import plots, report, selection
from hglad.analysis.figures import DPI, LARGE, as_png
from hglad.analysis.statistics import summarise
from hglad.errors import HgladError
from hglad.search.stages import Stage

STAGES = [
    Stage(0, "input", 10, 0.1, 0.02),
    Stage(1, "L0_24_24", 10, 0.1, 0.02),
    Stage(2, "pixels", 5, 0.1, 0.0),
]


def make_rows(methods=("random", "pixels", "single", "hierarchical"), networks=("A",), ipcs=(1, 10)):
    """Two repeats of three seeds per cell around known means, and two full-set networks."""
    rng = np.random.default_rng(0)
    rows = [
        {"objective": None if method == "random" else "dm", "method": method, "layer": None, "ipc": ipc}
        | {"seed": seed, "network": network, "repeat": repeat, "accuracy": 50 + 5 * place + rng.normal()}
        for place, method in enumerate(methods)
        for network in networks
        for ipc in ipcs
        for seed in range(3)
        for repeat in range(2)
    ]
    rows += [
        {"objective": None, "method": "full", "layer": None, "ipc": None, "seed": seed, "network": network}
        | {"repeat": 0, "accuracy": 95.0 + seed}
        for network in networks
        for seed in range(2)
    ]
    return pd.DataFrame(rows)


def make_history() -> pd.DataFrame:
    moments = [(0, 0, 2.0), (0, 10, 1.0), (1, 0, 1.0), (1, 10, 0.4), (2, 0, 0.4), (2, 5, 0.6)]
    best = {"stage": 1, "step": 10}
    cards = [{"settings": {"seed": seed}, "history": moments, "best": best} for seed in range(2)]
    return report.distance_history(cards)


def make_images(count: int = 10) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def make_winners() -> pd.DataFrame:
    """Best stage of three classes in two runs."""
    return pd.DataFrame([[0, 1, 2], [1, 1, 0]], index=pd.Index([3, 4], name="seed"), columns=["x", "y", "z"])


CLASSES = ("ant", "bee", "cat")
SHARES = {  # true class, predicted class; the worst classes are bee and cat
    "pixels": np.array([[90.0, 10.0, 0.0], [30.0, 50.0, 20.0], [5.0, 5.0, 90.0]]),
    "GLaD": np.array([[80.0, 0.0, 20.0], [0.0, 60.0, 40.0], [44.0, 45.0, 11.0]]),
}

FIGURES = {
    "network_gaps": lambda: plots.network_gaps(make_rows(networks=("A", "B", "C"), ipcs=(1,)), "A"),
    "class_accuracies": lambda: plots.class_accuracies(SHARES, CLASSES),
    "worst_confusion": lambda: plots.worst_confusion(SHARES, CLASSES),
    "accuracy_by_method": lambda: plots.accuracy_by_method(make_rows(("random", "herding", "pixels"))),
    "accuracy_by_ipc": lambda: plots.accuracy_by_ipc(make_rows()),
    "accuracy_by_network": lambda: plots.accuracy_by_network(make_rows(networks=("A", "B"), ipcs=(1,))),
    "layer_sweep": lambda: plots.layer_sweep(
        make_rows(("single",), ipcs=(1,)).assign(layer=1), ["input", "L0", "pixels"], chosen=1
    ),
    "family_sweeps": lambda: plots.family_sweeps(
        {
            "one": (make_rows(("single",), ipcs=(1,)).assign(layer=1), ["input", "L0", "pixels"]),
            "other": (make_rows(("pixels",), ipcs=(1,)).assign(layer=1), ["input", "pixels"]),
        }
    ),
    "distance_over_steps": lambda: plots.distance_over_steps(make_history(), STAGES, "feature"),
    "distance_and_accuracy": lambda: plots.distance_and_accuracy(
        make_distances(), ["good", "bad"], ["input", "pixels"]
    ),
    "chosen_accuracy": lambda: plots.chosen_accuracy(selection.choices(make_distances(), ["good", "bad"])),
    "effects": lambda: plots.effects(selection.effects(make_variants(), "all"), "all"),
    "image_rows": lambda: plots.image_rows({"a": make_images(), "b": make_images()}, range(10)),
    "image_panels": lambda: plots.image_panels({"a": make_images(20), "b": make_images(20)}, 2),
    "distance_and_accuracy_over_steps": lambda: plots.distance_and_accuracy_over_steps(
        make_history().assign(accuracy=[10, 20, 20, 40, 40, 30] * 2), STAGES, "feature"
    ),
    "image_changes": lambda: plots.image_changes({"a": make_images(), "b": 1 - make_images()}, range(10)),
    "activation_overlays": lambda: plots.activation_overlays(
        {"a": make_images()}, {"a": make_images()[:, 0, ::2, ::2]}, range(10)
    ),
    "winning_stages": lambda: plots.winning_stages(make_winners(), STAGES),
}


def png(figure) -> bytes:
    return report.picture(figure).data


def errorbars(axes) -> dict[str, list[tuple[float, float, float]]]:
    """Mean, low and high of every interval, by colour."""
    found = {}
    for container in axes.containers:
        line, _, (bars,) = container.lines
        for segment in bars.get_segments():
            interval = (line.get_ydata()[0], segment[0, 1], segment[1, 1])
            found.setdefault(to_hex(line.get_color()), []).append(interval)
    return found


def across(axes) -> dict[float, tuple[float, float, float]]:
    """Mean, low and high of every horizontal interval, by its height."""
    found = {}
    for container in axes.containers:
        line, _, (bars,) = container.lines
        for segment in bars.get_segments():
            found[round(float(line.get_ydata()[0]), 2)] = (line.get_xdata()[0], segment[0, 0], segment[1, 0])
    return found


def framed(axes) -> list[tuple[float, float]]:
    """Column and row of every cell with a frame of its own, from the top."""
    return [patch.get_xy() for patch in axes.patches]


def written(axes, columns: int) -> list[list[str]]:
    """Numbers in the cells of a coloured table, by row."""
    texts = [text.get_text() for text in axes.texts]
    return [texts[start : start + columns] for start in range(0, len(texts), columns)]


def tick_names(axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


@pytest.mark.parametrize("name", FIGURES)
def test_same_rows_give_the_same_small_png_without_metadata(name):
    first = png(FIGURES[name]())
    assert first == png(FIGURES[name]())
    assert len(first) < 150_000
    assert set(Image.open(io.BytesIO(first)).info) <= {"dpi"}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_leaves_the_style_of_others_alone(name):
    before = dict(matplotlib.rcParams)
    FIGURES[name]()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", ["accuracy_by_ipc", "accuracy_by_network", "layer_sweep", "chosen_accuracy"])
def test_accuracies_are_labelled_in_percent(name):
    assert FIGURES[name]().axes[0].get_ylabel() == "test accuracy (%)"


def test_every_method_has_a_colour_of_its_own():
    assert plots.COLOURS.keys() == plots.LABELS.keys()
    assert len({to_hex(colour) for colour in plots.COLOURS.values()}) == len(plots.COLOURS)


def test_bars_are_the_t_intervals_over_seeds():
    rows = make_rows()
    drawn = errorbars(plots.accuracy_by_ipc(rows).axes[0])
    for method in ("random", "pixels", "single", "hierarchical"):
        expected = summarise(rows[rows["method"] == method], ["ipc"])[["mean", "low", "high"]].to_numpy()
        np.testing.assert_allclose(drawn[to_hex(plots.COLOURS[method])], expected)


def test_dots_are_seeds_and_not_repeats():
    axes = plots.accuracy_by_ipc(make_rows(("pixels",), ipcs=(1,))).axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [len(line.get_ydata()) for line in dots] == [3]


def with_full_set(rows: pd.DataFrame, accuracy: float) -> pd.DataFrame:
    return rows.assign(accuracy=rows["accuracy"].where(rows["method"] != "full", accuracy))


def test_the_full_set_is_a_dashed_line_at_its_mean():
    axes = plots.accuracy_by_ipc(with_full_set(make_rows(), 75.5)).axes[0]
    (line,) = [line for line in axes.lines if line.get_label() == "full set"]
    assert line.get_linestyle() == "--" and not axes.texts
    assert line.get_ydata()[0] == pytest.approx(75.5)


@pytest.mark.parametrize("figure", ["accuracy_by_ipc", "accuracy_by_method", "accuracy_by_network"])
def test_a_full_set_far_above_the_others_is_a_number_and_leaves_them_the_axis(figure):
    """The sets lie between 48 and 67 %."""
    (near,) = getattr(plots, figure)(with_full_set(make_rows(ipcs=(1,)), 75.5)).axes
    (far,) = getattr(plots, figure)(with_full_set(make_rows(ipcs=(1,)), 95.5)).axes
    across_page = figure == "accuracy_by_method"
    assert [text.get_text() for text in far.texts] == [f"full set: 95.5 {'→' if across_page else '↑'}"]
    assert (far.get_xlim() if across_page else far.get_ylim())[1] < 75
    assert not near.texts and "full set" not in far.get_legend_handles_labels()[1]
    assert "full set" in near.get_legend_handles_labels()[1]


@pytest.mark.parametrize("figure", ["accuracy_by_ipc", "accuracy_by_network"])
@pytest.mark.parametrize("full", [75.5, 95.5])
def test_panels_of_one_scale_show_all_of_each_other(figure, full):
    """The second objective has higher accuracies than the first, and the third lower ones."""
    rows, shifts = make_rows(("random", "pixels", "single"), ipcs=(1,)), {"dm": 0, "dc": 7, "mtt": -7}
    own = [rows.dropna(subset="objective").assign(objective=name) for name in shifts]
    own = [part.assign(accuracy=part["accuracy"] + shifts[part["objective"].iloc[0]]) for part in own]
    rows = with_full_set(pd.concat([rows[rows["objective"].isna()], *own]), full)
    panels = getattr(plots, figure)(rows).axes
    low, high = panels[0].get_ylim()
    sets = rows[rows["method"] != "full"].groupby(["objective", "method", "seed"], dropna=False)
    values = sets["accuracy"].mean()
    assert len(panels) == 3 and low < values.min() and values.max() < high
    assert [len(axes.texts) for axes in panels] == [int(full > 90)] * 3


def test_the_full_set_of_one_network_has_no_gap():
    rows = make_rows(networks=("A", "B"), ipcs=(1,)).query("method != 'full' or network == 'A'")
    assert tick_names(plots.network_gaps(rows, "A").axes[0]) == ["random real", "pixels", "GLaD", "H-GLaD"]


def test_the_axis_ends_where_accuracy_does():
    rows = make_rows(("pixels",)).assign(accuracy=lambda frame: frame["accuracy"] + 40 * frame["seed"] - 30)
    low, high = plots.accuracy_by_ipc(rows).axes[0].get_ylim()
    assert low >= 0 and high <= 101


def test_one_seed_has_a_mean_without_an_interval():
    rows = make_rows(("pixels",), ipcs=(1,)).query("seed == 0")
    ((mean, low, high),) = errorbars(plots.accuracy_by_ipc(rows).axes[0])[to_hex(plots.COLOURS["pixels"])]
    assert mean == low == high


def test_each_objective_has_a_panel_with_the_baselines():
    rows = pd.concat([make_rows(), make_rows(("pixels",)).replace({"objective": {"dm": "dc"}})])
    figure = plots.accuracy_by_ipc(rows)
    assert [axes.get_title() for axes in figure.axes] == ["DM", "DC"]
    for axes in figure.axes:
        assert {to_hex(plots.COLOURS["random"]), to_hex(plots.COLOURS["pixels"])} <= set(errorbars(axes))


def test_steps_of_the_stages_follow_each_other():
    axes = plots.distance_over_steps(make_history(), STAGES, "feature").axes[0]
    curve = next(line for line in axes.lines if line.get_label() == "seed 0")
    assert list(curve.get_xdata()) == [0, 10, 10, 20, 20, 25]
    selected = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1]
    assert {(line.get_xdata()[0], line.get_ydata()[0]) for line in selected} == {(20, 0.4)}


def test_images_are_drawn_clamped_and_in_order():
    images = make_images(2) * 3 - 1
    axes = plots.image_rows({"a": images}, ["x", "y"]).axes[0]
    drawn = axes.images[0].get_array()
    np.testing.assert_allclose(drawn[1:9, 1:9, 0], images[0, 0].clamp(0, 1))
    np.testing.assert_allclose(drawn[1:9, 10:18, 0], images[1, 0].clamp(0, 1))


def test_a_panel_has_a_column_per_class():
    images = torch.arange(6).view(6, 1, 1, 1).expand(6, 1, 8, 8) / 6  # 3 classes, 2 images each
    drawn = plots.image_panels({"a": images}, per_class=2).axes[0].images[0].get_array()
    corners = drawn[1::9, 1::9, 0]
    np.testing.assert_allclose(corners * 6, [[0, 2, 4], [1, 3, 5]], atol=1e-6)


def test_main_table_has_a_column_per_ipc_and_the_full_set_apart():
    table = report.main_table(make_rows()).frame
    assert list(table) == ["method", "1 image per class", "10 images per class", "all images"]
    assert list(table["method"]) == ["random real", "pixels", "GLaD", "H-GLaD", "full set"]
    assert table.iloc[-1, 1:].isna().tolist() == [True, True, False]
    assert table.iloc[1, 1].endswith("(3×2)") and table.iloc[-1, 3].endswith("(2×1)")


def test_main_table_names_the_objective_only_where_there_are_several():
    rows = pd.concat([make_rows(), make_rows(("pixels",)).replace({"objective": {"dm": "dc"}})])
    names = list(report.main_table(rows).frame["method"])
    assert names == ["random real", "pixels (DC)", "pixels (DM)", "GLaD (DM)", "H-GLaD (DM)", "full set"]


def test_differences_are_paired_with_the_baseline_too():
    rows = make_rows()
    found = report.differences(rows, [("pixels", "random"), ("pixels", "absent")])
    assert list(found["ipc"]) == [1, 10] and set(found["second"]) == {"random"}
    means = rows[rows["ipc"] == 1].groupby("method")["accuracy"].mean()
    assert found["mean"].iloc[0] == pytest.approx(means["pixels"] - means["random"])


@pytest.mark.parametrize(
    ("mean", "low", "high", "seeds", "expected"),
    [
        (2.0, 1.0, 3.0, 3, "x = +2.0 points; the 95 % interval (+1.0 to +3.0) excludes 0."),
        (-2.0, -3.0, -1.0, 3, "x = −2.0 points; the 95 % interval (−3.0 to −1.0) excludes 0."),
        (1.0, -1.0, 3.0, 3, "includes 0: not told apart with these seeds."),
        (2.0, float("nan"), float("nan"), 1, "x = +2.0 points; one seed, no interval."),
    ],
)
def test_verdict_follows_from_the_interval(mean, low, high, seeds, expected):
    estimate = pd.Series({"mean": mean, "low": low, "high": high, "seeds": seeds})
    assert report.verdict("x", estimate).endswith(expected)


def test_differences_are_grouped_by_the_side_of_zero():
    def row(objective: str, ipc: int, low: float, high: float, seeds: int = 3) -> dict:
        names = {"first": "hierarchical", "second": "pixels"}
        mean = (low + high) / 2
        return names | {
            "objective": objective,
            "ipc": ipc,
            "mean": mean,
            "low": low,
            "high": high,
            "seeds": seeds,
        }

    rows = [
        row("dm", 1, -1, 1),
        row("dc", 1, 0.1, 1),
        row("dm", 10, -2, -1),
        row("dc", 10, -1, 0),
        row("dm", 50, 1, 1, 1),
    ]
    assert report.verdicts(pd.DataFrame(rows)).lines == (
        "Above 0, the first is more accurate: H-GLaD − pixels (DC, ipc 1).",
        "Below 0, the second is more accurate: H-GLaD − pixels (DM, ipc 10).",
        "Around 0, not told apart with these seeds:"
        " H-GLaD − pixels (DM, ipc 1); H-GLaD − pixels (DC, ipc 10).",
        "One seed, no interval: H-GLaD − pixels (DM, ipc 50).",
    )
    assert report.verdicts(pd.DataFrame(rows[:1])).lines[0].endswith("H-GLaD − pixels (ipc 1).")


def test_the_plan_of_a_run_adds_up_its_steps_and_its_work():
    stages = [Stage(0, "latent", 3, 0.0, 0.1, 2e9), Stage(1, "L0", 4, 5.0, 0.1, 1e9), *STAGES[-1:]]
    stages[-1] = replace(stages[-1], steps=2, flops=0.0)
    plan = report.stage_plan(stages, images=10)
    assert list(plan["GFLOP"]) == ["60", "40", "0", "100"] and plan["steps"].iloc[-1] == 9
    assert plan["rate of f"].iloc[0] == "–" and plan["GFLOP a step"].iloc[1] == "10"


def test_what_bounding_did_is_listed_by_variant_and_objective():
    def card(objective: str, *boundaries: tuple) -> dict:
        return {"settings": {"objective": objective}, "boundaries": boundaries}

    cards = {
        "all": [card("dm", (0, 0.1, 0, 0.02), (1, 0.0, 3, 0.0)), card("dm", (0, 0.0, 0, 0.0))],
        "pixels": [card("dm")],
        "within": [card("dc", (0, 0.0, 0, 0.0))],
    }
    assert report.boundary_table(cards).frame.values.tolist() == [
        ["all", "DM", "1 of 2", "10.0", "3", "0.020"],
    ]  # pixels have no boundary


def test_gap_is_main_minus_mean_of_the_others():
    rows = make_rows(networks=("A", "B", "C"), ipcs=(1,))
    gaps = report.network_gaps(rows, "A").set_index("method")
    means = rows[rows["method"] == "single"].groupby("network")["accuracy"].mean()
    assert gaps.loc["single", "mean"] == pytest.approx(means["A"] - (means["B"] + means["C"]) / 2)
    assert report.network_gaps(rows[rows["network"] == "A"], "A").empty


def test_best_of_stages_is_the_smallest_distance_of_each():
    card = {
        "stages": [{"name": "input"}, {"name": "pixels"}],
        "history": [(0, 0, 2.0), (0, 5, 1.0), (1, 0, 1.0), (1, 5, 0.5), (1, 9, 0.7)],
    }
    assert report.best_of_stages(card) == {"input": 1, "pixels": 3}


def test_provenance_box_escapes_what_it_shows():
    box = report.Provenance({"device": "a <b> & c"})._repr_html_()
    assert box.startswith('<div class="provenance">') and "a &lt;b&gt; &amp; c" in box


def test_sweeps_of_families_share_the_scale_of_accuracy():
    figure = FIGURES["family_sweeps"]()
    first, second = figure.axes
    assert first.get_ylim() == second.get_ylim()
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one", "other"]
    assert [len(axes.get_xticks()) for axes in figure.axes] == [3, 2]


def test_accuracy_is_drawn_below_the_distance_at_the_same_steps():
    history = make_history().assign(accuracy=[10, None, 20, 40, 40, 30] * 2)
    upper, lower = plots.distance_and_accuracy_over_steps(history, STAGES, "feature").axes
    above, below = (axes.lines[0] for axes in (upper, lower))
    assert list(above.get_xdata()) == [0, 10, 10, 20, 20, 25]
    assert list(above.get_ydata()) == [2, 1, 1, 0.4, 0.4, 0.6]
    assert list(below.get_xdata()) == [0, 10, 20, 20, 25]  # the iterate without accuracy is left out
    assert list(below.get_ydata()) == [10, 20, 40, 40, 30]
    assert (upper.get_yscale(), lower.get_yscale()) == ("log", "linear")
    for axes, level in ((upper, 0.4), (lower, 40)):
        chosen = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]
        assert [(*line.get_xdata(), *line.get_ydata()) for line in chosen] == [(20, level)] * 2
    assert [text.get_text() for text in upper.texts] == [stage.name for stage in STAGES]


def test_changes_have_one_scale_and_no_change_its_middle():
    start = torch.full((2, 3, 8, 8), 0.5)
    middle, end = start.clone(), start.clone()
    middle[0, :, 0, 0] += 0.4
    end[0, :, 0, 0] += 0.4
    end[1, :2, 0, 0] -= 0.3  # mean over three channels: -0.2, half of the limit
    figure = plots.image_changes({"a": start, "b": middle, "c": end}, ["x", "y"])
    first, second, bar = figure.axes
    assert [first.get_ylabel(), second.get_ylabel()] == ["a\nto b", "b\nto c"]
    colours = matplotlib.colormaps["RdBu_r"]
    drawn = [axes.images[0].get_array() for axes in (first, second)]
    np.testing.assert_allclose(drawn[0][1, 1], colours(1.0)[:3], atol=1e-6)
    np.testing.assert_allclose(drawn[0][1, 10], colours(0.5)[:3], atol=1e-6)
    np.testing.assert_allclose(drawn[1][1, 1], colours(0.5)[:3], atol=1e-6)
    np.testing.assert_allclose(drawn[1][1, 10], colours(0.25)[:3], atol=0.02)  # one of 256 colours
    np.testing.assert_allclose(bar.get_xlim(), [-0.4, 0.4], atol=1e-6)


def test_changes_need_two_stages():
    with pytest.raises(HgladError, match="expected the images of 2 stages or more"):
        plots.image_changes({"a": make_images()}, range(10))


def test_an_overlay_is_the_grey_image_where_the_map_is_zero():
    images, maps = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 4, 4)
    maps[1] = 1
    axes = plots.activation_overlays({"a": images}, {"a": maps}, ["x", "y"]).axes[0]
    drawn, grey = axes.images[0].get_array(), plots.DIMMED * images.mean(dim=1)[..., None].numpy()
    np.testing.assert_allclose(drawn[1:9, 1:9], np.broadcast_to(grey[0], (8, 8, 3)), atol=1e-6)
    hottest = np.array(matplotlib.colormaps["autumn"](1.0)[:3])
    expected = (1 - plots.OPACITY) * grey[1] + plots.OPACITY * hottest
    np.testing.assert_allclose(drawn[1:9, 10:18], expected, atol=1e-6)


def test_each_cell_names_its_stage_in_the_stage_s_colour():
    axes = plots.winning_stages(make_winners(), STAGES).axes[0]
    names = [stage.name for stage in STAGES]
    assert [text.get_text() for text in axes.texts] == [names[i] for i in (0, 1, 2, 1, 1, 0)]
    colours = [to_hex(colour) for colour in axes.collections[0].get_facecolors()]
    assert colours[0] == colours[5] and colours[1] == colours[3] == colours[4] and len(set(colours)) == 3
    assert [label.get_text() for label in axes.get_yticklabels()] == ["3", "4"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y", "z"]


LONG_NAMES = [["cassette player", "parachute"] * 5, [f"n0{i}440764" for i in range(10)]]


@pytest.mark.parametrize("names", LONG_NAMES)
@pytest.mark.parametrize("kind", ["images", "stages"])
def test_names_of_classes_over_their_columns_do_not_meet(kind, names):
    if kind == "images":
        figure = plots.image_rows({"pixels": make_images(10), "GLaD, all layers": make_images(10)}, names)
    else:
        figure = plots.winning_stages(pd.DataFrame([[0] * 10], index=["seed 0"], columns=names), STAGES)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    labels = figure.axes[0].get_xticklabels()
    places = [label.get_window_extent(canvas.get_renderer()) for label in labels]
    gap = min(b.x0 - a.x1 for a, b in pairwise(places))
    assert gap > 0.25 * labels[0].get_fontsize() / 72 * figure.dpi  # that of a space
    assert [" ".join(label.get_text().split()) for label in labels] == names


def expected_interval(rows: pd.DataFrame) -> list[float]:
    """Mean over seeds of the mean over networks, and its interval."""
    sets = rows.groupby("seed")["accuracy"].mean()
    half = 4.30265 * sets.std() / 3**0.5  # Student's t with 2 degrees of freedom
    return [sets.mean(), sets.mean() - half, sets.mean() + half]


def test_the_main_network_stands_above_the_mean_of_the_others():
    rows = make_rows(networks=("A", "B", "C"), ipcs=(1,))
    axes = plots.network_gaps(rows, "A").axes[0]
    assert tick_names(axes) == ["random real", "pixels", "GLaD", "H-GLaD", "full set"]
    assert axes.yaxis_inverted() and axes.get_xlabel() == "test accuracy (%)"
    drawn = across(axes)
    for y, method in enumerate(("random", "pixels", "single", "hierarchical")):
        own = rows[rows["method"] == method]
        parts = {y - 0.14: own[own["network"] == "A"], y + 0.14: own[own["network"] != "A"]}
        for height, part in parts.items():
            np.testing.assert_allclose(drawn[round(height, 2)], expected_interval(part), rtol=1e-5)
    joining = [line for line in axes.lines if line.get_color() == "#999999"]
    assert list(joining[2].get_xdata()) == [drawn[1.86][0], drawn[2.14][0]]
    filled = {line.get_marker(): line.get_markerfacecolor() for c in axes.containers for line in c.lines[:1]}
    assert filled["o"] == "white" != filled["D"]
    names = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert names == ["A", "mean of the other networks"]


def test_gaps_of_each_objective_have_a_panel_with_the_same_methods_on_top():
    rows = make_rows(networks=("A", "B"), ipcs=(1,))
    rows = pd.concat([rows, rows.dropna(subset="objective").replace({"objective": {"dm": "dc"}})])
    first, second = plots.network_gaps(rows, "A").axes
    assert [axes.get_title() for axes in (first, second)] == ["DM", "DC"]
    assert tick_names(first) == ["random real", "pixels", "GLaD", "H-GLaD", "full set"]
    assert first.yaxis_inverted() and second.yaxis_inverted()


def test_a_single_network_has_no_others_to_stand_beside():
    axes = plots.network_gaps(make_rows(("pixels",), ipcs=(1,)), "A").axes[0]
    assert set(across(axes)) == {-0.14, 0.86}


def test_each_class_has_its_accuracy_and_the_worst_one_a_frame():
    axes = FIGURES["class_accuracies"]().axes[0]
    assert written(axes, 3) == [["90", "50", "90"], ["80", "60", "11"]]
    assert framed(axes) == [(1, 0), (2, 1)] and axes.yaxis_inverted()
    assert tick_names(axes) == ["pixels", "GLaD"]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(CLASSES)
    colours = axes.collections[0].get_facecolors()[:, :3].sum(axis=1)
    assert np.argmax(colours) == 5 and colours[0] == colours[2] < colours[1]  # darker is better


def test_the_worst_class_of_each_row_is_named_with_what_it_is_taken_for():
    axes = FIGURES["worst_confusion"]().axes[0]
    assert tick_names(axes) == ["pixels: bee", "GLaD: cat"]
    assert written(axes, 3) == [["30", "50", "20"], ["44", "45", "11"]]
    assert framed(axes) == [(1, 0), (2, 1)] and axes.get_xlabel() == "taken for (framed: right)"


def test_each_ipc_has_a_panel_with_seeds_means_and_the_full_set():
    rows = with_full_set(make_rows(("random", "herding", "pixels")), 65.5)
    figure = plots.accuracy_by_method(rows)
    assert [axes.get_title() for axes in figure.axes] == ["1 image per class", "10 images per class"]
    for axes, ipc in zip(figure.axes, (1, 10), strict=True):
        assert tick_names(figure.axes[0]) == ["random real", "herding", "pixels"] and axes.yaxis_inverted()
        drawn, dots = across(axes), [line for line in axes.lines if line.get_marker() == "o"]
        for y, method in enumerate(("random", "herding", "pixels")):
            own = rows[(rows["method"] == method) & (rows["ipc"] == ipc)]
            np.testing.assert_allclose(drawn[y], expected_interval(own), rtol=1e-5)
            seeds = own.groupby("seed")["accuracy"].mean()
            np.testing.assert_allclose(dots[y].get_xdata(), seeds)
            assert set(dots[y].get_ydata()) == {y} and dots[y].get_color() == plots.COLOURS[method]
        (line,) = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert line.get_xdata()[0] == pytest.approx(65.5)


def test_a_method_has_a_row_for_each_objective_where_there_are_several():
    both = make_rows(("random", "pixels"))
    other = both[both["method"] == "pixels"].assign(objective="dc", accuracy=lambda f: f["accuracy"] - 5)
    rows = pd.concat([both, other])
    first, _ = plots.accuracy_by_method(rows).axes
    assert tick_names(first) == ["random real", "pixels (DM)", "pixels (DC)"]
    drawn = across(first)
    for y, part in ((1, both[both["method"] == "pixels"]), (2, other)):
        np.testing.assert_allclose(drawn[y], expected_interval(part[part["ipc"] == 1]), rtol=1e-5)
    figure = plots.accuracy_by_network(rows[rows["ipc"] == 1])
    left, right = zip(*(axes.get_position().extents[[0, 2]] for axes in figure.axes), strict=True)
    assert len(set(left)) == len(set(right)) == 1  # one below the other
    assert [axes.get_title() for axes in figure.axes] == ["DM", "DC"]


def test_a_method_without_results_at_an_ipc_keeps_its_row_empty():
    rows = make_rows(("random", "class_mean", "pixels"))
    rows = rows[(rows["method"] != "class_mean") | (rows["ipc"] == 1)]
    first, second = plots.accuracy_by_method(rows).axes
    assert set(across(first)) == {0, 1, 2} and set(across(second)) == {0, 2}
    assert tick_names(first) == ["random real", "class mean", "pixels"]


@pytest.mark.parametrize("draw", [plots.accuracy_by_method, lambda rows: plots.network_gaps(rows, "A")])
def test_a_horizontal_axis_ends_where_accuracy_does(draw):
    rows = make_rows(("pixels",), networks=("A", "B"), ipcs=(1,))
    rows = rows.assign(accuracy=lambda frame: frame["accuracy"] + 40 * frame["seed"] - 30)
    low, high = draw(rows).axes[0].get_xlim()
    assert low >= 0 and high <= 101


def test_large_pictures_take_few_colours_and_look_the_same():
    noise = torch.rand(200, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    figure = plots.image_panels({"a": noise / 2 + 0.25}, 10)
    whole = io.BytesIO()
    figure.savefig(whole, dpi=DPI, format="png")
    exact = np.asarray(Image.open(whole).convert("RGB"), dtype=float)
    content = as_png(figure)
    assert len(whole.getvalue()) > LARGE > 0 and len(content) < 0.5 * len(whole.getvalue())
    assert content == as_png(figure) and Image.open(io.BytesIO(content)).mode == "P"
    shown = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=float)
    assert abs(shown - exact).mean() < 10  # of 255, for the colours of noise, which fill the whole cube


def test_small_pictures_are_exact():
    figure = plots.image_panels({"a": make_images(20)}, 2)
    exact = io.BytesIO()
    figure.savefig(exact, dpi=DPI, format="png", metadata={"Software": None})
    assert as_png(figure) == exact.getvalue()


def test_labels_of_many_rows_of_images_lie_inside_the_figure():
    labels = [f"neither latent nor pixel stage {number}" for number in range(10)]
    figure = plots.image_rows(dict.fromkeys(labels, make_images(10)), ["automobile"] * 10)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    left = [axes.yaxis.label.get_window_extent(canvas.get_renderer()).x0 for axes in figure.axes]
    assert min(left) > 0.02 * figure.bbox.width


def test_shapes_are_explained_where_there_are_several():
    def labels(objectives: tuple[str, ...]) -> list[str]:
        distances = pd.concat(make_distances().assign(objective=name) for name in objectives)
        figure = plots.distance_and_accuracy(distances, ["good"], ["input", "pixels"])
        return [text.get_text() for text in figure.legends[0].get_texts()]

    assert labels(("dm",)) == ["input", "pixels"]
    assert sorted(labels(("dm", "dc"))) == ["DC", "DM", "input", "pixels"]
