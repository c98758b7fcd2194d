"""The rows of ``predictions.csv`` as Parquet: ``predictions.parquet``, a folder of parts.

Only this module imports pyarrow, which is an optional dependency.
"""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_type_hints

from camcli.errors import ConfigError, OutputError
from camcli.layout import PREDICTIONS, ROWS_PARQUET
from camcli.output.ledger import Ledger
from camcli.output.parts import Wanted, read_parts, update_parts
from camcli.output.root import Root
from camcli.output.writers import BOX_COLUMNS
from camcli.records import Row, escape_name

ROWS_A_PART = 65_536
"""Rows of a part: about 15 MB of CSV, which bounds the memory."""

_ENCODING = "1"
"""Version of how rows are encoded; parts of another version are written again."""

_DICTIONARIES = ("class_name", "predicted_class", "layer", "method", "status", "label")
"""Columns with few different texts."""

_TYPES: dict[str, Any] = get_type_hints(Row)


def require_pyarrow(why: str) -> None:
    """Raise ConfigError if pyarrow cannot be imported. ``why``: what needs it, the beginning of the message."""
    try:
        import pyarrow.csv
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{why} needs pyarrow, which cannot be imported here ({error}): pip install 'camcli[parquet]'") from error


def require_pyarrow_for(root: Root) -> None:
    """``require_pyarrow`` if ``root`` has its rows as Parquet, which are kept as its tables are. Raises OSError."""
    if has_parquet(root):
        require_pyarrow(f"{escape_name(root.at(ROWS_PARQUET))!r}, which is updated with the tables,")


def has_parquet(root: Root) -> bool:
    """Whether a run has written its rows as Parquet in ``root``. Raises OSError."""
    return bool(read_parts(root, ROWS_PARQUET))


def write_parquet(root: Root, ledger: Ledger, *, asked: bool = False) -> None:
    """Make ``predictions.parquet`` in ``root`` equal to the table of ``ledger``, if it exists or is ``asked`` for.

    Rows that are damaged are left out, as everywhere. Raises OutputError.
    """
    if asked or has_parquet(root):
        update_parts(root, ROWS_PARQUET, wanted_parts(ledger))


def wanted_parts(ledger: Ledger) -> Iterator[Wanted]:
    """The parts of ``predictions.parquet``; there is at least one, so that an empty run has columns too."""
    header = ledger.headers[PREDICTIONS]
    columns = header.decode("utf-8").rstrip("\n").split(",")
    lines = itertools.chain.from_iterable(rows.splitlines(keepends=True) for rows in ledger.sound_rows())
    for number in itertools.count():
        data = b"".join(itertools.islice(lines, ROWS_A_PART))
        if not data and number:
            return
        digest = hashlib.sha256(b"%s\n%s%s" % (_ENCODING.encode(), header, data)).hexdigest()
        yield Wanted(digest, lambda data=data: encode_rows(columns, data))  # type: ignore[misc]


def encode_rows(columns: Sequence[str], data: bytes) -> bytes:
    """A Parquet file with the rows ``data``, which are lines of ``predictions.csv``.

    Texts are those of the cells. Numbers are int64 and float64, ``correct`` is boolean, ``bboxes`` is a list of lists of int64, and
    empty cells of these are null. Raises OutputError for cells that camcli does not write.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    types = {column: _type_of(column) for column in columns}
    try:
        if data:
            table = csv.read_csv(
                io.BytesIO(data),
                csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=list(columns)),
                csv.ParseOptions(newlines_in_values=False),
                csv.ConvertOptions(
                    column_types={**types, "bboxes": pa.string()},
                    null_values=[""],
                    strings_can_be_null=False,
                    true_values=["yes"],
                    false_values=["no"],
                ),
            )
        else:
            table = pa.schema({**types, "bboxes": pa.string()}.items() if "bboxes" in types else types.items()).empty_table()
        if "bboxes" in types:
            boxes = pa.array(map(_boxes, table.column("bboxes").to_pylist()), types["bboxes"])
            table = table.set_column(columns.index("bboxes"), "bboxes", boxes)
    except (pa.ArrowInvalid, ValueError) as error:
        raise OutputError(f"{PREDICTIONS} has cells that camcli does not write ({error}): check it with camcli verify.") from error
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _type_of(column: str) -> Any:
    import pyarrow as pa

    if column == "bboxes":
        return pa.list_(pa.list_(pa.int64()))
    if column in BOX_COLUMNS or _TYPES[column] is int:
        return pa.int64()
    if _TYPES[column] is float:
        return pa.float64()
    if column == "correct":
        return pa.bool_()
    return pa.dictionary(pa.int32(), pa.string()) if column in _DICTIONARIES else pa.string()


def _boxes(text: str) -> list[list[int]]:
    return [[int(number) for number in box.split(" ")] for box in text.split(";") if box]


def parts_of_other_rows(root: Root, ledger: Ledger) -> Iterable[str]:
    """The parts of ``predictions.parquet`` in ``root`` that do not hold the rows of the table, or are missing. Raises OSError."""
    known = read_parts(root, ROWS_PARQUET)
    digests = [part.digest for part in wanted_parts(ledger)]
    found = {name: part.digest for name, part in known.items()}
    wanted = {f"{ROWS_PARQUET}/part-{number:05d}.parquet": digest for number, digest in enumerate(digests)}
    return [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]
