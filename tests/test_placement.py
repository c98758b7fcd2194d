"""A dot painted at a known place of a photo comes back at that place: through files, the whole command, and back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage

from tests.folders import rows_of
from tests.pictures import as_stored

# long side, short side, and where the dot lies, in fractions of the upright photo: inside every centre crop
DOTS = [(0.5, 0.5), (0.36, 0.3), (0.62, 0.7)]


def photo_with_dot(width, height, dot, color=(255, 255, 255)):
    pixels = np.zeros((height, width, 3), np.uint8)
    cv2.circle(pixels, (round(dot[0] * width), round(dot[1] * height)), min(width, height) // 25, color, -1)
    return pixels


def save(path, pixels, orientation=1):
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    PillowImage.fromarray(as_stored(pixels, orientation)).save(path, quality=95, exif=exif)


def painted_centre(overlay, photo):
    """The centre of what was painted."""
    changed = (np.abs(overlay.astype(int) - photo) > 60).any(axis=2)
    assert changed.any()
    ys, xs = np.nonzero(changed)
    return xs.mean(), ys.mean(), changed.mean()


def overlay_of(folder, row):
    return np.asarray(PillowImage.open(folder / row["overlay"]).convert("RGB"))


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("network", ["brightness", "wide_brightness"])
def test_a_dot_comes_back_where_it_was(camcli, tmp_path, fit, network):
    imgs, out = tmp_path / "imgs", tmp_path / "out"
    imgs.mkdir()
    expected = {}
    for width, height in ((1600, 1200), (1200, 1600)):
        for k, dot in enumerate(DOTS):
            name = f"{width}-{k}.jpg"
            save(imgs / name, photo_with_dot(width, height, dot))
            expected[name] = (width, height, dot)
    done = camcli("run", imgs, "-o", out, "--model", f"tests.networks:{network}", "--layer", "cells", "--fit", fit,
                  "--class", "bright", "--threshold", 0.5, "--alpha", 1, "--no-outline", "--colormap", "turbo")  # fmt: skip
    assert done.code == 0, done.err
    rows = rows_of(out)
    assert len(rows) == len(expected)
    for row in rows:
        width, height, dot = expected[row["image"]]
        overlay = overlay_of(out, row)
        assert overlay.shape == (height, width, 3)
        x, y, share = painted_centre(overlay, photo_with_dot(width, height, dot))
        # one of the network's cells is about 45 pixels of the photo
        assert abs(x - dot[0] * width) < 16, row["image"]
        assert abs(y - dot[1] * height) < 16, row["image"]
        assert share < 0.05
        if fit != "crop":
            assert (row["box_w"], row["box_h"]) == (str(width), str(height))


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_under_every_exif_orientation(camcli, tmp_path, fit):
    imgs, out = tmp_path / "imgs", tmp_path / "out"
    imgs.mkdir()
    upright = photo_with_dot(1200, 900, (0.62, 0.3))
    for orientation in range(1, 9):
        save(imgs / f"{orientation}.jpg", upright, orientation)
    done = camcli("run", imgs, "-o", out, "--model", "tests.networks:brightness", "--layer", "cells", "--fit", fit,
                  "--threshold", 0.5, "--alpha", 1, "--no-outline")  # fmt: skip
    assert done.code == 0, done.err
    boxes = set()
    for row in rows_of(out):
        overlay = overlay_of(out, row)
        assert overlay.shape == (900, 1200, 3)
        x, y, _ = painted_centre(overlay, upright)
        assert abs(x - 0.62 * 1200) < 12, row["image"]
        assert abs(y - 0.3 * 900) < 12, row["image"]
        boxes.add((row["box_x"], row["box_y"], row["box_w"], row["box_h"]))
    assert len(boxes) == 1


def test_the_box_is_the_part_that_the_network_saw(camcli, tmp_path):
    """A dot outside the box leaves the logit at zero, one inside does not: the columns tell the truth about the crop."""
    imgs, out = tmp_path / "imgs", tmp_path / "out"
    imgs.mkdir()
    save(imgs / "a.png", photo_with_dot(800, 400, (0.5, 0.5)))
    assert camcli("run", imgs, "-o", out, "--model", "tests.networks:brightness", "--layer", "cells").code == 0
    box = {key: int(rows_of(out)[0][f"box_{key}"]) for key in "xywh"}
    assert (box["w"], box["h"]) == (350, 350)
    for k, (x, y) in enumerate([(box["x"] - 12, 200), (box["x"] + box["w"] + 12, 200), (400, box["y"] - 12), (box["x"] + 12, 200)]):
        pixels = np.zeros((400, 800, 3), np.uint8)
        pixels[max(0, y - 4) : y + 4, x - 4 : x + 4] = 255
        save(imgs / f"{k}.png", pixels)
    assert camcli("run", imgs, "-o", out, "--model", "tests.networks:brightness", "--layer", "cells", "--class", 0,
                  "--overwrite").code == 0  # fmt: skip
    logits = {row["image"]: float(row["logit"]) for row in rows_of(out)}
    assert logits["0.png"] == logits["1.png"] == logits["2.png"] == 0
    assert logits["3.png"] > 0


def test_red_is_red(camcli, tmp_path):
    """From the file to the network the channels keep their order: blue would give a red detector nothing."""
    imgs, out = tmp_path / "imgs", tmp_path / "out"
    imgs.mkdir()
    for name, color in (("red", (255, 0, 0)), ("green", (0, 255, 0)), ("blue", (0, 0, 255))):
        for kind in ("jpg", "png"):
            save(imgs / f"{name}.{kind}", photo_with_dot(300, 300, (0.5, 0.5), color))
    assert camcli("run", imgs, "-o", out, "--model", "tests.networks:red", "--layer", "cells", "--class", "bright").code == 0
    logits = {row["image"]: float(row["logit"]) for row in rows_of(out)}
    for kind in ("jpg", "png"):
        assert logits[f"red.{kind}"] > 10 * max(logits[f"green.{kind}"], logits[f"blue.{kind}"], 1e-4)
