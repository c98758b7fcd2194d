"""What ``camcli dream`` leaves: pictures that say themselves how they were made, their table, a sheet of them, animations.

A picture is complete only with its record, JSON in a text chunk of the PNG: the settings it was made with and what the network says
of it. The table is made anew from the records of all pictures in the folder, so it cannot disagree with them.
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
from camcli.errors import OutputError
from camcli.output.checks import check_place
from camcli.output.root import Root
from camcli.output.writers import csv_line, output_error, table_line
from camcli.records import escape_name

TABLE, SHEET = "dreams.csv", "sheet.png"

COLUMNS = (
    "picture", "target", "class_index", "class_name", "layer", "channel", "unit_y", "unit_x", "activation_start", "activation_end",
    "activation_moved", "probability", "probability_moved", "probability_least", "prior", "steps", "width", "height", "seed",
)  # fmt: skip

_KEY = "camcli-dream"
"""Of the text chunk."""

_MOST_BYTES, _MOST_PIXELS = 1 << 30, 64_000_000
"""No picture or animation of camcli is larger: what is, is not read."""

_CAPTION, _GAP = 20, 6
"""Pixels below and between the pictures of a sheet."""

_FRAME_MS, _LAST_MS = 80, 1500


def png_bytes(picture: np.ndarray, record: Mapping[str, Any]) -> bytes:
    """``picture`` (H, W, 3) uint8 as a PNG that carries ``record``; ASCII whatever names are in it."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", f"camcli {__version__}")
    text.add_text(_KEY, json.dumps(record))
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def read_picture_record(root: Root, name: str) -> dict[str, Any] | None:
    """The record of the picture or animation ``name`` in ``root``; None where it is not camcli's, or damaged. Raises OSError."""
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
    """The pixels of the picture ``name`` in ``root``, (H, W, 3) uint8. Raises OSError."""
    with root.open(name) as file, Image.open(file, formats=("PNG",)) as picture:
        return np.asarray(picture.convert("RGB"))


def animation_bytes(frames: Sequence[np.ndarray], record: Mapping[str, Any]) -> bytes:
    """``frames``, each (H, W, 3) uint8, as an animated WebP that repeats, rests at the last one, and carries ``record``."""
    first, *others = (Image.fromarray(frame) for frame in frames)
    durations = [_FRAME_MS] * (len(frames) - 1) + [_LAST_MS]
    text, buffer = json.dumps(record).encode(), io.BytesIO()
    first.save(buffer, "WEBP", save_all=True, append_images=others, duration=durations, loop=0, quality=80, method=4, xmp=text)
    return buffer.getvalue()


def sheet_of(pictures: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """The pictures (H, W, 3) uint8 side by side in rows, about as wide as high, each above its caption. (H', W', 3) uint8."""
    height, width = pictures[0].shape[:2]
    columns = min(len(pictures), max(1, round((len(pictures) * (height + _CAPTION) / width) ** 0.5 + 0.49)))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, rows * (height + _CAPTION + _GAP) + _GAP), (255, 255, 255))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for position, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x = _GAP + position % columns * (width + _GAP)
        y = _GAP + position // columns * (height + _CAPTION + _GAP)
        sheet.paste(Image.fromarray(picture), (x, y))
        pen.text((x, y + height + 2), _ellipsize(escape_name(caption), width, font), fill=(0, 0, 0), font=font)
    return np.asarray(sheet)


def _ellipsize(text: str, width: int, font: Any) -> str:
    """``text``, shortened until it is at most ``width`` pixels long."""
    kept = text
    while kept and font.getlength(kept if kept == text else f"{kept}…") > width:
        kept = kept[:-1]
    return kept if kept == text else f"{kept}…"


def check_folder(root: Root, names: Sequence[str]) -> None:
    """Raise OutputError where ``root`` cannot become or be a folder of pictures, or ``names`` in it are not camcli's."""
    check_place(root.path)
    for name in names:
        if os.path.isdir(root.path) and root.exists(name) and not _is_ours(root, name):
            raise OutputError(
                f"{escape_name(root.at(name))!r} is not of camcli dream, or is damaged; move it away, or choose another --output."
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


def write_table(root: Root) -> None:
    """Write ``dreams.csv``: a row for each picture in the folder that has a record, by name. Raises OutputError."""
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
