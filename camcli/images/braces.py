"""Brace patterns for paths: ``shards/{00000..00150}.tar``, ``{train,val}/*.tar``. A shell expands them; a quoted one comes here."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator

from camcli.errors import InputError
from camcli.records import escape_name

_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_MOST = 1_000_000
"""Maximum number of paths that a pattern stands for."""


def expanded(pattern: str) -> list[str]:
    """The paths that ``pattern`` stands for, in order; a path that exists stands for itself.

    ``{a..b}`` with whole numbers counts up or down, with leading zeros if one of them has any; ``{a,b}`` are alternatives. Raises
    InputError for more than a million paths.
    """
    if "{" not in pattern or os.path.lexists(pattern):
        return [pattern]
    parts = _GROUP.split(pattern)
    choices = [[part] if index % 2 == 0 else _choices(part) for index, part in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > _MOST:
        raise InputError(f"{escape_name(pattern)!r} stands for more than {_MOST:,} paths.")
    return ["".join(words) for words in itertools.product(*choices)]


def _choices(inner: str) -> list[str]:
    """The texts that ``{inner}`` stands for; itself, with its braces, if it is no pattern."""
    if counted := _RANGE.fullmatch(inner):
        return list(itertools.islice(_counted(counted[1], counted[2]), _MOST + 1))
    return inner.split(",") if "," in inner else [f"{{{inner}}}"]


def _counted(first: str, last: str) -> Iterator[str]:
    padded = any(len(text) > 1 and text.startswith("0") for text in (first, last))
    width = max(len(first), len(last)) if padded else 0
    low, high = int(first), int(last)
    step = 1 if high >= low else -1
    return (f"{number:0{width}d}" for number in range(low, high + step, step))
