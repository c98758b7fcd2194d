"""Image file -> RGB pixels, or a Failure with the reason.

The order of the checks comes from measurements on thousands of unusual and damaged files. Only regular files are opened, the header
and the number of pixels are checked before anything is decoded, a JPEG must be complete, and OpenCV never gets a path. OpenCV
decodes JPEG, Pillow all other formats.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import BinaryIO, TypeVar

import cv2
import numpy as np
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from camcli.errors import ImageError
from camcli.images.header import FORMATS, MAX_HEADER, Header, read_header
from camcli.images.jpeg import check_jpeg
from camcli.records import Failure, Image, Stamp
from camcli.resources import allocations_can_fail, available_memory, release_memory
from camcli.source import Source, os_reason
from camcli.timing import StageTimer

_AT_ONCE = 1 << 20
"""Files up to this size in bytes are read before their header is looked at: that takes one system call instead of forty."""

YOUNG_NS = 2_000_000_000
"""A file younger than this is hashed: it may change again without a new modification time (FAT has a resolution of 2 s)."""

_WIDE_MODES = frozenset({"I", "F"})
_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""Pillow's modes for grey PNGs with 2 or 4 bits, and the factor by which it multiplies their samples."""

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262

logging.getLogger("PIL").addHandler(logging.NullHandler())  # without a handler its messages go to the terminal

_SMALL = 16 << 20
"""Images that need less memory than this to decode are not checked, in bytes."""

_TO_SPARE = 256 << 20
"""If decoding fails with this much memory to spare, in bytes, the file is damaged."""

_ALONE = threading.Lock()

_BAND = 1 << 20
"""Number of pixels that are converted to RGB at a time, so that a large image is never in memory twice."""


Admit = Callable[[Header], None]
"""Function that is called with the header before the file is read, and returns when there is memory. Raises ImageError."""


def check_memory(header: Header) -> None:
    """Raise ImageError (stage ``memory``) if decoding needs more memory than is free. Small images are not checked."""
    if header.decoding < _SMALL:
        return
    if header.decoding > available_memory():
        release_memory()
        if header.decoding > (free := available_memory()):
            raise ImageError("memory", memory_words(header, header.decoding, free))


def memory_words(header: Header, needed: int, free: int) -> str:
    """The message that an image needs more memory than is free, in MB."""
    size = f"{header.width:,} x {header.height:,} pixels"
    return f"{size} need about {needed / 1e6:,.0f} MB of memory, and {free / 1e6:,.0f} MB are free; the next run tries again"


def decode_image(
    source: Source, max_pixels: int, timer: StageTimer | None = None, *, hashed: bool = False, admit: Admit = check_memory
) -> Image | Failure:
    """The image in ``source``, (H, W, 3) uint8 RGB, upright, or a Failure with stage ``read``, ``decode`` or ``memory``.

    16-bit samples keep their upper 8 bits, transparent pixels are blended with white, and animations give their first frame.
    ``max_pixels``: maximum of width x height, checked before decoding. ``timer``: measures the stages ``read`` and ``decode``.
    ``hashed``: put the SHA-256 of the file into the stamp. ``admit``: called before the file is read beyond its header. A Failure
    from lack of memory has no stamp, so that the next run tries the image again. No file makes this function raise.
    """
    stamp: Stamp | None = None
    timer = timer or StageTimer()
    try:
        with timer.work("read"):
            data, stamp, header = read_source(source, max_pixels=max_pixels, hashed=hashed, admit=admit)
        if isinstance(data, ImageError):
            raise data
        with timer.work("decode"):
            return Image(decode_bytes(data, max_pixels, header), stamp)
    except ImageError as error:
        lacking = error.stage == "memory"
        return Failure(source.image, error.stage, str(error), None if lacking else stamp or source.stamp())
    except MemoryError:
        return Failure(source.image, "memory", NOT_ENOUGH)
    except OSError as error:
        return Failure(source.image, "read", os_reason(error), stamp)


NOT_ENOUGH = "out of memory; the next run tries again"


def read_source(
    source: Source, *, max_pixels: int, hashed: bool = False, admit: Admit = check_memory
) -> tuple[bytes | ImageError, Stamp, Header | None]:
    """The bytes of a source, its stamp, and the header of exactly these bytes if it is known.

    The stamp has a SHA-256 if ``hashed`` is set or the source is younger than YOUNG_NS.
    If the header shows that the image is refused, the reason is returned instead of the bytes. Raises ImageError, as
    ``source.open`` and ``admit``.
    """
    try:
        with source.open() as contents:
            size, stamp = contents.size, contents.stamp
            small = size <= _AT_ONCE
            opened: BinaryIO = io.BytesIO(contents.file.read(size)) if small else contents.file
            header = _header_or_reason(opened, size, max_pixels)
            if isinstance(header, Header):
                admit(header)
            opened.seek(0)
            young = time.time_ns() - stamp.mtime_ns < YOUNG_NS
            data, digest = _contents(opened, header, size, hashed=hashed or young)
    except OSError as error:
        raise ImageError("read", os_reason(error)) from error
    known = header if small and isinstance(header, Header) and isinstance(data, bytes) and len(data) == size else None
    return data, replace(stamp, sha256=digest) if digest else stamp, known


def _header_or_reason(file: BinaryIO, size: int, max_pixels: int) -> Header | ImageError:
    """The header of the image in an open file, or the reason why the image is refused."""
    first = file.read(1024)
    file.seek(0)
    try:
        return _as_image_errors(lambda: read_header(file, size, max_pixels), first, max_pixels)
    except ImageError as error:
        return error
    except MemoryError:
        return ImageError("memory", NOT_ENOUGH)


def _contents(file: BinaryIO, header: Header | ImageError, size: int, *, hashed: bool) -> tuple[bytes | ImageError, str]:
    """The bytes of a file, or the reason why it is refused, and its SHA-256 if ``hashed`` is set, otherwise an empty text.

    For formats that begin with their first image, no more bytes are kept than that image can have.
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


def decode_bytes(data: bytes, max_pixels: int, header: Header | None = None) -> np.ndarray:
    """The pixels (H, W, 3) uint8 RGB of an image file given as bytes. Raises ImageError (stage ``decode``) and MemoryError.

    ``header``: that of these very bytes, if it is known.
    Decoders report a failed allocation as damage. Therefore, where allocations can fail, a failed image is decoded once more while
    no other thread does so; it counts as damaged only if it fails again with memory to spare.
    """
    found = header or _header_or_reason(io.BytesIO(data), len(data), max_pixels)
    if isinstance(found, ImageError):
        raise found
    try:
        return _as_image_errors(lambda: _decode(found, data), data[:1024], max_pixels)
    except ImageError:
        if not allocations_can_fail():
            raise
    with _ALONE:
        release_memory()
        try:
            return _as_image_errors(lambda: _decode(found, data), data[:1024], max_pixels)
        except ImageError as error:
            if found.decoding + _TO_SPARE > available_memory():
                raise MemoryError from error
            raise


_T = TypeVar("_T")


def _as_image_errors(work: Callable[[], _T], first: bytes, max_pixels: int) -> _T:
    """The result of ``work`` on a file that begins with ``first``. All its exceptions become an ImageError, with two exceptions.

    MemoryError and an OSError with an error number are raised as they are, because they do not mean damage.
    """
    try:
        return work()
    except UnidentifiedImageError as error:
        raise ImageError("decode", _foreign_reason(first)) from error
    except PillowImage.DecompressionBombError as error:
        raise ImageError("decode", f"too many pixels: more than --max-pixels {max_pixels:,}") from error
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise almost any exception for a damaged file
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ImageError("decode", f"damaged or unsupported: {error}") from error


def _decode(header: Header, data: bytes) -> np.ndarray:
    if header.format == "JPEG":  # also MPO, a JPEG with more images behind it, as phones write it
        return _decode_jpeg(data, header.pixels)
    with PillowImage.open(io.BytesIO(data), formats=[header.format]) as image:
        if image.width * image.height > header.pixels:
            raise ImageError(
                "decode", f"damaged: two sizes, {header.width} x {header.height} and {image.width} x {image.height} pixels"
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
    if spread > 1 and "transparency" in image.info:  # Pillow scales the samples to 0..255, but not this value
        image.info["transparency"] *= spread
    tags = getattr(image, "tag_v2", {})
    with contextlib.suppress(Exception):  # damaged metadata: use the pixels as they are stored
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
    """(H, W, 3) uint8 from the upper 8 bits of 16-bit grey. Pillow's own conversion would clip the values to white.

    ``bits``: bits per sample; Pillow keeps 12-bit samples of a TIFF in the lower bits. ``inverted``: zero is white.
    """
    samples = np.asarray(image, dtype=np.uint16)
    values = (samples >> (bits - 8)).astype(np.uint8)
    if inverted:
        values = 255 - values
    values[samples == image.info.get("transparency", -1)] = 255
    return np.repeat(values[..., None], 3, axis=2)


def _to_rgb(image: PillowImage.Image) -> PillowImage.Image:
    """The image in 8-bit RGB, transparent pixels blended with white."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image if image.mode == "RGBA" else image.convert("RGBA")
        white = PillowImage.new("RGB", layered.size, (255, 255, 255))
        white.paste(layered, mask=layered)  # half the memory of alpha_composite
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def decode_opened(image: PillowImage.Image, max_pixels: int) -> np.ndarray:
    """The pixels (H, W, 3) uint8 RGB of a Pillow image, as decoding its file gives them; the image is not changed.

    Raises ImageError (stage ``decode``) and MemoryError.
    """
    if image.width < 1 or image.height < 1:
        raise ImageError("decode", f"no pixels: {image.width} x {image.height}")
    if image.width * image.height > max_pixels:
        raise ImageError("decode", f"{image.width} x {image.height} pixels: more than --max-pixels {max_pixels:,}")
    try:
        return _decode_with_pillow(image.copy())
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise almost any exception for a damaged file
        raise ImageError("decode", f"damaged or unsupported: {error}") from error


_ARCHIVES = {
    b"PK\3\4": "a zip archive: give it a name that ends in .zip",
    b"\x1f\x8b": "compressed with gzip: if it is an archive, give it a name that ends in .tar.gz",
    b"\x28\xb5\x2f\xfd": "an archive compressed with Zstandard, which is not supported: compress it with gzip",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive, which is not supported: convert it to zip",
    b"Rar!": "a rar archive, which is not supported: convert it to zip",
}
"""How archives begin that are read as images, and what to say."""


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
    for beginning, words in _ARCHIVES.items():
        if data.startswith(beginning):
            return f"not an image but {words}"
    start = data[:1024].decode("utf-8", "replace").rstrip("\ufffd")  # a character may be cut at the end
    if "\ufffd" not in start and all(char.isprintable() or char.isspace() for char in start):
        return "not an image: it looks like text"
    return f"not a supported image ({', '.join(name for name in FORMATS if name != 'DIB')})"
