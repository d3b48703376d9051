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
from hglad.paths import PROJECT
from hglad.provenance import PAGES, commit, trace
from hglad.storage import write_json

RESULTS = PROJECT / "book" / "results"


def build(profile: str, notebooks: Path | str | None = None, out: Path | str = ".") -> Path:
    """Build the HTML into `out/_build/html`; the project's own files are not touched.

    Args:
        profile: name of the profile that the notebooks show.
        notebooks: folder of executed notebooks, by default the committed ones.
        out: folder that gets `_build`.

    Returns:
        First page of the book.

    Raises:
        HgladError: no notebooks, or the build has warnings; the end of its output is shown.
    """
    source, html = Path(out, "_build", "source"), Path(out, "_build", "html")
    pages = stage(source, Path(notebooks or RESULTS / profile), profile)
    main = "from jupyter_book.cli.main import main; main()"
    words = [sys.executable, "-c", main, "build", source, "--path-output", out, "-W", "-n", "--keep-going"]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise HgladError(f"the book does not build without warnings:\n{(done.stdout + done.stderr)[-3000:]}")
    write_json(html / PAGES, commit() | {"pages": pages})
    return html / "index.html"


def stage(source: Path, notebooks: Path, profile: str) -> dict[str, dict]:
    """Lay out pages, settings and executed notebooks; files that are the same keep their age.

    Returns:
        Provenance of the pages with results, by their address without suffix.
    """
    executed = sorted(notebooks.glob("*.ipynb"))
    if not executed:
        raise HgladError(f"no executed notebooks in {notebooks}: expected some from hglad notebooks")
    contents = yaml.safe_load((PROJECT / "_toc.yml").read_text())
    of_profile, own = f"book/results/{profile}/", [{"caption": f"Experiments ({profile})"}]
    shown = {chapter["file"]: part for part in contents["parts"] for chapter in part["chapters"]}
    own = [part for page, part in shown.items() if page.startswith(of_profile)] or own
    own[0]["chapters"] = [{"file": f"{of_profile}{path.stem}"} for path in executed]
    if own[0] not in contents["parts"]:
        contents["parts"].append(own[0])
    files = {path.relative_to(PROJECT): path for path in (PROJECT / "book").rglob("*") if path.is_file()}
    files = {name: path for name, path in files.items() if not path.is_relative_to(RESULTS)}
    files |= {Path("_config.yml"): PROJECT / "_config.yml"}
    committed = [Path(f"{page}.ipynb") for page in shown if page.startswith("book/results/")]
    files |= {name: PROJECT / name for name in committed if not name.as_posix().startswith(of_profile)}
    files |= {Path(of_profile, path.name): path for path in executed}
    found, pages = {Path("_toc.yml"): yaml.safe_dump(contents, sort_keys=False).encode()}, {}
    for name, path in files.items():
        found[name] = path.read_bytes()
        if path.suffix == ".ipynb" and "hglad" in (notebook := nbformat.reads(found[name], 4)).metadata:
            pages[name.with_suffix("").as_posix()] = dict(notebook.metadata["hglad"])
            if changes := trace(path)["older"]:
                title, _, rest = notebook.cells[0].source.partition("\n")
                note = f"Made by older algorithm code: {'; '.join(changes)}. `hglad run` renews the results."
                notebook.cells[0].source = f"{title}\n\n```{{warning}}\n{note}\n```\n\n{rest}"
                found[name] = nbformat.writes(notebook).encode()
    for path in source.rglob("*"):
        if path.is_file() and path.relative_to(source) not in found:
            path.unlink()
    for name, content in found.items():
        target = source / name
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return pages
