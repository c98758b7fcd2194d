"""The true classes (ground truth) of images, from the names of their folders or from a table."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Collection, Mapping, Sequence

from camcli.documents import read_text
from camcli.errors import ClassError, LabelsError
from camcli.images.archives import Member
from camcli.models.labels import find_class
from camcli.records import escape_name, unescape_name
from camcli.source import Source

FOLDER = "folder"
"""The value of ``--class-from`` for labels that are the names of the images' folders, as in torchvision's ImageFolder."""

MEMBER = "member"
"""The value of ``--class-from`` for labels that archives contain beside the images, as in WebDataset."""


def true_labels(class_from: str, sources: Sequence[Source]) -> dict[str, str]:
    """The labels as text: image -> label, for the images that have one.

    ``class_from``: ``folder``, ``member``, or a CSV file with the columns image and label. Images are named as in
    ``predictions.csv``; a label is the name or index of a class. The table may also label images that are not in ``sources``.
    Raises LabelsError for an invalid file.
    """
    if class_from == FOLDER:
        return {source.image: os.path.basename(os.path.dirname(source.path)) for source in sources}
    if class_from == MEMBER:
        return {source.image: source.label for source in sources if isinstance(source, Member) and source.label}
    return _from_table(class_from, {source.image for source in sources})


def true_classes(class_from: str, sources: Sequence[Source], classes: Sequence[str]) -> dict[str, int]:
    """The true classes: image -> class index, for the images that have a label. ``class_from``: as for ``true_labels``.

    Raises ClassError for a folder or label that is not one of ``classes``, and LabelsError for an invalid file.
    """
    return label_classes(class_from, true_labels(class_from, sources), classes)


def label_classes(class_from: str, labels: Mapping[str, str], classes: Sequence[str]) -> dict[str, int]:
    """The classes of ``labels``, which ``true_labels`` has read from ``class_from``: image -> class index.

    Raises ClassError for a label that is not one of ``classes``.
    """
    indices: dict[str, int] = {}
    wrong: dict[str, str] = {}
    for label in dict.fromkeys(labels.values()):
        try:
            indices[label] = find_class(label, classes)
        except ClassError as error:
            wrong[label] = str(error)
    if wrong:
        first = next(iter(wrong.values()))
        more = f" The same is true of {len(wrong) - 1} more." if len(wrong) > 1 else ""
        raise ClassError(f"--class-from {escape_name(class_from)}: {first}{more}")
    return {image: indices[label] for image, label in labels.items()}


def _from_table(path: str, images: Collection[str]) -> dict[str, str]:
    try:
        rows = [row for row in csv.reader(io.StringIO(read_text(path), newline="")) if row]
    except OSError as error:
        raise LabelsError(f"--class-from {escape_name(path)}: {error.strerror}. Give a CSV file, folder or member.") from error
    except (ValueError, csv.Error) as error:
        raise LabelsError(f"--class-from {escape_name(path)} is not a CSV file in UTF-8: {error}.") from error
    if not rows or len(rows[0]) < 2:
        raise LabelsError(f"--class-from {escape_name(path)}: expected the columns image and label.")
    image, label, first = _layout(rows[0], images)
    short = next((number for number, row in enumerate(rows, 1) if len(row) <= max(image, label)), None)
    if short is not None:
        raise LabelsError(f"--class-from {escape_name(path)}: line {short} has fewer columns than the header.")
    return {unescape_name(row[image]): text for row in rows[first:] if (text := row[label].strip())}


def _layout(first: Sequence[str], images: Collection[str]) -> tuple[int, int, int]:
    """The columns of image and label in a table, and the number of its first row of data, derived from its ``first`` row.

    A first row that contains one of ``images`` is data. Any other is a header, whatever its names are: if it is data after all, it
    labels an image that is not explained.
    """
    names = [name.strip().lower() for name in first]
    if not {"image", "label"} <= set(names) and unescape_name(first[0]) in images:
        return 0, 1, 0
    if "image" in names:
        image = names.index("image")
        return image, names.index("label") if "label" in names else int(image == 0), 1
    label = names.index("label") if "label" in names else 1
    return int(label == 0), label, 1
