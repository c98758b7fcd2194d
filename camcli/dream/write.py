"""What ``camcli dream`` leaves: pictures that say themselves how they were made, their table, a sheet of them, animations.

A picture is complete only with its record, JSON in a text chunk of the PNG: the settings it was made with and what the network says
of it. The table is made anew from the records of all pictures in the folder, so it cannot disagree with them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from camcli import __version__
from camcli.errors import OutputError
from camcli.output.checks import check_place
from camcli.output.writers import csv_line, output_error, table_line, write_whole
from camcli.records import RUN_MARKER, shown

TABLE, SHEET = "dreams.csv", "sheet.png"

COLUMNS = (
    "picture", "target", "class_index", "class_name", "layer", "channel", "unit_y", "unit_x", "activation_start", "activation_end",
    "activation_moved", "probability", "probability_moved", "probability_least", "prior", "steps", "width", "height", "seed",
)  # fmt: skip

_KEY = "camcli-dream"
"""Of the text chunk."""

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


def read_record(path: str) -> dict[str, Any] | None:
    """The record of the picture or animation at ``path``; None where it is not camcli's, or damaged. Raises OSError."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as picture:
            record = json.loads(picture.info.get(_KEY) or picture.info.get("xmp") or "")
            picture.load()
    except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError):
        return None
    return record if isinstance(record, dict) else None


def read_picture(path: str) -> np.ndarray:
    """The pixels of the picture at ``path``, (H, W, 3) uint8."""
    with Image.open(path) as picture:
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
        pen.text((x, y + height + 2), _fitting(shown(caption), width, font), fill=(0, 0, 0), font=font)
    return np.asarray(sheet)


def _fitting(text: str, width: int, font: Any) -> str:
    """``text``, shortened until it is at most ``width`` pixels long."""
    kept = text
    while kept and font.getlength(kept if kept == text else f"{kept}…") > width:
        kept = kept[:-1]
    return kept if kept == text else f"{kept}…"


def check_folder(path: str, names: Sequence[str]) -> None:
    """Raise OutputError where ``path`` cannot become or be a folder of pictures, or ``names`` in it are not camcli's."""
    check_place(os.path.abspath(path))
    for name in names:
        file = os.path.join(path, name)
        if os.path.lexists(file) and not _is_ours(file):
            raise OutputError(
                f"{shown(file)!r} was not written by camcli dream, or is damaged; move it away, or choose another --output."
            )


def _is_ours(file: str) -> bool:
    try:
        if file.endswith(".csv"):
            with open(file, "rb") as table:
                return table.readline() == csv_line(COLUMNS)
        return read_record(file) is not None
    except OSError:
        return False


def write_changed(folder: str, name: str, data: bytes) -> None:
    """Put a file in its place, whole, unless it is there with the same bytes. Raises OutputError."""
    target = os.path.join(folder, name)
    scratch = os.path.join(folder, RUN_MARKER, "scratch")
    with contextlib.suppress(OSError), open(target, "rb") as file:
        if file.read() == data:
            return
    try:
        os.makedirs(scratch, exist_ok=True)
    except OSError as error:
        raise output_error(scratch, error) from error
    write_whole(target, data, scratch)


def write_table(folder: str) -> None:
    """Write ``dreams.csv``: a row for each picture in the folder that has a record, by name. Raises OutputError."""
    lines = [csv_line(COLUMNS)]
    try:
        for name in sorted(os.listdir(folder)):
            if name.endswith(".png") and not name.startswith("."):
                row = (read_record(os.path.join(folder, name)) or {}).get("row")
                if isinstance(row, dict):
                    lines.append(table_line((name, *(row.get(column) for column in COLUMNS[1:]))))
    except OSError as error:
        raise output_error(error.filename or folder, error) from error
    write_changed(folder, TABLE, b"".join(lines))
