"""Bytes -> RGB pixels, or a Failure that says why not.

The order of the checks comes from measurements on thousands of odd and mutated files: nothing but a regular file is opened,
the header and the number of pixels are checked before anything is decoded, a JPEG must have its end, and no path is ever
given to OpenCV. JPEG is decoded by OpenCV, everything else by Pillow.
"""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import re
import stat
import time

import cv2
import numpy as np
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from camcli.errors import ImageError
from camcli.records import Failure, Image, Source, Stamp, stamp_of
from camcli.stages import Stages

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF")
"""Pillow's names of the formats that are decoded; whatever else a file holds is refused."""

MAX_BYTES = 1 << 30
"""Larger files are refused unread."""

MAX_SCANS = 200
"""A progressive JPEG with more scans costs seconds and is made to harm: real encoders write about ten."""

YOUNG_NS = 2_000_000_000
"""A file written so shortly before it was read may change again within the same tick of its file system's clock (2 s on FAT)."""

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_ARITHMETIC_FRAME = re.compile(rb"\xff[\xc9-\xcb\xcd-\xcf]")
_MOST_PIXELS_A_BYTE = 8 * 64
"""A Huffman code is at least one bit long, and a block of 8 x 8 pixels has at least one (ISO/IEC 10918-1, annexes C and F)."""

_WIDE_MODES = frozenset({"I", "F"})
_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""Pillow's names of PNG greys of fewer than 8 bits, and what it multiplies their samples by."""

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262

logging.getLogger("PIL").addHandler(logging.NullHandler())  # without any, its words on damaged files go to the terminal
PillowImage.init()
_AVAILABLE = tuple(name for name in FORMATS if name in PillowImage.OPEN)  # AVIF is an optional part of Pillow


def decode_image(source: Source, max_pixels: int, stages: Stages | None = None, *, hashed: bool = False) -> Image | Failure:
    """The image in ``source``, (H, W, 3) uint8 RGB, upright; a Failure with stage ``read`` or ``decode`` otherwise.

    16-bit samples keep their upper 8 bits, transparency is laid over white, of an animation the first frame counts.
    ``max_pixels`` bounds width x height and is checked before decoding. ``stages`` is told of the time. ``hashed`` puts the SHA-256
    of the file into the stamp. Raises nothing for any file.
    """
    stamp: Stamp | None = None
    stages = stages or Stages()
    try:
        with stages.work("read"):
            data, stamp = read_file(source.path, hashed=hashed)
        with stages.work("decode"):
            return Image(decode_bytes(data, max_pixels), stamp)
    except ImageError as error:
        return Failure(source.image, error.stage, str(error), stamp or stamp_of(source.path))
    except MemoryError:  # no stamp: the next run tries again
        return Failure(source.image, "decode", "not enough memory to decode it")


def read_file(path: str, *, hashed: bool = False) -> tuple[bytes, Stamp]:
    """The file's bytes and their stamp, with their SHA-256 when ``hashed`` or when they are younger than YOUNG_NS.

    Raises ImageError (stage ``read``) for anything but a readable regular file, and (stage ``decode``) for one of more than
    MAX_BYTES.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        raise ImageError("read", _os_reason(error)) from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            unlisted = ", which could not be listed" if stat.S_ISDIR(status.st_mode) else ""
            raise ImageError("read", f"not a regular file but a {_kind(status.st_mode)}{unlisted}")
        if status.st_size == 0:
            raise ImageError("read", "the file is empty")
        if status.st_size > MAX_BYTES:
            raise ImageError("decode", f"{status.st_size:,} bytes: more than {MAX_BYTES:,} are not read")
        with os.fdopen(os.dup(handle), "rb") as file:
            data = file.read(status.st_size)
    except OSError as error:
        raise ImageError("read", _os_reason(error)) from error
    finally:
        os.close(handle)
    if not data:
        raise ImageError("read", "the file is empty")
    young = time.time_ns() - status.st_mtime_ns < YOUNG_NS
    digest = hashlib.sha256(data).hexdigest() if hashed or young else ""
    return data, Stamp(status.st_size, status.st_mtime_ns, digest)


def decode_bytes(data: bytes, max_pixels: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB from the bytes of an image file. Raises ImageError (stage ``decode``), and MemoryError."""
    try:
        return _decode(data, max_pixels)
    except UnidentifiedImageError as error:
        raise ImageError("decode", _foreign_reason(data)) from error
    except PillowImage.DecompressionBombError as error:
        raise ImageError("decode", f"too many pixels: more than --max-pixels {max_pixels:,}") from error
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise almost anything for a damaged file; the reason goes into its row
        raise ImageError("decode", f"damaged or unsupported: {error}") from error


def _decode(data: bytes, max_pixels: int) -> np.ndarray:
    with PillowImage.open(io.BytesIO(data), formats=_AVAILABLE) as header:
        width, height = header.size
        if width < 1 or height < 1:
            raise ImageError("decode", f"no pixels: {width} x {height}")
        if width * height > max_pixels:
            raise ImageError("decode", f"{width} x {height} pixels: more than --max-pixels {max_pixels:,}")
        if header.format in ("JPEG", "MPO"):  # MPO: a JPEG with further pictures behind it, as phones write it
            return _decode_jpeg(data, width * height)
        return _decode_with_pillow(header)


def _decode_jpeg(data: bytes, pixels_claimed: int) -> np.ndarray:
    check_jpeg_end(data)
    if pixels_claimed > _MOST_PIXELS_A_BYTE * len(data) and not _ARITHMETIC_FRAME.search(data):
        raise ImageError("decode", f"damaged JPEG: {len(data):,} bytes cannot hold {pixels_claimed:,} pixels")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        raise ImageError("decode", f"damaged JPEG: {error.err or error}") from error
    if pixels is None:
        raise ImageError("decode", "damaged JPEG: its image data cannot be decoded")
    return np.asarray(pixels, dtype=np.uint8)


def check_jpeg_end(data: bytes) -> None:
    """Raise ImageError unless the main image of a JPEG runs to its end-of-image marker (ISO/IEC 10918-1, annex B).

    Walks from segment to segment, so that a thumbnail's own end marker inside a segment is not taken for the image's.
    """
    position, scans = 2, 0
    while True:
        found = _MARKER.search(data, position)
        if found is None:
            break
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
            if scans > MAX_SCANS:
                raise ImageError("decode", f"a JPEG of more than {MAX_SCANS} scans is not decoded")
    if scans == 0:
        raise ImageError("decode", "truncated JPEG: it ends before any image data")
    filled = len(data.rstrip(b"\0"))
    if filled < len(data):  # as an interrupted copy leaves it, which had reserved its room
        share = f"{filled / len(data):.0%}".replace("%", " %")
        raise ImageError("decode", f"truncated JPEG: no end-of-image marker; after {share} of the file come only zeros")
    raise ImageError("decode", f"truncated JPEG: no end-of-image marker in its {len(data):,} bytes")


def _decode_with_pillow(image: PillowImage.Image) -> np.ndarray:
    spread = _GREY_STEPS.get(str(tile[0][3]), 1) if (tile := getattr(image, "tile", None)) else 1
    image.load()
    if spread > 1 and "transparency" in image.info:  # Pillow spreads the samples over 0..255, but not this one
        image.info["transparency"] *= spread
    tags = getattr(image, "tag_v2", {})
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata is no reason to refuse the pixels; without it the image stands as stored
        upright = image
    if upright.mode.startswith("I;16"):
        return _upper_bits(upright, tags.get(_BITS_PER_SAMPLE, (16,))[0], inverted=tags.get(_PHOTOMETRIC) == 0)
    return np.asarray(_to_rgb(upright), dtype=np.uint8)


def _upper_bits(image: PillowImage.Image, bits: int, *, inverted: bool) -> np.ndarray:
    """(H, W, 3) from 16-bit grey, shifted down: Pillow's own conversion would clip it to white.

    ``bits``, ``inverted``: of a TIFF, Pillow leaves 12-bit samples in the lower bits, and white at zero where it was.
    """
    samples = np.asarray(image, dtype=np.uint16)
    values = (samples >> (bits - 8)).astype(np.uint8)
    if inverted:
        values = 255 - values
    values[samples == image.info.get("transparency", -1)] = 255
    return np.repeat(values[..., None], 3, axis=2)


def _to_rgb(image: PillowImage.Image) -> PillowImage.Image:
    """8-bit RGB, transparency over white."""
    if image.mode in _WIDE_MODES:
        raise ImageError("decode", f"samples of mode {image.mode!r} (32 bits) have no defined black and white")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image if image.mode == "RGBA" else image.convert("RGBA")
        white = PillowImage.new("RGB", layered.size, (255, 255, 255))
        white.paste(layered, mask=layered)  # half the memory of alpha_composite
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _foreign_reason(data: bytes) -> str:
    if data[:2] == b"\xff\xd8":
        return "truncated JPEG: it ends before any image data"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "damaged PNG: its header cannot be read"
    if data[:5] == b"%PDF-":
        return "not an image but a PDF"
    if data[:1] == b"<":
        return "not an image but markup text (SVG, HTML or XML)"
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return "a HEIC photo, which is not supported: convert it to JPEG first"
    start = data[:1024].decode("utf-8", "replace").rstrip("\ufffd")  # a character may be cut at the end
    if "\ufffd" not in start and all(char.isprintable() or char.isspace() for char in start):
        return "not an image: it looks like text"
    return f"not a supported image ({', '.join(name for name in FORMATS if name != 'DIB')})"


def _os_reason(error: Exception) -> str:
    if getattr(error, "errno", None) == errno.ENXIO:  # what open says of a socket, and of a device without a driver
        return "not a regular file but a socket or a device"
    reason = getattr(error, "strerror", None) or str(error)
    return reason[:1].lower() + reason[1:]


def _kind(mode: int) -> str:
    for test, word in (
        (stat.S_ISDIR, "folder"),
        (stat.S_ISFIFO, "FIFO"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISCHR, "character device"),
        (stat.S_ISBLK, "block device"),
    ):
        if test(mode):
            return word
    return "special file"
