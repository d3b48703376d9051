"""The command line: help, completion, one line for every bad input, a set made and scored."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import typer
import yaml
from PIL import Image

from hglad import __version__, cli
from hglad.cli import main
from hglad.data.datasets import available, load_data
from hglad.errors import HgladError
from hglad.evaluation.baselines import random_real
from hglad.evaluation.sets import DistilledSet
from hglad.networks import NETWORKS
from hglad.objectives import OBJECTIVES
from hglad.paths import PROJECT

SMALL = {"name": "convnet", "depth": 2, "width": 8}


def commands(group=typer.main.get_command(cli.app), words=()) -> dict[str, object]:  # noqa: B008
    """Every command by its words."""
    found = {" ".join(words): group}
    for name, command in getattr(group, "commands", {}).items():
        found |= commands(command, (*words, name))
    return found


COMMANDS = commands()


def tiny_profile() -> dict:
    """The digits profile with as little work as possible."""
    values = yaml.safe_load((PROJECT / "configs" / "digits.yaml").read_text())
    values["profile"] = "tiny"
    values["surrogate"] = {"network": SMALL, "augmentation": "", "batch_real": 4}
    values["search"] |= {"steps": 3, "select_every": 2}
    training = {"epochs": 1, "augmentation": "", "ema_decay": None}
    values["metric"] = {"network": SMALL, "training": training}
    return values


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Working directory with a profile, a distilled set and some files that are neither."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HGLAD_CACHE", str(tmp_path / "cache"))
    Path("tiny.yaml").write_text(yaml.safe_dump(tiny_profile()))
    Path("typo.yaml").write_text(yaml.safe_dump(tiny_profile() | {"serach": {}}))
    Path("torn.yaml").write_text("search: {steps: [1,\nlayer")
    random_real(load_data("digits").train, 1, seed=0).save("set")
    Path("other").mkdir()
    Path("other", "notes.txt").write_text("text")
    return tmp_path


@pytest.mark.parametrize("words", COMMANDS)
def test_help_explains_every_argument(capsys, words):
    assert main([*words.split(), "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: hglad {words}".strip())
    if words != "job":
        assert COMMANDS[words].help and all(each.help for each in COMMANDS[words].params)


def test_the_commands_that_others_rely_on():
    relied_on = "run,explain,distill,evaluate,explore,export,provenance,prior train,prior import,prior sample"
    relied_on += ",prior describe,data list,data check,results table,results export"
    assert set(relied_on.split(",")) <= COMMANDS.keys()


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hglad {__version__}\n"


def complete(line: str, folder: Path = PROJECT) -> set[str]:
    """What bash offers for the last word of a line."""
    environment = os.environ | {
        "_HGLAD_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1),
    }  # fmt: skip
    code = (
        "import sys; from hglad.cli import main\ntry: main([])\n"
        "finally: print(*{'torch', 'pandas', 'numpy'} & sys.modules.keys(), file=sys.stderr)"
    )
    words = [sys.executable, "-c", code]
    run = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert run.stderr.strip() == "", "completion waits for what it does not need"
    return set(run.stdout.split())


@pytest.mark.parametrize(("line", "candidates"), [
    ("hglad ev", {"evaluate"}),
    ("hglad results ", {"table", "export", "slim"}),
    ("hglad export x --format ", {"imagefolder", "parquet", "pt"}),
    ("hglad distill c.yaml --objective ", set(OBJECTIVES.names())),
    ("hglad evaluate x --networks ", set(NETWORKS.names())),
    ("hglad evaluate x --networks convnet,vg", {"convnet,vgg11"}),
    ("hglad evaluate x --netw", {"--networks"}),
    ("hglad run configs/dig", {"configs/digits.yaml", "configs/digits-search.yaml"}),
    ("hglad run configs/prio", {"configs/priors/"}),
    ("hglad prior describe random", {"random-32"}),
])  # fmt: skip
def test_completion(line, candidates):
    assert complete(line) == candidates


@pytest.mark.parametrize(("line", "message"), [
    ("evalute", "hglad: No such command 'evalute'. Did you mean 'evaluate'? (see hglad --help)"),
    ("", "hglad: Missing command (see hglad --help)"),
    ("results tabel", "hglad results: No such command 'tabel'. Did you mean 'table'? (see hglad results "),
    ("data check a --resolutio=b", "hglad data check: No such option: --resolutio (Possible options: --res"),
    ("data check a b", "hglad data check: Got unexpected extra argument(s) (b)"),
    ("export x --format part --out y", "hglad export: Invalid value for '--format': 'part' is not one of"),
    ("distill tiny.yaml", "hglad distill: Missing option '--out' (see hglad distill --help)"),
    ("distill c.yaml --out o --ipc two", "hglad distill: Invalid value for '--ipc': Input should be a valid"),
    ("run c.yaml --cores 0", "hglad run: Invalid value for '--cores': Input should be greater than or"),
])  # fmt: skip
def test_a_wrong_command_line_is_one_line_and_exit_code_2(capsys, line, message):
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


@pytest.mark.parametrize(("command", "message"), [
    ("evaluate none --data digits", "no file none: expected a set's file or folder"),
    ("evaluate set --data digit", "no data set 'digit'"),
    ("evaluate set --data digits --networks convnt", "unknown network 'convnt': did you mean 'convnet'?"),
    ("evaluate set --data digits --repeats 0", "0 repeats"),
    ("evaluate set --data digits --mean 0.5", "--mean and --std go together"),
    ("evaluate set --data digits --mean a --std b", "--mean and --std are a and b: expected numbers such as"),
    ("evaluate set --data digits --device tpu", "unknown device 'tpu': expected cpu or cuda"),
    ("distill none.yaml --out o", "cannot read none.yaml"),
    ("distill typo.yaml --out o", "typo.yaml: unknown key 'serach': did you mean 'search'?"),
    ("distill torn.yaml --out o", "cannot read torn.yaml"),
    ("distill tiny.yaml --search pixels --objective dn --out o", "unknown objective 'dn'"),
    ("distill tiny.yaml --search single --prior none --out o", "unknown prior 'none'"),
    ("distill tiny.yaml --search pixels --out other", "other holds other files"),
    ("distill tiny.yaml --search pixels --out tiny.yaml", "cannot write tiny.yaml"),
    ("distill tiny.yaml --preset papers --out o", "unknown preset 'papers': did you mean 'paper'?"),
    ("explain tiny.yaml --set steps=3", "--set 'steps=3': expected KEY=VALUE, such as search"),
    ("explain tiny.yaml --set search.step=3", "unknown key 'search.step': did you mean 'steps'?"),
    ("explain tiny.yaml --set search.stages=[1", "cannot read the value; expected YAML"),
    ("explain tiny.yaml --set search.stages=[9]", "split point 9 does not exist"),
    ("explore set --out o.html", "--keep-iterates"),
    ("explore none --out o.html", "no file none/distilled.safetensors"),
    ("tune tiny.yaml --objective dn", "unknown objective 'dn'"),
    ("run tiny.yaml --only glad_baselin", "did you mean 'glad_baseline'?"),
    ("run tiny.yaml --book .", "--book needs --notebooks DIR"),
    ("notebooks none.yaml --out o", "cannot read none.yaml"),
    ("book --notebooks other --out o", "no executed notebooks in other"),
    ("compare other set", "no results in other"),
    ("prior train tiny.yaml --out o", "unknown key"),
    ("prior import --out o.safetensors", "prior import needs a FILE or --name NAME, and not both"),
    ("prior sample digits-16 --classes 3,x --out o.png", "classes is '3,x': expected numbers such as 0,217"),
    ("prior describe digits-61", "unknown prior 'digits-61': did you mean 'digits-16'?"),
    ("data check digit", "did you mean 'digits'?"),
    ("data check other --resolution 8", "no folder other/train;"),
])  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_1(place, capsys, command, message):
    assert main(command.split()) == 1
    output = capsys.readouterr()
    assert output.err.startswith("hglad: ") and output.err.count("\n") == 1 and output.err.endswith("\n")
    assert message in output.err
    assert "Traceback" not in output.err + output.out
    assert Path("other", "notes.txt").read_text() == "text"
    assert not list(place.glob(".tmp-*"))


@pytest.mark.parametrize("line", ["--debug data check digit", "data check digit --debug"])
def test_debug_before_or_after_the_command(line):
    with pytest.raises(HgladError, match="no data set 'digit'"):
        main(line.split())


@pytest.mark.parametrize(("error", "text"), [
    (ValueError("a\nbug"), "unexpected ValueError: a bug; run again with --debug for the traceback, and"),
    (MemoryError(), "unexpected MemoryError; run again with --debug"),
    (OSError(28, "No space left"), "unexpected OSError: [Errno 28] No space left; run again"),
])  # fmt: skip
def test_what_nobody_expected_is_one_line_as_well(monkeypatch, capsys, error, text):
    def fail() -> None:
        raise error

    monkeypatch.setattr("hglad.data.datasets.available", fail)
    assert main(["data", "list"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"hglad: {text}")
    assert captured.err.count("\n") == 1
    with pytest.raises(type(error)):
        main(["data", "list", "--debug"])


def test_a_reader_that_leaves_is_no_error():
    """As `hglad data list | head -1`, where the other end of the pipe is closed."""
    words = [sys.executable, "-m", "hglad", "data", "list"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        run.stdout.close()
        assert run.stderr.read() == b""
        assert run.wait(60) == 1


def test_the_program_itself():
    """Exit code and streams as a shell sees them, without and with --debug."""
    words = "'data', 'check', 'digit'"
    code = f"from hglad.cli import main; assert main([{words}]) == 1; main(['--debug', {words}])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    plain, debug = run.stderr.split("\n", 1)
    assert (run.returncode, run.stdout) == (1, "")
    assert plain.startswith("hglad: no data set 'digit'")
    assert debug.startswith("Traceback")
    assert "HgladError: no data set 'digit'" in debug


def test_data(capsys):
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [name for name, _ in available()]
    assert main(["data", "check", "digits"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["image_shape"] == [1, 16, 16]
    assert described["images"] == {"train": 1437, "test": 360}


def distilled(capsys, out: str, *words: str) -> DistilledSet:
    """Images of a pixel search over the tiny profile."""
    assert main(["distill", "tiny.yaml", "--search", "pixels", "--out", out, *words]) == 0
    made = DistilledSet.load(out)
    assert capsys.readouterr().out.startswith(f"{len(made.images)} images in {out}, distance ")
    return made


def test_distill_and_evaluate(place, capsys):
    made, again = (distilled(capsys, out, "--seed", "3", "--ipc", "2") for out in ("made", "again"))
    assert torch.equal(made.images, again.images)
    assert made.images.shape == (20, 1, 16, 16)
    assert made.labels.tolist() == [label for label in range(10) for _ in range(2)]
    settings = made.card["settings"]
    assert (settings["objective"], settings["ipc"], settings["seed"]) == ("dm", 2, 3)
    assert not [path for path in place.iterdir() if "state" in path.name or path.name.startswith(".tmp")]
    words = "evaluate made --data digits --epochs 2 --repeats 2 --networks convnet,alexnet --random 1"
    assert main([*words.split(), "--json", "scores.json"]) == 0
    result, out = json.loads(Path("scores.json").read_text()), capsys.readouterr().out
    given = [row for row in result["rows"] if row["set"] == "given"]
    assert [(row["network"], row["repeat"]) for row in given] == [
        (network, repeat) for network in ("convnet", "alexnet") for repeat in range(2)
    ]
    mean = sum(row["accuracy"] for row in given[:2]) / 2
    assert f"{mean:.2f}".rstrip("0") in out
    assert result["set"] == made.card and result["training"]["convnet"]["epochs"] == 2


def test_a_set_of_others_scores_as_the_same_set_of_ours(place):
    real = load_data("digits").train
    images = random_real(real, 1, seed=0).images
    torch.save((real.normalize(images), torch.arange(10)), "theirs.pt")
    rows = []
    for words in (
        "set",
        "theirs.pt --normalized",
        f"theirs.pt --mean {real.mean.item()} --std {real.std.item()}",
    ):
        line = f"evaluate {words} --data digits --epochs 2 --repeats 1 --json scores.json"
        assert main(line.split()) == 0
        rows.append(json.loads(Path("scores.json").read_text())["rows"][0]["accuracy"])
    assert rows == pytest.approx([rows[0]] * 3, abs=0.6)  # two test images, by rounding


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_the_stages_of_a_preset_are_explained_without_running_them(place, capsys, preset):
    before = set(place.iterdir())
    words = ["--preset", preset, "--set", "search.steps=14"]
    assert main(["explain", "tiny.yaml", *words, "--stages"]) == 0
    head, *rows, total = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["stage", "split"] and head.split()[-1] == "GFLOP"
    expected = {"paper": ["latent", "L0_24_24", "pixels"], "released": ["L0_24_24", "L1_24_24", "L4_16_24"]}
    names = [row.split()[1] for row in rows]
    assert [names[0], names[1], names[-1]] == expected[preset]
    assert total.split()[0] == "all" and "14" in total.split()
    assert set(place.iterdir()) - before <= {place / "cache"}
    assert main(["explain", "tiny.yaml", *words]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["search.steps", "14", "--set"] in lines and ["surrogate.batch_real", "4", "profile"] in lines
    assert ["search.momentum", "0.5", "default"] in lines and total.split() == lines[-1]


def test_a_run_to_step_through(place, capsys):
    words = ["--keep-iterates", "--set", "search.select_every=1", "--set", "metric.name=feature"]
    Path("made.state").write_text("not a state")
    made = distilled(capsys, "made", *words, "--restart")
    assert made.iterates.shape == (4, 10, 1, 16, 16) and made.card["settings"]["metric"]["name"] == "feature"
    assert main(["explore", "made", "--out", "run.html"]) == 0
    assert Path("run.html").read_text().startswith("<!DOCTYPE html>")


def test_tuned_settings_are_printed_for_the_profile(place, capsys):
    values = tiny_profile()
    values["sets"]["searches"] = ["pixels"]
    values["evaluation"]["training"]["epochs"] = 1
    Path("pixels.yaml").write_text(yaml.safe_dump(values))
    words = ["--trials", "2", "--seeds", "1", "--json", "tuning.json", "--results", "trials", "--cores", "1"]
    assert main(["tune", "pixels.yaml", *words]) == 0
    table, best = capsys.readouterr().out.split("best of each, for the profile:")
    assert "the profile's own" in table and "lr_pixels" in table
    assert yaml.safe_load(best) and json.loads(Path("tuning.json").read_text())["best"]["dm"]


def test_samples_and_layers_of_a_generator(tmp_path, capsys):
    command = f"prior sample digits-16 --classes 3,7,1 --per-class 2 --out {tmp_path / 'grid.png'}"
    assert main(command.split()) == 0
    width, height = Image.open(tmp_path / "grid.png").size
    assert (width, height) == (3 * 17 + 1, 2 * 17 + 1)  # one column per class, a line between images
    assert main(["prior", "describe", "random-32"]) == 0
    assert re.search(r"L3_52_64 .* 52", capsys.readouterr().out)


@pytest.mark.slow
def test_a_terminated_run_leaves_no_process_behind(place):
    profile = tiny_profile()
    profile["objectives"] |= {"mtt": {"experts": {"count": 2, "epochs": 5000}}}
    Path("long.yaml").write_text(yaml.safe_dump(profile))
    command = [sys.executable, "-m", "hglad", "experts", "long.yaml", "--cores", "2", "--results", "r"]
    run = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: len(members(run.pid)) >= 3 or run.poll() is not None, 100)  # it and its two workers
        time.sleep(3)
        assert run.poll() is None
        run.terminate()
        assert run.wait(30) == 130 and "goes on from the last saved state" in run.stderr.read()
        until(lambda: not members(run.pid), 30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)


def until(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.2)


def members(group: int) -> list[int]:
    """Processes of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[2]) == group:
                found.append(int(stat.parent.name))
    return found
