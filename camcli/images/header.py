"""First bytes -> what a file says of its picture, and what decoding it costs. Nothing is decoded here.

A file is read as far as its header, by Pillow through a reader that gives out a bounded number of bytes, or by hand where Pillow
would decode or read all of it to open it (WebP, AVIF). What cannot hold the pixels that it claims is refused, and so is a line of
millions of rows. How much memory the rest takes follows from format, size and mode, so that it can be admitted before it is read.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from camcli.errors import ImageError
from camcli.images.av1 import sequence_size

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF")
"""Pillow's names of the formats that are decoded; whatever else a file holds is refused."""

MAX_SIDE = 1_000_000
"""Pixels a side: Pillow keeps a pointer for each row, and 178 million rows of one pixel cost 6 GB and half a minute."""

MAX_HEADER = 32 << 20
"""Bytes that are read to find an image's size: colour profiles and camera data may come first."""

_MOST_READS = 100_000
"""Reads for that. Pillow skips rubbish byte by byte: a file of zeros behind the first bytes of a JPEG would take minutes."""

_HEAD = 1 << 16
"""Bytes in which WebP and AVIF say their size."""

_DEFLATED, _LZW = 1032, 4096 * 8 // 12
"""The most bytes that a byte can stand for: in deflate, 258 bytes in two bits; in GIF's LZW, 4096 pixels in a code of 12 bits."""

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2}
"""Bytes that Pillow keeps for a pixel; 4 for every other mode."""

PillowImage.init()
AVAILABLE = tuple(name for name in FORMATS if name in PillowImage.OPEN)
"""AVIF is an optional part of Pillow."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its picture. ``format``: Pillow's name. ``decoding``: bytes of memory that it takes to decode it, at the
    peak: those of the file and of the result included.
    """

    format: str
    width: int
    height: int
    decoding: int

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


def formats_of(first: bytes) -> list[str]:
    """The formats that a file with these ``first`` bytes can be of; empty for what is no image."""
    return [name for name in AVAILABLE if (accept := PillowImage.OPEN[name][1]) is None or accept(first[:16].ljust(16, b"\0"))]


def read_header(file: BinaryIO, size: int, max_pixels: int) -> Header:
    """The header of the image in ``file``, a file of ``size`` bytes that stands at its beginning.

    Raises UnidentifiedImageError for what is no image, ImageError (stage ``decode``) for a refused size, and whatever Pillow
    raises for what is damaged.
    """
    first = file.read(_HEAD)
    file.seek(0)
    kinds = formats_of(first)
    if not kinds:
        raise UnidentifiedImageError("no known format")
    if kinds == ["WEBP"]:
        header = _webp_header(first, size)
    elif kinds == ["AVIF"]:
        header = _avif_header(first, size)
    else:
        header = _pillow_header(file, size, kinds)
    if header.width < 1 or header.height < 1:
        raise ImageError("decode", f"no pixels: {header.width} x {header.height}")
    if header.pixels > max_pixels:
        raise ImageError("decode", f"{header.width} x {header.height} pixels: more than --max-pixels {max_pixels:,}")
    if max(header.width, header.height) > MAX_SIDE:
        raise ImageError("decode", f"{header.width} x {header.height} pixels: more than {MAX_SIDE:,} a side")
    _check_plausible(header, first, size)
    return header


class _BoundedReader(io.RawIOBase):
    """A file that gives out MAX_HEADER bytes in _MOST_READS reads; more raises ImageError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._bytes, self._reads = file, MAX_HEADER, _MOST_READS

    def read(self, size: int = -1) -> bytes:
        self._reads -= 1
        data = self._file.read(self._bytes + 1 if size < 0 else min(size, self._bytes + 1))
        self._bytes -= len(data)
        if self._bytes < 0 or self._reads < 0:
            raise ImageError("decode", "damaged: its beginning does not say how large the picture is")
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _pillow_header(file: BinaryIO, size: int, kinds: Sequence[str]) -> Header:
    with PillowImage.open(_BoundedReader(file), formats=kinds) as image:  # type: ignore[arg-type]
        width, height = image.size
        pixels = width * height
        if image.format in ("JPEG", "MPO"):
            return Header("JPEG", width, height, size + _jpeg_bytes(image))
        stored = _MODE_BYTES.get(image.mode, 4)
        if "exif" in image.info:  # which may ask for a copy that stands upright; to know it Pillow would decode a PNG
            stored *= 2
        if image.format == "TIFF":
            tags = getattr(image, "tag_v2", {})
            bits = tags.get(_BITS_PER_SAMPLE, (8,))
            if tags.get(_ORIENTATION, 1) != 1:
                stored *= 2
            stored += -(-sum(bits[:8]) // 8)  # a strip may hold the whole picture
        if image.format == "GIF":
            stored += 4
        read = 2 * size if image.format in ("BMP", "DIB", "TIFF") else size
        return Header(str(image.format), width, height, read + (stored + 3) * pixels + 24 * height)


_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 258


def _jpeg_bytes(image: PillowImage.Image) -> int:
    """Bytes for the pixels of a JPEG and a copy of them, or for the pixels and the coefficients of a progressive one."""
    pixels, kept = image.width * image.height, 3
    if image.info.get("progressive"):
        layers: list[tuple[int, int, int, int]] = getattr(image, "layer", [])
        most = max((h * v for _, h, v, _ in layers), default=1)
        kept = sum(-(-2 * h * v // most) for _, h, v, _ in layers)
    return pixels * (3 + max(3, kept))


def _webp_header(first: bytes, size: int) -> Header:
    """The size in the first chunk of a WebP file (RFC 9649)."""
    kind, body = first[12:16], first[20:]
    if kind == b"VP8X" and len(body) >= 10:
        width, height = (1 + int.from_bytes(body[at : at + 3], "little") for at in (4, 7))
    elif kind == b"VP8L" and body[:1] == b"/" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) >= 10:
        width, height = (value & 0x3FFF for value in struct.unpack("<HH", body[6:10]))
    else:
        raise ImageError("decode", "damaged WebP: its header cannot be read")
    return Header("WEBP", width, height, 2 * size + _WEBP_BYTES * width * height)


_WEBP_BYTES, _AVIF_BYTES = 17, 14
"""Measured, for a pixel."""


def _avif_header(first: bytes, size: int) -> Header:
    """The largest size that an AVIF file gives one of its pictures (ISO/IEC 23008-12, ``ispe``)."""
    sizes = [struct.unpack(">II", found[1]) for found in re.finditer(rb"ispe\0\0\0\0(.{8})", first, re.DOTALL)]
    if not sizes:
        raise ImageError("decode", "damaged AVIF: its header cannot be read")
    width, height = max(sizes, key=lambda pair: pair[0] * pair[1])
    coded = sequence_size(first)
    pictures = max(1, first.count(b"infe"))  # a grid is put together from several
    if coded is not None and width * height > coded[0] * coded[1] * pictures:
        raise ImageError("decode", f"damaged AVIF: it claims {width} x {height} pixels and holds {coded[0]} x {coded[1]}")
    return Header("AVIF", width, height, 2 * size + _AVIF_BYTES * width * height)


def _check_plausible(header: Header, first: bytes, size: int) -> None:
    """Raise ImageError where no encoder could pack so many pixels into ``size`` bytes."""
    needed = 0
    if header.format == "GIF":
        needed = header.pixels // _LZW
    elif header.format == "PNG" and first[12:16] == b"IHDR":
        line = -(-header.width * first[24] * _PNG_CHANNELS.get(first[25], 1) // 8)
        needed = header.height * (1 + line) // _DEFLATED
    if size < needed:
        raise ImageError("decode", f"damaged {header.format}: {size:,} bytes cannot hold {header.pixels:,} pixels")
