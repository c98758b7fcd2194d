"""Arrays of the rows of images as records of a binary table, one behind the other, so that they need no files of their own.

A binary table is kept as ``predictions.csv`` is: rows are appended, the journal records where those of each image end and their
CRC-32, and they are kept, dropped and reordered by copying bytes.
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO

from camcli.output.exchange import current_place
from camcli.output.journal import Entry
from camcli.output.root import Root

if TYPE_CHECKING:
    import numpy as np

    from camcli.output.ledger import Ledger

_HEAD = struct.Struct("<IBB")
"""Number of the row among those of its image, type, number of dimensions. The dimensions follow (uint32), then the values."""

_TYPES = ("<f4", "<f2")
_MOST_BYTES = 1 << 30
_CHUNK = 1 << 20


def pack_arrays(arrays: Iterable[tuple[int, np.ndarray]]) -> bytes:
    """Records of (number of the row, array of float32 or float16 of any shape ``(...,)``)."""
    import numpy as np  # the command line's help does without

    parts: list[bytes] = []
    for row, values in arrays:
        kind = _TYPES.index(values.dtype.newbyteorder("<").str)
        parts += [_HEAD.pack(row, kind, values.ndim), struct.pack(f"<{values.ndim}I", *values.shape)]
        parts.append(np.ascontiguousarray(values, _TYPES[kind]).tobytes())
    return b"".join(parts)


def unpack_arrays(data: bytes) -> Iterator[tuple[int, np.ndarray]]:
    """What ``pack_arrays`` has packed: (number of the row, array of any shape ``(...,)``).

    Raises ValueError for anything else, and allocates no more than ``data`` has bytes.
    """
    import numpy as np

    at = 0
    while at < len(data):
        try:
            row, kind, dimensions = _HEAD.unpack_from(data, at)
            shape = struct.unpack_from(f"<{dimensions}I", data, at + _HEAD.size)
            dtype = np.dtype(_TYPES[kind])
        except (struct.error, IndexError) as error:
            raise ValueError("it is not an array packed by camcli") from error
        at += _HEAD.size + 4 * dimensions
        count = math.prod(shape)
        if count * dtype.itemsize > len(data) - at:
            raise ValueError("it is shorter than its shape")
        yield row, np.frombuffer(data, dtype, count, at).reshape(shape)
        at += count * dtype.itemsize


class PackedTable:
    """The binary table at ``place`` of a run, for reading, as ``ledger`` is now."""

    def __init__(self, root: Root, ledger: Ledger, place: str) -> None:
        self._root, self._place = root, place
        self._index = ledger.binaries.index(place)
        self._offsets: dict[str, int] = {}
        end = ledger.starts[place]
        for image, entry in ledger.entries.items():
            self._offsets[image] = end
            end += self._size(entry)

    def _size(self, entry: Entry) -> int:
        return entry.packed[self._index].size if entry.packed else 0

    def read(self, entry: Entry) -> bytes:
        """The records of the image of ``entry``. Raises OSError, and ValueError if they are damaged."""
        size = self._size(entry)
        if not size:
            return b""
        if size > _MOST_BYTES:
            raise ValueError(f"it has {size} bytes, which is too much for one image")
        with self._root.open(current_place(self._root, self._place)) as file:
            data = os.pread(file.fileno(), size, self._offsets[entry.image])
        if len(data) != size or zlib.crc32(data) != entry.packed[self._index].crc32:
            raise ValueError("it has changed since it was written")
        return data

    def is_whole(self, entry: Entry) -> bool:
        """Whether the records of the image of ``entry`` are those that were written. Raises OSError."""
        try:
            self.read(entry)
        except ValueError:
            return False
        return True

    def copy(self, entry: Entry, table: BinaryIO, out: BinaryIO) -> None:
        """Append the records of the image of ``entry`` to ``out``, damaged or not. ``table``: what ``open`` returns."""
        left = self._size(entry)
        if left:
            table.seek(self._offsets[entry.image])
        while left:
            data = table.read(min(left, _CHUNK)) or bytes(min(left, _CHUNK))  # exactly as many as the journal says
            out.write(data)
            left -= len(data)

    def open(self) -> BinaryIO:
        """The table, opened for ``copy``. Raises OSError."""
        return self._root.open(current_place(self._root, self._place))


class PackedSources(contextlib.ExitStack):
    """Context manager: copies arrays from the binary tables ``names`` of one or several runs, which it keeps open."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._names = names
        self._tables: dict[tuple[int, str], tuple[PackedTable, BinaryIO]] = {}

    def copy(self, entry: Entry, owner: Ledger, files: Mapping[str, BinaryIO]) -> None:
        """Append the arrays of ``entry``, which are in the tables of ``owner``, to ``files``: name of a table -> new file."""
        for name in self._names:
            if (id(owner), name) not in self._tables:
                table = owner.packed(name)
                self._tables[id(owner), name] = table, self.enter_context(table.open())
            table, file = self._tables[id(owner), name]
            table.copy(entry, file, files[name])
