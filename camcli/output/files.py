"""The files that belong to a row of the table: its overlay, and the map and the mask beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from camcli.output.ledger import read_rows
from camcli.output.names import is_output_name
from camcli.records import REPORT_FOLDER, REPORT_PAGE, ROW_FOLDERS, recovered

_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_NPY_START = b"\x93NUMPY"
_REPORT_SCRIPT = re.compile(r"rows\.js|maps/\d+\.js")

REPORT_START = b"<!doctype html>\n<!-- a report of camcli"
"""With which every report begins, so that a page of somebody else is not taken for one."""


def files_of(overlay: str, settings: Mapping[str, Any]) -> list[str]:
    """The files of the row with the path ``overlay``, relative to the output folder; none for an unpainted map."""
    if not overlay:
        return []
    files = [overlay]
    if settings.get("save-maps"):
        files.append(map_file(overlay))
    if settings.get("masks"):
        files.append(os.path.join("masks", f"{_stem(overlay)}.png"))
    return files


def map_file(overlay: str) -> str:
    """Where the raw map of ``overlay`` is, if it was stored; both paths are relative to the output folder."""
    return os.path.join("maps", f"{_stem(overlay)}.npy")


def _stem(overlay: str) -> str:
    return os.path.splitext(os.path.relpath(overlay, "overlays"))[0]


def stray_files(path: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """Files in the output folder ``path``, by their names camcli's own, that no row of its table names."""
    named = {file for row in read_rows(path) for file in files_of(recovered(row["overlay"]), settings)}
    for top in ROW_FOLDERS:
        for folder, _, names in os.walk(os.path.join(path, top), onerror=_raise_unless_absent):
            for name in names:
                file = os.path.join(folder, name)
                if is_output_name(name) and os.path.relpath(file, path) not in named:
                    yield file


def report_files(path: str) -> Iterator[str]:
    """Files in the output folder ``path``, relative to it, by their names those of a report."""
    if is_report(os.path.join(path, REPORT_PAGE)):
        yield REPORT_PAGE
    top = os.path.join(path, REPORT_FOLDER)
    for folder, _, names in os.walk(top, onerror=_raise_unless_absent):
        for name in names:
            file = os.path.relpath(os.path.join(folder, name), top)
            if _REPORT_SCRIPT.fullmatch(file) or (file.startswith("thumbs" + os.sep) and is_output_name(name)):
                yield os.path.join(REPORT_FOLDER, file)


def is_report(page: str) -> bool:
    """Whether the file at ``page`` is a report of camcli. Raises OSError, but not for one that is not there."""
    try:
        with open(page, "rb") as file:
            return file.read(len(REPORT_START)) == REPORT_START
    except FileNotFoundError:
        return False


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def is_whole_file(path: str) -> bool:
    """Whether a picture has its beginning and its end, and an array the bytes that its shape needs. Raises OSError."""
    with open(path, "rb") as file:
        start = file.read(256)
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - 8))
        end = file.read()
    if path.endswith(".npy"):
        return start.startswith(_NPY_START) and size == _array_size(start)
    if path.endswith(".png"):
        return start.startswith(_PNG_START) and end.endswith(_PNG_END)
    if path.endswith(".webp"):
        return start[:4] == b"RIFF" and start[8:12] == b"WEBP" and size == 8 + int.from_bytes(start[4:8], "little")
    return start.startswith(b"\xff\xd8") and end.endswith(b"\xff\xd9")


def _array_size(start: bytes) -> int:
    """Bytes of a .npy file of float32, by its first bytes."""
    count = 1
    for cells in start.partition(b"'shape': (")[2].partition(b")")[0].split(b","):
        count *= int(cells) if cells.strip().isdigit() else 1
    return 10 + int.from_bytes(start[8:10], "little") + 4 * count
