"""The trace of a result for a reader: one line per fact, settings below."""

import pandas as pd
import yaml

from hglad.book.trace import commit_text

UNKNOWN = "not recorded"


def as_text(found: dict) -> str:
    """A trace (`hglad.book.trace.trace`) as lines of text."""
    printers = {"results": _folder_lines, "notebook": _notebook_lines, "page": _page_lines}
    lines = printers.get(found["kind"], _record_lines)(found)
    return "\n".join([f"{found['kind']} {found['path']}", *lines])


def _record_lines(found: dict) -> list[str]:
    facts = {
        "key": found["key"],
        "set": found["set"],
        "commit": commit_text(found) if found["device"] else None,
        "started": found["started"],
        "duration": _duration(found),
        "device": found["device"],
        "peak memory": None if found["peak_memory_mib"] is None else f"{found['peak_memory_mib']} MiB",
        "versions": _packages(found),
        "data hash": found["data_hash"],
        "prior hash": found["prior_hash"],
        "seed": found["seed"],
        "algorithms": None if found["algorithms"] is None else _numbers(found["algorithms"]),
        "request": found["request"],
    }
    for name in ("key", "set", "prior hash"):  # only some results have one
        if facts[name] is None:
            del facts[name]
    return [*_aligned(facts), *_older(found["older"]), *_settings(found["settings"])]


def _aligned(facts: dict[str, object]) -> list[str]:
    width = max(map(len, facts))
    return [f"  {name:{width}}  {UNKNOWN if fact in (None, '') else fact}" for name, fact in facts.items()]


def _duration(found: dict) -> str | None:
    if found["seconds"] is None:
        return None
    return f"{found['seconds']} s" + (" since it was stopped and went on" if found["resumed"] else "")


def _packages(found: dict) -> str:
    own = {"hglad": found["hglad"], "Python": found["python"]} | (found["packages"] or {})
    return _numbers({name: version for name, version in own.items() if version is not None})


def _numbers(versions: dict) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _older(texts: list[str]) -> list[str]:
    return [f"  made by older algorithm code: {'; '.join(texts)}"] if texts else []


def _settings(settings: dict | None) -> list[str]:
    if settings is None:
        return [f"  settings: {UNKNOWN}"]
    text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=100)
    return ["  settings", *(f"    {line}" for line in text.splitlines())]


def _folder_lines(found: dict) -> list[str]:
    rows = [
        {
            "commit": commit_text(group)[:7] if group["commit"] else UNKNOWN,
            "tree": {True: "clean", False: "changed", None: UNKNOWN}[group["clean"]],
            "results": ", ".join(f"{count} {kind}" for kind, count in group["results"].items()),
            "hours": f"{group['seconds'] / 3600:.2f}",
            "started": " to ".join(dict.fromkeys(day[:10] for day in group["started"] or (UNKNOWN,))),
            "device": group["device"] or UNKNOWN,
        }
        for group in found["groups"]
    ]
    lines = pd.DataFrame(rows).to_string(index=False).splitlines() if rows else []
    lines += [f"made by older algorithm code: {count} by {text}" for text, count in found["older"].items()]
    if found["unrecorded"]:
        lines.append(f"versions of the algorithms {UNKNOWN}: {found['unrecorded']}")
    return lines + [f"cannot be read: {path}; delete it to have it made again" for path in found["damaged"]]


def _page_lines(found: dict) -> list[str]:
    return [
        *_aligned({"commit": commit_text(found)}),
        "  no results of its own: text, as it was in that commit",
    ]


def _notebook_lines(found: dict) -> list[str]:
    started = found["started"]
    facts = {
        "profile": found["profile"],
        "made from": found["made_from"],
        "results": f"{len(found['results'])}: {' '.join(found['results'])}",
        "commits": ", ".join(found["commits"]),
        "started": " to ".join(dict.fromkeys(started)),
        "duration": f"{found['seconds']} s in all",
        "devices": "; ".join(found["devices"]),
        "peak memory": f"{found['peak_memory_mib']} MiB at most",
        "versions": ", ".join(found["packages"]),
        "data hash": ", ".join(found["data_hash"]),
        "prior hash": ", ".join(found["prior_hash"]),
        "seeds": ", ".join(map(str, found["seeds"])),
        "algorithms": _numbers(found["algorithms"]),
    }
    return [*_aligned(facts), *_older(found["older"]), "  settings: in the parameters of the notebook"]
