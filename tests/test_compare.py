"""``camcli diff``: nothing between a run and itself; between two networks what numpy and skimage say of their maps."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from camcli.compare import compare_runs
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
    assert "make both runs with --save-maps" in done.err
    assert [(row["predicted_a"], row["predicted_b"]) for row in table(done.out).values()] == [("bright", "dark")] * 2
    gate = camcli("diff", tmp_path / "a", tmp_path / "b", "--fail-below", 0.5, "--quiet")
    assert (gate.code, gate.out) == (1, "")
    assert "agreement 0.0000" in gate.err
    assert camcli("diff", tmp_path / "a", tmp_path / "a", "--fail-below", 1, "--quiet").code == 0


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
