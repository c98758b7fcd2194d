"""``camcli render``: from stored maps the same overlays, byte by byte, as a run in that style would have written."""

from __future__ import annotations

import json
import shutil

import pytest

from camcli.render import styles
from tests.folders import TINY, contents_of, rows_of, state_of
from tests.pictures import encoded, photo

LOOKS = [
    (),
    ("--style", "contour", "--legend", "--caption"),
    ("--style", "spotlight", "--alpha", 0.9, "--no-outline"),
    ("--image-format", "webp", "--quality", 70, "--max-side", 40),
    ("--style", "side-by-side", "--colormap", "viridis", "--threshold", 0.4),
]


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: "-".join(map(str, look)) or "as it was")
def test_rerendered_overlays_are_those_of_a_run_in_that_style(camcli, imgs, tmp_path, look):
    """And the folder is that of such a run: it goes on with the new options and with those it was made with, and with no others."""
    (imgs / "broken.jpg").write_text("text")
    (imgs / "wide.png").write_bytes(encoded(photo(5, (90, 40)), "PNG"))
    out, whole = tmp_path / "out", tmp_path / "whole"
    flags = (*TINY[:4], "--topk", 2, "--save-maps", "--boxes", "all", "--masks")
    camcli("run", imgs, "-o", out, *flags)
    camcli("run", imgs, "-o", whole, *flags, *look)
    drawn = camcli("render", out, *look)
    assert drawn.code == 0, drawn.err
    assert "7 overlays redrawn" in drawn.err
    assert contents_of(out) == contents_of(whole)
    assert camcli("verify", out).code == 0
    before = state_of(out)
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *flags, *look).err
    assert state_of(out) == before
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *flags).err, "the command that made the folder goes on in its new look"
    assert state_of(out) == before
    refused = camcli("run", imgs, "-o", out, *flags, "--colormap", "bone")
    assert (refused.code, "colormap" in refused.err) == (2, True)
    assert json.loads((out / "run.json").read_text())["settings"]["style"] == (look[1] if "--style" in look else "overlay")


def test_there_and_back_again(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *TINY, "--save-maps")
    before = contents_of(out)
    camcli("render", out, "--style", "heatmap", "--image-format", "png")
    assert {row["overlay"].rpartition(".")[2] for row in rows_of(out)} == {"png"}
    assert not list(out.rglob("overlays/**/*.jpg"))
    camcli("render", out, "--style", "overlay", "--image-format", "jpg")
    assert contents_of(out) == before


def test_an_image_that_has_changed_keeps_its_overlay(camcli, imgs, tmp_path):
    """A map must not be drawn over another picture."""
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *TINY, "--save-maps")
    before = contents_of(out)
    (imgs / "a.jpg").write_bytes(encoded(photo(50), "JPEG"))
    (imgs / "a.png").unlink()
    drawn = camcli("render", out, "--style", "contour")
    assert drawn.code == 1
    assert "a.jpg: the image is missing or has changed since" in drawn.err
    assert "2 images kept their present overlays" in drawn.err
    after = contents_of(out)
    changed = {name for name in before if before[name] != after[name] and name.startswith("overlays")}
    kept = {"overlays/a.jpg.1-bright.jpg", "overlays/a.png.1-bright.jpg"}
    assert changed == {name for name in before if name.startswith("overlays")} - kept


def test_what_cannot_be_rerendered_is_told_why(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    assert "holds no run" in camcli("render", out).err
    camcli("run", imgs, "-o", out, *TINY)
    before = state_of(out)
    refused = camcli("render", out, "--style", "contour")
    assert (refused.code, "--save-maps" in refused.err) == (2, True)
    assert camcli("render", out, "--style", "cubist").code == 2
    assert camcli("render", out, "--alpha", 2).code == 2
    assert state_of(out) == before


def test_a_rendering_that_ends_early_is_finished_by_the_next_render_or_run(camcli, imgs, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", tmp_path / "whole"
    camcli("run", imgs, "-o", out, *TINY, "--save-maps")
    camcli("run", imgs, "-o", whole, *TINY, "--save-maps", "--style", "heatmap")
    real, drawn = styles.encode_image, []

    def failing(*arguments):
        drawn.append(1)
        if len(drawn) > 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr("camcli.render.styles.encode_image", failing)
    assert camcli("render", out, "--style", "heatmap").code != 0
    monkeypatch.setattr("camcli.render.styles.encode_image", real)
    assert "redrawing" in camcli("verify", out).out
    refused = camcli("report", out)
    assert (refused.code, "camcli render was interrupted" in refused.err) == (2, True)
    shutil.copytree(out, tmp_path / "other")
    assert camcli("render", out).code == 0
    assert contents_of(out) == contents_of(whole)
    finished = camcli("run", imgs, "-o", tmp_path / "other", *TINY, "--save-maps")
    assert (finished.code, "Finishing the camcli render" in finished.err) == (0, True)
    assert contents_of(tmp_path / "other") == contents_of(whole)
