"""The book: its configuration, its table of contents, and a strict build that stays off the network."""

import base64
import json
import os
import re
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

from hglad.book import reference
from hglad.book.build import build, stage
from hglad.cli import main
from hglad.experiments.checks import read_profile
from hglad.experiments.plans import metric_ablation
from hglad.experiments.store import Store
from hglad.priors import load_prior
from hglad.provenance import commit, trace
from hglad.storage import read_json

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("audio", "embed", "iframe", "img", "script", "source", "video")
LOADING = {"link": "href", "object": "data"} | dict.fromkeys(SOURCES, "src")  # what a browser fetches
REMOTE = re.compile(r"\s*(https?:)?//", re.IGNORECASE)
REMOTE_IN_CSS = re.compile(r"""(?:@import\s*(?:url\()?|url\()\s*["']?\s*(?:https?:)?//""", re.IGNORECASE)
REMOTE_IN_SCRIPT = re.compile(r"""["'`](?:https?:)?//[\w-]+\.[^"'`]*\.(?:m?js|css)["'`]""", re.IGNORECASE)


def loaded(page: str) -> list[str]:
    """Addresses that a browser fetches when it opens a page."""
    soup = BeautifulSoup(page, "html.parser")
    sets = [part.split()[0] for tag in soup.find_all(srcset=True) for part in tag["srcset"].split(",")]
    return [tag.get(LOADING[tag.name], "") for tag in soup.find_all(list(LOADING))] + sets


def remote_resources(page: str) -> list[str]:
    """Those of them outside the book, and styles and scripts that name such."""
    soup = BeautifulSoup(page, "html.parser")
    styles = [tag["style"] for tag in soup.find_all(style=True)] + [tag.text for tag in soup("style")]
    remote = [address for address in loaded(page) if REMOTE.match(address)]
    remote += [text for text in styles if REMOTE_IN_CSS.search(text)]
    return remote + [tag.text for tag in soup("script") if REMOTE_IN_SCRIPT.search(tag.text)]


def toc_entries() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]


@pytest.fixture(scope="module")
def config() -> dict:
    return yaml.safe_load((ROOT / "_config.yml").read_text())


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> Path:
    """Folder of a strict build, that of `make test` where there is one: a warning of any kind fails it."""
    built = Path(os.environ.get("HGLAD_TEST_BUILD", "none"), "_build", "html")
    return built if built.is_dir() else build("digits", out=tmp_path_factory.mktemp("book")).parent


def pages(html: Path) -> list[Path]:
    """Every page of a build; the HTML below `_static` are the theme's templates."""
    found = [page for page in html.rglob("*.html") if "_static" not in page.relative_to(html).parts]
    assert len(found) >= len(toc_entries())
    return found


def test_every_chapter_is_in_the_table_of_contents_and_nothing_else():
    sources = [*(ROOT / "book").glob("*.md"), *(ROOT / "book" / "results").glob("*/*.ipynb")]
    assert {str(path.relative_to(ROOT).with_suffix("")) for path in sources} == set(toc_entries())


def test_only_pages_of_the_table_of_contents_are_built_and_none_is_executed(config):
    assert config["execute"]["execute_notebooks"] == "off"
    assert config["sphinx"]["config"]["nb_execution_raise_on_error"] is True
    assert config["only_build_toc_files"] is True
    assert {".venv", ".pytest_cache", "_build"} <= set(config["exclude_patterns"])


def test_mathjax_lies_in_the_book(config):
    static = ROOT / config["sphinx"]["config"]["html_static_path"][0]
    script = static / config["sphinx"]["config"]["mathjax_path"]
    assert script.is_file() and (script.parent / "LICENSE").is_file()
    named = set(re.findall(r"MathJax_[\w-]+(?=\.woff)", script.read_text()))
    fonts = {path.stem for path in script.parent.rglob("*.woff")}
    assert named and named <= fonts


def test_every_cited_work_is_in_the_bibliography_and_the_other_way_round():
    text = "\n".join(path.read_text() for path in (ROOT / "book").rglob("*.md"))
    cited = {key for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text) for key in keys.split(",")}
    bibliography = (ROOT / "book" / "references.bib").read_text()
    listed = re.findall(r"^@\w+\{([^,\s]+)", bibliography, flags=re.MULTILINE)
    notebooks = "\n".join(path.read_text() for path in (ROOT / "book").rglob("*.ipynb"))
    assert len(listed) == len(set(listed))
    assert cited <= set(listed)
    assert all(key in cited or key in notebooks for key in listed)


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://cdn.example.org/a.js"></script>',
        '<script src="//cdn.example.org/a.js"></script>',
        '<link rel="stylesheet" href="http://example.org/a.css"/>',
        '<img alt="" src="https://example.org/a.png">',
        '<img srcset="a.png 1x, https://example.org/a.png 2x">',
        "<style>@import 'https://example.org/a.css';</style>",
        '<p style="background: url(https://example.org/a.png)">',
        "<script>load('https://cdn.example.org/widget.js')</script>",
    ],
)
def test_remote_resources_are_recognized(page):
    assert remote_resources(page)


def test_a_link_to_follow_is_not_a_remote_resource():
    assert not remote_resources('<a href="https://example.org/paper">paper</a><img src="_static/a.svg">')


def test_build_has_a_page_for_every_toc_entry(html):
    assert (html / "index.html").is_file()
    assert all((html / f"{entry}.html").is_file() for entry in toc_entries())


def test_nothing_remote_is_loaded(html):
    found = {page.name: remote_resources(page.read_text()) for page in pages(html)}
    assert not {page: remote for page, remote in found.items() if remote}
    sheets = list(html.rglob("*.css"))
    assert sheets and not [sheet for sheet in sheets if REMOTE_IN_CSS.search(sheet.read_text())]


def test_every_local_resource_was_built(html):
    missing = []
    for page in pages(html):
        for address in loaded(page.read_text()):
            target = re.sub(r"[?#].*", "", address)
            if target and not target.startswith("data:") and not (page.parent / target).exists():
                missing.append(f"{page.relative_to(html)}: {target}")
    assert not missing


def test_a_link_to_a_figure_finds_it_in_its_cell(html):
    """The script of the link takes the first image of the cell's output."""
    cells = [
        (page.name, link["download"], link.find_parent(class_="cell_output"))
        for page in pages(html)
        for link in BeautifulSoup(page.read_text(), "html.parser").select(".downloads a[onclick]")
    ]
    assert len(cells) > 10
    for page, name, cell in cells:
        assert cell is not None and len(cell.select("img")) == 1, f"{page}: {name}"


def test_every_page_with_results_can_be_traced(html):
    notebooks = sorted((ROOT / "book" / "results").glob("*/*.ipynb"))
    for notebook in notebooks:
        page = (html / notebook.relative_to(ROOT)).with_suffix(".html")
        assert trace(page) | {"path": ""} == trace(notebook) | {"path": ""}
        assert trace(page)["older"] == [] and "Made by older algorithm code" not in page.read_text()
    assert len(notebooks) == len(read_json(html / "provenance.json")["pages"])
    text = trace(html / "book" / "search.html")
    assert text["kind"] == "page" and text["commit"] == commit()["commit"]


def test_a_page_of_older_algorithms_says_so(monkeypatch, tmp_path):
    """Only in what the book is built from: the notebook itself stays as it was executed."""
    name = Path("book/results/digits/02_hierarchical_search.ipynb")
    monkeypatch.setattr(import_module("hglad.objectives.dm"), "VERSION", 2)
    stage(tmp_path, ROOT / name.parent, "digits")
    staged, own = (nbformat.read(folder / name, as_version=4) for folder in (tmp_path, ROOT))
    title, *rest = own.cells[0].source.split("\n")
    note = "Made by older algorithm code: objective dm version 1, now 2. "
    note += "`hglad run` renews the results."
    assert staged.cells[0].source.split("\n") == [title, "", "```{warning}", note, "```", "", *rest]
    assert staged.cells[1:] == own.cells[1:]
    random = Path("book/results/cifar10-random/01_glad_baseline.ipynb")
    assert ("objective dm" in trace(ROOT / random)["algorithms"]) == (
        note[:20] in (tmp_path / random).read_text()
    )


def test_equations_are_typeset_by_the_vendored_script(html):
    page = (html / "book" / "method.html").read_text()
    assert [address for address in loaded(page) if "mathjax/tex-mml-chtml.js" in address]
    assert 'id="equation-eq-crfd"' in page


def test_the_picture_of_the_readme_is_a_figure_of_the_book():
    notebook = json.loads((ROOT / "book/results/digits/02_hierarchical_search.ipynb").read_text())
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    shown = re.search(r"!\[.*\]\((.*\.png)\)", (ROOT / "README.md").read_text())[1]
    assert (ROOT / shown).read_bytes() in [base64.b64decode(picture) for picture in pictures]


def test_the_layers_on_the_page_are_those_of_the_generator():
    page = (ROOT / "book" / "generators.md").read_text()
    listed = load_prior("random-32").describe().to_string()
    assert [line.rstrip() for line in listed.splitlines()] == [
        line.rstrip() for line in page.split("```text\n")[1].split("```")[0].splitlines()
    ]


def test_the_stages_on_the_page_are_those_that_the_command_prints(capsys):
    page = (ROOT / "book" / "search.md").read_text()
    words = page.split("```bash\nhglad ")[1].split("\n")[0].split()
    assert words[0] == "explain" and main([words[0], str(ROOT / words[1]), *words[2:]]) == 0
    assert page.split("```text\n")[1].split("```")[0] == capsys.readouterr().out


def test_the_run_to_step_through_is_one_of_the_committed_results(tmp_path):
    profile = read_profile(ROOT / "configs" / "digits-search.yaml")
    first, store = metric_ablation(profile).evaluations[0], Store(ROOT / "data/results/digits-search")
    folder = store.set_folder(first.distilled.fingerprint)
    words = ["explore", str(folder), "--rows", str(store.evaluation_file(first.key))]
    assert main([*words, "--out", str(tmp_path / "explorer.html")]) == 0
    assert (tmp_path / "explorer.html").read_text() == (ROOT / "book/_static/explorer.html").read_text()


def test_the_recipe_on_the_page_is_the_shipped_one():
    page = (ROOT / "book" / "generators.md").read_text().split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(page) == yaml.safe_load((ROOT / "data/priors/random-32.yaml").read_text())


def test_the_reference_of_settings_is_up_to_date():
    text = reference.PAGE.read_text()
    assert text == reference.page(text), "run python -m hglad.book.reference"
    assert "`steps` <small>whole number from 1, default `1000`</small>\n: Optimi" in text
    assert "  - `layer`, default `-1`: block whose feature maps are taken" in text
    below = text.partition(reference.MARK)[2]
    outside = re.sub(r"```.*?```|`[^`]*`", "", below, flags=re.DOTALL)
    assert set(re.findall(r"(?<!\\)<[^>]*>", outside)) <= {"<small>", "</small>"}
