"""`hglad bench`: the suites through the command line, the harness on steps of known cost."""

import json
import time

import pytest
import torch

from hglad import bench
from hglad.bench import Case, Suite, difference, measure, run, seeded, table_line
from hglad.cli import main
from hglad.metrics.feature import FeatureDistance


def measured(tmp_path, capsys, *words: str) -> tuple[dict, str]:
    """JSON and text of a quick run."""
    path = tmp_path / "bench.json"
    assert main(["bench", "--quick", "--json", str(path), *words]) == 0
    return json.loads(path.read_text()), capsys.readouterr().out


def check(row: dict, out: str) -> None:
    """Equal gradients, and a row that holds together."""
    assert row["difference"] < (0.05 if "bfloat16" in row["name"] else 1e-4)
    assert row.get("difference_float64", 0) < 1e-6
    check_sides(row, out)


def check_sides(row: dict, out: str) -> None:
    """Times and memory of both implementations, and their ratio."""
    assert row["n"] == 1
    for side in ("fast", "plain"):
        seconds = row[side]["seconds"]
        assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
        assert row[side]["first_call"] > 0
        assert 0 < row[side]["memory_mib"] < 4000
    pair = row["plain"]["seconds"]["median"] / row["fast"]["seconds"]["median"]
    assert row["ratio"]["median"] == pytest.approx(pair)
    assert sum(line.startswith(row["name"]) for line in out.splitlines()) == 1


def test_generator_suite(tmp_path, capsys):
    written, out = measured(tmp_path, capsys, "--suite", "generator")
    assert written["suite"] == "generator"
    for row in written["cases"]:
        check(row, out)
    assert written["provenance"]["threads"] == torch.get_num_threads()
    assert {"commit", "packages", "device"} <= written["provenance"].keys()


@pytest.mark.parametrize("method", ["dm", "dc", "mtt full", "mtt tesla"])
def test_matching_suite(tmp_path, capsys, method):
    written, out = measured(tmp_path, capsys, "--suite", "matching", "--only", f"{method},")
    (row,) = written["cases"]
    assert "difference_float64" in row
    assert row["name"].startswith(f"{method}, ")
    check(row, out)


def test_metric_suite(tmp_path, capsys):
    written, out = measured(tmp_path, capsys, "--suite", "metric")
    assert len(written["cases"]) == 2
    for row in written["cases"]:
        check(row, out)


def test_a_further_search_passes_no_real_image_through_the_classifier(monkeypatch):
    (case,) = Suite("metric", quick=True).chosen("further")
    fast, plain, means, passes = case.fast(), case.plain(), FeatureDistance.means_of_real, []
    fast()

    def counted(metric: FeatureDistance) -> torch.Tensor:
        passes.append(metric)
        return means(metric)

    monkeypatch.setattr(FeatureDistance, "means_of_real", counted)
    found = fast()
    assert not passes and difference(found, plain()) < 1e-4


def test_evaluation_suite(tmp_path, capsys):
    """Both sides score the same set, with other draws."""
    written, out = measured(tmp_path, capsys, "--suite", "evaluation", "--only", "bfloat16")
    (row,) = written["cases"]
    check_sides(row, out)
    assert row["difference"] < 0.5


def test_both_sides_of_a_test_classify_nearly_all_images_alike(tmp_path, capsys):
    written, out = measured(tmp_path, capsys, "--suite", "evaluation", "--only", "test,")
    (row,) = written["cases"]
    check_sides(row, out)
    assert row["difference"] < 0.1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_sides_of_the_evaluation_learn(precision):
    (case,) = Suite("evaluation", quick=True).chosen(precision)
    for side in (case.fast(), case.plain()):
        assert 20 < side().item() < 100  # chance is 10


@pytest.mark.slow
def test_matching_suite_compiled(tmp_path, capsys):
    written, out = measured(tmp_path, capsys, "--suite", "matching", "--only", "mtt tesla compiled")
    check(written["cases"][0], out)


def test_the_full_suite_has_the_published_sizes():
    names = [case.name for case in Suite("matching").cases()]
    assert len(set(names)) == len(names)
    for method in ("dm", "dc", "mtt full", "mtt tesla", "mtt full compiled", "mtt tesla compiled"):
        assert {f"{method}, {size}" for size in ("32 px, ipc 1", "32 px, ipc 10", "128 px, ipc 1")} <= {
            *names
        }


def test_the_full_evaluation_suite_is_the_published_protocol_in_both_precisions():
    names = [case.name for case in Suite("evaluation").cases()]
    sizes = (
        "1 image per class, 1,000 epochs",
        "1 image per class, 100 epochs",
        "10 images per class, 20 epochs",
    )
    trained = [f"{size}, {precision}" for size in sizes for precision in ("float32", "bfloat16")]
    assert names == [*trained, "test, ResNet-18", "test, ViT"]


@pytest.mark.parametrize("method", ["dm", "dc", "mtt full", "mtt tesla"])
def test_steps_draw_anew_in_the_same_order(method):
    case = Suite("matching", quick=True).chosen(f"{method}, ")[0].exact
    fast, plain = case.fast(), case.plain()
    first, second = fast(), fast()
    assert first.dtype == plain().dtype == torch.float64
    assert difference(first, second) > 1e-2  # other real images, networks or transforms
    assert difference(second, plain()) < 1e-6


def test_only_takes_a_whole_name_before_a_part():
    suite = Suite("matching")
    assert [case.name for case in suite.chosen("dm, 32 px, ipc 1")] == ["dm, 32 px, ipc 1"]
    assert len(suite.chosen("dm")) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--suite matchin", "unknown suite 'matchin': did you mean 'matching'?"),
        ("--only dn", "no case of suite 'matching' has 'dn' in its name"),
        ("--repeats 0", "repeats is 0, expected 1 or more"),
    ],
)
def test_bad_input_is_one_line(capsys, words, message):
    assert main(["bench", "--quick", *words.split()]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_benchmarks_need_a_checkout(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "FOLDER", tmp_path / "benchmarks")
    assert main(["bench", "--quick"]) == 1
    error = capsys.readouterr().err
    assert "benchmarks need a checkout" in error
    assert error.count("\n") == 1


def sleeper(log: list[str], name: str, seconds: float, gradient: float):
    """Set-up of a step that takes `seconds` and says when it was called."""

    def step() -> torch.Tensor:
        log.append(name)
        time.sleep(seconds)
        return torch.tensor([3.0, 4.0 + gradient])

    return lambda: step


def test_measure_takes_turns_and_reports_the_ratio():
    log = []
    case = Case("a", fast=sleeper(log, "fast", 0.01, 0.5), plain=sleeper(log, "plain", 0.05, 0.0))
    ticks = []
    row = measure(case, 3, tick=lambda: ticks.append(len(log)))
    assert ticks == [2, 4, 6, 8]  # one turn to warm up
    assert [set(log[i : i + 2]) for i in (0, 2, 4, 6)] == [{"fast", "plain"}] * 4
    assert log[2] != log[4]  # neither is always the first
    assert row["plain"]["seconds"]["median"] == pytest.approx(0.05, abs=0.02)
    assert 2 < row["ratio"]["median"] < 8
    assert row["ratio"]["min"] <= row["ratio"]["median"] <= row["ratio"]["max"]
    assert row["difference"] == pytest.approx(0.1)


def test_seeded_steps_make_the_same_draws_on_both_sides():
    one, other = (seeded(lambda generator: torch.rand(3, generator=generator), "cpu") for _ in range(2))
    draws = [one(), one()]
    assert not torch.equal(*draws)
    assert [torch.equal(draw, other()) for draw in draws] == [True, True]


SUITE = """
import torch
from hglad.bench import Case

def taking(mib):
    return lambda: lambda: torch.ones(mib * 2**18).sum().view(1)

def broken():
    def step():
        raise RuntimeError("out of memory")
    return step

def cases(device, quick):
    return [Case("sizes", taking(20), taking(200)), Case("broken", taking(20), lambda: broken())]
"""


def test_memory_and_failures_are_measured_apart(tmp_path):
    (tmp_path / "own.py").write_text(SUITE)
    sizes, broken = run(Suite("own", quick=True, folder=tmp_path), show=False)
    assert sizes["fast"]["memory_mib"] == pytest.approx(20, abs=10)
    assert sizes["plain"]["memory_mib"] == pytest.approx(200, abs=20)
    assert "seconds" in broken["fast"]
    assert broken["plain"] == {"failed": "out of memory"}
    assert "ratio" not in broken
    assert table_line(broken).endswith("plain did not run: out of memory")


def test_a_step_that_needs_more_than_there_is_fails_alone(tmp_path):
    (tmp_path / "huge.py").write_text(SUITE.replace("200", str(2**22)))  # 4 TiB
    row = next(run(Suite("huge", quick=True, folder=tmp_path), show=False))
    assert "allocate" in row["plain"]["failed"]
    assert row["fast"]["seconds"]["median"] > 0
