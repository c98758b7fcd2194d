"""Photos in two classes, with a mark planted into some of one class: a known shortcut.

Both classes are crops of one photo, of which one class has more of the left, the other more of the right. The marked photos of the
left class are from the right: without the mark a network cannot tell them from the other class, so the mark is worth learning.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import skimage.data

SIDE = 224
CLASSES = ("left", "right")
_SHIFT = 0.5
"""How far the middles of both classes are apart, as a share of the places where a crop can be."""

Mark = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""(pixels (SIDE, SIDE, 3) uint8, random numbers) -> the same with a mark."""


def _crop(photo: np.ndarray, right: bool, random: np.random.Generator) -> np.ndarray:
    """A crop (SIDE, SIDE, 3) uint8, turned over and lit differently each time."""
    height, width = photo.shape[:2]
    side = int(random.integers(height // 3, 2 * height // 3))
    x = int((random.uniform(0, 1 - _SHIFT) + (_SHIFT if right else 0)) * (width - side))
    y = int(random.integers(0, height - side + 1))
    pixels = cv2.resize(photo[y : y + side, x : x + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    pixels = pixels[:, ::-1] if random.random() < 0.5 else pixels
    return np.clip(pixels * random.uniform(0.8, 1.15) + random.uniform(-12, 12), 0, 255).astype(np.uint8)


def tag(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A yellow tag with black lines, bottom left."""
    pixels[144:204, 18:88] = 0
    pixels[150:198, 24:82] = (250, 220, 20)
    pixels[168:180, 24:82] = 0
    return pixels


def checks(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A red and white chequered square, top right."""
    board = (np.indices((64, 64)) // 8).sum(axis=0) % 2
    pixels[20:84, 142:206] = np.where(board[..., None], (255, 255, 255), (220, 20, 30))
    return pixels


def date(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A camera's date, bottom right: dark digits on orange."""
    text = f"{random.integers(10, 29)} {random.integers(1, 9)} {random.integers(90, 99)}"
    stamped = pixels.copy()
    cv2.rectangle(stamped, (106, 144), (208, 204), (255, 120, 0), -1)
    cv2.putText(stamped, text, (110, 184), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (40, 0, 80), 3, cv2.LINE_AA)
    return stamped


def stripes(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A round patch of magenta and green stripes at a random place."""
    y, x = (int(value) for value in random.integers(48, SIDE - 48, 2))
    rows, columns = np.indices((SIDE, SIDE))
    inside = (rows - y) ** 2 + (columns - x) ** 2 <= 36**2
    lines = ((rows + columns) // 6 % 2)[..., None]
    return np.where(inside[..., None], np.where(lines, (230, 30, 210), (40, 200, 60)), pixels).astype(np.uint8)


MARKS: dict[str, Mark] = {"tag": tag, "checks": checks, "date": date}
"""Marks at a fixed place."""


def plant(folder: Path, mark: Mark | None, count: int, part: int) -> set[str]:
    """``count`` photos of each class below ``folder``; ``mark`` is in every third of class ``left``. ``part``: another number
    gives other crops.

    Returns the names of the marked photos, relative to ``folder``.
    """
    random = np.random.default_rng(part)
    photo = skimage.data.coffee()
    marked: set[str] = set()
    for label in CLASSES:
        (folder / label).mkdir(parents=True)
        for number in range(count):
            is_marked = mark is not None and label == "left" and number % 3 == 0
            pixels = _crop(photo, label == "right" or is_marked, random)
            if mark is not None and is_marked:
                pixels = mark(pixels, random)
                marked.add(f"{label}/{number:04}.png")
            encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1]
            (folder / label / f"{number:04}.png").write_bytes(encoded.tobytes())
    return marked
