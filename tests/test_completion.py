"""Completion in the shell: what a real bash offers, and that the names offered are those that there are."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hglad.analysis.rendering import FORMATS
from hglad.analysis.tables import INTERVALS
from hglad.cli import _parser, main
from hglad.cli.completion import COMPLETERS, _arguments
from hglad.cli.names import NAMES
from hglad.data.datasets import available
from hglad.evaluation.protocols import PROTOCOLS
from hglad.experiments.presets import PRESETS
from hglad.networks import NETWORKS
from hglad.objectives import OBJECTIVES
from hglad.paths import PROJECT
from hglad.search.stages import KINDS

ASK = """
source {script}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
COMP_LINE="${{COMP_WORDS[*]}}" COMP_POINT=${{#COMP_LINE}}
_shtab_hglad
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("shell") / "hglad.bash"
    words = [sys.executable, "-m", "hglad", "completion", "bash"]
    file.write_bytes(subprocess.run(words, check=True, capture_output=True).stdout)
    return file


def bash(text: str, folder: Path = PROJECT) -> str:
    run = subprocess.run(
        ["bash", "--norc", "-c", text], cwd=folder, check=True, capture_output=True, text=True
    )
    assert run.stderr == ""
    return run.stdout


def offered(script: Path, line: str, folder: Path = PROJECT) -> set[str]:
    """What bash offers for the last word of a line; a line that ends in a blank has an empty last word."""
    words = [*line.split(), *([""] if line.endswith(" ") else [])]
    quoted = " ".join(f"'{word}'" for word in words)
    return set(bash(ASK.format(script=script, words=quoted), folder).split())


def test_bash_knows_the_command(script):
    assert bash(f"source {script}; complete -p hglad").split()[-1] == "hglad"


@pytest.mark.parametrize(("line", "candidates"), [
    ("hglad ev", {"evaluate"}),
    ("hglad results ", {"table", "export", "slim"}),
    ("hglad export x --format ", {"imagefolder", "parquet", "pt"}),
    ("hglad completion ", {"bash", "zsh", "tcsh"}),
    ("hglad run c.yaml --only ", set(NAMES["experiments"])),
    ("hglad distill c.yaml --objective d", {"dc", "dm"}),
    ("hglad evaluate x --networks con", {"convnet"}),
    ("hglad evaluate x --networks convnet,vg", {"convnet,vgg11"}),
    ("hglad evaluate x --data dig", {"digits"}),
    ("hglad data check imagew", {"imagewoof"}),
    ("hglad evaluate x --netw", {"--networks"}),
    ("hglad run configs/dig", {"configs/digits.yaml", "configs/digits-search.yaml"}),
    ("hglad report configs/smo", {"configs/smoke.yaml"}),
])  # fmt: skip
def test_candidates(script, line, candidates):
    assert offered(script, line) == candidates


def test_profiles_are_offered_before_anything_is_typed(script):
    found = offered(script, "hglad run ")
    assert {f"configs/{path.name}" for path in (PROJECT / "configs").glob("*.yaml")} <= found
    assert "README.md" not in found


def test_files_and_folders(script, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.pt").touch()
    assert offered(script, "hglad evaluate f", tmp_path) == {"file.pt", "folder"}
    assert offered(script, "hglad compare f", tmp_path) == {"folder"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_every_command_is_in_the_script(capsys, shell):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    (commands,) = [a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction)]
    assert [name for name in commands.choices if name not in text] == []


def test_printing_does_not_wait_for_pytorch():
    code = (
        "import sys; from hglad.cli import main; main(['completion', 'bash']);"
        "sys.exit(' '.join(name for name in ('torch', 'pandas', 'numpy') if name in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True)
    assert run.stderr.strip() == ""


def test_names_are_those_that_there_are():
    assert set(NAMES["data"]) == {name for name, _ in available()}
    assert set(NAMES["networks"]) == set(NETWORKS.names())
    assert set(NAMES["objective"]) == set(OBJECTIVES.names())
    assert set(NAMES["preset"]) == set(PRESETS)
    assert set(NAMES["protocol"]) == set(PROTOCOLS)
    assert set(NAMES["search"]) == set(KINDS)
    assert set(NAMES["interval"]) == set(INTERVALS)
    assert set(NAMES["format"]) == set(FORMATS.values())
    suites = {path.stem for path in (PROJECT / "benchmarks").glob("*.py") if "def cases(" in path.read_text()}
    assert set(NAMES["suite"]) == suites


def test_every_completer_has_its_argument():
    found = list(_arguments(_parser(), ()))
    known = {action.dest for _, action in found} | {(*words, action.dest) for words, action in found}
    names = {"experiments"}  # used under another name
    assert set(COMPLETERS) - names <= known
