"""Write values.json by the library as it is: `PYTHONPATH=. python tests/golden/make.py`.

The values that are kept were made by the code before it was rebuilt into its present rooms. Make them anew
only where an algorithm is meant to change, together with its `VERSION`.
"""

import json
import platform
import re
from pathlib import Path

import torch
from scenarios import compute

VALUES = Path(__file__).with_name("values.json")


def processor() -> dict[str, str]:
    """What bits depend on: processor, its instructions as PyTorch takes them, PyTorch."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    rows = (line.partition(":") for line in lines)
    named = {key.strip(): value.strip() for key, _, value in rows}
    return {
        "processor": named.get("model name", platform.processor()),
        "family": f"{named.get('cpu family')}.{named.get('model')}.{named.get('stepping')}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    found = {"made": processor(), "values": dict(compute())}
    VALUES.write_text(re.sub(r"\n {4,}|\n {3}(?=\})", " ", json.dumps(found, indent=1)) + "\n")
