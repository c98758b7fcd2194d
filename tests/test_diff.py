"""``camcli diff``: nothing between a run and itself; between two networks what numpy and skimage say of their maps."""

from __future__ import annotations

import csv
import io
import os

import numpy as np
import pytest

from camcli.records import unescape_name
from camcli.report.scripts import quoted
from camcli.runs.diff import compare_runs, pearson
from tests.browser import click, complaints, open_page, press, put, wait
from tests.folders import TINY, rows_of
from tests.pictures import encoded, photo


@pytest.fixture
def scenes(tmp_path):
    """Photos in which red lies elsewhere than brightness; and two in which all that is bright is red."""
    imgs = tmp_path / "imgs"
    imgs.mkdir()
    for k in range(4):
        pixels = np.zeros((96, 96, 3), np.uint8)
        pixels[20:44, 20:44] = (255, 30, 30) if k < 2 else (60, 255, 255)
        pixels[56:80, 50:76] = (90 + 40 * k, 0, 0)
        (imgs / f"{k}.png").write_bytes(encoded(pixels, "PNG"))
    return imgs


def table(out):
    return {row["image"]: row for row in csv.DictReader(io.StringIO(out), delimiter="\t")}


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 0.7, 0.9, 1e9])
def test_what_is_constant_is_correlated_with_nothing(value):
    """Also where its mean, computed, is not quite what it is."""
    noise = np.random.default_rng(0).random((56, 56))
    assert pearson(np.full((56, 56), value), noise) is None
    assert pearson(noise, np.full((56, 56), value, np.float32)) is None
    assert pearson(noise, 2 * noise**2 - 1) == pytest.approx(np.corrcoef(noise.ravel(), noise.ravel() ** 2)[0, 1])


def test_a_run_does_not_differ_from_itself(camcli, imgs, tmp_path):
    flags = (*TINY[:4], "--topk", 2, "--save-maps")
    for name in "ab":
        camcli("run", imgs, "-o", tmp_path / name, *flags)
    done = camcli("diff", tmp_path / "a", tmp_path / "b", "--fail-below", 0.9999)
    assert done.code == 0
    assert "0 predicted differently" in done.err
    rows = table(done.out)
    assert len(rows) == 6
    assert {(row["correlation"], row["overlap"]) for row in rows.values()} == {("1.0000", "1.0000")}


def test_maps_are_compared_where_both_networks_looked(camcli, scenes, tmp_path):
    """Against numpy on the stored maps: at the same size and place they are just the maps."""
    for name, network in (("a", "brightness"), ("b", "red")):
        flags = ("--model", f"tests.networks:{network}", "--layer", "cells", "--class", "bright")
        assert camcli("run", scenes, "-o", tmp_path / name, *flags, "--fit", "squash", "--save-maps").code == 0
    found = compare_runs(str(tmp_path / "a"), str(tmp_path / "b"))
    assert len(found.changes) == 4
    for change in found.changes:
        one, other = (np.load(tmp_path / name / "maps" / f"{change.image}.1-bright.npy") for name in "ab")
        exact = np.corrcoef(one.ravel(), other.ravel())[0, 1]
        assert change.correlation == pytest.approx(exact, abs=0.06)
    order = [change.correlation for change in found.changes]
    assert order == sorted(order)
    assert {change.image for change in found.changes[:2]} == {"2.png", "3.png"}, "what changed most does not come first"


def test_flips_come_first_and_close_the_gate(camcli, scenes, on_path, tmp_path):
    (on_path / "upside.py").write_text(
        "from tests.networks import brightness\n"
        "def model():\n    module = brightness(); module.categories = ('dark', 'bright'); return module\n"
    )
    camcli("run", scenes, "-o", tmp_path / "a", *TINY[:4])
    camcli("run", scenes, "-o", tmp_path / "b", "--model", "upside:model", "--layer", "cells")
    done = camcli("diff", tmp_path / "a", tmp_path / "b", "--limit", 2)
    assert done.code == 0
    assert "4 predicted differently" in done.err
    assert "both runs need --save-maps" in done.err
    assert [(row["predicted_a"], row["predicted_b"]) for row in table(done.out).values()] == [("bright", "dark")] * 2
    gate = camcli("diff", tmp_path / "a", tmp_path / "b", "--fail-below", 0.5, "--quiet")
    assert (gate.code, gate.out) == (1, "")
    assert "agreement 0.0000" in gate.err
    assert camcli("diff", tmp_path / "a", tmp_path / "a", "--fail-below", 1, "--quiet").code == 0


def test_a_class_is_its_name_whatever_its_index(camcli, scenes, tmp_path):
    for name, classes in (("a", "one\nother\n"), ("b", "other\none\n")):
        (tmp_path / f"{name}.txt").write_text(classes)
        flags = (*TINY[:4], "--labels", tmp_path / f"{name}.txt", "--topk", 2)
        assert camcli("run", scenes, "-o", tmp_path / name, *flags).code == 0
    found = compare_runs(str(tmp_path / "a"), str(tmp_path / "b"))
    assert [change.flipped for change in found.changes] == [True] * 4
    assert all(change.explained[0] == change.explained[1] for change in found.changes), "maps of different classes were compared"


def test_runs_over_other_parts_of_the_image(camcli, scenes, tmp_path):
    """One network saw the centre, the other everything: compared is what both saw."""
    camcli("run", scenes, "-o", tmp_path / "a", *TINY, "--save-maps")
    camcli("run", scenes, "-o", tmp_path / "b", *TINY, "--save-maps", "--fit", "squash")
    found = compare_runs(str(tmp_path / "a"), str(tmp_path / "b"))
    assert len(found.changes) == 4
    assert all(change.correlation > 0.95 for change in found.changes), "the same network at another scale sees the same"


def test_what_cannot_be_compared_is_told_why(camcli, imgs, tmp_path):
    camcli("run", imgs, "-o", tmp_path / "a", *TINY)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "other.jpg").write_bytes(encoded(photo(), "JPEG"))
    camcli("run", tmp_path / "more", "-o", tmp_path / "b", *TINY)
    assert "no image in common" in camcli("diff", tmp_path / "a", tmp_path / "b").err
    assert "holds no run" in camcli("diff", tmp_path / "a", tmp_path / "nowhere").err
    assert camcli("diff", tmp_path / "a", tmp_path / "b").code == 2
    (imgs / "new.jpg").write_bytes(encoded(photo(9), "JPEG"))
    camcli("run", imgs, "-o", tmp_path / "c", *TINY)
    assert "1 image only in" in camcli("diff", tmp_path / "a", tmp_path / "c").err
    assert len(rows_of(tmp_path / "c")) == 7
    (tmp_path / "c" / "predictions.csv").write_text("a,b\n1,2\n")
    damaged = camcli("diff", tmp_path / "a", tmp_path / "c")
    assert (damaged.code, "has changed since camcli wrote it" in damaged.err) == (2, True)


@pytest.fixture
def pair(camcli, scenes, on_path, tmp_path):
    """Two runs with maps: one predicts the half of the scenes otherwise, and looks elsewhere; names of all kinds."""
    for old, new in (
        ("0.png", "<img src=x onerror=alert(1)>.png"),
        ("1.png", "a#b?c%41&amp;.png"),
        ("2.png", os.fsdecode(b"\xff.png")),
    ):
        (scenes / old).rename(scenes / new)
    (on_path / "other.py").write_text(
        "from tests.networks import red\ndef model():\n    module = red(); module.categories = ('dark', 'bright'); return module\n"
    )
    folders = tmp_path / "a", tmp_path / "b"
    assert camcli("run", scenes, "-o", folders[0], *TINY[:4], "--save-maps").code == 0
    assert camcli("run", scenes, "-o", folders[1], "--model", "other:model", "--layer", "cells", "--save-maps").code == 0
    return folders


def test_the_page_of_a_comparison_says_what_the_table_says(browser, camcli, pair, tmp_path):
    a, b = pair
    page_file = tmp_path / "pages" / "changes.html"
    page_file.parent.mkdir()
    done = camcli("diff", a, b, "--report", page_file)
    assert done.code == 0
    assert "changes.html" in done.err
    expected = list(csv.DictReader(io.StringIO(done.out), delimiter="\t"))
    page = browser
    open_page(page, page_file)
    complaints(page)
    wait(page, "document.querySelectorAll('.card img').length === 8")
    wait(page, "[...document.querySelectorAll('.card img')].every((i) => i.complete && i.naturalWidth > 0)")
    assert page.execute_script("return grid.items.map((item) => changes.names[item])") == [row["image"] for row in expected]
    for side, column in enumerate(("predicted_a", "predicted_b")):
        assert page.execute_script(f"return grid.items.map((item) => word(changes.predicted[{side}][item]))") == [
            row[column] for row in expected
        ]
    for name, column in (("correlations", "correlation"), ("overlaps", "overlap")):
        found = page.execute_script(f"return grid.items.map((item) => changes.{name}[item])")
        assert found == pytest.approx([float(row[column]) for row in expected], abs=1e-4)
    flips = [row["image"] for row in expected if row["predicted_a"] != row["predicted_b"]]
    assert flips
    click(page, "#flips")
    shown = "return grid.items.map((item) => changes.names[item])"
    assert page.execute_script(shown) == flips
    click(page, "#reset")
    put(page, "sort", "overlap")
    assert page.execute_script("return grid.items.map((item) => changes.overlaps[item])") == sorted(
        round(change.overlap, 5) for change in compare_runs(str(a), str(b)).changes
    )
    put(page, "search", "onerror")
    assert len(page.execute_script(shown)) == 1
    click(page, "#reset")
    click(page, "#pairs button")
    assert page.execute_script(shown) == flips
    click(page, "#pairs button")
    bins = page.execute_script("return every.map(binOf)")
    click(page, f'#histogram [data-bin="{bins[0]}"] .hit')
    assert len(page.execute_script(shown)) == bins.count(bins[0])
    click(page, "#reset")
    assert complaints(page) == [], "no error, no missing file, no alert"


def test_the_large_view_of_a_comparison(browser, camcli, pair, tmp_path):
    a, b = pair
    assert camcli("report", a).code == 0, "thumbnails are used where there are some"
    page_file = tmp_path / "changes.html"
    assert camcli("diff", a, b, "--report", page_file, "--quiet").code == 0
    page = browser
    open_page(page, page_file)
    complaints(page)
    wait(page, "[...document.querySelectorAll('.card img')].length === 8")
    sources = page.execute_script("return [...document.querySelectorAll('.card img')].map((i) => i.getAttribute('src'))")
    assert [("report/thumbs" in url) for url in sources] == [True, False] * 4
    click(page, ".card")
    wait(page, "byId('first').naturalWidth > 0 && byId('second').naturalWidth > 0")
    first = rows_of(a)[[row["image"] for row in rows_of(a)].index(page.execute_script("return changes.names[grid.items[0]]"))]
    assert page.execute_script("return byId('first').getAttribute('src')") == f"a/{quoted(unescape_name(first['overlay']))}"
    boxes = page.execute_script(
        "return ['first', 'second'].map((id) => byId(id).getBoundingClientRect()).map((b) => [b.x, b.y, b.width, b.height])"
    )
    assert boxes[0] == boxes[1], "one lies over the other"
    opacity = "return byId('second').style.opacity"
    assert page.execute_script(opacity) == "0"
    press(page, "SPACE")
    assert page.execute_script(opacity) == "1"
    put(page, "fade", 30)
    assert page.execute_script(opacity) == "0.3"
    press(page, "ARROW_RIGHT")
    assert page.execute_script("return view.place") == 1
    press(page, "ESCAPE")
    wait(page, "!byId('view').open && document.activeElement.classList.contains('card')")
    assert complaints(page) == []


def test_a_page_of_somebody_else_is_not_replaced(camcli, pair, tmp_path):
    a, b = pair
    page = tmp_path / "notes.html"
    page.write_text("<p>mine</p>")
    refused = camcli("diff", a, b, "--report", page)
    assert (refused.code, "choose another file" in refused.err) == (3, True)
    assert page.read_text() == "<p>mine</p>"
    for place in (tmp_path, tmp_path / "nowhere" / "changes.html"):
        refused = camcli("diff", a, b, "--report", place)
        assert (refused.code, "in an existing folder" in refused.err) == (2, True)
    own = tmp_path / "changes.html"
    assert camcli("diff", a, b, "--report", own, "--fail-below", 1).code == 1, "the page is written, the gate is closed"
    before = own.read_bytes()
    assert camcli("diff", a, b, "--report", own).code == 0
    assert own.read_bytes() == before
    assert "<img src=x" not in own.read_text()
