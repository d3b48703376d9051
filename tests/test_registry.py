"""Components by name: what is registered, what a name may be given, members of other packages."""

import subprocess
import sys

import pytest

from hglad.errors import HgladError
from hglad.registry import Registry

VERSION = 7


@pytest.fixture
def registry() -> Registry:
    registry = Registry("shape", given=("size",))

    @registry.register("disk")
    def disk(size, radius=2.0):
        return size, radius

    return registry


def test_a_component_is_made_with_what_the_caller_and_the_user_give(registry):
    assert registry.create("disk", 3, radius=1.0) == (3, 1.0)
    assert registry.options("disk") == ["radius"]
    assert (registry.default("disk", "radius"), registry.default("disk", "angle", 0)) == (2.0, 0)
    assert registry.version("disk") == VERSION


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("disc", {}, "unknown shape 'disc': did you mean 'disk'?"),
        ("disk", {"radios": 1}, "unknown option of the shape 'disk', 'radios': did you mean 'radius'?"),
    ],
)
def test_an_unknown_name_or_option_is_a_clear_error(registry, name, options, message):
    with pytest.raises(HgladError) as error:
        registry.create(name, 3, **options)
    assert str(error.value) == message


def test_a_name_is_registered_once(registry):
    with pytest.raises(HgladError, match="registered twice"):
        registry.register("disk")(lambda: None)


def installed(folder, module: str) -> dict:
    """An installed package whose entry point names `module`, as its files would be in site-packages."""
    info = folder / "shapes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shapes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[hglad]\nshapes = {module}\n")
    path = [str(folder), *(entry for entry in sys.path if entry)]
    return {"PYTHONPATH": ":".join(path), "PATH": "/usr/bin:/bin"}


def run(program: str, environment: dict) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)


def test_a_component_of_another_package_is_known_by_its_entry_point(tmp_path):
    (tmp_path / "shapes.py").write_text(
        "from hglad.metrics import METRICS\nVERSION = 3\nMETRICS.register('roundness')(lambda real: real)\n"
    )
    program = "from hglad.metrics import METRICS; print(METRICS.version('roundness'), METRICS.names())"
    done = run(program, installed(tmp_path, "shapes"))
    assert done.stdout.startswith("3 ") and "class_relevant" in done.stdout, done.stderr


def test_a_package_that_cannot_be_imported_is_named(tmp_path):
    program = "from hglad.metrics import METRICS; METRICS.names()"
    done = run(program, installed(tmp_path, "missing_shapes"))
    assert "the entry point 'shapes' of shapes cannot be imported" in done.stderr.splitlines()[-1]
