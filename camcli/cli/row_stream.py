"""Writing rows to stdout during a run, as CSV or as one JSON object a line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, get_type_hints

from camcli.config.run import CURVES, METRIC_COLUMNS
from camcli.errors import RunError
from camcli.output.writers import BOX_COLUMNS, csv_line
from camcli.records import Outcome, Row, Success, unescape_name


@dataclass(frozen=True, slots=True)
class RowFormat:
    """A row format on stdout. ``first_line``: (columns) -> what comes before all rows. ``lines``: (columns, rows of an image as
    they are in the table, CSV) -> what is written for them.
    """

    first_line: Callable[[Sequence[str]], bytes]
    lines: Callable[[Sequence[str], bytes], bytes]


class RowStream:
    """Writes the rows of a run to ``stream`` in ``format`` (csv or jsonl), and flushes them after each image.

    ``columns``: the columns of the table. ``closed``: whether the reader has closed the stream; further rows are dropped. In
    JSON, names are exact because JSON has its own escapes, numbers are numbers, and a number that is not finite is null.
    """

    def __init__(self, stream: BinaryIO, format: str, columns: Sequence[str]) -> None:
        self.closed = False
        self._stream, self._format = stream, FORMATS[format]
        self._columns = columns
        self._write(self._format.first_line(columns))

    def add_table(self, rows: bytes) -> None:
        """Write rows of an image from an earlier run, given as bytes of the table. Raises RunError if they cannot be written."""
        self._write(self._format.lines(self._columns, rows))

    def add(self, outcome: Outcome) -> None:
        """Write the rows of an image that has just been finished; a failure has none. Raises RunError if they cannot be written."""
        if isinstance(outcome, Success):
            self.add_table(outcome.lines)

    def _write(self, data: bytes) -> None:
        if self.closed:
            return
        try:
            while data:
                data = data[self._stream.write(data) :]
            self._stream.flush()
        except BrokenPipeError:
            self.closed = True
        except OSError as error:
            raise RunError(f"cannot write the rows to stdout: {error.strerror or error}.") from error


_TYPES: dict[str, Any] = get_type_hints(Row)


def _json_line(cells: Iterable[tuple[str, str]]) -> bytes:
    return json.dumps({column: _json_value(column, text) for column, text in cells}).encode("ascii") + b"\n"


def _json_value(column: str, text: str) -> Any:
    if column == "bboxes":
        return [[int(number) for number in box.split(" ")] for box in text.split(";") if box]
    if column in CURVES.values():
        return [float(number) for number in text.split(" ")] if text else None
    if column in METRIC_COLUMNS:
        return float(text) if text else None
    if column in BOX_COLUMNS:
        return int(text) if text else None
    if _TYPES[column] is int:
        return int(text)
    if _TYPES[column] is float:
        value = float(text)
        return value if math.isfinite(value) else None
    if column == "correct":
        return text == "yes" if text else None
    return text


def _json_lines(columns: Sequence[str], rows: bytes) -> bytes:
    texts = csv.reader(rows.decode("utf-8").splitlines())
    return b"".join(_json_line(zip(columns, map(unescape_name, cells), strict=True)) for cells in texts)


FORMATS: dict[str, RowFormat] = {
    "csv": RowFormat(lambda columns: csv_line(tuple(columns)), lambda _columns, rows: rows),
    "jsonl": RowFormat(lambda _columns: b"", _json_lines),
}
"""The formats that ``--format`` takes; ``config.run.ROW_FORMATS`` has their names."""
