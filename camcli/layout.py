"""Names of the files and folders that camcli writes: in an output folder, a model's folder and a study's folder.

Paths below an output folder are relative to it, with ``/``. The folder ``OWN`` is for camcli only; the rest is for users.
"""

from __future__ import annotations

import os

OWN = ".camcli"
"""The folder that marks an output folder. A run creates it first, so that no later run takes the overlays beside it for photos."""

# in an output folder
PREDICTIONS, FAILURES = "predictions.csv", "failures.csv"
TABLES = (PREDICTIONS, FAILURES)
RUN_RECORD = "run.json"
BOXES = "boxes.json"
OVERLAYS, MAPS, MASKS = "overlays", "maps", "masks"
ROW_FOLDERS = (OVERLAYS, MAPS, MASKS)
"""Folders with the files of the rows in ``predictions.csv``."""

REPORT_PAGE, REPORT_FOLDER = "report.html", "report"
REPORT_ROWS, REPORT_MAPS, REPORT_THUMBNAILS = f"{REPORT_FOLDER}/rows.js", f"{REPORT_FOLDER}/maps", f"{REPORT_FOLDER}/thumbs"
ROWS_PARQUET, MAPS_PARQUET = "predictions.parquet", "maps.parquet"
PART_FOLDERS = (ROWS_PARQUET, MAPS_PARQUET)
"""Folders of part files that are derived from the tables."""

OUTPUT_FOLDERS = (*ROW_FOLDERS, REPORT_FOLDER, *PART_FOLDERS)
"""Folders whose pictures are never taken for photos."""

EVALUATION_TABLE, EVALUATION_RECORD = "evaluation.csv", "evaluation.json"
EVALUATION_PICTURES = ("evaluation-methods.png", "evaluation-curves.png")
EVALUATION = (EVALUATION_TABLE, EVALUATION_RECORD, *EVALUATION_PICTURES)
"""Files of ``camcli evaluate``."""

OUTPUT_NAMES = (*TABLES, RUN_RECORD, BOXES, REPORT_PAGE, *EVALUATION, *OUTPUT_FOLDERS)
"""Everything that a run and its report write for users."""

# below OWN
LOCK = f"{OWN}/lock"
JOURNAL = f"{OWN}/journal.jsonl"
MAPS_TABLE = f"{OWN}/maps.bin"
CONTRIBUTIONS_TABLE = f"{OWN}/contributions.bin"
BINARY_TABLES = (MAPS_TABLE, CONTRIBUTIONS_TABLE)
"""Tables of arrays, of runs that ask for them; see ``output.packed``. Their order is that in ``Entry.packed``."""
CLUSTER = f"{OWN}/cluster"
"""Mark of a run on a cluster, while it goes on. By it a worker knows that it sees the folder of the program that started it."""

UNCONFIRMED = f"{OWN}/unconfirmed.jsonl"
"""Log of files that have no row yet; see ``output.unconfirmed``."""

FORMER_FILES = (f"{OWN}/in-flight", f"{OWN}/in-flight-deaths")
"""Files of versions that looked for the image which had ended a run; now a worker process ends instead. They are removed."""

UNFINISHED_RENDER = f"{OWN}/redrawing"
"""The look that an unfinished ``camcli render`` gives to the overlays."""

REPORT_MANIFEST = f"{OWN}/report.jsonl"
PARTS_MANIFEST = f"{OWN}/parts.jsonl"
SCRATCH = f"{OWN}/scratch"
"""Folder for files until they are renamed to their final place. It is inside the output folder to be on the same file system."""

DRAFT, EXCHANGE = f"{OWN}/draft", f"{OWN}/exchange"
"""Folders for files that replace others all at once: DRAFT while they are written, EXCHANGE when they are complete."""

FEATURES = f"{OWN}/features"
"""Folder of the features that ``camcli fit`` trains on."""

OWN_FOLDERS = tuple(os.path.basename(folder) for folder in (SCRATCH, DRAFT, EXCHANGE, FEATURES))
"""Names of the folders in OWN; everything else in it is a file."""

# in a model's folder, and in the folder of a sanity check
FITTED_MARK, FITTED_WEIGHTS = "model.json", "model.safetensors"
"""Description and weights of a model that ``camcli fit`` has written. The description marks its folder as a model."""

HUB_CONFIG, HUB_PROCESSOR = "config.json", "preprocessor_config.json"
"""The files by which a folder of Hugging Face transformers describes its network, and how it prepares images."""

SANITY_PICTURES = ("curves.png", "curves-independent.png", "strip.png")
"""Pictures that ``camcli sanity`` draws."""


def overlay_file(stem: str, image_format: str) -> str:
    """The path of an overlay. ``stem``: from ``output.names.file_stem``."""
    return f"{OVERLAYS}/{stem}.{image_format}"


def stem_of(overlay: str) -> str:
    """The stem from which ``overlay_file`` made the path ``overlay``."""
    return os.path.splitext(overlay.removeprefix(f"{OVERLAYS}/"))[0]


def map_file(stem: str) -> str:
    """The path of a raw map. ``stem``: as for ``overlay_file``."""
    return f"{MAPS}/{stem}.npy"


def mask_file(stem: str) -> str:
    """The path of a mask. ``stem``: as for ``overlay_file``."""
    return f"{MASKS}/{stem}.png"


def thumbnail_file(overlay: str) -> str:
    """The path of the thumbnail of ``overlay`` in a report."""
    return f"{REPORT_THUMBNAILS}/{stem_of(overlay)}.jpg"
