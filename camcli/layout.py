"""The names of what camcli writes: the files and folders in an output folder, in a model's folder and in a study's.

Every path below an output folder is relative to it and has ``/``. What lies in ``OWN`` is camcli's alone; the rest is for users.
"""

from __future__ import annotations

import os

OWN = ".camcli"
"""The folder that marks an output folder: a run writes it first, and no walk takes the overlays beside it for photos."""

# in an output folder
PREDICTIONS, FAILURES = "predictions.csv", "failures.csv"
TABLES = (PREDICTIONS, FAILURES)
RUN_RECORD = "run.json"
BOXES = "boxes.json"
OVERLAYS, MAPS, MASKS = "overlays", "maps", "masks"
ROW_FOLDERS = (OVERLAYS, MAPS, MASKS)
"""Folders of files that belong to a row."""

REPORT_PAGE, REPORT_FOLDER = "report.html", "report"
REPORT_ROWS, REPORT_MAPS, REPORT_THUMBNAILS = f"{REPORT_FOLDER}/rows.js", f"{REPORT_FOLDER}/maps", f"{REPORT_FOLDER}/thumbs"
OUTPUT_FOLDERS = (*ROW_FOLDERS, REPORT_FOLDER)
"""Folders whose pictures are no photos."""

OUTPUT_NAMES = (*TABLES, RUN_RECORD, BOXES, REPORT_PAGE, *OUTPUT_FOLDERS)
"""All that a run and its report leave for users."""

# below OWN
LOCK = f"{OWN}/lock"
JOURNAL = f"{OWN}/journal.jsonl"
UNCONFIRMED = f"{OWN}/unconfirmed.jsonl"
"""Names of files that have no row yet: see ``output.unconfirmed``."""

IN_FLIGHT, DEATHS = f"{OWN}/in-flight", f"{OWN}/in-flight-deaths"
"""Images in the hands of C code: see ``output.inflight``."""

NEW_LOOK = f"{OWN}/redrawing"
"""The look that ``camcli render`` is giving to the overlays."""

REPORT_MANIFEST = f"{OWN}/report.jsonl"
SCRATCH = f"{OWN}/scratch"
"""Where files are written before they get their names: on the same file system."""

DRAFT, EXCHANGE = f"{OWN}/draft", f"{OWN}/exchange"
"""Files that are to replace others all together: still being written, and complete."""

FEATURES = f"{OWN}/features"
"""Features of the images that ``camcli fit`` trains on."""

OWN_FOLDERS = tuple(os.path.basename(folder) for folder in (SCRATCH, DRAFT, EXCHANGE, FEATURES))
"""Names of the folders in OWN; all else in it are files."""

# in a model's folder, and in that of a sanity check
FITTED_MARK, FITTED_WEIGHTS = "model.json", "model.safetensors"
"""What makes a folder a model that ``camcli fit`` has written: its description, and its weights."""

SANITY_PICTURES = ("curves.png", "curves-independent.png", "strip.png")
"""What ``camcli sanity`` draws."""


def overlay_file(stem: str, image_format: str) -> str:
    """The overlay of a map; ``stem``: from ``output.names.file_stem``."""
    return f"{OVERLAYS}/{stem}.{image_format}"


def stem_of(overlay: str) -> str:
    """What ``overlay_file`` made ``overlay`` of."""
    return os.path.splitext(overlay.removeprefix(f"{OVERLAYS}/"))[0]


def map_file(overlay: str) -> str:
    """The raw map of ``overlay``, where it is stored."""
    return f"{MAPS}/{stem_of(overlay)}.npy"


def mask_file(overlay: str) -> str:
    """The mask of ``overlay``, where it is written."""
    return f"{MASKS}/{stem_of(overlay)}.png"


def thumbnail_file(overlay: str) -> str:
    """The thumbnail of ``overlay`` in a report."""
    return f"{REPORT_THUMBNAILS}/{stem_of(overlay)}.jpg"
