"""Decoding, against pictures whose every pixel is known. The files are made here."""

from __future__ import annotations

import os
import socket
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image as PillowImage

from camcli.images.decode import decode_bytes, decode_image
from camcli.images.jpeg import check_jpeg_end
from camcli.records import Failure, Image
from camcli.source import Source
from tests.pictures import as_stored, encoded, noise, scene

LIMIT = 178_000_000


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(kind, orientation):
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if kind in ("JPEG", "WEBP", "AVIF") else {}
    found = decode_bytes(encoded(as_stored(scene(), orientation), kind, exif=exif, **options), LIMIT)
    assert found.shape == (48, 64, 3)
    inner = np.ix_([4, 12, 19, 29, 36, 43], [4, 14, 27, 37, 50, 59])
    assert np.abs(found[inner].astype(int) - scene()[inner]).max() <= 12


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_lossless_formats_come_out_exactly(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decode_bytes(encoded(scene(), kind, **options), LIMIT), scene())


def test_16_bit_keeps_the_upper_8_bits():
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (4, 1))
    found = decode_bytes(encoded(PillowImage.fromarray(ramp), "PNG"), LIMIT)
    assert np.array_equal(found[..., 0], (ramp >> 8).astype(np.uint8))
    assert np.array_equal(found[..., 0], found[..., 2])


def test_transparency_is_laid_over_white():
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0] = 255
    pixels[:2, :, 3] = 255
    pixels[3, :, 3] = 128
    found = decode_bytes(encoded(PillowImage.fromarray(pixels, "RGBA"), "PNG"), LIMIT)
    assert found[0, 0].tolist() == [255, 0, 0]
    assert found[2, 0].tolist() == [255, 255, 255], "the colour hidden under full transparency shows"
    assert np.abs(found[3, 0].astype(int) - [255, 127, 127]).max() <= 1
    grey = PillowImage.fromarray(np.array([[0, 255]], np.uint8), "L")
    grey.putalpha(PillowImage.fromarray(np.array([[0, 255]], np.uint8), "L"))
    assert decode_bytes(encoded(grey, "PNG"), LIMIT)[0].tolist() == [[255, 255, 255], [255, 255, 255]]


def test_palettes_greys_bits_and_cmyk():
    picture = PillowImage.fromarray(scene())
    assert np.array_equal(decode_bytes(encoded(picture.convert("P", palette=PillowImage.Palette.ADAPTIVE), "PNG"), LIMIT), scene())
    palette = picture.convert("P", palette=PillowImage.Palette.ADAPTIVE)
    index = palette.getpixel((0, 0))
    assert decode_bytes(encoded(palette, "PNG", transparency=index), LIMIT)[0, 0].tolist() == [255, 255, 255]
    grey = np.tile(np.arange(64, dtype=np.uint8) * 4, (8, 1))
    assert np.array_equal(decode_bytes(encoded(grey, "PNG"), LIMIT)[..., 1], grey)
    assert np.abs(decode_bytes(encoded(grey, "JPEG", quality=100), LIMIT)[..., 1].astype(int) - grey).max() <= 3
    bits = PillowImage.fromarray(grey).point(lambda v: 255 * (v > 100), "1")
    assert set(np.unique(decode_bytes(encoded(bits, "PNG"), LIMIT))) == {0, 255}
    cmyk = decode_bytes(encoded(picture.convert("CMYK"), "JPEG", quality=100), LIMIT)
    assert np.abs(cmyk[12, 16].astype(int) - scene()[12, 16]).max() <= 8


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(kind):
    frames = [PillowImage.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (10, 120, 240)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.abs(decode_bytes(data, LIMIT).astype(int) - 10).max() <= 1


def test_wide_samples_are_refused():
    for mode in ("F", "I"):
        with pytest.raises(Exception, match="32 bits"):
            decode_bytes(encoded(PillowImage.fromarray(np.ones((4, 4), np.float32)).convert(mode), "TIFF"), LIMIT)


def jpegs():
    textured = noise(3, (100, 80))
    exif = PillowImage.Exif()
    exif[0x0112] = 1
    thumbnail = encoded(scene(), "JPEG")
    yield "baseline", encoded(textured, "JPEG", quality=90)
    yield "progressive", encoded(textured, "JPEG", progressive=True)
    yield "restart markers", encoded(textured, "JPEG", restart_marker_blocks=2)
    yield "grey", encoded(textured[..., 0], "JPEG")
    yield "thumbnail", encoded(textured, "JPEG", comment=thumbnail)
    yield "trailing bytes", encoded(textured, "JPEG") + b"\0" * 500
    yield "multi-picture", encoded(textured, "JPEG") + encoded(scene(), "JPEG")


@pytest.mark.parametrize(("name", "data"), list(jpegs()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_truncated_jpeg_is_never_taken_for_a_whole_one(name, data):
    whole = decode_bytes(data, LIMIT)
    main = (
        len(data) - 500
        if name == "trailing bytes"
        else data.index(encoded(scene(), "JPEG"), 10)
        if name == "multi-picture"
        else len(data)
    )
    for keep in {*range(2, main, max(1, main // 60)), main - 1}:
        with pytest.raises(Exception, match=r"truncated|damaged|no end-of-image"):
            decode_bytes(data[:keep], LIMIT)
        if keep < main - 2:
            with pytest.raises(Exception, match=r"truncated|damaged|no end-of-image"):
                decode_bytes(data[:keep] + b"\0" * (main - keep), LIMIT)
    assert np.array_equal(decode_bytes(data, LIMIT), whole)


def test_a_jpeg_of_too_many_scans_is_refused():
    data = encoded(scene(), "JPEG", progressive=True)
    scan = data.index(b"\xff\xda")
    bomb = data[:scan] + data[scan:-2] * 60 + b"\xff\xd9"
    with pytest.raises(Exception, match="scans"):
        check_jpeg_end(bomb)


def test_runs_of_ff_cost_no_more_than_their_length():
    """Erased flash memory behind a picture: a search that backtracks would take hours for a megabyte."""
    begun = time.monotonic()
    small = encoded(scene(), "JPEG")
    assert decode_bytes(small + b"\xff" * 3_000_000, LIMIT).shape == (48, 64, 3)
    with pytest.raises(Exception, match="truncated"):
        decode_bytes(small[:-2] + b"\xff" * 3_000_000 + b"\0", LIMIT)
    assert time.monotonic() - begun < 5


def png_claiming(width, height):
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_cannot_hold_its_pixels_is_refused_and_the_flattest_is_not(progressive):
    """No encoder packs a picture tighter than a single colour with Huffman codes made for it."""
    flat = encoded(np.full((2048, 2048, 3), 128, np.uint8), "JPEG", quality=1, optimize=True, progressive=progressive)
    assert decode_bytes(flat, LIMIT).shape == (2048, 2048, 3)
    claims = bytearray(flat)
    frame = claims.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    claims[frame + 5 : frame + 9] = struct.pack(">HH", 13_300, 13_300)
    with pytest.raises(Exception, match="cannot hold 176,890,000 pixels"):
        decode_bytes(bytes(claims), LIMIT)


def test_bombs_are_refused_before_decoding():
    begun = time.monotonic()
    jpeg = bytearray(encoded(scene(), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    gif = bytearray(encoded(scene(), "GIF"))
    gif[6:10] = struct.pack("<HH", 60_000, 60_000)
    for data in (bytes(jpeg), png_claiming(50_000, 50_000), bytes(gif)):
        with pytest.raises(Exception, match="pixels"):
            decode_bytes(data, LIMIT)
    with pytest.raises(Exception, match="max-pixels 1,000"):
        decode_bytes(encoded(scene(), "PNG"), 1000)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"just some text\n" * 20, "looks like text"),
        (b"%PDF-1.7 and so on", "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "markup"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (bytes(range(256)) * 4, "not a supported image"),
        (b"\xff\xd8\xff", "truncated JPEG"),
        (encoded(scene(), "PNG")[:60], "damaged"),
        (encoded(scene(), "PPM"), "not a supported image"),
    ],
)
def test_foreign_files_are_called_what_they_are(data, said):
    with pytest.raises(Exception, match=said):
        decode_bytes(data, LIMIT)


def test_damaged_metadata_is_no_reason_to_refuse_the_pixels():
    assert np.array_equal(decode_bytes(encoded(scene(), "PNG", exif=b"Exif\0\0no such thing at all"), LIMIT), scene())


def test_every_cut_of_every_format_ends_in_pixels_or_a_reason(tmp_path):
    """No exception other than the Failure's, whatever the bytes: cuts and flipped bytes of each format."""
    rng = np.random.default_rng(3)
    for kind in ("PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG"):
        data = encoded(scene(), kind)
        for attempt in range(40):
            broken = bytearray(data[: int(rng.integers(1, len(data)))] if attempt % 2 else data)
            for _ in range(int(rng.integers(0, 6))):
                broken[int(rng.integers(0, len(broken)))] = int(rng.integers(0, 256))
            path = tmp_path / "x.jpg"
            path.write_bytes(broken)
            outcome = decode_image(Source(str(tmp_path), "x.jpg"), 10**7)
            assert isinstance(outcome, (Image, Failure))
            if isinstance(outcome, Failure):
                assert outcome.reason
                assert outcome.stage in ("read", "decode")


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "empty.jpg").touch()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket.jpg"))
    begun = time.monotonic()
    said = {
        name: decode_image(Source(str(tmp_path), f"{name}.jpg"), LIMIT)
        for name in ("fifo", "folder", "loop", "gone", "zero", "empty", "socket", "absent", "nul\0byte")
    }
    listening.close()
    assert time.monotonic() - begun < 1
    assert {name: failure.stage for name, failure in said.items()} == dict.fromkeys(said, "read")
    assert "FIFO" in said["fifo"].reason
    assert "folder" in said["folder"].reason
    assert "character device" in said["zero"].reason
    assert "empty" in said["empty"].reason
    assert "no such file" in said["gone"].reason
    assert "levels of symbolic links" in said["loop"].reason


def test_the_stamp_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(scene(), "PNG"))
    os.utime(path, ns=(1, 123_456_789))
    image = decode_image(Source(str(tmp_path), "a.png"), LIMIT)
    assert (image.stamp.size, image.stamp.mtime_ns) == (path.stat().st_size, 123_456_789)
