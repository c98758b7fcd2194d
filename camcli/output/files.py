"""The files that belong to a row of the table: overlay, map and mask. Also how to recognise whole files and reports."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from camcli.layout import REPORT_PAGE, ROW_FOLDERS, map_file, mask_file, stem_of
from camcli.output.names import file_stem, is_output_name
from camcli.output.root import Root
from camcli.records import Prediction, unescape_name

_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
ARRAY_START = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d{1,9}), (\d{1,9})\), \} *\n", re.DOTALL
)
"""The header that numpy.save writes for a two-dimensional float32 array (numpy.lib.format, version 1.0)."""

REPORT_START = b"<!doctype html>\n<!-- a report of camcli"
"""The beginning of every report, by which a report is told from any other page."""


def packs_maps(settings: Mapping[str, Any]) -> bool:
    """Whether a run with ``settings`` stores its raw maps in a binary table instead of files."""
    return bool(settings.get("save-maps")) and settings.get("maps-format") == "parquet"


def files_of(stem: str, overlay: str, settings: Mapping[str, Any]) -> list[str]:
    """The files of a row, as paths in the output folder.

    ``stem``: the path of its files without folder and extension; empty for a map that is not ``ok``, which has none. ``overlay``:
    empty if it was not asked for.
    """
    files = [overlay] if overlay else []
    if stem and settings.get("save-maps") and not packs_maps(settings):
        files.append(map_file(stem))
    if stem and settings.get("masks"):
        files.append(mask_file(stem))
    return files


def row_stems(rows: Sequence[Mapping[str, str]], *, folded: bool) -> list[str]:
    """For each of ``rows``, which are all rows of an image, the path of its files without folder and extension.

    It is empty for a map that is not ``ok``. A row with an overlay names it; otherwise it is made from the other cells, as the run
    has made it. ``folded``: whether the run has used ``folding`` of ``file_stem``.
    """
    shown = [column for column in ("layer", "method") if len({row[column] for row in rows}) > 1]
    return [_stem(row, shown, folded) for row in rows]


def _stem(row: Mapping[str, str], shown: Sequence[str], folded: bool) -> str:
    if row["overlay"]:
        return stem_of(unescape_name(row["overlay"]))
    if row["status"] != "ok":
        return ""
    prediction = Prediction(int(row["rank"]), int(row["class_index"]), unescape_name(row["class_name"]), 0.0, 0.0)
    extra = tuple(unescape_name(row[column]) for column in shown)
    return file_stem(unescape_name(row["image"]), prediction, extra, folding=folded)


def row_files(rows: Sequence[Mapping[str, str]], settings: Mapping[str, Any], *, folded: bool = False) -> list[str]:
    """The files of all ``rows`` of an image, in the order of the rows. ``folded``: as for ``row_stems``."""
    stems = row_stems(rows, folded=folded)
    return [file for row, stem in zip(rows, stems, strict=True) for file in files_of(stem, unescape_name(row["overlay"]), settings)]


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
