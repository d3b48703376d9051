"""Network pickles to safetensors: the images of the official code, and nothing of a hostile file runs."""

import functools
import hashlib
import http.server
import io
import json
import os
import pickle
import random
import subprocess
import sys
import threading
from pathlib import Path

import nvidia_pickles as nvidia
import pytest
import torch
from nvidia_pickles import Call, Writer, discriminator, dumps, module_state, persistent, write

from hglad.cli import main
from hglad.errors import HgladError
from hglad.priors import load_prior, prior_card
from hglad.priors import nvidia as nvidia_module
from hglad.priors.files import RELEASED
from hglad.priors.nvidia import import_prior, is_allowed, read_generator
from hglad.priors.pickles import read_pickle
from hglad.priors.stylegan_xl import Head, StyleGANXL, StyleGANXLSettings
from hglad.storage import read_tensors

FIXTURES = Path(__file__).parent / "fixtures" / "stylegan_xl"
SMALL = StyleGANXLSettings(
    z_dim=4, c_dim=3, w_dim=4, img_resolution=8, img_channels=1, channel_base=32, channel_max=4,
    num_layers=4, embedding=(5, 4), margin_size=2,
)  # fmt: skip
SHAPE = {"img_resolution": 16, "channel_base": 256, "channel_max": 12, "num_layers": 7}


def heads(*parts: tuple[int, int]) -> dict:
    return {"heads": tuple(Head(up_factor=factor, layers=layers) for factor, layers in parts)}


STRUCTURES = {  # settings of generators, and the numbers in the names of their layers in the official code
    "stem": ({}, [*range(8)]),
    "head": (heads((4, 5)), [*range(5), *range(6, 12)]),
    "unconditional": (heads((2, 4)) | {"c_dim": 0}, [*range(5), *range(6, 11)]),
    "two heads": (heads((2, 4), (4, 6)), [*range(5), 6, 7, *range(8, 15)]),
    "three heads": (heads((4, 5), (2, 6), (2, 3)), [*range(5), 6, 7, 8, *range(9, 17)]),
    "other stem": (
        heads((2, 5), (2, 5)) | {"margin_size": 4, "num_fp16_res": 2, "conv_kernel": 1, "filter_size": 4},
        [*range(5), 6, 7, 8, *range(9, 15)],
    ),
}


def relative_error(value, expected):
    return ((value - expected).norm() / expected.norm()).item()


def make(settings: StyleGANXLSettings = SMALL, source: str = "") -> Writer:
    network = StyleGANXL.random(settings, torch.Generator().manual_seed(0))
    tensors = dict(network.state_dict())
    if not settings.c_dim:  # as the official code has it, which does not use it then
        tensors["mapping.embed.weight"] = torch.ones(5, 4)
    return Writer(settings, tensors, source)


@pytest.fixture
def small() -> Writer:
    return make()


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, path: Path, *options: str) -> str:
    """The one line that `hglad prior import` ends with; nothing has been written."""
    before = sorted(os.listdir())
    assert main(["prior", "import", str(path), "--out", "out.safetensors", *options]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("hglad: ")
    assert sorted(os.listdir()) == before
    return captured.err


@pytest.mark.parametrize("name", ["stem32", "superres64"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_imported_generators_give_the_official_images(place, capsys, name, protocol):
    settings = StyleGANXLSettings.from_card(json.loads((FIXTURES / f"{name}.json").read_text()))
    tensors = read_tensors(FIXTURES / f"{name}.weights.safetensors")
    network = Writer(settings, tensors).network()
    path = write(Path("net.pkl"), protocol, G=network, D=discriminator(), G_ema=network)
    assert main(["prior", "import", "net.pkl", "--out", "net.safetensors"]) == 0
    assert capsys.readouterr().out == f"{network.arguments[0]['class_name']} of net.pkl in net.safetensors\n"

    generator = load_prior("net.safetensors")
    reference = read_tensors(FIXTURES / f"{name}.reference.safetensors")
    labels = reference["c"].argmax(dim=1)
    assert relative_error(generator.map(reference["z"], labels), reference["ws"]) < 1e-5
    images = generator.decode(generator.start(reference["ws"]), 0)
    assert relative_error(images * 2 - 1, reference["image"]) < 1e-5
    assert all(torch.equal(x, tensors[name]) for name, x in generator.state_dict().items())
    card = prior_card("net.safetensors")
    assert card["source"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["source"]["network"] == "G_ema" and card["source"]["address"] is None
    assert card["settings"]["layer_names"] == generator.layer_names
    assert card["kind"] == "stylegan_xl" and card["provenance"]["hglad"]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_structure_is_found_in_the_layers(tmp_path, structure):
    changes, numbers = STRUCTURES[structure]
    settings = SMALL.changed(**SHAPE | changes)
    writer = make(settings)
    if not settings.c_dim:
        settings = settings.changed(embedding=(1000, 320))  # nothing is there to tell its shape
    assert [int(name.rpartition(".")[2][1:].split("_")[0]) for name in writer.plans] == numbers
    found, _ = read_generator(write(tmp_path / "net.pkl", G_ema=writer.network()))
    assert found.settings == settings
    assert found.synthesis.layer_names == [name.rpartition(".")[2] for name in writer.plans]


def test_a_head_that_left_one_layer_may_have_had_any_resolution(tmp_path):
    settings = SMALL.changed(**SHAPE, **heads((4, 3), (2, 4)))
    writer = make(settings)
    found, _ = read_generator(write(tmp_path / "net.pkl", G_ema=writer.network()))
    assert found.settings.resolution == settings.resolution == 128
    w = torch.randn(2, found.num_ws, 4, generator=torch.Generator().manual_seed(1))
    expected = StyleGANXL.from_tensors(settings.to_dict(), writer.tensors)
    assert torch.equal(found.decode(found.start(w), 0), expected.decode(expected.start(w), 0))


def test_source_code_in_the_file_does_not_run(place, small):
    writer = Writer(small.settings, small.tensors, source="open('trace', 'w').close()\nraise SystemExit(7)\n")
    import_prior("out.safetensors", write(Path("net.pkl"), G_ema=writer.network()))
    assert load_prior("out.safetensors").settings == SMALL
    assert sorted(os.listdir()) == ["net.pkl", "out.json", "out.safetensors"]


def test_nothing_is_imported(place, small):
    write(Path("net.pkl"), G_ema=small.network(), D=discriminator())
    for package in ("torch_utils", "dnnlib", "timm", "feature_networks"):
        Path(f"{package}.py").write_text(f"open('trace-{package}', 'w').close()\n")
    command = (
        "import hglad.cli; exit(hglad.cli.main(['prior', 'import', 'net.pkl', '--out', 'out.safetensors']))"
    )
    subprocess.run([sys.executable, "-c", command], check=True, env=os.environ | {"PYTHONPATH": "."})
    assert not list(Path().glob("trace*")) and Path("out.safetensors").is_file()


def hostile_calls() -> dict[str, object]:
    command, leave = "touch trace", "open('trace', 'w')"
    pickled_method = Call(getattr, Call(RECORD, "x"), "format")
    return {
        "posix.system": Call(os.system, command),
        "builtins.eval": Call(eval, leave),
        "builtins.exec": Call(exec, leave),
        "io.open": Call(open, "trace", "w"),
        "subprocess.Popen": Call(subprocess.Popen, command),
        "runpy.run_path": Call(nvidia.foreign("runpy", "run_path"), "trace"),
        "torch.hub.load": Call(torch.hub.load, "a/b", "c"),
        "builtins.getattr": Call(getattr, {}, "clear"),
        "(computed)": Call(pickled_method, "x"),
    }


RECORD = nvidia.foreign("timm.models", "record")


@pytest.mark.parametrize("name", hostile_calls())
@pytest.mark.parametrize("where", ["network", "beside", "state", "key"])
def test_calls_are_refused_wherever_they_hide(place, capsys, small, name, where):
    call = hostile_calls()[name]
    if name in ("builtins.getattr", "(computed)"):  # of the discriminator; no harm where nobody looks
        where = "network"
    if where == "state":
        small.changes[""] = {"hook": [call]}
    network = call if where == "network" else small.network()
    extra = {"beside": {"x": call}, "key": {"x": {(1, call): 2}}}.get(where, {})
    assert f"'{name}'" in refused(capsys, write(Path("net.pkl"), G_ema=network, **extra))


def raw(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def text(content: str) -> bytes:
    return b"\x8c" + bytes([len(content)]) + content.encode()


RAW = {  # pickles that no pickler writes
    "global": (raw(b"cos\nsystem\n", text("touch trace"), b"\x85R"), "names 'os.system'"),
    "stack global": (
        raw(text("os"), text("system"), b"\x93", text("touch trace"), b"\x85R"),
        "names 'os.system'",
    ),
    "odd name": (raw(text("os\n\x1b[2J"), text("x" * 200), b"\x93"), "names 'os [2J.xxx"),
    "build": (raw(b"ctimm.x\nY\n)\x81}", text("__setstate__"), b"cos\nsystem\nsb"), "names 'os.system'"),
    "state of a name": (raw(b"ctimm.x\nY\n}b"), "cannot be filled"),
    "called text": (raw(text("eval"), text("1"), b"\x85R"), "cannot be called"),
    "called computed": (raw(b"ctimm.x\nY\n)R", text("touch trace"), b"\x85R"), "'(computed)'"),
    "inst": (raw(b"(", text("touch trace"), b"ios\nsystem\n"), "opcode INST"),
    "obj": (raw(b"(cos\nsystem\n", text("touch trace"), b"o"), "names 'os.system'"),
    "persistent id": (raw(text("x"), b"Q"), "opcode BINPERSID"),
    "persistent text id": (raw(b"Px\n"), "opcode PERSID"),
    "extension": (raw(b"\x82\x01"), "opcode EXT1"),
    "buffer": (raw(b"\x97"), "opcode NEXT_BUFFER"),
    "large bytes": (raw(b"\x8e", (2**40).to_bytes(8, "little"), b"x" * 100), "damaged"),
    "huge bytes": (raw(b"\x8e", (2**64 - 1).to_bytes(8, "little"), b"x"), "damaged"),
    "large text": (raw(b"\x8d", (2**40).to_bytes(8, "little"), b"x" * 100), "damaged"),
    "large integer": (raw(b"\x8b", (2**31 - 1).to_bytes(4, "little"), b"x"), "damaged"),
    "large frame": (raw(b"\x95", (2**60).to_bytes(8, "little"), b"}"), "it has none"),
    "far memo": (raw(b"}r", (2**31).to_bytes(4, "little")), "'G_ema'"),
    "unknown memo": (raw(b"h\x07"), "damaged"),
    "stack underflow": (raw(b"\x86"), "damaged"),
    "no mark": (raw(b"u"), "damaged"),
    "list": (raw(b"]"), "expected a dictionary"),
    "no network": (raw(b"}"), "'G_ema': it has none"),
    "laughing list": (
        raw(b"]\x94" + b"".join(b"]\x94(" + b"h%c" % i * 10 + b"e" for i in range(60))),
        "dictionary",
    ),
    "deep list": (raw(b"]" * 200_000 + b"a" * 199_999), "expected a dictionary"),
    "deep tuple as a key": (raw(b"})" + b"\x85" * 200_000 + b"Ns"), "'G_ema'"),
    "deep computed call": (raw(b"ctimm.x\nY\n" + b")R" * 200_000), "expected a dictionary"),
    "endless": (raw(b"N0" * 1_000_000), "more than 2000000 opcodes"),
    "text": (b"hello world\n", "no pickle"),
    "html": (b"<!doctype html><title>404</title>", "no pickle"),
    "zip": (b"PK\x03\x04" + bytes(100), "no pickle"),
    "zeros": (bytes(1000), "no pickle"),
    "empty": (b"", "empty"),
}


@pytest.mark.parametrize("name", RAW)
def test_malformed_pickles_are_refused(place, capsys, name):
    content, reason = RAW[name]
    Path("net.pkl").write_bytes(content)
    message = refused(capsys, Path("net.pkl"))
    assert "net.pkl: " in message and len(message) < 600
    assert reason in message


def test_files_that_are_no_pickle_or_another_are_refused(place, capsys, small):
    assert "No such file" in refused(capsys, Path("none.pkl"))
    Path("folder").mkdir()
    assert "Is a directory" in refused(capsys, Path("folder"))
    assert len(refused(capsys, write(Path("net.pkl"), **{"a\nb\r": 1, "c" * 10_000: 2}))) < 500
    write(Path("net.pkl"), G_ema=small.network())
    Path("net.pkl.sha256").write_text("0" * 64 + "  net.pkl\n")
    assert "net.pkl.sha256 has 000" in refused(capsys, Path("net.pkl"))


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999, 0.9999999])
def test_truncated_files_are_refused(place, capsys, small, share):
    content = write(Path("net.pkl"), G_ema=small.network()).read_bytes()
    Path("net.pkl").write_bytes(content[: min(int(len(content) * share), len(content) - 1)])
    assert "fetch it anew" in refused(capsys, Path("net.pkl"))


def tensor_call(
    numbers=4, offset=0, size=(4,), stride=(1,), blob=None, rebuild=torch._utils._rebuild_tensor_v2
) -> Call:
    """A tensor as it pickles, with a storage of so many numbers and a layout of one's own."""
    storage = torch.arange(float(numbers)).untyped_storage()
    stream = io.BytesIO()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    torch.save(typed, stream, _use_new_zipfile_serialization=False)
    content = stream.getvalue() if blob is None else blob(stream.getvalue())
    return Call(rebuild, Call(torch.storage._load_from_bytes, content), offset, size, stride, False, {})


def more_numbers(content: bytes) -> bytes:
    """The storage claims 2**40 numbers, both times that it says how many."""
    count = (2**40).to_bytes(8, "little")
    assert content.count(b"K\x04N") == 1 and content[-24:-16] == (4).to_bytes(8, "little")
    return content.replace(b"K\x04N", b"\x8a\x08" + count + b"N")[:-24] + count + content[-16:]


def zip_file(_: bytes) -> bytes:
    stream = io.BytesIO()
    torch.save(torch.ones(4), stream)
    return stream.getvalue()


TENSORS = {
    "stride 0": ({"size": (2**20, 2**20), "stride": (0, 0)}, "does not lie inside its 4 numbers"),
    "beyond": ({"size": (5,)}, "does not lie inside"),
    "stride": ({"size": (2, 2), "stride": (3, 1)}, "does not lie inside"),
    "offset": ({"offset": 1}, "does not lie inside"),
    "before": ({"offset": -1}, "does not lie inside"),
    "negative": ({"size": (-1,)}, "does not lie inside"),
    "huge": ({"size": (2**70,), "stride": (2**70,)}, "does not lie inside"),
    "fraction": ({"size": (2.0,)}, "does not lie inside"),
    "list": ({"size": [4]}, "does not lie inside"),
    "dimensions": ({"size": (1,) * 9, "stride": (1,) * 9}, "does not lie inside"),
    "claims": ({"blob": more_numbers}, "bytes for 1099511627776 numbers"),
    "short": ({"blob": lambda content: content[:-1]}, "15 bytes for 4 numbers"),
    "no header": ({"blob": lambda content: content[40:]}, "cannot be read"),
    "another magic number": (
        {"blob": lambda content: content.replace(b"\x8a\x0al", b"\x8a\x0am")},
        "cannot be read",
    ),
    "big-endian": ({"blob": lambda content: content.replace(b"q\x02\x88", b"q\x02\x89")}, "cannot be read"),
    "zip": ({"blob": zip_file}, "not in the old format"),
    "text": ({"blob": lambda _: "text"}, "not in the old format"),
    "hostile": ({"blob": lambda _: pickle.dumps(os.system)}, "names 'posix.system'"),
    "no tensor": ({"rebuild": RECORD}, "expected a tensor"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_stay_inside_their_bytes(place, capsys, small, name):
    options, reason = TENSORS[name]
    network = small.network()
    synthesis = network.arguments[0]["state"]["_modules"]["synthesis"].arguments[0]["state"]
    synthesis["_modules"]["input"].arguments[0]["state"]["_buffers"]["phases"] = tensor_call(**options)
    message = refused(capsys, write(Path("net.pkl"), G_ema=network))
    assert reason in message and "'synthesis.input.phases'" in message


def test_tensors_may_share_a_storage_and_have_other_formats(place, small):
    network = small.network()
    synthesis = network.arguments[0]["state"]["_modules"]["synthesis"].arguments[0]["state"]
    buffers = synthesis["_modules"]["input"].arguments[0]["state"]["_buffers"]
    whole = torch.arange(20.0)
    buffers["phases"], buffers["freqs"] = whole[2:10:2].double(), whole[:8].view(2, 4).T
    found, _ = read_generator(write(Path("net.pkl"), G_ema=network))
    first = found.synthesis.input
    assert first.phases.tolist() == [2, 4, 6, 8] and first.phases.dtype == torch.float32
    assert first.freqs.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


def layers_within_layers(depth: int, copies: int) -> Call:
    module = persistent("Layer", **module_state())
    for _ in range(depth):
        module = persistent("Layer", **module_state(modules={str(i): module for i in range(copies)}))
    return persistent("Generator", **module_state(modules={"mapping": module}) | {"c_dim": 3})


@pytest.mark.parametrize(("depth", "copies"), [(30, 2), (7, 10)])
def test_layers_that_multiply_are_refused(place, capsys, depth, copies):
    message = refused(capsys, write(Path("net.pkl"), G_ema=layers_within_layers(depth, copies)))
    assert "more than 2000 layers or 8 levels" in message


def edited(path: str, **changes) -> Writer:
    writer = make()
    writer.changes[path] = changes
    return writer


LAYER, *_ = make().plans
NAMES = [name.rpartition(".")[2] for name in make().plans]
SETTINGS = {
    "channel_max": (edited("synthesis", channel_max=2**60), "channel_max"),
    "kernel": (edited(LAYER, conv_kernel=1), "expected those of the first layer"),
    "margin": (edited("synthesis", margin_size=10**6), "margin_size"),
    "negative": (edited("synthesis", margin_size=-1), "margin_size"),
    "resolution": (edited("", img_resolution=2**30), "img_resolution"),
    "odd resolution": (edited("", img_resolution=0), "img_resolution"),
    "cutoff": (edited("synthesis", first_cutoff=1e-9), "first_cutoff"),
    "infinite": (edited("synthesis", first_stopband=float("inf")), "first_stopband"),
    "not a number": (edited("synthesis", output_scale=float("nan")), "output_scale"),
    "above the rate": (edited("synthesis", first_cutoff=99.0, channel_base=2**20), "can be laid out"),
    "text": (edited("synthesis", channel_base="32768"), "channel_base"),
    "truth": (edited("", z_dim=True), "z_dim"),
    "radial": (edited(LAYER, use_radial_filters=True), "use_radial_filters"),
    "mapping": (edited("mapping", num_layers=8), "8 layers"),
    "classes": (edited("", c_dim=99_999), "expected [99999, 4]"),
    "noise": (edited("", z_dim=8000), "expected [8000]"),
    "names": (edited("synthesis", layer_names=["x"] * 5), "layer 'x'"),
    "many names": (edited("synthesis", layer_names=["L0_12_4"] * 1000), "1000 layers"),
    "other names": (edited("synthesis", layer_names=[NAMES[1], NAMES[0], *NAMES[2:]]), "file has L1_12_4"),
    "missing layer": (edited("synthesis", layer_names=["L7_7_7"] * 5), "no layer 'L7_7_7'"),
    "filters": (edited("synthesis", last_stopband_rel=2**0.31), "not the filter"),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_no_such_network_has_are_refused(place, capsys, name):
    writer, reason = SETTINGS[name]
    assert reason in refused(capsys, write(Path("net.pkl"), G_ema=writer.network()))


def test_tensors_must_be_those_of_the_settings(place, capsys, small):
    def message(**changes) -> str:
        tensors = {name: x for name, x in (small.tensors | changes).items() if x is not None}
        return refused(capsys, write(Path("net.pkl"), G_ema=Writer(SMALL, tensors).network()))

    assert "'mapping.fc1.bias' is missing" in message(**{"mapping.fc1.bias": None})
    assert "'mapping.fc1.bias' has shape [3]" in message(**{"mapping.fc1.bias": torch.ones(3)})
    assert "'mapping.fc1.more' is not part" in message(**{"mapping.fc1.more": torch.ones(3)})
    name = f"{LAYER}.up_filter"
    assert f"'{name}' is not the filter" in message(**{name: small.tensors[name] + 1e-4})
    assert f"'{name}' is missing" in message(**{name: None})
    assert f"'{name}' has shape" in message(**{name: small.tensors[name][:-1]})


def test_networks_of_other_kinds_are_refused(place, capsys, small):
    assert "is a ProjectedDiscriminator: expected" in refused(
        capsys, write(Path("net.pkl"), D=discriminator(), G_ema=small.network()), "--key", "D"
    )
    older = persistent(
        "Generator", **module_state(modules={"mapping": persistent("M", **module_state())}), z_dim=8, c_dim=0
    )
    assert "has no layer 'synthesis'" in refused(capsys, write(Path("net.pkl"), G_ema=older))
    parts = {name: persistent("N", **module_state(), num_layers=8) for name in ("mapping", "synthesis")}
    older = persistent("Generator", **module_state(modules=parts), z_dim=8, c_dim=0)
    assert "has no 'layer_names': expected StyleGAN-XL, not StyleGAN2 or 3" in refused(
        capsys, write(Path("net.pkl"), G_ema=older)
    )
    assert "unknown network in this file, 'G_em': did you mean 'G_ema'?" in refused(
        capsys, write(Path("net.pkl"), G_ema=small.network()), "--key", "G_em"
    )
    assert "expected a network" in refused(capsys, write(Path("net.pkl"), G_ema=None))
    assert "no layers behind its stem" in refused(
        capsys, write(Path("net.pkl"), G_ema=small.network("SuperresGenerator"))
    )


def test_damage_at_any_place_is_an_error_or_does_no_harm(tmp_path, small):
    path = write(tmp_path / "net.pkl", G_ema=small.network(), D=discriminator())
    content, draw, refusals = path.read_bytes(), random.Random(0), 0
    names = small.tensors.keys()
    for _ in range(200):
        damaged = bytearray(content)
        place = draw.randrange(len(content))
        kind = draw.choice(["flip", "cut", "insert", "swap"])
        if kind == "flip":
            damaged[place] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            del damaged[place : place + draw.choice([1, 10, 10**6])]
        elif kind == "insert":
            damaged[place:place] = draw.randbytes(draw.choice([1, 8]))
        else:
            damaged[place] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            generator, _ = read_generator(path)
        except HgladError:
            refusals += 1
        else:  # a flipped bit of a weight, of the discriminator or of a hook
            assert generator.settings == SMALL and generator.state_dict().keys() == names
    assert 50 < refusals < 200


@pytest.mark.parametrize("words", [[], ["net.pkl", "--name", "cifar10"]])
def test_a_file_or_a_name_is_needed(place, capsys, words):
    assert main(["prior", "import", *words, "--out", "out.safetensors"]) == 1
    assert "FILE or --name NAME" in capsys.readouterr().err


def test_a_pickle_reads_as_records():
    found = read_pickle(io.BytesIO(dumps(discriminator())), is_allowed)
    state = found.arguments[0]["state"]
    assert found.name == "torch_utils.persistence._reconstruct_persistent_obj"
    layer = state["_modules"].items["layer"]
    assert layer.name == "timm.models.layers.conv2d_same.Conv2dSame"
    assert layer.state["kernel"].name == "torch.Size" and layer.state["kernel"].arguments == ((3, 3),)
    hooks = state["hooks"]
    assert hooks.keys() == {"0", 1} and hooks["0"].name == "(computed)" and hooks["0"].arguments[1] is layer
    assert sorted(hooks[1]) == [2, 3]
    feature = state["_modules"].items["feature"]
    assert feature is state["_modules"].items["same"]
    assert feature.name == "torch.nn.modules.container.Sequential"


@pytest.fixture
def server(tmp_path):
    """Address of a server of the files in a folder, and the folder."""
    (tmp_path / "served").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{{name}}.pkl", tmp_path / "served"
        server.shutdown()


def test_a_released_network_is_downloaded_once_and_its_first_checksum_holds(
    place, capsys, small, server, monkeypatch
):
    address, folder = server
    monkeypatch.setattr(nvidia_module, "ADDRESS", address)
    served = write(folder / "cifar10.pkl", G_ema=small.network())
    card = import_prior("out.safetensors", name="cifar10", cache="cache")
    digest = hashlib.sha256(served.read_bytes()).hexdigest()
    assert card["source"]["sha256"] == digest and card["source"]["address"] == address.format(name="cifar10")
    assert Path("cache/cifar10.pkl.sha256").read_text() == f"{digest}  cifar10.pkl\n"
    Path("cache/cifar10.pkl").unlink()
    served.write_bytes(served.read_bytes()[:-1] + b"x")
    with pytest.raises(HgladError, match="cifar10.pkl: its sha256 is not the one in cifar10.pkl.sha256"):
        import_prior("out.safetensors", name="cifar10", cache="cache")
    assert not Path("cache/cifar10.pkl").exists()
    served.unlink()
    assert len(RELEASED) == len(set(RELEASED)) == 14
    with pytest.raises(HgladError, match="unknown released network 'cifar_10': did you mean 'cifar10'"):
        import_prior("out.safetensors", name="cifar_10")
    with pytest.raises(HgladError, match="^cannot download http.*404.*; check the network") as caught:
        import_prior("out.safetensors", name="cifar10", cache="cache")
    assert "\n" not in str(caught.value)
