"""Heatmap + photo -> overlay: colour tables, upsampling, blending. Works on (H, W, 3) uint8 RGB."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from camcli.errors import ImageError
from camcli.records import Box

_BAND = 32
"""An overlay is painted this many rows at a time: what a band needs stays in the processor's cache, and nothing is held in
floats at full size."""


@dataclass(frozen=True, slots=True)
class Style:
    """How an overlay looks. ``threshold``: fraction of the peak below which nothing is painted. ``quality``: of the JPEG."""

    colormap: str = "turbo"
    alpha: float = 0.5
    threshold: float = 0.0
    outline: bool = True
    quality: int = 90


@lru_cache
def color_table(name: str) -> np.ndarray:
    """(256, 3) uint8 RGB: the colour of each level from zero (0) to the peak (255). ``name`` as in ``config.COLORMAPS``."""
    levels = np.arange(256, dtype=np.uint8)
    bgr = cv2.applyColorMap(levels, getattr(cv2, f"COLORMAP_{name.upper()}"))
    return np.ascontiguousarray(bgr.reshape(256, 3)[:, ::-1])


def scale_map(values: np.ndarray) -> np.ndarray:
    """A map divided by its peak: (h, w) float32 in [0, 1], negative values cut to 0; zeros where nothing is positive.

    Division by the peak, without an epsilon and without stretching, keeps zero where the method says zero and does not
    change when the model's logits are scaled.
    """
    positive = np.maximum(values.astype(np.float64), 0.0)
    peak = positive.max(initial=0.0)
    return (positive / peak if peak > 0 else positive).astype(np.float32)


def place_map(values: np.ndarray, box: tuple[float, float, float, float], pixels: Box, size: tuple[int, int]) -> np.ndarray:
    """A map spread bilinearly over ``box`` and sampled in ``pixels``: (height, width) float32 for ``size`` (width, height).

    ``values`` (h, w) covers ``box`` (left, top, width, height, in image pixels, not necessarily whole or inside the image).
    The samples are the centres of ``size`` equal cells of the rectangle ``pixels``. Half-pixel centres and edges held, as
    torch's ``interpolate(mode="bilinear", align_corners=False)``: equal to it where box and rectangle coincide.
    """
    rows, columns = _place(values, box, pixels, size)
    placed: np.ndarray = rows @ columns
    return placed


def _place(
    values: np.ndarray, box: tuple[float, float, float, float], pixels: Box, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """``place_map`` as two factors: (height, h) the weights of the map's rows, and (h, width) the map spread over the columns."""
    rows = _interpolation(values.shape[0], box[1], box[3], pixels.y, pixels.h, size[1])
    columns = _interpolation(values.shape[1], box[0], box[2], pixels.x, pixels.w, size[0])
    return rows, values.astype(np.float32) @ columns.T


def _interpolation(cells: int, start: float, length: float, first: int, covered: int, samples: int) -> np.ndarray:
    """(samples, cells) float32: the weight of each cell of a line in each sample."""
    centres = first + (np.arange(samples) + 0.5) * (covered / samples)
    position = np.clip((centres - start) / length * cells - 0.5, 0, cells - 1)
    lower = np.minimum(position.astype(np.int64), max(cells - 2, 0))
    fraction = position - lower
    matrix = np.zeros((samples, cells), np.float32)
    index = np.arange(samples)
    matrix[index, lower] = 1 - fraction
    matrix[index, np.minimum(lower + 1, cells - 1)] += fraction
    return matrix


def paint_overlay(
    image: np.ndarray, values: np.ndarray, box: tuple[float, float, float, float], pixels: Box, style: Style
) -> np.ndarray:
    """A copy of ``image`` (H, W, 3) with the map ``values`` (h, w), raw, painted over ``pixels``; the rest stays as it is.

    ``box``: the part of the image that the map covers, as in ``place_map``. Each painted pixel is
    (1 - alpha) * image + alpha * colour(value / peak).
    """
    rows, columns = _place(scale_map(values), box, pixels, (pixels.w, pixels.h))
    table = color_table(style.colormap)[:, None]
    overlay = image.copy()
    region = overlay[pixels.y : pixels.y + pixels.h, pixels.x : pixels.x + pixels.w]
    for top in range(0, pixels.h, _BAND):
        band = region[top : top + _BAND]
        heat = rows[top : top + _BAND] @ columns
        colors = cv2.applyColorMap(cv2.convertScaleAbs(heat, alpha=255), table)  # rounded to the nearest level, looked up
        blended = cv2.addWeighted(band, 1 - style.alpha, colors, style.alpha, 0)
        np.copyto(band, blended, where=(heat >= style.threshold)[:, :, None] if style.threshold > 0 else True)
    if style.outline and (pixels.w, pixels.h) != (image.shape[1], image.shape[0]):
        _draw_edge(overlay, pixels)
    return overlay


def _draw_edge(image: np.ndarray, pixels: Box) -> None:
    """A white line between two dark ones, so that it is seen on any photo, inside the rectangle."""
    width = max(1, round(min(image.shape[:2]) / 400))
    for inset, grey in ((0, 40), (width, 255), (2 * width, 40)):
        for k in range(inset, inset + width):
            if 2 * k >= min(pixels.w, pixels.h) - 1:
                return
            top_left = (pixels.x + k, pixels.y + k)
            bottom_right = (pixels.x + pixels.w - 1 - k, pixels.y + pixels.h - 1 - k)
            cv2.rectangle(image, top_left, bottom_right, (grey, grey, grey), 1)


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """The bytes of a JPEG file of ``image`` (H, W, 3). Raises ImageError (stage ``render``) for sides over 65,500 pixels."""
    if max(image.shape[:2]) > 65_500:
        raise ImageError("render", f"{image.shape[1]} x {image.shape[0]} pixels do not fit into a JPEG (65,500 a side)")
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ImageError("render", "the overlay could not be encoded as JPEG")
    return data.tobytes()
