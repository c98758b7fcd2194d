"""Objects of stores as sources."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field

from camcli.errors import ConfigError, ImageError
from camcli.images.remote.addresses import address_below
from camcli.images.remote.blocks import BlockFile
from camcli.images.remote.store import AT_ONCE, Store, store_of
from camcli.ranges import FileRange
from camcli.records import Stamp
from camcli.source import Contents, Source, check_size

_GUESSED = 1 << 20
"""The size in bytes that is expected of an object whose size is not known."""


@dataclass(frozen=True, slots=True)
class RemoteSource(Source):
    """An object of a store. ``root`` and ``image`` have no secrets and are written.

    ``url``: its address, with secrets, never written; None if that is what follows from ``root`` and ``image``. ``listed``: its
    stamp in a listing; None if no listing has it, then ``stamp`` asks.
    """

    url: str | None = field(default=None, repr=False)
    listed: Stamp | None = None

    @property
    def address(self) -> str:
        """Its address, with secrets."""
        return address_below(self.root, self.image) if self.url is None else self.url

    @property
    def is_remote(self) -> bool:
        """True."""
        return True

    @property
    def expected_bytes(self) -> int:
        """Its size in bytes in the listing, or a guess."""
        return _GUESSED if self.listed is None else self.listed.size

    def stamp(self) -> Stamp | None:
        """The stamp in the listing, else the stamp now; None if the object cannot be read."""
        if self.listed is not None:
            return self.listed
        try:
            return self._store().look(self.address).stamp
        except ImageError:
            return None

    def is_readable(self) -> bool:
        """Whether the first byte can be read now."""
        try:
            with self.range(0, 1) as contents:
                return contents.file.read(1) != b""
        except ImageError:
            return False

    def open(self) -> Contents:
        """The bytes of the object. Raises ImageError as ``Source.open``; stage ``read`` for whatever the store answers."""
        store, address, expected = self._store(), self.address, None
        if self.listed is not None:
            expected = self.listed.size
            check_size(expected)
            if expected > AT_ONCE:
                return self._part(0, expected, self.listed)
        piece = store.whole(address, expected=expected)
        if piece.data is not None:
            check_size(len(piece.data))
            return Contents(io.BytesIO(piece.data), len(piece.data), piece.stamp)
        if piece.size is not None:
            check_size(piece.size)
            return self._part(0, piece.size, piece.stamp)
        handle, stamp = store.whole_file(address)
        try:
            size = os.fstat(handle).st_size
            check_size(size)
            return Contents(io.BufferedReader(FileRange(handle, 0, size)), size, stamp)
        except BaseException:
            os.close(handle)
            raise

    def range(self, start: int, size: int) -> Contents:
        """At most ``size`` bytes of the object from ``start`` on, with the size and the stamp of the whole object.

        Raises ImageError (stage ``read``), also when reading, if the object is not the one that was listed.
        """
        stamp = self.listed
        if stamp is None:
            piece = self._store().look(self.address)
            stamp = piece.stamp
            if piece.size is None:
                raise ImageError("read", "the server does not say its size, which reading parts of it needs: download it first")
        return self._part(start, size, stamp)

    def _part(self, start: int, size: int, stamp: Stamp) -> Contents:
        store, address = self._store(), self.address
        length = min(size, stamp.size - start)
        file = BlockFile(
            lambda begin, count: store.part(address, begin, count, stamp), start, length, at_once=start > 0 or length < stamp.size
        )
        return Contents(io.BufferedReader(file), stamp.size, stamp)

    def _store(self) -> Store:
        try:
            return store_of(self.address)
        except ConfigError as error:
            raise ImageError("read", str(error)) from error
