"""The command line: help of every command, one line for every bad input, and a set made and scored."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from hglad import __version__
from hglad.cli import _parser, main
from hglad.cli.names import NAMES
from hglad.data.datasets import available, load_data
from hglad.errors import HgladError
from hglad.evaluation import score as evaluation
from hglad.evaluation.baselines import random_real
from hglad.evaluation.sets import DistilledSet
from hglad.experiments.definitions import EXPERIMENTS
from hglad.paths import PROJECT

SMALL = {"name": "convnet", "depth": 2, "width": 8}


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser and those of all its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from parsers(command)


COMMANDS = [parser.prog.split()[1:] for parser in parsers(_parser())]


def tiny_profile() -> dict:
    """The digits profile with as little work as possible."""
    values = yaml.safe_load((PROJECT / "configs" / "digits.yaml").read_text())
    values["profile"] = "tiny"
    values["surrogate"] = {"network": SMALL, "augmentation": "", "batch_real": 4}
    values["search"] |= {"steps": 3, "select_every": 2}
    values["metric"] = {
        "network": SMALL,
        "training": {"epochs": 1, "augmentation": "", "ema_decay": None},
    }
    return values


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Working directory with a profile, a distilled set and some files that are neither."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(tiny_profile()))
    Path("typo.yaml").write_text(yaml.safe_dump(tiny_profile() | {"serach": {}}))
    Path("torn.yaml").write_text("search: {steps: [1,\nlayer")
    random_real(load_data("digits").train, 1, seed=0).save("set")
    Path("other").mkdir()
    Path("other", "notes.txt").write_text("text")
    return tmp_path


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help(capsys, words):
    with pytest.raises(SystemExit) as caught:
        main([*words, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(" ".join(["usage: hglad", *words]))


@pytest.mark.parametrize("parser", list(parsers(_parser())), ids=lambda parser: parser.prog)
def test_every_argument_is_explained(parser):
    silent = [action.dest for action in parser._actions if not action.help and not action.choices]
    assert silent == []


def test_the_commands_that_others_rely_on():
    names = {" ".join(words) for words in COMMANDS}
    assert names >= {"run", "distill", "evaluate", "prior train", "prior sample", "data list", "data check"}


def test_help_names_the_experiments_that_exist():
    assert set(NAMES["experiments"]) == set(EXPERIMENTS)


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"hglad {__version__}\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("evaluate none --data digits", "no file none: expected a set's file or folder"),
        ("evaluate set --data digit", "no data set 'digit'"),
        ("evaluate set --data cifar10 --root none", "'cifar10' is not usable in none"),
        ("evaluate set --data digits --networks convnt", "unknown network 'convnt': did you mean 'convnet'?"),
        ("evaluate set --data digits --networks convnet,", "unknown network ''"),
        ("evaluate set --data digits --repeats 0", "0 repeats"),
        ("evaluate set --data digits --epochs 0", "epochs"),
        ("evaluate set --data digits --augmentation colour", "did you mean 'color'?"),
        ("distill none.yaml --out o", "cannot read none.yaml"),
        ("distill typo.yaml --out o", "typo.yaml: unknown key 'serach': did you mean 'search'?"),
        ("distill torn.yaml --out o", "cannot read torn.yaml"),
        ("distill tiny.yaml --search pixels --objective dn --out o", "unknown objective 'dn'"),
        ("distill tiny.yaml --search single --prior none --out o", "unknown prior 'none'"),
        ("distill tiny.yaml --search single --prior a.safetensors --out o", "no prior at a.safetensors"),
        ("distill tiny.yaml --search pixels --out other", "other holds other files"),
        ("distill tiny.yaml --search pixels --out tiny.yaml", "cannot write tiny.yaml"),
        ("distill tiny.yaml", "distill needs --out DIR"),
        ("distill tiny.yaml --preset papers --out o", "unknown preset 'papers': did you mean 'paper'?"),
        ("distill tiny.yaml --preset paper --objective dmm --explain", "did you mean 'dm'?"),
        ("distill tiny.yaml --objective mtt --set metric.name=accuracy --out o", "expected another metric"),
        ("distill tiny.yaml --set search.shares=[.inf,1] --explain", "expected positive numbers"),
        ("distill tiny.yaml --set metric.held_out=7.0 --explain", "expected a share between 0 and 1"),
        ("distill tiny.yaml --set search.stage_lr_f=[-1.0] --explain", "expected numbers from 0"),
        ("distill tiny.yaml --set steps=3 --out o", "--set 'steps=3': expected search.KEY=VALUE"),
        ("distill tiny.yaml --set search.step=3 --out o", "unknown key 'search.step': did you mean 'steps'?"),
        ("distill tiny.yaml --set search.stages=[1 --out o", "cannot read the value; expected YAML"),
        ("distill tiny.yaml --set search.stages=[9] --explain", "split point 9 does not exist"),
        ("distill tiny.yaml --set metric.name=features --out o", "did you mean 'feature'?"),
        ("explore set --out o.html", "--keep-iterates"),
        ("explore none --out o.html", "no file none/distilled.safetensors"),
        ("tune tiny.yaml --trials 0", "tune.trials is 0: expected at least 1"),
        ("tune tiny.yaml --objective dn", "unknown objective 'dn'"),
        ("run none.yaml", "cannot read none.yaml"),
        ("run tiny.yaml --only glad_baselin", "did you mean 'glad_baseline'?"),
        ("notebooks none.yaml --out o", "cannot read none.yaml"),
        ("book --notebooks other --out o", "no executed notebooks in other"),
        ("compare other set", "no results in other"),
        ("prior train none.yaml --out o", "cannot read none.yaml"),
        ("prior train tiny.yaml --out o", "unknown key"),
        ("prior sample none --out o.png", "unknown prior 'none'"),
        (
            "prior sample digits-16 --classes 3,12 --out o.png",
            "class 12 does not exist: the generator has 10",
        ),
        (
            "prior sample digits-16 --classes 3,x --out o.png",
            "classes is '3,x': expected numbers such as 0,217",
        ),
        (
            "prior sample digits-16 --truncation 2 --out o.png",
            "truncation of a generator is 2.0: expected 0 to 1",
        ),
        ("prior describe digits-61", "unknown prior 'digits-61': did you mean 'digits-16'?"),
        ("data check digit", "did you mean 'digits'?"),
        ("data check digits --resolution 0", "resolution is 0"),
        ("data check folder", "needs a root"),
        ("data check other", "no resolution for the image folder other"),
        ("data check other --resolution 8", "no folder train/ in other"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(place, capsys, command, message):
    check_refusal(command, message, capsys)
    assert Path("other", "notes.txt").read_text() == "text"
    assert not list(place.glob(".tmp-*"))


def check_refusal(command: str, message: str, capsys) -> None:
    """Exit code 1 and one line that has the message."""
    assert main(command.split()) == 1
    output = capsys.readouterr()
    assert output.err.startswith("hglad: ")
    assert output.err.count("\n") == 1
    assert output.err.endswith("\n")
    assert message in output.err
    assert "Traceback" not in output.err + output.out


@pytest.mark.parametrize("line", ["--debug data check digit", "data check digit --debug"])
def test_debug_before_or_after_the_command(place, line):
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
    """As `hglad completion bash | head -1`: more than a pipe holds, and the other end is closed."""
    words = [sys.executable, "-m", "hglad", "completion", "bash"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        run.stdout.close()
        assert run.stderr.read() == b""
        assert run.wait(30) == 1


def test_the_program_itself(tmp_path):
    """Exit code and streams as a shell sees them, without and with --debug."""
    words = "'data', 'check', 'digit'"
    code = f"from hglad.cli import main; assert main([{words}]) == 1; main(['--debug', {words}])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    plain, debug = run.stderr.split("\n", 1)
    assert (run.returncode, run.stdout) == (1, "")
    assert plain.startswith("hglad: no data set 'digit'")
    assert debug.startswith("Traceback")
    assert "HgladError: no data set 'digit'" in debug


def test_help_does_not_wait_for_torch():
    code = "import sys; from hglad.cli import _parser; _parser(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_data_list(capsys):
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [name for name, _ in available()]
    assert lines[0].startswith("digits")


def test_data_check(capsys):
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


def test_distil_and_evaluate(place, capsys):
    made = distilled(capsys, "made", "--seed", "3", "--ipc", "2")
    assert made.images.shape == (20, 1, 16, 16)
    assert made.labels.tolist() == [label for label in range(10) for _ in range(2)]
    settings = made.card["settings"]
    assert {key: settings[key] for key in ("kind", "objective", "ipc", "seed")} == {
        "kind": "pixels", "objective": "dm", "ipc": 2, "seed": 3,
    }  # fmt: skip
    assert made.card["history"][0][:2] == [0, 0]
    assert made.card["distance"] == min(distance for _, _, distance in made.card["history"])
    result, out = scored(capsys, "made", "--repeats", "2")
    rows = result["rows"]
    assert [(row["network"], row["repeat"], row["set"]) for row in rows] == [
        ("convnet", 0, "given"),
        ("convnet", 1, "given"),
    ]
    mean = sum(row["accuracy"] for row in rows) / 2
    assert 0 <= mean <= 100
    assert f"{mean:.2f}".rstrip("0") in out
    assert result["set"] == made.card and result["training"]["convnet"]["epochs"] == 2


def test_a_set_follows_from_its_seed_and_leaves_nothing_else(place, capsys):
    seeds = {"a": "0", "b": "0", "c": "1"}
    first, again, other = (distilled(capsys, out, "--seed", seed) for out, seed in seeds.items())
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert {path.name for path in place.iterdir()} >= {"a", "b", "c"}
    assert not [path for path in place.iterdir() if "state" in path.name or path.name.startswith(".tmp")]


# Sets of others


@pytest.fixture
def foreign(place, monkeypatch) -> Path:
    """Files of sets that other code made, right ones and wrong ones, beside an empty cache."""
    monkeypatch.setenv("HGLAD_CACHE", str(place / "cache"))
    real = load_data("digits").train
    images, labels = random_real(real, 1, seed=0).images, torch.arange(10)
    broken = images.clone()
    broken[3, 0, 2, 2] = torch.nan
    sets = {
        "theirs": (images, labels),
        "normalized": (real.normalize(images), labels),
        "images": images,
        "labels": labels,
        "small": (images[:, :, ::2, ::2], labels),
        "bytes": (images * 255, labels),
        "nan": (broken, labels),
        "colour": (images.expand(-1, 3, -1, -1), labels),
        "from1": (images, labels + 1),
        "uneven": (torch.cat([images, images[:1]]), torch.cat([labels, labels[:1]])),
    }
    for name, content in sets.items():
        torch.save(content, f"{name}.pt")
    return place


def scored(capsys, *words: str) -> tuple[dict, str]:
    """What is written of an evaluation on the digits, and what is printed."""
    assert main(["evaluate", *words, "--data", "digits", "--epochs", "2", "--json", "scores.json"]) == 0
    return json.loads(Path("scores.json").read_text()), capsys.readouterr().out


def accuracies(result: dict) -> list[float]:
    return [row["accuracy"] for row in result["rows"]]


def test_a_set_of_others_scores_as_the_same_set_of_ours(foreign, capsys):
    own, _ = scored(capsys, "set", "--repeats", "2")
    result, out = scored(capsys, "theirs.pt", "--repeats", "2")
    assert result.keys() == {"rows", "training", "set", "provenance"}
    assert result["rows"] == own["rows"]
    assert result["set"]["file"] == "theirs.pt" and len(result["set"]["sha256"]) == 64
    assert {"device", "seconds", "packages"} <= result["provenance"].keys()
    head, line = out.splitlines()
    assert head.split()[:2] == ["network", "images"] and line.split()[:2] == ["convnet", "given"]


def test_images_and_labels_apart(foreign, capsys):
    own, _ = scored(capsys, "set", "--repeats", "1")
    result, _ = scored(capsys, "images.pt", "--labels", "labels.pt", "--repeats", "1")
    assert result["rows"] == own["rows"] and result["set"]["labels"]["file"] == "labels.pt"


@pytest.mark.parametrize("how", ["--normalized", "--mean {} --std {}"])
def test_a_normalisation_is_undone(foreign, capsys, how):
    real = load_data("digits").train
    words = how.format(real.mean.item(), real.std.item()).split()
    result, _ = scored(capsys, "normalized.pt", *words, "--repeats", "1")
    assert result["set"]["normalized"]["mean"] == pytest.approx(real.mean.tolist())
    assert result["set"]["normalized"]["std"] == pytest.approx(real.std.tolist())
    own, _ = scored(capsys, "set", "--repeats", "1")
    assert accuracies(result) == pytest.approx(accuracies(own), abs=0.6)  # two test images, by rounding


def test_random_images_are_scored_beside_a_set(foreign, capsys):
    result, out = scored(capsys, "theirs.pt", "--repeats", "1", "--random", "2")
    assert [(row["set"], row["seed"]) for row in result["rows"]] == [
        ("given", 0),
        ("random", 0),
        ("random", 1),
    ]
    assert accuracies(result)[0] == accuracies(result)[1]  # the set is the random one of seed 0
    given, random = out.splitlines()[1:]
    gain = accuracies(result)[0] - sum(accuracies(result)[1:]) / 2
    assert "given" in given and given.endswith(f"{gain:+.1f}")
    assert "random" in random and "sets" in random


def test_each_network_is_a_line(foreign, capsys):
    result, out = scored(capsys, "theirs.pt", "--networks", "convnet, alexnet", "--repeats", "1")
    assert [row["network"] for row in result["rows"]] == ["convnet", "alexnet"]
    assert [line.split()[0] for line in out.splitlines()] == ["network", "convnet", "alexnet"]
    assert result["training"].keys() == {"convnet", "alexnet"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("none.pt", "no file none.pt: expected a set's file or folder"),
        ("tiny.yaml", "tiny.yaml is no set: expected a file that ends in .pt"),
        ("other", "no class folder in other; put images there, one folder per class"),
        ("theirs.pt --protocol glat", "unknown evaluation protocol 'glat': did you mean 'glad'?"),
        ("theirs.pt --networks resnet", "unknown network 'resnet'"),
        ("theirs.pt --networks torchvision:alexnt", "did you mean 'torchvision:alexnet'?"),
        ("theirs.pt --repeats 0", "0 repeats of 1 networks: expected 1 or more"),
        ("theirs.pt --random -1", "-1 sets of random images: expected 0 or more"),
        ("uneven.pt --random 1", "the set has 1 to 2 images per class"),
        ("theirs.pt --precision float16", "precision is 'float16'; give float32 or bfloat16"),
        ("theirs.pt --test-precision half", "test_precision is 'half'; give float32 or bfloat16"),
        ("theirs.pt --lr 0", "lr is 0.0; give a positive number"),
        ("theirs.pt --experiment 1", "experiment is 1, but the file holds a single set: leave it out"),
        ("theirs.pt --device tpu", "unknown device 'tpu': expected cpu or cuda"),
        ("normalized.pt", "expected about 0 to 1; give --normalized"),
        ("normalized.pt --mean 0.5", "--mean and --std go together"),
        ("normalized.pt --std 0.5", "--mean and --std go together"),
        ("normalized.pt --mean a --std b", "--mean and --std are a and b: expected numbers such as 0.49"),
        ("normalized.pt --mean 0.5,0.4 --std 0.2,0.2", "expected 1 numbers each, std above 0"),
        ("normalized.pt --mean 0.5 --std 0", "expected 1 numbers each, std above 0"),
        ("normalized.pt --mean nan --std 0.3", "values that are not finite"),
        ("theirs.pt --normalized", "expected some below 0 in normalized images"),
        ("set --normalized", "is a set of hglad with labels and scale of its own: leave the options out"),
        ("small.pt", "images are 8 x 8 pixels (height x width): expected 16 x 16 as in 'digits'"),
        ("theirs.pt --resolution 8", "images are 16 x 16 pixels (height x width): expected 8 x 8"),
        ("set --resolution 8", "images are 16 x 16 pixels (height x width): expected 8 x 8"),
        ("from1.pt", "label 10 of image 9: expected 0 to 9, the classes of 'digits'; subtract 1"),
        ("images.pt", "it holds images alone: expected labels as well"),
        ("images.pt --labels none.pt", "no file none.pt"),
        ("images.pt --labels images.pt", "labels have shape [10, 1, 16, 16] for 10 images"),
        ("nan.pt", "1 values that are NaN or infinite, the first at [3, 0, 2, 2]"),
        ("bytes.pt", "expected about 0 to 1; divide them by 255"),
        ("colour.pt", "have 3 channels: expected 1 as in 'digits'; convert them to gray"),
    ],
)
def test_a_set_that_cannot_be_scored_is_one_line(foreign, capsys, words, message):
    check_refusal(f"evaluate {words} --data digits --epochs 1 --json scores.json", message, capsys)
    assert not Path("scores.json").exists()
    assert not list(Path("cache").rglob("*.*"))


def test_a_terminated_evaluation_goes_on_to_the_same_rows(foreign, capsys, monkeypatch):
    """By SIGTERM, behind the first of its networks; these are not trained again."""
    words = ["evaluate", "theirs.pt", "--data", "digits", "--epochs", "30", "--repeats", "6"]
    code = "import sys; from hglad.cli import main; sys.exit(main())"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [sys.executable, "-c", code, *words, "--json", "stopped.json"],
        env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        until(lambda: list(Path("cache").rglob("*.score")) or run.poll() is not None, 100)
        run.terminate()
        out, error = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 130 and "the same command goes on from the last saved state" in error
    assert out == "" and not Path("stopped.json").exists()
    finished = len(list(Path("cache").rglob("*.score")))
    trained, train = [], evaluation.train_classifier
    monkeypatch.setattr(evaluation, "train_classifier", lambda *given: trained.append(1) or train(*given))
    assert main([*words, "--json", "resumed.json"]) == 0
    assert len(trained) == 6 - finished < 6
    assert not list(Path("cache", "evaluations").iterdir())
    assert main([*words, "--json", "undisturbed.json"]) == 0
    assert len(trained) == 6 - finished + 6
    resumed, undisturbed = (
        json.loads(Path(f"{name}.json").read_text()) for name in ("resumed", "undisturbed")
    )
    assert resumed["rows"] == undisturbed["rows"] and len(resumed["rows"]) == 6


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_the_stages_of_a_preset_are_explained_without_running_them(place, capsys, preset):
    assert main(["distill", "tiny.yaml", "--preset", preset, "--explain"]) == 0
    head, *rows, total = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["stage", "split"] and head.split()[-1] == "GFLOP"
    expected = {"paper": ["latent", "L0_24_24", "pixels"], "released": ["L0_24_24", "L1_24_24", "L4_16_24"]}
    names = [row.split()[1] for row in rows]
    assert [names[0], names[1], names[-1]] == expected[preset]
    assert total.split()[:2] == ["all", str(11 * len(rows))]
    assert {path.name for path in place.iterdir()} == {"tiny.yaml", "typo.yaml", "torn.yaml", "set", "other"}


def test_settings_of_the_command_line_come_last(place, capsys):
    words = ["--preset", "paper", "--set", "search.steps=14", "--set", "search.stages=[2, 6]"]
    assert main(["distill", "tiny.yaml", *words, "--explain"]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[1] for row in rows[:-1]] == ["latent", "L1_24_24", "pixels"]
    assert rows[-1].split()[1] == "14"


def test_a_run_to_step_through(place, capsys):
    words = ["--keep-iterates", "--set", "search.select_every=1", "--set", "metric.name=feature"]
    made = distilled(capsys, "made", *words)
    assert made.iterates.shape == (4, 10, 1, 16, 16) and made.card["settings"]["metric"]["name"] == "feature"
    assert main(["explore", "made", "--out", "run.html"]) == 0
    assert Path("run.html").read_text().startswith("<!DOCTYPE html>")


def test_a_state_of_another_run_is_begun_anew_when_told_so(place, capsys):
    Path("made.state").write_text("not a state")
    assert main(["distill", "tiny.yaml", "--search", "pixels", "--out", "made"]) == 1
    assert "cannot read made.state" in capsys.readouterr().err
    assert len(distilled(capsys, "made", "--restart").images) == 10


def test_tuned_settings_are_printed_for_the_profile(place, capsys):
    values = tiny_profile()
    values["sets"]["searches"] = ["pixels"]
    values["evaluation"]["training"]["epochs"] = 1
    Path("pixels.yaml").write_text(yaml.safe_dump(values))
    words = ["--trials", "2", "--seeds", "1", "--json", "tuning.json", "--results", "trials", "--cores", "1"]
    assert main(["tune", "pixels.yaml", *words]) == 0
    table, best = capsys.readouterr().out.split("best of each, for the profile:")
    assert "the profile's own" in table and "lr_pixels" in table
    found = yaml.safe_load(best)["surrogate"]["objectives"]["dm"]["tuned"]
    assert found == json.loads(Path("tuning.json").read_text())["best"]["dm"]


def test_searches_tuned_one_by_one_come_to_the_same_file(place, capsys):
    values = tiny_profile()
    values["sets"]["searches"] = ["pixels", "single"]
    values["evaluation"]["training"]["epochs"] = 1
    Path("two.yaml").write_text(yaml.safe_dump(values))
    words = ["--trials", "2", "--seeds", "1", "--json", "tuning.json", "--results", "trials", "--cores", "1"]
    assert main(["tune", "two.yaml", "--search", "single", *words]) == 0
    assert main(["tune", "two.yaml", "--search", "pixels", *words]) == 0
    assert main(["tune", "two.yaml", *words[:4], "--json", "once.json", *words[6:]]) == 0
    parts, once = (json.loads(Path(name).read_text()) for name in ("tuning.json", "once.json"))
    assert parts["best"] == once["best"] and len(parts["earlier"]) == 1
    in_order = {(row["kind"], row["trial"]): row for row in parts["trials"]}
    assert in_order == {(row["kind"], row["trial"]): row for row in once["trials"]}
    assert main(["tune", "two.yaml", *words[:1], "3", *words[2:]]) == 1
    assert "has a tuning with trials 2: expected trials 3; delete it" in capsys.readouterr().err
    assert main(["tune", "two.yaml", "--search", "hierarchical", *words]) == 1
    assert "unknown search of the profile 'hierarchical': expected one of" in capsys.readouterr().err


def test_samples_of_the_classes_asked_for(tmp_path, capsys):
    command = f"prior sample digits-16 --classes 3,7,1 --per-class 2 --out {tmp_path / 'grid.png'}"
    assert main(command.split()) == 0
    width, height = Image.open(tmp_path / "grid.png").size
    assert (width, height) == (3 * 17 + 1, 2 * 17 + 1)  # one column per class, a line between images


def test_layers_of_a_generator_are_listed(capsys):
    assert main(["prior", "describe", "random-32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "L3_52_64" in lines[6] and "52" in lines[6] and len(lines) == 2 + 9


@pytest.mark.slow
def test_a_terminated_run_leaves_no_process_behind(place):
    profile = tiny_profile()
    profile["surrogate"]["objectives"] = {"mtt": {"experts": {"count": 2, "epochs": 5000}}}
    Path("long.yaml").write_text(yaml.safe_dump(profile))
    code = "import sys; from hglad.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "experts", "long.yaml", "--cores", "2", "--results", "r"]
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
