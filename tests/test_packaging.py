"""The files that describe the project agree with each other and with what is installed."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from hglad import __version__ as hglad_version

ROOT = Path(__file__).resolve().parent.parent
PROJECT_FILE = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PROJECT_FILE["project"]
LOCK_LINES = (ROOT / "requirements.lock").read_text().splitlines()
LOCKED = dict(line.split("==") for line in LOCK_LINES)
PYTHON = "3.11"  # the one that the lock was made for and that every description names
DIRECT = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]
ABSOLUTE_PATH = re.compile(rb"(?<![\w.~-])/(root|work|home/\w+|Users/\w+)/")
LARGEST_FILE = 12_000_000  # bytes


made_for_this_machine = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or sys.platform != "linux",
    reason="the lock is made for Python 3.11 on Linux",
)


def required_by(name: str, extras: frozenset[str] = frozenset()) -> list[Requirement]:
    """Requirements of the installed package `name[extras]` that apply on this machine."""
    requirements = map(Requirement, importlib.metadata.requires(name) or [])
    chosen = [{"extra": extra} for extra in ("", *extras)]
    return [r for r in requirements if r.marker is None or any(map(r.marker.evaluate, chosen))]


def closure(requirements: list[Requirement]) -> set[str]:
    """Names of everything that the requirements pull in, through the metadata of what is installed."""
    waiting = list(requirements)
    done = set()
    while waiting:
        requirement = waiting.pop()
        node = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if node not in done:
            done.add(node)
            waiting += required_by(*node)
    return {name for name, _ in done}


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """Files that git tracks or would add."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.split(b"\0")
    return [path for name in listed if name and (path := ROOT / os.fsdecode(name)).is_file()]


def test_lock_lines_are_pins_sorted_and_unique():
    assert not [line for line in LOCK_LINES if not re.fullmatch(r"[a-z0-9][a-z0-9-]*==[0-9][\w.]*", line)]
    names = [line.split("==")[0] for line in LOCK_LINES]
    assert names == sorted(set(names))


def test_direct_dependencies_are_locked_inside_their_ranges():
    direct = {canonicalize_name(each.name): each.specifier for each in map(Requirement, DIRECT)}
    assert not {name for name, range_ in direct.items() if not range_.contains(LOCKED.get(name, "0"))}


@made_for_this_machine
def test_the_lock_holds_what_is_needed_and_no_more_and_fits_what_is_installed():
    build = PROJECT_FILE["build-system"]["requires"]  # installed without build isolation
    assert closure([Requirement(text) for text in DIRECT + build]) == set(LOCKED)
    assert {name: importlib.metadata.version(name) for name in LOCKED} == LOCKED
    for name in LOCKED:
        for need in required_by(name):
            assert need.specifier.contains(LOCKED[canonicalize_name(need.name)], prereleases=True), name


def test_environment_file_uses_the_lock_and_the_same_python():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert f"python={PYTHON}" in dependencies
    assert {"pip": ["-r requirements.lock", "-e ."]} in dependencies


def test_every_description_names_the_same_python():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [
        step
        for job in workflow["jobs"].values()
        for step in job["steps"]
        if "setup-python" in step.get("uses", "")
    ]
    assert [step["with"]["python-version"] for step in steps] == [PYTHON] * len(workflow["jobs"])
    assert PROJECT["requires-python"] == f">={PYTHON}"


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert Version(PROJECT["version"]) == Version(citation["version"]) == Version(hglad_version)
    assert citation["license"] == PROJECT["license"]


def test_hosted_workflow_calls_the_ci_script():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert "bash .ci/run" in [step.get("run") for step in workflow["jobs"]["test"]["steps"]]
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert (ROOT / ".ci/run").read_text().splitlines()[-1] == "make test"


def test_no_file_holds_a_path_of_somebodys_machine_or_is_too_large(files):
    contents = {str(path.relative_to(ROOT)): path.read_bytes() for path in files}
    text = {name: content for name, content in contents.items() if b"\0" not in content[:8000]}
    assert not {name: m[0] for name, content in text.items() if (m := ABSOLUTE_PATH.search(content))}
    assert not {name for name, content in contents.items() if len(content) > LARGEST_FILE}


def test_makefile_help_lists_every_command():
    makefile = (ROOT / "Makefile").read_text()
    commands = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    listed = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert re.findall(r"^make ([\w-]+) ", listed, re.MULTILINE) == commands


def test_old_python_is_refused_with_one_line(tmp_path):
    old = tmp_path / "python with a space"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    run = subprocess.run(["make", "lint", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode != 0
    assert f"no Python 3.11 or newer (PYTHON='{old}')" in run.stderr
    assert not (tmp_path / ".venv").exists()


TINY = """
profile: tiny
data: {name: digits, resolution: 8}
prior: null
surrogate: {network: {name: convnet, depth: 1, width: 4}, batch_real: 8}
search: {steps: 2, select_every: 1}
metric: {name: feature, network: {name: convnet, depth: 1, width: 4}, training: {epochs: 1}}
evaluation: {repeats: 1, training: {epochs: 1}, full_set: {epochs: 1}, full_set_seeds: 1}
networks: {small: {name: convnet, depth: 1, width: 4}}
sets: {objectives: [dm], searches: [pixels], ipc: [1], seeds: [0]}
studies: {sweep_seeds: 0, ablation_seeds: 0, matching_seeds: 0, cross_seeds: 0, baselines: [herding]}
"""


@pytest.mark.slow
def test_the_wheel_works_from_another_folder(tmp_path):
    """Built and installed without a download, into an environment that finds the rest where it is."""
    source, folder = tmp_path / "source", tmp_path / "elsewhere"
    shutil.copytree(ROOT / "hglad", source / "hglad", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(wheel, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    (built,) = tmp_path.glob("hglad-*.whl")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", "-I", built], check=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "rest.pth").write_text(sysconfig.get_path("purelib"))
    folder.mkdir()
    (folder / "tiny.yaml").write_text(TINY)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def hglad(*words: str) -> str:
        command = [tmp_path / "env" / "bin" / "hglad", *words]
        run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return run.stdout

    assert hglad("--version") == f"hglad {hglad_version}\n"
    hglad("run", "tiny.yaml", "--results", "results", "--cores", "1")
    assert len(list((folder / "results" / "evaluations").glob("*.json"))) >= 3
    hglad("distill", "tiny.yaml", "--search", "pixels", "--keep-iterates", "--out", "set")
    hglad("explore", "set", "--out", "run.html")
    assert "<script" in (folder / "run.html").read_text()
    assert not [path for path in site.rglob("*") if "results" in path.name and path.is_dir()]
