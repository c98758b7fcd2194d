"""Bytes -> RGB pixels, or a Failure that says why not.

The order of the checks comes from measurements on thousands of odd and mutated files: nothing but a regular file is opened,
the header and the number of pixels are checked before anything is decoded, a JPEG must have its end, and no path is ever
given to OpenCV. JPEG is decoded by OpenCV, everything else by Pillow.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from typing import BinaryIO, TypeVar

import cv2
import numpy as np
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from camcli.errors import ImageError
from camcli.images.header import FORMATS, MAX_HEADER, Header, read_header
from camcli.images.jpeg import check_jpeg
from camcli.records import Failure, Image, Source, Stamp, stamp_of
from camcli.resources import allocations_can_fail, available_memory, release_memory
from camcli.timing import StageTimer

MAX_BYTES = 1 << 30
"""Larger files are refused unread."""

YOUNG_NS = 2_000_000_000
"""A file written so shortly before it was read may change again within the same tick of its file system's clock (2 s on FAT)."""

_WIDE_MODES = frozenset({"I", "F"})
_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""Pillow's names of PNG greys of fewer than 8 bits, and what it multiplies their samples by."""

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262

logging.getLogger("PIL").addHandler(logging.NullHandler())  # without any, its words on damaged files go to the terminal

_SMALL = 16 << 20
"""Bytes below which nobody asks how much memory there is."""

_TO_SPARE = 256 << 20
"""Bytes of memory with which a file that cannot be decoded is damaged."""

_ALONE = threading.Lock()

_BAND = 1 << 20
"""Pixels that are brought into RGB at a time: a large picture is never held twice in full for it."""


Admit = Callable[[Header], None]
"""Told what a file holds before it is read as a whole: returns when there is memory to decode it. Raises ImageError."""


def check_memory(header: Header) -> None:
    """Raise ImageError (stage ``memory``) where there is less memory than decoding takes. Small pictures are not looked at."""
    if header.decoding < _SMALL:
        return
    if header.decoding > available_memory():
        release_memory()
        if header.decoding > (free := available_memory()):
            raise ImageError("memory", memory_words(header, header.decoding, free))


def memory_words(header: Header, needed: int, free: int) -> str:
    """How much memory an image needs, and how much there is."""
    size = f"{header.width:,} x {header.height:,} pixels"
    return f"{size} need about {needed / 1e6:,.0f} MB of memory, and {free / 1e6:,.0f} MB are free; the next run tries again"


def decode_image(
    source: Source, max_pixels: int, stages: StageTimer | None = None, *, hashed: bool = False, admit: Admit = check_memory
) -> Image | Failure:
    """The image in ``source``, (H, W, 3) uint8 RGB, upright; a Failure with stage ``read``, ``decode`` or ``memory`` otherwise.

    16-bit samples keep their upper 8 bits, transparency is laid over white, of an animation the first frame counts.
    ``max_pixels`` bounds width x height and is checked before decoding. ``stages`` is told of the time. ``hashed`` puts the SHA-256
    of the file into the stamp. ``admit`` is asked before the file is read beyond its header. A Failure for lack of memory has no
    stamp, so that the next run tries again. Raises nothing for any file.
    """
    stamp: Stamp | None = None
    stages = stages or StageTimer()
    try:
        with stages.work("read"):
            data, stamp = read_file(source.path, max_pixels=max_pixels, hashed=hashed, admit=admit)
        if isinstance(data, ImageError):
            raise data
        with stages.work("decode"):
            return Image(decode_bytes(data, max_pixels), stamp)
    except ImageError as error:
        lacking = error.stage == "memory"
        return Failure(source.image, error.stage, str(error), None if lacking else stamp or stamp_of(source.path))
    except MemoryError:
        return Failure(source.image, "memory", NOT_ENOUGH)
    except OSError as error:
        return Failure(source.image, "read", _os_reason(error), stamp)


NOT_ENOUGH = "not enough memory; the next run tries again"


def read_file(path: str, *, max_pixels: int, hashed: bool = False, admit: Admit = check_memory) -> tuple[bytes | ImageError, Stamp]:
    """The file's bytes and their stamp, with their SHA-256 when ``hashed`` or when they are younger than YOUNG_NS.

    Where its first bytes tell that it is refused, the reason stands in the place of the bytes, and the rest is not kept. Raises
    ImageError (stage ``read``) for anything but a readable regular file, (stage ``decode``) for one of more than MAX_BYTES, and
    what ``admit`` raises.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        raise ImageError("read", _os_reason(error)) from error
    try:
        status = os.fstat(handle)
        _check_regular(status)
        with os.fdopen(os.dup(handle), "rb") as file:
            header = _header_or_reason(file, status.st_size, max_pixels)
            if isinstance(header, Header):
                admit(header)
            file.seek(0)
            young = time.time_ns() - status.st_mtime_ns < YOUNG_NS
            data, digest = _contents(file, header, status.st_size, hashed=hashed or young)
    except OSError as error:
        raise ImageError("read", _os_reason(error)) from error
    finally:
        os.close(handle)
    return data, Stamp(status.st_size, status.st_mtime_ns, digest)


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        unlisted = ", which could not be listed" if stat.S_ISDIR(status.st_mode) else ""
        raise ImageError("read", f"not a regular file but a {_kind(status.st_mode)}{unlisted}")
    if status.st_size == 0:
        raise ImageError("read", "the file is empty")
    if status.st_size > MAX_BYTES:
        raise ImageError("decode", f"{status.st_size:,} bytes: more than {MAX_BYTES:,} are not read")


def _header_or_reason(file: BinaryIO, size: int, max_pixels: int) -> Header | ImageError:
    """What the first bytes of an open file say of its picture, or why it is refused."""
    first = file.read(1024)
    file.seek(0)
    try:
        return _explained(lambda: read_header(file, size, max_pixels), first, max_pixels)
    except ImageError as error:
        return error
    except MemoryError:
        return ImageError("memory", NOT_ENOUGH)


def _contents(file: BinaryIO, header: Header | ImageError, size: int, *, hashed: bool) -> tuple[bytes | ImageError, str]:
    """The file's bytes, or the reason why it is refused, and its SHA-256 where that is wanted.

    Of formats whose first picture comes first no more is kept than it can fill; of a refused file, nothing.
    """
    kept: bytes | ImageError = header if isinstance(header, ImageError) else b""
    digest = hashlib.sha256()
    if isinstance(header, Header):
        most = MAX_HEADER + 8 * header.pixels if header.format in ("JPEG", "PNG", "BMP", "DIB") else size
        kept = file.read(min(size, most))
        if not kept:
            raise ImageError("read", "the file is empty")
        if hashed:
            digest.update(kept)
    hashed = hashed and (isinstance(header, Header) or size <= MAX_HEADER)
    while hashed and (more := file.read(1 << 20)):
        digest.update(more)
    return kept, digest.hexdigest() if hashed else ""


def decode_bytes(data: bytes, max_pixels: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB from the bytes of an image file. Raises ImageError (stage ``decode``), and MemoryError.

    Where allocations can fail, decoders call that damage. So what fails there is tried again, alone, and is damaged if it fails
    with memory to spare.
    """
    header = _header_or_reason(io.BytesIO(data), len(data), max_pixels)
    if isinstance(header, ImageError):
        raise header
    try:
        return _explained(lambda: _decode(header, data), data[:1024], max_pixels)
    except ImageError:
        if not allocations_can_fail():
            raise
    with _ALONE:
        release_memory()
        try:
            return _explained(lambda: _decode(header, data), data[:1024], max_pixels)
        except ImageError as error:
            if header.decoding + _TO_SPARE > available_memory():
                raise MemoryError from error
            raise


_T = TypeVar("_T")


def _explained(work: Callable[[], _T], first: bytes, max_pixels: int) -> _T:
    """What ``work`` gives on a file that begins with ``first``; whatever it raises becomes an ImageError.

    But for lack of memory, and for what the system says of the file (an OSError with a number): that is no damage.
    """
    try:
        return work()
    except UnidentifiedImageError as error:
        raise ImageError("decode", _foreign_reason(first)) from error
    except PillowImage.DecompressionBombError as error:
        raise ImageError("decode", f"too many pixels: more than --max-pixels {max_pixels:,}") from error
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise almost anything for a damaged file; the reason goes into its row
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ImageError("decode", f"damaged or unsupported: {error}") from error


def _decode(header: Header, data: bytes) -> np.ndarray:
    if header.format == "JPEG":  # MPO as well: a JPEG with further pictures behind it, as phones write it
        return _decode_jpeg(data, header.pixels)
    with PillowImage.open(io.BytesIO(data), formats=[header.format]) as image:
        if image.width * image.height > header.pixels:
            raise ImageError(
                "decode", f"damaged: it claims {header.width} x {header.height} and {image.width} x {image.height} pixels"
            )
        return _decode_with_pillow(image)


def _decode_jpeg(data: bytes, pixels_claimed: int) -> np.ndarray:
    check_jpeg(data, pixels_claimed)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        raise ImageError("decode", f"damaged JPEG: {error.err or error}") from error
    if pixels is None:
        raise ImageError("decode", "damaged JPEG: its image data cannot be decoded")
    return np.asarray(pixels, dtype=np.uint8)


def _decode_with_pillow(image: PillowImage.Image) -> np.ndarray:
    spread = _GREY_STEPS.get(str(tile[0][3]), 1) if (tile := getattr(image, "tile", None)) else 1
    image.load()
    if spread > 1 and "transparency" in image.info:  # Pillow spreads the samples over 0..255, but not this one
        image.info["transparency"] *= spread
    tags = getattr(image, "tag_v2", {})
    with contextlib.suppress(Exception):  # damaged metadata is no reason to refuse the pixels; without it they stand as stored
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode in _WIDE_MODES:
        raise ImageError("decode", f"samples of mode {image.mode!r} (32 bits) have no defined black and white")
    bits, inverted = tags.get(_BITS_PER_SAMPLE, (16,))[0], tags.get(_PHOTOMETRIC) == 0
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        wide = band.mode.startswith("I;16")
        pixels[top : top + rows] = _upper_bits(band, bits, inverted=inverted) if wide else np.asarray(_to_rgb(band))
    return pixels


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
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image if image.mode == "RGBA" else image.convert("RGBA")
        white = PillowImage.new("RGB", layered.size, (255, 255, 255))
        white.paste(layered, mask=layered)  # half the memory of alpha_composite
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def decode_opened(image: PillowImage.Image, max_pixels: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image that Pillow has opened or made, as from its file; the image stays as it is.

    Raises ImageError (stage ``decode``), and MemoryError.
    """
    if image.width < 1 or image.height < 1:
        raise ImageError("decode", f"no pixels: {image.width} x {image.height}")
    if image.width * image.height > max_pixels:
        raise ImageError("decode", f"{image.width} x {image.height} pixels: more than --max-pixels {max_pixels:,}")
    try:
        return _decode_with_pillow(image.copy())
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise almost anything for a damaged file
        raise ImageError("decode", f"damaged or unsupported: {error}") from error


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
