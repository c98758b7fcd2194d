"""Tables of a run -> the data columns of the report page.

Every number comes unchanged from ``predictions.csv`` or is computed from a raw map. Names are escaped by ``records.escape_name``.
URLs are percent-encoded byte by byte; they are stored only if they differ from the name.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from camcli.addresses import is_address
from camcli.config.run import METRICS, RESIZE_MODES, STYLES
from camcli.output.ledger import Ledger
from camcli.output.maps import StoredMap, StoredMaps
from camcli.output.root import Root
from camcli.records import escape_name, unescape_name
from camcli.report.maps import MapChunks, border_share, entropy
from camcli.report.scripts import folder_urls, is_file_name, quoted

_NOT_IN_BROWSERS = (".tif", ".tiff")

_EXACT = 2**53
"""JavaScript represents all whole numbers below this exactly. Larger ones, which only a forged table has, are written as floats."""

_LARGEST_SIDE = 1 << 20
"""Maximum size in pixels; larger ones come from a forged record and are ignored."""

SHOWABLE, GONE, NOT_SHOWABLE = 0, 1, 2
"""Whether the page can show the original image."""

ROW_NUMBERS = ("rank", "class_index", "logit", "probability", "peak", "box_x", "box_y", "box_w", "box_h")
ROW_WORDS = ("class_name", "layer", "method", "status")


class Words:
    """Texts by number, so that each text is stored once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The number of a text, counted from 0; a new text gets the next number."""
        return self.numbers.setdefault(text, len(self.numbers))


@dataclass
class Gathered:
    """The data of the page. ``overlays``: of all rows that have one. ``damaged``: number of images whose rows were changed."""

    words: Words = field(default_factory=Words)
    images: dict[str, list[Any]] = field(default_factory=dict)
    rows: dict[str, list[Any]] = field(default_factory=dict)
    metrics: dict[str, list[Any]] = field(default_factory=dict)
    failures: dict[str, list[Any]] = field(default_factory=dict)
    maps: MapChunks = field(default_factory=MapChunks)
    overlays: list[str] = field(default_factory=list)
    damaged: int = 0

    def as_json(self, settings: Mapping[str, Any], record: Mapping[str, Any], path: str) -> dict[str, Any]:
        """The data for the script file. ``settings``: of the run in the folder ``path``. ``record``: its ``run.json``."""
        inputs = settings.get("inputs")
        return {
            "words": list(self.words.numbers),
            "images": self.images,
            "rows": self.rows,
            "metrics": self.metrics,
            "failures": self.failures,
            "maps": self.maps.starts if settings.get("save-maps") else None,
            "originals": folder_urls(inputs, path) if is_file_name(inputs) and not is_address(inputs) else [],
            "settings": _page_settings(settings),
            "preprocess": _input_shape(record.get("preprocess")),
        }

    def used(self, column: str) -> list[str]:
        """The different texts in a column of the rows, in order of appearance."""
        words = list(self.words.numbers)
        return [words[number] for number in dict.fromkeys(self.rows[column])]


def gather(root: Root, ledger: Ledger) -> Gathered:
    """The images, rows, failures and maps of the run in ``root``, in the order of its journal. Raises OSError."""
    found = Gathered(
        images={key: [] for key in ("name", "url", "original", "predicted", "confidence", "label", "correct")},
        rows={key: [] for key in ("image", *ROW_WORDS, *ROW_NUMBERS, "overlay", "entropy", "border")},
        metrics={metric: [] for metric in METRICS if metric in ledger.columns},
        failures={"image": [], "stage": [], "error": []},
    )
    inputs = ledger.settings.get("inputs")
    originals = inputs if is_file_name(inputs) and not is_address(inputs) else None
    maps = StoredMaps(root, ledger)
    for entry, data in ledger.rows():
        rows = ledger.own_rows(entry, data)
        if rows is None:
            found.damaged += 1
            continue
        number = len(found.images["name"])
        _add_image(found, entry.image, rows[0], originals)
        if entry.stage:
            for key, value in (("image", number), ("stage", entry.stage), ("error", rows[0]["error"])):
                found.failures[key].append(value)
            continue
        for row, stored in zip(rows, maps.of_image(entry, rows), strict=True):
            _add_row(found, number, entry.image, row)
            _add_map(found, stored, has_maps=maps.has_maps)
    return found


def _page_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that determine where the map is in an overlay; None for a value of the wrong type."""
    side = settings.get("max-side")
    return {
        "fit": next((mode for mode in RESIZE_MODES if mode == settings.get("fit")), None),
        "style": next((style for style in STYLES if style == settings.get("style")), None),
        "legend": settings.get("legend") is True,
        "caption": settings.get("caption") is True,
        "max-side": side if _is_side(side) else None,
    }


def _input_shape(preprocess: Any) -> dict[str, Any] | None:
    """The part of the preprocessing that the page needs; None if ``run.json`` has none, or an invalid one."""
    found = preprocess if isinstance(preprocess, dict) else {}
    sizes = {key: found.get(key) for key in ("resize_to", "crop")}
    right = all(isinstance(size, list) and len(size) == 2 and all(map(_is_side, size)) for size in sizes.values())
    return {"contains": found.get("resize") == "contain", **sizes} if right else None


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value <= _LARGEST_SIDE


def _add_image(found: Gathered, image: str, row: Mapping[str, str], root: str | None) -> None:
    name, url = escape_name(image), quoted(image)
    there = root is not None and os.path.isfile(os.path.join(root, image))
    can = NOT_SHOWABLE if image.lower().endswith(_NOT_IN_BROWSERS) else SHOWABLE
    values = {
        "name": name,
        "url": 0 if url == name else url,
        "original": can if there else GONE,
        "predicted": _word(found, row, "predicted_class"),
        "confidence": _number(row.get("predicted_probability", "")),
        "label": _word(found, row, "label") if row.get("label") else None,
        "correct": {"yes": 1, "no": 0}.get(row.get("correct", "")),
    }
    for key, value in values.items():
        found.images[key].append(value)


def _word(found: Gathered, row: Mapping[str, str], column: str) -> int | None:
    text = row.get(column)
    return None if text is None else found.words.number(escape_name(unescape_name(text)))


def _number(text: str) -> float | int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    return int(value) if text.isdigit() and value < _EXACT else value


def _add_row(found: Gathered, number: int, image: str, row: Mapping[str, str]) -> None:
    rows = found.rows
    rows["image"].append(number)
    for column in ROW_WORDS:
        rows[column].append(_word(found, row, column))
    for column in ROW_NUMBERS:
        rows[column].append(_number(row[column]))
    for metric, values in found.metrics.items():
        values.append(_number(row[metric]))
    overlay = unescape_name(row["overlay"])
    rows["overlay"].append(_overlay_url(overlay, image))
    if overlay:
        found.overlays.append(overlay)


def _overlay_url(overlay: str, image: str) -> str:
    """The end of the overlay's URL behind the image's name, or a slash and the whole URL if it does not begin with that name."""
    beginning = f"overlays/{image}"
    return quoted(overlay[len(beginning) :]) if overlay.startswith(f"{beginning}.") else f"/{quoted(overlay)}" if overlay else ""


def _add_map(found: Gathered, stored: StoredMap | None, *, has_maps: bool) -> None:
    values = None if stored is None else _raw_map(stored)
    if has_maps:
        found.maps.add(len(found.rows["image"]) - 1, values)
    for column, measure in (("entropy", entropy), ("border", border_share)):
        value = None if values is None else measure(values)
        found.rows[column].append(None if value is None else round(value, 5))


def _raw_map(stored: StoredMap) -> np.ndarray | None:
    """A raw map, (h, w) float32; None if it is missing or damaged.

    Raises OSError if it exists and cannot be read, so that no page is written that lacks it.
    """
    try:
        return stored.read()
    except ValueError:
        return None
    except OSError as error:
        if error.errno in (errno.EIO, errno.EACCES, errno.EMFILE, errno.ENFILE):
            raise
        return None
