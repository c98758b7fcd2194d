"""Lift Pillow's own limits. This is separate from ``decode`` because the report does not need OpenCV."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pillow_unlimited() -> Iterator[None]:
    """Context in which Pillow opens images of any size and gives no warnings; afterwards its settings are restored.

    camcli has its own limit, --max-pixels, which is checked before decoding. Damage that matters becomes a failure, not a warning.
    """
    from PIL import Image as PillowImage  # the command line's help does without

    kept = PillowImage.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        PillowImage.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            PillowImage.MAX_IMAGE_PIXELS = kept
