"""Redrawing overlays from stored maps: a finished run gets another style without loading the model."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from camcli.config.run import LOOKS
from camcli.errors import ImageError, InputError
from camcli.images.decode import decode_image
from camcli.images.finder import SourceFinder
from camcli.images.geometry import input_window
from camcli.images.limits import pillow_unlimited
from camcli.images.threads import single_threaded_opencv
from camcli.layout import OVERLAYS, RUN_RECORD
from camcli.output.checks import is_unchanged
from camcli.output.folder import OutputFolder
from camcli.output.journal import Entry, Header, read_header
from camcli.output.maps import StoredMaps
from camcli.output.parquet import require_pyarrow_for, write_parquet
from camcli.output.record import checked_record
from camcli.output.root import Root
from camcli.output.writers import csv_line
from camcli.records import Box, Checksum, Failure, Preprocess, checksum_of, escape_name, preprocess_of, unescape_name
from camcli.render.caption import caption_of_row
from camcli.render.styles import Notes, Style, overlay_bytes, resize_to_fit, style_of
from camcli.resources import available_cores
from camcli.source import Source


@dataclass(frozen=True)
class Redrawn:
    """The number of redrawn overlays, and the images whose overlays were kept: (image, reason)."""

    overlays: int
    left: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Look:
    """The new look of the overlays, and how images are preprocessed, which tells the part that the network saw."""

    settings: Mapping[str, Any]
    preprocess: Preprocess
    style: Style
    folder: OutputFolder
    maps: StoredMaps

    def overlay_of(self, row: Mapping[str, str]) -> str:
        """The new path of the overlay of a row, in the output folder; empty if the map is not painted."""
        overlay = unescape_name(row["overlay"])
        return f"{os.path.splitext(overlay)[0]}.{self.style.image_format}" if overlay else ""


OnProgress = Callable[[int, int], None]
"""Called with the number of finished images and the number of all images."""


@pillow_unlimited()
def redraw(path: str, changes: Mapping[str, Any], on_progress: OnProgress = lambda _done, _of: None) -> Redrawn:
    """Redraw every overlay of the run in ``path`` with ``changes`` to its settings; only settings in LOOKS are changed.

    Overlays that ``--overlays-for`` has left out stay left out.
    The folder records the new look, and the run resumes with it. An image that is missing or has changed since keeps its overlay
    and is in the result. Raises InputError if there is no finished run with stored maps, and what OutputFolder raises.
    """
    header = _header(path)
    if not header.current.get("save-maps"):
        raise InputError(f"the run in {escape_name(path)!r} has stored no maps to redraw overlays from: run it with --save-maps.")
    if not header.current["overlays"]:
        raise InputError(f"the run in {escape_name(path)!r} was made with --no-overlays, so it has none to redraw.")
    with OutputFolder(path, header.current) as folder:
        require_pyarrow_for(folder.root, folder.ledger.settings)
        begun = folder.redrawing or {}
        return redraw_folder(folder, {**begun, **{key: value for key, value in changes.items() if key in LOOKS}}, on_progress)


def redraw_folder(folder: OutputFolder, changes: Mapping[str, Any], on_progress: OnProgress = lambda _done, _of: None) -> Redrawn:
    """Redraw the overlays of the run in ``folder``, which this process has locked, with ``changes`` to its look.

    If the process dies, the same command completes the work: until all overlays are redrawn, the folder records their new look;
    then tables and journal are replaced at once. Raises what ``redraw`` raises.
    """
    ledger = folder.ledger
    present = ledger.header.current
    wanted = {key: changes.get(key, present[key]) for key in LOOKS if key in present}
    look = _Look(
        {**present, **wanted}, _preprocess(folder), style_of({**present, **wanted}), folder, StoredMaps(folder.root, ledger)
    )
    explained = list(ledger.explained())
    left: dict[str, str] = {}
    entries: dict[str, Entry] = {}
    drawn = 0
    finder = SourceFinder(str(look.settings["inputs"]))
    sources = [finder.find(entry.image) for entry, _ in explained]
    rewriter = folder.rewriting()
    rewriter.begin_look(wanted)
    for _, rows in explained:
        rewriter.mark_unconfirmed([name for row in rows for name in (unescape_name(row["overlay"]), look.overlay_of(row)) if name])
    for done, ((entry, rows), outcome) in enumerate(zip(explained, _all_redrawn(explained, sources, look), strict=True), 1):
        on_progress(done, len(explained))
        if isinstance(outcome, str):
            left[entry.image] = outcome
        else:
            drawn += len(outcome)
            entries[entry.image] = replace(entry, files=_checksums(ledger.file_checksums(entry, rows), outcome))
    rewriter.exchange_look(wanted, _rows(look, entries))
    write_parquet(folder.root, ledger)
    return Redrawn(drawn, tuple(left.items()))


def _header(path: str) -> Header:
    try:
        header = read_header(Root(path)) if os.path.isdir(path) else None
    except OSError as error:
        raise InputError(f"cannot read {escape_name(error.filename or path)!r}: {error.strerror}.") from error
    if header is None:
        raise InputError(f"{escape_name(path)!r} holds no run of camcli.")
    return header


_Rows = list[dict[str, str]]


def _all_redrawn(
    explained: Sequence[tuple[Entry, _Rows]], sources: Sequence[Source], look: _Look
) -> Iterator[list[Checksum] | str]:
    """For each image the checksums of its redrawn overlays, or the reason why they were kept."""
    with single_threaded_opencv(), ThreadPoolExecutor(available_cores(), "redraw") as pool:
        try:
            yield from pool.map(lambda item, source: _redrawn(item[0], item[1], source, look), explained, sources)
        finally:
            pool.shutdown(cancel_futures=True)


def _preprocess(folder: OutputFolder) -> Preprocess:
    try:
        return preprocess_of(checked_record(folder.root).get("preprocess"))
    except (FileNotFoundError, ValueError) as error:
        raise InputError(
            f"{escape_name(folder.place)!r} has no {RUN_RECORD} with the preprocessing of the images: run its camcli run "
            "command again first."
        ) from error


def _redrawn(entry: Entry, rows: _Rows, source: Source, look: _Look) -> list[Checksum] | str:
    """The checksums of the redrawn overlays of an image, or the reason why they were kept."""
    if not any(row["overlay"] for row in rows):
        return []
    if not is_unchanged(entry.stamp, source):
        return "the image is missing or has changed since"
    image = decode_image(source, int(look.settings["max-pixels"]))
    if isinstance(image, Failure):
        return image.reason
    height, width = image.pixels.shape[:2]
    view = input_window((width, height), look.preprocess, str(look.settings["fit"]))
    canvas = resize_to_fit(image.pixels, look.settings["max-side"])
    drawn: list[Checksum] = []
    for row, stored in zip(rows, look.maps.of_image(entry, rows), strict=True):
        if not row["overlay"] or stored is None:
            continue
        try:
            values = stored.read()
            boxes = tuple(Box(*map(int, box.split(" "))) for box in row.get("bboxes", "").split(";") if box)
            overlay = overlay_bytes(canvas, values, view.box, view.pixels, look.style, Notes(boxes, caption_of_row(row)))
            look.folder.root.write(look.overlay_of(row), overlay)
        except (OSError, ValueError, ImageError) as error:
            return f"its map or overlay failed: {error}"
        drawn.append(checksum_of(overlay))
    return drawn


def _checksums(files: Sequence[tuple[str, Checksum | None]], drawn: Sequence[Checksum]) -> tuple[Checksum, ...] | None:
    """The checksums of ``files``, with ``drawn`` as the checksums of the overlays; None if an earlier version recorded none."""
    new = iter(drawn)
    found = [next(new) if name.startswith(f"{OVERLAYS}/") else checksum for name, checksum in files]
    return None if None in found else tuple(checksum for checksum in found if checksum is not None)


def _rows(look: _Look, entries: Mapping[str, Entry]) -> Iterator[tuple[Entry, bytes]]:
    """All entries and rows, with new paths of overlays for the images in ``entries``."""
    for entry, data in look.folder.ledger.rows():
        new = entries.get(entry.image)
        rows = None if new is None else look.folder.ledger.own_rows(entry, data)
        if new is not None and rows is not None:
            data = b"".join(csv_line(tuple({**row, "overlay": escape_name(look.overlay_of(row))}.values())) for row in rows)
            entry = replace(new, length=len(data), rows=zlib.crc32(data))
        yield entry, data
