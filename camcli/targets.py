"""True classes of images: from the name of their folder, or from a table."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence

from camcli.errors import ClassError, LabelsError
from camcli.models.labels import find_class
from camcli.records import Source, recovered, shown

FOLDER = "folder"
"""The value of ``--class-from`` that takes the name of each image's folder, as torchvision's ImageFolder does."""


def true_classes(class_from: str, sources: Sequence[Source], classes: Sequence[str]) -> dict[str, int]:
    """The index of the true class of each image that has one, by the image's name.

    ``class_from``: ``folder``, or a CSV file of image and label with a header, the image as in ``predictions.csv``, the label a
    class's name or index. Raises ClassError with the folders or labels that are no classes, LabelsError for a wrong file.
    """
    labels = _from_folders(sources) if class_from == FOLDER else _from_table(class_from)
    indices: dict[str, int] = {}
    wrong: dict[str, str] = {}
    for label in dict.fromkeys(labels.values()):
        try:
            indices[label] = find_class(label, classes)
        except ClassError as error:
            wrong[label] = str(error)
    if wrong:
        first = next(iter(wrong.values()))
        more = f" The same holds for {len(wrong) - 1} more." if len(wrong) > 1 else ""
        raise ClassError(f"--class-from {class_from}: {first}{more}")
    return {image: indices[label] for image, label in labels.items()}


def _from_folders(sources: Sequence[Source]) -> dict[str, str]:
    return {source.image: os.path.basename(os.path.dirname(source.path)) for source in sources}


def _from_table(path: str) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except OSError as error:
        raise LabelsError(f"--class-from {shown(path)}: {error.strerror}. Give a CSV file, or the word folder.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise LabelsError(f"--class-from {shown(path)} is not a CSV file in UTF-8: {error}.") from error
    if not rows or len(rows[0]) < 2:
        raise LabelsError(f"--class-from {shown(path)}: expected a header and the columns image and label.")
    header = [name.strip().lower() for name in rows[0]]
    image = header.index("image") if "image" in header else 0
    label = header.index("label") if "label" in header else 1
    short = next((number for number, row in enumerate(rows, 1) if len(row) <= max(image, label)), None)
    if short is not None:
        raise LabelsError(f"--class-from {shown(path)}: line {short} has fewer columns than the header.")
    return {recovered(row[image]): row[label].strip() for row in rows[1:]}
