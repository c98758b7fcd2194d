"""Pillow's own limit, lifted; apart from ``decode``, for the report needs no OpenCV."""

from __future__ import annotations

from PIL import Image as PillowImage


def allow_any_size() -> None:
    """Let Pillow open pictures of any size: camcli has its own limit, --max-pixels, and checks it before anything is decoded."""
    PillowImage.MAX_IMAGE_PIXELS = None
