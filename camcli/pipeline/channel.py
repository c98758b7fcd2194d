"""Messages between processes through a pair of pipes: pickled, with their length before them.

Both ends belong to camcli, so the messages are trusted. The main process never waits for a pipe: what does not fit into it is sent
later. A worker that is stopped or hangs can therefore not stop the main process.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Iterator
from typing import Any

_LENGTH = struct.Struct("<Q")
_CHUNK = 1 << 20


def packed(message: Any) -> bytes:
    """A message as bytes."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


class Unpacker:
    """Turns the bytes of a pipe into messages, as they come."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Yield the messages that are complete with ``data``."""
        self._data += data
        start = 0
        while len(self._data) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._data, start)
            end = start + _LENGTH.size + length
            if len(self._data) < end:
                break
            with memoryview(self._data) as view:
                message = pickle.loads(view[start + _LENGTH.size : end])
            start = end
            yield message
        del self._data[:start]


def messages_from(handle: int) -> Iterator[Any]:
    """Yield the messages that come through the pipe ``handle``, which blocks, until its other end is closed."""
    unpacker = Unpacker()
    while data := os.read(handle, _CHUNK):
        yield from unpacker.feed(data)


def send(handle: int, message: Any) -> None:
    """Write a message into the pipe ``handle``, and wait until all of it is in. Raises OSError."""
    view = memoryview(packed(message))
    while view:
        view = view[os.write(handle, view) :]


class Channel:
    """The main process's end of two pipes: ``sending`` to a worker and ``receiving`` from it. Never blocks.

    ``ended``: whether the worker has closed its end, because it died.
    """

    def __init__(self, sending: int, receiving: int) -> None:
        self.sending, self.receiving = sending, receiving
        self.ended = False
        self._unpacker = Unpacker()
        self._unsent = bytearray()
        os.set_blocking(sending, False)
        os.set_blocking(receiving, False)

    @property
    def is_full(self) -> bool:
        """Whether a part of the messages is still to be sent."""
        return bool(self._unsent)

    def send(self, message: Any) -> None:
        """Send a message, as much of it as the pipe takes now; ``flush`` sends the rest."""
        self._unsent += packed(message)
        self.flush()

    def flush(self) -> None:
        """Send what the pipe takes now. A dead worker gets nothing; ``receive`` tells of its death."""
        try:
            while self._unsent:
                del self._unsent[: os.write(self.sending, self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()

    def receive(self) -> list[Any]:
        """The messages that have come."""
        found: list[Any] = []
        try:
            while data := os.read(self.receiving, _CHUNK):
                found += self._unpacker.feed(data)
                if len(data) < _CHUNK:
                    return found
        except BlockingIOError:
            return found
        except OSError:
            pass
        self.ended = True
        return found
