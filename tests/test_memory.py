"""Memory: images are admitted as far as it goes, lack of it is no damage, bombs and large files that are no image cost nothing."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image as PillowImage

from camcli.cli.app import explain_import_error
from camcli.config.run import RunConfig
from camcli.errors import ImageError
from camcli.images import decode
from camcli.images.decode import decode_image
from camcli.images.header import MAX_SIDE, Header, read_header
from camcli.images.jpeg import check_jpeg_end
from camcli.pipeline.reading import painted_bytes
from camcli.records import Failure, Image
from camcli.source import Source
from tests.conftest import ROOT, Result
from tests.folders import TINY, failures_of, rows_of
from tests.limited import KINDS, run_within
from tests.pictures import encoded, noise

LIMIT = 178_000_000
MB = 1_000_000


def smooth(side: int, seed: int = 0) -> bytes:
    """A JPEG of ``side`` x ``side`` soft colours: much in memory, little on the disk."""
    picture = PillowImage.fromarray(noise(seed, (24, 24))).resize((side, side), PillowImage.Resampling.BICUBIC)
    return encoded(picture, "JPEG", quality=60)


def fill(folder: Path, side: int, large: int = 3) -> None:
    folder.mkdir()
    for k in range(large):
        (folder / f"large-{k}.jpg").write_bytes(smooth(side, k))
    for k in range(4):
        (folder / f"small-{k}.jpg").write_bytes(encoded(noise(k, (80, 60)), "JPEG"))


BASE = 440 * MB
"""What the command takes itself, with a small network, and a little more."""

WORKER = 100 * MB
"""What a worker takes itself, with its libraries and a few small images, and a little more."""


def room_for_one(side: int, workers: int = 0) -> int:
    """A limit at which one image of ``side`` x ``side`` is explained, and no two at a time."""
    return BASE + workers * WORKER + int(1.25 * painted_bytes(Header("JPEG", side, side, 0), RunConfig()))


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.soak), 2])
@pytest.mark.parametrize("kind", [KINDS[0], pytest.param(KINDS[1], marks=pytest.mark.soak)])
def test_law_35_large_images_are_explained_one_at_a_time_within_the_memory_there_is(
    kind: str, workers: int, tmp_path: Path
) -> None:
    fill(tmp_path / "imgs", 4000)
    command = ("run", tmp_path / "imgs", "-o", tmp_path / "out", *TINY, "--workers", workers)
    ended = run_within(room_for_one(4000, workers), kind, tmp_path, *command)
    assert ended.code == 0, ended.err
    assert len(rows_of(tmp_path / "out")) == 7
    assert failures_of(tmp_path / "out") == []


def test_law_35_every_run_makes_progress_where_large_images_exhaust_the_memory(tmp_path: Path) -> None:
    """As if nothing were known of what an image costs: all are begun at once, and the system kills workers.

    It never kills the main process, so every run comes to its end. What a worker had in hand is tried alone. An image whose worker
    is killed then too, because other workers still have large images, fails with stage ``memory``; the next run tries it again.
    """
    fill(tmp_path / "imgs", 4000, large=7)  # four of them are ordered from a worker at a time
    command = ("run", tmp_path / "imgs", "-o", tmp_path / "out", *TINY, "--workers", 2)
    explained: list[int] = []
    killed: list[int] = []
    while 11 not in explained and len(explained) <= 3:
        ended = run_within(room_for_one(4000, 2), "watcher", tmp_path, *command, NO_ADMISSION="1")
        failed = failures_of(tmp_path / "out")
        assert ended.code == (1 if failed else 0), ended.err
        assert {failure["stage"] for failure in failed} <= {"memory"}
        explained.append(len(rows_of(tmp_path / "out")))
        killed.append(ended.killed)
        assert explained[-1] + len(failed) == 11
    assert killed[0] >= 1, "two images at a time fit: the limit says nothing"
    assert explained == sorted(set(explained)), "a run made no progress"
    assert explained[-1] == 11


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_law_35_six_images_of_144_megapixels_in_2600_megabytes(kind: str, tmp_path: Path) -> None:
    fill(tmp_path / "imgs", 12_000, large=6)
    ended = run_within(2600 * MB, kind, tmp_path, "run", tmp_path / "imgs", "-o", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert len(rows_of(tmp_path / "out")) == 10


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.soak), 2])
@pytest.mark.parametrize("kind", [KINDS[0], pytest.param(KINDS[1], marks=pytest.mark.soak)])
def test_law_36_what_does_not_fit_is_said_and_tried_again(
    kind: str, workers: int, tmp_path: Path, camcli: Callable[..., Result]
) -> None:
    fill(tmp_path / "imgs", 7000, large=1)
    command = ("run", tmp_path / "imgs", "-o", tmp_path / "out", *TINY)
    ended = run_within(BASE + workers * WORKER + 200 * MB, kind, tmp_path, *command, "--workers", workers)
    assert ended.code == 1, ended.err
    assert len(rows_of(tmp_path / "out")) == 4
    [failure] = failures_of(tmp_path / "out")
    assert (failure["image"], failure["stage"]) == ("large-0.jpg", "memory")
    assert "7,000 x 7,000 pixels need about" in failure["error"]
    assert "MB are free" in failure["error"]
    assert camcli(*command).code == 0
    assert len(rows_of(tmp_path / "out")) == 5


SHORT = """
import json, os, resource, sys
from camcli.images.decode import decode_image
from camcli.records import Failure
from camcli.source import Source

folder, free = sys.argv[1], [int(word) << 20 for word in sys.argv[2:]]
names = sorted(os.listdir(folder))
def outcome(name, admit):
    found = decode_image(Source(folder, name), 178_000_000, **admit)
    return [found.stage, found.stamp is None] if isinstance(found, Failure) else ["image", True]
for name in names:
    assert outcome(name, {}) == ["image", True], name  # and every library is loaded
for room in free:
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    for admit in ({}, {"admit": lambda header: None}):
        resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
        found = {name: outcome(name, admit) for name in names}
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(json.dumps([room, found]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the address space")
@pytest.mark.parametrize("rooms", [(1, 9, 20, 40, 64), pytest.param((3, 6, 12, 16, 25, 32, 50), marks=pytest.mark.soak)], ids=str)
def test_law_36_under_a_limit_of_address_space_no_good_file_is_damaged(tmp_path: Path, rooms: tuple[int, ...]) -> None:
    """At every limit, whether the memory was looked at before or the decoder met the limit itself: pixels, or lack of memory."""
    picture = PillowImage.fromarray(noise(0, (500, 500))).resize((2000, 1500))
    for kind in ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF"):
        options = {"AVIF": {"speed": 10}, "TIFF": {"compression": "tiff_lzw"}}.get(kind, {})
        (tmp_path / kind.lower()).write_bytes(encoded(picture, kind, **options))
    command = [sys.executable, "-c", SHORT, str(tmp_path), *map(str, rooms)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line)[1] for line in done.stdout.splitlines()]
    assert len(found) == 2 * len(rooms)
    for outcomes in found:
        assert {state for state, _ in outcomes.values()} <= {"image", "memory"}, outcomes
        assert all(unstamped for _, unstamped in outcomes.values())
    assert any(state == "memory" for state, _ in found[0].values())


def test_a_damaged_file_is_damaged_under_a_limit_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "allocations_can_fail", lambda: True)
    (tmp_path / "cut.webp").write_bytes(encoded(noise(0), "WEBP")[:-100])
    outcome = decode_image(Source(str(tmp_path), "cut.webp"), LIMIT)
    assert isinstance(outcome, Failure)
    assert outcome.stage == "decode"
    monkeypatch.setattr(decode, "available_memory", lambda: 0)
    outcome = decode_image(Source(str(tmp_path), "cut.webp"), LIMIT)
    assert isinstance(outcome, Failure)
    assert outcome.stage == "memory"


SPARSE = {
    "nothing": b"", "text": b"some text\n", "jpeg": b"\xff\xd8\xff\xe0", "png": b"\x89PNG\r\n\x1a\n", "gif": b"GIF89a",
    "gif-sized": b"GIF89a\x10\0\x10\0\0\0\0", "webp": b"RIFF\0\0\0\x30WEBPVP8 ", "avif": b"\0\0\0\x1cftypavif",
    "tiff": b"II*\0\x08\0\0\0", "bmp": b"BM", "bmp-image": b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 16, 16, 1, 24, 0),
    "png-chunk": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 800 * MB) + b"teXt",
}  # fmt: skip

MEASURE = """
import json, os, sys, time
from camcli.images.decode import decode_image
from camcli.records import Failure
from camcli.source import Source
from PIL import Image
Image.MAX_IMAGE_PIXELS = None  # as in a run
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
folder = sys.argv[1]
for name in sorted(os.listdir(folder)):
    before, begun = peak(), time.monotonic()
    outcome = decode_image(Source(folder, name), 178_000_000)
    stage = outcome.stage if isinstance(outcome, Failure) else "image"
    print(json.dumps([name, stage, time.monotonic() - begun, peak() - before]))
"""


def measured(folder: Path) -> dict[str, list[float]]:
    """Seconds and bytes of each file of ``folder``, all of which are refused, but for one with a name that says it is an image."""
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line for line in lines if line[1] != ("image" if "image" in line[0] else "decode")] == []
    return {name: [seconds, grown] for name, _, seconds, grown in lines}


@pytest.mark.skipif(sys.platform != "linux", reason="measured by what Linux says of a process")
def test_law_34_a_large_file_that_is_no_image_is_refused_by_its_first_bytes(tmp_path: Path) -> None:
    for name, first in SPARSE.items():
        with open(tmp_path / name, "wb") as file:
            file.write(first)
            file.truncate(900 * MB)
        os.utime(tmp_path / name, (1, 1))
    costs = measured(tmp_path)
    assert len(costs) == len(SPARSE)
    assert [cost for cost in costs.items() if cost[1][0] >= 1] == []
    assert sum(grown for _, grown in costs.values()) < 64 * MB, costs


def png_line(height: int) -> bytes:
    """A PNG of one column of ``height`` grey pixels, which deflate packs as it does."""
    rows = b"\0\x55" * (height // 100)
    return _png(1, height, rows * 100)


def _png(width: int, height: int, raw: bytes) -> bytes:
    import zlib

    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(raw, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def bombs() -> dict[str, bytes]:
    """Small files that claim what they do not hold, or cost far more than what they hold."""
    empty_gif = struct.pack("<6sHHBBB", b"GIF89a", 13_300, 13_300, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 13_300, 13_300, 0) + b"\x02\x02\x4c\x01\0;"
    avif = encoded(PillowImage.new("RGB", (64, 64)), "AVIF")
    size = avif.index(b"ispe") + 8
    whole = encoded(noise(0), "JPEG")
    scan = whole.index(b"\xff\xda")
    progressive = encoded(PillowImage.new("RGB", (4000, 4000)), "JPEG", progressive=True)
    last = progressive[progressive.rindex(b"\xff\xda") : -2]
    return {
        "pixels.gif": empty_gif + frame,
        "claims.avif": avif[:size] + struct.pack(">II", 13_300, 13_300) + avif[size + 8 :],
        "column.png": png_line(5 * MB),
        "row.png": _png(5 * MB, 1, bytes(5 * MB + 1)),
        "cannot-hold.png": _png(13_000, 13_000, bytes(1000)),
        "scans.jpg": progressive[:-2] + last * 150 + b"\xff\xd9",
        "filling.jpg": whole[:scan] + b"\xff" * (8 * MB) + whole[scan:],
        "filling-behind.jpg": whole[:-2] + b"\xff" * (8 * MB) + whole[-2:],
        "rubbish.jpg": whole[:scan] + bytes(8 * MB) + whole[scan:],
    }


@pytest.mark.skipif(sys.platform != "linux", reason="measured by what Linux says of a process")
def test_law_17_files_that_claim_or_cost_too_much_are_refused_at_once(tmp_path: Path) -> None:
    for name, data in bombs().items():
        (tmp_path / name).write_bytes(data)
    costs = measured(tmp_path)
    assert len(costs) == 9
    assert [cost for cost in costs.items() if cost[1][0] >= 1] == []
    assert sum(grown for _, grown in costs.values()) < 100 * MB, costs


HONEST = (
    ("PNG", {}), ("GIF", {}), ("WEBP", {"lossless": True}), ("WEBP", {}), ("AVIF", {"speed": 10}), ("JPEG", {}),
    ("JPEG", {"progressive": True}), ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {}),
)  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), HONEST, ids=lambda value: str(value))
def test_a_picture_of_one_colour_is_no_bomb(kind: str, options: dict[str, object], tmp_path: Path) -> None:
    """Nothing is packed tighter by an encoder: what is refused as a bomb is no encoder's work."""
    data = encoded(PillowImage.new("RGB", (3000, 2500), (255, 255, 255)), kind, **options)
    (tmp_path / "x").write_bytes(data)
    outcome = decode_image(Source(str(tmp_path), "x"), LIMIT)
    assert isinstance(outcome, Image), outcome
    assert (outcome.pixels == 255).all()
    claimed = read_header(io.BytesIO(data), len(data), LIMIT)
    assert (claimed.width, claimed.height) == (3000, 2500)
    assert claimed.decoding >= 3 * claimed.pixels


def test_a_long_picture_is_no_bomb_up_to_a_million_pixels(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png_line(MAX_SIDE))
    outcome = decode_image(Source(str(tmp_path), "x.png"), LIMIT)
    assert isinstance(outcome, Image)
    assert outcome.pixels.shape == (MAX_SIDE, 1, 3)


def test_scans_are_bounded_by_the_pixels_that_each_goes_over() -> None:
    progressive = encoded(noise(0), "JPEG", progressive=True)
    last = progressive[progressive.rindex(b"\xff\xda") : -2]
    many = progressive[:-2] + last * 90 + b"\xff\xd9"
    check_jpeg_end(many, 10 * MB)
    check_jpeg_end(progressive, LIMIT)
    with pytest.raises(ImageError, match="scans"):
        check_jpeg_end(many, LIMIT)


COSTS = """
import sys
from camcli.images.decode import decode_image
from camcli.images.header import read_header
from camcli.source import Source
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
path = sys.argv[1]
with open(path, "rb") as file:
    size = file.seek(0, 2); file.seek(0)
    claimed = read_header(file, size, 178_000_000).decoding
before = peak()
decode_image(Source("", path), 178_000_000)
print(claimed, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measured by what Linux says of a process")
@pytest.mark.parametrize(
    ("kind", "options"), [*HONEST, ("JPEG", {"progressive": True, "subsampling": 0})], ids=lambda value: str(value)
)
def test_decoding_takes_no_more_memory_than_the_header_says(kind: str, options: dict[str, object], tmp_path: Path) -> None:
    picture = PillowImage.fromarray(noise(0, (500, 500))).resize((4000, 3000), PillowImage.Resampling.NEAREST)
    (tmp_path / "x").write_bytes(encoded(picture, kind, **options))
    command = [sys.executable, "-c", COSTS, str(tmp_path / "x")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    claimed, measured_bytes = map(int, done.stdout.split())
    assert measured_bytes < claimed + 20 * MB
    assert claimed < 2 * measured_bytes + 20 * MB, "a claim far too high refuses what there is memory for"


def test_law_28_too_little_memory_for_an_image_is_said_before_the_kernel_ends_the_process(camcli, imgs, tmp_path, monkeypatch):
    monkeypatch.setattr("camcli.network.memory.available_memory", lambda: 50 << 20)
    refused = camcli("run", imgs, "-o", tmp_path / "out", *TINY)
    assert (refused.code, "52 MB are free" in refused.err) == (3, True), refused.err
    assert not (tmp_path / "out").exists()


def test_law_28_libraries_that_do_not_fit_into_the_address_space_are_no_defect():
    """What the loader says under ulimit -v."""
    said = str(explain_import_error(ImportError("libtorch_cuda.so: failed to map segment from shared object")))
    assert "ulimit -v" in said
    assert "libtorch_cuda.so" in said
