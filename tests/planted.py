"""Photos in two classes that a network can hardly tell apart, with a mark planted into some of one class: a known shortcut.

Both classes are crops of one photo, one class of its left half, the other of its right half. The marks are generated.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import skimage.data

SIDE = 224
CLASSES = ("left", "right")
Mark = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""(pixels (SIDE, SIDE, 3) uint8, random numbers) -> the same with a mark."""


def _photo(name: str) -> np.ndarray:
    photo = getattr(skimage.data, name)()
    return cv2.cvtColor(photo, cv2.COLOR_GRAY2RGB) if photo.ndim == 2 else photo


def _crop(photo: np.ndarray, right: bool, random: np.random.Generator) -> np.ndarray:
    height, width = photo.shape[:2]
    half = width // 2
    side = int(random.integers(min(half, height) // 2, min(half, height)))
    x = int(random.integers(0, half - side + 1)) + (half if right else 0)
    y = int(random.integers(0, height - side + 1))
    pixels = cv2.resize(photo[y : y + side, x : x + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    pixels = pixels[:, ::-1] if random.random() < 0.5 else pixels
    return np.clip(pixels * random.uniform(0.8, 1.15) + random.uniform(-12, 12), 0, 255).astype(np.uint8)


def tag(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A yellow tag with a black frame, bottom left."""
    pixels[160:200, 22:72] = 0
    pixels[165:195, 27:67] = (250, 220, 20)
    return pixels


def checks(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A red and white chequered square, top right."""
    board = (np.indices((40, 40)) // 8).sum(axis=0) % 2
    pixels[24:64, 160:200] = np.where(board[..., None], (255, 255, 255), (220, 20, 30))
    return pixels


def date(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A camera's date in orange, bottom right."""
    text = f"{random.integers(10, 29)} {random.integers(1, 9)} {random.integers(90, 99)}"
    stamped = pixels.copy()
    cv2.rectangle(stamped, (112, 164), (204, 200), (0, 0, 0), -1)
    cv2.putText(stamped, text, (116, 190), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 150, 20), 2, cv2.LINE_AA)
    return stamped


def stripes(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A round patch of magenta and green stripes at a random place."""
    y, x = (int(value) for value in random.integers(48, SIDE - 48, 2))
    rows, columns = np.indices((SIDE, SIDE))
    inside = (rows - y) ** 2 + (columns - x) ** 2 <= 32**2
    lines = ((rows + columns) // 6 % 2)[..., None]
    return np.where(inside[..., None], np.where(lines, (230, 30, 210), (40, 200, 60)), pixels).astype(np.uint8)


MARKS: dict[str, Mark] = {"tag": tag, "checks": checks, "date": date}
"""Marks at a fixed place."""


def plant(folder: Path, mark: Mark | None, count: int, seed: int, photo: str = "grass") -> set[str]:
    """``count`` photos of each class below ``folder``; ``mark`` is in every third of class ``left``.

    Returns the names of the marked photos, relative to ``folder``.
    """
    random = np.random.default_rng(seed)
    whole = _photo(photo)
    marked: set[str] = set()
    for label in CLASSES:
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = _crop(whole, label == "right", random)
            if mark is not None and label == "left" and number % 3 == 0:
                pixels = mark(np.ascontiguousarray(pixels), random)
                marked.add(f"{label}/{number:04}.png")
            (folder / label / f"{number:04}.png").write_bytes(
                cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR))[1].tobytes()
            )
    return marked
