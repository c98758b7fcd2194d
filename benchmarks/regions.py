"""How well masks and boxes find the object: intersection over union with outlines drawn by eye on the sample photos.

    python benchmarks/regions.py

Prints a row for each way to make a mask or a box: its mean, and the value of each object, seen with each ``--fit``. What counts is
the part of the object that the network saw. The maps are those of the bundled model for the class that names the object.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

import camcli
from camcli.records import Box
from camcli.render.maps import PlacedMap, place_map, scale_map
from camcli.render.regions import find_boxes, segment

SAMPLES = Path(__file__).parent.parent / "sample_images"

OUTLINES: list[tuple[str, str, list[tuple[int, int]]]] = [
    (
        "chelsea.png", "tiger cat",
        [(38, 0), (40, 60), (28, 130), (12, 190), (0, 240), (0, 300), (330, 300), (345, 215), (352, 130), (348, 75), (385, 48),
         (393, 0)],
    ),
    (
        "coffee.png", "espresso",
        [(172, 95), (200, 45), (250, 20), (320, 18), (375, 40), (405, 80), (408, 130), (385, 215), (330, 270), (262, 280),
         (232, 303), (200, 303), (198, 270), (215, 235), (182, 175)],
    ),
    (
        "camera.png", "tripod",
        [(283, 200), (300, 200), (303, 312), (338, 300), (338, 308), (312, 325), (330, 365), (408, 512), (395, 500), (308, 345),
         (300, 490), (285, 485), (285, 345), (262, 420), (243, 512), (230, 512), (232, 485), (276, 330)],
    ),
    (
        "clock.png", "bubble",
        [(142, 152), (150, 120), (175, 98), (213, 93), (250, 100), (275, 122), (284, 150), (276, 182), (250, 206), (213, 213),
         (175, 206), (150, 185)],
    ),
    (
        "astronaut.png", "football helmet",
        [(277, 512), (280, 450), (295, 405), (325, 368), (370, 348), (410, 345), (455, 358), (485, 390), (497, 440), (510, 470),
         (512, 512)],
    ),
    (
        "space/rocket.jpg", "missile",
        [(310, 405), (310, 160), (313, 138), (321, 127), (330, 138), (334, 160), (334, 405)],
    ),
    (
        "astronaut.png", "space shuttle",
        [(352, 275), (372, 215), (385, 110), (398, 75), (400, 10), (410, 0), (432, 0), (442, 30), (445, 130), (455, 215),
         (470, 235), (472, 285)],
    ),
]  # fmt: skip
"""A photo, the class that names an object in it, and the object's outline (x, y) in pixels."""

RESIZE_MODES = ("crop", "squash", "pad")
"""How the photo becomes the network's input: three maps of each object."""

Sought = tuple[np.ndarray, np.ndarray, PlacedMap, Box]
"""The photo (H, W, 3), what is the object in it (H, W) 0 or 255, the map, and the part of the photo that the network saw."""


def overlap(found: np.ndarray, wanted: np.ndarray) -> float:
    """Intersection over union of two masks (H, W)."""
    union = ((found > 0) | (wanted > 0)).sum()
    return float(((found > 0) & (wanted > 0)).sum() / union) if union else 0.0


def sought(fit: str) -> Iterator[Sought]:
    """Each photo with its object, cut to what the network saw, and the map of the object's class."""
    names = list(dict.fromkeys(name for name, _, _ in OUTLINES))
    results = camcli.explain(
        camcli.load(fit=fit), [SAMPLES / name for name in names], classes=[wanted for _, wanted, _ in OUTLINES]
    )
    for name, wanted, outline in OUTLINES:
        found = results[names.index(name)]
        heatmap = next(heatmap for heatmap in found.heatmaps if heatmap.prediction.class_name == wanted)
        assert found.image is not None
        assert found.box is not None
        assert found.pixels is not None
        drawn = np.zeros(found.image.shape[:2], np.uint8)
        cv2.fillPoly(drawn, [np.array(outline, np.int32)], 255)
        seen = found.pixels
        truth = np.zeros_like(drawn)
        part = np.s_[seen.y : seen.y + seen.h, seen.x : seen.x + seen.w]
        truth[part] = drawn[part]
        yield found.image, truth, place_map(scale_map(heatmap.values), found.box, seen, (seen.w, seen.h)), seen


def mask_overlap(one: Sought, method: str, threshold: float) -> float:
    """Of a mask."""
    image, truth, placed, seen = one
    return overlap(segment(image, placed, seen, method, threshold), truth)


def box_overlap(one: Sought, threshold: float) -> float:
    """Of the box around the largest connected part."""
    _, truth, placed, seen = one
    box = find_boxes(placed, seen, threshold)[0]
    found, wanted = np.zeros_like(truth), np.zeros_like(truth)
    found[box.y : box.y + box.h, box.x : box.x + box.w] = 255
    x, y, w, h = cv2.boundingRect(truth)
    wanted[y : y + h, x : x + w] = 255
    return overlap(found, wanted)


THRESHOLDS = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)
MASKS = [*(("threshold", threshold) for threshold in THRESHOLDS), ("otsu", 0.0), ("grabcut", 0.15), ("grabcut", 0.35)]


def main() -> None:
    """Print the table."""
    objects = [one for fit in RESIZE_MODES for one in sought(fit)]
    print("\t".join(["", "mean", *(f"{wanted}, {fit}" for fit in RESIZE_MODES for _, wanted, _ in OUTLINES)]))
    for method, threshold in MASKS:
        tell(f"mask, {method} {threshold}", [mask_overlap(one, method, threshold) for one in objects])
    for threshold in THRESHOLDS:
        tell(f"box {threshold}", [box_overlap(one, threshold) for one in objects])


def tell(way: str, overlaps: list[float]) -> None:
    """Print a row."""
    print("\t".join([way, f"{np.mean(overlaps):.3f}", *(f"{value:.2f}" for value in overlaps)]), flush=True)


if __name__ == "__main__":
    main()
