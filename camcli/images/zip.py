"""The members of a zip archive, from its central directory, and their data.

zipfile would keep a kilobyte for each member of an archive; this takes nothing. The data is decompressed and checked by zipfile.
Source of the format: PKWARE's APPNOTE.TXT, version 6.3.10.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from camcli.errors import ImageError
from camcli.images.entries import Entry, Place
from camcli.ranges import ForwardStream

_END, _END64, _LOCATOR64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_CENTRAL, _LOCAL = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 0xFFFF
_ENCRYPTED, _UTF8 = 0x1, 0x800
_NOT_HERE = 0xFFFFFFFF
"""A size or an offset that is in the ZIP64 record instead."""

_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
HEADER_ROOM = _LOCAL.size + 1024
"""How many bytes a member's own header usually has at most."""


def zip_entries(file: BinaryIO, size: int) -> Iterator[Entry]:
    """Yield the entries of a zip archive of ``size`` bytes that are no folders, in the order of its central directory.

    Raises ImageError (stage ``read``) where the directory is damaged, after the entries before that.
    """
    start, length, shift = _directory(file, size)
    file.seek(start)
    position = start
    while position < start + length:
        fixed = file.read(_CENTRAL.size)
        if len(fixed) < _CENTRAL.size or not fixed.startswith(b"PK\1\2"):
            raise _damaged(position, "the entry of a member in its directory is damaged")
        (_, _, _, flags, method, _, _, crc32, packed, whole, names, extras, comments, _, _, _, offset) = _CENTRAL.unpack(fixed)
        rest = file.read(names + extras + comments)
        if len(rest) < names + extras + comments:
            raise _damaged(position, "its directory is cut off")
        whole, packed, offset = _wide(rest[names : names + extras], whole, packed, offset)
        name = _name(rest[:names], flags)
        if not name.endswith("/"):
            place = Place(offset + shift, packed, whole, crc32, method)
            yield Entry(name, place, _refusal(flags, method, place, start))
        position += _CENTRAL.size + len(rest)


def _refusal(flags: int, method: int, place: Place, end: int) -> str:
    """Why a member cannot be read; empty if it can. ``end``: where the members end."""
    if flags & _ENCRYPTED:
        return "encrypted, in a zip archive"
    if method not in _METHODS:
        return f"compressed by method {method} of zip, which is not supported"
    if place.offset < 0 or place.offset + place.packed > end:
        return f"damaged zip archive: the member is said to be at byte {place.offset:,}, outside of the archive"
    return ""


def _directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Where the central directory begins, its length, and what to add to the offsets in it (data before the archive)."""
    tail_size = min(size, _END.size + _LONGEST_COMMENT)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise _damaged(size, "its directory is missing, which is at the end of a zip archive: truncated?")
    length, offset = _END.unpack_from(tail, at)[5:7]
    end = size - tail_size + at
    if offset == _NOT_HERE or length == _NOT_HERE or 0xFFFF in _END.unpack_from(tail, at)[1:5]:
        file.seek(max(0, end - _LOCATOR64.size))
        locator = file.read(_LOCATOR64.size)
        if len(locator) == _LOCATOR64.size and locator.startswith(b"PK\6\7"):
            end -= _LOCATOR64.size + _END64.size
            file.seek(max(0, end))
            record = file.read(_END64.size)
            if end < 0 or len(record) < _END64.size or not record.startswith(b"PK\6\6"):
                raise _damaged(end, "its ZIP64 directory is missing")
            length, offset = _END64.unpack(record)[8:10]
    start = end - length
    if start < 0:
        raise _damaged(end, "its directory is said to be larger than the archive")
    return start, length, start - offset


def _wide(extra: bytes, whole: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Size, packed size and offset, with those from the ZIP64 record in ``extra`` that did not fit into 32 bits."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{min(length, len(extra) - position - 4) // 8}Q", extra, position + 4))
            whole, packed, offset = (next(wide, value) if value == _NOT_HERE else value for value in (whole, packed, offset))
        position += 4 + length
    return whole, packed, offset


def _name(raw: bytes, flags: int) -> str:
    """The name of a member. Names that do not say their encoding are UTF-8 if they can be, otherwise code page 437."""
    raw = raw.partition(b"\0")[0]
    if flags & _UTF8:
        return raw.decode("utf-8", "surrogateescape")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp437")


def header_size(file: BinaryIO) -> int:
    """The size of a member's own header, which is at position 0. Raises ImageError (stage ``read``) if it is damaged."""
    fixed = file.read(_LOCAL.size)
    if len(fixed) < _LOCAL.size or not fixed.startswith(b"PK\3\4"):
        raise ImageError("read", "damaged zip archive: the header of the member is not where the directory says")
    names, extras = _LOCAL.unpack(fixed)[9:11]
    return int(_LOCAL.size + names + extras)


def zip_data(file: BinaryIO, name: str, place: Place) -> ForwardStream:
    """The data of a member. ``file``: its packed data, at position 0. Reading raises ImageError (stage ``read``) for damage."""
    info = zipfile.ZipInfo(name.replace("\0", "") or "member")
    info.compress_type, info.CRC = place.method, place.crc32
    info.compress_size, info.file_size = place.packed, place.size
    try:
        member = zipfile.ZipExtFile(file, "r", info)
    except Exception as error:
        raise ImageError("read", f"damaged zip archive: {error}") from error

    def read(size: int) -> bytes:
        try:
            return member.read(size)
        except (MemoryError, ImageError):
            raise
        except Exception as error:  # zlib, bz2, lzma and zipfile have an exception each
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ImageError("read", f"damaged zip archive: {error or type(error).__name__}") from error

    return ForwardStream(read, place.size)


def _damaged(at: int, why: str) -> ImageError:
    return ImageError("read", f"damaged or truncated archive, at byte {at:,}: {why}")
