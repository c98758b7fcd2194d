"""Header of an image file -> format, size, and the memory that decoding needs. Nothing is decoded here.

Pillow reads the header through a reader with a limited number of bytes. WebP and AVIF headers are parsed here, because Pillow would
decode or read the whole file to open it. A file that is too small for the pixels in its header is refused, and so is an image with
millions of rows. The memory for decoding is estimated from format, size and mode, before the file is read.
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
"""Pillow's names of the supported formats; all others are refused."""

MAX_SIDE = 1_000_000
"""Maximum width and height in pixels. Pillow keeps a pointer per row: 178 million rows of one pixel need 6 GB and half a minute."""

MAX_HEADER = 32 << 20
"""Maximum number of bytes read to find the image size; colour profiles and camera data may come first."""

_MOST_READS = 100_000
"""Maximum number of reads for the header. Pillow skips invalid data byte by byte, which could take minutes."""

_HEAD = 1 << 16
"""Number of bytes that contain the size in WebP and AVIF files."""

_DEFLATED, _LZW = 1032, 4096 * 8 // 12
"""Maximum compression ratios. Deflate: 258 bytes in two bits. LZW in GIF: 4096 pixels in a code of 12 bits."""

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2}
"""Bytes per pixel in Pillow's memory by mode; all other modes take 4."""

PillowImage.init()
AVAILABLE = tuple(name for name in FORMATS if name in PillowImage.OPEN)
"""The formats that this build of Pillow reads; AVIF is optional."""


@dataclass(frozen=True, slots=True)
class Header:
    """The header of an image file. ``format``: Pillow's name. ``decoding``: peak memory for decoding in bytes, including the file
    and the result.
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
    """The formats that a file with these ``first`` bytes can have; empty if it is not an image."""
    return [name for name in AVAILABLE if (accept := PillowImage.OPEN[name][1]) is None or accept(first[:16].ljust(16, b"\0"))]


def read_header(file: BinaryIO, size: int, max_pixels: int) -> Header:
    """The header of the image in ``file``, which has ``size`` bytes and is at position 0.

    Raises UnidentifiedImageError if it is not an image, ImageError (stage ``decode``) for a refused size, and any exception of
    Pillow for a damaged file.
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
    """A file that allows MAX_HEADER bytes in _MOST_READS reads; after that it raises ImageError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._bytes, self._reads = file, MAX_HEADER, _MOST_READS

    def read(self, size: int = -1) -> bytes:
        self._reads -= 1
        data = self._file.read(self._bytes + 1 if size < 0 else min(size, self._bytes + 1))
        self._bytes -= len(data)
        if self._bytes < 0 or self._reads < 0:
            raise ImageError("decode", "damaged: no image size in its first bytes")
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
        if "exif" in image.info:  # it may need rotation, which copies the pixels; Pillow would have to decode a PNG to know
            stored *= 2
        if image.format == "TIFF":
            tags = getattr(image, "tag_v2", {})
            bits = tags.get(_BITS_PER_SAMPLE, (8,))
            if tags.get(_ORIENTATION, 1) != 1:
                stored *= 2
            stored += -(-sum(bits[:8]) // 8)  # one strip can contain the whole image
        if image.format == "GIF":
            stored += 4
        read = 2 * size if image.format in ("BMP", "DIB", "TIFF") else size
        return Header(str(image.format), width, height, read + (stored + 3) * pixels + 24 * height)


_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 258


def _jpeg_bytes(image: PillowImage.Image) -> int:
    """Memory for a JPEG in bytes: the pixels and a copy of them, or for a progressive JPEG the pixels and the coefficients."""
    pixels, kept = image.width * image.height, 3
    if image.info.get("progressive"):
        layers: list[tuple[int, int, int, int]] = getattr(image, "layer", [])
        most = max((h * v for _, h, v, _ in layers), default=1)
        kept = sum(-(-2 * h * v // most) for _, h, v, _ in layers)
    return pixels * (3 + max(3, kept))


def _webp_header(first: bytes, size: int) -> Header:
    """The header of a WebP file, from its first chunk (RFC 9649)."""
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
"""Measured peak memory in bytes per pixel."""


def _avif_header(first: bytes, size: int) -> Header:
    """The header of an AVIF file, with the largest size among its images (ISO/IEC 23008-12, ``ispe``)."""
    sizes = [struct.unpack(">II", found[1]) for found in re.finditer(rb"ispe\0\0\0\0(.{8})", first, re.DOTALL)]
    if not sizes:
        raise ImageError("decode", "damaged AVIF: its header cannot be read")
    width, height = max(sizes, key=lambda pair: pair[0] * pair[1])
    coded = sequence_size(first)
    pictures = max(1, first.count(b"infe"))  # a grid consists of several images
    if coded is not None and width * height > coded[0] * coded[1] * pictures:
        raise ImageError("decode", f"damaged AVIF: its header says {width} x {height} pixels, its data {coded[0]} x {coded[1]}")
    return Header("AVIF", width, height, 2 * size + _AVIF_BYTES * width * height)


def _check_plausible(header: Header, first: bytes, size: int) -> None:
    """Raise ImageError if ``size`` bytes are too few for the pixels in the header, even at the maximum compression."""
    needed = 0
    if header.format == "GIF":
        needed = header.pixels // _LZW
    elif header.format == "PNG" and first[12:16] == b"IHDR":
        line = -(-header.width * first[24] * _PNG_CHANNELS.get(first[25], 1) // 8)
        needed = header.height * (1 + line) // _DEFLATED
    if size < needed:
        raise ImageError("decode", f"damaged {header.format}: {size:,} bytes cannot hold {header.pixels:,} pixels")
