"""Result tables: cells against their formulas, arrangement, what is never mixed, formats, commands."""

import io
import re
from pathlib import Path

import pandas as pd
import pytest
from result_frames import FULL, THREE_SEEDS, baselines, cell_rows, keep_rows, together

from hglad.analysis.cells import cells, select
from hglad.analysis.tables import (
    Table,
    chosen_format,
    difference_table,
    differences,
    latex,
    result_table,
    verdicts,
)
from hglad.cli import main
from hglad.experiments.store import Store
from hglad.paths import PROJECT


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path / "results")
    parts = [baselines(), cell_rows(THREE_SEEDS), cell_rows(THREE_SEEDS, "k_center", objective=None)]
    for index, part in enumerate(parts):
        keep_rows(store, f"key{index}", part, {"epochs": 5}, {"name": "convnet"}, "made")
    return store


def test_methods_stand_in_their_order_and_unknown_ones_last():
    names = ["zebra", "full", "a_horse", "k_center", "hierarchical", "random", "single", "pixels"]
    rows = together(*(cell_rows(THREE_SEEDS, name, objective=None) for name in names))
    frame = result_table(cells(rows)).frame
    expected = ["random real", "k-center", "pixels", "GLaD", "H-GLaD", "full set", "a horse", "zebra"]
    assert frame["method"].tolist() == expected


def test_columns_that_tell_cells_apart_are_shown_and_no_others():
    rows = together(
        cell_rows(THREE_SEEDS),
        cell_rows(THREE_SEEDS, "single", layer=1),
        cell_rows(THREE_SEEDS, "single", layer=2),
        cell_rows(THREE_SEEDS, "single", layer=2, augmentation="none"),
        cell_rows(THREE_SEEDS, ipc=10),
    )
    table = result_table(cells(rows), columns="ipc")
    assert list(table.frame) == ["method", "layer", "augmentation", "ipc 1", "ipc 10"]
    assert table.frame["layer"].tolist() == ["–", "1", "2", "2"]
    assert table.frame["ipc 10"].tolist() == ["53.0 ± 4.3 (3×2)", "–", "–", "–"]
    assert "All cells that have one: objective dm; network ConvNet." in table.notes


def test_n_counts_sets_but_networks_of_the_full_set():
    full = cell_rows({0: [90.0], 1: [91.0], 2: [90.5], 3: [90.0]}, "full", ipc=None, objective=None)
    note = result_table(cells(together(cell_rows(THREE_SEEDS), full))).notes[0]
    assert "(n × m: seeds × networks per set; n = 3, m = 2; of the full set n = 4 networks, each" in note
    assert "mean over networks (of the full set n = 4 networks" in result_table(cells(full)).notes[0]
    assert "full set" not in result_table(cells(cell_rows(THREE_SEEDS))).notes[0]


def test_two_objectives_never_share_a_row():
    """One at each ipc: without the column each cell would still be one of them."""
    rows = together(cell_rows(THREE_SEEDS, ipc=1), cell_rows(THREE_SEEDS, ipc=10, objective="dc"))
    assert result_table(cells(rows), columns="ipc").frame["objective"].tolist() == ["DC", "DM"]


def test_the_network_with_the_most_cells_comes_first_and_ipc_by_number():
    rows = together(
        *(cell_rows(THREE_SEEDS, ipc=ipc, network="VGG-11") for ipc in (10, 1, 50)),
        cell_rows(THREE_SEEDS, ipc=1, network="AlexNet"),
        cell_rows(FULL, "full", ipc=None, objective=None, network="AlexNet"),
    )
    table = cells(rows)
    assert list(result_table(table).frame)[-2:] == ["VGG-11", "AlexNet"]
    assert list(result_table(table, columns="ipc").frame)[-4:] == ["ipc 1", "ipc 10", "ipc 50", "all images"]


def test_rows_may_be_led_by_another_column():
    rows = together(cell_rows(THREE_SEEDS), cell_rows(THREE_SEEDS, network="ViT"))
    frame = result_table(cells(rows), "network", "method").frame
    assert frame.to_dict("list") == {"network": ["ConvNet", "ViT"], "pixels": ["53.0 ± 4.3 (3×2)"] * 2}


def test_what_stands_beside_a_score():
    rows = together(baselines(), cell_rows(THREE_SEEDS))
    table = result_table(cells(rows), relative=True)
    line = table.frame.set_index("method").loc["pixels"]
    assert re.fullmatch(r"\+20\.2 ± \d+\.\d", line["ConvNet, over random"])
    assert re.fullmatch(r"58\.6 \[\d+\.\d–\d+\.\d\]", line["ConvNet, % of full set"])
    notes = " ".join(table.notes)
    assert "paired t interval" in notes and "Fieller" in notes
    assert "left out of paired differences: 1 over all cells" in notes


def test_a_negative_improvement_has_a_typographic_minus():
    rows = together(baselines(), cell_rows({0: [20.0], 1: [21.0], 2: [22.0]}))
    assert result_table(cells(rows), relative=True).frame["ConvNet, over random"][1].startswith("−11.8 ±")


@pytest.mark.parametrize(
    ("interval", "cell", "note"),
    [
        (
            "t",
            "53.0 ± 4.3 (3×2)",
            "of the 95 % t interval over distillation seeds",
        ),
        (
            "networks",
            "53.0 ± 4.5 (3×2)",
            "networks of one set; which stands around the mean over all sets of the cell",
        ),
        ("bootstrap", r"53.0 [51.0–54.0] (3×2)", "[low–high], of the 95 % bootstrap interval"),
    ],
)
def test_the_interval_is_named_below(interval, cell, note):
    table = result_table(cells(cell_rows(THREE_SEEDS), interval))
    assert table.frame["ConvNet"][0] == cell
    assert note in table.notes[0]


def latex_is_balanced(text: str) -> bool:
    depth = 0
    for found in re.finditer(r"(?<!\\)[{}]", text):
        depth += 1 if found[0] == "{" else -1
        assert depth >= 0
    return depth == 0


def test_latex_escapes_its_characters():
    assert latex("50 % of a_b & 1 ± 2 (3×2), −1–2 \\ {}") == (
        r"50 \% of a\_b \& 1 $\pm$ 2 (3$\times$2), $-$1--2 \textbackslash{} \{\}"
    )
    frame = pd.DataFrame({"a_b": ["100 % & {"], "ours": ["53.0 ± 4.3 (3×2)"]})
    text = Table(frame, ("n = 3_4 %.",)).text("latex")
    assert r"a\_b & ours \\" in text
    assert r"100 \% \& \{ & 53.0 $\pm$ 4.3 (3$\times$2) \\" in text
    assert r"\caption{n = 3\_4 \%.}" in text
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert latex_is_balanced(text)


def test_markdown_keeps_its_columns():
    frame = pd.DataFrame({"method": ["a | b"], "ViT": ["50"]})
    text = Table(frame, ("Note.",)).text("markdown")
    header, rule, line, *rest = text.splitlines()
    assert re.split(r"\s*(?<!\\)\|\s*", line)[1:-1] == [r"a \| b", "50"]
    assert rest == ["", "Note."]


def test_an_empty_table_is_its_notes():
    empty = Table(pd.DataFrame(), ("Nothing.",))
    assert [empty.text(form) for form in ("text", "markdown", "latex")] == [
        "Nothing.\n",
        "Nothing.\n",
        "% Nothing.\n",
    ]


@pytest.mark.parametrize(
    ("name", "out", "form"),
    [(None, None, "text"), ("csv", None, "csv"), (None, "a.md", "markdown"), ("latex", "a.tex", "latex")],
)
def test_the_format_follows_from_the_file(name, out, form):
    assert chosen_format(name, out) == form


def table_command(store: Store, *words: str) -> int:
    return main(["results", "table", str(store.root), *words])


def test_the_csv_holds_numbers(store, capsys):
    assert table_command(store, "--format", "csv", "--interval", "bootstrap") == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    pd.testing.assert_frame_equal(table, cells(select(store.rows()), "bootstrap"), check_dtype=False)


@pytest.mark.parametrize(("suffix", "start"), [("txt", " "), ("md", "| method"), ("tex", r"\begin{table}")])
def test_a_table_goes_to_a_file(store, tmp_path, capsys, suffix, start):
    file = tmp_path / f"table.{suffix}"
    assert table_command(store, "--out", str(file)) == 0
    assert capsys.readouterr().out == ""
    text = file.read_text()
    assert text.startswith(start)
    assert "k-center" in text and "Device: a processor" in text


@pytest.mark.parametrize("profile", sorted(p.name for p in (PROJECT / "data" / "results").iterdir()))
def test_committed_results_have_a_table(profile, capsys):
    folder = PROJECT / "data" / "results" / profile
    assert main(["results", "table", str(folder), "--relative", "--format", "csv"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    rows = select(Store(folder).rows())
    assert (table["seeds"] * table["repeats"]).sum() >= len(rows)
    assert table["mean"].between(rows["accuracy"].min(), rows["accuracy"].max()).all()


def test_a_profile_s_file_names_the_runs_that_it_plans(tmp_path, monkeypatch, capsys):
    """A result of other settings in the same folder is not mixed in."""
    monkeypatch.setenv("HGLAD_RESULTS", str(tmp_path))
    config, committed = PROJECT / "configs" / "digits.yaml", PROJECT / "data" / "results" / "digits"
    names = sorted((committed / "evaluations").glob("*.json"))
    (tmp_path / "evaluations").mkdir()
    for file in names:
        (tmp_path / "evaluations" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "evaluations" / "000000000000.json").write_bytes(names[0].read_bytes())
    assert main(["results", "table", str(tmp_path)]) == 1
    assert "has several results (000000000000, " in capsys.readouterr().err
    assert main(["results", "table", str(config), "--format", "csv"]) == 0
    assert len(pd.read_csv(io.StringIO(capsys.readouterr().out))) > 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("table digts", "no profile or folder of results 'digts': did you mean 'digits'?"),
        ("table none.yaml", "cannot read none.yaml"),
        ("table empty", "no results in empty: expected some from hglad run"),
        ("table results --rows methd", "unknown column 'methd' for rows: did you mean 'method'?"),
        ("table results --columns netwrk", "unknown column 'netwrk' for columns: did you mean 'network'?"),
        ("table results --columns method", "rows and columns are both 'method'"),
        ("table results --objective dmm", "no results of objective 'dmm': did you mean 'dm'?"),
        ("table results --ipc 7", "no results of ipc '7': expected one of 1"),
        ("table results --interval bootstrp", "unknown interval 'bootstrp': did you mean 'bootstrap'?"),
        (
            "table results --format latex --out a.md",
            "cannot write a.md as latex: expected a name that ends in .tex",
        ),
        ("table results --out a.dat", "cannot write a.dat as a table"),
        ("table results --out results", "cannot write results"),
        ("table results --published", "are of no data set"),
        (
            "export results --out a.xlsx",
            "cannot export to a.xlsx: expected a name that ends in .parquet or .csv",
        ),
        ("export empty --out a.csv", "no results in empty"),
    ],
)
def test_bad_input_is_one_line(store, monkeypatch, capsys, words, message):
    monkeypatch.chdir(store.root.parent)
    Path("empty").mkdir()
    assert main(["results", *words.split()]) == 1
    error = capsys.readouterr().err
    assert error.startswith("hglad: ") and error.count("\n") == 1
    assert message in error
    assert sorted(path.name for path in Path().iterdir()) == ["empty", "results"]


def test_a_page_shows_a_table_as_escaped_html_with_its_notes():
    frame = pd.DataFrame({"method": ["single"], "ipc": [10.0], "text": ["a < b"], "none": [None]})
    table = Table(frame, ("n < 3.",), {"ipc": "{:.0f} images"})
    html = table._repr_html_()
    assert "a &lt; b" in html and "<li>n &lt; 3.</li>" in html and "GLaD" in html
    assert repr(table).split("\n")[1].split() == ["GLaD", "10", "images", "a", "<", "b", "–"]
    assert html == Table(frame, ("n < 3.",), {"ipc": "{:.0f} images"})._repr_html_()
    assert Table(frame.head(0), ("None.",))._repr_html_() == "<ul><li>None.</li></ul>"


def test_differences_are_paired_with_the_baselines_of_every_objective_and_sorted_by_their_side():
    better = {seed: [value + 2 + 0.1 * seed for value in values] for seed, values in THREE_SEEDS.items()}
    rows = together(
        cell_rows(THREE_SEEDS, "random", objective=None),
        cell_rows(better),
        cell_rows(THREE_SEEDS, objective="dc"),
        cell_rows({0: [49.0], 1: [52.0]}, "single"),
    )
    found = differences(rows, [("pixels", "random"), ("single", "random"), ("herding", "random")])
    shown = difference_table(found).cells
    assert shown["objective"].tolist() == ["DM", "DC", "DM"]
    assert shown["mean (points)"].tolist() == ["+2.1", "0.0", "−2.0"]
    assert shown["95 % interval"].tolist() == ["+1.9 to +2.3", "0.0 to 0.0", "–"]
    assert verdicts(found).lines == [
        "Above 0, the first is more accurate: pixels − random real (DM, ipc 1, +2.1, +1.9 to +2.3, n = 3).",
        "Around 0, not told apart with these seeds: pixels − random real "
        "(DC, ipc 1, 0.0, 0.0 to 0.0, n = 3).",
        "Too few seeds for an interval: GLaD − random real (DM, ipc 1, −2.0, n = 2).",
    ]
    assert difference_table(differences(rows, [("herding", "random")])).notes
