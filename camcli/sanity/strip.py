"""A picture of the maps: one row per method, one column per step of the cascade."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from camcli.records import escape_name
from camcli.render.encode import encode_image
from camcli.render.maps import scale_map
from camcli.render.styles import color_table
from camcli.render.text import Font, ellipsize
from camcli.sanity.check import Check, MapStrip
from camcli.sanity.plot import label_of

_SIDE, _GAP, _LEFT, _ABOVE = 112, 4, 130, 34
"""Pixels: side of a map, gap between maps, width of the method names, height of the step names."""

_FINE_TOP = 99.0
"""Percentile of a fine map that is drawn at full brightness, because its peak is a single pixel."""

_COLORMAP = "inferno"
_INK, _PAPER, _EMPTY = (30, 30, 30), (255, 255, 255), (205, 205, 205)


def strip_png(check: Check) -> bytes:
    """A PNG file: for each image of ``check.strips`` the photo, the original maps and the maps after each step."""
    return encode_image(np.concatenate([_picture(strip, check) for strip in check.strips]), "png", 0)


def _picture(strip: MapStrip, check: Check) -> np.ndarray:
    """The strip of one image, (H, W, 3) uint8 RGB."""
    keys = list(strip.maps)
    names = ["", "original", *(group.name for group in check.groups)]
    width, height = _LEFT + len(names) * (_SIDE + _GAP), _ABOVE + len(keys) * (_SIDE + _GAP) + 2 * _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, name in enumerate(names):
        pen.text((_x(column) + _SIDE / 2, _ABOVE - 8), _shortened(name, font), _INK, font, anchor="ms")
    sheet.paste(Image.fromarray(_resized(strip.pixels)), (_x(0), _y(0)))
    pen.text((_x(0), _y(1)), _shortened(strip.image, font), _INK, font)
    pen.text((_x(0), _y(1) + 16), _shortened(strip.class_name, font), _INK, font)
    for row, key in enumerate(keys):
        for line, name in enumerate(label_of(key, keys).split(" at ")):
            pen.text((_GAP, _y(row) + _SIDE / 2 + 16 * line), _shortened(name, font, _LEFT - 8), _INK, font, anchor="lm")
        for column, values in enumerate(strip.maps[key], 1):
            _draw_map(sheet, values, (_x(column), _y(row)), font)
    return np.asarray(sheet)


def _x(column: int) -> int:
    return _LEFT + column * (_SIDE + _GAP)


def _y(row: int) -> int:
    return _ABOVE + row * (_SIDE + _GAP)


def _draw_map(sheet: Image.Image, values: np.ndarray, place: tuple[int, int], font: Font) -> None:
    """Draw a map (h, w) at ``place``: dark is zero, bright is the map's own peak. A map without values to show is a grey square.

    In a map larger than its square the brightest 1 % of the pixels are drawn at full brightness.
    """
    heat = _resized(scale_map(np.nan_to_num(values, posinf=0, neginf=0)))
    top = float(np.percentile(heat, _FINE_TOP)) if values.size > heat.size else 1.0
    if np.isfinite(values).all() and heat.max() > 0:
        level = np.clip(np.rint(255 * heat / (top if top > 0 else 1.0)), 0, 255).astype(np.uint8)
        sheet.paste(Image.fromarray(color_table(_COLORMAP)[level]), place)
        return
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((*place, place[0] + _SIDE - 1, place[1] + _SIDE - 1), _EMPTY)
    word = "empty" if np.isfinite(values).all() else "not finite"
    pen.text((place[0] + _SIDE / 2, place[1] + _SIDE / 2), word, _INK, font, anchor="mm")


def _resized(values: np.ndarray) -> np.ndarray:
    shrinks = values.shape[0] > _SIDE or values.shape[1] > _SIDE
    return np.asarray(cv2.resize(values, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))


def _shortened(name: str, font: Font, width: int = _SIDE) -> str:
    """``name`` escaped and at most ``width`` pixels wide; the end is kept."""
    return ellipsize(escape_name(name), width, font, keep_end=True)
