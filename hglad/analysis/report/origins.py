"""Where the numbers of a notebook come from."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

from hglad.analysis import tables
from hglad.analysis.laboratory import Laboratory
from hglad.analysis.report.texts import NONE, duration_text, joined
from hglad.priors import prior_hash
from hglad.search.distillation import known_real


@dataclass(frozen=True)
class Provenance:
    """Where the numbers of a notebook come from."""

    lines: dict[str, str]

    def _repr_html_(self) -> str:
        items = "".join(
            f"<li><strong>{escape(name)}</strong>: {escape(text)}</li>" for name, text in self.lines.items()
        )
        return f'<div class="provenance"><p><strong>Provenance</strong></p><ul>{items}</ul></div>'

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {text}" for name, text in self.lines.items())


def provenance(laboratory: Laboratory) -> Provenance:
    """Provenance of all results that a notebook shows, read from the results themselves."""
    cards, evaluations = laboratory.cards(), laboratory.experiment.all_evaluations
    keys = list(dict.fromkeys(task.key for task in evaluations))
    records = [card["provenance"] for card in cards] + laboratory.store.provenance(keys)
    profile = laboratory.profile
    seeds = sorted({card["settings"]["seed"] for card in cards} or {task.seed for task in evaluations})
    priors = [profile.prior, *laboratory.experiment.families] if profile.prior else []
    generator = joined(f"{Path(prior).stem}, content {prior_hash(prior)[:12]}" for prior in priors) or NONE
    data = known_real(profile.data).train.name
    hashed = [record for record in (*cards, *records) if "data_hash" in record]
    lines = {
        "profile": profile.profile,
        "runs": f"distillations: {len(cards)}, evaluations: {len(keys)}, "
        f"{duration_text(sum(record['seconds'] for record in records))} of computing in all",
        "distillation seeds": ", ".join(map(str, seeds)),
        "computed": _dates(records),
        "code": joined(tables.commit_text(record) for record in records),
        "device": joined(record["device"] for record in records),
        "versions": joined(_versions(record) for record in records),
        "data": f"{data}, content {joined(record['data_hash'] for record in hashed)}",
        "generator": generator,
    }
    return Provenance(lines)


def _versions(record: dict) -> str:
    packages = [f"{name} {version}" for name, version in record["packages"].items()]
    return ", ".join([f"hglad {record['hglad']}", f"Python {record['python']}", *packages])


def _dates(records: list[dict]) -> str:
    days = sorted(record["started"][:10] for record in records)
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
