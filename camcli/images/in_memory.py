"""Images in memory (Pillow images, arrays) -> RGB pixels, the same as decoding a file gives."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image as PillowImage

from camcli.errors import InputError
from camcli.images.decode import decode_opened


def is_picture(image: Any) -> bool:
    """Whether ``image`` is an image in memory: a Pillow image or an array."""
    return isinstance(image, (PillowImage.Image, np.ndarray))


def picture_pixels(image: PillowImage.Image | np.ndarray, max_pixels: int) -> np.ndarray:
    """The pixels (H, W, 3) uint8 RGB of a Pillow image, or of an array (H, W, 3), (H, W, 4) or (H, W) uint8. It is not changed.

    A Pillow image is converted as if it came from its file: EXIF orientation applied, upper 8 bits of 16-bit samples, transparent
    pixels blended with white. Raises InputError for an array of another shape or type, and ImageError (stage ``decode``) for an
    image that cannot be read or has more than ``max_pixels``.
    """
    if isinstance(image, PillowImage.Image):
        return decode_opened(image, max_pixels)
    grey = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    if image.dtype != np.uint8 or image.size == 0 or not (grey.ndim == 2 or (grey.ndim == 3 and grey.shape[2] in (3, 4))):
        raise InputError(f"an array {_shape_words(image)} is not an image. {_advice(image)}")
    if grey.ndim == 3 and grey.shape[2] == 3:
        return np.ascontiguousarray(grey)
    return decode_opened(PillowImage.fromarray(np.ascontiguousarray(grey)), max_pixels)


def _shape_words(array: np.ndarray) -> str:
    return f"{tuple(array.shape)} {array.dtype}"


def _advice(array: np.ndarray) -> str:
    wanted = "Give (H, W, 3) uint8 in RGB order, values 0 to 255"
    if array.dtype != np.uint8:
        return f"{wanted}: (255 * array).round().astype('uint8') where the values run from 0 to 1."
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):
        return f"{wanted}: array.transpose(1, 2, 0) puts the channels last."
    return f"{wanted}, or (H, W) for a grey image."
