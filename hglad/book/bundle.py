"""Everything about the results of a profile in one zip file: tables, figures, rows, settings, provenance.

The same results and the same code give the same bytes.
"""

import contextlib
import hashlib
import io
import json
import platform
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import nbformat
import pandas as pd

from hglad.analysis.figures import Shown, as_csv, as_png, as_svg, gathering
from hglad.analysis.published import beside_published, images_of
from hglad.analysis.rendering import Table, render
from hglad.analysis.rows import DESCRIPTION, export_rows, write_rows
from hglad.analysis.tables import cells, commit_text, notes_of, published_table, result_table, select
from hglad.book.notebooks import Copy, copies, environment
from hglad.book.trace import record_of
from hglad.errors import HgladError
from hglad.experiments.definitions import plan
from hglad.experiments.profile_file import read_profile
from hglad.experiments.runner import missing_tasks
from hglad.experiments.store import Store
from hglad.paths import PROJECT
from hglad.provenance import PACKAGES, commit
from hglad.runtime import progress_bar
from hglad.storage import publish

MANIFEST = "MANIFEST.sha256"
EPOCH = (1980, 1, 1, 0, 0, 0)  # time of every file in the zip: the first that it can hold
ABOUT = {
    "tables": "Mean accuracies with intervals; published ones beside them where there are any.",
    "figures": "Figures of the profile's notebooks, by notebook, with the numbers behind them.",
    "rows": DESCRIPTION,
    "settings": "The profile.",
    "provenance.json": "Where every result comes from, and the code that made this file.",
    MANIFEST: f"Checksums of the other files, for `sha256sum -c {MANIFEST}`.",
}
"""What lies where, by folder or file."""


@dataclass(frozen=True)
class Results:
    """Results to bundle."""

    store: Store
    config: Path | None
    """Profile; None for a folder of results alone."""

    @classmethod
    def named(cls, name: str, folder: Path | str | None = None) -> "Results":
        """Those of a profile, by its name or its .yaml file, or all of a folder.

        Raises:
            HgladError: no such profile or folder.
        """
        config = Path(name) if name.endswith((".yaml", ".yml")) else PROJECT / "configs" / f"{name}.yaml"
        if name.endswith((".yaml", ".yml")) or (config.is_file() and not Path(name).is_dir()):
            return cls(Store.of_profile(read_profile(config).profile, folder), config)
        return cls(Store.named(name, folder), None)

    @property
    def keys(self) -> list[str] | None:
        """Evaluations of the profile; None: all that there are.

        Raises:
            HgladError: results that the profile plans are missing.
        """
        if self.config is None:
            return None
        tasks = plan(read_profile(self.config))
        asked = {task.key for task in tasks}  # and not what only they need
        missing = [task for task in missing_tasks(tasks, self.store) if task.key in asked]
        if missing:
            command = f"hglad run {self.config} --results {self.store.root}"
            found = f"{len(missing)} of {len(tasks)} results are missing in {self.store.root}"
            raise HgladError(f"{found}: {command} computes them")
        return [task.key for task in tasks if self.store.evaluation_file(task.key).is_file()]


def write_bundle(name: str, folder: Path | str | None, out: Path | str) -> str:
    """Write the zip file, whole or not at all.

    Args:
        name: profile (name or .yaml file), whose results must all be there, or folder of results.
        folder: folder of the profile's results, by default `data/results/<profile>`.
        out: zip file.

    Returns:
        One line that says what was written.

    Raises:
        HgladError: no such profile or folder, missing results, another suffix than .zip.
    """
    if Path(out).suffix != ".zip":
        raise HgladError(f"--out is {out}: expected a name that ends in .zip")
    results = Results.named(name, folder)
    files = contents(results)
    with publish(out) as draft:
        write_zip(files, draft)
    figures = sum(path.endswith(".svg") for path in files)
    without = "" if results.config else " (figures need the profile's .yaml file)"
    size = Path(out).stat().st_size / 2**20
    return f"{len(files)} files, {figures} figures{without}, {size:.1f} MiB in {out}"


def contents(results: Results) -> dict[str, bytes]:
    """Files of the bundle by path, with a README and, last, their checksums."""
    store, keys = results.store, results.keys
    rows = store.rows(keys)
    files = _tables(store, rows) | _rows(store, keys)
    if results.config is not None:
        files[f"settings/{results.config.name}"] = results.config.read_bytes()
        found = copies(results.config, store.root, store.root)
        with progress_bar(len(found), "figures", "notebook") as bar:
            for copy in found:
                files |= figure_files(copy.template.stem, shown_in(copy))
                bar.update()
    files["provenance.json"] = _as_json({"bundle": _made_with(), "results": _records(store, keys)})
    files["README.md"] = _readme(results, rows, sorted(files)).encode()
    files = dict(sorted(files.items()))
    sums = [f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, content in files.items()]
    return files | {MANIFEST: "".join(sums).encode()}


def write_zip(files: Mapping[str, bytes], path: Path) -> None:
    """Write files as a zip whose bytes follow from theirs alone."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type, entry.create_system = (
                zipfile.ZIP_DEFLATED,
                3,
            )  # as on Unix, wherever it is made
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)


def _tables(store: Store, rows: pd.DataFrame) -> dict[str, bytes]:
    selected = select(rows)
    numbers = cells(selected)
    notes = notes_of(store, selected)
    files = _rendered("accuracy", result_table(numbers, relative=True).noted(notes), numbers)
    images = images_of(store, list(selected["key"].unique()))
    beside = beside_published(selected, store, images)
    return files if beside.empty else files | _rendered("published", published_table(beside), beside)


def _rendered(name: str, table: Table, numbers: pd.DataFrame) -> dict[str, bytes]:
    """A table as Markdown and LaTeX, and the numbers behind it as CSV."""
    texts = {".md": render([table], "markdown"), ".tex": render([table], "latex")}
    texts[".csv"] = numbers.to_csv(index=False, lineterminator="\n")
    return {f"tables/{name}{suffix}": text.encode() for suffix, text in texts.items()}


def _rows(store: Store, keys: list[str] | None) -> dict[str, bytes]:
    frame, files = export_rows(store, keys), {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("rows.parquet", "rows.csv"):
            write_rows(frame, Path(scratch, name))
            files[f"rows/{name}"] = Path(scratch, name).read_bytes()
    return files


def shown_in(copy: Copy) -> list[Shown]:
    """Figures of a notebook template with the parameters and results of a profile, without a kernel.

    Its cells run in this process; what they print is not kept.
    """
    cells = [cell for cell in nbformat.read(copy.template, as_version=4).cells if cell.cell_type == "code"]
    variables: dict[str, object] = {}
    where = environment(HGLAD_RESULTS=str(copy.store.root.resolve()), TQDM_DISABLE="1")
    with gathering() as found, where, contextlib.redirect_stdout(io.StringIO()):
        for cell in cells:
            exec(compile(cell.source, copy.template.name, "exec"), variables)
            if "parameters" in cell.metadata.get("tags", []):
                variables |= copy.parameters
    return found


def figure_files(folder: str, found: list[Shown]) -> dict[str, bytes]:
    """Figures as PNG and SVG, with their numbers as CSV; a name that comes again gets a number."""
    files: dict[str, bytes] = {}
    names = ["images" if shown.numbers is None else shown.name for shown in found]
    for shown, name in zip(found, _numbered(names), strict=True):
        path = f"figures/{folder}/{name}"
        files |= {f"{path}.png": as_png(shown.figure), f"{path}.svg": as_svg(shown.figure)}
        if shown.numbers is not None:
            files[f"{path}.csv"] = as_csv(shown.numbers).encode()
    return files


def _numbered(names: list[str]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        yield name if seen[name] == 1 else f"{name}-{seen[name]}"


def _made_with() -> dict[str, object]:
    """Code and versions that make the bundle; no time, so that it can be made again."""
    packages = {name: version(name) for name in PACKAGES}
    return {**commit(), "hglad": version("hglad"), "python": platform.python_version(), "packages": packages}


def _records(store: Store, keys: list[str] | None) -> dict[str, dict]:
    """Origin of every evaluation, and of every distilled set behind one, by the place of its file."""
    keys = sorted(path.stem for path in (store.root / "evaluations").glob("*.json")) if keys is None else keys
    places = [store.evaluation_file(key) for key in sorted(set(keys))]
    sets = {record["set"] for record in store.provenance([place.stem for place in places])}
    cards = (store.set_folder(key) / "card.json" for key in sorted(sets))
    found = [*places, *(card for card in cards if card.is_file())]
    return {place.relative_to(store.root).as_posix(): _portable(record_of(place)) for place in found}


def _portable(record: dict) -> dict:
    """A record without the path on this machine."""
    return {key: value for key, value in record.items() if key != "path"}


def _as_json(content: object) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def _readme(results: Results, rows: pd.DataFrame, paths: list[str]) -> str:
    made, keys = _made_with(), rows["key"].nunique()
    name = results.config.stem if results.config else results.store.root.name
    versions = ", ".join(f"{package} {number}" for package, number in made["packages"].items())
    listed = "\n".join(_listed(place, [*paths, MANIFEST]) for place in ABOUT)
    return (
        f"# Results: {name}\n\n"
        f"{len(rows)} rows of {keys} evaluations. Made with hglad {made['hglad']} ({commit_text(made)}), "
        f"Python {made['python']}, {versions}. What the results themselves were computed with:\n\n"
        + "\n".join(notes_of(results.store, rows))
        + f"\n\n{listed}"
    )


def _listed(place: str, paths: list[str]) -> str:
    """What lies in a folder, a line per file whatever its suffixes; nothing where it is empty."""
    suffixes: dict[str, list[str]] = {}
    for path in paths:
        if path.split("/")[0] == place:
            name, dot, suffix = path.rpartition(".")
            suffixes.setdefault(name, []).append(dot + suffix)
    files = "".join(f"- `{name}` {', '.join(found)}\n" for name, found in suffixes.items() if "/" in name)
    return f"## {place}\n\n{ABOUT[place]}\n\n{files}" if suffixes else ""
