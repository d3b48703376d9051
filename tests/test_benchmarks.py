"""The benchmarks run, at tiny shapes, and either implementation gives the same result."""

import json
import subprocess
import sys

import pytest

from hglad.paths import PROJECT


@pytest.mark.parametrize(("suite", "only"), [
    ("matching", "dm,"), ("matching", "dc,"), ("matching", "mtt full,"), ("matching", "mtt tesla,"),
    ("generator", ""), ("metric", ""), ("evaluation", "test"),
])  # fmt: skip
def test_a_suite(tmp_path, suite, only):
    words = ["--suites", suite, "--only", only, "--quick", "--seconds", "0.01", "--json", tmp_path / "b.json"]
    subprocess.run([sys.executable, PROJECT / "benchmarks" / "bench.py", *words], check=True)
    written = json.loads((tmp_path / "b.json").read_text())
    assert {"commit", "packages", "device", "threads"} <= written["provenance"].keys()
    assert written["cases"]
    for row in written["cases"]:
        assert row["suite"] == suite and only in row["name"]
        assert row["difference"] < (0.05 if "bfloat16" in row["name"] else 1e-4)
        assert row.get("difference_float64", 0) < 1e-6
        for side in ("fast", "plain"):
            found = row[side]
            assert found["n"] >= 3 and 0 < found["min"] <= found["median"] <= found["max"]
        assert row["ratio"] == row["plain"]["median"] / row["fast"]["median"]
