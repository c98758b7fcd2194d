"""The files that belong to a row of the table: overlay, map and mask. Also how to recognise whole files and reports."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from camcli.layout import REPORT_PAGE, ROW_FOLDERS, map_file, mask_file
from camcli.output.names import is_output_name
from camcli.output.root import Root
from camcli.records import unescape_name

_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
ARRAY_START = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d{1,9}), (\d{1,9})\), \} *\n", re.DOTALL
)
"""The header that numpy.save writes for a two-dimensional float32 array (numpy.lib.format, version 1.0)."""

REPORT_START = b"<!doctype html>\n<!-- a report of camcli"
"""The beginning of every report, by which a report is told from any other page."""


def files_of(overlay: str, settings: Mapping[str, Any]) -> list[str]:
    """The files of the row with the overlay ``overlay``, as paths in the output folder. A map that was not painted has none."""
    if not overlay:
        return []
    files = [overlay]
    if settings.get("save-maps"):
        files.append(map_file(overlay))
    if settings.get("masks"):
        files.append(mask_file(overlay))
    return files


def row_files(rows: list[dict[str, str]], settings: Mapping[str, Any]) -> list[str]:
    """The files of all ``rows`` of an image, in the order of the rows."""
    return [file for row in rows for file in files_of(unescape_name(row["overlay"]), settings)]


def stray_files(root: Root, named: set[str]) -> Iterator[str]:
    """Files in ``root`` that have a name of camcli's but are not in ``named``."""
    for top in ROW_FOLDERS:
        for file in root.files(top):
            if is_output_name(file) and file not in named:
                yield file


def is_report(root: Root, page: str = REPORT_PAGE) -> bool:
    """Whether the file ``page`` is a report of camcli; False if there is none. Raises OSError if it cannot be read."""
    try:
        with root.open(page) as file:
            return file.read(len(REPORT_START)) == REPORT_START
    except FileNotFoundError:
        return False


def is_whole_file(root: Root, file: str) -> bool:
    """Whether a file is complete: a picture has its start and end marks, an array the size of its shape. Raises OSError."""
    with root.open(file) as opened:
        start = opened.read(256)
        size = os.fstat(opened.fileno()).st_size
        opened.seek(max(0, size - 8))
        end = opened.read(8)
    if file.endswith(".npy"):
        found = ARRAY_START.match(start)
        return found is not None and size == found.end() + 4 * int(found[1]) * int(found[2])
    if file.endswith(".png"):
        return start.startswith(_PNG_START) and end.endswith(_PNG_END)
    if file.endswith(".webp"):
        return start[:4] == b"RIFF" and start[8:12] == b"WEBP" and size == 8 + int.from_bytes(start[4:8], "little")
    return start.startswith(b"\xff\xd8") and end.endswith(b"\xff\xd9")
