"""Planted shortcuts, end to end: photos, ``camcli fit``, ``run``, ``cluster``, ``cluster --test``; and the pages that show them."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from tests.browser import chromium, complaints, open_page, press, wait
from tests.conftest import ROOT
from tests.folders import rows_of
from tests.planted import MARKS, plant, stripes
from tests.synthetic import synthetic_run
from tests.walks import pictures_of, run_walk

PAGE = ROOT / "docs" / "cluster.md"
COUNT = 90


def explained(camcli, place, mark):
    """A model of photos with a mark, and the run over other photos with it.

    Returns its folder, and the names of the marked photos that the network takes for their class: only these are in its groups.
    """
    plant(place / "train", mark, COUNT, 0)
    marked = plant(place / "test", mark, COUNT, 1)
    fitted = camcli("fit", place / "train", "-o", place / "model", "--quiet")
    assert fitted.code == 0, fitted.err
    flags = ("--class-from", "folder", "--topk", 1, "--save-contributions", "--save-maps", "--no-overlays", "--quiet")
    ran = camcli("run", place / "test", "-m", place / "model", "-o", place / "out", *flags)
    assert ran.code == 0, ran.err
    taken = {row["image"] for row in rows_of(place / "out") if row["predicted_class"] == "left"}
    return place / "out", marked & taken


def groups_of(folder):
    with open(folder / "groups.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def members(folder, number):
    with open(folder / "clusters.csv", encoding="utf-8", newline="") as file:
        return {row["image"] for row in csv.DictReader(file) if row["group"] == str(number)}


SLOW = [pytest.param(name, "both", marks=pytest.mark.soak) for name in ("tag", "checks", "date")]


@pytest.mark.parametrize(("name", "evidence"), [*SLOW, ("stripes", "what")])
def test_a_planted_shortcut_is_one_group_flagged_first_and_confirmed(camcli, tmp_path, name, evidence):
    """Three marks in three places, and one that moves about: what the evidence is finds that, where it is does not."""
    out, marked = explained(camcli, tmp_path, {**MARKS, "stripes": stripes}[name])
    done = camcli("cluster", out, "--evidence", evidence)
    assert done.code == 0, done.err
    found = members(out / "clusters", 1)
    assert len(found & marked) >= 0.9 * len(found)
    assert len(found & marked) >= 0.9 * len(marked)
    assert groups_of(out / "clusters")[0]["suspected"] == "yes"
    assert len(marked) >= 20, "the network has learned the mark"
    tested = camcli("cluster", out, "--evidence", evidence, "--test", 1, "--paste")
    assert tested.code == 0, tested.err
    result = json.loads((out / "clusters" / "tests.json").read_text())["1"]
    assert result["confirmed"], result["verdict"]
    assert result["rows"][0]["fall"] > 0.3
    assert result["rows"][1]["fall"] < 0.1
    assert result["rows"][3]["after"] > result["rows"][4]["after"], "the evidence turns more images than as much of others"
    if name == "stripes":
        assert camcli("cluster", out, "-o", tmp_path / "where", "--evidence", "where").code == 0
        blind = [members(tmp_path / "where", row["group"]) for row in groups_of(tmp_path / "where") if row["suspected"] == "yes"]
        assert all(len(group & marked) < 0.9 * max(len(group), len(marked)) for group in blind)


def test_without_a_mark_nothing_is_flagged(camcli, tmp_path):
    out, _ = explained(camcli, tmp_path, None)
    done = camcli("cluster", out)
    assert done.code == 0
    assert {row["suspected"] for row in groups_of(out / "clusters")} == {"no"}
    assert "none looks like a shortcut" in done.err


def test_the_walk_runs_and_its_pictures_are_there(camcli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plant(tmp_path / "photos", MARKS["checks"], 16, 0)
    run_walk(PAGE, camcli)
    assert (tmp_path / "out" / "clusters" / "clusters.html").is_file()
    assert json.loads((tmp_path / "out" / "clusters" / "tests.json").read_text())
    for picture in pictures_of(PAGE):
        assert (PAGE.parent / picture).is_file(), picture


TIMED = """
const done = arguments[0];
const times = [];
(async () => {
  const acts = [
    () => change({ group: 1 }), () => change({ group: 0 }), () => change({ klass: 1, group: 0 }), () => change({ klass: 0 }),
    () => window.scrollTo(0, 20000), () => window.scrollTo(0, 60000), () => window.scrollTo(0, 0),
  ];
  for (const act of acts) {
    const began = performance.now();
    act();
    drawGrid();
    byId("grid").getBoundingClientRect();
    times.push(performance.now() - began);
    await new Promise((go) => requestAnimationFrame(() => setTimeout(go, 50)));
  }
  done(times);
})();
"""


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.soak)])
def test_many_images_are_filtered_and_lead_to_the_report(camcli, tmp_path, count):
    """Group, class and report agree on which images a group has; the page keeps only the cards in sight."""
    large = tmp_path / "out"
    synthetic_run(large, count, 2, 32, overlays=True)
    assert camcli("report", large, "--quiet").code == 0
    assert camcli("cluster", large, "--layout", "pca", "--quiet").code == 0
    chosen = members(large / "clusters", 1)
    with chromium() as page:
        open_page(page, large / "clusters" / "clusters.html")
        wait(page, "grid.items.length > 0")
        assert page.execute_script("return [images.name.length, classes.length]") == [count, 2]
        times = page.execute_async_script(TIMED)
        print(count, "images, ms of each step:", [round(time) for time in times])
        page.execute_script("change({ klass: 0, group: 1 })")
        assert set(page.execute_script("return grid.items.map((image) => images.name[image])")) == chosen
        assert page.execute_script("return document.querySelectorAll('.card').length") < 100
        link = page.execute_script("return document.querySelector('.acts a').href")
        assert complaints(page) == []
        page.get(link)
        wait(page, "grid.items.length > 0")
        assert set(page.execute_script("return [...grid.items].map((item) => images.name[imageOf(item)])")) == chosen
        assert page.execute_script("return byId('count').textContent").startswith("group 1 of class 000: ")
        page.execute_script("byId('reset').click()")
        assert page.execute_script("return grid.items.length") == count
        assert complaints(page) == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
def test_the_page_fits_any_window_and_works_by_keyboard(camcli, tmp_path, size, dark):
    out = tmp_path / "out"
    synthetic_run(out, 200, 2, 32, overlays=True)
    assert camcli("cluster", out, "--layout", "pca", "--quiet").code == 0
    with chromium(size, dark=dark, touch=size[0] < 500) as page:
        open_page(page, out / "clusters" / "clusters.html")
        wait(page, "grid.items.length > 0")
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        page.execute_script("byId('panel').open = true; byId('scatter').focus()")
        press(page, "ARROW_RIGHT")
        assert page.execute_script("return state.group") == 1
        assert "group=1" in page.current_url or page.execute_script("return address.text.includes('group=1')")
        page.execute_script("focusPlace(0)")
        press(page, "ENTER")
        wait(page, "byId('view').open")
        press(page, "ARROW_RIGHT", "ESCAPE")
        wait(page, "!byId('view').open")
        assert complaints(page) == []


def test_a_page_without_its_data_says_so(camcli, tmp_path):
    out = tmp_path / "out"
    synthetic_run(out, 80, 2, 16)
    assert camcli("cluster", out, "--layout", "pca", "--quiet").code == 0
    moved = tmp_path / "clusters.html"
    shutil.copy(out / "clusters" / "clusters.html", moved)
    with chromium() as page:
        open_page(page, moved)
        assert page.execute_script("return !byId('broken').hidden")
