"""``run.json``, read as what it is: a document that anybody may have edited."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from camcli.documents import parse_json
from camcli.output.root import Root
from camcli.records import Preprocess

RECORD = "run.json"

_MOST_BYTES = 16 << 20
_RESIZES = ("short", "cover", "contain", "squash")
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
_LARGEST_SIDE = 4096
"""Pixels: a description that asks for more is not one of ours, and its first image would fill the memory."""


def read_record(root: Root) -> dict[str, Any]:
    """``run.json`` in ``root``; empty where there is none that can be read: the run has not come to its end."""
    try:
        return checked_record(root)
    except (OSError, ValueError):
        return {}


def checked_record(root: Root) -> dict[str, Any]:
    """``run.json`` in ``root``. Raises OSError, and ValueError where it is damaged."""
    record = parse_json(root.read(RECORD, _MOST_BYTES))
    if not isinstance(record, dict):
        raise ValueError("not an object")
    return record


def part_of(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object ``name`` of a record; an empty one where there is none."""
    found = record.get(name)
    return found if isinstance(found, dict) else {}


def seconds_of(record: Mapping[str, Any]) -> float:
    """How long the run took, by its record; 0 where it does not say."""
    seconds: Any = part_of(record, "this_run").get("seconds")
    return float(seconds) if type(seconds) in (int, float) and math.isfinite(seconds) else 0.0


def preprocess_of(found: Any) -> Preprocess:
    """What a document says of how images are prepared. Raises ValueError for what no image can be made into."""
    try:
        values: dict[str, Any] = {field.name: found[field.name] for field in dataclasses.fields(Preprocess)}
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        preprocess = Preprocess(**values)
        sides = (*preprocess.resize_to, *preprocess.crop)
        right = [
            preprocess.resize in _RESIZES,
            preprocess.interpolation in _INTERPOLATIONS,
            len(preprocess.resize_to) == len(preprocess.crop) == 2,
            len(preprocess.mean) == len(preprocess.std) == 3,
            all(type(side) is int and 0 < side <= _LARGEST_SIDE for side in sides),
            all(type(value) in (int, float) and math.isfinite(value) for value in (*preprocess.mean, *preprocess.std)),
            all(value > 0 for value in preprocess.std),
        ]
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"it does not say how images are prepared: {error}") from error
    if not all(right):
        raise ValueError("no image can be made into such an input")
    return preprocess
