"""Templates, their parameters, their execution, and the executed copies that the book shows."""

import ast
import base64
import io
import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
import yaml

from hglad.analysis.labels import LABELS, objective_label
from hglad.book.notebooks import TEMPLATES, check_parameters, execute, execute_all, execute_one, stale
from hglad.errors import HgladError
from hglad.evaluation.sets import leave_images_out
from hglad.experiments.ablations import PAPER, RELEASED
from hglad.experiments.profile_file import read_profile
from hglad.experiments.slim import unneeded_images
from hglad.experiments.store import Store
from hglad.paths import PROJECT
from hglad.provenance import commit_text, record_of, trace

NAMES = [
    "00_matching_objectives",
    "01_glad_baseline",
    "02_hierarchical_search",
    "03_metric_ablation",
    "04_cross_architecture",
    "05_paper_vs_code",
    "06_baselines",
    "07_claims",
]
STUDIES = ("03_metric_ablation", "05_paper_vs_code")  # of the search in parts, which has a profile of its own
PROFILES = {name: "digits-search" if name in STUDIES else "digits" for name in NAMES}
SETTINGS = {
    name: yaml.safe_load((PROJECT / "configs" / f"{profile}.yaml").read_text())
    for name, profile in PROFILES.items()
}
DIGITS = SETTINGS["01_glad_baseline"]
SMOKE = PROJECT / "configs" / "smoke.yaml"
UNTRAINED = ["class mean", "herding", "k-center", "samples", "averaged samples"]
METHODS = ["random real", "pixels", "GLaD", "H-GLaD", "full set"]

each_notebook = pytest.mark.parametrize("name", NAMES)


def template(name: str):
    return nbformat.read(TEMPLATES / f"{name}.ipynb", as_version=4)


def copy_path(name: str) -> Path:
    return PROJECT / "book" / "results" / PROFILES[name] / f"{name}.ipynb"


def copy(name: str):
    return nbformat.read(copy_path(name), as_version=4)


def has_tag(cell, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook, kind: str) -> list[str]:
    """Displayed data of a kind, in the order of the notebook."""
    found = [out.get("data", {}) for cell in code_cells(notebook) for out in cell.outputs]
    return ["".join(data[kind]) for data in found if kind in data]


LINKS = re.compile(
    r'download="([\w-]+)\.png" onclick.*href="data:text/csv;base64,([\w+/=]+)" download="([\w-]+)\.csv"'
)


def downloads(notebook) -> dict[str, pd.DataFrame]:
    """Numbers behind the links below the figures, by name; each figure is in the same output of a cell."""
    found = {}
    for cell in code_cells(notebook):
        shown = [out.get("data", {}) for out in cell.outputs]
        for data in shown:
            if 'class="downloads"' in "".join(data.get("text/html", "")):
                name, encoded, same = LINKS.search("".join(data["text/html"])).groups()
                assert name == same and sum("image/png" in other for other in shown) == 1
                found[name] = pd.read_csv(io.BytesIO(base64.b64decode(encoded)))
                assert "".join(data["text/plain"]) == f"{name}: {len(found[name])} rows"
    return found


def figures_with_numbers(name: str) -> list[str]:
    """Names that the template gives to the files of its figures."""
    sources = [cell.source for cell in code_cells(template(name))]
    return [found for text in sources for found in re.findall(r'report\.picture\(.*, "([\w-]+)"\)', text)]


def check_downloads(notebook, name: str) -> None:
    """Links below every figure that has numbers, to numbers that are all there."""
    found = downloads(notebook)
    assert list(found) == figures_with_numbers(name)
    for table in found.values():
        assert len(table) and "key" not in table and table.notna().any().all()


def tables(notebook) -> list[list[list[str]]]:
    """Cells of every table as text, without its head."""
    texts = [text for text in outputs(notebook, "text/html") if "<table" in text]
    rows = [text.split("<tbody>")[1].split("</tr>")[:-1] for text in texts]
    return [[[c.split("<")[0] for c in re.split("<td[^>]*>", row)[1:]] for row in table] for table in rows]


def test_there_is_a_template_for_each_experiment():
    assert sorted(path.stem for path in TEMPLATES.glob("*.ipynb")) == NAMES


@each_notebook
def test_template_is_stripped_and_stands_on_one_title(name):
    notebook = template(name)
    assert all(cell.execution_count is None and not cell.outputs for cell in code_cells(notebook))
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert notebook.cells[0].source.startswith("# ")
    assert sum(line.startswith("# ") for line in text.splitlines()) == 1


@each_notebook
def test_every_picture_has_a_text_for_those_who_cannot_see_it(name):
    for cell in code_cells(template(name)):
        if "report.picture(" in cell.source:
            assert len(cell.metadata["mystnb"]["image"]["alt"]) > 20


@each_notebook
def test_parameters_are_those_of_the_default_profile(name):
    (cell,) = [cell for cell in code_cells(template(name)) if has_tag(cell, "parameters")]
    statements = ast.parse(cell.source).body
    assert all(isinstance(statement, ast.AnnAssign) for statement in statements)
    values = {s.target.id: ast.literal_eval(s.value) for s in statements}
    types = {s.target.id: s.annotation.id for s in statements}
    assert len(values) <= 10
    assert values == SETTINGS[name]
    assert types == {key: type(value).__name__ for key, value in values.items()}


@each_notebook
def test_every_parameter_is_explained(name):
    found = papermill.inspect_notebook(str(TEMPLATES / f"{name}.ipynb"))
    assert list(found) == list(SETTINGS[name])
    assert all(parameter["help"] and parameter["inferred_type_name"] for parameter in found.values())


@each_notebook
def test_parameters_of_the_default_profile_are_accepted(name):
    check_parameters(TEMPLATES / f"{name}.ipynb", SETTINGS[name])


def test_unknown_parameter_is_refused_with_the_nearest_one():
    with pytest.raises(HgladError, match="no parameter 'serach': did you mean 'search'"):
        check_parameters(TEMPLATES / "01_glad_baseline.ipynb", DIGITS | {"serach": {}})


def test_missing_parameter_is_refused():
    without = {key: value for key, value in DIGITS.items() if key != "metric"}
    with pytest.raises(HgladError, match="lacks the parameter 'metric' of 01_glad_baseline.ipynb"):
        check_parameters(TEMPLATES / "01_glad_baseline.ipynb", without)


@each_notebook
def test_copy_is_the_template_with_the_parameters_of_its_profile(name):
    cells = copy(name).cells
    (injected,) = [cell for cell in cells if has_tag(cell, "injected-parameters")]
    values = {s.targets[0].id: ast.literal_eval(s.value) for s in ast.parse(injected.source).body}
    assert values == SETTINGS[name]
    rest = [(cell.id, cell.cell_type, cell.source) for cell in cells if cell is not injected]
    assert rest == [(cell.id, cell.cell_type, cell.source) for cell in template(name).cells]


@each_notebook
def test_copy_holds_what_its_execution_showed(name):
    notebook = copy(name)
    assert [cell.execution_count for cell in code_cells(notebook)] == [
        number for number, _ in enumerate(code_cells(notebook), start=1)
    ]
    assert outputs(notebook, "image/png") and tables(notebook)
    assert 'class="provenance"' in outputs(notebook, "text/html")[-1]
    shown = [cell for cell in code_cells(notebook) if "report.picture" in cell.source]
    assert all(cell.outputs for cell in shown)
    check_downloads(notebook, name)


@each_notebook
def test_copy_is_small_and_complains_of_nothing(name):
    assert copy_path(name).stat().st_size < 900_000
    streams = [
        out
        for cell in code_cells(copy(name))
        for out in cell.outputs
        if out.output_type in ("stream", "error")
    ]
    assert streams == []


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Folder of the notebooks of the profile smoke, executed from nothing, and of their results."""
    folder = tmp_path_factory.mktemp("smoke")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        execute_all(SMOKE, folder / "results", folder / "notebooks")
    return folder


def executed(smoke, name: str):
    return nbformat.read(smoke / "notebooks" / f"{name}.ipynb", as_version=4)


@pytest.mark.slow
@each_notebook
def test_notebook_makes_its_results_from_nothing(smoke, name):
    notebook = executed(smoke, name)
    assert outputs(notebook, "image/png") and tables(notebook)
    assert any((smoke / "results" / "evaluations").iterdir())
    assert not list((smoke / "results" / "evaluations").glob("*.parts"))
    check_downloads(notebook, name)


@pytest.mark.slow
def test_result_tables_have_the_expected_rows(smoke):
    first = {name: tables(executed(smoke, name)) for name in NAMES}
    objectives, protocol = first[NAMES[0]]
    assert [row[0] for row in objectives] == [objective_label(name) for name in ("", "dm", "dc", "mtt")]
    assert protocol[0] == ["7"] * 3 and [cell[:6] for cell in protocol[-2]] == ["–", "–", "2 of 2"]
    assert [row[0] for row in first[NAMES[1]][0]] == [name for name in METHODS if name != "H-GLaD"]
    stages, kept, methods, differences, cost = first[NAMES[2]]
    assert [row[1] for row in stages][0] == "input" and [row[1] for row in stages][-1] == "pixels"
    assert [row[0] for row in kept] == ["none: the start", *(row[1] for row in stages)]
    assert sum(int(row[1]) for row in kept) == 2  # seeds
    assert [row[0] for row in methods] == METHODS
    assert [row[1] for row in differences] == [
        f"H-GLaD − {other}" for other in ("GLaD", "pixels", "random real")
    ]
    assert [row[0] for row in cost] == ["pixels", "GLaD", "H-GLaD"]
    candidates, correlations, seconds, choices, parts, starts = first[NAMES[3]]
    assert [row[:2] for row in candidates] == [["DM", "1"]]
    assert [row[1] for row in correlations] == ["all stages", "last stage"] * 6 and len(seconds) == 7
    assert [row[1] for row in choices][:: len(choices) - 1] == ["last iterate", "best measured (oracle)"]
    assert [row[0] for row in parts][0] == PAPER and len(parts) == len(starts) == 12
    effects, kept, boundaries, schedules = first[NAMES[5]]
    assert [row[0] for row in effects][:: len(effects) - 1] == [PAPER, RELEASED]
    assert [row[0] for row in kept] == [row[0] for row in effects]
    assert {row[0] for row in boundaries} <= {row[0] for row in effects}
    assert [row[1] for row in schedules] == ["GLaD", "H-GLaD, paper", "H-GLaD, released"]
    networks, gaps, worst = first[NAMES[4]]
    assert [row[0] for row in networks] == [row[0] for row in gaps] == [row[0] for row in worst] == METHODS
    methods, against, augmentations = first[NAMES[6]]  # nothing is published for the digits
    assert [row[1] for row in against] == [
        f"{search} − {other}" for search in METHODS[1:-1] for other in ("herding", "averaged samples")
    ]
    assert [row[0] for row in methods] == [METHODS[0], *UNTRAINED, *METHODS[1:]]
    assert [row[1] for row in augmentations] == [METHODS[0], *UNTRAINED, *METHODS[1:-1]]
    assert all(len(row) == 4 and "–" not in row for row in augmentations)


def mean_of(cell: str) -> float:
    return float(cell.split()[0])


@pytest.mark.slow
def test_numbers_behind_a_figure_are_those_of_the_table_beside_it(smoke):
    notebook = executed(smoke, "04_cross_architecture")
    rows, networks = downloads(notebook)["accuracy-by-network"], tables(notebook)[0]
    for label, *cells in networks:
        (method,) = [method for method, each in LABELS.items() if each == label]
        means = rows[rows["method"] == method].groupby("network")["accuracy"].mean()
        assert [mean_of(cell) for cell in cells] == pytest.approx(
            list(means[["ConvNet-2", "ConvNet-3"]]), abs=0.06
        )
    notebook = executed(smoke, "06_baselines")
    rows, methods = downloads(notebook)["baselines"], tables(notebook)[0]
    assert "augmentation" not in rows  # the usual one only
    for label, *cells in methods:
        (method,) = [method for method, each in LABELS.items() if each == label]
        mean = rows[rows["method"] == method]["accuracy"].mean()
        assert mean_of(next(cell for cell in cells if cell != "–")) == pytest.approx(mean, abs=0.06)


@pytest.mark.slow
def test_classes_of_the_figure_are_those_of_the_table(smoke):
    notebook = executed(smoke, "04_cross_architecture")
    found, worst = downloads(notebook), tables(notebook)[2]
    table, classes = found["class-accuracy"], list("0123456789")
    pd.testing.assert_frame_equal(table, found["confusion"])
    assert table[classes].sum(axis=1).tolist() == pytest.approx([100] * len(table), abs=1e-3)
    for label, worst_class, accuracy, _, mean in worst:
        diagonal = table[table["method"] == label][classes].to_numpy().diagonal()
        assert (str(diagonal.argmin()), f"{diagonal.min():.1f}") == (worst_class, accuracy)
        assert float(mean) == pytest.approx(diagonal.mean(), abs=0.06)


@pytest.mark.slow
def test_second_execution_has_nothing_to_do(smoke, capsys):
    before = {path: path.stat().st_mtime_ns for path in smoke.rglob("*.json")}
    execute_all(SMOKE, smoke / "results", smoke / "notebooks")
    assert f"0 executed, {len(NAMES)} up to date" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in smoke.rglob("*.json")} == before


@pytest.fixture(scope="module")
def slim_results(smoke) -> Path:
    """Folder of the same results without the images that no page shows."""
    results = Store(shutil.copytree(smoke / "results", smoke / "slim"))
    folders = unneeded_images(read_profile(SMOKE), results)
    assert folders
    for folder in folders:
        leave_images_out(folder)
    return results.root


@pytest.mark.slow
@each_notebook
def test_a_second_execution_on_slim_results_gives_the_same_bytes(
    smoke, slim_results, name, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in slim_results.rglob("*.*")}
    execute_one(SMOKE, slim_results, tmp_path, f"{name}.ipynb")
    again = tmp_path / f"{name}.ipynb"
    assert again.read_bytes() == (smoke / "notebooks" / f"{name}.ipynb").read_bytes()
    assert {path: path.stat().st_mtime_ns for path in slim_results.rglob("*.*")} == before


@pytest.mark.slow
def test_a_copy_says_which_results_it_shows(smoke):
    shown, store = set(), Store(smoke / "results")
    for name in NAMES:
        found = trace(smoke / "notebooks" / f"{name}.ipynb")
        assert found["profile"] == "smoke" and found["older"] == []
        records = [record_of(result_place(store, key)) for key in found["results"]]
        assert {commit_text(record) for record in records} <= set(found["commits"])
        assert {record["data_hash"] for record in records} == set(found["data_hash"])
        for record in records:
            assert record["algorithms"].items() <= found["algorithms"].items()
        shown |= set(found["results"])
    assert shown == {
        path.stem for kind in ("evaluations", "distances") for path in (store.root / kind).glob("*.json")
    }


def result_place(store: Store, key: str) -> Path:
    files = (store.evaluation_file(key), store.distances_file(key))
    return next(file for file in files if file.is_file())


@pytest.mark.slow
def test_a_copy_is_stale_when_what_it_shows_has_changed(smoke, tmp_path):
    results, out = tmp_path / "results", tmp_path / "notebooks"
    shutil.copytree(smoke / "results", results)
    shutil.copytree(smoke / "notebooks", out)
    assert stale(SMOKE, results, out) == []
    assert stale(SMOKE, results, out, everything=True) == [f"{name}.ipynb" for name in NAMES]
    own = min({*trace(out / f"{NAMES[5]}.ipynb")["results"]} - others_show(out, NAMES[5]))
    file = Store(results).evaluation_file(own)
    content = file.read_text()
    file.write_text(content.replace('"seconds"', '"seconds" '))
    assert stale(SMOKE, results, out) == [f"{NAMES[5]}.ipynb"]
    file.unlink()
    assert stale(SMOKE, results, out) == [f"{NAMES[5]}.ipynb"]
    file.write_text(content)
    (out / f"{NAMES[1]}.ipynb").unlink()
    (out / f"{NAMES[4]}.ipynb").write_bytes((TEMPLATES / f"{NAMES[4]}.ipynb").read_bytes())
    assert stale(SMOKE, results, out) == [f"{NAMES[1]}.ipynb", f"{NAMES[4]}.ipynb"]


def others_show(out: Path, name: str) -> set[str]:
    paths = [path for path in out.glob("*.ipynb") if path.stem != name]
    return {key for path in paths for key in trace(path)["results"]}


def test_a_notebook_that_the_profile_does_not_have_is_a_clear_error(tmp_path):
    with pytest.raises(
        HgladError, match="no notebook '05_paper.ipynb': did you mean '05_paper_vs_code.ipynb'"
    ):
        execute_one(SMOKE, tmp_path, tmp_path, "05_paper.ipynb")


@pytest.mark.slow
def test_failing_cell_is_one_clear_error(monkeypatch, tmp_path):
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    broken.metadata = template(NAMES[0]).metadata
    nbformat.write(broken, tmp_path / "broken.ipynb")
    with pytest.raises(HgladError, match="broken.ipynb failed in cell 1: ZeroDivisionError"):
        execute(tmp_path / "broken.ipynb", {}, tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()
