"""Heatmap -> boxes and masks: weakly supervised localization and segmentation.

The region is where the map is at or above a fraction of its peak; the box encloses its largest connected component (Zhou et al.
2016, section 3.2; Selvaraju et al. 2017, section 4.1). The papers use 15 to 20 % for boxes, measured on ImageNet. For masks 35 %
was best in ``benchmarks/regions.py``.
"""

from __future__ import annotations

import cv2
import numpy as np

from camcli.records import Box
from camcli.render.maps import PlacedMap

_GRABCUT_SIDE = 512
"""GrabCut runs on an image of at most this many pixels per side. At 12 megapixels it takes minutes and finds the same mask."""

_GRABCUT_ROUNDS = 5


def find_boxes(placed: PlacedMap, pixels: Box, threshold: float) -> list[Box]:
    """A box in image pixels around each connected component where the map is at or above ``threshold``, the largest first.

    ``placed``: the map scaled to its peak, with one sample per pixel of ``pixels``. Connectivity is 8.
    """
    count, _, parts, _ = cv2.connectedComponentsWithStats(placed.at_least(threshold), connectivity=8)
    largest_first = sorted(range(1, count), key=lambda part: (-parts[part, cv2.CC_STAT_AREA], part))
    return [
        Box(
            pixels.x + int(parts[part, cv2.CC_STAT_LEFT]),
            pixels.y + int(parts[part, cv2.CC_STAT_TOP]),
            int(parts[part, cv2.CC_STAT_WIDTH]),
            int(parts[part, cv2.CC_STAT_HEIGHT]),
        )
        for part in largest_first
    ]


def segment(image: np.ndarray, placed: PlacedMap, pixels: Box, method: str, threshold: float) -> np.ndarray:
    """A mask of the whole image, (H, W) uint8: 255 for the object, 0 elsewhere and outside of ``pixels``.

    ``method``: ``threshold`` takes map values at or above ``threshold``. ``otsu`` takes values above Otsu's threshold (Otsu 1979).
    ``grabcut`` segments the image by its colours and edges (Rother et al. 2004), initialized from the map: at or above 0.6 is
    certain foreground, below ``threshold`` / 3 is certain background.
    """
    mask = np.zeros(image.shape[:2], np.uint8)
    region = mask[pixels.y : pixels.y + pixels.h, pixels.x : pixels.x + pixels.w]
    if method == "grabcut":
        region[:] = _grabcut(image[pixels.y : pixels.y + pixels.h, pixels.x : pixels.x + pixels.w], placed, threshold)
    elif method == "otsu":
        levels = np.empty(region.shape, np.uint8)
        for rows, heat in placed.bands():
            levels[rows] = cv2.convertScaleAbs(heat, alpha=255)
        cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU, dst=levels)
        region[:] = levels
    else:
        region[:] = placed.at_least(threshold) * 255
    return mask


def _grabcut(image: np.ndarray, placed: PlacedMap, threshold: float) -> np.ndarray:
    scale = min(1.0, _GRABCUT_SIDE / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    heat = cv2.resize(placed.whole(), size, interpolation=cv2.INTER_AREA)
    labels = np.full(heat.shape, cv2.GC_PR_BGD, np.uint8)
    labels[heat >= threshold] = cv2.GC_PR_FGD
    labels[heat < threshold / 3] = cv2.GC_BGD
    labels[heat >= 0.6] = cv2.GC_FGD
    if (labels & 1).any() and not (labels & 1).all():  # GrabCut needs both labels; otherwise the map alone decides
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(np.ascontiguousarray(small[..., ::-1]), labels, (0, 0, 1, 1), *models, _GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = (labels & 1) * 255
    return cv2.resize(found.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
