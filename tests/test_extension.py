"""A package of others adds one of each kind, as the page on extending says, in files of its own alone."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hglad.paths import PROJECT

FOLDER = PROJECT / "tests" / "extension"
FILES = [path for path in sorted((FOLDER / "hglad_extension").glob("*.py")) if path.name != "__init__.py"]
PROFILE = """
profile: tiny
data: {name: digits, resolution: 8}
prior: blocks.yaml
surrogate: {network: {name: one_layer, width: 4}, batch_real: 8}
search: {steps: 2, select_every: 1, layer: 0}
metric: {name: mean_color, compared: [], options: {power: 1}, training: {epochs: 1}}
evaluation: {repeats: 1, training: {epochs: 1}, full_set: {epochs: 1}, full_set_seeds: 1}
networks: {One layer: {name: one_layer}}
sets: {objectives: [mean_image], searches: [pixels, single], ipc: [1], seeds: [0]}
studies: {sweep_seeds: 0, ablation_seeds: 0, matching_seeds: 0, cross_seeds: 0}
"""


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_the_code_of_the_page_is_the_one_that_runs(file):
    page = (PROJECT / "book" / "extend.md").read_text()
    assert file.read_text() in re.findall(r"```python\n(.*?)```", page, re.DOTALL)


def test_the_entry_points_of_the_page_are_those_of_the_package():
    text = (FOLDER / "hglad_extension-1.0.dist-info" / "entry_points.txt").read_text()
    points = re.findall(r"^(\w+) = ([\w.]+)$", text, re.MULTILINE)
    page = (PROJECT / "book" / "extend.md").read_text()
    assert re.findall(r'^(\w+) = "(hglad_extension\.\w+)"$', page, re.MULTILINE) == points
    assert {module.split(".")[1] for _, module in points} == {file.stem for file in FILES}


def hglad(folder: Path, *words: str, **variables: str) -> str:
    """What a command prints, where the package is installed."""
    environment = os.environ | {"PYTHONPATH": f"{PROJECT}{os.pathsep}{FOLDER}"} | variables
    command = [sys.executable, "-m", "hglad", *words]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_run_of_nothing_but_additions(tmp_path):
    (tmp_path / "tiny.yaml").write_text(PROFILE)
    (tmp_path / "blocks.yaml").write_text("kind: blocks\nsettings: {img_resolution: 8}\n")
    hglad(tmp_path, "run", "tiny.yaml", "--results", "results", "--cores", "1")
    cards = [json.loads(path.read_text()) for path in tmp_path.glob("results/sets/*/card.json")]
    assert {card["settings"]["prior"] for card in cards} == {"pixels", "blocks.yaml"}
    for card in cards:
        assert card["settings"]["objective"] == "mean_image"
        versions = card["provenance"]["algorithms"]
        assert versions["objective mean_image"] == versions["metric mean_color"] == 1
    evaluations = [json.loads(path.read_text()) for path in tmp_path.glob("results/evaluations/*.json")]
    rows = [row for each in evaluations for row in each["rows"]]
    assert {row["network"] for row in rows} == {"One layer"}
    assert {"4 steps"} <= {row.get("variant") for row in rows}
    offered = {
        "_HGLAD_COMPLETE": "complete_bash",
        "COMP_WORDS": "hglad explain x --objective m",
        "COMP_CWORD": "4",
    }
    assert set(hglad(tmp_path, **offered).split()) == {"mean_image", "mtt"}
