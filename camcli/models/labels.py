"""Class names: ImageNet's, those in a user's file, and the search for a class by index or name."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any

from camcli.documents import parse_json, read_text
from camcli.errors import ClassError, LabelsError, did_you_mean
from camcli.records import escape_name

IMAGENET_SIZE = 1000

_MOST_NAMED = 12
"""Maximum number of classes that an error names."""


def imagenet_labels() -> tuple[str, ...]:
    """The 1000 names of ImageNet-1k, in the order of its classes, as torchvision publishes them."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def default_labels(count: int, *, imagenet: bool = True) -> tuple[str, ...]:
    """Names for ``count`` classes without known names: ImageNet's for a thousand, else ``class N``."""
    if imagenet and count == IMAGENET_SIZE:
        return imagenet_labels()
    return tuple(f"class {index}" for index in range(count))


def read_labels(path: str, count: int | None) -> tuple[str, ...]:
    """The class names in a file: ``.json`` (a list, or index -> name), ``.csv`` (index,name), else a line each.

    ``count``: the required number of names, None for any number. Raises LabelsError if the file cannot be read, does not have the
    format of its extension, or names another number of classes.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise LabelsError(f"--labels {escape_name(path)}: {error.strerror}.") from error
    except ValueError as error:
        raise LabelsError(f"--labels {escape_name(path)} is not UTF-8 text: {error}.") from error
    try:
        if path.lower().endswith(".json"):
            names = _from_json(parse_json(text))
        elif path.lower().endswith(".csv"):
            names = _from_csv(text)
        else:
            names = [line.strip() for line in text.splitlines() if line.strip()]
        _refuse_no_text(names)
    except (ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
        raise LabelsError(
            f"--labels {escape_name(path)}: {error}. Expected a line per class (.txt), a list or an object index -> name (.json), "
            "or index,name (.csv)."
        ) from error
    if count is not None and len(names) != count:
        raise LabelsError(f"--labels {escape_name(path)} names {len(names)} classes, the model has {count}.")
    return tuple(names)


def find_class(wanted: str, classes: Sequence[str]) -> int:
    """The index of the class ``wanted``: an index, or a name (case, and ``_`` or ``-`` for a space, do not matter).

    Raises ClassError, with the nearest names if there is no such class, with the indices if several classes have that name.
    """
    if wanted.strip().isdecimal():
        index = _number(wanted)
        if index < len(classes):
            return index
        raise ClassError(f"there is no class {wanted.strip()}: the model has {len(classes)}, 0 to {len(classes) - 1}.")
    matches = [index for index, name in enumerate(classes) if _folded(name) == _folded(wanted)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ClassError(f"{wanted!r} is the name of {len(matches)} classes, {' and '.join(map(str, matches))}: give the index.")
    raise ClassError(f"there is no class {wanted!r}.{similar_classes(wanted, classes)} See them all: camcli classes MODEL")


def similar_classes(wanted: str, classes: Sequence[str]) -> str:
    """A sentence, with a leading space, that names the classes whose names contain ``wanted``, else those with similar names.

    Names that contain it as a word come first. Empty if there is neither.
    """
    part = _folded(wanted)
    inside = [name for name in dict.fromkeys(classes) if part and part in _folded(name)]
    inside.sort(key=lambda name: part not in _folded(name).split())
    if not inside:
        return did_you_mean(wanted, classes)
    more = f" and {len(inside) - _MOST_NAMED} more" if len(inside) > _MOST_NAMED else ""
    return f" These contain it: {', '.join(inside[:_MOST_NAMED])}{more}."


_MOST_DIGITS = 12
"""Maximum number of digits of a class index: no model has more classes, and Python is slow to parse longer numbers or refuses."""


def _number(digits: str) -> int:
    """The whole number ``digits``, or a number larger than any class index."""
    digits = digits.strip().lstrip("0") or "0"
    return int(digits) if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS


def _refuse_no_text(names: Sequence[str]) -> None:
    """Raise ValueError for a name with half of a surrogate pair, which JSON can express but no file can store."""
    for index, name in enumerate(names):
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"the name of class {index} is not text") from None


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def _from_json(value: Any) -> list[str]:
    if isinstance(value, list):
        return [_name(name) for name in value]
    if not isinstance(value, dict):
        raise ValueError("neither a list nor an object")
    if value and all(isinstance(index, int) for index in value.values()):  # name -> index, ImageFolder's class_to_idx
        value = {index: name for name, index in value.items()}
    by_index = {_index(key): name for key, name in value.items()}
    # torchvision's and Keras's imagenet_class_index.json hold [wordnet id, name]
    return [_name(name[-1] if isinstance(name, list) else name) for name in _in_order(by_index)]


def _name(value: Any) -> str:
    if isinstance(value, (list, dict)):
        raise ValueError("the name of a class is a list or an object")
    return str(value)


def _from_csv(text: str) -> list[str]:
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if all(len(row) == 1 for row in rows):
        return [row[0].strip() for row in rows]
    if not rows[0][0].strip().isdecimal():
        rows = rows[1:]  # a header
    return [str(name) for name in _in_order({_index(row[0]): row[1].strip() for row in rows})]


def _index(text: Any) -> int:
    if not str(text).strip().isdecimal():
        raise ValueError(f"{text!r} is not a class index")
    return _number(str(text))


def _in_order(by_index: dict[int, Any]) -> list[Any]:
    gaps = [index for index in range(len(by_index)) if index not in by_index]
    if gaps:
        raise ValueError(f"class {gaps[0]} has no name")
    return [by_index[index] for index in range(len(by_index))]
