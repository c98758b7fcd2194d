"""A corpus of image files, good, odd, broken and hostile, made by its own generators: the same bytes on every machine.

What a picture must look like is written down by hand from the formats' standards, never taken from the room under test.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage
from PIL import features

from tests.pictures import as_stored, encoded, noise, scene

ORIENTATION = 0x0112
HAS_AVIF = bool(features.check("avif"))

Chunk = tuple[bytes, bytes]


@dataclass(frozen=True)
class Case:
    """One file. ``make`` puts it at a path. ``expected``: ``explained``, or the stage that refuses it, or None for either.

    ``pixels``: (H, W, 3) uint8, upright, where known; each may differ by ``tolerance``. ``data``: its bytes, if it has any.
    ``walked``: a folder's walk finds it. ``bomb``: it claims or inflates to more than it is.
    """

    name: str
    make: Callable[[Path], None]
    expected: str | None
    pixels: np.ndarray | None = None
    tolerance: int = 0
    data: bytes | None = None
    walked: bool = True
    bomb: bool = False


@lru_cache
def corpus() -> tuple[Case, ...]:
    """Every case, in a fixed order."""
    return tuple(case for group in GROUPS for case in group())


def good(name: str, data: bytes, pixels: np.ndarray | None = None, tolerance: int = 0, *, bomb: bool = False) -> Case:
    """A file that must be explained, as ``pixels``."""
    return Case(name, partial(_write, data), "explained", pixels, tolerance, data, bomb=bomb)


def bad(name: str, data: bytes, stage: str | None = "decode", *, bomb: bool = False) -> Case:
    """A file that must be refused; with ``stage`` None, both outcomes are right."""
    return Case(name, partial(_write, data), stage, data=data, bomb=bomb)


def _write(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def picture(pixels: np.ndarray) -> PillowImage.Image:
    """A Pillow image of an array, of the mode that its shape says."""
    return PillowImage.fromarray(np.ascontiguousarray(pixels))


def smooth() -> np.ndarray:
    """(48, 64, 3) ramps: what subsampled colours can hold."""
    y, x = np.mgrid[:48, :64]
    return np.stack([30 + 3 * x, 20 + 4 * y, 200 - x - y], axis=-1).astype(np.uint8)


def grain() -> np.ndarray:
    """(48, 64, 3) noise: what compresses badly, so that a cut hits pixels."""
    return noise(3, (64, 48))


def grey(values: np.ndarray) -> np.ndarray:
    """(H, W) -> (H, W, 3)."""
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


def over_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H, W, 3) and (H, W) in 0..255 -> what is seen on white paper."""
    part = alpha[..., None] / 255
    return np.round(color * part + 255 * (1 - part)).astype(np.uint8)


def packed(values: np.ndarray, bits: int) -> bytes:
    """(H, W) samples as rows of ``bits`` each, the first in the highest bits, each row padded to whole bytes."""
    planes = (values[..., None].astype(np.uint32) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(planes.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def png_of(chunks: list[Chunk]) -> bytes:
    """A PNG of these chunks, with right checksums."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def png(size: tuple[int, int], depth: int, color: int, rows: bytes, *before: Chunk, interlace: int = 0) -> bytes:
    """A PNG of (width, height) whose unfiltered rows are ``rows``; ``before``: chunks ahead of the pixels."""
    if not interlace:
        stride = len(rows) // size[1]
        rows = b"".join(b"\0" + rows[start : start + stride] for start in range(0, len(rows), stride))
    head = struct.pack(">IIBBBBB", *size, depth, color, 0, 0, interlace)
    return png_of([(b"IHDR", head), *before, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


def tiff(
    size: tuple[int, int],
    bits: tuple[int, ...],
    samples: bytes,
    order: str = "<",
    without: tuple[int, ...] = (),
    **changed: tuple[str, tuple[int, ...]],
) -> bytes:
    """An uncompressed TIFF of one strip: header, samples, then the values too long for the directory, then that.

    ``changed``: further or other entries, as ``t258=("H", (8,))``; the key ``next`` is the offset of the next directory.
    ``without``: entries to leave out.
    """
    entries: dict[int, tuple[str, tuple[int, ...]]] = {
        256: ("I", (size[0],)),
        257: ("I", (size[1],)),
        258: ("H", bits),
        259: ("H", (1,)),
        262: ("H", (2 if len(bits) >= 3 else 1,)),
        273: ("I", (8,)),
        277: ("H", (len(bits),)),
        278: ("I", (size[1],)),
        279: ("I", (len(samples),)),
    }
    following = changed.pop("next", ("I", (0,)))[1][0]
    for tag in without:
        del entries[tag]
    entries |= {int(tag[1:]): entry for tag, entry in changed.items()}
    body = samples + b"\0" * (len(samples) % 2)
    directory = struct.pack(order + "H", len(entries))
    for tag, (kind, values) in sorted(entries.items()):
        raw = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(raw) > 4:
            raw, body = struct.pack(order + "I", 8 + len(body)), body + raw + b"\0" * (len(raw) % 2)
        directory += struct.pack(order + "HHI", tag, {"B": 1, "H": 3, "I": 4}[kind], len(values)) + raw.ljust(4, b"\0")
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(body))
    return header + body + directory + struct.pack(order + "I", following)


def bmp(size: tuple[int, int], bits: int, rows: bytes, palette: bytes = b"", compression: int = 0) -> bytes:
    """A BMP with a 40-byte header; rows as they lie in the file."""
    start = 54 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, compression, len(rows), 2835, 2835, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + palette + rows


def _segment(marker: bytes, body: bytes) -> bytes:
    """A segment of a JPEG."""
    return b"\xff" + marker + struct.pack(">H", 2 + len(body)) + body


def exif_of(orientation: int) -> bytes:
    """An EXIF block that says so and nothing else."""
    exif = PillowImage.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes()


def multi_picture(first: bytes, second: bytes) -> bytes:
    """Two JPEGs as phones join them: an index in the first one's APP2 (CIPA DC-007), the second behind."""
    at = 2
    while first[at : at + 2] in (b"\xff\xe0", b"\xff\xe1"):
        at += 2 + int.from_bytes(first[at + 2 : at + 4], "big")
    size = len(first) + 4 + 4 + 50 + 32
    index = b"II*\0\x08\0\0\0" + struct.pack("<H", 3)
    index += struct.pack("<HHI4s", 0xB000, 7, 4, b"0100") + struct.pack("<HHII", 0xB001, 4, 1, 2)
    index += struct.pack("<HHII", 0xB002, 7, 32, 50) + struct.pack("<I", 0)
    index += struct.pack("<IIIHH", 0x030000, size, 0, 0, 0) + struct.pack("<IIIHH", 0, len(second), size - at - 8, 0, 0)
    return first[:at] + _segment(b"\xe2", b"MPF\0" + index) + first[at:] + second


def zeros_deflated(megabytes: int) -> bytes:
    """A zlib stream of so many megabytes of zeros, of about a thousandth of that, made without compressing them all."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = squeeze.compress(bytes(1 << 20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    check = 1
    for _ in range(megabytes):
        check = zlib.adler32(bytes(1 << 20), check)
    return b"\x78\xda" + first * megabytes + b"\x03\x00" + struct.pack(">I", check)


def orientations() -> Iterator[Case]:
    """EXIF 1 to 8 in every format that carries it."""
    ways: list[tuple[str, str, int, dict[str, Any]]] = [
        ("JPEG", "jpg", 4, {"quality": 100, "subsampling": 0}),
        ("PNG", "png", 0, {}),
        ("WEBP", "webp", 0, {"lossless": True}),
        ("TIFF", "tif", 0, {}),
        ("TIFF", "lzw.tif", 0, {"compression": "tiff_lzw"}),
    ]
    if HAS_AVIF:
        ways.append(("AVIF", "avif", 8, {"quality": 100, "subsampling": "4:4:4"}))
    for turn in range(1, 9):
        stored = picture(as_stored(scene(), turn))
        for kind, ending, tolerance, options in ways:
            yield good(f"turned-{turn}.{ending}", encoded(stored, kind, exif=exif_of(turn), **options), scene(), tolerance)
        main = encoded(stored, "JPEG", exif=exif_of(turn), quality=100, subsampling=0)
        yield good(f"turned-{turn}.mpo.jpg", multi_picture(main, encoded(grain(), "JPEG")), scene(), 4)
        after = _segment(b"\xe1", b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>")
        yield good(f"turned-{turn}-after-xmp.jpg", main[:2] + after + main[2:], scene(), 4)
        little = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, ORIENTATION, 3, 1, turn, 0, 0)
        for form in ("baseline", "progressive"):
            options = {"quality": 100, "subsampling": 0, "progressive": form == "progressive"}
            yield good(f"turned-{turn}-little-{form}.jpg", encoded(stored, "JPEG", exif=little, **options), scene(), 4)
    for turn in (0, 9, 65535):
        yield good(f"turned-{turn}.jpg", encoded(scene(), "JPEG", exif=exif_of(turn), quality=100, subsampling=0), scene(), 4)


def sixteen_bits() -> Iterator[Case]:
    """Samples of more than 8 bits: the upper 8 count."""
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (4, 1))
    colors = np.stack([ramp, ramp[:, ::-1], np.roll(ramp, 64, axis=1)], axis=-1)
    seen, upper = grey(ramp >> 8), (colors >> 8).astype(np.uint8)
    opaque = np.full((4, 256, 1), 65535, np.uint16)
    yield good("deep-grey.png", png((256, 4), 16, 0, ramp.astype(">u2").tobytes()), seen)
    yield good("deep-rgb.png", png((256, 4), 16, 2, colors.astype(">u2").tobytes()), upper)
    layered = np.concatenate([colors, opaque], axis=2)
    yield good("deep-rgba.png", png((256, 4), 16, 6, layered.astype(">u2").tobytes()), upper)
    layered = np.concatenate([ramp[..., None], opaque], axis=2)
    yield good("deep-la.png", png((256, 4), 16, 4, layered.astype(">u2").tobytes()), seen)
    for order, word in (("<", "little"), (">", "big")):
        yield good(f"deep-grey-{word}.tif", tiff((256, 4), (16,), ramp.astype(order + "u2").tobytes(), order), seen)
        yield good(f"deep-rgb-{word}.tif", tiff((256, 4), (16,) * 3, colors.astype(order + "u2").tobytes(), order), upper)
        inverted = tiff((256, 4), (16,), (65535 - ramp).astype(order + "u2").tobytes(), order, t262=("H", (0,)))
        if order == "<":
            yield good("deep-white-is-zero.tif", inverted, seen)
        else:
            yield bad("deep-white-is-zero-big.tif", inverted)
    for turn in (3, 6):
        stored = as_stored(ramp[..., None], turn)[..., 0]
        data = tiff(stored.shape[::-1], (16,), stored.astype("<u2").tobytes(), t274=("H", (turn,)))
        yield good(f"deep-turned-{turn}.tif", data, seen)
        block = (b"eXIf", exif_of(turn).removeprefix(b"Exif\0\0"))
        yield good(f"deep-turned-{turn}.png", png(stored.shape[::-1], 16, 0, stored.astype(">u2").tobytes(), block), seen)
    yield good("twelve-bits.tif", tiff((256, 4), (12,), packed(ramp >> 4, 12)), seen)
    yield good("deep-deflated.tif", encoded(picture(ramp), "TIFF", compression="tiff_adobe_deflate"), seen)
    yield bad("signed-16.tif", tiff((256, 4), (16,), ramp.astype("<u2").tobytes(), t339=("H", (2,))))
    yield bad("float.tif", tiff((256, 4), (32,), (ramp / 65535).astype("<f4").tobytes(), t339=("H", (3,))))
    yield bad("float-big.tif", tiff((256, 4), (32,), (ramp / 65535).astype(">f4").tobytes(), ">", t339=("H", (3,))))
    yield bad("integer-32.tif", tiff((256, 4), (32,), ramp.astype("<u4").tobytes()))
    yield bad("signed-32.tif", tiff((256, 4), (32,), ramp.astype("<i4").tobytes(), t339=("H", (2,))))


def inks() -> Iterator[Case]:
    """CMYK: inks in 0..255 multiply. Adobe stores them inverted, in a JPEG also as YCCK (libjpeg.txt, "Special color spaces")."""
    ink = np.zeros((48, 64, 4), np.uint8)
    ink[:24, :32], ink[:24, 32:], ink[24:, :32], ink[24:, 32:] = (
        (200, 20, 20, 40),
        (10, 180, 30, 0),
        (0, 0, 0, 128),
        (60, 60, 10, 90),
    )
    seen = np.round((255.0 - ink[..., :3]) * (255 - ink[..., 3:]) / 255).astype(np.uint8)
    cmyk = PillowImage.frombytes("CMYK", (64, 48), ink.tobytes())
    yield good("inks.jpg", encoded(cmyk, "JPEG", quality=100, subsampling=0), seen, 6)
    c, m, y = (ink[..., channel].astype(float) for channel in range(3))
    luma = 0.299 * c + 0.587 * m + 0.114 * y
    planes = np.stack([luma, 128 + (y - luma) / 1.772, 128 + (c - luma) / 1.402, 255.0 - ink[..., 3]], axis=-1)
    stored = 255 - np.round(planes).astype(np.uint8)  # Pillow inverts what it writes
    ycck = bytearray(encoded(PillowImage.frombytes("CMYK", (64, 48), stored.tobytes()), "JPEG", quality=100, subsampling=0))
    ycck[ycck.index(b"Adobe") + 11] = 2
    yield good("inks-ycck.jpg", bytes(ycck), seen, 6)
    yield good("inks.tif", tiff((64, 48), (8,) * 4, ink.tobytes(), t262=("H", (5,))), seen, 1)
    deep = tiff((64, 48), (16,) * 4, (ink.astype("<u2") * 257).tobytes(), t262=("H", (5,)))
    yield good("inks-deep.tif", deep, seen, 1)
    yield good("lab.tif", tiff((64, 48), (8,) * 3, scene().tobytes(), t262=("H", (8,))))
    yield good("inks-lzw.tif", encoded(cmyk, "TIFF", compression="tiff_lzw"), seen, 1)


def palettes() -> Iterator[Case]:
    """Indexed colours of 1, 2, 4 and 8 bits, with and without transparency."""
    for bits in (1, 2, 4, 8):
        count = 1 << bits
        index = (np.arange(16 * 20).reshape(16, 20) * 7) % count
        colors = np.stack(
            [np.arange(count) * 255 // (count - 1), 255 - np.arange(count) * 91 % 256, np.arange(count) * 37 % 256], axis=1
        )
        colors = colors.astype(np.uint8)
        table, rows = (b"PLTE", colors.tobytes()), packed(index, bits)
        yield good(f"palette-{bits}.png", png((20, 16), bits, 3, rows, table), colors[index])
        alpha = (255 - np.arange(count) * 255 // (count - 1)).astype(np.uint8)
        layered = png((20, 16), bits, 3, rows, table, (b"tRNS", alpha.tobytes()))
        yield good(f"palette-{bits}-transparent.png", layered, over_white(colors[index], alpha[index]), 1)
        one = png((20, 16), bits, 3, rows, table, (b"tRNS", b"\0"))
        yield good(f"palette-{bits}-one-transparent.png", one, over_white(colors[index], np.where(index == 0, 0, 255)))
        if bits != 2:
            listed = np.concatenate([colors[:, ::-1], np.zeros((count, 1), np.uint8)], axis=1).tobytes()
            flipped = b"".join(line.ljust(-len(line) // 4 * -4, b"\0") for line in (packed(row[None], bits) for row in index[::-1]))
            yield good(f"palette-{bits}.bmp", bmp((20, 16), bits, flipped, listed), colors[index])
        shorts = (colors.T.astype(int) * 257).ravel().tolist()
        entries: dict[str, Any] = {"t262": ("H", (3,)), "t320": ("H", tuple(shorts))}
        yield good(f"palette-{bits}.tif", tiff((20, 16), (bits,), rows, **entries), colors[index])
    indexed = picture(scene()).convert("P", palette=PillowImage.Palette.ADAPTIVE)
    yield good("palette.gif", encoded(indexed, "GIF"), scene())
    hole = indexed.getpixel((0, 0))
    seen = scene()
    seen[:24, :32] = 255
    yield good("palette-transparent.gif", encoded(indexed, "GIF", transparency=hole), seen)
    short = png((4, 1), 8, 3, b"\0\1\2\3", (b"PLTE", b"\x0a\x0b\x0c\x14\x15\x16"))
    yield bad("palette-too-short.png", short, None)
    yield bad("palette-missing.png", png((4, 1), 8, 3, b"\0\1\2\3"), None)


def greys_and_bits() -> Iterator[Case]:
    """Grey of 1 to 8 bits, black or white at zero."""
    for bits in (1, 2, 4, 8):
        values = (np.arange(16 * 20).reshape(16, 20) * 3) % (1 << bits)
        seen = grey(values * 255 // ((1 << bits) - 1))
        yield good(f"grey-{bits}.png", png((20, 16), bits, 0, packed(values, bits)), seen)
        clear = png((20, 16), bits, 0, packed(values, bits), (b"tRNS", struct.pack(">H", 1)))
        yield good(f"grey-{bits}-transparent.png", clear, over_white(seen, np.where(values == 1, 0, 255)))
        yield good(f"grey-{bits}.tif", tiff((20, 16), (bits,), packed(values, bits)), seen)
        yield good(f"grey-{bits}-white-is-zero.tif", tiff((20, 16), (bits,), packed(values, bits), t262=("H", (0,))), 255 - seen)
    fax = PillowImage.fromarray((np.arange(64 * 48).reshape(48, 64) // 7 % 2 * 255).astype(np.uint8)).convert("1")
    seen = grey(np.arange(64 * 48).reshape(48, 64) // 7 % 2 * 255)
    yield good("fax.tif", encoded(fax, "TIFF", compression="group4"), seen)
    yield good("bits.bmp", encoded(fax, "BMP"), seen)


def layers() -> Iterator[Case]:
    """Transparency is laid over white; the colours under full transparency never show."""
    alpha = np.zeros((48, 64), np.uint8)
    alpha[:24, :32], alpha[:24, 32:], alpha[24:, :32] = 255, 128, 40
    alpha[40:] = 0
    rgba = np.concatenate([scene(), alpha[..., None]], axis=2)
    seen = over_white(scene(), alpha)
    yield good("alpha.png", encoded(picture(rgba), "PNG"), seen, 1)
    yield good("alpha.webp", encoded(picture(rgba), "WEBP", lossless=True, exact=True), seen, 1)
    yield good("alpha.tif", tiff((64, 48), (8,) * 4, rgba.tobytes(), t338=("H", (2,))), seen, 1)
    premultiplied = np.concatenate([np.round(scene() * (alpha[..., None] / 255)), alpha[..., None]], axis=2).astype(np.uint8)
    yield good("alpha-premultiplied.tif", tiff((64, 48), (8,) * 4, premultiplied.tobytes(), t338=("H", (1,))), seen, 8)
    if HAS_AVIF:
        yield good("alpha.avif", encoded(picture(rgba), "AVIF", quality=100, subsampling="4:4:4"), seen, 8)
    la = np.stack([scene()[..., 1], alpha], axis=-1)
    yield good("alpha-grey.png", encoded(picture(la), "PNG"), over_white(grey(scene()[..., 1]), alpha), 1)
    yield good(
        "alpha-grey.tif",
        tiff((64, 48), (8, 8), la.tobytes(), t262=("H", (1,)), t338=("H", (2,))),
        over_white(grey(la[..., 0]), alpha),
        1,
    )
    for name, shown in (("all-clear", 0), ("all-opaque", 255)):
        flat = np.concatenate([grain(), np.full((48, 64, 1), shown, np.uint8)], axis=2)
        yield good(f"{name}.png", encoded(picture(flat), "PNG"), over_white(grain(), flat[..., 3]))
    hole = tuple(int(value) for value in scene()[0, 0])
    seen = scene()
    seen[:24, :32] = 255
    yield good("keyed.png", png((64, 48), 8, 2, scene().tobytes(), (b"tRNS", struct.pack(">HHH", *hole))), seen)
    deep = scene().astype(">u2") * 257
    key = struct.pack(">HHH", *(value * 257 for value in hole))
    yield good("keyed-deep.png", png((64, 48), 16, 2, deep.tobytes(), (b"tRNS", key)), seen)
    ramp = np.tile(np.arange(64) * 1024, (4, 1))
    seen = over_white(grey(ramp >> 8), np.where(ramp == 2048, 0, 255))
    yield good("keyed-deep-grey.png", png((64, 4), 16, 0, ramp.astype(">u2").tobytes(), (b"tRNS", struct.pack(">H", 2048))), seen)


def whole_files() -> Iterator[Case]:
    """Ordinary files of each format, and forms that are rare but right."""
    for kind, ending in (("PNG", "png"), ("BMP", "bmp"), ("TIFF", "tif"), ("GIF", "gif"), ("DIB", "dib")):
        yield good(f"scene.{ending}", encoded(scene(), kind), scene())
    yield good("scene.webp", encoded(scene(), "WEBP", lossless=True), scene())
    yield good("smooth.webp", encoded(smooth(), "WEBP", quality=95), smooth(), 16)
    if HAS_AVIF:
        yield good("smooth.avif", encoded(smooth(), "AVIF", quality=95), smooth(), 16)
    yield good("top-down.bmp", bmp((64, -48), 24, scene()[..., ::-1].tobytes()), scene())
    wide = np.concatenate([scene()[::-1, :, ::-1], np.zeros((48, 64, 1), np.uint8)], axis=2)
    yield good("fourth-byte.bmp", bmp((64, 48), 32, wide.tobytes()), scene())
    runs = b"".join(bytes([4, row % 2, 0, 0]) for row in range(3)) + b"\0\1"
    table = b"\x0a\x14\x1e\0\xc8\xd2\xdc\0"
    seen = np.tile(np.array([[[30, 20, 10]], [[220, 210, 200]], [[30, 20, 10]]], np.uint8), (1, 4, 1))
    yield good("run-length.bmp", bmp((4, 3), 8, runs, table, compression=1), seen)
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
    rows = b"".join(
        b"\0" + line.tobytes() for y, dy, x, dx in passes for line in np.ascontiguousarray(scene()[y::dy, x::dx]) if line.size
    )
    yield good("interlaced.png", png((64, 48), 8, 2, rows, interlace=1), scene())
    split = zlib.compress(b"".join(b"\0" + line.tobytes() for line in scene()))
    chunks = [(b"IDAT", split[start : start + 7]) for start in range(0, len(split), 7)]
    head = (b"IHDR", struct.pack(">IIBBBBB", 64, 48, 8, 2, 0, 0, 0))
    yield good("many-chunks.png", png_of([head, (b"IDAT", b""), *chunks, (b"IEND", b"")]), scene())
    for method in ("packbits", "tiff_lzw", "tiff_adobe_deflate"):
        yield good(f"{method}.tif", encoded(scene(), "TIFF", compression=method), scene())
    yield good("jpeg-inside.tif", encoded(smooth(), "TIFF", compression="jpeg", quality=95), smooth(), 16)
    yield good("planar.tif", _planar(), scene())
    yield good("tiled.tif", _tiled(), scene())
    for size in ((1, 1), (1, 7), (17, 9)):
        flat = np.full((*size[::-1], 3), 77, np.uint8)
        for kind, ending in (("JPEG", "jpg"), ("PNG", "png"), ("GIF", "gif"), ("WEBP", "webp"), ("BMP", "bmp"), ("TIFF", "tif")):
            yield good(f"small-{size[0]}x{size[1]}.{ending}", encoded(flat, kind), flat, 2)
    yield good("trailing.png", encoded(scene(), "PNG") + bytes(500), scene())


def _planar() -> bytes:
    """Red, green and blue one after the other, a strip each."""
    planes = np.ascontiguousarray(scene().transpose(2, 0, 1)).tobytes()
    strips = ("I", (8, 8 + 3072, 8 + 2 * 3072))
    return tiff((64, 48), (8,) * 3, planes, t273=strips, t279=("I", (3072,) * 3), t284=("H", (2,)))


def _tiled() -> bytes:
    """Twelve tiles of 16 x 16."""
    tiles = scene().reshape(3, 16, 4, 16, 3).transpose(0, 2, 1, 3, 4).tobytes()
    places = ("I", tuple(8 + 768 * number for number in range(12)))
    return tiff(
        (64, 48),
        (8,) * 3,
        tiles,
        t322=("H", (16,)),
        t323=("H", (16,)),
        t324=places,
        t325=("I", (768,) * 12),
        without=(273, 278, 279),
    )


def animations() -> Iterator[Case]:
    """The first frame counts."""
    frames = [picture(np.full((16, 16, 3), value, np.uint8)) for value in (10, 120, 240)]
    first = np.full((16, 16, 3), 10, np.uint8)
    part = b"GIF89a\2\0\1\0\x80\1\0" + b"\x0a\x14\x1e\xc8\xd2\xdc" + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
    yield good("frame-smaller.gif", part)  # viewers disagree about what lies beside the frame
    for kind, ending in (("GIF", "gif"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif")):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        yield good(f"frames.{ending}", data, first, 1)
        yield bad(f"frames-cut.{ending}", data[: len(data) - 20], None)
    apart = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=True)
    yield good("frames-apart.png", apart, first)


def jpegs() -> Iterator[Case]:
    """What encoders make of JPEG."""
    yield good("progressive.jpg", encoded(smooth(), "JPEG", quality=95, progressive=True), smooth(), 8)
    yield good("restarts.jpg", encoded(smooth(), "JPEG", quality=95, restart_marker_blocks=2), smooth(), 8)
    for subsampling, words in ((0, "444"), (1, "422"), (2, "420")):
        yield good(f"subsampled-{words}.jpg", encoded(smooth(), "JPEG", quality=95, subsampling=subsampling), smooth(), 8)
    yield good("rgb.jpg", encoded(scene(), "JPEG", quality=100, subsampling=0, keep_rgb=True), scene(), 4)
    yield good("grey.jpg", encoded(smooth()[..., 0], "JPEG", quality=100), grey(smooth()[..., 0]), 3)
    plain = encoded(smooth(), "JPEG", quality=95)
    thumbnail = encoded(scene(), "JPEG")
    yield good("thumbnail.jpg", plain[:2] + _segment(b"\xe1", thumbnail) + plain[2:], smooth(), 8)
    for name, tail in (("zeros", bytes(500)), ("ffs", b"\xff" * 500), ("text", b"and more\n" * 50), ("second", thumbnail)):
        yield good(f"trailing-{name}.jpg", plain + tail, smooth(), 8)
    yield good("fill-bytes.jpg", plain[:2] + b"\xff" * 9 + plain[2:], smooth(), 8)
    for number in range(4):
        damaged = bytearray(plain)
        start = plain.index(b"\xff\xda") + 14
        for place in np.random.default_rng(number).integers(start, len(plain) - 2, 3):
            damaged[place] ^= 1 << (place % 8)
        yield bad(f"flipped-{number}.jpg", bytes(damaged), None)


def metadata() -> Iterator[Case]:
    """Damaged metadata is no reason to refuse the pixels."""
    plain = encoded(scene(), "JPEG", quality=100, subsampling=0)
    sound = exif_of(1)
    looped = b"Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0"
    broken = {
        "garbage": b"Exif\0\0no such thing",
        "cut": sound[:20],
        "looped": looped,
        "empty": b"Exif\0\0",
        "far": sound[:10] + b"\xff" * 8,
    }
    for name, block in broken.items():
        yield good(f"exif-{name}.jpg", encoded(scene(), "JPEG", exif=block, quality=100, subsampling=0), scene(), 4)
        yield good(f"exif-{name}.png", png((64, 48), 8, 2, scene().tobytes(), (b"eXIf", block)), scene())
        yield good(f"exif-{name}.webp", encoded(scene(), "WEBP", lossless=True, exif=block), scene())
    for kind, ending, tolerance, options in (
        ("JPEG", "jpg", 4, {"quality": 100, "subsampling": 0}),
        ("PNG", "png", 0, {}),
        ("WEBP", "webp", 0, {"lossless": True}),
        ("TIFF", "tif", 0, {}),
    ):
        yield good(
            f"profile-garbage.{ending}", encoded(scene(), kind, icc_profile=b"no profile" * 9, **options), scene(), tolerance
        )
    yield good("comment.jpg", plain[:2] + b"\xff\xfe\x00\x09\x00\xff\xd9%s\x1b" + plain[2:], scene(), 4)
    rows = scene().tobytes()
    yield bad("text-chunk-damaged.png", png((64, 48), 8, 2, rows, (b"zTXt", b"key\0\0not deflated")), None)
    yield good("text-chunk.png", png((64, 48), 8, 2, rows, (b"tEXt", b"key\0\xff\xfe\x00\x1b[31m")), scene())


def truncations() -> Iterator[Case]:
    """Files that end too early, or whose end was never written: never taken for whole ones."""
    for form, options in (("baseline", {}), ("progressive", {"progressive": True}), ("grey", {})):
        data = encoded(grain()[..., 0] if form == "grey" else grain(), "JPEG", **options)
        scan = data.index(b"\xff\xda")
        places = {"magic": 2, "first": 3, "header": scan // 2, "tables": scan - 1, "scan-head": scan + 5}
        places |= {
            "early": scan + 40,
            "scan": (scan + len(data)) // 2,
            "late": len(data) - 3,
            "eoi": len(data) - 2,
            "half-eoi": len(data) - 1,
        }
        for name, keep in places.items():
            yield bad(f"cut-{form}-{name}.jpg", data[:keep])
            if keep < len(data) - 2:
                yield bad(f"zeros-{form}-{name}.jpg", data[:keep].ljust(len(data), b"\0"))
                yield bad(f"ffs-{form}-{name}.jpg", data[:keep].ljust(len(data), b"\xff"))
    yield bad("no-scan.jpg", data[:scan] + b"\xff\xd9")
    yield bad("only-ends.jpg", b"\xff\xd8\xff\xd9")
    samples: list[tuple[str, str, dict[str, Any]]] = [
        ("PNG", "png", {}),
        ("GIF", "gif", {}),
        ("BMP", "bmp", {}),
        ("TIFF", "tif", {"compression": "tiff_adobe_deflate"}),
        ("WEBP", "webp", {}),
    ]
    if HAS_AVIF:
        samples.append(("AVIF", "avif", {}))
    for kind, ending, options in samples:
        data = encoded(grain(), kind, **options)
        for part in (2, 9, 25, len(data) // 4, len(data) // 2, len(data) * 3 // 4, len(data) - 40):
            yield bad(f"cut-{part}.{ending}", data[:part])
    for kind, ending in (("WEBP", "webp"), ("BMP", "bmp"), *([("AVIF", "avif")] if HAS_AVIF else [])):
        data = encoded(grain(), kind)  # these formats have no end marker and no checksum: any bytes are pixels
        yield bad(f"zeros.{ending}", data[: len(data) // 2].ljust(len(data), b"\0"), None)
    for kind, ending in (("GIF", "gif"), ("TIFF", "tif")):
        data = encoded(grain(), kind, **({"compression": "tiff_lzw"} if kind == "TIFF" else {}))
        yield bad(f"zeros.{ending}", data[: len(data) // 2].ljust(len(data), b"\0"))
    data = encoded(grain(), "PNG")
    yield bad("zeros.png", data[: len(data) // 2].ljust(len(data), b"\0"))
    yield bad("checksum.png", data.replace(b"IDAT", b"IDAt", 1))
    raw = tiff((64, 48), (8,) * 3, grain().tobytes())
    yield bad("cut-directory.tif", raw[:-30])
    yield bad("cut-last-row.bmp", encoded(grain(), "BMP")[:-5])


def claims() -> Iterator[Case]:
    """Small files that claim far more pixels than they hold."""
    jpeg = bytearray(encoded(scene(), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    yield bad("claims.jpg", bytes(jpeg), bomb=True)
    tiny = b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0%s\0\x02\x02D\x01\0;"
    yield bad("claims.gif", b"GIF89a" + struct.pack("<HH", 65535, 65535) + tiny.replace(b"%s", b"\1\0\1\0"), bomb=True)
    frame_only = b"GIF89a" + struct.pack("<HH", 1, 1) + tiny.replace(b"%s", b"\xff\xff\xff\xff")
    yield bad("frame-claims.gif", frame_only, bomb=True)
    yield bad("claims.png", png((50_000, 50_000), 8, 2, bytes(50_000)), bomb=True)
    yield bad(
        "claims-most.png",
        png_of([(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 6, 0, 0, 0)), (b"IDAT", b"")]),
        bomb=True,
    )
    yield bad("claims.tif", tiff((60_000, 60_000), (8,) * 3, bytes(300)), bomb=True)
    yield bad("claims-tall.tif", tiff((2, 2**31 - 1), (8,), bytes(300)), bomb=True)
    for claimed, name in (((16_383, 16_383), "claims"), ((16_384, 16_384), "claims-more")):
        body = b"/" + struct.pack("<I", (claimed[0] - 1) & 0x3FFF | ((claimed[1] - 1) & 0x3FFF) << 14) + bytes(9)
        yield bad(
            f"{name}.webp",
            b"RIFF" + struct.pack("<I", 12 + len(body)) + b"WEBPVP8L" + struct.pack("<I", len(body)) + body,
            bomb=True,
        )
    canvas = b"\2\0\0\0" + b"\xff\xff\xff" * 2
    yield bad("canvas.webp", b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + canvas, bomb=True)
    yield bad("claims.bmp", bmp((100_000, 100_000), 24, bytes(300)), bomb=True)
    yield bad("claims-most.bmp", bmp((2**31 - 1, -(2**31)), 32, bytes(300)), bomb=True)
    yield bad("claims-runs.bmp", bmp((30_000, 30_000), 8, b"\xff\1" * 300, bytes(8), compression=1), bomb=True)
    if HAS_AVIF:
        avif = encoded(scene(), "AVIF")
        place = avif.index(b"ispe") + 8
        yield bad("claims.avif", avif[:place] + struct.pack(">II", 60_000, 60_000) + avif[place + 8 :], bomb=True)


def inflating() -> Iterator[Case]:
    """Small files that inflate to far more than they are, or lead round and round the same bytes."""
    progressive = encoded(scene(), "JPEG", progressive=True)
    scan = progressive.index(b"\xff\xda")
    yield bad("scans.jpg", progressive[:scan] + progressive[scan:-2] * 30 + b"\xff\xd9", bomb=True)
    much = zeros_deflated(200)
    head = (b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0))
    ending: list[Chunk] = [(b"IDAT", zlib.compress(bytes(16 * 49))), (b"IEND", b"")]
    black = np.zeros((16, 16, 3), np.uint8)
    yield good("inflates.png", png_of([head, (b"IDAT", much), (b"IEND", b"")]), black, bomb=True)
    for kind, body in ((b"zTXt", b"key\0\0" + much), (b"iCCP", b"key\0\0" + much), (b"iTXt", b"key\0\1\0\0\0" + much)):
        yield bad(f"inflates-{kind.decode()}.png", png_of([head, (kind, body), *ending]), None, bomb=True)
    pieces = [(b"zTXt", b"key\0\0" + zeros_deflated(1))] * 200
    yield bad("inflates-many.png", png_of([head, *pieces, *ending]), None, bomb=True)
    yield bad("bits-per-sample.tif", tiff((8, 8), (8,) * 3, bytes(192), t258=("H", (8,) * 30_000)), None, bomb=True)
    strips = {"t273": ("I", (8,) * 30_000), "t279": ("I", (2**31 - 1,) * 30_000)}
    yield bad("strips-overlap.tif", tiff((64, 30_000), (8,), bytes(64), t278=("I", (1,)), **strips), None, bomb=True)
    packed_much: dict[str, Any] = {"t259": ("H", (8,))}
    yield bad("inflates.tif", tiff((16, 16), (8,) * 3, much, **packed_much), None, bomb=True)


def far_directories() -> Iterator[Case]:
    """TIFF whose offsets lead outside, or around in a circle."""
    whole = scene().tobytes()
    yield bad("strip-outside.tif", tiff((64, 48), (8,) * 3, whole, t273=("I", (10_000_000,))))
    yield bad("strip-outside-deflated.tif", tiff((64, 48), (8,) * 3, whole, t273=("I", (10_000_000,)), t259=("H", (8,))))
    yield bad("directory-outside.tif", b"II*\0" + struct.pack("<I", 10_000_000) + whole)
    yield bad("directory-empty.tif", b"II*\0\x08\0\0\0\0\0\0\0\0\0")
    at = 8 + len(whole) + 6  # behind the samples and the three numbers of bits
    yield good("directory-loop.tif", tiff((64, 48), (8,) * 3, whole, next=("I", (at,))), scene())
    yield good("directory-next-outside.tif", tiff((64, 48), (8,) * 3, whole, next=("I", (2**31,))), scene())
    yield good("exif-loop.tif", tiff((64, 48), (8,) * 3, whole, t34665=("I", (at,))), scene())
    yield bad("strip-short.tif", tiff((64, 48), (8,) * 3, whole[:5000]))
    yield bad("no-size.tif", tiff((0, 0), (8,) * 3, whole))
    yield bad("no-samples.tif", tiff((64, 48), (8,) * 3, whole, t277=("H", (0,))), None)
    yield bad("many-samples.tif", tiff((8, 8), (8,) * 3, whole, t277=("H", (65535,))), None)


def long_shapes() -> Iterator[Case]:
    """Pictures that are nearly a line."""
    for name, shape in (("tall", (65_500, 1)), ("wide", (1, 65_500))):
        line = np.broadcast_to(np.uint8(90), (*shape, 3))
        yield good(f"{name}.jpg", encoded(line, "JPEG"), line, 2)
        yield good(f"{name}.png", encoded(line, "PNG"), line)


def foreign() -> Iterator[Case]:
    """What is not a picture of a known format, whatever its name says."""
    yield bad("one-byte.jpg", b"\xff")
    yield bad("zeros.jpg", bytes(1000))
    yield bad("noise.jpg", np.random.default_rng(5).bytes(3000))
    yield bad("text.jpg", b"just some text\n" * 20)
    yield bad("page.jpg", b"<!DOCTYPE html><html><title>404</title></html>")
    yield bad("drawing.svg.png", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>")
    yield bad("paper.pdf.jpg", b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n%%EOF\n")
    yield bad("paper.eps.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n%%EOF\n")
    yield bad("phone.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    yield bad("film.webp", b"RIFF\x20\0\0\0AVI LIST" + bytes(40))
    yield bad("layers.psd.jpg", b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(14) + bytes(243))
    for kind in ("ICO", "PPM", "TGA", "SGI", "PCX", "JPEG2000", "ICNS", "QOI"):
        yield bad(f"other.{kind.lower()}.png", encoded(scene(), kind))
    for kind, options in (("PNG", {}), ("GIF", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        yield good(f"in-fact-{kind.lower()}.jpg", encoded(scene(), kind, **options), scene())
    yield good("in-fact-jpeg.png", encoded(scene(), "JPEG", quality=100, subsampling=0), scene(), 4)
    yield bad("nothing.png", png_of([(b"IHDR", bytes(13)), (b"IEND", b"")]))
    yield bad("no-pixels.gif", b"GIF89a\0\0\0\0\0\0\0;")


def not_files() -> Iterator[Case]:
    """What a name can stand for besides a file with a picture in it."""

    def link(target: str, path: Path) -> None:
        path.symlink_to(target)

    yield Case("empty.jpg", Path.touch, "read")
    yield Case("fifo.jpg", os.mkfifo, "read")
    yield Case("socket.jpg", lambda path: os.mknod(path, stat.S_IFSOCK | 0o600), "read")
    yield Case("folder.jpg", Path.mkdir, "read", walked=False)
    for name in ("zero", "null", "full"):
        yield Case(f"device-{name}.jpg", partial(link, f"/dev/{name}"), "read")
    yield Case("link-nowhere.jpg", partial(link, "nowhere"), "read")
    yield Case("link-itself.jpg", partial(link, "link-itself.jpg"), "read")
    yield Case("link-folder.jpg", partial(link, "folder.jpg"), "read")
    yield Case("link-good.png", partial(link, "scene.png"), "explained", scene(), walked=False)


GROUPS = (
    orientations,
    sixteen_bits,
    inks,
    palettes,
    greys_and_bits,
    layers,
    whole_files,
    animations,
    jpegs,
    metadata,
    truncations,
    claims,
    inflating,
    far_directories,
    long_shapes,
    foreign,
    not_files,
)
