"""What the index of an archive says about a member."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """Where the data of a member is, in bytes.

    ``offset``: of the data in a tar, of the member's header in a zip. ``packed``: its size in the archive, ``size``: its own.
    ``crc32`` and ``method``: the checksum and the compression of a zip.
    """

    offset: int
    packed: int
    size: int
    crc32: int = 0
    method: int = 0


class Entry(NamedTuple):
    """A member that is no folder. ``refused``: why it cannot be read; empty if it can."""

    name: str
    place: Place
    refused: str
