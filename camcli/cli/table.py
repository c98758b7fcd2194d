"""The widths of the columns of a table on a terminal. The first column, which names the row, and numbers are never wrapped."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.cells import cell_len

GAP = 2
"""Number of characters between two columns."""

_LEAST = 10
"""Minimum width of a wrapped column of text."""

_ALWAYS = 2
"""Number of columns that are never left out."""


def column_widths(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str], room: int) -> list[int]:
    """The width in characters of each column that fits into ``room``; the last columns are left out if they do not fit.

    Columns of text are wrapped first, beginning with the widest. The first two columns are never left out: if they take more than
    ``room``, they keep their full width and the terminal breaks the line. ``right``: columns of numbers.
    """
    cells = [[cell_len(row[place]) for row in rows] for place in range(len(columns))]
    whole = [max([cell_len(name), *lengths]) for name, lengths in zip(columns, cells, strict=True)]
    least = [
        max([1, *lengths]) if name in right else min(width, _LEAST)
        for name, lengths, width in zip(columns, cells, whole, strict=True)
    ]
    least[0] = whole[0]
    count = len(columns)
    while count > _ALWAYS and _total(least[:count]) > room:
        count -= 1
    widths = whole[:count]
    if _total(least[:count]) > room:
        return widths
    while _total(widths) > room and widths != least[:count]:
        widest = max(range(count), key=lambda place: (widths[place] > least[place], widths[place]))
        widths[widest] -= 1
    return widths


def folded_name(name: str, width: int) -> str:
    """The name of a column, wrapped after each ``_`` if it is wider than ``width`` and fits that way."""
    parts = name.replace("_", "_\n").split("\n")
    return "\n".join(parts) if len(name) > width >= max(map(len, parts)) else name


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)
