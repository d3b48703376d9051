"""The card of an exported set: a README with keys for the Hugging Face Hub and a text for people."""

from dataclasses import dataclass
from typing import Any

import yaml

from hglad import __version__
from hglad.analysis.labels import method_label, metric_label, objective_label
from hglad.analysis.tables import commit_text
from hglad.evaluation.card_scores import Scores
from hglad.evaluation.licenses import Source
from hglad.evaluation.sets import DistilledSet

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
CITATION = """\
@inproceedings{zhong2025hglad,
  title     = {Hierarchical Features Matter: A Deep Exploration of Progressive Parameterization Method for
               Dataset Distillation},
  author    = {Zhong, Xinhao and Fang, Hao and Chen, Bin and Gu, Xulin and Qiu, Meikang and Qi, Shuhan and
               Xia, Shu-Tao},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages     = {30462--30471},
  year      = {2025},
  url       = {https://arxiv.org/abs/2406.05704}
}"""
EIGHT_BIT = (
    "The images have 8 bits per channel: clamped to [0, 1] and rounded to one of 256 levels. The search, and "
    "the scores below where there are any, used the float images, which differ by up to half a level, and by "
    "more where they left [0, 1]; the format `pt` keeps those."
)


@dataclass(frozen=True)
class SetCard:
    """What is said of an exported set."""

    distilled: DistilledSet
    classes: tuple[str, ...]
    """Names."""
    source: Source
    """Data that it was made from."""
    scores: Scores | None
    """None: not scored."""
    reading: dict[str, Any]
    """Keys for the Hub that say how the files are read."""
    files: str
    """What lies where and how it is read, in Markdown."""
    eight_bit: bool
    """Whether the images were rounded."""

    @property
    def text(self) -> str:
        """The whole README."""
        sections = {
            "Files": [self.files, EIGHT_BIT] if self.eight_bit else [self.files],
            "Source data": self._source(),
            "Method": [_listed(self._method())],
            "Scores": [self.scores.table, *self.scores.notes] if self.scores else ["Not scored."],
            "Provenance": [_listed(self._provenance())],
            "Settings": [f"```yaml\n{_yaml(self._settings(), flow=None)}```"],
            "Citation": [f"```bibtex\n{CITATION}\n```", *filter(None, [self.source.citation])],
        }
        body = "\n\n".join("\n\n".join([f"## {title}", *parts]) for title, parts in sections.items())
        return f"---\n{_yaml(self._front_matter())}---\n\n# {self._name}\n\n{self._summary()}\n\n{body}\n"

    def _front_matter(self) -> dict[str, Any]:
        keys = {
            "pretty_name": self._name,
            **self.source.name_on_hub,
            "task_categories": ["image-classification"],
            "size_categories": [self._size],
            "tags": ["dataset-distillation", "synthetic", "hglad"],
        }
        return keys | self.reading

    @property
    def _size(self) -> str:
        count = len(self.distilled.images)
        return next((name for bound, name in SIZES if count < bound), "n>1M")

    @property
    def _name(self) -> str:
        settings = self.distilled.card.get("settings")
        what = method_label(self.distilled.card.get("kind", "own")) if settings is None else _search(settings)
        return f"{self.source.title.split(',')[0].split(' (')[0]}, {what}, {self._per_class} per class"

    @property
    def _per_class(self) -> str:
        few, most = min(self.distilled.counts), max(self.distilled.counts)
        number = f"{few}" if few == most else f"{few} to {most}"
        return f"{number} image{'' if most == 1 else 's'}"

    def _summary(self) -> str:
        shape = " × ".join(map(str, self.distilled.images.shape[1:]))
        labels = "a class each" if self.distilled.labels.ndim == 1 else "a probability of every class each"
        return (
            f"{len(self.distilled.images)} images of {shape} (channels × height × width) for "
            f"{len(self.classes)} classes, with {labels}: a small set to train networks on in place of the "
            f"whole training set, made with hglad {__version__}. What it shows need not look like the data."
        )

    def _source(self) -> list[str]:
        lines = {"data": self.source.title, "licence": self.source.licence, "terms": self.source.link}
        note = "The set was made from these data; their licence holds for what it shows of them."
        return [_listed({key: value for key, value in lines.items() if value}), note]

    def _method(self) -> dict[str, Any]:
        card = self.distilled.card
        settings = card.get("settings")
        if settings is None:
            return {"kind": method_label(card.get("kind", "unknown"))} | self._plain_card()
        best = card["best"]
        stage = card["stages"][best["stage"]]["name"]
        steps = sum(each["steps"] for each in card["stages"])
        by_metric = f"smallest {metric_label(settings['metric']['name'])} of the measured iterates"
        last = settings["search"].get("selection", "metric") == "last"
        return {
            "search": f"{method_label(settings['kind'])}, {steps} steps in {len(card['stages'])} stages",
            "objective": objective_label(settings["objective"]),
            "generator": "none" if settings["prior"] == "pixels" else settings["prior"].rpartition("/")[2],
            "images per class": settings["ipc"],
            "seed": settings["seed"],
            "selection": "last iterate" if last else by_metric,
            "selected": f"step {best['step']} of stage {stage}, distance {card['distance']:.4g}",
        }

    def _provenance(self) -> dict[str, Any]:
        card = self.distilled.card
        hashes = {
            key.replace("_", " "): card[key][:12] for key in ("data_hash", "prior_hash") if card.get(key)
        }
        record = card.get("provenance")
        if record is None:
            return {"made": "unknown: the set has no record of it"} | hashes
        packages = [f"{name} {version}" for name, version in record["packages"].items()]
        return {
            "code": commit_text(record),
            "versions": ", ".join([f"hglad {record['hglad']}", f"Python {record['python']}", *packages]),
            "device": record["device"],
            "computed": f"{record['started']}, {record['seconds']:.0f} s",
            **hashes,
        }

    def _plain_card(self) -> dict[str, Any]:
        """Plain entries of a card without settings, such as that of a baseline."""
        card = self.distilled.card
        return {key: value for key, value in card.items() if not isinstance(value, dict | list)}

    def _settings(self) -> dict[str, Any]:
        return self.distilled.card.get("settings") or self._plain_card()


def _search(settings: dict) -> str:
    return f"{method_label(settings['kind'])} with {settings['objective'].upper()}"


def _listed(lines: dict[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in lines.items())


def _yaml(content: object, flow: bool | None = False) -> str:
    """YAML in lines, or with `flow` None with the innermost groups in one line each."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110, default_flow_style=flow)
