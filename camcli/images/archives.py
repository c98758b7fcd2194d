"""Archives as folders: each member of a tar or zip archive that is an image is a source, named ``archive/member``.

A plain tar and a zip are indexed by their headers and read by offset, in any process, without unpacking. A compressed tar is a
stream: whoever reads from it reads forwards, and each thread keeps its place in the last one. Members that are links or devices,
or whose names lead out of the archive, become failures. A member counts as changed if the size or the time of its archive or its
place in it has changed.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from struct import Struct
from typing import BinaryIO, cast

from camcli.documents import parse_json
from camcli.errors import ImageError
from camcli.images.entries import Entry, Place
from camcli.images.tar import tar_entries
from camcli.images.zip import HEADER_ROOM, header_size, zip_data, zip_entries
from camcli.output.names import MAX_NAME_BYTES
from camcli.ranges import ForwardStream
from camcli.records import QuicklyPickled, Stamp
from camcli.source import MAX_BYTES, Contents, Source, check_size

_OPENERS: dict[str, Callable[[BinaryIO], BinaryIO]] = {
    "gz": lambda file: cast(BinaryIO, gzip.GzipFile(fileobj=file)),
    "bz2": lambda file: cast(BinaryIO, bz2.BZ2File(file)),
    "xz": lambda file: cast(BinaryIO, lzma.LZMAFile(file)),  # noqa: SIM115 - whoever opens it closes it
}
_KINDS = {
    ".tar": "",
    ".zip": "zip",
    ".tar.gz": "gz",
    ".tgz": "gz",
    ".tar.bz2": "bz2",
    ".tbz2": "bz2",
    ".tar.xz": "xz",
    ".txz": "xz",
}
"""Extensions of archives in lower case, and how they are compressed; a zip compresses each member."""

ARCHIVE_EXTENSIONS = tuple(_KINDS)

_PLACE = Struct("<QQQLH")
_LARGEST = 1 << 62

LABEL_KEYS = ("label", "class", "cls")
"""The keys of a member ``KEY.json`` that may hold the true class."""

_LONGEST_LABEL = 1 << 20
"""Maximum size in bytes of a member with a label."""


def is_archive(name: str) -> bool:
    """Whether a file of that name is an archive."""
    return _kind(name) is not None


def _kind(name: str) -> str | None:
    lower = name.lower()
    return next((kind for extension, kind in _KINDS.items() if lower.endswith(extension)), None)


@dataclass(frozen=True, slots=True)
class Archive(QuicklyPickled):
    """An archive as it was when it was listed."""

    source: Source
    stamp: Stamp

    @property
    def kind(self) -> str:
        """How it is compressed: ``gz``, ``bz2`` or ``xz`` for a tar, empty for a plain tar, and ``zip``."""
        return _kind(self.source.image) or ""

    def range(self, start: int, size: int) -> BinaryIO:
        """``size`` bytes of the file from ``start`` on. Raises ImageError (``read``) if it is not the file that was listed."""
        contents = self.source.range(start, size)
        if contents.stamp != self.stamp:
            contents.file.close()
            raise _has_changed()
        return contents.file

    def stream(self) -> BinaryIO:
        """The whole file; of a compressed tar, its uncompressed contents."""
        file = self.range(0, self.stamp.size)
        opener = _OPENERS.get(self.kind)
        return file if opener is None else opener(file)


def _has_changed() -> ImageError:
    return ImageError("read", "the archive has changed since it was listed; the next run tries again")


@dataclass(frozen=True, slots=True)
class Member(Source):
    """A member of ``archive``. ``place``: where it is, packed, as there may be millions. ``label``: its true class as text."""

    archive: Archive
    place: bytes
    label: str | None = None

    def stamp(self) -> Stamp:
        """The stamp of the member when its archive was listed."""
        place, whole = Place(*_PLACE.unpack(self.place)), self.archive.stamp
        return Stamp(place.size, whole.mtime_ns, version=f"{whole.version or whole.size}@{place.offset}")

    @property
    def is_remote(self) -> bool:
        """Whether the archive is."""
        return self.archive.source.is_remote

    @property
    def expected_bytes(self) -> int:
        """Its packed size."""
        return Place(*_PLACE.unpack(self.place)).packed

    def is_readable(self) -> bool:
        """Whether the archive is still the one that was listed."""
        return self.archive.source.stamp() == self.archive.stamp

    def open(self) -> Contents:
        """The bytes of the member. Raises ImageError, as ``Source.open``, and if the archive has changed since it was listed."""
        place, kind = Place(*_PLACE.unpack(self.place)), self.archive.kind
        check_size(place.size)
        if kind == "zip":
            return Contents(self._zip_data(place), place.size, self.stamp())
        if kind:
            stream = ForwardStream(_stream_at(self.archive, place.offset), place.size)
            return Contents(io.BufferedReader(stream), place.size, self.stamp())
        return Contents(self.archive.range(place.offset, place.size), place.size, self.stamp())

    def _zip_data(self, place: Place) -> io.BufferedReader:
        packed = self.archive.range(place.offset, HEADER_ROOM + place.packed)
        start = header_size(packed)
        if start <= HEADER_ROOM:
            packed.seek(start)
        else:
            packed.close()
            packed = self.archive.range(place.offset + start, place.packed)
        return io.BufferedReader(zip_data(packed, self.image, place))


@dataclass(frozen=True, slots=True)
class Refused(Source):
    """What cannot be read: a member of an archive, or the rest of a damaged one. It fails with ``reason`` when it is read."""

    reason: str
    found: Stamp | None

    def stamp(self) -> Stamp | None:
        """The stamp of the member when its archive was listed."""
        return self.found

    def is_readable(self) -> bool:
        """False."""
        return False

    def open(self) -> Contents:
        """Raises ImageError (stage ``read``)."""
        raise ImageError("read", self.reason)


class _Streams(threading.local):
    """The compressed archive from which this thread has read last."""

    archive: Archive | None = None
    file: BinaryIO | None = None


_streams = _Streams()


def _stream_at(archive: Archive, offset: int) -> Callable[[int], bytes]:
    """A function that reads on in the uncompressed contents of ``archive``, from ``offset`` on. Only one at a time is valid."""
    if archive.source.stamp() != archive.stamp:
        raise _has_changed()
    if _streams.archive != archive or _streams.file is None:
        close_streams()
        _streams.archive, _streams.file = archive, archive.stream()
    file, is_there = _streams.file, False

    def sought_and_read(size: int) -> bytes:
        nonlocal is_there
        try:
            if not is_there:
                file.seek(offset)
                is_there = True
            return file.read(size)
        except MemoryError:
            raise
        except ImageError:
            close_streams()
            raise
        except Exception as error:  # a decompressor may raise almost any exception for a forged file
            close_streams()
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ImageError("read", f"damaged archive: {error or type(error).__name__}") from error

    return sought_and_read


def close_streams() -> None:
    """Close the compressed archive from which this thread has read last."""
    if _streams.file is not None:
        _streams.file.close()
    _streams.archive = _streams.file = None


def members(source: Source, is_wanted: Callable[[str], bool], *, labelled: bool = False) -> list[Source]:
    """The members of the archive ``source`` that are images by their names, in order; of members with one name the last.

    ``is_wanted``: whether a name is that of an image. ``labelled``: also read their true classes, from ``KEY.cls`` or
    ``KEY.json`` beside ``KEY.jpg``, as WebDataset has it; a key is a path up to the first dot of its last part. A member that
    cannot be read becomes a source that fails, and so does the rest of a damaged archive, under the name of the archive.
    """
    found: dict[str, Source] = {}
    labels: dict[str, Place] = {}
    try:
        contents = source.range(0, _LARGEST)
    except (ImageError, OSError) as error:
        if source.is_remote:
            return [Refused(source.root, source.image, str(error), None)]
        return [source]  # it fails in the same way when it is read
    contents.file.close()
    archive = Archive(source, contents.stamp)
    try:
        with archive.stream() as file:
            for entry in _entries(archive, file):
                name, outside = _inside(entry.name)
                if _is_hidden(name):
                    continue
                image = f"{source.image}/{name}"
                if is_wanted(name):
                    found.pop(image, None)
                    found[image] = _member(source.root, image, archive, outside or entry.refused, entry.place)
                elif labelled and not entry.refused and (key := _label_key(name)):
                    labels[key] = entry.place
    except ImageError as error:
        found[source.image] = Refused(source.root, source.image, str(error), contents.stamp)
    except OSError as error:
        found[source.image] = Refused(source.root, source.image, f"cannot be read: {error.strerror}", contents.stamp)
    if not labelled:
        return list(found.values())
    texts = dict(_labels(archive, labels))
    return [_with_label(one, texts) if isinstance(one, Member) else one for one in found.values()]


def _entries(archive: Archive, file: BinaryIO) -> Iterator[Entry]:
    if archive.kind == "zip":
        return zip_entries(file, archive.stamp.size)
    return tar_entries(file, archive.stamp.size) if not archive.kind else tar_entries(file, None, MAX_BYTES)


def _inside(name: str) -> tuple[str, str]:
    """The name of a member without empty parts and dots, and why it is refused; one that leads out of the archive is unchanged."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        return name, "its name leads out of the archive"
    if len(name) > MAX_NAME_BYTES // 4 and any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts[:-1]):
        return name, f"a part of its name is longer than the {MAX_NAME_BYTES} bytes that a folder's name may have"
    return "/".join(part for part in parts if part not in ("", ".")), ""


def _is_hidden(name: str) -> bool:
    """Whether a part of the name begins with a dot, as in a folder, or belongs to the data that macOS adds to archives."""
    return any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in name.split("/"))


def _member(root: str, image: str, archive: Archive, refused: str, place: Place) -> Source:
    if not refused and max(place[:3]) < _LARGEST:
        return Member(root, image, archive, _PLACE.pack(*place))
    version = f"{archive.stamp.version or archive.stamp.size}@{place.offset}"
    return Refused(root, image, refused or "damaged archive", Stamp(0, archive.stamp.mtime_ns, version=version))


def _key(name: str) -> tuple[str, str]:
    """The key of a member, and what follows it: ``a/b.left.jpg`` has the key ``a/b``."""
    folder, _, last = name.rpartition("/")
    key, _, rest = last.partition(".")
    return f"{folder}/{key}", rest.lower()


def _label_key(name: str) -> str:
    """The key of a member that holds a true class; empty for any other member."""
    key, kind = _key(name)
    return key if kind in ("cls", "json") else ""


def _labels(archive: Archive, places: Mapping[str, Place]) -> Iterator[tuple[str, str]]:
    """Yield (key, true class as text) from the members at ``places`` that hold one."""
    for key, place in sorted(places.items(), key=lambda item: item[1].offset):
        if place.size <= _LONGEST_LABEL:
            with contextlib.suppress(ImageError), Member("", key, archive, _PLACE.pack(*place)).open() as contents:
                if label := _label_in(contents.file.read(place.size)):
                    yield key, label


def _label_in(data: bytes) -> str:
    """The text of a label; empty for none. It is plain text, or JSON: a text, a number, or an object with one of LABEL_KEYS."""
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        return ""
    try:
        value = parse_json(text)
    except ValueError:
        return text
    if isinstance(value, dict):
        value = next((value[key] for key in LABEL_KEYS if key in value), None)
    if isinstance(value, str):
        return value.strip()
    return str(value) if type(value) is int else ""


def _with_label(member: Member, labels: dict[str, str]) -> Member:
    key, _ = _key(member.image.removeprefix(f"{member.archive.source.image}/"))
    return replace(member, label=labels.get(key))
