"""Tables as Parquet: ``predictions.parquet`` and ``maps.parquet``, folders of parts.

Only this module imports pyarrow, which is an optional dependency.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, get_type_hints

from camcli.config.run import CURVES, METRIC_COLUMNS, RunConfig
from camcli.errors import ConfigError, OutputError
from camcli.layout import MAPS_PARQUET, MAPS_TABLE, PREDICTIONS, ROWS_PARQUET
from camcli.output.files import packs_maps
from camcli.output.journal import Entry
from camcli.output.ledger import Ledger
from camcli.output.packed import PackedTable, unpack_arrays
from camcli.output.parts import Wanted, part_name, read_parts, update_parts
from camcli.output.root import Root
from camcli.output.writers import BOX_COLUMNS
from camcli.records import Row, escape_name

ROWS_A_PART = 65_536
"""Rows of a part: about 15 MB of CSV, which bounds the memory."""

MAP_BYTES_A_PART = 32 << 20
"""Size of the maps of a part of ``maps.parquet``, in bytes."""

MAP_COLUMNS = ("image", "rank", "class_index", "layer", "method", "height", "width", "map")
"""The columns of ``maps.parquet``. ``map``: the values (height x width float32), row by row."""

_ENCODING = b"1"
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


def require_pyarrow_of(config: RunConfig) -> None:
    """``require_pyarrow`` if a run with ``config`` writes Parquet files."""
    if config.format == "parquet":
        require_pyarrow("--format parquet")
    if packs_maps(config.as_dict()):
        require_pyarrow("--maps-format parquet")


def require_pyarrow_for(root: Root, settings: Mapping[str, Any]) -> None:
    """``require_pyarrow`` if the run in ``root`` has Parquet files, which are kept as its tables are. Raises OSError."""
    if packs_maps(settings):
        require_pyarrow("--maps-format parquet")
    if has_parquet(root):
        require_pyarrow(f"{escape_name(root.at(ROWS_PARQUET))!r}, which is updated with the tables,")


def has_parquet(root: Root) -> bool:
    """Whether a run has written its rows as Parquet in ``root``. Raises OSError."""
    return bool(read_parts(root, ROWS_PARQUET))


def write_parquet(root: Root, ledger: Ledger, *, asked: bool = False) -> None:
    """Make the Parquet files in ``root`` equal to the tables of ``ledger``.

    ``predictions.parquet`` is written if it exists or is ``asked`` for, ``maps.parquet`` if the run packs its maps. Rows that are
    damaged are left out, as everywhere. Raises OutputError.
    """
    if asked or has_parquet(root):
        update_parts(root, ROWS_PARQUET, wanted_parts(ledger))
    if packs_maps(ledger.settings):
        update_parts(root, MAPS_PARQUET, wanted_map_parts(ledger))


def other_parts(root: Root, ledger: Ledger) -> list[str]:
    """The parts in ``root`` that do not hold the rows of the tables, or are missing. Raises OSError."""
    kinds = [(ROWS_PARQUET, wanted_parts, has_parquet(root)), (MAPS_PARQUET, wanted_map_parts, packs_maps(ledger.settings))]
    names: list[str] = []
    for folder, parts_of, is_there in kinds:
        found = {name: part.digest for name, part in read_parts(root, folder).items()}
        parts = parts_of(ledger) if is_there else ()
        wanted = {part_name(folder, number): part.digest for number, part in enumerate(parts)}
        names += [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]
    return names


def wanted_parts(ledger: Ledger) -> Iterator[Wanted]:
    """The parts of ``predictions.parquet``; there is at least one, so that an empty run has columns too."""
    header = ledger.headers[PREDICTIONS]
    columns = header.decode("utf-8").rstrip("\n").split(",")
    lines = itertools.chain.from_iterable(rows.splitlines(keepends=True) for _, rows in ledger.sound_rows())
    for number in itertools.count():
        data = b"".join(itertools.islice(lines, ROWS_A_PART))
        if not data and number:
            return
        digest = hashlib.sha256(b"%s\n%s%s" % (_ENCODING, header, data)).hexdigest()
        yield Wanted(digest, partial(encode_rows, columns, data))


def wanted_map_parts(ledger: Ledger) -> Iterator[Wanted]:
    """The parts of ``maps.parquet``; there is at least one.

    A part ends with the image with which its maps have MAP_BYTES_A_PART or its rows ROWS_A_PART, so that later images do not change
    it. The checksums of its maps stand for them: they need not be read to find out that a part is as it should be.
    """
    table, place = ledger.packed(MAPS_TABLE), ledger.binaries.index(MAPS_TABLE)
    images: list[tuple[Entry, bytes]] = []
    rows = size = number = 0
    for entry, data in ledger.sound_rows():
        images.append((entry, data))
        rows, size = rows + data.count(b"\n"), size + (entry.packed[place].size if entry.packed else 0)
        if rows >= ROWS_A_PART or size >= MAP_BYTES_A_PART:
            yield _map_part(ledger, table, images)
            images, rows, size, number = [], 0, 0, number + 1
    if images or not number:
        yield _map_part(ledger, table, images)


def _map_part(ledger: Ledger, table: PackedTable, images: Sequence[tuple[Entry, bytes]]) -> Wanted:
    digest = hashlib.sha256(b"%s\n%s" % (_ENCODING, ledger.headers[PREDICTIONS]))
    for entry, data in images:
        digest.update(b"%s%d %d\n" % (data, *(entry.packed[ledger.binaries.index(MAPS_TABLE)] if entry.packed else (0, 0))))
    return Wanted(digest.hexdigest(), partial(_encode_maps, ledger, table, images))


def _encode_maps(ledger: Ledger, table: PackedTable, images: Sequence[tuple[Entry, bytes]]) -> bytes:
    """A Parquet file with the maps of ``images``. Damaged maps are left out. Raises OSError."""
    import pyarrow as pa
    from pyarrow import parquet

    cells: dict[str, list[Any]] = {column: [] for column in MAP_COLUMNS}
    import numpy as np  # the command line's help does without

    values: list[np.ndarray] = []
    for entry, data in images:
        rows = ledger.own_rows(entry, data) or []
        with contextlib.suppress(ValueError):
            for number, found in unpack_arrays(table.read(entry)):
                row = rows[number] if number < len(rows) else None
                if row is None or found.ndim != 2:
                    continue
                for column in ("image", "layer", "method"):
                    cells[column].append(row[column])
                for column in ("rank", "class_index"):
                    cells[column].append(int(row[column]))
                cells["height"].append(found.shape[0])
                cells["width"].append(found.shape[1])
                values.append(found.astype(np.float32, copy=False).ravel())
    ends = np.cumsum([0, *map(len, values)]).astype(np.int32)
    flat = np.concatenate(values) if values else np.empty(0, np.float32)
    maps = pa.ListArray.from_arrays(pa.array(ends), pa.array(flat))
    types = {column: _type_of(column) for column in MAP_COLUMNS[:5]} | {"height": pa.int32(), "width": pa.int32()}
    columns = {column: pa.array(cells[column], kind) for column, kind in types.items()}
    buffer = io.BytesIO()
    parquet.write_table(pa.table({**columns, "map": maps}), buffer, compression="zstd")
    return buffer.getvalue()


def encode_rows(columns: Sequence[str], data: bytes) -> bytes:
    """A Parquet file with the rows ``data``, which are lines of ``predictions.csv``.

    Texts are those of the cells. Numbers are int64 and float64, ``correct`` is boolean, ``bboxes`` is a list of lists of int64,
    curves are lists of float64, and empty cells of these are null. Raises OutputError for cells that camcli does not write.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    types = {column: _type_of(column) for column in columns}
    lists = {column: parse for column, parse in _LISTS.items() if column in types}
    texts = dict.fromkeys(lists, pa.string())
    try:
        if data:
            table = csv.read_csv(
                io.BytesIO(data),
                csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=list(columns)),
                csv.ParseOptions(newlines_in_values=False),
                csv.ConvertOptions(
                    column_types={**types, **texts},
                    null_values=[""],
                    strings_can_be_null=False,
                    true_values=["yes"],
                    false_values=["no"],
                ),
            )
        else:
            table = pa.schema({**types, **texts}.items()).empty_table()
        for column, parse in lists.items():
            values = pa.array(map(parse, table.column(column).to_pylist()), types[column])
            table = table.set_column(columns.index(column), column, values)
    except (pa.ArrowInvalid, ValueError) as error:
        raise OutputError(f"{PREDICTIONS} has cells that camcli does not write ({error}): check it with camcli verify.") from error
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _type_of(column: str) -> Any:
    import pyarrow as pa

    if column == "bboxes":
        return pa.list_(pa.list_(pa.int64()))
    if column in CURVES.values():
        return pa.list_(pa.float64())
    if column in METRIC_COLUMNS:
        return pa.float64()
    if column in BOX_COLUMNS or _TYPES[column] is int:
        return pa.int64()
    if _TYPES[column] is float:
        return pa.float64()
    if column == "correct":
        return pa.bool_()
    return pa.dictionary(pa.int32(), pa.string()) if column in _DICTIONARIES else pa.string()


def _boxes(text: str) -> list[list[int]]:
    return [[int(number) for number in box.split(" ")] for box in text.split(";") if box]


def _curve(text: str) -> list[float] | None:
    return [float(number) for number in text.split(" ")] if text else None


_LISTS: dict[str, Callable[[str], Any]] = {"bboxes": _boxes, **dict.fromkeys(CURVES.values(), _curve)}
"""How the cells of columns of lists are read."""
