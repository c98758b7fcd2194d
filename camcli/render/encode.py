"""Pictures -> image files."""

from __future__ import annotations

import cv2
import numpy as np

from camcli.errors import ImageError

LONGEST_SIDE = {"jpg": 65_500, "png": 2**31 - 1, "webp": 16_383}
"""Maximum width and height of each format, in pixels."""


def encode_image(image: np.ndarray, format: str, quality: int) -> bytes:
    """The image file of ``image``, (H, W, 3) RGB or (H, W) grey. ``format``: jpg, png or webp. ``quality``: of jpg and webp, 1 to
    100.

    Raises ImageError (stage ``render``) for an image that is too large for the format.
    """
    height, width = image.shape[:2]
    if max(height, width) > LONGEST_SIDE[format]:
        most = LONGEST_SIDE[format]
        raise ImageError(
            "render", f"{width} x {height} pixels are too large for {format} (at most {most:,} per side); try --max-side"
        )
    stored = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    parameters = {"jpg": [cv2.IMWRITE_JPEG_QUALITY, quality], "webp": [cv2.IMWRITE_WEBP_QUALITY, quality], "png": []}
    done, data = cv2.imencode(f".{format}", stored, parameters[format])
    if not done:
        raise ImageError("render", f"the overlay could not be encoded as {format}")
    return data.tobytes()
