"""Checks of a JPEG before it is decoded: it must be complete, and cheap enough for its number of pixels."""

from __future__ import annotations

import re

from camcli.errors import ImageError

MAX_SCANS = 200
"""Maximum number of scans. More take seconds to decode and come from an attack; real encoders write about ten."""

_MOST_PASSES = 2_000_000_000
"""Maximum of pixels times scans: each scan of a progressive JPEG takes about a nanosecond per pixel of the image."""

_USUAL_SCANS = 16
"""Number of scans that is allowed for any image size."""

_MOST_FILLING = 1 << 20
"""Maximum number of fill bytes between segments; libjpeg needs a third of a second per megabyte."""

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RUN = re.compile(rb"\xff++")
_ARITHMETIC_FRAME = re.compile(rb"\xff[\xc9-\xcb\xcd-\xcf]")
_MOST_PIXELS_A_BYTE = 8 * 64
"""Maximum number of pixels per byte: a block of 8 x 8 pixels has at least one Huffman code of at least one bit (ISO/IEC 10918-1,
annexes C and F)."""


def check_jpeg(data: bytes, pixels: int) -> None:
    """Raise ImageError if a JPEG of ``pixels`` pixels is truncated, too small for them, or too expensive to decode."""
    check_jpeg_end(data, pixels)
    if pixels > _MOST_PIXELS_A_BYTE * len(data) and not _ARITHMETIC_FRAME.search(data):
        raise ImageError("decode", f"damaged JPEG: {len(data):,} bytes cannot hold {pixels:,} pixels")


def check_jpeg_end(data: bytes, pixels: int = 0) -> None:
    """Raise ImageError unless the main image of a JPEG has its end-of-image marker (ISO/IEC 10918-1, annex B).

    The check goes from segment to segment, so the end marker of an embedded thumbnail is not mistaken for that of the image. Also
    raises ImageError for more scans or fill bytes than an image of ``pixels`` can need.
    """
    position, scans, filling = 2, 0, 0
    while True:
        found = _MARKER.search(data, position)
        if found is None:
            break
        filling += _filling(data, position, found.start(), in_scan=scans > 0)
        if filling > _MOST_FILLING:
            raise ImageError("decode", f"a JPEG with more than {_MOST_FILLING:,} fill bytes is not decoded")
        marker, position = data[found.end() - 1], found.end()
        if marker == 0xD9:
            if scans == 0:
                raise ImageError("decode", "damaged JPEG: it ends before any image data")
            return
        if marker in (0x01, 0xD8):
            continue
        if position + 2 > len(data):
            break
        length = int.from_bytes(data[position : position + 2], "big")
        if length < 2:
            raise ImageError("decode", f"damaged JPEG: a segment of {length} bytes at byte {position}")
        position += length
        if marker == 0xDA:
            scans += 1
            _check_scans(scans, pixels)
    raise ImageError("decode", _truncated(data, scans))


def _filling(data: bytes, start: int, stop: int, *, in_scan: bool) -> int:
    """The number of fill bytes before a marker: all bytes before the first scan; after it only long runs of FF."""
    if not in_scan:
        return stop - start
    if data.find(b"\xff" * 256, start, stop) < 0:
        return 0
    return sum(len(run[0]) for run in _RUN.finditer(data, start, stop) if len(run[0]) >= 256)


def _check_scans(scans: int, pixels: int) -> None:
    if scans > MAX_SCANS:
        raise ImageError("decode", f"a JPEG of more than {MAX_SCANS} scans is not decoded")
    if scans > _USUAL_SCANS and scans * pixels > _MOST_PASSES:
        raise ImageError("decode", f"a JPEG of {pixels:,} pixels and more than {scans - 1} scans is not decoded")


def _truncated(data: bytes, scans: int) -> str:
    if scans == 0:
        return "truncated JPEG: it ends before any image data"
    filled = len(data.rstrip(b"\0"))
    if filled < len(data):  # as after an interrupted copy that had reserved its space
        share = f"{filled / len(data):.0%}".replace("%", " %")
        return f"truncated JPEG: no end-of-image marker; after {share} of the file come only zeros"
    return f"truncated JPEG: no end-of-image marker in its {len(data):,} bytes"
