"""Pillow as camcli uses it; apart from ``decode``, for the report needs no OpenCV."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image as PillowImage


@contextmanager
def pillow_unlimited() -> Iterator[None]:
    """Inside, Pillow opens pictures of any size and warns of nothing; afterwards it is as before.

    camcli has its own limit, --max-pixels, and checks it before anything is decoded. What matters of damaged metadata, of which
    Pillow warns, becomes a failure.
    """
    kept = PillowImage.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        PillowImage.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            PillowImage.MAX_IMAGE_PIXELS = kept


def allow_any_size() -> None:
    """Let Pillow open pictures of any size in this process."""
    PillowImage.MAX_IMAGE_PIXELS = None
