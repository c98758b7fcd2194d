"""Where the network looked: from an image's size to the part of it that becomes the network's input, and back.

Coordinates are continuous: pixel i covers [i, i + 1), its centre is i + 0.5. The resize maps the whole image onto
``resized``; the window of the network is cut from that, and a point u of the input is point (left + u) * W / resized of
the image. All libraries whose preprocessing is reproduced here (torchvision, timm) resize with that convention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image as PillowImage

from camcli.records import Box, Preprocess

_FILTERS = {
    "nearest": PillowImage.Resampling.NEAREST,
    "bilinear": PillowImage.Resampling.BILINEAR,
    "bicubic": PillowImage.Resampling.BICUBIC,
    "lanczos": PillowImage.Resampling.LANCZOS,
}
_MAX_RESIZED = 30_000_000
"""Pixels of a resized image above which only the window is resampled: a strip of 10 x 30,000 would become 256 x 768,000.
The picture is the same up to rounding; below it, bit-equal to resizing the whole."""


@dataclass(frozen=True, slots=True)
class InputWindow:
    """The network's window on one image. Sizes are (width, height) in pixels.

    ``image``: the original. ``resized``: the original after the resize. ``window``: the network's input. ``left``, ``top``:
    where the window begins in the resized image; negative where it reaches beyond and is padded.
    """

    image: tuple[int, int]
    resized: tuple[int, int]
    window: tuple[int, int]
    left: int
    top: int

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The window in original pixels: left, top, width, height; beyond the image where the input is padded."""
        scale_x, scale_y = self.image[0] / self.resized[0], self.image[1] / self.resized[1]
        return self.left * scale_x, self.top * scale_y, self.window[0] * scale_x, self.window[1] * scale_y

    @property
    def pixels(self) -> Box:
        """The original pixels whose centres lie in the window: at least one each way."""
        x, y, w, h = self.box
        x0, x1 = _covered(x, x + w, self.image[0])
        y0, y1 = _covered(y, y + h, self.image[1])
        return Box(x0, y0, x1 - x0, y1 - y0)


def input_window(image: tuple[int, int], preprocess: Preprocess, resize_mode: str) -> InputWindow:
    """The network's window on an image of (width, height) pixels.

    ``resize_mode``: ``crop`` as the model was trained; ``squash`` resizes the whole image to the input, its aspect lost; ``pad``
    fits the whole image into the input and fills the rest with the mean colour.
    """
    window = (preprocess.crop[1], preprocess.crop[0])
    if resize_mode == "squash":
        return InputWindow(image, window, window, 0, 0)
    to_fit = max(image[0] / window[0], image[1] / window[1])
    resized = _shrunk(image, to_fit) if resize_mode == "pad" else _resized(image, preprocess)
    return InputWindow(image, resized, window, _centred(resized[0], window[0]), _centred(resized[1], window[1]))


def prepare_input(pixels: np.ndarray, view: InputWindow, preprocess: Preprocess) -> np.ndarray:
    """The network's input before normalisation: (h, w, 3) uint8 RGB, resized, cropped, padded with the mean colour.

    Bit-equal to torchvision's and timm's evaluation transforms, which resize with Pillow as well.
    """
    window_w, window_h = view.window
    # the part of the window that holds image, in resized coordinates
    x0, y0 = max(view.left, 0), max(view.top, 0)
    x1, y1 = min(view.left + window_w, view.resized[0]), min(view.top + window_h, view.resized[1])
    picture = PillowImage.fromarray(pixels)
    resample = _FILTERS[preprocess.interpolation]
    if view.resized[0] * view.resized[1] <= _MAX_RESIZED:
        seen = picture.resize(view.resized, resample)
        if (x0, y0, x1, y1) != (0, 0, *view.resized):
            seen = seen.crop((x0, y0, x1, y1))
    else:
        scale_x, scale_y = view.image[0] / view.resized[0], view.image[1] / view.resized[1]
        seen = picture.resize((x1 - x0, y1 - y0), resample, box=(x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y))
    if seen.size == view.window:
        return np.asarray(seen)
    canvas = np.empty((window_h, window_w, 3), np.uint8)
    canvas[:] = np.round(255 * np.asarray(preprocess.mean)).astype(np.uint8)
    left, top = x0 - view.left, y0 - view.top
    canvas[top : top + seen.height, left : left + seen.width] = np.asarray(seen)
    return canvas


def prepare_pixels(pixels: np.ndarray, preprocess: Preprocess, resize_mode: str) -> tuple[InputWindow, np.ndarray]:
    """The network's window on the image ``pixels`` (H, W, 3) uint8, and what it sees there, (h, w, 3) uint8."""
    window = input_window((pixels.shape[1], pixels.shape[0]), preprocess, resize_mode)
    return window, prepare_input(pixels, window, preprocess)


def _resized(image: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    width, height = image
    to_h, to_w = preprocess.resize_to
    if preprocess.resize == "short":  # torchvision.transforms.functional.resize truncates the longer side
        if width <= height:
            return to_w, int(to_w * height / width)
        return int(to_w * width / height), to_w
    if preprocess.resize == "cover":
        return _shrunk(image, min(height / to_h, width / to_w))
    if preprocess.resize == "contain":
        return _shrunk(image, max(height / to_h, width / to_w))
    return to_w, to_h


def _shrunk(image: tuple[int, int], ratio: float) -> tuple[int, int]:
    return max(1, round(image[0] / ratio)), max(1, round(image[1] / ratio))


def _centred(size: int, window: int) -> int:
    """Where a centred window begins; rounds as torchvision's center_crop does, and as its padding for smaller images."""
    if size >= window:
        return round((size - window) / 2.0)
    return -((window - size) // 2)


def _covered(start: float, stop: float, size: int) -> tuple[int, int]:
    first = min(max(math.ceil(start - 0.5), 0), size - 1)
    last = max(min(math.ceil(stop - 0.5), size), first + 1)
    return first, last
