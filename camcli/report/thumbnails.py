"""Overlays -> thumbnails (small JPEGs), made in threads. Only missing and outdated thumbnails are made."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image as PillowImage

from camcli.errors import ImageError
from camcli.layout import thumbnail_file
from camcli.output.root import Root

LONGER_SIDE = 176
"""Pixels of the longer side of a thumbnail."""

_QUALITY = 78

MOST_PIXELS = 64_000_000
"""Maximum size of an overlay that must be decoded in full size: 256 MB at four bytes per pixel."""

MOST_JPEG_PIXELS = 400_000_000
"""Maximum size of a JPEG, which is decoded at an eighth of its size: two of the largest photos by default side by side."""

MOST_SIDE = 65_535
"""Maximum width and height of a JPEG in pixels."""

_MANY_PIXELS = 12_000_000
_ONE_LARGE = threading.Lock()
"""Held while an overlay of more than _MANY_PIXELS is decoded, so that only one thread needs that memory."""


@dataclass(frozen=True, slots=True)
class Made:
    """Numbers of thumbnails that were made, and of overlays whose thumbnail could not be made."""

    made: int
    impossible: int


def current_thumbnail(root: Root, overlay: str) -> str:
    """The name of the thumbnail of ``overlay`` in ``root``; empty if it is missing or outdated."""
    name = thumbnail_file(overlay)
    try:
        return name if _is_current(root, name, overlay) else ""
    except OSError:
        return ""


def make_thumbnails(root: Root, overlays: Iterable[str], workers: int, stop: threading.Event) -> Made:
    """Make missing and outdated thumbnails of ``overlays`` in the output folder ``root``. Raises OutputError.

    After ``stop`` is set no further thumbnail is begun. Each file is complete or absent.
    """
    waiting = _SharedNames(overlays)

    def work() -> Counter[bool | None]:
        made: Counter[bool | None] = Counter()
        try:
            while not stop.is_set() and (overlay := waiting.next()) is not None:
                made[_make(root, overlay)] += 1
        except BaseException:  # such as a full disk: stop all threads
            waiting.clear()
            raise
        return made

    pool = ThreadPoolExecutor(workers, thread_name_prefix="thumbnail")
    try:  # one task per thread, not per overlay: a million tasks take a gigabyte
        made = sum((task.result() for task in [pool.submit(work) for _ in range(workers)]), Counter[bool | None]())
    finally:
        pool.shutdown(cancel_futures=True)
    return Made(made[True], made[False])


class _SharedNames:
    """A list of names that several threads consume."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = iter(names)
        self._lock = threading.Lock()

    def next(self) -> str | None:
        """The next name; None after the last."""
        with self._lock:
            return next(self._names, None)

    def clear(self) -> None:
        """Drop the remaining names."""
        with self._lock:
            self._names = iter(())


def _make(root: Root, overlay: str) -> bool | None:
    """True if the thumbnail was made, False if it cannot be made, None if it was up to date."""
    target = thumbnail_file(overlay)
    try:
        if _is_current(root, target, overlay):
            return None
        with root.open(overlay) as file:
            data = thumbnail_jpeg(file)
    except Exception:  # missing or damaged, which camcli verify reports; Pillow's plugins raise almost any exception
        return False
    try:
        root.write(target, data)
    except ImageError:
        return False
    return True


def _is_current(root: Root, target: str, source: str) -> bool:
    """Whether ``target`` exists and is not older than ``source``. Raises FileNotFoundError if there is no source."""
    made, there = root.status(source), root.status(target)
    if made is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), root.at(source))
    return there is not None and there.st_mtime_ns >= made.st_mtime_ns


def thumbnail_jpeg(source: BinaryIO) -> bytes:
    """A thumbnail of the image in ``source`` as a JPEG file. Raises ValueError for too many pixels, and Pillow's exceptions."""
    canvas = _webp_pixels(source.read(30))
    source.seek(0)
    with contextlib.ExitStack() as stack:
        if canvas > _MANY_PIXELS:
            stack.enter_context(_ONE_LARGE)
        picture = stack.enter_context(PillowImage.open(source, formats=("JPEG", "PNG", "WEBP")))
        pixels = _checked_pixels(picture)
        picture.draft("RGB", (LONGER_SIDE, LONGER_SIDE))  # a JPEG is decoded at the smallest sufficient size
        if not canvas and pixels > _MANY_PIXELS:
            stack.enter_context(_ONE_LARGE)
        small = picture.convert("RGB")
        small.thumbnail((LONGER_SIDE, LONGER_SIDE), PillowImage.Resampling.BOX, reducing_gap=None)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _checked_pixels(picture: PillowImage.Image) -> int:
    """Width times height. Raises ValueError if decoding could take too much memory or time."""
    width, height = picture.size
    in_steps = picture.format == "JPEG" and not picture.info.get("progressive")
    if max(width, height) > MOST_SIDE or width * height > (MOST_JPEG_PIXELS if in_steps else MOST_PIXELS):
        raise ValueError(f"{width} x {height} pixels are too many for a thumbnail")
    return width * height


def _webp_pixels(start: bytes) -> int:
    """Width times height of a WebP from the first 30 bytes of the file; 0 for other formats. Raises ValueError for too many pixels.

    This is needed because Pillow allocates the whole canvas when it opens a WebP. See RFC 9649, sections 2.5 to 2.7.
    """
    if start[:4] != b"RIFF" or start[8:12] != b"WEBP":
        return 0
    kind, body = start[12:16], start[20:]
    if kind == b"VP8X":
        width, height = (int.from_bytes(body[at : at + 3], "little") + 1 for at in (4, 7))
    elif kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(body[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width} x {height} pixels are too many for a thumbnail")
    return width * height
