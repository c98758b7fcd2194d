"""Writing rows to stdout during a run, as CSV or as one JSON object a line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO, get_type_hints

from camcli.errors import RunError
from camcli.output.writers import BOX_COLUMNS, csv_line, prediction_line
from camcli.records import Outcome, Row, Success, unescape_name


class RowStream:
    """Writes the rows of a run to ``stream`` in ``format`` (csv or jsonl), and flushes them after each image.

    ``columns``: the columns of the table. ``closed``: whether the reader has closed the stream; further rows are dropped. In
    JSON, names are exact because JSON has its own escapes, numbers are numbers, and a number that is not finite is null.
    """

    def __init__(self, stream: BinaryIO, format: str, columns: Sequence[str]) -> None:
        self.closed = False
        self._stream, self._format = stream, format
        self._columns = columns
        if format == "csv":
            self._write(csv_line(tuple(columns)))

    def add_table(self, rows: bytes) -> None:
        """Write rows of an image from an earlier run, given as bytes of the table. Raises RunError if they cannot be written."""
        if self._format == "csv":
            self._write(rows)
        else:
            texts = csv.reader(rows.decode("utf-8").splitlines())
            self._write(b"".join(_json_line(zip(self._columns, map(unescape_name, cells), strict=True)) for cells in texts))

    def add(self, outcome: Outcome) -> None:
        """Write the rows of an image that has just been finished; a failure has none. Raises RunError if they cannot be written."""
        if isinstance(outcome, Success):
            self.add_table(b"".join(prediction_line(row) for row in outcome.rows))

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
