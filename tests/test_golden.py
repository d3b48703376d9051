"""Images, gradients, distances and weights are those of the code before it was rebuilt (`golden/make.py`).

Bit for bit on the same processor and PyTorch; elsewhere as close as sums in another order are.
"""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "golden"))

from make import VALUES, processor
from scenarios import SCENARIOS, compute

GOLDEN = json.loads(VALUES.read_text())
SAME = GOLDEN["made"] == processor()
ROUNDING = {"evaluation": 5.0, "metric accuracy": 2.0, "search noise accuracy": 2.0}  # points of accuracy
LOOSE = ("bfloat16", "gan", "mtt", "search")  # steps build upon steps, or 16 bits


@pytest.fixture(scope="module")
def computed() -> dict:
    return dict(compute())


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_values_are_those_of_before(name, computed):
    found, expected = computed[name], GOLDEN["values"][name]
    assert found.keys() == expected.keys()
    if SAME:
        assert found == expected
        return
    for part, summary in expected.items():
        values = summary["values"]
        rounding = 2e-2 if any(word in name for word in LOOSE) else 1e-3
        tolerance = ROUNDING.get(name, rounding * max(map(abs, values)))
        assert found[part]["values"] == pytest.approx(values, abs=tolerance, rel=rounding), part
