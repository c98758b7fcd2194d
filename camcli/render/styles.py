"""Photo + heatmap -> picture, in one of several styles. Works on (H, W, 3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from camcli.records import Box
from camcli.registry import Registry
from camcli.render.caption import Caption, add_caption
from camcli.render.encode import encode_image
from camcli.render.legend import BACKGROUND, Mark, add_legend
from camcli.render.maps import PlacedMap, place_map, scale_map


@dataclass(frozen=True, slots=True)
class Style:
    """How a picture looks, and what its file is like.

    ``threshold``: fraction of the peak below which nothing is painted. ``legend``: a bar of the colours. ``caption``: lines of
    text that say what is shown.
    """

    colormap: str = "turbo"
    alpha: float = 0.5
    threshold: float = 0.0
    outline: bool = True
    quality: int = 90
    style: str = "overlay"
    legend: bool = False
    caption: bool = False
    image_format: str = "jpg"


def style_of(settings: Mapping[str, Any]) -> Style:
    """The style that a run's ``settings`` ask for, by the names of its options; one that they do not name has its default."""
    return Style(**{field.name: settings.get(field.name.replace("_", "-"), field.default) for field in fields(Style)})


@dataclass(frozen=True, slots=True)
class Notes:
    """What is drawn besides the map. ``boxes``: in pixels of the photo. ``caption``: below the picture, where the style has one."""

    boxes: tuple[Box, ...] = ()
    caption: Caption | None = None


NO_NOTES = Notes()

StylePainter = Callable[[np.ndarray, PlacedMap, Box, Style], None]
"""Paints on a copy of the photo (H, W, 3), where the placed map covers the rectangle."""

STYLES: Registry[StylePainter] = Registry("style")


@lru_cache
def color_table(name: str) -> np.ndarray:
    """(256, 3) uint8 RGB: the colour of each level from zero (0) to the peak (255). ``name`` as in ``config.COLORMAPS``."""
    levels = np.arange(256, dtype=np.uint8)
    bgr = cv2.applyColorMap(levels, getattr(cv2, f"COLORMAP_{name.upper()}"))
    return np.ascontiguousarray(bgr.reshape(256, 3)[:, ::-1])


def paint_overlay(
    image: np.ndarray,
    values: np.ndarray,
    box: tuple[float, float, float, float],
    pixels: Box,
    style: Style,
    notes: Notes = NO_NOTES,
) -> np.ndarray:
    """A picture of ``image`` (H, W, 3) and the map ``values`` (h, w), raw, over ``pixels``.

    ``box``: the part of the image that the map covers, as in ``place_map``. The size is that of the image, twice as wide for
    ``side-by-side``, and higher with a legend or a caption.
    """
    placed = place_map(scale_map(values), box, pixels, (pixels.w, pixels.h))
    picture = image.copy()
    STYLES[style.style](picture, placed, pixels, style)
    if style.outline and (pixels.w, pixels.h) != (image.shape[1], image.shape[0]):
        _draw_edge(picture, pixels)
    for one in reversed(notes.boxes):  # the largest last, on top
        _draw_edge(picture, one, _BOX_COLOR)
    if style.style == "side-by-side":
        picture = np.concatenate([image, picture], axis=1)
    if style.legend:
        picture = _with_legend(picture, style, float(values.max()))
    return add_caption(picture, notes.caption) if style.caption and notes.caption is not None else picture


def _region(picture: np.ndarray, pixels: Box) -> np.ndarray:
    return picture[pixels.y : pixels.y + pixels.h, pixels.x : pixels.x + pixels.w]


def _colors(heat: np.ndarray, style: Style) -> np.ndarray:
    """(h, w, 3): rounded to the nearest level, looked up."""
    return np.asarray(cv2.applyColorMap(cv2.convertScaleAbs(heat, alpha=255), color_table(style.colormap)[:, None]))


@STYLES.register("overlay")
@STYLES.register("side-by-side")
def _overlay(picture: np.ndarray, placed: PlacedMap, pixels: Box, style: Style) -> None:
    """Each pixel is (1 - alpha) * image + alpha * colour(value / peak)."""
    region = _region(picture, pixels)
    for rows, heat in placed.bands():
        blended = cv2.addWeighted(region[rows], 1 - style.alpha, _colors(heat, style), style.alpha, 0)
        np.copyto(region[rows], blended, where=(heat >= style.threshold)[:, :, None] if style.threshold > 0 else True)


@STYLES.register("heatmap")
def _heatmap(picture: np.ndarray, placed: PlacedMap, pixels: Box, style: Style) -> None:
    """The colours alone; black where nothing is painted."""
    picture[:] = 0
    region = _region(picture, pixels)
    for rows, heat in placed.bands():
        np.copyto(region[rows], _colors(heat, style), where=(heat >= style.threshold)[:, :, None])


@STYLES.register("spotlight")
def _spotlight(picture: np.ndarray, placed: PlacedMap, pixels: Box, style: Style) -> None:
    """The image, darkened where the network did not look: by 1 - alpha * (1 - value / peak); below the threshold all of it."""
    bright = _region(picture, pixels).copy()
    np.copyto(picture, cv2.convertScaleAbs(picture, alpha=1 - style.alpha))
    region = _region(picture, pixels)
    for rows, heat in placed.bands():
        light = np.where(heat >= style.threshold, heat, 0.0)
        share = 1 - style.alpha * (1 - np.clip(light, 0, 1))
        region[rows] = np.rint(bright[rows] * share[:, :, None]).astype(np.uint8)


_LEVELS = (0.25, 0.5, 0.75)


@STYLES.register("contour")
def _contour(picture: np.ndarray, placed: PlacedMap, pixels: Box, style: Style) -> None:
    """The image with lines where the map is at 25, 50 and 75 % of its peak, in the colours of these levels."""
    region = np.ascontiguousarray(_region(picture, pixels))
    width = max(2, round(min(picture.shape[:2]) / 250))
    for level in _LEVELS:
        if level < style.threshold:
            continue
        lines, _ = cv2.findContours(placed.at_least(level), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(region, lines, -1, (20, 20, 20), width + 2, cv2.LINE_AA)
        cv2.drawContours(region, lines, -1, _line_color(level, style), width, cv2.LINE_AA)
    _region(picture, pixels)[:] = region


def _line_color(level: float, style: Style) -> tuple[int, int, int]:
    red, green, blue = map(int, color_table(style.colormap)[round(level * 255)])
    return red, green, blue


_DARK, _WHITE, _BOX_COLOR = (40, 40, 40), (255, 255, 255), (255, 0, 255)  # a pink that no colour map and few photos have


def _draw_edge(image: np.ndarray, pixels: Box, color: tuple[int, int, int] = _WHITE) -> None:
    """A bright line between two dark ones, so that it is seen on any photo, inside the rectangle."""
    width = max(1, round(min(image.shape[:2]) / 400))
    for inset, tone in ((0, _DARK), (width, color), (2 * width, _DARK)):
        for k in range(inset, inset + width):
            if 2 * k >= min(pixels.w, pixels.h) - 1:
                return
            top_left = (pixels.x + k, pixels.y + k)
            bottom_right = (pixels.x + pixels.w - 1 - k, pixels.y + pixels.h - 1 - k)
            cv2.rectangle(image, top_left, bottom_right, tone, 1)


def _with_legend(picture: np.ndarray, style: Style, peak: float) -> np.ndarray:
    """The picture with a bar below it of what each level looks like in it, and of nothing that is not in it."""
    table = color_table(style.colormap)
    levels = np.arange(256) / 255
    if style.style == "contour":
        lines = [Mark(level, _line_color(level, style)) for level in _LEVELS if level >= style.threshold]
        return add_legend(picture, None, peak, lines)
    if style.style == "spotlight":
        light = np.where(levels >= style.threshold, levels, 0.0)
        table = np.rint(255 * (1 - style.alpha * (1 - light)))[:, None].repeat(3, axis=1).astype(np.uint8)
    else:
        table = np.where((levels >= style.threshold)[:, None], table, np.array(BACKGROUND, np.uint8))
    return add_legend(picture, table, peak)


@dataclass(frozen=True, slots=True)
class Canvas:
    """A photo to paint on, scaled by ``scale`` from its own size."""

    image: np.ndarray
    scale: float

    def part(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """A part of the photo, in pixels of the canvas."""
        left, top, width, height = (side * self.scale for side in box)
        return left, top, width, height

    def pixels(self, box: Box) -> Box:
        """A rectangle of the photo, in whole pixels of the canvas: at least one each way."""
        if self.scale == 1.0:
            return box
        width, height = self.image.shape[1], self.image.shape[0]
        left, top = min(round(box.x * self.scale), width - 1), min(round(box.y * self.scale), height - 1)
        right, bottom = min(round((box.x + box.w) * self.scale), width), min(round((box.y + box.h) * self.scale), height)
        return Box(left, top, max(1, right - left), max(1, bottom - top))


def resize_to_fit(image: np.ndarray, most: int | None) -> Canvas:
    """The image (H, W, 3) as a canvas with at most ``most`` pixels on its longer side."""
    height, width = image.shape[:2]
    scale = 1.0 if most is None else min(1.0, most / max(height, width))
    if scale == 1.0:
        return Canvas(image, scale)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Canvas(np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA)), scale)


def overlay_bytes(
    canvas: Canvas,
    values: np.ndarray,
    box: tuple[float, float, float, float],
    pixels: Box,
    style: Style,
    notes: Notes = NO_NOTES,
) -> bytes:
    """The file of what ``paint_overlay`` makes of ``canvas`` and the map ``values`` (h, w); boxes are in pixels of the photo.

    Raises ImageError (stage ``render``) for a picture too large for its format.
    """
    scaled = replace(notes, boxes=tuple(map(canvas.pixels, notes.boxes)))
    painted = paint_overlay(canvas.image, values, canvas.part(box), canvas.pixels(pixels), style, scaled)
    return encode_image(painted, style.image_format, style.quality)
