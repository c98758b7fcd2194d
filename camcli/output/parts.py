"""Folders of part files that are derived from a table, such as ``predictions.parquet``, and the manifest that names them.

The tables and the journal are the truth. A part has a fixed number of rows. For each part the manifest records a digest of the rows
that it was made from, so that only parts whose rows have changed are written again, and the checksum of its file. No part is ever
opened to find that out, and no file that the manifest does not name is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from camcli.documents import parse_json
from camcli.layout import PART_FOLDERS, PARTS_MANIFEST
from camcli.output.root import Root
from camcli.output.writers import output_error
from camcli.records import Checksum, checksum_of

_MOST_LINE = 1 << 12
_NAME = re.compile(rf"(?:{'|'.join(map(re.escape, PART_FOLDERS))})/part-\d{{5,9}}\.parquet")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Part(NamedTuple):
    """A part file and its checksum. ``digest``: SHA-256 of its rows and their encoding; empty while the file is being written."""

    digest: str
    file: Checksum


class Wanted(NamedTuple):
    """A part as it should be. ``encode``: makes the contents of its file."""

    digest: str
    encode: Callable[[], bytes]


_UNFINISHED = Part("", Checksum(0, 0))


def part_name(folder: str, number: int) -> str:
    """The path of part ``number`` of ``folder``, counted from 0."""
    return f"{folder}/part-{number:05d}.parquet"


def read_parts(root: Root, folder: str) -> dict[str, Part]:
    """The parts of ``folder`` in the manifest of ``root``, by path; empty if there is no manifest. Raises OSError."""
    return {name: part for name, part in _read_manifest(root).items() if name.startswith(f"{folder}/")}


def _read_manifest(root: Root) -> dict[str, Part]:
    found: dict[str, Part] = {}
    with contextlib.suppress(FileNotFoundError), root.open(PARTS_MANIFEST) as file:
        while line := file.readline(_MOST_LINE):
            with contextlib.suppress(ValueError, TypeError):
                name, digest, size, crc32 = parse_json(line)
                if isinstance(name, str) and _NAME.fullmatch(name):
                    found[name] = _UNFINISHED
                    if isinstance(digest, str) and _DIGEST.fullmatch(digest) and type(size) is type(crc32) is int:
                        found[name] = Part(digest, Checksum(size, crc32))
    return found


def update_parts(root: Root, folder: str, wanted: Iterable[Wanted]) -> None:
    """Make the parts of ``folder`` those that are ``wanted``: write new and changed ones, and remove those that are too many.

    If the process dies, the next call completes the work. Raises OutputError.
    """
    try:
        known = _read_manifest(root)
        kept = {name: part for name, part in known.items() if not name.startswith(f"{folder}/")}
        for number, (digest, encode) in enumerate(wanted):
            name = part_name(folder, number)
            part = known.get(name)
            if part is None or part.digest != digest or not _is_whole(root, name, part.file):
                data = encode()
                part = Part(digest, checksum_of(data))
                _append(root, name, _UNFINISHED)  # from here on the file is ours, and to be written again
                root.write(name, data)
                _append(root, name, part)
            kept[name] = part
        for name in known.keys() - kept.keys():
            root.remove(name)
        root.write_changed(PARTS_MANIFEST, _lines(kept))
    except OSError as error:
        raise output_error(error.filename or root.at(folder), error) from error


def _is_whole(root: Root, name: str, file: Checksum) -> bool:
    try:
        return root.size(name) == file.size and checksum_of(root.read(name, file.size)) == file
    except OSError:
        return False


def remove_parts(root: Root) -> None:
    """Remove all parts that the manifest names, their folders if they are empty then, and the manifest. Raises OSError."""
    for name in _read_manifest(root):
        root.remove(name)
    for folder in PART_FOLDERS:
        root.remove_folder(folder, above=False)
    root.remove(PARTS_MANIFEST)


def _append(root: Root, name: str, part: Part) -> None:
    handle = root.append(PARTS_MANIFEST)
    try:
        line = _lines({name: part})
        if os.fstat(handle).st_size:  # its last line may be incomplete
            line = b"\n" + line
        while line:
            line = line[os.write(handle, line) :]
    finally:
        os.close(handle)


def _lines(parts: Mapping[str, Part]) -> bytes:
    return b"".join(json.dumps([name, part.digest, *part.file]).encode("ascii") + b"\n" for name, part in sorted(parts.items()))
