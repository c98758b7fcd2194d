"""A strip of maps to look at: a row for each method, a column for each step of the cascade."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from camcli.records import escape_name
from camcli.render.encode import encode_image
from camcli.render.maps import scale_map
from camcli.render.styles import color_table
from camcli.sanity.check import Check, Key, MapStrip
from camcli.sanity.plot import label_of

_SIDE, _GAP, _LEFT, _ABOVE = 112, 4, 130, 34
"""Pixels: of a map, between maps, of the methods' names, of the steps' names."""

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_FINE_TOP = 99.0
"""Percent of the pixels of a fine map that are not the brightest."""

_COLORMAP = "inferno"
_INK, _PAPER, _EMPTY = (30, 30, 30), (255, 255, 255), (205, 205, 205)


def strip_png(check: Check) -> bytes:
    """The bytes of a PNG: for each image of ``check.strips`` the photo, the original maps, and those after each step."""
    return encode_image(np.concatenate([_picture(strip, check) for strip in check.strips]), "png", 0)


def _picture(strip: MapStrip, check: Check) -> np.ndarray:
    """(H, W, 3) uint8."""
    keys = list(strip.maps)
    names = ["", "original", *(stage.name for stage in check.groups)]
    width, height = _LEFT + len(names) * (_SIDE + _GAP), _ABOVE + len(keys) * (_SIDE + _GAP) + 2 * _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, name in enumerate(names):
        pen.text((_x(column) + _SIDE / 2, _ABOVE - 8), _ellipsize(escape_name(name), font), _INK, font, anchor="ms")
    sheet.paste(Image.fromarray(_resized(strip.pixels)), (_x(0), _y(0)))
    pen.text((_x(0), _y(1)), _ellipsize(escape_name(strip.image), font), _INK, font)
    pen.text((_x(0), _y(1) + 16), _ellipsize(escape_name(strip.class_name), font), _INK, font)
    for row, key in enumerate(keys):
        for line, words in enumerate(_words(key, keys)):
            pen.text((_GAP, _y(row) + _SIDE / 2 + 16 * line), _ellipsize(words, font, _LEFT - 8), _INK, font, anchor="lm")
        for column, values in enumerate(strip.maps[key], 1):
            _draw_map(sheet, values, (_x(column), _y(row)), font)
    return np.asarray(sheet)


def _words(key: Key, keys: Sequence[Key]) -> list[str]:
    return [escape_name(part) for part in label_of(key, keys).split(" at ")]


def _x(column: int) -> int:
    return _LEFT + column * (_SIDE + _GAP)


def _y(row: int) -> int:
    return _ABOVE + row * (_SIDE + _GAP)


def _draw_map(sheet: Image.Image, values: np.ndarray, place: tuple[int, int], font: _Font) -> None:
    """A map (h, w) from zero, dark, to its own peak, bright; one with nothing to show is grey and says so.

    Of fine maps, whose peak is a single pixel, the brightest hundredth is as bright as can be.
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


def _ellipsize(text: str, font: _Font, width: int = _SIDE) -> str:
    """``text``, its beginning left out until it is at most ``width`` pixels long: names of layers differ at their end."""
    kept = text
    while kept and font.getlength(kept if kept == text else f"…{kept}") > width:
        kept = kept[1:]
    return kept if kept == text else f"…{kept}"
