"""Overlays drawn anew from stored maps: another style for a finished run, without the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from camcli.config import LOOKS
from camcli.errors import ImageError, InputError
from camcli.images.decode import decode_image
from camcli.images.geometry import view_of
from camcli.machine import available_cores
from camcli.output.checks import is_unchanged, read_record
from camcli.output.files import map_file
from camcli.output.folder import OutputFolder
from camcli.output.journal import Entry, read_settings
from camcli.output.ledger import journal_path
from camcli.output.writers import csv_line
from camcli.records import Box, Failure, Preprocess, Source, recovered, shown
from camcli.render.styles import Style, fitted, overlay_bytes, style_of


@dataclass(frozen=True)
class Redrawn:
    """What came of it: overlays drawn, and the images that could not be, each with the reason."""

    overlays: int
    left: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Look:
    """How overlays are to look, and what it takes to know where the network looked."""

    settings: Mapping[str, Any]
    preprocess: Preprocess
    style: Style
    folder: OutputFolder

    def overlay_of(self, row: Mapping[str, str]) -> str:
        """Where the overlay of a row goes, relative to the output folder; empty where nothing is painted."""
        overlay = recovered(row["overlay"])
        return f"{os.path.splitext(overlay)[0]}.{self.style.image_format}" if overlay else ""


def redraw(path: str, changes: Mapping[str, Any], tell: Callable[[int, int], None] = lambda _done, _of: None) -> Redrawn:
    """Draw every overlay of the run in ``path`` anew, with ``changes`` to its settings, as far as LOOKS has them.

    The folder's settings change with them, so that the run goes on in the new look. An image that is gone or has changed since
    keeps its overlay and is named. ``tell``: called with how many images are done, of how many. Raises InputError where there is no
    finished run, or none with stored maps, and what opening an output folder raises.
    """
    earlier = read_settings(journal_path(path))
    if earlier is None:
        raise InputError(f"{shown(path)!r} holds no run of camcli.")
    if not earlier.get("save-maps"):
        raise InputError(
            f"the run in {shown(path)!r} has stored no maps, from which overlays could be drawn: run with --save-maps."
        )
    settings = {**earlier, **{key: value for key, value in changes.items() if key in LOOKS}}
    with OutputFolder(path, earlier, redrawing=True) as folder:
        look = _Look(settings, _preprocess(path), style_of(settings), folder)
        folder.begin_redrawing()
        left: dict[str, str] = {}
        drawn = 0
        rows_of = folder.ledger.own_rows
        explained = [(entry, rows) for entry, data in folder.ledger.rows() if not entry.stage and (rows := rows_of(entry, data))]
        for done, (image, outcome) in enumerate(_all_redrawn(explained, look), 1):
            tell(done, len(explained))
            if isinstance(outcome, str):
                left[image] = outcome
            else:
                drawn += outcome
        folder.finish_redrawing(settings, _rows(look, left))
    return Redrawn(drawn, tuple(left.items()))


_Rows = list[dict[str, str]]


def _all_redrawn(explained: Sequence[tuple[Entry, _Rows]], look: _Look) -> Iterator[tuple[str, int | str]]:
    """Each image, and how many of its overlays were drawn, or why none was."""
    kept = cv2.getNumThreads()
    with ThreadPoolExecutor(available_cores(), "redraw") as pool:
        try:
            cv2.setNumThreads(1)  # an image a thread, not several threads an image
            outcomes = pool.map(lambda item: _redrawn(item[0], item[1], look), explained)
            yield from zip((entry.image for entry, _ in explained), outcomes, strict=True)
        finally:
            pool.shutdown(cancel_futures=True)
            cv2.setNumThreads(kept)


def _preprocess(path: str) -> Preprocess:
    try:
        stored: dict[str, Any] = read_record(path)["preprocess"]
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
        return Preprocess(**values)
    except (KeyError, TypeError) as error:
        raise InputError(f"{shown(path)!r} has no run.json that says how images were prepared: finish the run first.") from error


def _redrawn(entry: Entry, rows: _Rows, look: _Look) -> int | str:
    """How many overlays of an image were drawn, or why none was."""
    source = Source(str(look.settings["inputs"]), entry.image)
    if not is_unchanged(entry.stamp, source.path):
        return "the image is gone or has changed since"
    image = decode_image(source, int(look.settings["max-pixels"]))
    if isinstance(image, Failure):
        return image.reason
    height, width = image.pixels.shape[:2]
    view = view_of((width, height), look.preprocess, str(look.settings["fit"]))
    canvas = fitted(image.pixels, look.settings["max-side"])
    drawn = 0
    for row in rows:
        if not row["overlay"]:
            continue
        try:
            stored = os.path.join(look.folder.path, map_file(recovered(row["overlay"])))
            values = np.load(stored, allow_pickle=False)
            boxes = [Box(*map(int, box.split(" "))) for box in row.get("bboxes", "").split(";") if box]
            overlay = overlay_bytes(canvas, values, view.box, view.pixels, look.style, boxes)
            look.folder.write(look.overlay_of(row), overlay)
        except (OSError, ValueError, ImageError) as error:
            return f"its map or overlay: {error}"
        drawn += 1
    return drawn


def _rows(look: _Look, left: Mapping[str, str]) -> Iterator[tuple[Entry, bytes]]:
    """Entries and rows with the new overlays' paths; those of images that were left keep theirs."""
    for entry, data in look.folder.ledger.rows():
        rows = None if entry.stage or entry.image in left else look.folder.ledger.own_rows(entry, data)
        if rows is not None:
            data = b"".join(csv_line(tuple({**row, "overlay": shown(look.overlay_of(row))}.values())) for row in rows)
            entry = replace(entry, length=len(data))
        yield entry, data
