"""The part of an image that becomes the network's input, and the resizing and cropping that makes it.

Coordinates are continuous: pixel i covers [i, i + 1), and its centre is i + 0.5. The whole image is resized to ``resized``, and the
input window is cut from that. So point u of the input is point (left + u) * W / resized of the image. torchvision and timm, whose
preprocessing is reproduced here, use the same convention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image as PillowImage

from camcli.records import Box, Preprocess, QuicklyPickled

_FILTERS = {
    "nearest": PillowImage.Resampling.NEAREST,
    "bilinear": PillowImage.Resampling.BILINEAR,
    "bicubic": PillowImage.Resampling.BICUBIC,
    "lanczos": PillowImage.Resampling.LANCZOS,
}
_MAX_RESIZED = 30_000_000
"""If the resized image had more pixels than this, only the window is resampled: an image of 10 x 30,000 would become 256 x 768,000.
The result is then equal up to rounding; below the limit it is bit-equal to resizing the whole image."""


@dataclass(frozen=True, slots=True)
class InputWindow(QuicklyPickled):
    """The window of one image that the network sees. Sizes are (width, height) in pixels.

    ``image``: size of the original. ``resized``: size after resizing. ``window``: size of the network's input. ``left``, ``top``:
    position of the window in the resized image, negative if the input is padded there.
    """

    image: tuple[int, int]
    resized: tuple[int, int]
    window: tuple[int, int]
    left: int
    top: int

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The window in pixels of the original: left, top, width, height. It extends beyond the image if the input is padded."""
        scale_x, scale_y = self.image[0] / self.resized[0], self.image[1] / self.resized[1]
        return self.left * scale_x, self.top * scale_y, self.window[0] * scale_x, self.window[1] * scale_y

    @property
    def pixels(self) -> Box:
        """The pixels of the original whose centres are inside the window; at least one in each direction."""
        x, y, w, h = self.box
        x0, x1 = _covered(x, x + w, self.image[0])
        y0, y1 = _covered(y, y + h, self.image[1])
        return Box(x0, y0, x1 - x0, y1 - y0)


def input_window(image: tuple[int, int], preprocess: Preprocess, resize_mode: str) -> InputWindow:
    """The input window of an image of (width, height) pixels.

    ``resize_mode``: ``crop`` resizes and crops as the model was trained; ``squash`` resizes the whole image to the input size
    without keeping its aspect ratio; ``pad`` fits the whole image into the input and fills the rest with the mean colour.
    """
    window = (preprocess.crop[1], preprocess.crop[0])
    if resize_mode == "squash":
        return InputWindow(image, window, window, 0, 0)
    to_fit = max(image[0] / window[0], image[1] / window[1])
    resized = _shrunk(image, to_fit) if resize_mode == "pad" else _resized(image, preprocess)
    left, top = (_centred(*pair, preprocess.crop_rounding) for pair in zip(resized, window, strict=True))
    return InputWindow(image, resized, window, left, top)


def prepare_input(pixels: np.ndarray, window: InputWindow, preprocess: Preprocess) -> np.ndarray:
    """Resize, crop and pad an image as ``window`` says. Returns the network's input before normalization, (h, w, 3) uint8 RGB.

    Bit-equal to the evaluation transforms of torchvision and timm, which also resize with Pillow. Padding has the mean colour. For
    a network of one channel (h, w, 1), the luma of ITU-R BT.601, as Pillow's mode L has it; a grey image keeps its values.
    """
    window_w, window_h = window.window
    # the part of the window inside the image, in resized coordinates
    x0, y0 = max(window.left, 0), max(window.top, 0)
    x1, y1 = min(window.left + window_w, window.resized[0]), min(window.top + window_h, window.resized[1])
    picture = PillowImage.fromarray(pixels)
    if preprocess.channels == 1:
        picture = picture.convert("L")
    resample = _FILTERS[preprocess.interpolation]
    if window.resized[0] * window.resized[1] <= _MAX_RESIZED:
        seen = picture.resize(window.resized, resample)
        if (x0, y0, x1, y1) != (0, 0, *window.resized):
            seen = seen.crop((x0, y0, x1, y1))
    else:
        scale_x, scale_y = window.image[0] / window.resized[0], window.image[1] / window.resized[1]
        seen = picture.resize((x1 - x0, y1 - y0), resample, box=(x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y))
    if seen.size == window.window:
        return np.asarray(seen).reshape(window_h, window_w, preprocess.channels)
    canvas = np.empty((window_h, window_w, preprocess.channels), np.uint8)
    canvas[:] = np.round(255 * np.asarray(preprocess.mean)).astype(np.uint8)
    left, top = x0 - window.left, y0 - window.top
    inside = np.asarray(seen).reshape(seen.height, seen.width, preprocess.channels)
    canvas[top : top + seen.height, left : left + seen.width] = inside
    return canvas


def prepare_pixels(pixels: np.ndarray, preprocess: Preprocess, resize_mode: str) -> tuple[InputWindow, np.ndarray]:
    """The network's window on the image ``pixels`` (H, W, 3) uint8, and what it sees there, (h, w, channels) uint8."""
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


def _centred(size: int, window: int, rounding: str) -> int:
    """The start of a centred window, rounded as torchvision's center_crop does or ``down``; its padding for smaller images."""
    if size >= window:
        return (size - window) // 2 if rounding == "down" else round((size - window) / 2.0)
    return -((window - size) // 2)


def _covered(start: float, stop: float, size: int) -> tuple[int, int]:
    first = min(max(math.ceil(start - 0.5), 0), size - 1)
    last = max(min(math.ceil(stop - 0.5), size), first + 1)
    return first, last
