"""Where a result comes from: commit, versions, device, time, as files, folders and pages have them.

What was not recorded yet when a file was made is None in its record.
"""

import json
import os
import platform
import resource
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hglad.errors import HgladError
from hglad.paths import PROJECT
from hglad.settings import fingerprint, suggestion
from hglad.storage import read_json, read_metadata

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn")
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
    "expert": {"expert"},
    "generator": {"kind", "settings"},
    "measurements": {"provenance"},
}  # kind of a file: the first whose keys it has
PLACES = {
    "sets": "*/card.json",
    "evaluations": "*.json",
    "distances": "*.json",
    "classifiers": "*.safetensors",
    "experts": "*/expert-*.safetensors",
}  # where results lie in a folder of results
PAGES = "provenance.json"  # in the root of a built book: where its pages come from


@lru_cache
def commit() -> dict:
    """Commit when this process first asked, and whether it holds all of the code; None outside git."""

    def git(*words: str) -> str:
        command = ["git", "-C", PROJECT, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "hglad")  # not installed into somebody's own repository
        changed = git("status", "--porcelain", "--untracked-files=normal", "--", "hglad")
        changed += git("status", "--porcelain", "--untracked-files=no", "--", "configs", "data/priors")
        return {"commit": git("rev-parse", "HEAD"), "clean": not changed}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "clean": None}


def device_name(device: torch.device | str = "cpu") -> str:
    """Model of the GPU, or of the processor with its number of threads in use."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo") as lines:
            model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {torch.get_num_threads()} of {os.cpu_count()} threads"


class Stopwatch:
    """Takes the time of a run and describes it as provenance."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.device, self.start = device, time.time()
        commit()  # asked now: the checkout may move on while a long run goes on with the code it has loaded

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.time() - self.start

    def provenance(self) -> dict:
        """Commit, versions, device, start (UTC), duration in seconds and peak memory in MiB."""
        if torch.device(self.device).type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device) / 2**20
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
        return {
            **commit(),
            "hglad": version("hglad"),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in PACKAGES},
            "device": device_name(self.device),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.start)),
            "seconds": round(self.seconds, 2),
            "peak_memory_mib": round(peak),
        }


MODULES = {
    "search": "hglad.search.loop",
    "augment": "hglad.data.augmentation",
    "training": "hglad.evaluation.training",
    "experts": "hglad.objectives.experts",
    "baselines": "hglad.evaluation.baselines",
    "prior pixels": "hglad.priors.pixels",
    "recipe": "hglad.priors.files",
    "gan": "hglad.priors.training.gan",
}
REGISTRIES = {
    "objective": ("hglad.objectives", "OBJECTIVES"),
    "metric": ("hglad.metrics", "METRICS"),
    "network": ("hglad.networks", "NETWORKS"),
    "prior": ("hglad.priors", "PRIORS"),
}  # imported when they are asked for: they record where their results come from, too


def trace(path: Path | str) -> dict:
    """What is known about the origin of a result, a folder of results, an executed notebook or a page.

    Returns:
        `kind`, `path`, and for one result `FIELDS`; for a folder `groups` (by commit, clean tree and device),
        the number of `unrecorded` results, which do not say their versions, and `damaged` files; for a
        notebook, or a page with results, what `hglad.book` wrote into it; for another page `commit` and
        `clean` of the book. With all but the last: what is `older`, in a folder with its number of results.

    Raises:
        HgladError: nothing there, or a file that is none of these.
    """
    path = Path(path)
    if not path.exists():
        expected = "a result, a folder of results, a notebook or a page of the book"
        raise HgladError(f"no {path}: expected {expected}")
    if path.is_dir() and not (path / "card.json").is_file():
        return _of_folder(path)
    if path.suffix == ".html":
        found = _of_page(path)
    elif path.suffix == ".ipynb":
        found = {"kind": "notebook", "path": str(path)} | notebook_metadata(path)
    else:
        found = record_of(path)
        behind = path.parent.parent / "sets" / str(found["set"]) / "card.json"
        if found["prior_hash"] is None and behind.is_file():  # recorded with the set only, once
            found["prior_hash"] = record_of(behind)["prior_hash"]
    return found | ({"older": older(found["algorithms"])} if "algorithms" in found else {})


def older(algorithms: dict | None) -> list[str]:
    """What has another version now than it had, such as "search version 1, now 2"."""
    now = {component: version_of(component, "not there") for component in algorithms or {}}
    return [
        f"{component} version {version}, now {now[component]}"
        for component, version in sorted((algorithms or {}).items())
        if now[component] != version
    ]


def version_of(component: str, otherwise: str | None = None) -> int | str:
    """Version of an algorithm now: a module with a number `VERSION`, or a registered part, "objective dm".

    A network of a library has that library's release in it. An unknown component raises `HgladError`, or is
    `otherwise` where that is given.
    """
    kind, _, name = component.partition(" ")
    try:
        if component in MODULES:
            return import_module(MODULES[component]).VERSION
        if kind in REGISTRIES:
            package, registry = REGISTRIES[kind]
            return getattr(import_module(package), registry).version(name)
    except HgladError:
        if otherwise is None:
            raise
    if otherwise is None:
        known = [*MODULES, *(f"{kind} NAME" for kind in REGISTRIES)]
        raise HgladError(f"unknown component '{component}': {suggestion(component, known)}")
    return otherwise


def versions_of(*components: str) -> dict[str, int | str]:
    """Components with their versions now, for a key and for the record of a result."""
    return {component: version_of(component) for component in components}


def declared(identity: Any, components: dict[str, int | str]) -> dict[str, Any]:
    """For the record of a result: its `key`, its `request` (equal for other algorithms) and `algorithms`.

    Args:
        identity: plain values or settings that the result follows from.
        components: algorithms that made it, with their versions.
    """
    request = {"request": fingerprint(identity), "algorithms": components}
    return {"key": fingerprint(identity, components)} | request


def record_of(path: Path) -> dict:
    """Record of one result: `kind`, `path` and `FIELDS`.

    Raises:
        HgladError: a damaged file, or one without a record.
    """
    content = _content(path)
    stored = path.parent if path.name in ("card.json", "distilled.safetensors") else path
    place = stored.parent.name  # in a store files are named by their keys
    kind = next((kind for kind, keys in CONTENTS.items() if keys <= content.keys()), None)
    if place == "classifiers" and path.suffix == ".safetensors":
        kind = "classifier"
    if kind is None:
        expected = "a set, a file of results, a generator, an executed notebook or a page of the book"
        raise HgladError(f"{path} does not say where it comes from: expected {expected}")
    given = content.get("provenance") or {}
    found = {name: given.get(name, content.get(name)) for name in FIELDS}
    # the settings of scores and of generators are those of their training
    found["settings"] = given.get("settings") or content.get("training") or content.get("settings")
    found["key"] = found["key"] or (stored.stem if place in PLACES else None)
    found["data_hash"] = found["data_hash"] or content.get("data", {}).get("content_hash")
    found["prior_hash"] = None if found["prior_hash"] == "pixels" else found["prior_hash"]
    if found["seed"] is None and isinstance(found["settings"], dict):
        found["seed"] = found["settings"].get("seed")
    if found["seed"] is None:
        seeds = sorted({row["seed"] for row in content.get("rows", ()) if row.get("seed") is not None})
        found["seed"] = seeds[0] if len(seeds) == 1 else seeds or None
    return {"kind": kind, "path": str(path)} | found


def _content(path: Path) -> dict:
    """What a file says of itself: its JSON, or the card in it or next to it."""
    path = path / "card.json" if path.is_dir() else path
    if path.suffix == ".json":
        content = read_json(path)
        return content if isinstance(content, dict) else {}
    if path.suffix != ".safetensors":
        return {}
    card = json.loads(read_metadata(path).get("card", "{}"))
    if card or path.parent.name == "classifiers":
        return card
    cards = (path.with_suffix(".json"), path.with_name("card.json"))
    return next((_content(card) for card in cards if card.is_file()), {})


def records(root: Path, damaged: list[str] | None = None) -> Iterator[dict]:
    """Records of all results in a folder; files that cannot be read are added to `damaged`."""
    for folder, pattern in PLACES.items():
        for path in sorted((root / folder).glob(pattern)):
            try:
                yield record_of(path)
            except HgladError:
                if damaged is not None:
                    damaged.append(str(path))


def _of_folder(root: Path) -> dict:
    damaged: list[str] = []
    found = list(records(root, damaged))
    if not found and not damaged:
        advice = "expected the folder of a set or of results, such as data/results/digits"
        raise HgladError(f"no results in {root}: {advice}")
    groups: dict[tuple, list[dict]] = {}
    for record in found:
        groups.setdefault((record["commit"], record["clean"], record["device"]), []).append(record)
    return {
        "kind": "results",
        "path": str(root),
        "groups": [
            {"commit": commit, "clean": clean, "device": device}
            | {"results": dict(Counter(record["kind"] for record in members))}
            | {name: summary(members)[name] for name in ("seconds", "started")}
            for (commit, clean, device), members in groups.items()
        ],
        "older": dict(Counter(text for record in found for text in older(record["algorithms"]))),
        "unrecorded": sum(record["algorithms"] is None for record in found),
        "damaged": damaged,
    }


def summary(members: Iterable[dict]) -> dict:
    """What several records have: each value once; the first and last start, all seconds, the highest peak."""
    members = list(members)

    def each(name: str) -> list:
        return sorted({record[name] for record in members if record[name] is not None})

    packages = {("hglad", version) for version in each("hglad")}
    packages |= {("python", version) for version in each("python")}
    packages |= {package for record in members for package in (record["packages"] or {}).items()}
    started = each("started")
    return {
        "commits": sorted({commit_text(record) for record in members if record["device"]}),
        "devices": each("device"),
        "packages": sorted(f"{name} {version}" for name, version in packages if version),
        "data_hash": each("data_hash"),
        "prior_hash": each("prior_hash"),
        "seeds": sorted({record["seed"] for record in members if isinstance(record["seed"], int)}),
        "started": [started[0], started[-1]] if started else [],
        "seconds": round(sum(record["seconds"] or 0 for record in members), 1),
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


def _of_page(path: Path) -> dict:
    page = path.resolve()
    root = next((folder for folder in page.parents if (folder / PAGES).is_file()), None)
    if root is None:
        raise HgladError(
            f"{path} is not in a book that hglad book built: expected {PAGES} in one of its folders"
        )
    book, name = read_json(root / PAGES), page.relative_to(root).with_suffix("").as_posix()
    if name in book["pages"]:
        return {"kind": "notebook", "path": str(path)} | book["pages"][name]
    return {"kind": "page", "path": str(path), "commit": book["commit"], "clean": book["clean"]}


def code_text(record: dict) -> str:
    """Short commit of a record for a reader, and whether the tree held more."""
    if record["commit"] is None:
        return "outside version control"
    return f"commit {record['commit'][:7]}" + ("" if record["clean"] else " with uncommitted changes")


def provenance_note(records: Sequence[dict]) -> str:
    """Devices, commits and dates of records, for below a table."""
    devices = "; ".join(sorted({record["device"] for record in records}))
    commits = ", ".join(sorted(set(map(code_text, records))))
    return f"Device: {devices}. Code: {commits}. Computed: {dates(records)}."


def dates(records: Sequence[dict]) -> str:
    """Day, or first and last day, on which records were made."""
    days = sorted(record["started"][:10] for record in records)
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
