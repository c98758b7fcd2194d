"""The legend below an overlay: a bar that shows the colour, brightness or line of each level of the map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from camcli.render.text import Font

BACKGROUND, INK = (24, 24, 24), (235, 235, 235)
_AXIS = (90, 90, 90)


@dataclass(frozen=True, slots=True)
class Mark:
    """A line in the legend at ``level``, a fraction of the peak."""

    level: float
    color: tuple[int, int, int]


def add_legend(picture: np.ndarray, colors: np.ndarray | None, peak: float, marks: Sequence[Mark] = ()) -> np.ndarray:
    """The picture (H, W, 3) with a bar below it from 0 to ``peak``, the raw maximum of the map.

    ``colors``: (256, 3), the colour of each level; None draws an axis only. ``marks``: lines across the bar, labelled in per cent
    if there is room.
    """
    width = picture.shape[1]
    height = max(16, min(picture.shape[:2]) // 18)
    strip = PillowImage.new("RGB", (width, height), BACKGROUND)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size=max(9, round(height * 0.6)))
    margin = height // 3
    left, right, start, end = _ends(draw, font, width, margin, f"{peak:.3g}")
    draw.text((margin, height / 2), left, INK, font, anchor="lm")
    draw.text((width - margin, height / 2), right, INK, font, anchor="rm")
    if end > start:
        if colors is None:
            draw.line([(start, height // 2), (end - 1, height // 2)], _AXIS)
        else:
            ramp = colors[np.linspace(0, 255, end - start).round().astype(np.uint8)]
            strip.paste(PillowImage.fromarray(np.tile(ramp, (height - 2 * (height // 4), 1, 1))), (start, height // 4))
        for mark in marks:
            _draw_mark(draw, font, mark, (start, end, height))
    return np.concatenate([picture, np.asarray(strip)], axis=0)


def _ends(draw: ImageDraw.ImageDraw, font: Font, width: int, margin: int, peak: str) -> tuple[str, str, int, int]:
    """The labels at both ends of the bar, and its start and end in pixels. A narrow picture has shorter labels or none."""
    for left, right in (("0", f"peak {peak}"), ("0", peak)):
        start = round(2 * margin + draw.textlength(left, font))
        end = round(width - 2 * margin - draw.textlength(right, font))
        if end - start > width / 4:
            return left, right, start, end
    return "", "", margin, width - margin


def _draw_mark(draw: ImageDraw.ImageDraw, font: Font, mark: Mark, bar: tuple[int, int, int]) -> None:
    """Draw a mark. ``bar``: start, end and height in pixels."""
    start, end, height = bar
    half = max(1, height // 12)
    place = start + round(mark.level * (end - 1 - start))
    label = f"{mark.level:.0%}".replace("%", " %")
    if draw.textlength(label, font) + 6 * half < (end - start) / 4:  # the label must end before the next mark
        text_start = place + 2 * half + 1
        draw.rectangle([text_start, 0, text_start + draw.textlength(label, font) + half, height - 1], BACKGROUND)
        draw.text((text_start, height / 2), label, INK, font, anchor="lm")
    draw.rectangle([place - half, height // 8, place + half - 1, height - 1 - height // 8], mark.color)
