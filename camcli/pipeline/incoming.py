"""Paths that another program lists, worked on as they come: ``producer | camcli run -``."""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable

from camcli.errors import InputError
from camcli.images.discover import Search, named_sources, shard_of
from camcli.records import Failure, escape_name
from camcli.source import Source

_SILENCE, _LONGEST = 0.2, 1.0
"""The first paths are those until no more came for so many seconds; but not longer than so many seconds after the first one."""

_CHUNK = 1 << 16


class PathStream:
    """Paths from a file descriptor, one a line, or with ``null`` each with a NUL behind it. ``ended``: whether all are read."""

    def __init__(self, handle: int, *, null: bool) -> None:
        self.handle, self.ended = handle, False
        self._separator = b"\0" if null else b"\n"
        self._rest = b""

    def read(self, timeout: float | None = 0.0) -> list[str]:
        """The paths that have come; waits at most ``timeout`` seconds for some, None for ever.

        Raises InputError for NUL in a line.
        """
        names: list[bytes] = []
        while not self.ended and self._is_ready(timeout):
            data = os.read(self.handle, _CHUNK)
            self.ended = not data
            *whole, self._rest = (self._rest + data).split(self._separator)
            names += whole
            if self.ended:
                names.append(self._rest)
            timeout = 0.0
        if self._separator == b"\n":
            names = [name.removesuffix(b"\r") for name in names]
            if any(b"\0" in name for name in names):
                raise InputError("the paths on stdin contain NUL bytes; if they come from find -print0, add --null.")
        return [os.fsdecode(name) for name in names if name]

    def _is_ready(self, timeout: float | None) -> bool:
        poll = select.poll()
        poll.register(self.handle, select.POLLIN)
        return bool(poll.poll(None if timeout is None else 1000 * timeout))

    def first(self) -> list[str]:
        """The paths that come together at the beginning: all of a program that lists files quickly. Waits for at least one."""
        paths = self.read(None)
        while not (paths or self.ended):
            paths = self.read(None)
        latest = time.monotonic() + _LONGEST
        while not self.ended and (left := latest - time.monotonic()) > 0:
            more = self.read(min(left, _SILENCE))
            if not more and not self.ended:
                break
            paths += more
        return paths

    def all(self) -> list[str]:
        """All paths, up to the end."""
        paths = self.read(None)
        while not self.ended:
            paths += self.read(None)
        return paths


class LaterSources:
    """The images of ``stream`` that come after the first ones. ``root``: the folder that all names are relative to.

    ``search``: as for the first ones. ``seen``: names that have come before. ``left``: how many
    may still come; None for any number. ``shard``: only the images of this shard, as (index, count).
    """

    def __init__(
        self, stream: PathStream, root: str, search: Search, seen: set[str], left: int | None, shard: tuple[int, int] | None
    ) -> None:
        self._stream, self._root, self._search, self._seen, self._left, self._shard = stream, root, search, seen, left, shard
        self.handle = stream.handle

    @property
    def ended(self) -> bool:
        """Whether no more can come."""
        return self._stream.ended or self._left == 0

    def read(self) -> list[Source | Failure]:
        """The images that have come since, and a failure for each path outside of the root. Does not wait."""
        found: list[Source | Failure] = []
        for source in named_sources(self._stream.read(), self._root, self._search):
            name = source if isinstance(source, str) else source.image
            if name in self._seen or self._left == 0:
                continue
            self._seen.add(name)
            if self._left is not None:
                self._left -= 1
            if self._shard is not None and shard_of(name, self._shard[1]) != self._shard[0]:
                continue
            found.append(self._outside(source) if isinstance(source, str) else source)
        return found

    def _outside(self, path: str) -> Failure:
        reason = f"outside of {escape_name(self._root)}, the folder of the first paths; start camcli in a folder above all images"
        return Failure(path.lstrip(os.sep), "read", reason)


class StreamedSources:
    """The images of a run that are still coming: ``first``, then those of ``later`` that ``choose`` keeps."""

    def __init__(
        self, first: list[Source], later: LaterSources, choose: Callable[[list[Source | Failure]], list[Source | Failure]]
    ) -> None:
        self._waiting: deque[Source | Failure] = deque(first)
        self._later, self._choose = later, choose
        self.handle: int | None = later.handle

    @property
    def ended(self) -> bool:
        """Whether there will be no more."""
        return not self._waiting and self._later.ended

    def take(self) -> Source | Failure | None:
        """The next image; None if there is none at the moment."""
        if not self._waiting and not self._later.ended:
            self._waiting.extend(self._choose(self._later.read()))
        return self._waiting.popleft() if self._waiting else None
