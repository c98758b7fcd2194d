"""Pictures with a face at a known place, and their boxes, for docs/evaluate.md: ``python docs/make_planted_faces.py planted``.

The faces and other patches are scikit-image's ``lfw_subset``: 100 faces and 100 patches of photos, 25 x 25 grey values.
Each picture is a mosaic of patches; in the folder ``face`` a face is pasted somewhere, in the folder ``none`` another patch. Faces
and patches of the test pictures are not among those of the training pictures.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
from skimage.data import lfw_subset

SIDE, TILE, PATCH = 224, 56, 72
"""Sides in pixels: of a picture, of the patches of the mosaic, and of the face."""

TRAIN, TEST = 160, 60
"""Pictures of each class."""

_TRAINED = 60
"""How many of the 100 faces, and of the 100 patches, are for training."""


def picture(generator: np.random.Generator, patches: np.ndarray, pasted: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """A mosaic of ``patches`` (N, 25, 25) with ``pasted`` (25, 25) somewhere: (SIDE, SIDE) uint8, and its left and top."""
    count = SIDE // TILE
    chosen = patches[generator.integers(0, len(patches), count * count)]
    tiles = [_enlarged(patch, TILE) for patch in chosen]
    pixels = np.vstack([np.hstack(tiles[row * count : (row + 1) * count]) for row in range(count)])
    left, top = (int(value) for value in generator.integers(0, SIDE - PATCH + 1, 2))
    pixels[top : top + PATCH, left : left + PATCH] = _enlarged(pasted, PATCH)
    return pixels, (left, top)


def _enlarged(patch: np.ndarray, side: int) -> np.ndarray:
    large = cv2.resize(patch.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(255 * large, 0, 255).astype(np.uint8)


def make(place: Path) -> None:
    """Write ``train/face``, ``train/none``, ``test/face``, ``test/none`` and ``boxes.json`` below ``place``."""
    patches = lfw_subset()
    faces, others = patches[:100], patches[100:]
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for part, count, own in (("train", TRAIN, slice(_TRAINED)), ("test", TEST, slice(_TRAINED, None))):
        for name, pasted in (("face", faces[own]), ("none", others[own])):
            folder = place / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels, (left, top) = picture(generator, others[own], pasted[number % len(pasted)])
                cv2.imwrite(str(folder / f"{number:03}.png"), pixels)
                if (part, name) == ("test", "face"):
                    images.append({"id": number, "file_name": f"{number:03}.png", "width": SIDE, "height": SIDE})
                    annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": [left, top, PATCH, PATCH]})
    boxes = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
    (place / "boxes.json").write_text(json.dumps(boxes), encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
