"""The caption below an overlay: class, probability, method and layer."""

from __future__ import annotations

import importlib.util
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from camcli.records import Heatmap, escape_name, unescape_name
from camcli.render.legend import BACKGROUND, INK
from camcli.render.text import Font

_FAINT = (170, 170, 170)
_LONGEST_NAME = 60
"""Maximum number of characters of a class or layer name in a caption."""

_MOST_LINES = 12
"""Maximum number of lines: enough for the longest names below an image 64 pixels wide."""


@dataclass(frozen=True, slots=True)
class Caption:
    """What an overlay shows. ``probability``: in [0, 1]."""

    class_name: str
    probability: float
    method: str
    layer: str

    @property
    def parts(self) -> tuple[str, str]:
        """The two parts of the text: class with probability, and method with layer. Control characters are escaped.

        The probability is first rounded to six digits like in the table, so that a caption made from the table is the same.
        """
        per_cent = f"{100 * float(format(self.probability, '.6g')):.1f} %"
        if per_cent == "0.0 %" and self.probability > 0:
            per_cent = "< 0.1 %"
        name, layer = escape_name(self.class_name), escape_name(self.layer)
        if len(name) > _LONGEST_NAME:
            name = f"{name[: _LONGEST_NAME - 1]}…"
        if len(layer) > _LONGEST_NAME:
            layer = f"…{layer[1 - _LONGEST_NAME :]}"
        return f"{name}, {per_cent}", f"{escape_name(self.method)} at {layer}"


def caption_of(heatmap: Heatmap) -> Caption:
    """The caption of a heatmap."""
    return Caption(heatmap.prediction.class_name, heatmap.prediction.probability, heatmap.method, heatmap.layer)


def caption_of_row(row: Mapping[str, str]) -> Caption:
    """The caption of a row of ``predictions.csv``. Raises ValueError if the row has no probability."""
    class_name, method, layer = (unescape_name(row[name]) for name in ("class_name", "method", "layer"))
    return Caption(class_name, float(row["probability"]), method, layer)


def add_caption(picture: np.ndarray, caption: Caption) -> np.ndarray:
    """The picture (H, W, 3) with the caption below it: on one line if it fits, otherwise on several lines."""
    height, width = picture.shape[:2]
    size = max(10, round(math.sqrt(width * height) / 36))
    font, margin = _font(size), max(2, size // 3)
    room = max(1, width - 2 * margin)
    found, how = caption.parts
    if font.getlength(found) + font.getlength(how) + 2 * size <= room:
        lines = [(found, INK)]
    else:
        lines = [*((line, INK) for line in _wrapped(found, font, room)), *((line, _FAINT) for line in _wrapped(how, font, room))]
        lines = lines[:_MOST_LINES]
    step = round(1.3 * size)
    strip = PillowImage.new("RGB", (width, len(lines) * step + margin), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for number, (line, color) in enumerate(lines):
        draw.text((margin, margin / 2 + (number + 0.5) * step), line, color, font, anchor="lm")
    if len(lines) == 1:
        draw.text((width - margin, margin / 2 + 0.5 * step), how, _FAINT, font, anchor="rm")
    return np.concatenate([picture, np.asarray(strip)], axis=0)


def _wrapped(text: str, font: Font, room: float) -> list[str]:
    """``text`` in lines of at most ``room`` pixels, broken at spaces; only a word that is too long is broken inside."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if font.getlength(longer) <= room:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > room:
                lines.append("")
            lines[-1] += character
    return lines


@lru_cache
def _font_file() -> bytes | None:
    """The font file of DejaVu Sans, which matplotlib installs; None if it is missing.

    It has the letters of most scripts. Pillow's own font has only those of English.
    """
    package = importlib.util.find_spec("matplotlib")
    if package is None or package.origin is None:
        return None
    try:
        with open(os.path.join(os.path.dirname(package.origin), "mpl-data", "fonts", "ttf", "DejaVuSans.ttf"), "rb") as file:
            return file.read()
    except OSError:
        return None


def _font(size: int) -> Font:
    """A new font object, because overlays are painted in several threads."""
    data = _font_file()
    return ImageFont.load_default(size) if data is None else ImageFont.truetype(io.BytesIO(data), size)
