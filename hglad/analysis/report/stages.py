"""The stages of searches and what they cost."""

from collections.abc import Iterable, Sequence

import pandas as pd

from hglad.analysis.labels import LABELS
from hglad.analysis.report.show import Sentences, Table
from hglad.analysis.report.texts import NONE
from hglad.experiments.definitions import layer_count
from hglad.experiments.presets import PRESETS, preset, published_schedule
from hglad.experiments.profile import Profile
from hglad.search.distillation import DistillationSettings, planned_stages
from hglad.search.stages import Stage


def stage_table(stages: Sequence[Stage]) -> Table:
    """Stage, split layer, steps and rates of a search."""
    rows = [
        {
            "stage": number,
            "split layer": stage.name,
            "steps": stage.steps,
            "rate of f": f"{stage.lr_f:g}" if stage.lr_f else NONE,
            "rate of w": f"{stage.lr_w:g}" if stage.lr_w else NONE,
        }
        for number, stage in enumerate(stages, start=1)
    ]
    return Table(pd.DataFrame(rows))


def start_sentences(profile: Profile) -> Sentences:
    """What the searches through a generator start from, by objective and images per class."""
    found: dict[tuple[str, str], list[str]] = {}
    for objective in profile.sets["objectives"]:
        alike: dict[str, list[str]] = {}
        for ipc in profile.ipcs(objective):
            alike.setdefault(_starts(profile, objective, ipc), []).append(f"{ipc}")
        for starts, ipcs in alike.items():
            found.setdefault((starts, " and ".join(ipcs)), []).append(objective.upper())
    lines = (
        f"{', '.join(names)} at ipc {ipcs}: {starts} for each image"
        for (starts, ipcs), names in found.items()
    )
    return Sentences(tuple(lines))


def _starts(profile: Profile, objective: str, ipc: int) -> str:
    kinds = [kind for kind in ("single", "hierarchical") if kind in profile.sets["searches"]]
    alike: dict[int, list[str]] = {}
    for kind in kinds:
        alike.setdefault(profile.searched(objective, kind, ipc).average, []).append(LABELS[kind])
    return ", ".join(f"{' and '.join(labels)} from {_latents(many)}" for many, labels in alike.items())


def _latents(average: int) -> str:
    return "one mapped latent" if average == 1 else f"the mean of {average:,} mapped latents"


def stage_plan(stages: Sequence[Stage], images: int) -> pd.DataFrame:
    """Stage table of a run of so many images, with the work of the generator, and the total below."""
    work = [stage.flops * images / 1e9 for stage in stages]
    table = stage_table(stages).frame.assign(
        **{
            "GFLOP a step": [f"{each:.3g}" for each in work],
            "GFLOP": [f"{each * stage.steps:.3g}" for each, stage in zip(work, stages, strict=True)],
        }
    )
    total = dict.fromkeys(table.columns, "") | {
        "stage": "all",
        "steps": sum(stage.steps for stage in stages),
        "GFLOP": f"{sum(each * stage.steps for each, stage in zip(work, stages, strict=True)):.3g}",
    }
    return pd.concat([table, pd.DataFrame([total])], ignore_index=True)


def schedule_table(profile: Profile) -> Table:
    """What the published schedules cost on a profile's generator: steps and generator's work for one image.

    GLaD's 1,000 steps at its layer, the presets with the steps of the released code.
    """
    points, rows = layer_count(profile), []
    for name in profile.sets["objectives"]:
        searches = {"GLaD": ("single", {"steps": 1000})}
        for each in PRESETS:
            changes = preset(each, points)["search"] | published_schedule(each, name, points)
            searches[f"H-GLaD, {each}"] = ("hierarchical", changes)
        for label, (kind, changes) in searches.items():
            settings = DistillationSettings.of(profile, name, kind, 1, 0, search=changes)
            rows.append(_schedule_row(name, label, planned_stages(settings)))
    return Table(pd.DataFrame(rows))


def _schedule_row(objective: str, label: str, stages: Sequence[Stage]) -> dict[str, object]:
    return {
        "objective": objective.upper(),
        "search": label,
        "stages": len(stages),
        "steps": sum(stage.steps for stage in stages),
        "generator (GFLOP an image)": f"{sum(s.steps * s.flops for s in stages) / 1e9:.0f}",
    }


def stages_of(card: dict) -> list[Stage]:
    """Stage table on the card of a distilled set."""
    return [Stage(**stage) for stage in card["stages"]]


def cost_table(cards: Iterable[dict]) -> Table:
    """Steps, generator's work and seconds per run of each search and ipc: means over the runs."""
    rows = [
        {
            "method": card["settings"]["kind"],
            "ipc": card["settings"]["ipc"],
            "objective": card["settings"]["objective"],
            "steps": sum(stage["steps"] for stage in card["stages"]),
            "seconds": card["provenance"]["seconds"],
            "work": generator_work(card),
        }
        for card in cards
    ]
    groups = pd.DataFrame(rows).groupby(["objective", "method", "ipc", "steps"], sort=False)
    table = groups.agg(mean=("seconds", "mean"), work=("work", "mean"), count=("seconds", "count"))
    place = table.index.get_level_values("method").map(list(LABELS).index)
    table = table.iloc[place.argsort(kind="stable")].reset_index()
    cells = {
        "method": table["method"].map(LABELS),
        "ipc": table["ipc"],
        "steps": table["steps"],
        "generator (GFLOP)": table["work"].map("{:.0f}".format),
        "seconds per run": table["mean"].map("{:.1f}".format),
        "runs": table["count"],
    }
    if table["objective"].nunique() > 1:
        cells = {"objective": table["objective"].str.upper()} | cells
    return Table(pd.DataFrame(cells))


def generator_work(card: dict) -> float:
    """GFLOP that a run put through the generator, forward and back."""
    images = card["settings"]["ipc"] * card["classes"]
    return sum(stage["steps"] * stage["flops"] for stage in card["stages"]) * images / 1e9
