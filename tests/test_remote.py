"""Object stores and web servers as inputs: what a folder with the same files would give, or a failure with its reason."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camcli.addresses import masked
from camcli.errors import ImageError
from camcli.images.discover import Search, discover_sources
from camcli.images.remote import store
from camcli.images.remote.addresses import line_of_list, parsed
from camcli.images.remote.blocks import BlockFile
from camcli.images.remote.objects import RemoteSource
from camcli.images.remote.store import Listed, Piece, Store
from camcli.pipeline.ahead import Ahead
from camcli.records import Stamp
from camcli.source import Contents, Source
from tests.faults import differences, violations_of_always
from tests.folders import TINY, contents_of, failures_of, rows_of, state_of
from tests.forks import survivors, wait_for, workers_below, written
from tests.pictures import encoded, noise, photo
from tests.servers import Front, WebServer, s3_front, s3_server
from tests.test_archives import TARS, below, pictures, tarred, without, zipped

BUCKET = "photos"


@pytest.fixture(scope="module")
def moto():
    """The port of an S3 server."""
    with s3_server() as port:
        yield port


@pytest.fixture
def s3(moto, monkeypatch):
    """The S3 server behind one that can misbehave: ``s3.fault``. Nothing else is reachable, and no settings of a user count."""
    with s3_front(moto, monkeypatch, BUCKET) as front:
        store.forget_stores()
        yield front
        store.forget_stores()
        for page in front.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            for one in page.get("Contents", ()):
                front.client.delete_object(Bucket=BUCKET, Key=one["Key"])
        front.client.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def web():
    store.forget_stores()
    with WebServer() as server:
        yield server


@pytest.fixture
def quick(monkeypatch):
    """Tries follow each other soon, and silence is soon taken for one."""
    monkeypatch.setattr(store, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(store, "LONGEST_WAIT", 0.01)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "photos"
    for name, data in pictures().items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
        os.utime(place / name, (1_500_000_000, 1_500_000_000))
    return place


def filled(s3: Front, files: dict[str, bytes], prefix: str = "") -> str:
    """The address of the bucket with ``files``."""
    for name, data in files.items():
        s3.client.put_object(Bucket=BUCKET, Key=prefix + name, Body=data)
    return f"s3://{BUCKET}/{prefix}"


def served(web: WebServer, files: dict[str, bytes]) -> str:
    """The address of a list of ``files``, which the server has beside it."""
    web.files.update({f"/album/{name}": data for name, data in files.items()})
    web.files["/album/list.txt"] = "\n".join(files).encode()
    return f"{web.url}/album/list.txt"


KINDS = ("bucket", "list", "s3 tar", "s3 tar.gz", "s3 zip", "web tar", "web tar.gz", "web zip")
"""Ways to have the photos of a folder elsewhere."""


def elsewhere(kind: str, folder: Path, s3: Front, web: WebServer) -> tuple[str, str]:
    """The address of the photos of a folder, and the beginning of the names there."""
    files = below(folder)
    if kind in ("bucket", "list"):
        return (filled(s3, files, "all/") if kind == "bucket" else served(web, files)), ""
    where, _, end = kind.partition(" ")
    archive = folder.parent / f"x.{end}"
    data = (zipped(archive, files) if end == "zip" else tarred(archive, files, TARS[end])).read_bytes()
    if where == "s3":
        filled(s3, {archive.name: data}, "packed/")
        return f"s3://{BUCKET}/packed/{archive.name}", f"{archive.name}/"
    web.files[f"/packed/{archive.name}"] = data
    return f"{web.url}/packed/{archive.name}", f"{archive.name}/"


def renamed(table: list[dict[str, str]], beginning: str) -> list[dict[str, str]]:
    return without(beginning.rstrip("/"), table) if beginning else table


def assert_same(out: Path, whole: Path, beginning: str = "") -> None:
    assert renamed(rows_of(out), beginning) == rows_of(whole)
    assert renamed(failures_of(out), beginning) == failures_of(whole)
    assert contents_of(out / "overlays" / beginning) == contents_of(whole / "overlays")


@pytest.mark.parametrize("workers", [0, 2])
def test_every_place_gives_what_the_folder_gives(camcli, folder, s3, web, tmp_path, workers):
    flags = (*TINY, "--workers", workers)
    assert camcli("run", folder, "-o", tmp_path / "whole", *flags).code == 1
    for what in ("bucket", "web tar.gz") if workers else KINDS:
        address, beginning = elsewhere(what, folder, s3, web)
        out = tmp_path / f"out-{what}"
        assert camcli("run", address, "-o", out, *flags).code == 1, what
        assert_same(out, tmp_path / "whole", beginning)
        before = state_of(out)
        assert "Nothing to do" in camcli("run", address, "-o", out, *flags).err, what
        assert state_of(out) == before


@pytest.mark.soak
def test_512_photos_give_the_same_everywhere(camcli, s3, web, tmp_path):
    """With the bundled network, in a folder, archives, shards, a bucket and on a web server."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(512):
        (folder / f"{number:03}.jpg").write_bytes(encoded(photo(number), "JPEG"))
    files, whole = below(folder), tmp_path / "whole"
    assert camcli("run", folder, "-o", whole).code == 0
    assert len(rows_of(whole)) == 512
    addresses = {what: elsewhere(what, folder, s3, web) for what in KINDS}
    for end in ("tar", "zip"):
        addresses[end] = str(tmp_path / f"x.{end}"), f"x.{end}/"
    for what, (address, beginning) in addresses.items():
        out = tmp_path / what
        assert camcli("run", address, "-o", out).code == 0, what
        assert_same(out, whole, beginning)
    for number in range(4):
        tarred(tmp_path / f"{number}.tar", {name: files[name] for name in sorted(files)[number * 128 : number * 128 + 128]})
    assert camcli("run", str(tmp_path / "{0..3}.tar"), "-o", tmp_path / "shards").code == 0
    assert [row | {"image": row["image"].partition("/")[2], "overlay": ""} for row in rows_of(tmp_path / "shards")] == [
        row | {"overlay": ""} for row in rows_of(whole)
    ]


def test_shards_in_a_bucket_and_on_a_server(camcli, folder, s3, web, tmp_path):
    """As WebDataset divides them, with classes; a brace pattern names them all."""
    names = sorted(below(folder))
    for number in range(3):
        files = {}
        for name in names[number::3]:
            files[name] = (folder / name).read_bytes()
            files[f"{name.partition('.')[0]}.cls"] = b"bright"
        place = tarred(tmp_path / f"{number:05d}.tar", files)
        filled(s3, {place.name: place.read_bytes()}, "shards/")
        web.files[f"/shards/{place.name}"] = place.read_bytes()
    flags = ("--model", TINY[1], "--layer", "cells", "--class-from", "member", "--workers", 0)
    camcli("run", str(tmp_path / "{00000..00002}.tar"), "-o", tmp_path / "whole", *flags)
    for number, address in enumerate((f"s3://{BUCKET}/shards/{{00000..00002}}.tar", f"{web.url}/shards/{{00000..00002}}.tar")):
        camcli("run", address, "-o", tmp_path / f"out{number}", *flags)
        assert_same(tmp_path / f"out{number}", tmp_path / "whole")
    camcli("run", f"s3://{BUCKET}/shards", "--archives", "-o", tmp_path / "out", *flags)
    assert_same(tmp_path / "out", tmp_path / "whole")
    assert {row["label"] for row in rows_of(tmp_path / "out")} == {"bright"}


def test_a_bucket_is_listed_once_and_each_image_is_asked_for_once(camcli, folder, s3, tmp_path):
    address = filled(s3, below(folder))
    camcli("run", address, "-o", tmp_path / "out", *TINY, "--workers", 0)
    asked = [path for _, path, _ in s3.requests]
    assert sum("list-type" in path for path in asked) == 1
    assert len(asked) == 1 + len(below(folder))
    s3.forget()
    camcli("run", address, "-o", tmp_path / "out", *TINY, "--workers", 0)
    assert ["list-type" in path for _, path, _ in s3.requests] == [True], "the second run"


def test_one_object_and_several_addresses(camcli, folder, s3, web, tmp_path):
    filled(s3, below(folder), "a/")
    files = below(folder)
    for name in ("00.jpg", "sub/large.png"):
        found = discover_sources([f"s3://{BUCKET}/a/{name}"], Search(""))
        assert [(one.root, one.image) for one in found] == [(f"s3://{BUCKET}/{('a/' + name).rpartition('/')[0]}", Path(name).name)]
        assert contents_of_source(found[0]) == files[name]
    both = discover_sources([f"s3://{BUCKET}/a/sub", f"s3://{BUCKET}/a/00.jpg", f"s3://{BUCKET}/a/sub/"], Search(""))
    assert [one.image for one in both] == ["sub/large.png", "sub/text.jpg", "00.jpg"], "below the deepest common folder, each once"
    web.files["/x/y.jpg"] = files["00.jpg"]
    (one,) = discover_sources([f"{web.url}/x/y.jpg"], Search(""))
    assert (one.root, one.image, contents_of_source(one)) == (f"{web.url}/x", "y.jpg", files["00.jpg"])


def contents_of_source(source: Source) -> bytes | str:
    """The bytes of a source, or why they cannot be read."""
    try:
        with source.open() as contents:
            return contents.file.read()
    except ImageError as error:
        return str(error)


# what may pass, and what may not --------------------------------------------------------------------------------------------------

PASSING = ("503", "close", "500", "cut", "429", "unmeasured", "flip")


@pytest.mark.parametrize("kind", ["bucket", "list", "s3 zip", "s3 tar", "web tar", "web zip", "web tar.gz"])
def test_what_passes_is_asked_again_and_changes_nothing(camcli, folder, s3, web, tmp_path, quick, kind):
    """The first two requests for anything fail, in another way each time, also for the listing.

    Bytes that are changed on their way are noticed where the ETag is their checksum.
    """
    camcli("run", folder, "-o", tmp_path / "whole", *TINY, "--workers", 0)
    address, beginning = elsewhere(kind, folder, s3, web)
    faults = [fault for fault in PASSING if fault not in {"bucket": ("unmeasured",), "list": ("flip",)}.get(kind, PASSING[5:])]
    known: dict[str, int] = {}

    def fault(path: str, nth: int) -> str:
        number = known.setdefault(path, len(known))
        return (faults if number else faults[:3])[(number + nth) % (len(faults) if number else 3)] if nth <= 2 else ""

    s3.fault = web.fault = fault
    assert camcli("run", address, "-o", tmp_path / "out", *TINY, "--workers", 0).code == 1
    assert_same(tmp_path / "out", tmp_path / "whole", beginning)


LASTING = {
    "00.jpg": ("404", "there is no such object"),
    "01.jpg": ("403", "refuses it"),
    "02.jpg": ("400", "HTTP 400|credentials"),
    "03.jpg": ("503", "503|SlowDown"),
    "04.jpg": ("close", "cannot reach"),
    "05.jpg": ("cut", "ended"),
    "06.jpg": ("hang", "no answer|cannot reach"),
    "sub/large.png": ("trickle", "no answer|ended"),
}
"""A fault that lasts for each image, and what is said of it."""


@pytest.mark.parametrize("kind", ["bucket", "list"])
def test_what_stays_is_a_failure_of_that_image_and_the_next_run_tries_again(
    camcli, folder, s3, web, tmp_path, quick, monkeypatch, kind
):
    (folder / "good.jpg").write_bytes(encoded(photo(33), "JPEG"))
    monkeypatch.setattr(store, "TRIES", 2)
    flags, out = (*TINY, "--workers", 0), tmp_path / "out"
    camcli("run", folder, "-o", tmp_path / "whole", *flags)
    address, _ = elsewhere(kind, folder, s3, web)
    assert len(discover_sources([address], Search(""))) == 10  # so that the client is there
    with monkeypatch.context() as impatient:
        impatient.setattr(store, "WHOLE_SECONDS", 2.0)
        impatient.setattr(store, "SLOWEST", 1 << 40)
        s3.fault = web.fault = lambda path, nth: next((fault for name, (fault, _) in LASTING.items() if path.endswith(name)), "")
        for _ in range(2):
            camcli("run", address, "-o", out, *flags)
            wrong = {row["image"]: row for row in failures_of(out)}
            assert wrong.keys() == {*LASTING, "sub/text.jpg"}
            for name, (_, words) in LASTING.items():
                assert wrong[name]["stage"] == "read"
                assert any(part in wrong[name]["error"] for part in words.split("|")), wrong[name]
            assert [row["image"] for row in rows_of(out)] == ["good.jpg"]
    s3.fault = web.fault = lambda path, nth: ""
    camcli("run", address, "-o", out, *flags)
    assert differences(out, tmp_path / "whole") == []


def test_a_server_that_dies_ends_the_run_with_failures_and_the_next_run_goes_on(camcli, folder, s3, web, tmp_path, quick):
    flags = (*TINY, "--workers", 0)
    camcli("run", folder, "-o", tmp_path / "whole", *flags)
    for kind in ("bucket", "list"):
        address, _ = elsewhere(kind, folder, s3, web)
        out, begun = tmp_path / kind, []

        def dies(path: str, nth: int, begun=begun) -> str:
            begun.append(path)
            return "close" if len(begun) > 4 else ""

        s3.fault = web.fault = dies
        assert camcli("run", address, "-o", out, *flags).code == 1
        assert violations_of_always(out) == []
        assert len(failures_of(out)) > 2
        s3.fault = web.fault = lambda path, nth: ""
        assert camcli("run", address, "-o", out, *flags).code in (0, 1)
        assert differences(out, tmp_path / "whole") == []


def test_a_store_that_cannot_be_listed_is_an_error_that_says_so(camcli, s3, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(store, "TRIES", 2)
    filled(s3, {"a.jpg": b"x"})
    for fault, code, words in (
        ("403", 2, "no permission"),
        ("400", 2, "renew"),
        ("503", 3, "SlowDown"),
        ("close", 3, "cannot reach"),
    ):
        s3.fault = lambda path, nth, fault=fault: fault
        ended = camcli("run", f"s3://{BUCKET}", "-o", tmp_path / "out", *TINY)
        assert (ended.code, words in ended.err, "Traceback" in ended.err) == (code, True, False), ended.err
    s3.fault = lambda path, nth: ""
    for address in ("s3://no-such-bucket/x", f"s3://{BUCKET}/nothing", f"s3://{BUCKET}/no.jpg", f"s3://{BUCKET}/no.tar"):
        ended = camcli("run", address, "-o", tmp_path / "out", *TINY)
        assert (ended.code, "there is no" in ended.err) == (2, True), ended.err


def test_after_many_reads_that_failed_each_further_one_is_tried_once(web, quick):
    """A run over a million objects ends soon after their server has died."""
    web.fault = lambda path, nth: "503"
    for number in range(store._GIVE_UP_AFTER):
        assert "503" in contents_of_source(RemoteSource(web.url, f"{number}.jpg"))
    assert web.asked["/0.jpg"] == store.TRIES
    contents_of_source(RemoteSource(web.url, "late.jpg"))
    assert web.asked["/late.jpg"] == 1
    web.fault, web.files["/good.jpg"] = (lambda path, nth: ""), b"good"
    assert contents_of_source(RemoteSource(web.url, "good.jpg")) == b"good"
    web.fault = lambda path, nth: "503"
    contents_of_source(RemoteSource(web.url, "again.jpg"))
    assert web.asked["/again.jpg"] == store.TRIES


# servers of all kinds -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("etag", "dated", "ranges"),
    [("weak", True, True), ("", True, True), ("", False, True), ("strong", True, False), ("", False, False)],
)
def test_servers_that_say_little_are_read_too(camcli, folder, web, s3, tmp_path, etag, dated, ranges):
    camcli("run", folder, "-o", tmp_path / "whole", *TINY, "--workers", 0)
    web.etag, web.dated, web.ranges = etag, dated, ranges
    for kind in ("list", "web tar", "web zip") if ranges else ("list", "web zip", "web tar.gz"):
        address, beginning = elsewhere(kind, folder, s3, web)
        out = tmp_path / kind
        assert camcli("run", address, "-o", out, *TINY, "--workers", 0).code == 1
        assert_same(out, tmp_path / "whole", beginning)
        before = state_of(out)
        camcli("run", address, "-o", out, *TINY, "--workers", 0)
        assert state_of(out) == before


@pytest.mark.parametrize("fault", ["other part", "cut"])
def test_a_server_that_sends_other_parts_than_asked_for_is_read_whole(camcli, folder, web, s3, tmp_path, quick, fault):
    camcli("run", folder, "-o", tmp_path / "whole", *TINY, "--workers", 0)
    for kind in ("web tar", "web zip"):
        address, beginning = elsewhere(kind, folder, s3, web)
        web.fault = lambda path, nth: fault if nth in (2, 4, 5) else ""
        camcli("run", address, "-o", tmp_path / kind, *TINY, "--workers", 0)
        assert_same(tmp_path / kind, tmp_path / "whole", beginning)


@pytest.mark.parametrize(
    ("kind", "etag"),
    [
        ("list", "strong"),
        ("list", "weak"),
        ("list", ""),
        ("web tar", "strong"),
        ("web tar", ""),
        ("web zip", "weak"),
        ("web tar.gz", ""),
    ],
)
def test_an_object_that_changes_at_any_moment_never_gives_a_mixture(camcli, web, s3, tmp_path, quick, monkeypatch, kind, etag):
    """Old bytes, new bytes or a failure; and the next run has the new ones."""
    monkeypatch.setattr("camcli.images.remote.blocks.FIRST", 4096)
    old, new = ({f"{k}.jpg": encoded(photo(k + seed, (150, 120)), "JPEG") for k in range(4)} for seed in (0, 50))
    versions = []
    for number, files in enumerate((old, new)):
        place = tmp_path / str(number)
        for name, data in files.items():
            (place / "photos").mkdir(parents=True, exist_ok=True)
            (place / "photos" / name).write_bytes(data)
        camcli("run", place / "photos", "-o", place / "out", *TINY, "--workers", 0)
        versions.append({row["image"]: row["peak"] for row in rows_of(place / "out")})
        with WebServer() as other:
            elsewhere(kind, place / "photos", s3, other)
            versions.append(other.files)
    before, files, after, changed = versions
    web.etag = etag
    for moment in (2, 3, 5):
        web.files, web.changed, count = dict(files), {}, [0]

        def change(path: str, nth: int, moment=moment, count=count) -> str:
            count[0] += 1
            if count[0] == moment:
                web.files = dict(changed)
                web.changed = dict.fromkeys(changed, 1_600_000_000.0)
            return ""

        web.fault = change
        store.forget_stores()
        address = {"list": "/album/list.txt"}.get(kind, f"/packed/x.{kind.partition(' ')[2]}")
        out = tmp_path / f"moment-{moment}"
        out.mkdir()
        for run in range(2):
            camcli("run", f"{web.url}{address}", "-o", out / "out", *TINY, "--workers", 0)
            beginning = "" if kind == "list" else f"x.{kind.partition(' ')[2]}/"
            peaks = {row["image"].removeprefix(beginning): row["peak"] for row in rows_of(out / "out")}
            assert all(peak in (before[name], after[name]) for name, peak in peaks.items())
            web.fault, web.files, web.changed = (lambda path, nth: ""), dict(changed), dict.fromkeys(changed, 1_600_000_000.0)
            store.forget_stores()
            if run == 1:
                assert peaks == after, moment


def test_a_checksum_that_does_not_fit_is_read_again_and_other_etags_are_none(s3):
    filled(s3, {"a.jpg": b"abcdefgh" * 100})
    s3.fault = lambda path, nth: "flip" if path.endswith("a.jpg") and nth == 1 else ""
    (source,) = discover_sources([f"s3://{BUCKET}"], Search(""))
    assert contents_of_source(source) == b"abcdefgh" * 100
    store.forget_stores()
    s3.fault = lambda path, nth: "flip"  # always the same: the ETag of this store is no MD5
    (source,) = discover_sources([f"s3://{BUCKET}/a.jpg"], Search(""))
    assert len(contents_of_source(source)) == 800


# names ----------------------------------------------------------------------------------------------------------------------------


class Shelf:
    """A store in memory."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    def _piece(self, url: str, data: bytes | None) -> Piece:
        whole = self.objects[url.split("/", 3)[3]]
        return Piece(data, Stamp(len(whole), 0, version=str(hash(whole))), len(whole))

    def look(self, url, seconds):
        return self._piece(url, None)

    def whole(self, url, most, seconds):
        return self._piece(url, self.objects[url.split("/", 3)[3]])

    def part(self, url, start, size, stamp, seconds):
        return self._piece(url, self.objects[url.split("/", 3)[3]][start : start + size])

    def list(self, bucket, prefix):
        yield lambda seconds: [
            Listed(key, self._piece(f"s3://{bucket}/{key}", None).stamp) for key in self.objects if key.startswith(prefix)
        ]


def shelved(monkeypatch, objects: dict[str, bytes]) -> None:
    store.forget_stores()
    monkeypatch.setitem(store._stores, (os.getpid(), "s3", ""), Store(Shelf(objects)))


def test_no_key_of_a_bucket_leads_out_of_the_output_folder(camcli, tmp_path, monkeypatch):
    photos = {
        name: encoded(photo(number), "JPEG")
        for number, name in enumerate((
            "a.jpg", "a.jpg/b.jpg", "../out.jpg", "x/../../../out.jpg", "/etc/passwd.jpg", "x//y.jpg", "x/y.jpg", "./dot.jpg",
            "new\nline\x1b[31m.jpg", "sp ace+%20.jpg", "q?x=1.jpg", "h#1.jpg", "ünï.jpg", ".hidden.jpg", "x/.git/a.jpg",
            "nul\0.jpg",
            "empty.jpg", "marker.jpg/", "notes.txt", "b\\c.jpg", "a.jpg.1-bright.jpg/deeper.jpg", "l" * 300 + "/long.jpg",
        ))
    }  # fmt: skip
    photos["empty.jpg"] = photos["marker.jpg/"] = b""
    shelved(monkeypatch, photos)
    inner = tmp_path / "deep" / "inside"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    ended = camcli("run", "s3://bucket", "-o", inner / "out", *TINY, "--workers", 0)
    assert ended.code == 1, ended.err
    assert "\x1b" not in ended.err
    assert {path.name for path in tmp_path.rglob("*") if "out" not in path.relative_to(tmp_path).parts} == {"deep", "inside"}
    done = {row["image"] for row in rows_of(inner / "out")}
    wrong = {row["image"]: row["error"] for row in failures_of(inner / "out")}
    assert done >= {
        "a.jpg",
        "a.jpg/b.jpg",
        "x/y.jpg",
        "dot.jpg",
        "sp ace+%20.jpg",
        "q?x=1.jpg",
        "h#1.jpg",
        "ünï.jpg",
        "etc/passwd.jpg",
    }
    assert {"../out.jpg", "x/../../../out.jpg", "x//y.jpg", "empty.jpg", "nul\\\\0.jpg"} <= wrong.keys()
    assert not any("hidden" in name or ".git" in name or "marker" in name for name in done | wrong.keys())
    assert len(done) + len(wrong) == len(photos) - 4, "hidden twice, a marker, and no image"
    for name, data in (("x/y.jpg", photos["x/y.jpg"]), ("q?x=1.jpg", photos["q?x=1.jpg"])):
        (source,) = (one for one in discover_sources(["s3://bucket/"], Search("")) if one.image == name)
        assert contents_of_source(source) == data


_PART = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=30).filter(
    lambda part: not part.startswith(".")
)
_KEY = st.lists(_PART, min_size=1, max_size=4).map(lambda parts: "/".join(parts) + ".jpg")


@settings(max_examples=60, deadline=None)
@given(keys=st.lists(_KEY, min_size=1, max_size=8, unique=True), prefix=st.sampled_from(["", "p", "p/q"]))
def test_names_and_order_are_those_of_a_folder_with_the_same_files(tmp_path_factory, keys, prefix):
    place = tmp_path_factory.mktemp("folder")
    objects = {f"{prefix}/{key}" if prefix else key: key.encode() for key in keys}
    with pytest.MonkeyPatch.context() as patch:
        shelved(patch, objects)
        found = discover_sources([f"s3://bucket/{prefix}"], Search(""))
    assert {one.image: one.listed.size for one in found} == {key: len(key.encode()) for key in keys}
    try:
        for key in keys:
            (place / key).parent.mkdir(parents=True, exist_ok=True)
            (place / key).write_bytes(b"x")
    except OSError:  # a name that is too long, or a folder and a file at once
        return
    assert [one.image for one in found] == [one.image for one in discover_sources([str(place)], Search(""))]


@settings(max_examples=100, deadline=None)
@given(keys=st.lists(_KEY, min_size=1, max_size=5, unique=True))
def test_every_file_on_a_server_can_be_named_in_a_list(keys):
    keys = [key for key in keys if key == key.strip() and not key.startswith("#") and "\n" not in key and "://" not in key]
    wanted = {f"/album/{urllib.parse.quote(key)}" for key in keys}
    base = parsed("http://host/album/list.txt")
    named = [line_of_list(urllib.parse.quote(key), base) for key in keys]
    assert {urllib.parse.urlsplit(one.url).path for one in named} == wanted
    assert ["/".join(one.parts[2:]) for one in named] == keys


def test_a_list_names_addresses_and_paths_relative_to_it(web):
    web.files.update({f"/album/{name}": name.encode() for name in ("a.jpg", "sub/b.jpg", "sp ace.jpg", "ü.jpg", "h#1.jpg")})
    web.files["/other/c.jpg"] = b"c"
    lines = [
        "\ufeff# photos", "", "a.jpg\r", f"{web.url}/album/sub/b.jpg", "/other/c.jpg", "sp ace.jpg", "%C3%BC.jpg", "h#1.jpg",
        "a.jpg",
        "file:///etc/passwd", "/etc/../../x.jpg", "s3://bucket/x.jpg", "memory://x.jpg", "missing.jpg",
    ]  # fmt: skip
    web.files["/album/list.txt"] = "\n".join(lines).encode()
    found = discover_sources([f"{web.url}/album/list.txt"], Search(""))
    assert {one.root for one in found} == {web.url}
    contents = {one.image: contents_of_source(one) for one in found}
    good = {name: data for name, data in contents.items() if isinstance(data, bytes)}
    assert good == {
        "album/a.jpg": b"a.jpg", "album/sub/b.jpg": b"sub/b.jpg", "other/c.jpg": b"c", "album/sp ace.jpg": b"sp ace.jpg",
        "album/ü.jpg": "ü.jpg".encode(), "album/h#1.jpg": b"h#1.jpg",
    }  # fmt: skip
    assert [words for name, words in contents.items() if name.endswith(("line 10", "line 12", "line 13"))] == [
        "line 10 of the list: 'file:///etc/passwd' is not supported: give the path of the file or folder itself",
        "line 12 of the list: a list on http:// may not name s3://",
        "line 13 of the list: 'memory://x.jpg' is not supported: it is the memory of one process, and workers have their own",
    ]
    assert "no such object" in contents["album/missing.jpg"]


def test_a_list_that_is_none_is_refused(camcli, web, tmp_path):
    web.files["/a/list.txt"] = b"\xff\xfe\x00binary"
    web.files["/b/list.txt"] = b"# nothing\n"
    for path, words in (("/a/list.txt", "not text"), ("/b/list.txt", "no image"), ("/c/list.txt", "no such object")):
        ended = camcli("run", f"{web.url}{path}", "-o", tmp_path / "out", *TINY)
        assert (ended.code, words in ended.err) == (2, True), ended.err


def test_addresses_that_are_refused(camcli, folder, tmp_path):
    for inputs, words in (
        (["file:///photos"], "path"),
        (["local://photos"], "path"),
        (["memory://photos"], "memory of one process"),
        ([folder, "s3://bucket/x"], "start a run for each"),
        (["s3://bucket/x", "https://host/x.jpg"], "one protocol"),
        (["simplecache::s3://bucket/x"], "several protocols"),
        (["zip://a.jpg::https://host/x.zip"], "several protocols"),
        (["s3://"], "names no bucket"),
        (["s3://key:secret@bucket/x"], "usual places"),
        (["https://host/photos/"], "lists no files"),
        (["https:///x.jpg"], "names no server"),
        (["https://[::1/x.jpg"], "not a valid address"),
        (["unheard-of://x/y"], "no protocol that fsspec knows"),
    ):
        ended = camcli("run", *inputs, "-o", tmp_path / "out", *TINY)
        assert (ended.code, words in ended.err, "secret" in ended.err) == (2, True, False), ended.err
    ended = camcli("run", folder, "-o", "s3://bucket/out", *TINY)
    assert (ended.code, "folder of this machine" in ended.err) == (2, True), ended.err
    ended = camcli("fit", "s3://bucket/classes", "-o", tmp_path / "model")
    assert (ended.code, "copy it first" in ended.err) == (2, True), ended.err


@pytest.mark.parametrize(
    ("protocol", "package", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs"), ("https", "aiohttp", "http")]
)
def test_a_missing_package_is_named_with_its_extra(tmp_path, protocol, package, extra):
    program = f"import sys; sys.modules['{package}'] = None; from camcli.__main__ import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, "run", f"{protocol}://bucket/x.jpg", "-o", str(tmp_path / "out")],
        capture_output=True, text=True, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    said = (ended.returncode, f"pip install 'camcli[{extra}]'" in ended.stderr, "Traceback" in ended.stderr)
    assert said == (2, True, False), ended.stderr


def test_runs_in_a_bucket_are_never_explained(s3):
    names = ("a.jpg", "out/.camcli/journal.jsonl", "out/overlays/a.jpg.1-x.jpg", "out/b.jpg", "overlays/c.jpg")
    filled(s3, dict.fromkeys(names, b"x"), "p/")
    assert [one.image for one in discover_sources([f"s3://{BUCKET}/p"], Search(""))] == ["a.jpg", "out/b.jpg", "overlays/c.jpg"]


# secrets --------------------------------------------------------------------------------------------------------------------------


def test_no_secret_is_ever_written_and_another_signature_goes_on(camcli, folder, web, tmp_path):
    files = below(folder)
    web.files.update({f"/album/{name}": data for name, data in files.items()})
    host, out, log = f"127.0.0.1:{web.port}", tmp_path / "out", tmp_path / "log"
    web.fault = lambda path, nth: "403" if path.endswith(("01.jpg", "gone")) else ""
    for number in range(2):
        lines = [f"{name}?X-Amz-Signature=hushhush{number}&X-Amz-Expires=60&X-Amz-Credential=hushkey" for name in files]
        web.files["/album/list.txt"] = "\n".join(lines).encode()
        address = f"http://hushuser:hushword@{host}/album/list.txt?token=hushtoken{number}"
        ended = camcli("run", address, "-o", out, *TINY, "--workers", 2, "--log-file", log, "--report")
        assert ended.code == (1 if number == 0 else 0)
        assert "hush" not in ended.err + ended.out
        camcli("verify", out, "--inputs")
    assert "Nothing to do" in ended.err, "the same images by other addresses"
    assert log.stat().st_size > 0
    assert [path for path in [log, *out.rglob("*")] if path.is_file() and b"hush" in path.read_bytes()] == []
    assert any("hushhush" in path for _, path, _ in web.requests), "but the server gets it"
    for address in (
        f"http://hushuser:hushword@{host}/album/gone?sig=hush",
        f"http://hushuser:hushword@{host}/no/list.txt?sig=hush",
    ):
        assert "hush" not in (camcli("run", address, "-o", tmp_path / "other", *TINY, "--workers", 0)).err


@given(st.text(), st.text(alphabet="abcDEF019%+", min_size=8).map(lambda text: f"hush{text}"))
def test_masking_hides_queries_and_passwords_in_any_text(text, secret):
    for address in (
        f"https://u:{secret}@h/p", f"https://{secret}:x@h/p", f"https://h/p?X-Amz-Signature={secret}", f"s3://h/p?a=1&token={secret}",
        f"sig={secret}", f"x?Signature={secret}&b",
    ):  # fmt: skip
        assert "hush" not in masked(f"error '{address}' {text}")


def test_parameters_that_name_an_object_tell_images_apart_and_signatures_do_not():
    name = [
        parsed(f"https://h/show.jpg?{query}").parts[-1] for query in ("id=1", "id=2", "id=1&X-Amz-Signature=a", "sig=1&se=2", "")
    ]
    assert name[0] != name[1]
    assert name[0] == name[2]
    assert name[3] == name[4] == "show.jpg"
    assert name[0].endswith(".jpg")


# reading ahead, blocks, processes -------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    size=st.integers(0, 300_000),
    moves=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 100_000)), max_size=20),
    start=st.integers(0, 1000),
    at_once=st.booleans(),
)
def test_a_file_of_blocks_has_the_bytes_of_the_object(size, moves, start, at_once):
    data = random.Random(size).randbytes(start + size)
    asked = []

    def part(begin, count):
        asked.append(count)
        assert count > 0
        assert begin + count <= len(data)
        return data[begin : begin + count]

    file, same = io.BufferedReader(BlockFile(part, start, size, at_once=at_once)), io.BytesIO(data[start:])
    for where, count in moves:
        assert file.seek(int(where * size)) == same.seek(int(where * size))
        assert file.read(count) == same.read(count)
    if at_once and asked:
        assert asked[0] == min(size, 8 << 20) or moves[0][0] > 0


def test_an_index_of_large_members_reads_little_and_one_of_small_ones_asks_little(web, tmp_path):
    for count, side, most_bytes, most_requests in ((12, 1500, 0.2, 40), (400, 40, 1.1, 20)):
        files = {f"{k:04d}.bmp": encoded(noise(k % 3, (side, side)), "BMP") for k in range(count)}
        data = tarred(tmp_path / "x.tar", files).read_bytes()
        web.files["/x.tar"] = data
        web.forget()
        found = discover_sources([f"{web.url}/x.tar"], Search(""))
        assert len(found) == count
        assert web.sent <= most_bytes * len(data) + 600_000
        assert len(web.requests) <= most_requests
        web.forget()
        assert contents_of_source(found[3]) == files["0003.bmp"]
        assert len(web.requests) == 1


def test_several_images_are_read_at_the_same_time(camcli, web, tmp_path):
    address = served(web, {f"{k:02d}.jpg": encoded(photo(k), "JPEG") for k in range(24)})
    web.delay = 0.1
    for workers in (0, 1):
        web.forget()
        assert camcli("run", address, "-o", tmp_path / str(workers), *TINY, "--workers", workers).code == 0
        assert 4 <= web.most <= 8


class Counted:
    """A source of ``size`` bytes in a store. ``read``: the numbers of those that were read."""

    root = ""

    def __init__(self, number: int, size: int, read: list[int], fails: bool = False) -> None:
        self.image, self.expected_bytes, self.number, self.read, self.fails = f"{number}.jpg", size, number, read, fails

    def stamp(self) -> None:
        return None

    def open(self) -> Contents:
        self.read.append(self.number)
        if self.fails:
            raise RuntimeError("anything")
        return Contents(io.BytesIO(bytes(self.expected_bytes)), self.expected_bytes, Stamp(self.expected_bytes, 0))


def drained(ahead: Ahead) -> list[int]:
    """The images that arrive until nothing is being read."""
    found: list[int] = []
    while arrived := ahead.arrived(0.3):
        found += arrived
    return found


def test_what_is_read_ahead_is_bounded_and_what_is_dropped_is_not_kept(monkeypatch):
    monkeypatch.setattr("camcli.pipeline.ahead._MOST_BYTES", 1000)
    read: list[int] = []
    ahead = Ahead()
    sources = [Counted(number, 5000 if number == 4 else 300, read, fails=number == 6) for number in range(9)]
    for number, source in enumerate(sources):
        ahead.add(number, source)
    assert sorted(drained(ahead)) == [0, 1, 2]
    ahead.drop([0, 7])
    assert drained(ahead) == [3]
    ahead.drop([1, 2, 3])
    assert drained(ahead) == [4], "one that is larger than all is read alone"
    ahead.drop([4])
    assert sorted(drained(ahead)) == [5, 6, 8]
    assert sorted(read) == [0, 1, 2, 3, 4, 5, 6, 8]
    assert contents_of_source(ahead.taken(5, sources[5])) == bytes(300)
    assert "anything" in contents_of_source(ahead.taken(6, sources[6]))
    assert ahead.taken(0, sources[0]) is sources[0]
    assert not ahead
    ahead.close()


def test_large_objects_are_read_in_pieces_and_what_is_no_image_by_its_beginning(camcli, web, s3, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "AT_ONCE", 100_000)
    monkeypatch.setattr("camcli.pipeline.ahead._LARGEST", 100_000)
    monkeypatch.setattr("camcli.images.remote.blocks.LARGEST", 200_000)
    big = encoded(noise(1, (600, 500)), "BMP")
    files = {"big.bmp": big, "junk.jpg": bytes(30_000_000), "small.jpg": encoded(photo(1), "JPEG")}
    for name, data in files.items():
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(data)
    camcli("run", tmp_path / "photos", "-o", tmp_path / "whole", *TINY, "--workers", 0)
    for address, server in ((served(web, files), web), (filled(s3, files), s3)):
        server.forget()
        out = tmp_path / f"out-{server is web}"
        camcli("run", address, "-o", out, *TINY, "--workers", 0)
        assert_same(out, tmp_path / "whole")
        assert server.sent < 2 * len(big) + 15_000_000


def test_a_plain_run_imports_nothing_of_stores():
    check = (
        "import sys, camcli.cli.app, camcli.pipeline.runner, camcli.pipeline.worker, camcli.runs.verify\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'fsspec', 's3fs', 'aiohttp', 'botocore', 'yarl'}))\n"
        "print(sorted(name for name in sys.modules if name.startswith('camcli.images.remote')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )
    assert done.stdout == "[]\n[]\n"


def test_a_child_that_was_forked_has_a_store_of_its_own(web):
    web.files["/a.jpg"] = b"hello"
    source = RemoteSource(web.url, "a.jpg")
    assert contents_of_source(source) == b"hello"
    child = os.fork()
    if child == 0:
        os._exit(7 if contents_of_source(source) == b"hello" else 1)
    deadline = time.monotonic() + 30
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 7


def test_any_store_of_fsspec_is_read_by_its_general_methods(quick):
    import fsspec

    from camcli.images.remote.other import Other

    files = fsspec.filesystem("memory")
    files.pipe({"/bucket/p/a.jpg": b"a" * 1000, "/bucket/p/sub/b.jpg": b"b", "/bucket/q/c.jpg": b"c"})
    shop = Store(Other("memory://bucket"))
    assert sorted((one.key, one.stamp.size) for one in shop.list("bucket", "p/")) == [("p/a.jpg", 1000), ("p/sub/b.jpg", 1)]
    stamp = shop.look("memory://bucket/p/a.jpg").stamp
    assert shop.whole("memory://bucket/p/a.jpg") == Piece(b"a" * 1000, stamp, 1000)
    assert shop.whole("memory://bucket/p/a.jpg", most=10).data is None
    assert shop.part("memory://bucket/p/a.jpg", 990, 10, stamp) == b"a" * 10
    files.pipe("/bucket/p/a.jpg", b"x" * 1000)
    with pytest.raises(ImageError, match="has changed"):
        shop.part("memory://bucket/p/a.jpg", 0, 10, stamp)
    with pytest.raises(ImageError, match="no such object"):
        shop.whole("memory://bucket/none.jpg")
    files.rm("/bucket", recursive=True)


def test_finished_runs_find_their_objects_again(camcli, folder, s3, web, tmp_path):
    flags = (*TINY, "--save-maps", "--workers", 0)
    camcli("run", folder, "-o", tmp_path / "whole", *flags)
    camcli("render", tmp_path / "whole", "--style", "contour")
    for kind in ("bucket", "list", "s3 tar", "web zip"):
        address, beginning = elsewhere(kind, folder, s3, web)
        out = tmp_path / kind
        camcli("run", address, "-o", out, *flags)
        assert camcli("verify", out, "--inputs").code == 0, kind
        assert camcli("render", out, "--style", "contour").code == 0, kind
        assert contents_of(out / "overlays" / beginning) == contents_of(tmp_path / "whole" / "overlays")
    filled(s3, {"02.jpg": encoded(photo(77), "JPEG")}, "all/")
    s3.client.delete_object(Bucket=BUCKET, Key="all/03.jpg")
    web.files["/album/02.jpg"] = encoded(photo(77), "JPEG")
    del web.files["/album/03.jpg"]
    for kind in ("bucket", "list"):
        ended = camcli("verify", tmp_path / kind, "--inputs")
        assert ended.code == 1
        assert "02.jpg\tthe image has changed" in ended.out
        assert "03.jpg\tthe image cannot be read: there is no such object" in ended.out
    s3.fault = lambda path, nth: "403"
    ended = camcli("verify", tmp_path / "bucket", "--inputs")
    assert (ended.code, "no permission" in ended.err) == (2, True), ended.err


def test_an_object_that_is_put_again_is_known_by_its_bytes_and_a_new_one_is_explained(camcli, folder, s3, tmp_path):
    address, flags = filled(s3, below(folder)), (*TINY, "--workers", 0)
    camcli("run", address, "-o", tmp_path / "out", *flags)
    filled(s3, below(folder))
    assert "Nothing to do" in camcli("run", address, "-o", tmp_path / "out", *flags).err
    filled(s3, {"02.jpg": encoded(photo(77), "JPEG")})
    assert "1 image explained" in camcli("run", address, "-o", tmp_path / "out", *flags).err


def test_classes_from_the_folders_of_a_bucket(camcli, s3, tmp_path):
    filled(s3, {f"{name}/{k}.jpg": encoded(photo(k), "JPEG") for name in ("bright", "dark") for k in range(2)})
    camcli("run", f"s3://{BUCKET}", "-o", tmp_path / "out", "--model", TINY[1], "--layer", "cells", "--class-from", "folder")
    assert [row["label"] for row in rows_of(tmp_path / "out")] == ["bright", "bright", "dark", "dark"]


def test_a_node_of_a_cluster_checks_that_it_can_read_an_object(s3, web, tmp_path, quick):
    from camcli.distributed.plan import sample_of

    filled(s3, {"a.jpg": b"hello"})
    place = tarred(tmp_path / "x.tar", {"a.jpg": encoded(photo(), "JPEG")})
    web.files["/x.tar"] = place.read_bytes()
    for sources, size in (
        (discover_sources([f"s3://{BUCKET}"], Search("")), 5),
        (discover_sources([f"{web.url}/x.tar"], Search("")), place.stat().st_size),
    ):
        s3.fault = web.fault = lambda path, nth: ""
        assert sample_of(sources).size == size
        s3.fault = web.fault = lambda path, nth: "403"
        assert sample_of(sources).size is None


# kills ----------------------------------------------------------------------------------------------------------------------------


def killed(forks, address: str, beginning: str, folder: Path, tmp_path: Path, kills: int) -> None:
    """A run over ``address`` that is killed at random moments and goes on, ends as a run over ``folder`` that was not."""
    draw, flags = random.Random(3), (*TINY, "--batch-size", 4, "--quiet")
    forks.start(["run", address, "-o", tmp_path / "whole", *flags], tmp_path / "log").wait(120)
    forks.start(["run", folder, "-o", tmp_path / "plain", *flags], tmp_path / "log").wait(120)
    assert_same(tmp_path / "whole", tmp_path / "plain", beginning)
    done = 0
    while done < kills:
        out = tmp_path / f"out-{done}"
        for attempt in range(kills):
            run = forks.start(["run", address, "-o", out, *flags, "--workers", 2 * (attempt % 2)], tmp_path / "log")
            before = written(out)
            wait_for(lambda now=before, at=out, process=run: written(at) != now or process.poll() is not None, 20)
            time.sleep(draw.random() * 0.3)
            workers = workers_below(run.pid)
            run.send_signal(signal.SIGKILL)
            if run.wait(30) != -signal.SIGKILL:
                break
            done += 1
            assert survivors(workers, 10.0) == []
            assert violations_of_always(out) == []
        assert forks.start(["run", address, "-o", out, *flags], tmp_path / "log").wait(120) in (0, 1)
        assert differences(out, tmp_path / "whole") == []


def many(folder: Path, count: int) -> Path:
    folder.mkdir()
    for k in range(count):
        (folder / f"{k:03d}.jpg").write_bytes(encoded(noise(k, (300, 200)), "JPEG"))
    (folder / "broken.jpg").write_bytes(b"text")
    return folder


@pytest.mark.parametrize("kind", ["bucket", "web tar"])
def test_a_run_over_addresses_that_is_killed_goes_on(forks, s3, web, tmp_path, kind):
    folder = many(tmp_path / "photos", 40)
    address, beginning = elsewhere(kind, folder, s3, web)
    killed(forks, address, beginning, folder, tmp_path, 2)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["bucket", "list", "s3 tar", "s3 zip", "s3 tar.gz", "web tar", "web zip", "web tar.gz"])
def test_a_run_over_addresses_that_is_killed_twenty_times_goes_on(forks, s3, web, tmp_path, kind):
    folder = many(tmp_path / "photos", 150)
    address, beginning = elsewhere(kind, folder, s3, web)
    killed(forks, address, beginning, folder, tmp_path, 20)
