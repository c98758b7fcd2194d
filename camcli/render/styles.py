"""Image + heatmap -> overlay in one of several styles. All images are (H, W, 3) uint8 RGB."""

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
    """The look of an overlay, and the format of its file.

    ``threshold``: nothing is painted below this fraction of the peak. ``legend``: draw a bar with the colours. ``caption``: draw a
    caption with class, probability, method and layer.
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
    """The style in the ``settings`` of a run, which map option names to values; missing options have their defaults."""
    return Style(**{field.name: settings.get(field.name.replace("_", "-"), field.default) for field in fields(Style)})


@dataclass(frozen=True, slots=True)
class Notes:
    """What is drawn besides the map. ``boxes``: in pixels of the image. ``caption``: drawn if the style has captions."""

    boxes: tuple[Box, ...] = ()
    caption: Caption | None = None


NO_NOTES = Notes()

StylePainter = Callable[[np.ndarray, PlacedMap, Box, Style], None]
"""Function that paints a placed map into a rectangle of a copy of the image (H, W, 3)."""

STYLES: Registry[StylePainter] = Registry("style")


@lru_cache
def color_table(name: str) -> np.ndarray:
    """The colour of each level from zero (0) to the peak (255), (256, 3) uint8 RGB. ``name``: one of ``config.run.COLORMAPS``."""
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
    """The overlay of the raw map ``values`` (h, w) on ``pixels`` of ``image`` (H, W, 3).

    ``box``: the part of the image that the map covers, as in ``place_map``. The overlay has the size of the image; it is twice as
    wide for ``side-by-side``, and higher with a legend or a caption.
    """
    placed = place_map(scale_map(values), box, pixels, (pixels.w, pixels.h))
    picture = image.copy()
    STYLES[style.style](picture, placed, pixels, style)
    if style.outline and (pixels.w, pixels.h) != (image.shape[1], image.shape[0]):
        _draw_edge(picture, pixels)
    for one in reversed(notes.boxes):  # the largest is drawn last, on top
        _draw_edge(picture, one, _BOX_COLOR)
    if style.style == "side-by-side":
        picture = np.concatenate([image, picture], axis=1)
    if style.legend:
        picture = _with_legend(picture, style, float(values.max()))
    return add_caption(picture, notes.caption) if style.caption and notes.caption is not None else picture


def _region(picture: np.ndarray, pixels: Box) -> np.ndarray:
    return picture[pixels.y : pixels.y + pixels.h, pixels.x : pixels.x + pixels.w]


def _colors(heat: np.ndarray, style: Style) -> np.ndarray:
    """The colours (h, w, 3) of a scaled map, rounded to the nearest level."""
    return np.asarray(cv2.applyColorMap(cv2.convertScaleAbs(heat, alpha=255), color_table(style.colormap)[:, None]))


@STYLES.register("overlay")
@STYLES.register("side-by-side")
def _overlay(picture: np.ndarray, placed: PlacedMap, pixels: Box, style: Style) -> None:
    """Blend: each pixel is (1 - alpha) * image + alpha * colour(value / peak)."""
    region = _region(picture, pixels)
    for rows, heat in placed.bands():
        blended = cv2.addWeighted(region[rows], 1 - style.alpha, _colors(heat, style), style.alpha, 0)
        np.copyto(region[rows], blended, where=(heat >= style.threshold)[:, :, None] if style.threshold > 0 else True)


@STYLES.register("heatmap")
def _heatmap(picture: np.ndarray, placed: PlacedMap, pixels: Box, style: Style) -> None:
    """Show the colours only; black where nothing is painted."""
    picture[:] = 0
    region = _region(picture, pixels)
    for rows, heat in placed.bands():
        np.copyto(region[rows], _colors(heat, style), where=(heat >= style.threshold)[:, :, None])


@STYLES.register("spotlight")
def _spotlight(picture: np.ndarray, placed: PlacedMap, pixels: Box, style: Style) -> None:
    """Darken each pixel by the factor 1 - alpha * (1 - value / peak); below the threshold by 1 - alpha."""
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
    """Draw contour lines at 25, 50 and 75 % of the peak, in the colours of these levels."""
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


_DARK, _WHITE, _BOX_COLOR = (40, 40, 40), (255, 255, 255), (255, 0, 255)  # a pink that is in no colour map and in few photos


def _draw_edge(image: np.ndarray, pixels: Box, color: tuple[int, int, int] = _WHITE) -> None:
    """Draw a frame inside the rectangle: a bright line between two dark ones, visible on any image."""
    width = max(1, round(min(image.shape[:2]) / 400))
    for inset, tone in ((0, _DARK), (width, color), (2 * width, _DARK)):
        for k in range(inset, inset + width):
            if 2 * k >= min(pixels.w, pixels.h) - 1:
                return
            top_left = (pixels.x + k, pixels.y + k)
            bottom_right = (pixels.x + pixels.w - 1 - k, pixels.y + pixels.h - 1 - k)
            cv2.rectangle(image, top_left, bottom_right, tone, 1)


def _with_legend(picture: np.ndarray, style: Style, peak: float) -> np.ndarray:
    """The picture with a legend that shows each level as the style paints it."""
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
    """An image to paint on, resized from the original by the factor ``scale``."""

    image: np.ndarray
    scale: float

    def part(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """A part of the original, in pixels of the canvas."""
        left, top, width, height = (side * self.scale for side in box)
        return left, top, width, height

    def pixels(self, box: Box) -> Box:
        """A rectangle of the original, in whole pixels of the canvas; at least one in each direction."""
        if self.scale == 1.0:
            return box
        width, height = self.image.shape[1], self.image.shape[0]
        left, top = min(round(box.x * self.scale), width - 1), min(round(box.y * self.scale), height - 1)
        right, bottom = min(round((box.x + box.w) * self.scale), width), min(round((box.y + box.h) * self.scale), height)
        return Box(left, top, max(1, right - left), max(1, bottom - top))


def resize_to_fit(image: np.ndarray, most: int | None) -> Canvas:
    """The image (H, W, 3) as a canvas whose longer side has at most ``most`` pixels; None for the full size."""
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
    """The image file of an overlay of the raw map ``values`` (h, w) on ``canvas``.

    The other arguments are those of ``paint_overlay``; boxes are in pixels of the original. Raises ImageError (stage ``render``)
    for an overlay that is too large for its format.
    """
    scaled = replace(notes, boxes=tuple(map(canvas.pixels, notes.boxes)))
    painted = paint_overlay(canvas.image, values, canvas.part(box), canvas.pixels(pixels), style, scaled)
    return encode_image(painted, style.image_format, style.quality)
