"""Writing whole files, and formatting the rows of tables and JSON."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import io
import json
import os
from collections.abc import Collection
from typing import Any

from camcli.config.run import metric_columns
from camcli.errors import OutputError
from camcli.records import Boxes, Failure, MetricValue, Row, escape_name

LABEL_COLUMNS = ("label", "correct")
BOX_COLUMNS = ("bbox_x", "bbox_y", "bbox_w", "bbox_h", "bboxes", "image_w", "image_h")
PREDICTION_COLUMNS = tuple(
    field.name for field in dataclasses.fields(Row) if field.name not in (*LABEL_COLUMNS, "boxes", "metrics")
)
FAILURE_COLUMNS = ("image", "stage", "error")

_FORMULA_STARTS = ("=", "+", "-", "@")


def write_file(path: str, data: bytes) -> None:
    """Write ``data`` to ``path``, a place that the user has named. The file is complete or absent.

    It is written under a temporary name in the same folder, which replaces one that a dead process left, and then renamed. Raises
    OutputError.
    """
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f".{name[:200]}.camcli")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise output_error(path, error) from error


def output_error(path: str, error: OSError) -> OutputError:
    """The OutputError for a failed write to ``path``: it names the full disk, the limit or the file."""
    folder = os.path.dirname(os.path.abspath(path))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"the disk at {escape_name(_mount_point(folder))!r}, which contains {escape_name(folder)!r}, is full; "
            "free some space and run the same command again."
        )
    if error.errno == errno.EFBIG:
        return OutputError(f"{escape_name(path)!r} would exceed the file-size limit of this process (ulimit -f).")
    return OutputError(f"cannot write {escape_name(path)!r}: {error.strerror or error}.")


def _mount_point(folder: str) -> str:
    while not os.path.ismount(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return folder


def csv_line(values: tuple[Any, ...]) -> bytes:
    """One line of a table in UTF-8, quoted as in RFC 4180, with a newline at the end."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue().encode("utf-8")


def prediction_columns(*, labelled: bool, boxed: bool, metrics: Collection[str] = ()) -> tuple[str, ...]:
    """The columns of ``predictions.csv``. ``labelled``: with the true label; ``boxed``: with boxes; ``metrics``: names."""
    optional = (*(LABEL_COLUMNS if labelled else ()), *(BOX_COLUMNS if boxed else ()))
    return (*PREDICTION_COLUMNS, *optional, *metric_columns(metrics))


def prediction_line(row: Row) -> bytes:
    """A row of ``predictions.csv``: names escaped by ``records.escape_name``, numbers with six significant digits."""
    columns = PREDICTION_COLUMNS if row.label is None else (*PREDICTION_COLUMNS, *LABEL_COLUMNS)
    cells = [cell_text(getattr(row, column)) for column in columns]
    return csv_line((*cells, *(() if row.boxes is None else _box_cells(row.boxes)), *map(_metric_cell, row.metrics)))


def _box_cells(boxes: Boxes) -> tuple[str, ...]:
    """The cells of the largest box, of all boxes as ``x y w h`` separated by semicolons, and of the size of the image."""
    each = [(str(box.x), str(box.y), str(box.w), str(box.h)) for box in boxes.found]
    largest = each[0] if each else ("", "", "", "")
    return (*largest, ";".join(map(" ".join, each)), str(boxes.width), str(boxes.height))


def _metric_cell(value: MetricValue) -> str:
    """The cell of a metric; the values of a curve are separated by spaces."""
    return " ".join(map(cell_text, value)) if isinstance(value, tuple) else cell_text(value)


def failure_line(failure: Failure) -> bytes:
    """A row of ``failures.csv``."""
    return table_line((failure.image, failure.stage, failure.reason))


def table_line(values: tuple[Any, ...]) -> bytes:
    """A row of any table: names escaped by ``records.escape_name``, numbers with six significant digits, None as an empty cell."""
    return csv_line(tuple(map(cell_text, values)))


def json_bytes(value: Any) -> bytes:
    """``value`` as indented ASCII JSON; bytes of names that are not UTF-8 are escaped surrogates."""
    return (json.dumps(value, indent=2) + "\n").encode("utf-8")


def cell_text(value: Any) -> str:
    """The text of a cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return format(value, ".6g")
    return _text(value) if isinstance(value, str) else str(value)


def _text(value: str) -> str:
    """``value`` escaped by ``records.escape_name``; the first character of a spreadsheet formula is escaped too."""
    text = escape_name(value)
    return f"\\x{ord(text[0]):02x}{text[1:]}" if text.startswith(_FORMULA_STARTS) else text
