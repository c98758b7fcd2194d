"""How wide the columns of a drawn table are: the first column, which names the row, is never broken, nor is a number."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.cells import cell_len

GAP = 2
"""Characters between two columns."""

_LEAST = 10
"""A column of text is folded to no less than this."""

_ALWAYS = 2
"""The first columns, which are never left out."""


def column_widths(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str], room: int) -> list[int]:
    """Characters for each of the first columns, those that fit into ``room``; the last ones are left out where it must be.

    Columns of text are folded first, the widest before the others. The first two are always there: where they take more than
    ``room``, whole, so that the terminal breaks the line. ``right``: columns of numbers.
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
    """A column's name in lines, broken behind ``_`` where it is wider than ``width`` and that is enough."""
    parts = name.replace("_", "_\n").split("\n")
    return "\n".join(parts) if len(name) > width >= max(map(len, parts)) else name


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)
