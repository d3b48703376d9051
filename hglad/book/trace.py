"""Trace a result to its origin: what its file says about code, settings, data, device and time.

Files from before something was recorded lack it; it is None here, "not recorded" in print.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hglad.errors import HgladError
from hglad.experiments.versions import differences
from hglad.storage import read_json, read_metadata

FIELDS = (
    "key", "request", "commit", "clean", "started", "seconds", "resumed", "device", "peak_memory_mib",
    "hglad", "python", "packages", "data_hash", "prior_hash", "seed", "set", "algorithms", "settings",
)  # fmt: skip
"""What a record has beside its `kind` and `path`."""

CONTENTS = {
    "scores": {"rows", "training", "provenance"},
    "evaluation": {"rows", "provenance"},
    "distances": {"distances", "provenance"},
    "distilled set": {"settings", "stages"},
    "generator": {"kind", "settings"},
    "measurements": {"provenance"},
}  # kind of a JSON file: the first whose keys it has

PLACES = {
    "sets": "*/card.json",
    "evaluations": "*.json",
    "distances": "*.json",
    "classifiers": "*.safetensors",
    "experts": "*/expert-*.safetensors",
}  # where results lie in a folder of results
PAGES = "provenance.json"  # in the root of a built book: where its pages come from


def trace(path: Path | str) -> dict:
    """What is known about the origin of a result, a folder of results, an executed notebook or a page.

    Returns:
        `kind`, `path`, and for one result `FIELDS` and `older` (components that have another version now);
        for a folder `groups`, `older`, `unrecorded` and `damaged` (see `folder_trace`); for a notebook or a
        page with results what `hglad.book.notebooks` writes into its metadata, and `older`; for another page
        `commit` and `clean` of the book.

    Raises:
        HgladError: nothing there, or a file that is none of these.
    """
    path = Path(path)
    if not path.exists():
        raise HgladError(
            f"no {path}: expected a result, a folder of results, a notebook or a page of the book"
        )
    if path.is_dir() and not (path / "card.json").is_file():
        return folder_trace(path)
    if path.suffix == ".ipynb":
        return _notebook_trace(path, notebook_metadata(path))
    if path.suffix == ".html":
        return _page_trace(path)
    found = record_of(path)
    behind = path.parent.parent / "sets" / str(found["set"]) / "card.json"
    if found["prior_hash"] is None and behind.is_file():  # recorded with the set only, once
        found["prior_hash"] = record_of(behind)["prior_hash"]
    return found | {"older": differences(found["algorithms"] or {})}


def record_of(path: Path) -> dict:
    """Record of one result: `kind`, `path` and `FIELDS`.

    Raises:
        HgladError: a damaged file, or one without a record.
    """
    content = _content(path)
    kind = next((kind for kind, keys in CONTENTS.items() if keys <= content.keys()), None)
    kind = content.get("made") or kind
    if kind is None:
        raise _unknown(path)
    given = content.get("provenance") or {}
    found = {name: given.get(name, content.get(name)) for name in FIELDS}
    places = (given, {"settings": content.get("training")}, content)  # the training of scores and generators
    found["settings"] = next((place["settings"] for place in places if place.get("settings")), None)
    found["key"] = found["key"] or _key(path)
    found["data_hash"] = found["data_hash"] or content.get("data", {}).get("content_hash")
    found["seed"] = _seed(found, content)
    if found["prior_hash"] == "pixels":
        found["prior_hash"] = None
    return {"kind": kind, "path": str(path)} | found


def _content(path: Path) -> dict:
    """What a file says of itself: its JSON, or the card in or beside it."""
    if path.is_dir():
        return _content(path / "card.json")
    if path.suffix == ".json":
        content = read_json(path)
        return content if isinstance(content, dict) else {}
    if path.suffix != ".safetensors":
        raise _unknown(path)
    card = json.loads(read_metadata(path).get("card", "{}"))
    if card or path.parent.name == "classifiers":
        return card | {"made": "expert" if "expert" in card else "classifier"}
    for beside in (path.with_suffix(".json"), path.with_name("card.json")):
        if beside.is_file():
            return _content(beside)
    raise _unknown(path)


def _unknown(path: Path) -> HgladError:
    return HgladError(
        f"{path} does not say where it comes from: expected a set, a file of results, a generator, "
        "an executed notebook or a page of the book"
    )


def _key(path: Path) -> str | None:
    """The name under which a store keeps a file."""
    if path.name in ("card.json", "distilled.safetensors"):
        path = path.parent
    return path.stem if path.parent.name in PLACES else None


def _seed(found: dict, content: dict) -> int | list[int] | None:
    """Seed of the record, of the settings, or of the rows where neither had it."""
    settings = found["settings"] if isinstance(found["settings"], dict) else {}
    for seed in (found["seed"], settings.get("seed")):
        if seed is not None:
            return seed
    seeds = sorted({row["seed"] for row in content.get("rows", ()) if row.get("seed") is not None})
    return seeds[0] if len(seeds) == 1 else seeds or None


def result_files(root: Path) -> Iterator[Path]:
    """Files of a folder of results that have a record."""
    for folder, pattern in PLACES.items():
        yield from sorted((root / folder).glob(pattern))


def records(root: Path, damaged: Callable[[Path], object] = lambda path: None) -> Iterator[dict]:
    """Records of all results in a folder; `damaged` is told of the files that cannot be read."""
    for path in result_files(root):
        try:
            yield record_of(path)
        except HgladError:
            damaged(path)


def folder_trace(root: Path) -> dict:
    """Where the results of a folder come from.

    Returns:
        `groups`: by commit, clean tree and device, the number of results of each kind, their seconds, first
        and last start; `older`: how many results were made by which older version; `unrecorded`: how many do
        not say their versions; `damaged`: files that cannot be read.

    Raises:
        HgladError: a folder without results.
    """
    damaged: list[str] = []
    found = list(records(root, lambda path: damaged.append(str(path))))
    if not found and not damaged:
        raise HgladError(
            f"no results in {root}: expected the folder of a set or of results, such as data/results/digits"
        )
    groups: dict[tuple, list[dict]] = {}
    for record in found:
        groups.setdefault((record["commit"], record["clean"], record["device"]), []).append(record)
    older: dict[str, int] = {}
    for record in found:
        for text in differences(record["algorithms"] or {}):
            older[text] = older.get(text, 0) + 1
    return {
        "kind": "results",
        "path": str(root),
        "groups": [_group(key, members) for key, members in groups.items()],
        "older": older,
        "unrecorded": sum(record["algorithms"] is None for record in found),
        "damaged": damaged,
    }


def _group(key: tuple, members: list[dict]) -> dict:
    kinds = [record["kind"] for record in members]
    started = sorted(record["started"] for record in members if record["started"])
    return {
        **dict(zip(("commit", "clean", "device"), key, strict=True)),
        "results": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        "seconds": _total(members),
        "started": [started[0], started[-1]] if started else None,
    }


def _total(members: Iterable[dict]) -> float:
    return round(sum(record["seconds"] or 0 for record in members), 1)


def summary(members: list[dict]) -> dict:
    """What several records have: each value once; the first and last start, all seconds, the highest peak."""

    def each(name: str) -> list:
        return sorted({record[name] for record in members if record[name] is not None})

    started = each("started")
    packages = {f"{name} {v}" for record in members for name, v in (record["packages"] or {}).items()}
    packages |= {
        f"{name} {record[name]}" for record in members for name in ("hglad", "python") if record[name]
    }
    return {
        "commits": sorted({commit_text(record) for record in members if record["device"]}),
        "devices": each("device"),
        "packages": sorted(packages),
        "data_hash": each("data_hash"),
        "prior_hash": each("prior_hash"),
        "seeds": sorted({record["seed"] for record in members if isinstance(record["seed"], int)}),
        "started": [started[0], started[-1]] if started else [],
        "seconds": _total(members),
        "peak_memory_mib": max(each("peak_memory_mib"), default=None),
    }


def commit_text(record: dict) -> str:
    """Full commit of a record, and whether the tree held more."""
    if record["commit"] is None:
        return "outside version control"
    return record["commit"] + ("" if record["clean"] else " with uncommitted changes")


def notebook_metadata(path: Path) -> dict:
    """What an executed notebook says of its results.

    Raises:
        HgladError: a template, a notebook of another program or from before this was recorded.
    """
    content = read_json(path)
    found = content.get("metadata", {}).get("hglad") if isinstance(content, dict) else None
    if not found:
        raise HgladError(f"{path} does not say where it comes from: execute it with hglad notebooks")
    return found


def _notebook_trace(path: Path, metadata: dict) -> dict:
    return {"kind": "notebook", "path": str(path), **metadata, "older": differences(metadata["algorithms"])}


def _page_trace(path: Path) -> dict:
    page = path.resolve()
    for root in page.parents:
        if (root / PAGES).is_file():
            content, name = read_json(root / PAGES), page.relative_to(root).with_suffix("").as_posix()
            if name in content["pages"]:
                return _notebook_trace(path, content["pages"][name])
            return {"kind": "page", "path": str(path), "commit": content["commit"], "clean": content["clean"]}
    raise HgladError(f"{path} is not in a book that hglad book built: expected {PAGES} in one of its folders")
