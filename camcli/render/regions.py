"""Heatmap -> boxes and masks: weakly supervised localization and segmentation.

Zhou et al. 2016, section 3.2, and Selvaraju et al. 2017, section 4.1: what is not below a fraction of the peak, and the box
around its largest connected part. They take 15 to 20 % for boxes, measured on ImageNet; for masks 35 % did best in
``benchmarks/regions.py``.
"""

from __future__ import annotations

import cv2
import numpy as np

from camcli.records import Box
from camcli.render.maps import PlacedMap

_GRABCUT_SIDE = 512
"""GrabCut works on a picture of at most so many pixels a side: at 12 megapixels it takes minutes, and finds the same."""

_GRABCUT_ROUNDS = 5


def find_boxes(placed: PlacedMap, pixels: Box, threshold: float) -> list[Box]:
    """A box around each connected part of the map that is not below ``threshold``, in image pixels, the largest part first.

    ``placed``: scaled to its peak, a sample for each of ``pixels``. Pixels that touch at a corner are connected.
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
    """A mask of the whole image: (H, W) uint8, 255 where the map says that the object is, 0 elsewhere and outside ``pixels``.

    ``method``: ``threshold``, what is not below ``threshold``; ``otsu``, what is above the level that parts the map's values best
    (Otsu 1979); ``grabcut``, colours and edges of the image decide (Rother et al. 2004), beginning at the map: surely object
    above 0.6, surely not below ``threshold`` / 3.
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
    if (labels & 1).any() and not (labels & 1).all():  # it needs both; otherwise the map alone decides
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(np.ascontiguousarray(small[..., ::-1]), labels, (0, 0, 1, 1), *models, _GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = (labels & 1) * 255
    return cv2.resize(found.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
