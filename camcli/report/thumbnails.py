"""Overlays -> small JPEGs, in threads; only those that are missing or older than their overlay."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image as PillowImage

from camcli.errors import ImageError
from camcli.output.writers import write_whole
from camcli.records import REPORT_FOLDER, RUN_MARKER

LONGER_SIDE = 176
"""Pixels of a thumbnail."""

_QUALITY = 78


@dataclass(frozen=True, slots=True)
class Made:
    """Thumbnails written by this call, and overlays of which none could be made."""

    made: int
    impossible: int


def thumbnail_of(overlay: str) -> str:
    """The thumbnail of an overlay; both paths are relative to the output folder."""
    return os.path.join(REPORT_FOLDER, "thumbs", f"{os.path.splitext(os.path.relpath(overlay, 'overlays'))[0]}.jpg")


def current_thumbnail(path: str, overlay: str) -> str:
    """The thumbnail of ``overlay`` in the output folder ``path``, relative to it; empty where there is none, or an older one."""
    name = thumbnail_of(overlay)
    try:
        return name if _is_current(os.path.join(path, name), os.path.join(path, overlay)) else ""
    except OSError:
        return ""


def make_thumbnails(path: str, overlays: Iterable[str], workers: int, stop: threading.Event) -> Made:
    """Thumbnails for ``overlays`` of the output folder ``path``. Raises OutputError.

    Once ``stop`` is set no further ones are made. Each is complete or absent.
    """

    def one(overlay: str) -> bool | None:
        return None if stop.is_set() else _make(path, overlay)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="thumbnail")
    try:
        results = list(pool.map(one, overlays))
    finally:
        pool.shutdown(cancel_futures=True)
    return Made(sum(result is True for result in results), sum(result is False for result in results))


def _make(path: str, overlay: str) -> bool | None:
    """True for a thumbnail made, False for one that cannot be, None for one that was there."""
    source, target = os.path.join(path, overlay), os.path.join(path, thumbnail_of(overlay))
    try:
        if _is_current(target, source):
            return None
        data = _encoded(source)
    except (OSError, ValueError, SyntaxError, PillowImage.DecompressionBombError):  # gone, or not whole: verify says which
        return False
    try:
        write_whole(target, data, os.path.join(path, RUN_MARKER, "scratch"))
    except ImageError:
        return False
    return True


def _is_current(target: str, source: str) -> bool:
    made = os.stat(source).st_mtime_ns
    try:
        return os.stat(target).st_mtime_ns >= made
    except FileNotFoundError:
        return False


def _encoded(source: str) -> bytes:
    with PillowImage.open(source) as picture:
        picture.draft("RGB", (LONGER_SIDE, LONGER_SIDE))  # a JPEG is decoded at the least size that will do
        small = picture.convert("RGB")
        small.thumbnail((LONGER_SIDE, LONGER_SIDE), PillowImage.Resampling.BOX, reducing_gap=None)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
