"""Overlays -> small JPEGs, in threads; only those that are missing or older than their overlay."""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image as PillowImage

from camcli.errors import ImageError
from camcli.output.manifest import thumbnail_of
from camcli.output.root import Root

LONGER_SIDE = 176
"""Pixels of a thumbnail."""

_QUALITY = 78


@dataclass(frozen=True, slots=True)
class Made:
    """Thumbnails written by this call, and overlays of which none could be made."""

    made: int
    impossible: int


def current_thumbnail(root: Root, overlay: str) -> str:
    """The thumbnail of ``overlay`` in ``root``; empty where there is none, or an older one."""
    name = thumbnail_of(overlay)
    try:
        return name if _is_current(root, name, overlay) else ""
    except OSError:
        return ""


def make_thumbnails(root: Root, overlays: Iterable[str], workers: int, stop: threading.Event) -> Made:
    """Thumbnails for ``overlays`` of the output folder ``root``. Raises OutputError.

    Once ``stop`` is set no further ones are made. Each is complete or absent.
    """

    def one(overlay: str) -> bool | None:
        return None if stop.is_set() else _make(root, overlay)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="thumbnail")
    try:
        results = list(pool.map(one, overlays))
    finally:
        pool.shutdown(cancel_futures=True)
    return Made(sum(result is True for result in results), sum(result is False for result in results))


def _make(root: Root, overlay: str) -> bool | None:
    """True for a thumbnail made, False for one that cannot be, None for one that was there."""
    target = thumbnail_of(overlay)
    try:
        if _is_current(root, target, overlay):
            return None
        with root.open(overlay) as file:
            data = _encoded(file)
    except (OSError, ValueError, SyntaxError, PillowImage.DecompressionBombError):  # gone, or not whole: verify says which
        return False
    try:
        root.write(target, data)
    except ImageError:
        return False
    return True


def _is_current(root: Root, target: str, source: str) -> bool:
    """Whether ``target`` is not older than ``source``. Raises FileNotFoundError where there is no source."""
    made, there = root.status(source), root.status(target)
    if made is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), root.at(source))
    return there is not None and there.st_mtime_ns >= made.st_mtime_ns


def _encoded(source: BinaryIO) -> bytes:
    with PillowImage.open(source, formats=("JPEG", "PNG", "WEBP")) as picture:
        picture.draft("RGB", (LONGER_SIDE, LONGER_SIDE))  # a JPEG is decoded at the least size that will do
        small = picture.convert("RGB")
        small.thumbnail((LONGER_SIDE, LONGER_SIDE), PillowImage.Resampling.BOX, reducing_gap=None)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
