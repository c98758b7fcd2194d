"""Addresses -> sources: prefixes of stores, single objects, archives, and lists of addresses.

A prefix is listed once, with sizes and ETags, and searched like a folder: sorted, without hidden names, without the overlays of a
run. Names below it are those that a folder with the same files would have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from camcli.documents import MOST_BYTES
from camcli.errors import ImageError, InputError, RunError
from camcli.images.archives import Refused, is_archive, members
from camcli.images.remote.addresses import WEB, Address, image_name, is_hidden, line_of_list, parsed, root_of
from camcli.images.remote.objects import RemoteSource
from camcli.images.remote.store import NotThereError, RefusedError, store_of
from camcli.layout import OUTPUT_FOLDERS, OWN, SANITY_PICTURES
from camcli.records import Stamp
from camcli.source import Source, together

LIST_EXTENSION = ".txt"
"""The extension of a list of addresses, in lower case."""

_NO_LISTING = "a web server lists no files; name a text file of addresses, one a line, such as {}list.txt"


A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class _Found:
    """An object that was found. ``key``: below ``bucket``, which is a host for a web server. ``url``: with secrets.

    ``url`` is None for an object of a listing, whose address has none. ``refused``: why it cannot be read; empty if it can.
    """

    bucket: str
    key: str
    url: str | None
    stamp: Stamp | None
    refused: str = ""


def _named(address: Address, stamp: Stamp | None = None) -> _Found:
    """The object at ``address``."""
    _, refused = image_name(address.parts[1:])
    return _Found(address.parts[0], "/".join(address.parts[1:]), address.url, stamp, refused)


def discover_remote(
    inputs: Sequence[str], is_wanted: Callable[[str], bool], *, archives: bool = False, labelled: bool = False
) -> list[Source]:
    """Every image at the addresses ``inputs``, in their order, without duplicates.

    ``is_wanted``: whether a name is that of an image. ``archives``: archives below a prefix are searched too; ``labelled``: also
    read the true classes that archives contain. Raises InputError for an address that is wrong or where there is nothing,
    ConfigError for a missing package, and RunError if the store cannot be reached.
    """
    addresses = [parsed(text) for text in inputs]
    if len({"http" if address.is_web else address.protocol for address in addresses}) > 1:
        raise InputError("the inputs of a run must be in stores of one protocol: start a run for each.")
    for address in addresses:
        store_of(address.url)
    folders: list[tuple[str, ...]] = []
    found: list[_Found] = []
    stamps = _stamps_of([address for address in addresses if not address.is_web and _is_object(address, is_wanted)])
    for address in addresses:
        if _is_list(address):
            folders.append(address.folder)
            for entry in _list_at(address):
                if isinstance(entry, Address):
                    folders[-1] = _common([folders[-1], entry.folder])
                    found.append(_named(entry))
                else:
                    found.append(entry)
        elif address.is_web and not address.parts[-1]:
            raise InputError(f"{address.shown!r}: {_NO_LISTING.format(address.shown)}.")
        elif address.is_web or address in stamps:
            folders.append(address.folder)
            found.append(_named(address, stamps.get(address)))
        else:
            folder, objects = _prefix(address, is_wanted, archives=archives)
            folders.append(folder)
            found += objects
    return _sources(addresses[0].protocol, _common(folders), found, is_wanted, labelled=labelled)


def _is_list(address: Address) -> bool:
    return len(address.parts) > 1 and address.parts[-1].lower().endswith(LIST_EXTENSION)


def _is_object(address: Address, is_wanted: Callable[[str], bool]) -> bool:
    """Whether the extension of an address says that it is an object and no prefix."""
    return len(address.parts) > 1 and (is_wanted(address.parts[-1]) or is_archive(address.parts[-1]))


def _stamps_of(addresses: Sequence[Address]) -> dict[Address, Stamp]:
    """The stamps of single objects. Raises InputError if one does not exist."""

    def look(address: Address) -> Stamp:
        return _asked(lambda: store_of(address.url).look(address.url).stamp, address)

    return dict(zip(addresses, together(look, addresses), strict=True))


def _common(folders: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The deepest folder that all ``folders`` are in; empty if they are in several buckets or on several servers."""
    low, high = min(folders), max(folders)
    count = 0
    while count < min(len(low), len(high)) and low[count] == high[count]:
        count += 1
    return low[:count]


def _sources(
    protocol: str, common: tuple[str, ...], found: Sequence[_Found], is_wanted: Callable[[str], bool], *, labelled: bool
) -> list[Source]:
    root = root_of(protocol, common)
    below = "".join(f"{part}/" for part in common[1:])
    sources: dict[str, Source] = {}
    named = [(one, *image_name(tuple(_key_below(one, common, below).split("/")))) for one in found]
    cleaned = {name for one, name, _ in named if name != _key_below(one, common, below)}
    exact = {name for one, name, _ in named if name in cleaned and name == _key_below(one, common, below)}
    origins: dict[str, tuple[str, str]] = {}  # of the names in cleaned: the object that has it
    for one, name, why in named:
        key, refused = _key_below(one, common, below), one.refused or why
        if name in cleaned and not refused:
            is_taken = name in exact if name != key else False
            if is_taken or origins.setdefault(name, (one.bucket, one.key)) != (one.bucket, one.key):
                name, refused = key, f"its name without empty parts is {name!r}, as that of another object"
        if name in sources:
            continue
        if refused:
            sources[name] = Refused(root, name, refused, None)
        elif one.url is None and name == key:
            sources[name] = RemoteSource(root, name, None, one.stamp)
        else:
            sources[name] = RemoteSource(root, name, one.url or f"{protocol}://{one.bucket}/{one.key}", one.stamp)
    packed = [source for source in sources.values() if isinstance(source, RemoteSource) and is_archive(source.image)]
    if not packed:
        return list(sources.values())
    lists = together(lambda one: members(_with_stamp(one), is_wanted, labelled=labelled), packed)
    inside = {source.image: list_ for source, list_ in zip(packed, lists, strict=True)}
    return [one for source in sources.values() for one in inside.get(source.image, [source])]


def _key_below(one: _Found, common: tuple[str, ...], below: str) -> str:
    """The key of an object below the folder ``common``, whose key is ``below``."""
    return one.key[len(below) :] if common else f"{one.bucket}/{one.key}"


def _with_stamp(archive: RemoteSource) -> RemoteSource:
    """``archive`` with its stamp as it is now, so that not every read of a member asks for it; as it is if it cannot be read."""
    if archive.listed is not None:
        return archive
    try:
        piece = store_of(archive.address).look(archive.address)
    except ImageError:
        return archive
    return archive if piece.size is None else replace(archive, listed=piece.stamp)


def _asked(ask: Callable[[], A], address: Address) -> A:
    """The answer to ``ask``; errors are those of an input."""
    try:
        return ask()
    except NotThereError as error:
        raise InputError(f"{address.shown!r}: {error}.") from error
    except RefusedError as error:
        raise InputError(f"cannot read {address.shown!r}: {error}.") from error
    except ImageError as error:
        raise RunError(f"cannot read {address.shown!r}: {error}.") from error


def _list_at(address: Address) -> Iterator[Address | _Found]:
    """The addresses in the list at ``address``, in its order; for a line that is refused an object that cannot be read."""
    piece = _asked(lambda: store_of(address.url).whole(address.url, most=MOST_BYTES), address)
    if piece.data is None:
        raise InputError(f"the list {address.shown!r} has more than {MOST_BYTES:,} bytes; divide it.")
    try:
        text = piece.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"the list {address.shown!r} is not text in UTF-8.") from error
    for number, line in enumerate(text.split("\n"), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        try:
            found = line_of_list(entry, address)
            if not found.parts[-1] or len(found.parts) < 2:
                raise InputError(f"{found.shown!r} names no object")
        except InputError as error:
            reason = f"line {number} of the list: {str(error).rstrip('.')}"
            yield _Found(address.parts[0], "/".join((*address.parts[1:], f"line {number}")), None, None, reason)
        else:
            yield found


def _prefix(address: Address, is_wanted: Callable[[str], bool], *, archives: bool) -> tuple[tuple[str, ...], list[_Found]]:
    """The parts of the prefix at ``address``, and the objects below it that are images; or the one object that is there.

    Raises InputError if there is neither.
    """
    bucket, *rest = address.parts
    while rest and not rest[-1]:
        rest.pop()
    prefix = "".join(f"{part}/" for part in rest)
    store = store_of(address.url)
    listed = _asked(lambda: [(one.key, one.stamp) for one in store.list(bucket, prefix) if not one.key.endswith("/")], address)
    if not listed and rest:
        try:
            piece = store.look(f"{address.protocol}://{bucket}/{'/'.join(rest)}")
        except ImageError as error:
            raise InputError(f"there is no object at or below {address.shown!r}.") from error
        one = Address(address.protocol, (bucket, *rest), f"{address.protocol}://{bucket}/{'/'.join(rest)}")
        return one.folder, [_named(one, piece.stamp)]
    runs = {key.rpartition(f"{OWN}/")[0] for key, _ in listed if f"{OWN}/" in key}
    kept = [(key, stamp) for key, stamp in listed if is_wanted(key) or (archives and is_archive(key))]
    del listed
    kept.sort(key=lambda item: item[0].replace("/", "\0"))
    return (bucket, *rest), [
        _Found(bucket, key, None, stamp)
        for key, stamp in kept
        if not (is_hidden(tuple(key[len(prefix) :].split("/"))) or (runs and _is_output(key, runs)))
    ]


def _is_output(key: str, runs: set[str]) -> bool:
    """Whether ``key`` is in the overlays or maps of a run of camcli. ``runs``: the folders with a run, which end in a slash."""
    own = (*OUTPUT_FOLDERS, *SANITY_PICTURES)
    parts = key.split("/")
    return any(part in own and "".join(f"{above}/" for above in parts[:place]) in runs for place, part in enumerate(parts))


def objects_below(root: str) -> dict[str, Source]:
    """Every object below a recorded ``root`` by its name, from one listing; empty if its store lists nothing.

    Raises InputError, ConfigError and RunError.
    """
    protocol, _, where = root.partition("://")
    if protocol in WEB or not where:
        return {}
    folder, objects = _prefix(parsed(f"{root.rstrip('/')}/"), lambda _: True, archives=True)
    found = _sources(protocol, folder, [one for one in objects if not is_archive(one.key)], lambda _: True, labelled=False)
    below = len("".join(f"{part}/" for part in folder[1:]))
    packed = [RemoteSource(root, one.key[below:], None, one.stamp) for one in objects if is_archive(one.key)]
    return {one.image: one for one in (*found, *packed)}
