"""The members of a tar archive, from its headers. No data is read, and a damaged archive gives what comes before the damage."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from camcli.errors import ImageError
from camcli.images.entries import Entry, Place

_LONGEST_HEADER = 1 << 20
"""Maximum size in bytes of a header with a long name or other records; a larger one is forged."""


class _Damaged(Exception):  # noqa: N818 - part of a message
    """What is wrong with an archive."""


class _Headers:
    """A file of which tarfile reads only headers. ``skips``: the maximum number of bytes between two headers."""

    def __init__(self, file: BinaryIO, skips: int | None) -> None:
        self._file, self._skips = file, skips

    def read(self, size: int) -> bytes:
        """``size`` bytes. Raises _Damaged for more than a header has."""
        if not 0 <= size <= _LONGEST_HEADER:
            raise _Damaged(f"a header of {size:,} bytes")
        return self._file.read(size)

    def seek(self, position: int) -> int:
        """Set the position."""
        if self._skips is not None and position > self._file.tell() + self._skips:
            raise _Damaged(f"a member of more than {self._skips:,} bytes in a compressed archive")
        return self._file.seek(position)

    def tell(self) -> int:
        """The position."""
        return self._file.tell()


def tar_entries(file: BinaryIO, size: int | None, longest: int | None = None) -> Iterator[Entry]:
    """Yield the entries of a tar archive that are no folders, in order.

    ``size``: of the archive in bytes; None for a stream, of which it is not known. ``longest``: the maximum size of a member of
    a stream, where skipping it means reading it. Raises ImageError (stage ``read``) where the archive is damaged or ends early,
    after the entries before that.
    """
    position, archive, held = 0, None, None
    try:
        archive = tarfile.TarFile(fileobj=_Headers(file, longest), encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
        info = archive.next()
        while info is not None:
            if info.size < 0 or info.offset < position:
                raise _Damaged("a negative size")
            position = info.offset_data
            if held is not None:  # a stream goes on behind it, so it is complete
                yield held
                held = None
            if not info.isdir():
                held = Entry(info.name, Place(info.offset_data, info.size, info.size), _refusal(info))
                if size is not None and info.offset_data + info.size > size:
                    held = None
                    raise _Damaged(f"its member {info.name[:200]!r} is cut off")
            # it would keep a kilobyte for each
            archive.members = []  # type: ignore[attr-defined]
            info = archive.next()
        file.seek(archive.offset)
        block = file.read(tarfile.BLOCKSIZE)
        if held is not None:
            yield held
            held = None
        if block.strip(b"\0"):
            raise _Damaged("a damaged header")
        if len(block) < tarfile.BLOCKSIZE:
            raise _Damaged("the blocks of zeros that end an archive are missing")
    except (MemoryError, ImageError):  # an ImageError is of the file that is read, such as an object of a store
        raise
    except Exception as error:  # tarfile and the decompressors raise almost any exception for a forged file
        at = archive.offset if archive is not None else 0
        if held is not None and (size is not None or file.tell() >= held.place.offset + held.place.size):
            yield held  # only what follows is damaged
        raise ImageError("read", f"damaged or truncated archive, at byte {at:,}: {error}") from error


def _refusal(info: tarfile.TarInfo) -> str:
    """Why a member cannot be read as a file; empty if it can."""
    if info.issym() or info.islnk():
        return "a link in an archive, which is never followed"
    if info.issparse():
        return "a sparse file in an archive, which is not supported"
    return "" if info.isreg() else "not a regular file but a device or a FIFO in an archive"
