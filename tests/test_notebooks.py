"""Templates: scalar parameters, one title, figures with a text; pages executed from nothing."""

import ast
import os
import re
import shutil
from pathlib import Path

import nbformat
import papermill
import pytest

from hglad.book.notebooks import TEMPLATES, execute, execute_all
from hglad.errors import HgladError
from hglad.evaluation.sets import leave_images_out
from hglad.experiments.store import Store
from hglad.paths import PROJECT

NAMES = sorted(path.stem for path in TEMPLATES.glob("*.ipynb"))
PARAMETERS = {"profile": "digits"} | dict.fromkeys(["results", "objectives", "ipc", "seeds", "steps"])
SMOKE = PROJECT / "configs" / "smoke.yaml"
BUILT = os.environ.get("HGLAD_TEST_BUILD")  # folder where `make test` has executed them

each_notebook = pytest.mark.parametrize("name", NAMES)


def template(name: str):
    return nbformat.read(TEMPLATES / f"{name}.ipynb", as_version=4)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(notebook, kind: str) -> list[str]:
    """Displayed data of a kind, in the order of the notebook."""
    found = [out.get("data", {}) for cell in code_cells(notebook) for out in cell.outputs]
    return ["".join(data[kind]) for data in found if kind in data]


def test_there_are_eight_pages():
    assert [name[:2] for name in NAMES] == [f"{number:02}" for number in range(8)]


@each_notebook
def test_a_template_is_stripped_and_stands_on_one_title(name):
    notebook = template(name)
    assert all(cell.execution_count is None and not cell.outputs for cell in code_cells(notebook))
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert notebook.cells[0].source.startswith("# ")
    assert sum(line.startswith("# ") for line in text.splitlines()) == 1
    assert code_cells(notebook)[-1].source == "tables.provenance(experiment)"


@each_notebook
def test_every_figure_has_a_text_for_those_who_cannot_see_it(name):
    for cell in code_cells(template(name)):
        if "figures.show(" in cell.source:
            assert len(cell.metadata["mystnb"]["image"]["alt"]) > 20


@each_notebook
def test_parameters_are_scalars_with_a_comment_each_and_all_are_used(name):
    cells = code_cells(template(name))
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    values = {each.targets[0].id: ast.literal_eval(each.value) for each in ast.parse(cell.source).body}
    assert values == PARAMETERS and cell == cells[0]
    found = papermill.inspect_notebook(str(TEMPLATES / f"{name}.ipynb"))
    assert all(parameter["help"] for parameter in found.values())
    opened = cells[1].source
    assert f'"{name[3:]}",' in opened
    assert all(f"{key}={key}," in opened for key in PARAMETERS if key != "profile")


def test_an_unknown_parameter_is_refused_with_the_nearest_one():
    with pytest.raises(HgladError, match="no parameter 'seds': did you mean 'seeds'"):
        execute(TEMPLATES / f"{NAMES[0]}.ipynb", PARAMETERS | {"seds": 1}, Path("never.ipynb"))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Folder of the notebooks of the profile smoke, executed from nothing, and of their results."""
    if BUILT:
        return Path(BUILT)
    folder = tmp_path_factory.mktemp("smoke")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        execute_all(SMOKE, folder / "results", folder / "notebooks")
    return folder


@pytest.mark.slow
@each_notebook
def test_a_page_shows_tables_figures_their_numbers_and_where_they_come_from(smoke, name):
    notebook = nbformat.read(smoke / "notebooks" / f"{name}.ipynb", as_version=4)
    html, sources = shown(notebook, "text/html"), "".join(cell.source for cell in code_cells(notebook))
    assert shown(notebook, "image/png") and any("<table" in text for text in html)
    assert 'class="provenance"' in html[-1] and "profile: smoke" in shown(notebook, "text/plain")[-1]
    named = re.findall(r'figures\.show\([^"]*?, "([\w-]+)"\)', sources)
    assert re.findall(r'download="([\w-]+)\.csv"', "".join(html)) == named
    kinds = {out.output_type for cell in code_cells(notebook) for out in cell.outputs}
    assert kinds <= {"display_data", "execute_result"}  # no warnings


@pytest.mark.slow
def test_a_page_on_results_without_unshown_images_is_the_same(smoke, tmp_path):
    """Pages read the cards of all sets and the images of few."""
    results = Store(shutil.copytree(smoke / "results", tmp_path / "results"))
    name = "07_claims"
    for folder in (results.root / "sets").iterdir():
        leave_images_out(folder)
    execute_all(SMOKE, results.root, tmp_path, only="claims")
    assert (tmp_path / f"{name}.ipynb").read_bytes() == (smoke / "notebooks" / f"{name}.ipynb").read_bytes()


@pytest.mark.slow
def test_parameters_narrow_a_page(smoke, tmp_path):
    values = {"profile": "smoke", "results": str(smoke / "results"), "seeds": [0], "objectives": "dm"}
    out = tmp_path / "page.ipynb"
    execute(TEMPLATES / "02_hierarchical_search.ipynb", values, out)
    text = "".join(shown(nbformat.read(out, as_version=4), "text/plain"))
    assert "distillation seeds: 0\n" in text and "Too few seeds for an interval" in text


@pytest.mark.slow
def test_a_failing_cell_is_one_clear_error(tmp_path):
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    broken.metadata = template(NAMES[0]).metadata
    nbformat.write(broken, tmp_path / "broken.ipynb")
    with pytest.raises(HgladError, match="broken.ipynb failed in cell 1: ZeroDivisionError"):
        execute(tmp_path / "broken.ipynb", {}, tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()
