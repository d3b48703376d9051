"""Build the book around the executed notebooks of a profile, strictly: any warning is an error.

`provenance.json` in the root of the HTML says where each page with results comes from, as its notebook does;
a page whose results were made by older algorithm code says so at its top.
"""

import subprocess
import sys
from pathlib import Path

import nbformat
import yaml

from hglad.errors import HgladError
from hglad.experiments.versions import differences
from hglad.paths import PROJECT
from hglad.provenance import PAGES, commit, notebook_metadata
from hglad.storage import write_json

RESULTS = "book/results/"  # of the pages with executed notebooks
COMMAND = "from jupyter_book.cli.main import main; main()"


def build(profile: str, notebooks: Path | str | None = None, out: Path | str = ".") -> Path:
    """Build the HTML into `out/_build/html`; the project's own files are not touched.

    Args:
        profile: profile that the notebooks show.
        notebooks: executed notebooks, by default the committed ones.
        out: folder that gets `_build`.

    Returns:
        First page of the book.

    Raises:
        HgladError: no notebooks, or the build has warnings; the end of its output is shown.
    """
    out = Path(out)
    notebooks = Path(notebooks or PROJECT / "book" / "results" / profile)
    source = out / "_build" / "source"
    _stage(source, notebooks, profile)
    words = [sys.executable, "-c", COMMAND, "build", source, "--path-output", out, "-W", "-n", "--keep-going"]
    result = subprocess.run(words, capture_output=True, text=True)
    if result.returncode:
        raise HgladError(
            "the book does not build without warnings:\n" + (result.stdout + result.stderr)[-3000:]
        )
    write_json(out / "_build" / "html" / PAGES, commit() | {"pages": _page_metadata(source)})
    return out / "_build" / "html" / "index.html"


def _stage(source: Path, notebooks: Path, profile: str) -> None:
    """Lay out pages, settings and executed notebooks; files that are the same keep their age."""
    executed = sorted(notebooks.glob("*.ipynb"))
    if not executed:
        raise HgladError(f"no executed notebooks in {notebooks}: expected some from hglad notebooks")
    contents = yaml.safe_load((PROJECT / "_toc.yml").read_text())
    files = {path.relative_to(PROJECT): path for path in (*_pages(), *_committed(contents, profile))}
    files |= {Path("book", "results", profile, path.name): path for path in executed}
    for path in source.rglob("*"):
        if path.is_file() and path.relative_to(source) not in files and path.name != "_toc.yml":
            path.unlink()
    for relative, path in files.items():
        is_notebook = path.suffix == ".ipynb"
        _place(_with_note(path) if is_notebook else path.read_bytes(), source / relative)
    _place(_with_profile(contents, profile, executed), source / "_toc.yml")


def _pages() -> list[Path]:
    pages = [path for path in (PROJECT / "book").rglob("*") if path.is_file()]
    results = PROJECT / "book" / "results"
    return [PROJECT / "_config.yml", *(page for page in pages if not page.is_relative_to(results))]


def _committed(contents: dict, profile: str) -> list[Path]:
    """Committed notebooks in the table of contents, but for those of this profile, which are given."""
    pages = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    other = [page for page in pages if page.startswith(RESULTS) and not _is_of(profile, page)]
    return [PROJECT / f"{page}.ipynb" for page in other]


def _is_of(profile: str, page: str) -> bool:
    return page.startswith(f"{RESULTS}{profile}/")


def _with_profile(contents: dict, profile: str, executed: list[Path]) -> bytes:
    """Table of contents with the notebooks of a profile in their part, or in one of their own."""
    chapters = [{"file": f"{RESULTS}{profile}/{path.stem}"} for path in executed]
    own = [p for p in contents["parts"] if any(_is_of(profile, each["file"]) for each in p["chapters"])]
    if own:
        own[0]["chapters"] = chapters
    else:
        contents["parts"].append({"caption": f"Experiments ({profile})", "chapters": chapters})
    return yaml.safe_dump(contents, sort_keys=False).encode()


def _place(content: bytes, target: Path) -> None:
    if not target.is_file() or target.read_bytes() != content:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _with_note(notebook: Path) -> bytes:
    """An executed notebook for the book; below its title it says when its results are of older code."""
    metadata = _metadata_or_none(notebook)
    older = differences(metadata["algorithms"]) if metadata else []
    if not older:
        return notebook.read_bytes()
    content, config = nbformat.read(notebook, as_version=4), f"configs/{metadata['profile']}.yaml"
    note = f"Made by older algorithm code: {'; '.join(older)}. `hglad run {config}` renews the results."
    title, _, rest = content.cells[0].source.partition("\n")
    content.cells[0].source = f"{title}\n\n```{{warning}}\n{note}\n```\n\n{rest}"
    return nbformat.writes(content).encode()


def _metadata_or_none(notebook: Path) -> dict | None:
    try:
        return notebook_metadata(notebook)
    except HgladError:
        return None


def _page_metadata(source: Path) -> dict[str, dict]:
    """Metadata of the notebooks, by the page that shows each."""
    notebooks = sorted((source / "book" / "results").glob("*/*.ipynb"))
    found = {
        path.relative_to(source).with_suffix("").as_posix(): _metadata_or_none(path) for path in notebooks
    }
    return {page: metadata for page, metadata in found.items() if metadata}
