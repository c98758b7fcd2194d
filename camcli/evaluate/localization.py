"""How well maps find annotated objects: pointing games, boxes of maps, and pixels of masks. No network is needed.

All geometry is that of the upright original image. A map lies where the columns box_x to box_h say; whatever the network did not
see counts as not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from camcli.evaluate.boxes import Object
from camcli.evaluate.compare import Kind
from camcli.records import Box
from camcli.render.maps import place_map, scale_map

SIDE = 256
"""A map is sampled at this many points along the longer side of what the network saw, or at each pixel of a smaller part."""

BOX_THRESHOLD, LEAST_IOU = 0.15, 0.5
"""For the localization error (Selvaraju et al. 2017, section 4.1): a box at 15 % of the peak, an overlap of one half."""

THRESHOLDS = np.arange(100) / 100
"""Fractions of the peak at which boxes are tried, for MaxBoxAcc."""

IOUS = (0.3, 0.5, 0.7)
"""Intersections over union of MaxBoxAccV2 (Choe et al. 2020, section 3.2)."""

SCORES = np.arange(200) / 200
"""Fractions of the peak at which pixels are counted, for PxAP."""


def max_box_acc(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The share of images whose box is right at the best threshold for all images: sums (S, thresholds) -> (S,)."""
    return np.asarray((sums / weights[:, None]).max(axis=1))


def max_box_acc_v2(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean of MaxBoxAcc over IOUS, each at its own best threshold: sums (S, IOUS * thresholds) -> (S,)."""
    shares = (sums / weights[:, None]).reshape(len(sums), len(IOUS), -1)
    return np.asarray(shares.max(axis=2).mean(axis=1))


def pixel_average_precision(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The area under precision over recall of the pixels of all images (Choe et al. 2020, section 3.2).

    ``sums`` (S, 2 * scores + 1): for each score the area of object and of background with exactly that score, and the area of the
    objects. -> (S,).
    """
    count = len(SCORES)
    right, wrong = (np.cumsum(part[:, ::-1], axis=1) for part in (sums[:, :count], sums[:, count : 2 * count]))
    recall = right / np.maximum(sums[:, 2 * count :], np.finfo(float).tiny)
    precision = right / np.maximum(right + wrong, np.finfo(float).tiny)
    return np.asarray((precision * np.diff(recall, axis=1, prepend=0)).sum(axis=1))


KINDS = {
    "pointing": Kind("higher"),
    "energy": Kind("higher"),
    "loc_error": Kind("lower"),
    "maxboxacc": Kind("higher", max_box_acc, by_image=False),
    "maxboxacc_v2": Kind("higher", max_box_acc_v2, by_image=False),
    "pxap": Kind("higher", pixel_average_precision, by_image=False),
}
"""The metrics of localization."""


@dataclass(frozen=True)
class Located:
    """A map sampled over what the network saw. ``heat`` (H, W) float32 in [0, 1]; ``seen``: that part in pixels of the image."""

    heat: np.ndarray
    seen: Box

    @property
    def steps(self) -> tuple[float, float]:
        """The width and height of a sample in pixels of the image."""
        return self.seen.w / self.heat.shape[1], self.seen.h / self.heat.shape[0]


def locate(values: np.ndarray | None, seen: Box) -> Located:
    """The raw map ``values`` (h, w) where it lies on the image; None, for a map that shows nothing, is zero everywhere."""
    shrink = max(1.0, max(seen.w, seen.h) / SIDE)
    size = max(1, round(seen.w / shrink)), max(1, round(seen.h / shrink))
    if values is None:
        return Located(np.zeros(size[::-1], np.float32), seen)
    covered = float(seen.x), float(seen.y), float(seen.w), float(seen.h)
    return Located(place_map(scale_map(values), covered, seen, size).whole(), seen)


def covered_by_boxes(found: Located, objects: Sequence[Object]) -> np.ndarray:
    """The share of each sample that lies in a box, (H, W) in [0, 1]; the largest share if there are several boxes."""
    shares = [np.outer(_along(found, 1, each), _along(found, 0, each)) for each in objects]
    covered: np.ndarray = np.maximum.reduce(shares)
    return covered


def _along(found: Located, axis: int, each: Object) -> np.ndarray:
    """The share of each sample along x (axis 0) or y (axis 1) that lies between the sides of a box."""
    count, step = found.heat.shape[1 - axis], found.steps[axis]
    first = (found.seen.x, found.seen.y)[axis]
    starts = first + step * np.arange(count)
    low, high = each.box[axis], each.box[axis] + each.box[axis + 2]
    return np.asarray(np.clip(np.minimum(starts + step, high) - np.maximum(starts, low), 0, None) / step)


def energy(found: Located, inside: np.ndarray) -> float:
    """The share of the map that lies in the object (Wang et al. 2020, energy-based pointing game). ``inside`` (H, W) in [0, 1]."""
    total = float(found.heat.sum(dtype=np.float64))
    return float((found.heat * inside).sum(dtype=np.float64)) / total if total > 0 else 0.0


def pointing(found: Located, objects: Sequence[Object], tolerance: float) -> float:
    """1 if the peak lies in a box or at most ``tolerance`` pixels away, else 0 (Zhang et al. 2016, pointing game).

    Several samples may be the peak; then it is the share of them that hit. A map without a positive value hits nothing.
    """
    x, y = _peaks(found)
    hit = np.zeros(len(x), bool)
    for left, top, width, height in (each.box for each in objects):
        away_x = np.maximum(0, np.maximum(left - x, x - left - width))
        away_y = np.maximum(0, np.maximum(top - y, y - top - height))
        hit |= np.hypot(away_x, away_y) <= tolerance
    return float(hit.mean()) if len(hit) else 0.0


def pointing_at_mask(found: Located, mask: np.ndarray, tolerance: float) -> float:
    """``pointing`` for a mask (h, w) of the whole image, nonzero in the object."""
    if not mask.any():
        return 0.0
    away = cv2.distanceTransform((mask == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    x, y = _peaks(found)
    columns, rows = (np.minimum(along.astype(int), length - 1) for along, length in ((x, mask.shape[1]), (y, mask.shape[0])))
    return float((away[rows, columns] <= tolerance).mean()) if len(x) else 0.0


def _peaks(found: Located) -> tuple[np.ndarray, np.ndarray]:
    """The x and y of the samples with the largest value, in pixels of the image; none if no value is positive."""
    peak = float(found.heat.max())
    rows, columns = np.nonzero((found.heat == peak) & (peak > 0))
    return found.seen.x + (columns + 0.5) * found.steps[0], found.seen.y + (rows + 0.5) * found.steps[1]


def component_boxes(found: Located, threshold: float) -> np.ndarray:
    """The boxes of the connected regions at or above ``threshold``, the largest region first, (N, 4) in pixels of the image."""
    mask = ((found.heat >= threshold) & (found.heat.max() > 0)).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    stats = stats[1:][np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")]
    (step_x, step_y), seen = found.steps, found.seen
    boxes = stats[:, :4].astype(np.float64) * (step_x, step_y, step_x, step_y)
    return np.asarray(boxes + np.array([seen.x, seen.y, 0, 0]))


def overlaps(boxes: np.ndarray, objects: Sequence[Object]) -> np.ndarray:
    """The largest intersection over union of each of ``boxes`` (N, 4) with any object, (N,). Sides are continuous."""
    best = np.zeros(len(boxes))
    for left, top, width, height in (each.box for each in objects):
        across = np.clip(np.minimum(boxes[:, 0] + boxes[:, 2], left + width) - np.maximum(boxes[:, 0], left), 0, None)
        down = np.clip(np.minimum(boxes[:, 1] + boxes[:, 3], top + height) - np.maximum(boxes[:, 1], top), 0, None)
        both = across * down
        best = np.maximum(best, both / (boxes[:, 2] * boxes[:, 3] + width * height - both))
    return best


def localization_error(found: Located, objects: Sequence[Object]) -> float:
    """1 unless the box of the largest region at BOX_THRESHOLD overlaps an object by LEAST_IOU (Selvaraju et al. 2017)."""
    best = overlaps(component_boxes(found, BOX_THRESHOLD)[:1], objects)
    return float(not (best >= LEAST_IOU).any())


def box_hits(found: Located, objects: Sequence[Object]) -> tuple[np.ndarray, np.ndarray]:
    """Whether boxes are right at each of THRESHOLDS: 0 or 1.

    Of the largest region at an overlap of one half, (T,); and of any region at each of IOUS, (IOUS * T,).
    """
    largest, of_any = np.zeros(len(THRESHOLDS)), np.zeros((len(IOUS), len(THRESHOLDS)))
    for place, threshold in enumerate(THRESHOLDS):
        best = overlaps(component_boxes(found, float(threshold)), objects)
        if len(best):
            largest[place] = best[0] >= LEAST_IOU
            of_any[:, place] = [best.max() >= least for least in IOUS]
    return largest, of_any.ravel()


def mask_samples(found: Located, mask: np.ndarray) -> np.ndarray:
    """The share of each sample that is object, (H, W) in [0, 1]. ``mask`` (height, width): nonzero in the object."""
    seen = found.seen
    part = (mask[seen.y : seen.y + seen.h, seen.x : seen.x + seen.w] > 0).astype(np.float32)
    return cv2.resize(part, found.heat.shape[::-1], interpolation=cv2.INTER_AREA)


def pixel_scores(found: Located, inside: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What ``pixel_average_precision`` sums, of an image: areas of object and background by score, and the area of the object.

    ``inside`` (H, W) in [0, 1]; ``mask`` (h, w) of the whole image, nonzero in the object. -> (2 * scores + 1,).

    Areas are fractions of what the network saw, so that each image counts the same. Objects outside of that are never found.
    """
    places = np.minimum((found.heat * len(SCORES)).astype(int), len(SCORES) - 1).ravel()
    weights = inside.ravel().astype(np.float64)
    right, wrong = (np.bincount(places, each, len(SCORES)) / len(places) for each in (weights, 1 - weights))
    outside = float(np.count_nonzero(mask)) / (found.seen.w * found.seen.h) - float(weights.mean())
    return np.concatenate([right, wrong, [float(weights.mean()) + max(0.0, outside)]])
