"""The explorer page holds one run whole: its images bit for bit, its numbers, and nothing from elsewhere."""

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from PIL import Image
from replacing import replace

from hglad.book.explorer import explorer_page, write_explorer
from hglad.errors import HgladError
from hglad.evaluation.sets import DistilledSet

CLASSES, IPC, HEIGHT, WIDTH = 3, 2, 4, 5
NAMES = ["zero", "one", "two"]
HISTORY = [[0, 0, 2.0], [0, 5, 1.0], [1, 0, 1.0], [1, 5, 0.5], [1, 10, 0.7]]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def make_set(channels: int = 1, classes: int = CLASSES, ipc: int = IPC, size=(HEIGHT, WIDTH)) -> DistilledSet:
    """A run of two stages whose kept images are noise."""
    rng = torch.Generator().manual_seed(0)
    shape = (len(HISTORY), classes * ipc, channels, *size)
    iterates = torch.randint(256, shape, generator=rng, dtype=torch.uint8)
    settings = {
        "data": {"name": "digits"}, "kind": "hierarchical", "objective": "dm", "ipc": ipc, "seed": 1,
        "metric": {"name": "class_relevant"},
    }  # fmt: skip
    card = {
        "settings": settings,
        "stages": [{"name": "input", "steps": 5}, {"name": "pixels", "steps": 10}],
        "history": HISTORY,
        "best": {"stage": 1, "step": 5},
    }
    labels = torch.arange(classes).repeat_interleave(ipc)
    return DistilledSet(iterates[3].float() / 255, labels, card, iterates)


def differences(made: DistilledSet) -> np.ndarray:
    """Every iterate minus the first one of its stage."""
    return made.iterates.numpy().astype(float) - made.iterates[[0, 0, 2, 2, 2]].numpy()


def make_rows(accuracies: list[float]) -> list[dict]:
    """Two networks per iterate a point around its accuracy, another seed, and the row of a whole set."""
    rows = [
        {"seed": seed, "iterate": index, "repeat": repeat, "accuracy": accuracy + change + 50 * (seed - 1)}
        for seed in (1, 2)
        for index, accuracy in enumerate(accuracies)
        for repeat, change in enumerate((-1, 1))
    ]
    return [*rows, {"seed": 1, "iterate": None, "repeat": 0, "accuracy": 3.0}]


def run_of(page: str) -> dict:
    """What the page shows; it has one script with data and one with code."""
    scripts = BeautifulSoup(page, "html.parser").find_all("script")
    assert [script.get("type") for script in scripts] == ["application/json", None]
    return json.loads(scripts[0].string)


def sprite(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_of_every_iterate_is_in_its_place(channels):
    made = make_set(channels)
    run = run_of(explorer_page(made, NAMES))
    assert (run["size"], run["ipc"]) == ([HEIGHT, WIDTH], IPC)
    for text, images in zip(run["sprites"], made.iterates, strict=True):
        picture = sprite(text).reshape(IPC * HEIGHT, CLASSES * WIDTH, channels)
        for index, image in enumerate(images):
            column, row = divmod(index, IPC)
            top, left = row * HEIGHT, column * WIDTH
            shown = picture[top : top + HEIGHT, left : left + WIDTH]
            np.testing.assert_array_equal(shown, image.permute(1, 2, 0).numpy())


def test_the_numbers_of_the_run():
    run = run_of(explorer_page(make_set(), NAMES, [10, 20, 20, 40, 30]))
    assert run["classes"] == NAMES
    assert run["stages"] == [{"name": "input", "steps": 5}, {"name": "pixels", "steps": 10}]
    assert [[i["stage"], i["step"], i["distance"]] for i in run["iterates"]] == HISTORY
    assert [i["accuracy"] for i in run["iterates"]] == [10, 20, 20, 40, 30]
    assert run["starts"] == [0, 0, 2, 2, 2]
    assert run["selected"] == 3
    assert run["metric"] == "class-relevant feature distance"
    assert run["title"] == "digits: H-GLaD with distribution matching (DM), 2 images per class, seed 1"


def test_the_largest_difference_to_a_stage_start_becomes_white():
    made = make_set()
    largest = np.abs(differences(made)).max()
    assert run_of(explorer_page(made, NAMES))["gain"] * largest == pytest.approx(255)
    still = replace(made, iterates=made.iterates[:1].expand_as(made.iterates))
    assert run_of(explorer_page(still, NAMES))["gain"] == 255


def test_names_do_not_leave_their_script():
    hostile = ["</script><script>alert(1)</script>", "<!--<script>", "a & \"b\" 'c' \u2028 é {{run}}"]
    assert run_of(explorer_page(make_set(), hostile))["classes"] == hostile


def test_the_page_names_no_address():
    page = explorer_page(make_set(), NAMES)
    assert "://" not in page
    assert not re.search(r"<(link|iframe|img)\b|@import|url\(", page)
    assert "default-src 'none'" in page


def written(folder: Path, made: DistilledSet, rows: list[dict] | None = None) -> dict:
    """What the page of a set shows that is written beside the rows of an evaluation."""
    made.save(folder / "set")
    (folder / "rows.json").write_text(json.dumps({"rows": rows}))
    write_explorer(folder / "set", folder / "page.html", rows and folder / "rows.json")
    return run_of((folder / "page.html").read_text(encoding="utf-8"))


def test_written_with_the_mean_accuracy_of_its_own_iterates(tmp_path):
    run = written(tmp_path, make_set(classes=10), make_rows([10, 20, 20, 40, 30]))
    assert run["classes"] == [str(digit) for digit in range(10)]
    assert [i["accuracy"] for i in run["iterates"]] == [10, 20, 20, 40, 30]
    assert {i["accuracy"] for i in written(tmp_path, make_set(classes=10))["iterates"]} == {None}


@pytest.mark.parametrize(("rows", "message"), [
    (make_rows([10, 20, 20, 40]), "got 4 accuracies, expected 5: they are of another run"),
    ([row | {"seed": 2} for row in make_rows([10] * 5)], "got 0 accuracies, expected 5"),
    ([{"seed": 1, "accuracy": 10}], "no rows with seed, iterate, accuracy: expected one of evaluations/"),
])  # fmt: skip
def test_rows_that_do_not_fit_are_refused(tmp_path, rows, message):
    with pytest.raises(HgladError, match=message):
        written(tmp_path, make_set(classes=10), rows)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("card", [make_set().card, {"kind": "random", "seed": 0}])
def test_a_set_without_iterates_says_how_to_keep_them(tmp_path, card):
    with pytest.raises(HgladError, match=r"kept no iterates, .* \(hglad distill --keep-iterates\)"):
        written(tmp_path, replace(make_set(), iterates=None, card=card))


def test_what_does_not_fit_the_run_is_named():
    made = make_set()
    with pytest.raises(HgladError, match="got 2 class names, expected 3"):
        explorer_page(made, NAMES[:2])
    with pytest.raises(HgladError, match="got 4 kept iterates, expected 5"):
        explorer_page(replace(made, iterates=made.iterates[:4]), NAMES)


@pytest.fixture
def opened(tmp_path):
    """A function that opens a page in a browser, runs a script there, returns its texts by their id."""

    def open_page(page: str, address: str = "", script: str = "", width: int = 720) -> dict[str, str]:
        added = f"<p id=found></p><script>setTimeout(async () => {{{script}}}, 500)</script></body>"
        (tmp_path / "page.html").write_text(page.replace("</body>", added), encoding="utf-8")
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", f"--window-size={width},900",
            f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=20000", "--dump-dom",
            f"file://{tmp_path}/page.html{address}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return dict(re.findall(r'id="([\w-]+)"[^>]*>([^<]*)<', done.stdout)) | {"page": done.stdout}

    return open_page


in_a_browser = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]


class TestInABrowser:
    pytestmark = in_a_browser

    def test_the_iterate_in_the_address_is_shown(self, opened):
        page = explorer_page(make_set(), NAMES, [10, 20, 20, 40, 30])
        shown = opened(page, "#iterate=3")
        assert shown["title"].startswith("digits: H-GLaD with distribution matching")
        assert (shown["stage-number"], shown["stage"], shown["step"]) == ("Stage 2 of 2", "pixels", "5 of 10")
        assert (shown["distance"], shown["accuracy"], shown["selected"]) == ("0.500", "40.0 %", "this one")
        assert shown["page"].count("<canvas") == CLASSES * IPC and shown["page"].count("<polyline") == 2 * 2
        shown = opened(page, "#iterate=99&difference")
        assert (shown["step"], shown["selected"]) == ("10 of 10", "iterate 3")
        assert shown["scale"].startswith("Brightness: |image − first image of stage pixels|, times ")

    def test_the_pixels_are_those_of_the_iterate_and_of_the_difference(self, opened):
        made = make_set(channels=3)
        read = "const cell = document.querySelectorAll('canvas')[5].getContext('2d');"
        read += "found.textContent = cell.getImageData(0, 0, 5, 4).data.join(' ');"
        image, start = (made.iterates[index, 5].permute(1, 2, 0).numpy().astype(float) for index in (4, 2))
        for address, expected in (
            ("#iterate=4", image),
            ("#iterate=4&difference", np.abs(image - start) * 255 / np.abs(differences(made)).max()),
        ):
            found = opened(explorer_page(made, NAMES), address, read)["found"]
            values = np.array(found.split(), dtype=float).reshape(HEIGHT, WIDTH, 4)
            np.testing.assert_allclose(values[..., :3], expected, atol=0.51)
            assert (values[..., 3] == 255).all()

    def test_keys_slider_and_chart_move_the_iterate(self, opened):
        script = """
            const press = key =>
              document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
            const slide = value => { slider.value = value; slider.dispatchEvent(new Event('input')); };
            const box = svg.getBoundingClientRect();
            const click = share =>
              svg.dispatchEvent(new MouseEvent('click', {clientX: box.left + 52 + share * (box.width - 60)}));
            const moves = [
              () => press('ArrowRight'), () => press('ArrowLeft'), () => slide(4), () => press('ArrowRight'),
              () => click(0.3), () => click(0.01), () => press('ArrowLeft'), () => press('a'),
            ];
            found.textContent = moves.map(move => { move(); return slider.value; }).join(' ');
        """
        assert opened(explorer_page(make_set(), NAMES), "#iterate=2", script)["found"] == "3 2 4 4 1 0 0 0"
