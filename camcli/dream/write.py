"""The files of ``camcli dream``: pictures with a record inside, animations, a table, and a contact sheet.

Each picture carries its record as JSON in a text chunk of the PNG: its settings and its row of the table. The table is written from
the records of all pictures in the folder, so the two always agree.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from camcli import __version__
from camcli.documents import parse_json
from camcli.dream.config import DreamConfig
from camcli.dream.optimize import Dream
from camcli.dream.targets import Target
from camcli.errors import OutputError
from camcli.output.checks import check_place
from camcli.output.root import Root
from camcli.output.writers import csv_line, output_error, table_line
from camcli.records import escape_name
from camcli.render.text import ellipsize

TABLE, SHEET = "dreams.csv", "sheet.png"

COLUMNS = (
    "picture", "target", "class_index", "class_name", "layer", "channel", "unit_y", "unit_x", "activation_start", "activation_end",
    "activation_moved", "probability", "probability_moved", "probability_least", "prior", "steps", "width", "height", "seed",
)  # fmt: skip

_KEY = "camcli-dream"
"""Keyword of the text chunk."""

_MOST_BYTES, _MOST_PIXELS = 1 << 30, 64_000_000
"""Limits for reading: camcli writes no larger picture or animation."""

_CAPTION, _GAP = 20, 6
"""Pixels for the caption below a picture of the sheet, and between pictures."""

_FRAME_MS, _LAST_MS = 80, 1500


def png_bytes(picture: np.ndarray, record: Mapping[str, Any]) -> bytes:
    """A PNG file of ``picture`` (H, W, 3) uint8 that carries ``record`` as ASCII JSON."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", f"camcli {__version__}")
    text.add_text(_KEY, json.dumps(record))
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def read_picture_record(root: Root, name: str) -> dict[str, Any] | None:
    """The record of the picture or animation ``name`` in ``root``; None if it has none or is damaged. Raises OSError."""
    try:
        data = root.read(name, _MOST_BYTES)
    except FileNotFoundError:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                return None
            record = parse_json(picture.info.get(_KEY) or picture.info.get("xmp") or "")
            picture.load()
    except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError):
        return None
    return record if isinstance(record, dict) else None


def read_picture(root: Root, name: str) -> np.ndarray:
    """The pixels (H, W, 3) uint8 of the picture ``name`` in ``root``. Raises OSError."""
    with root.open(name) as file, Image.open(file, formats=("PNG",)) as picture:
        return np.asarray(picture.convert("RGB"))


def animation_bytes(frames: Sequence[np.ndarray], record: Mapping[str, Any]) -> bytes:
    """An animated WebP file of ``frames`` (H, W, 3) uint8 that loops, pauses at the last frame, and carries ``record``."""
    first, *others = (Image.fromarray(frame) for frame in frames)
    durations = [_FRAME_MS] * (len(frames) - 1) + [_LAST_MS]
    text, buffer = json.dumps(record).encode(), io.BytesIO()
    first.save(buffer, "WEBP", save_all=True, append_images=others, duration=durations, loop=0, quality=80, method=4, xmp=text)
    return buffer.getvalue()


def contact_sheet(pictures: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """One nearly square picture (H', W', 3) uint8 of all ``pictures`` (H, W, 3) in rows, each above its caption."""
    height, width = pictures[0].shape[:2]
    columns = min(len(pictures), max(1, round((len(pictures) * (height + _CAPTION) / width) ** 0.5 + 0.49)))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, rows * (height + _CAPTION + _GAP) + _GAP), (255, 255, 255))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for position, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x = _GAP + position % columns * (width + _GAP)
        y = _GAP + position // columns * (height + _CAPTION + _GAP)
        sheet.paste(Image.fromarray(picture), (x, y))
        pen.text((x, y + height + 2), ellipsize(escape_name(caption), width, font), fill=(0, 0, 0), font=font)
    return np.asarray(sheet)


def check_folder(root: Root, names: Sequence[str]) -> None:
    """Raise OutputError if ``root`` cannot be the output folder, or if one of ``names`` is a file that camcli did not write."""
    check_place(root.path)
    for name in names:
        if os.path.isdir(root.path) and root.exists(name) and not _is_ours(root, name):
            raise OutputError(
                f"{escape_name(root.at(name))!r} was not written by camcli dream, or is damaged. Move it away, or "
                "choose another --output."
            )


def _is_ours(root: Root, name: str) -> bool:
    try:
        if name.endswith(".csv"):
            start = csv_line(COLUMNS)
            with root.open(name) as table:
                return table.read(len(start)) == start
        return read_picture_record(root, name) is not None
    except OSError:
        return False


def write_picture(root: Root, target: Target, dream: Dream, config: DreamConfig, settings: Mapping[str, Any]) -> None:
    """Write the picture of ``target`` with its record, and its animation if it has frames. Raises OutputError.

    The animation is written first, so a picture never lacks its animation. An animation of an earlier picture is removed.
    """
    animation = f"{target.stem}.webp"
    if dream.frames:
        root.write_changed(animation, animation_bytes(dream.frames, {"settings": settings, "frames": config.frames}))
    else:
        root.remove(animation)
    record = {"settings": settings, "row": _row(target, dream, config)}
    root.write_changed(f"{target.stem}.png", png_bytes(dream.picture, record))


def _row(target: Target, dream: Dream, config: DreamConfig) -> dict[str, Any]:
    """The row of the table, by column."""
    height, width = dream.picture.shape[:2]
    row, column = target.cell or (None, None)
    metrics = dream.metrics
    return {
        "target": "class" if target.layer is None else "channel" if target.cell is None else "unit",
        "class_index": target.class_index,
        "class_name": None if target.class_index is None else target.words,
        "layer": target.layer and target.layer.name,
        "channel": target.channel,
        "unit_y": row,
        "unit_x": column,
        "activation_start": metrics.start,
        "activation_end": metrics.end,
        "activation_moved": metrics.moved,
        "probability": metrics.probability,
        "probability_moved": metrics.probability_moved,
        "probability_least": metrics.probability_least,
        "prior": config.prior,
        "steps": config.steps,
        "width": width,
        "height": height,
        "seed": config.seed,
    }


def write_table(root: Root) -> None:
    """Write ``dreams.csv`` with a row for each picture in the folder that has a record, sorted by name. Raises OutputError."""
    lines = [csv_line(COLUMNS)]
    try:
        for name in root.names():
            if name.endswith(".png") and not name.startswith(".") and root.size(name):
                row = (read_picture_record(root, name) or {}).get("row")
                if isinstance(row, dict):
                    cells = (row.get(column) for column in COLUMNS[1:])
                    lines.append(table_line((name, *(cell if type(cell) in (str, int, float) else None for cell in cells))))
    except OSError as error:
        raise output_error(error.filename or root.path, error) from error
    root.write_changed(TABLE, b"".join(lines))


def write_sheet(root: Root, targets: Sequence[Target]) -> None:
    """Write ``sheet.png`` with the pictures of ``targets`` that exist, if there are several targets. Raises OutputError."""
    if len(targets) < 2:
        return
    names = {f"{target.stem}.png": target.words for target in targets}
    names = {name: words for name, words in names.items() if root.size(name)}
    try:
        pictures = [read_picture(root, name) for name in names]
    except OSError as error:
        raise output_error(error.filename or root.path, error) from error
    if pictures:
        root.write_changed(SHEET, png_bytes(contact_sheet(pictures, list(names.values())), {"sheet": list(names)}))
