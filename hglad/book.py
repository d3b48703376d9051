"""Build the book around the executed notebooks of a profile, strictly: any warning is an error."""

import subprocess
import sys
from pathlib import Path

from hglad.errors import HgladError
from hglad.paths import PROJECT

DEFAULT = "book/results/digits/"  # in the table of contents; the pages of another profile take this place
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
    return out / "_build" / "html" / "index.html"


def _stage(source: Path, notebooks: Path, profile: str) -> None:
    """Lay out pages, settings and executed notebooks; files that are the same keep their age."""
    executed = sorted(notebooks.glob("*.ipynb"))
    if not executed:
        raise HgladError(f"no executed notebooks in {notebooks}: expected some from hglad notebooks")
    files = {path.relative_to(PROJECT): path for path in _pages()}
    files |= {Path("book", "results", profile, path.name): path for path in executed}
    files |= {path.relative_to(PROJECT): path for path in _other_results()}
    for path in source.rglob("*"):
        if path.is_file() and path.relative_to(source) not in files and path.name != "_toc.yml":
            path.unlink()
    for relative, path in files.items():
        _place(_of_profile(path, profile), source / relative)
    _place(_of_profile(PROJECT / "_toc.yml", profile), source / "_toc.yml")


def _pages() -> list[Path]:
    pages = [path for path in (PROJECT / "book").rglob("*") if path.is_file()]
    results = PROJECT / "book" / "results"
    return [PROJECT / "_config.yml", *(page for page in pages if not page.is_relative_to(results))]


def _other_results() -> list[Path]:
    """Committed notebooks in the table of contents that belong to no profile that is shown in turn."""
    pages = [
        line.split("- file: ")[1]
        for line in (PROJECT / "_toc.yml").read_text().splitlines()
        if "- file: " in line
    ]
    other = [page for page in pages if page.startswith("book/results/") and DEFAULT not in page]
    return [PROJECT / f"{page}.ipynb" for page in other]


def _of_profile(path: Path, profile: str) -> bytes:
    """Content of a page, its links to the notebooks of the default profile turned to those of this one."""
    if path.suffix not in (".md", ".yml"):
        return path.read_bytes()
    text = path.read_text().replace("(digits)", f"({profile})")
    for link in (DEFAULT, "{doc}`results/digits/"):
        text = text.replace(link, link.replace("digits", profile))
    return text.encode()


def _place(content: bytes, target: Path) -> None:
    if not target.is_file() or target.read_bytes() != content:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
