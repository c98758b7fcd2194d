"""How many threads OpenCV computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2


@contextmanager
def single_threaded_opencv() -> Iterator[None]:
    """Inside, OpenCV uses one thread for each image, for callers that work on several images at once; afterwards as before."""
    kept = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        yield
    finally:
        cv2.setNumThreads(kept)
