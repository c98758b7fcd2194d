"""Archives as inputs: what unpacking would give, or a failure with its reason; whatever the archive says."""

from __future__ import annotations

import gzip
import io
import os
import random
import signal
import struct
import tarfile
import time
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camcli.errors import ImageError, InputError
from camcli.images import archives
from camcli.images.archives import Refused, is_archive, members
from camcli.images.braces import expanded
from camcli.images.discover import is_image
from camcli.source import Source
from tests.faults import differences, violations_of_always
from tests.folders import TINY, contents_of, failures_of, rows_of, state_of
from tests.forks import survivors, wait_for, workers_below, written
from tests.pictures import encoded, noise, photo

TARS = {"tar": "w:", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
ZIPS = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}
OLD = 1_500_000_000
"""A time in seconds long ago: a file that young is not hashed."""


def aged(path: Path) -> Path:
    os.utime(path, (OLD, OLD))
    return path


def tarred(place: Path, files: dict[str, bytes], mode: str = "w:", kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(place, mode, format=kind) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return aged(place)


def zipped(place: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(place, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name) if name == "" else name, data)
    return aged(place)


def below(folder: Path) -> dict[str, bytes]:
    """The files of a folder in the order of a walk, by name."""
    names = sorted(
        (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()), key=lambda name: name.split("/")
    )
    return {name: (folder / name).read_bytes() for name in names}


def listed(place: Path, **options) -> list[Source]:
    return members(Source(str(place.parent), place.name), is_image, **options)


def read(source: Source) -> bytes | str:
    """The bytes of a source, or why they cannot be read."""
    try:
        with source.open() as contents:
            return contents.file.read()
    except ImageError as error:
        return str(error)


def pictures(count: int = 7) -> dict[str, bytes]:
    files = {f"{k:02d}.jpg": encoded(photo(k), "JPEG") for k in range(count)}
    return {**files, "sub/large.png": encoded(photo(9, (700, 600)), "PNG"), "sub/text.jpg": b"text"}


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "photos"
    for name, data in pictures().items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
        aged(place / name)
    assert (place / "sub/large.png").stat().st_size > 1 << 20, "so large that it is not read at once"
    return place


def packed(folder: Path) -> list[Path]:
    files, place = below(folder), folder.parent
    tars = [tarred(place / f"photos.{end}", files, mode) for end, mode in TARS.items()]
    return [*tars, *(zipped(place / f"{name}.zip", files, method) for name, method in ZIPS.items())]


def without(name: str, table: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{key: text.replace(f"{name}/", "") for key, text in row.items()} for row in table]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_archive_gives_what_its_folder_gives(camcli, folder, tmp_path, workers):
    flags = (*TINY, "--save-maps", "--workers", workers)
    assert camcli("run", folder, "-o", tmp_path / "whole", *flags).code == 1
    whole = contents_of(tmp_path / "whole" / "overlays")
    for place in packed(folder):
        out = tmp_path / f"out-{place.name}"
        assert camcli("run", place, "-o", out, *flags).code == 1, place
        assert without(place.name, rows_of(out)) == rows_of(tmp_path / "whole"), place
        assert without(place.name, failures_of(out)) == failures_of(tmp_path / "whole"), place
        assert contents_of(out / "overlays" / place.name) == whole, place
        assert camcli("verify", out, "--inputs").code == 0
        before = state_of(out)
        assert "Nothing to do" in camcli("run", place, "-o", out, *flags).err
        assert state_of(out) == before


def test_the_look_can_be_changed_where_the_images_are_in_an_archive(camcli, folder, tmp_path):
    for place in (folder, *packed(folder)[::3]):
        out = tmp_path / f"out-{place.name}"
        camcli("run", place, "-o", out, *TINY, "--save-maps")
        assert camcli("render", out, "--style", "contour").code == 0
    whole = contents_of(tmp_path / "out-photos" / "overlays")
    for place in packed(folder)[::3]:
        assert contents_of(tmp_path / f"out-{place.name}" / "overlays" / place.name) == whole


# names and places -----------------------------------------------------------------------------------------------------------------

_PART = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=60).filter(
    lambda part: not part.startswith(".") and part != "__MACOSX"
)
_NAME = st.lists(_PART, min_size=1, max_size=4).map(lambda parts: "/".join(parts) + ".jpg")
_FILES = st.dictionaries(_NAME, st.binary(min_size=1, max_size=1500), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(files=_FILES, kind=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]), mode=st.sampled_from(list(TARS.values())))
def test_every_member_of_a_tar_has_its_name_and_its_bytes(tmp_path_factory, files, kind, mode):
    place = tarred(tmp_path_factory.mktemp("tar") / f"x.{next(end for end, m in TARS.items() if m == mode)}", files, mode, kind)
    assert {one.image: read(one) for one in listed(place)} == {f"{place.name}/{name}": data for name, data in files.items()}


@settings(max_examples=60, deadline=None)
@given(files=_FILES, method=st.sampled_from(list(ZIPS.values())), before=st.binary(max_size=50), comment=st.binary(max_size=50))
def test_every_member_of_a_zip_has_its_name_and_its_bytes(tmp_path_factory, files, method, before, comment):
    place = tmp_path_factory.mktemp("zip") / "x.zip"
    with zipfile.ZipFile(place, "w", method) as archive:
        archive.comment = comment.replace(b"PK", b"")
        for name, data in files.items():
            with archive.open(name, "w", force_zip64=len(name) % 2 == 0) as file:
                file.write(data)
    place.write_bytes(before.replace(b"PK", b"") + place.read_bytes())  # as a program that unpacks itself has it
    assert {one.image: read(one) for one in listed(place)} == {f"x.zip/{name}": data for name, data in files.items()}


def test_a_zip_of_more_than_65535_members_is_read_by_its_wide_directory(tmp_path):
    place = tmp_path / "x.zip"
    with zipfile.ZipFile(place, "w") as archive:
        for k in range(70_000):
            archive.writestr(f"{k}.jpg", b"%d" % k)
    found = listed(place)
    assert [one.image for one in found] == [f"x.zip/{k}.jpg" for k in range(70_000)]
    assert [read(found[k]) for k in (0, 65_535, 65_536, 69_999)] == [b"0", b"65535", b"65536", b"69999"]


def test_members_are_named_like_files_and_what_is_hidden_is_left_out(tmp_path):
    files = {"./a.jpg": b"1", "x//b.PNG": b"2", ".hidden.jpg": b"3", "d/.e/c.jpg": b"4", "__MACOSX/a.jpg": b"5", "t.txt": b"6"}
    for place in (tarred(tmp_path / "x.tar", files), zipped(tmp_path / "x.zip", files)):
        assert {one.image: read(one) for one in listed(place)} == {f"{place.name}/a.jpg": b"1", f"{place.name}/x/b.PNG": b"2"}


def test_of_members_with_one_name_the_last_counts_as_in_unpacking(tmp_path):
    tar, archive = tmp_path / "x.tar", tmp_path / "x.zip"
    with tarfile.open(tar, "w") as file:
        for data in (b"first", b"second", b"third"):
            info = tarfile.TarInfo("./a.jpg" if data == b"second" else "a.jpg")
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    with zipfile.ZipFile(archive, "w") as file:
        for data in (b"first", b"second", b"third"):
            with warnings.catch_warnings(action="ignore"):
                file.writestr("a.jpg", data)
    for place in (tar, archive):
        assert [(one.image, read(one)) for one in listed(place)] == [(f"{place.name}/a.jpg", b"third")]


# hostile archives -----------------------------------------------------------------------------------------------------------------


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_links_devices_and_names_that_lead_out_are_failures_and_nothing_is_followed(camcli, tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(encoded(photo(1), "JPEG"))
    place = tmp_path / "evil.tar"
    good = encoded(photo(2), "JPEG")
    with tarfile.open(place, "w") as archive:
        archive.addfile(special("link.jpg", tarfile.SYMTYPE, str(secret)))
        archive.addfile(special("hard.jpg", tarfile.LNKTYPE, "good.jpg"))
        archive.addfile(special("null.jpg", tarfile.CHRTYPE))
        archive.addfile(special("disk.jpg", tarfile.BLKTYPE))
        archive.addfile(special("pipe.jpg", tarfile.FIFOTYPE))
        for name in ("../up.jpg", str(tmp_path / "absolute.jpg"), "a/../../b.jpg", "good.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(good)
            archive.addfile(info, io.BytesIO(good))
    before = {path.name for path in tmp_path.iterdir()} | {"out"}
    assert camcli("run", place, "-o", tmp_path / "out", *TINY).code == 1
    assert [row["image"] for row in rows_of(tmp_path / "out")] == ["evil.tar/good.jpg"]
    reasons = {row["image"]: (row["stage"], row["error"]) for row in failures_of(tmp_path / "out")}
    link, special_file, outside = (
        ("read", "a link in an archive, which is never followed"),
        ("read", "not a regular file but a device or a FIFO in an archive"),
        ("read", "its name leads out of the archive"),
    )
    assert reasons == {
        "evil.tar/link.jpg": link,
        "evil.tar/hard.jpg": link,
        "evil.tar/null.jpg": special_file,
        "evil.tar/disk.jpg": special_file,
        "evil.tar/pipe.jpg": special_file,
        "evil.tar/../up.jpg": outside,
        f"evil.tar/{tmp_path}/absolute.jpg": outside,
        "evil.tar/a/../../b.jpg": outside,
    }
    assert {path.name for path in tmp_path.iterdir()} == before
    again = camcli("run", place, "-o", tmp_path / "out", *TINY)
    assert again.code == 0, "known failures are told once"
    assert "Nothing to do" in again.err


def changed_zip(place: Path, change) -> Path:
    """A zip of one deflated picture, whose local and central header ``change`` has edited in place."""
    zipped(place, {"a.jpg": encoded(photo(3), "JPEG"), "b.jpg": encoded(photo(4), "JPEG")})
    data = bytearray(place.read_bytes())
    change(data, data.index(b"PK\1\2"))
    place.write_bytes(data)
    return aged(place)


def put(kind: str, offset: int, value: int):
    def change(data: bytearray, at: int) -> None:
        struct.pack_into(kind, data, at + offset, value)

    return change


def spoil_data(data: bytearray, at: int) -> None:
    data[200] ^= 0xFF


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("<H", 8, 1), "encrypted"),
        (put("<H", 10, 99), "method 99"),
        (put("<L", 16, 12345), "Bad CRC-32"),
        (put("<L", 20, 1 << 30), "outside of the archive"),
        (put("<L", 24, 10), "Bad CRC-32"),
        (put("<L", 42, 7), "not where the directory says"),
        (put("<L", 42, 1 << 31), "outside of the archive"),
        (spoil_data, "damaged"),
    ],
)
def test_a_lying_member_of_a_zip_is_a_failure_and_its_neighbour_is_not(camcli, tmp_path, change, reason):
    place = changed_zip(tmp_path / "x.zip", change)
    assert camcli("run", place, "-o", tmp_path / "out", *TINY).code == 1
    [failure] = failures_of(tmp_path / "out")
    assert failure["image"] == "x.zip/a.jpg"
    assert reason in failure["error"]
    assert [row["image"] for row in rows_of(tmp_path / "out")] == ["x.zip/b.jpg"]


def test_a_member_that_claims_to_be_larger_than_it_is_gives_no_heatmap_of_other_bytes(tmp_path):
    place = changed_zip(tmp_path / "x.zip", put("<L", 24, 5_000_000))
    first, second = listed(place)
    assert "CRC" in str(read(first)) or isinstance(read(first), bytes)
    assert read(second) == encoded(photo(4), "JPEG")


def test_bombs_cost_no_more_memory_than_their_first_bytes(tmp_path):
    """Zeros that unpack to a gigabyte, named like a picture."""
    inner = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = b"".join(inner.compress(bytes(1 << 20)) for _ in range(900)) + inner.flush()
    place = tmp_path / "bomb.zip"
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(body), 900 << 20, 5, 0) + b"a.jpg"
    central = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 0, 0, len(body), 900 << 20, 5, 0, 0, 0, 0, 0, 0) + b"a.jpg"
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local) + len(body), 0)
    place.write_bytes(local + body + central + end)
    aged(place)
    [member] = listed(place)
    from camcli.images.decode import decode_image
    from camcli.records import Failure

    tracemalloc.start()
    begun = time.process_time()
    outcome = decode_image(member, 10**8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(outcome, Failure)
    assert peak < 64 << 20
    assert time.process_time() - begun < 5


def test_a_compressed_tar_with_a_member_that_is_too_large_ends_there(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 1 << 20)
    files = {"a.jpg": b"a", "bomb.jpg": bytes(4 << 20), "b.jpg": b"b"}
    *found, last = listed(tarred(tmp_path / "x.tar.gz", files, "w:gz"))
    assert [(one.image, read(one)) for one in found] == [("x.tar.gz/a.jpg", b"a")]
    assert last.image == "x.tar.gz"
    assert "more than 1,048,576 bytes" in str(read(last))


def sparse_tar(place: Path) -> Path:
    """A tar whose second header announces eight gigabytes of names, which are not there."""
    tarred(place, {"a.jpg": b"a"})
    info = special("x", tarfile.XHDTYPE)
    info.size = 8 << 30
    header = info.tobuf(tarfile.GNU_FORMAT)
    place.write_bytes(place.read_bytes()[:1024] + header + bytes(2048))
    return aged(place)


def test_a_header_of_gigabytes_is_not_read(tmp_path):
    place = sparse_tar(tmp_path / "x.tar")
    with open(place, "r+b") as file:
        file.truncate(9 << 30)  # sparse: the bytes are there
    aged(place)
    tracemalloc.start()
    first, last = listed(place)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read(first) == b"a"
    assert "a header of" in str(read(last))
    assert peak < 32 << 20


# truncated and damaged ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["tar", "tar.gz", "zip"])
def test_of_a_truncated_archive_what_is_whole_is_read_and_the_rest_is_one_failure(tmp_path, end):
    files = {f"{k}.jpg": random.Random(k).randbytes(900) for k in range(5)}
    whole = tmp_path / f"whole.{end}"
    zipped(whole, files) if end == "zip" else tarred(whole, files, TARS[end])
    data, counts = whole.read_bytes(), set()
    ends = tarfile.BLOCKSIZE * 3 * 5 + tarfile.BLOCKSIZE  # of the last member, and of the first of the two blocks of zeros
    for length in range(0, len(data), 37):
        place = tmp_path / f"x.{end}"
        place.write_bytes(data[:length])
        found = listed(aged(place))
        if (end == "tar.gz" and len(zlib.decompressobj(31).decompress(data[:length])) >= ends) or (end == "tar" and length >= ends):
            assert [read(one) for one in found][: len(files)] == list(files.values())
            continue
        *kept, last = found
        assert last.image == f"x.{end}"
        reason = str(read(last))
        assert "byte" in reason or reason == "the file is empty", (length, reason)
        expected = [(f"x.{end}/{name}", body) for name, body in list(files.items())[: len(kept)]]
        assert [(one.image, read(one)) for one in kept] == expected, length
        counts.add(len(kept))
        if end == "tar":
            assert len(kept) == sum(length >= 3 * 512 * k + 512 + 900 for k in range(5)), length
    assert counts == ({0} if end == "zip" else set(range(6)) if end == "tar" else counts)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), end=st.sampled_from(["tar", "tar.gz", "tar.xz", "zip"]))
def test_damage_anywhere_never_raises_and_a_zip_never_gives_other_bytes(tmp_path_factory, data, end):
    files = {f"{k}.jpg": random.Random(k).randbytes(300) for k in range(4)}
    place = tmp_path_factory.getbasetemp() / f"damaged.{end}"
    zipped(place, files) if end == "zip" else tarred(place, files, TARS[end])
    contents = bytearray(place.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        contents[data.draw(st.integers(0, len(contents) - 1))] = data.draw(st.integers(0, 255))
    place.write_bytes(contents[: data.draw(st.integers(0, len(contents)))] if data.draw(st.booleans()) else contents)
    for source in listed(place):
        found = read(source)
        if end == "zip" and isinstance(found, bytes):
            assert found in files.values()
    archives.close_streams()


def test_what_is_no_archive_is_one_failure(camcli, tmp_path):
    for name in ("text.tar", "text.zip", "text.tgz", "text.tar.xz", "text.tar.bz2"):
        (tmp_path / name).write_text("text" * 500)
    (tmp_path / "empty.tar").touch()
    os.mkfifo(tmp_path / "pipe.zip")
    (tmp_path / "good.jpg").write_bytes(encoded(photo(1), "JPEG"))
    result = camcli("run", *sorted(tmp_path.iterdir()), "-o", tmp_path / "out", *TINY)
    assert result.code == 1
    assert [row["image"] for row in rows_of(tmp_path / "out")] == ["good.jpg"]
    assert [row["image"] for row in failures_of(tmp_path / "out")] == [
        "empty.tar", "pipe.zip", "text.tar", "text.tar.bz2", "text.tar.xz", "text.tgz", "text.zip",
    ]  # fmt: skip


def test_an_archive_of_a_kind_that_is_not_read_says_so(camcli, tmp_path):
    (tmp_path / "x.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    (tmp_path / "x.jpg").write_bytes(zipped(tmp_path / "y.zip", {"a": b"a"}).read_bytes())
    assert camcli("run", tmp_path / "x.tar.zst", tmp_path / "x.jpg", "-o", tmp_path / "out", *TINY).code == 1
    assert [row["error"] for row in failures_of(tmp_path / "out")] == [
        "not an image but an archive compressed with Zstandard, which is not supported: compress it with gzip",
        "not an image but a zip archive: give it a name that ends in .zip",
    ]


# changed archives -----------------------------------------------------------------------------------------------------------------


def test_a_changed_archive_is_explained_again_and_an_equal_one_is_not(camcli, tmp_path):
    files = pictures(3)
    place, out = tarred(tmp_path / "x.tar", files), tmp_path / "out"
    camcli("run", place, "-o", out, *TINY)
    before = state_of(out / "overlays")
    tarred(place, {**files, "01.jpg": encoded(photo(77), "JPEG")})
    os.utime(place, (OLD + 5, OLD + 5))
    camcli("run", place, "-o", out, *TINY)
    after = state_of(out / "overlays")
    name = next(name for name in after if "01.jpg" in name)
    assert after[name][0] != before[name][0]
    camcli("run", place, "-o", tmp_path / "fresh", *TINY)
    assert differences(out, tmp_path / "fresh") == []


def test_with_hash_a_member_that_only_moved_is_not_explained_again(camcli, tmp_path):
    files = pictures(3)
    place, out = tarred(tmp_path / "x.tar", files), tmp_path / "out"
    camcli("run", place, "-o", out, *TINY, "--hash")
    before = state_of(out / "overlays")
    tarred(place, {"new.jpg": encoded(photo(78), "JPEG"), **files})
    os.utime(place, (OLD + 5, OLD + 5))
    camcli("run", place, "-o", out, *TINY, "--hash")
    after = state_of(out / "overlays")
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1


@pytest.mark.parametrize("end", ["tar", "tar.gz", "zip"])
def test_an_archive_that_changes_between_listing_and_reading_is_never_read_wrongly(tmp_path, end):
    files, other = ({f"{k}.jpg": random.Random(k + n).randbytes(900) for k in range(3)} for n in (0, 10))
    place = tmp_path / f"x.{end}"
    pack = (lambda f: zipped(place, f, zipfile.ZIP_STORED)) if end == "zip" else (lambda f: tarred(place, f, TARS[end]))
    pack(files)
    found = listed(place)
    assert read(found[0]) == files["0.jpg"]
    pack(other)
    os.utime(place, (OLD + 1, OLD + 1))
    assert [str(read(one)) for one in found] == ["the archive has changed since it was listed; the next run tries again"] * 3
    assert not any(one.is_readable() for one in found)
    assert [read(one) for one in listed(place)] == list(other.values())


# reading in any order -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", list(TARS))
def test_members_are_read_in_any_order_and_in_parts(tmp_path, end):
    files = {f"{k}.jpg": random.Random(k).randbytes(5000) for k in range(12)}
    found = listed(tarred(tmp_path / f"x.{end}", files, TARS[end]))
    order = list(range(12)) * 2
    random.Random(5).shuffle(order)
    for k in order:
        with found[k].open() as contents:
            assert contents.file.read(100) == files[f"{k}.jpg"][:100]
            contents.file.seek(4000)
            assert contents.file.read() == files[f"{k}.jpg"][4000:]
            contents.file.seek(-10, os.SEEK_END)
            assert contents.file.read() == files[f"{k}.jpg"][-10:]
            contents.file.seek(0)
            assert contents.file.read() == files[f"{k}.jpg"]


def test_a_compressed_tar_is_unpacked_once_for_members_in_order(tmp_path, monkeypatch):
    opened = []
    real = gzip.GzipFile
    monkeypatch.setitem(archives._OPENERS, "gz", lambda file: opened.append(1) or real(fileobj=file))
    monkeypatch.setattr(gzip._GzipReader, "_rewind", lambda self: pytest.fail("read again from its beginning"))
    files = {f"{k}.jpg": random.Random(k).randbytes(5000) for k in range(50)}
    found = listed(tarred(tmp_path / "x.tar.gz", files, "w:gz"))
    assert [read(one) for one in found] == list(files.values())
    assert len(opened) == 2, "once for the index, once for the members"


# labels ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["tar", "tar.gz", "zip"])
def test_labels_are_read_from_beside_the_images(camcli, tmp_path, end):
    image = encoded(photo(1), "JPEG")
    files = {
        "a/0.jpg": image, "a/0.cls": b"0\n",
        "a/1.left.jpg": image, "a/1.right.jpg": image, "a/1.json": b'{"caption": "x", "label": "bright"}',
        "b/0.cls": b"dark", "b/0.jpg": image,
        "b/1.jpg": image, "b/1.json": b"[1, 2",
        "b/2.jpg": image, "b/2.txt": b"dark", "b/2.cls": b"\xff\xff",
    }  # fmt: skip
    place = tmp_path / f"x.{end}"
    zipped(place, files) if end == "zip" else tarred(place, files, TARS[end])
    found = {one.image.partition("/")[2]: one.label for one in listed(place, labelled=True)}
    assert found == {
        "a/0.jpg": "0",
        "a/1.left.jpg": "bright",
        "a/1.right.jpg": "bright",
        "b/0.jpg": "dark",
        "b/1.jpg": "[1, 2",
        "b/2.jpg": None,
    }
    del files["b/1.json"]
    zipped(place, files) if end == "zip" else tarred(place, files, TARS[end])
    out = tmp_path / "out"
    assert camcli("run", place, "-o", out, *TINY[:4], "--topk", 1, "--class-from", "member").code == 0
    labels = {row["image"].partition("/")[2]: row["label"] for row in rows_of(out)}
    assert labels == {
        "a/0.jpg": "bright",
        "a/1.left.jpg": "bright",
        "a/1.right.jpg": "bright",
        "b/0.jpg": "dark",
        "b/1.jpg": "",
        "b/2.jpg": "",
    }
    none = camcli(
        "run", zipped(tmp_path / "none.zip", {"a.jpg": image}), "-o", tmp_path / "no", *TINY[:4], "--class-from", "member"
    )
    assert none.code == 2
    assert "labels none of the 1 image" in none.err


# inputs ---------------------------------------------------------------------------------------------------------------------------


def test_braces_stand_for_paths_as_in_a_shell(tmp_path):
    assert expanded("s/{00..03}.tar") == [f"s/0{k}.tar" for k in range(4)]
    assert expanded("{a,b}/{1..2}.zip") == ["a/1.zip", "a/2.zip", "b/1.zip", "b/2.zip"]
    assert expanded("{3..1}") == ["3", "2", "1"]
    assert expanded("{8..11}") == ["8", "9", "10", "11"]
    assert expanded("{08..11}") == ["08", "09", "10", "11"]
    assert expanded("a{b}c{,d}") == ["a{b}c", "a{b}cd"]
    assert expanded("plain") == ["plain"]
    odd = tmp_path / "{1..3}.jpg"
    odd.touch()
    assert expanded(str(odd)) == [str(odd)]
    begun = time.process_time()
    for pattern in ("{0..999999999}", "{0..999999}{0..999999}", "{1,2}" * 40):
        with pytest.raises(InputError, match="more than 1,000,000 paths"):
            expanded(pattern)
    assert time.process_time() - begun < 5


def test_several_archives_are_named_by_a_pattern_on_stdin_or_inside_folders(camcli, tmp_path, monkeypatch):
    shards = tmp_path / "shards"
    shards.mkdir()
    for k in range(3):
        tarred(shards / f"{k:02d}.tar", {f"{j}.jpg": encoded(photo(10 * k + j), "JPEG") for j in range(2)})
    (shards / "z.jpg").write_bytes(encoded(photo(99), "JPEG"))
    expected = [f"{k:02d}.tar/{j}.jpg" for k in range(3) for j in range(2)]

    def names(*arguments):
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        result = camcli("run", *arguments, "-o", out, *TINY)
        assert result.code == 0, result.err
        return [row["image"] for row in rows_of(out)]

    assert names(shards / "{00..02}.tar") == expected
    assert names(shards) == ["z.jpg"]
    assert names(shards, "--archives") == [*expected, "z.jpg"]
    assert names(shards / "{00..02}.tar", "--limit", 3) == expected[:3]
    read_end, write_end = os.pipe()
    os.write(write_end, "".join(f"{shards / name}\n" for name in ("00.tar", "02.tar", "z.jpg")).encode())
    os.close(write_end)
    with open(read_end) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.chdir(shards)
        assert names("-") == [*expected[:2], *expected[4:], "z.jpg"]


def test_shards_of_archives_join_to_the_run_of_one_machine(camcli, folder, tmp_path):
    place = zipped(tmp_path / "x.zip", below(folder))
    camcli("run", place, "-o", tmp_path / "whole", *TINY)
    for part in range(2):
        camcli("run", place, "-o", tmp_path / "parts", *TINY, "--shard", f"{part}/2")
    camcli("merge", tmp_path / "parts")
    assert {row["image"] for row in rows_of(tmp_path / "parts")} == {row["image"] for row in rows_of(tmp_path / "whole")}
    assert contents_of(tmp_path / "parts" / "overlays") == contents_of(tmp_path / "whole" / "overlays")


def test_the_end_of_a_name_tells_an_archive():
    assert all(map(is_archive, ("a.tar", "A.TAR", "a.tar.gz", "a.tgz", "a.zip", "a.tar.xz", "a.tbz2")))
    assert not any(map(is_archive, ("a.gz", "tar", "a.tar.jpg", "zip", "a.jpg")))


# memory and kills -----------------------------------------------------------------------------------------------------------------


def many(place: Path, count: int) -> Path:
    if place.suffix == ".zip":
        with zipfile.ZipFile(place, "w") as archive:
            for k in range(count):
                archive.writestr(f"{k:09d}.jpg", b"x")
        return aged(place)
    header = tarfile.TarInfo("x.jpg")
    header.size = 1
    with open(place, "wb") as file:
        for k in range(count):
            header.name = f"{k:09d}.jpg"
            file.write(header.tobuf(tarfile.USTAR_FORMAT) + b"x".ljust(512, b"\0"))
        file.write(bytes(1024))
    return aged(place)


def bytes_a_member(place: Path, count: int) -> float:
    tracemalloc.start()
    found = listed(place)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == count
    return peak / count


@pytest.mark.parametrize("end", ["tar", "zip"])
def test_listing_takes_at_most_300_bytes_a_member(tmp_path, end):
    assert bytes_a_member(many(tmp_path / f"00000.{end}", 20_000), 20_000) <= 300


@pytest.mark.soak
@pytest.mark.parametrize("end", ["tar", "zip"])
def test_listing_a_million_members_takes_at_most_300_bytes_each(tmp_path, end):
    found = bytes_a_member(many(tmp_path / f"00000.{end}", 1_000_000), 1_000_000)
    print(f"{found:.0f} bytes a member")
    assert found <= 300


def killed(forks, place: Path, tmp_path: Path, kills: int) -> None:
    """A run over ``place`` that is killed at random moments and goes on, ends as if nothing had happened."""
    draw, flags = random.Random(3), (*TINY, "--batch-size", 4, "--quiet", "--save-maps")
    forks.start(["run", place, "-o", tmp_path / "whole", *flags], tmp_path / "log").wait(120)
    done = 0
    while done < kills:
        out = tmp_path / f"out-{done}"
        for attempt in range(kills):
            run = forks.start(["run", place, "-o", out, *flags, "--workers", 2 * (attempt % 2)], tmp_path / "log")
            before = written(out)
            wait_for(lambda now=before, at=out, process=run: written(at) != now or process.poll() is not None, 20)
            time.sleep(draw.random() * 0.3)
            workers = workers_below(run.pid)
            run.send_signal(signal.SIGKILL)
            if run.wait(30) != -signal.SIGKILL:
                break
            done += 1
            assert survivors(workers) == []
            assert violations_of_always(out) == []
        assert forks.start(["run", place, "-o", out, *flags], tmp_path / "log").wait(120) in (0, 1)
        assert differences(out, tmp_path / "whole") == []


@pytest.mark.parametrize("end", ["tar.gz", "zip"])
def test_a_run_over_an_archive_that_is_killed_goes_on(forks, tmp_path, end):
    files = {f"{k:03d}.jpg": encoded(noise(k, (300, 200)), "JPEG") for k in range(60)} | {"broken.jpg": b"text"}
    place = tmp_path / f"x.{end}"
    zipped(place, files) if end == "zip" else tarred(place, files, TARS[end])
    killed(forks, place, tmp_path, 3)


@pytest.mark.soak
@pytest.mark.parametrize("end", ["tar", "tar.gz", "zip"])
def test_a_run_over_an_archive_that_is_killed_twenty_times_goes_on(forks, tmp_path, end):
    files = {f"{k:03d}.jpg": encoded(noise(k, (300, 200)), "JPEG") for k in range(200)} | {"broken.jpg": b"text"}
    place = tmp_path / f"x.{end}"
    zipped(place, files) if end == "zip" else tarred(place, files, TARS[end])
    killed(forks, place, tmp_path, 20)


def test_what_cannot_be_read_says_what_it_is():
    refused = Refused("", "x.tar", "because", None)
    assert (read(refused), refused.stamp(), refused.is_readable()) == ("because", None, False)
