"""A folder of a store, whose objects are files of an output folder: read into a Root of this machine, and written from one.

Names of objects are data of strangers. They become files only by way of ``Root``, which refuses names that lead elsewhere.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from camcli.errors import ConfigError, ImageError, InputError, OutputError
from camcli.images.remote.addresses import Address, file_of_key, key_of_file, parsed
from camcli.images.remote.store import AT_ONCE, ChangedError, store_of
from camcli.output.root import Root
from camcli.records import Stamp

T = TypeVar("T")


class RemoteFolder:
    """The objects below ``address``. Names are relative to it, with ``/``, as those below a ``Root``.

    All methods raise OutputError, with the address and what the store answers, and ConfigError if a package is missing.
    """

    def __init__(self, address: Address) -> None:
        self._protocol, self._bucket, *self._inside = address.protocol, *address.parts

    def below(self, name: str) -> RemoteFolder:
        """The folder ``name`` inside this one."""
        parts = (self._bucket, *self._inside, *key_of_file(name).split("/"))
        return RemoteFolder(Address(self._protocol, parts, f"{self._protocol}://{'/'.join(parts)}"))

    @property
    def address(self) -> str:
        """The address, by which another process finds the same folder."""
        return f"{self._protocol}://{'/'.join((self._bucket, *self._inside))}"

    @property
    def shown(self) -> str:
        """The address for messages and records, in which some characters are replaced."""
        return Address(self._protocol, (), self.address).shown

    def files(self) -> Iterator[tuple[str, Stamp]]:
        """Yield the name and the stamp of each object, from one listing. A name may be anything."""
        prefix = "".join(f"{part}/" for part in self._inside)
        found = store_of(self._url("")).list(self._bucket, prefix)
        while True:
            one = self._asked("list", "", lambda: next(found, None))
            if one is None:
                return
            yield file_of_key(one.key[len(prefix) :]), one.stamp

    def read(self, name: str, most: int) -> bytes:
        """The object ``name``, of at most ``most`` bytes."""
        piece = self._asked("read", name, lambda: store_of(self._url(name)).whole(self._url(name), most=most))
        return piece.data or b""

    def fetch(self, name: str, stamp: Stamp, root: Root) -> None:
        """Write the object ``name``, which has this stamp, to the same path below ``root``. Also raises ImageError (``write``)."""
        root.write(name, b"")
        url = self._url(name)

        def part(start: int) -> bytes:
            size = min(AT_ONCE, stamp.size - start)
            if size < stamp.size:
                return store_of(url).part(url, start, size, stamp)
            piece = store_of(url).whole(url, most=size, expected=size)
            if piece.data is None or piece.stamp != stamp:
                raise ChangedError
            return piece.data

        with open(root.append(name), "wb") as file:
            for start in range(0, stamp.size, AT_ONCE):
                file.write(self._asked("read", name, partial(part, start)))

    def write(self, name: str, root: Root) -> None:
        """Write the file ``name`` of ``root`` as the object of the same name."""
        with root.open(name) as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            self._asked("write", name, lambda: store_of(self._url(name)).put(self._url(name), file, size))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write ``data`` as the object ``name``."""
        self._asked("write", name, lambda: store_of(self._url(name)).put(self._url(name), io.BytesIO(data), len(data)))

    def copy(self, source: RemoteFolder, name: str) -> None:
        """Copy the object ``name`` of another folder to the same name here, inside the store."""
        self._asked("write", name, lambda: store_of(self._url(name)).duplicate(source._url(name), self._url(name)))

    def remove(self, name: str) -> None:
        """Delete the object ``name``, if there is one."""
        self._asked("delete", name, lambda: store_of(self._url(name)).delete(self._url(name)))

    def _url(self, name: str) -> str:
        return f"{self._protocol}://{'/'.join((self._bucket, *self._inside, key_of_file(name)))}"

    def _asked(self, verb: str, name: str, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except ImageError as error:
            shown = self.below(name).shown if name else self.shown
            raise OutputError(f"cannot {verb} {shown!r}: {error}.") from error


def output_at(text: str) -> RemoteFolder:
    """The folder at the address ``text`` as an output. Raises ConfigError if a run cannot write there."""
    try:
        address = parsed(text)
    except InputError as error:
        raise ConfigError(f"--output {error}") from error
    parts = address.parts[:-1] if len(address.parts) > 1 and not address.parts[-1] else address.parts
    if address.is_web:
        raise ConfigError(
            f"--output {address.shown!r}: a web server cannot be written to; name a store, such as s3://BUCKET/PREFIX."
        )
    if any(part in ("", ".", "..") for part in parts):
        raise ConfigError(
            f"--output {address.shown!r} has a part that is empty, '.' or '..'; write {address.protocol}://BUCKET/PREFIX."
        )
    folder = RemoteFolder(Address(address.protocol, parts, address.url))
    store_of(folder._url(""))  # a missing package
    return folder
