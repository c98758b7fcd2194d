"""What a JPEG must be before it is given to a decoder: whole, and no more work than its pixels."""

from __future__ import annotations

import re

from camcli.errors import ImageError

MAX_SCANS = 200
"""A progressive JPEG with more scans costs seconds and is made to harm: real encoders write about ten."""

_MOST_PASSES = 2_000_000_000
"""Pixels times scans: each scan of a progressive JPEG goes over the whole picture, a nanosecond a pixel."""

_USUAL_SCANS = 16
"""What an encoder may write at any size."""

_MOST_FILLING = 1 << 20
"""Bytes between segments that mean nothing: libjpeg takes a third of a second for a megabyte of them."""

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RUN = re.compile(rb"\xff++")
_ARITHMETIC_FRAME = re.compile(rb"\xff[\xc9-\xcb\xcd-\xcf]")
_MOST_PIXELS_A_BYTE = 8 * 64
"""A Huffman code is at least one bit long, and a block of 8 x 8 pixels has at least one (ISO/IEC 10918-1, annexes C and F)."""


def check_jpeg(data: bytes, pixels: int) -> None:
    """Raise ImageError where a JPEG that claims so many ``pixels`` does not end, cannot hold them, or costs far more work."""
    check_jpeg_end(data, pixels)
    if pixels > _MOST_PIXELS_A_BYTE * len(data) and not _ARITHMETIC_FRAME.search(data):
        raise ImageError("decode", f"damaged JPEG: {len(data):,} bytes cannot hold {pixels:,} pixels")


def check_jpeg_end(data: bytes, pixels: int = 0) -> None:
    """Raise ImageError unless the main image of a JPEG runs to its end-of-image marker (ISO/IEC 10918-1, annex B).

    Walks from segment to segment, so that a thumbnail's own end marker inside a segment is not taken for the image's. More scans
    or filling on the way than a picture of ``pixels`` can need is refused.
    """
    position, scans, filling = 2, 0, 0
    while True:
        found = _MARKER.search(data, position)
        if found is None:
            break
        filling += _filling(data, position, found.start(), in_scan=scans > 0)
        if filling > _MOST_FILLING:
            raise ImageError("decode", f"a JPEG with more than {_MOST_FILLING:,} bytes of filling is not decoded")
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
    """How many of the bytes before a marker mean nothing: all of them before the first scan, long runs of FF behind it."""
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
    if filled < len(data):  # as an interrupted copy leaves it, which had reserved its room
        share = f"{filled / len(data):.0%}".replace("%", " %")
        return f"truncated JPEG: no end-of-image marker; after {share} of the file come only zeros"
    return f"truncated JPEG: no end-of-image marker in its {len(data):,} bytes"
