"""Annotated boxes of objects from COCO, Pascal VOC or CSV files. Whatever such a file holds, it is data and not trusted."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

from camcli.documents import parse_json, read_document
from camcli.errors import InputError
from camcli.records import count_words, escape_name, unescape_name

_MOST_BYTES = 1 << 30
"""Largest COCO file; that of the COCO training images has 450 MB."""

_MOST_XML, _MOST_DEPTH = 4 << 20, 40
_LARGEST = float(1 << 30)
_CSV_COLUMNS = ("image", "class", "x", "y", "w", "h")


@dataclass(frozen=True, slots=True)
class Object:
    """An annotated object: its class as text, and its box in pixels of the upright image: left, top, width, height."""

    class_name: str
    box: tuple[float, float, float, float]


@dataclass
class Annotations:
    """The objects of images. ``objects``: name of an image as the file has it -> its objects; an image may have none.

    ``sizes``: (width, height) of images, as far as the file names them. ``problems``: what could not be used -> examples.
    """

    objects: dict[str, list[Object]] = field(default_factory=dict)
    sizes: dict[str, tuple[float, float]] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)

    def complain(self, reason: str, example: str) -> None:
        """Note that something could not be used."""
        self.problems.setdefault(reason, []).append(escape_name(example))

    def add(self, image: str, class_name: str, box: tuple[Any, Any, Any, Any], where: str) -> None:
        """Add an object, or note what is wrong with it. A box that is partly outside the image is cut."""
        if not all(type(side) in (int, float) and abs(side) <= _LARGEST for side in box):  # NaN compares false
            self.complain("a box is not four numbers", where)
            return
        x, y, w, h = map(float, box)
        if w <= 0 or h <= 0:
            self.complain("a box has no area", where)
            return
        width, height = self.sizes.get(image, (math.inf, math.inf))
        right, bottom, x, y = min(x + w, width), min(y + h, height), max(x, 0.0), max(y, 0.0)
        if right <= x or bottom <= y:
            self.complain("a box is outside its image", where)
            return
        self.objects.setdefault(image, []).append(Object(class_name, (x, y, right - x, bottom - y)))

    def add_size(self, image: str, width: Any, height: Any) -> None:
        """Note the size of an image, unless it is not possible."""
        if all(type(side) in (int, float) and 0 < side <= _LARGEST for side in (width, height)):
            self.sizes[image] = float(width), float(height)

    def sentences(self) -> Iterator[str]:
        """A sentence for each kind of problem: what, how often, and an example."""
        for reason, examples in self.problems.items():
            yield f"{reason}: {count_words(len(examples), 'time')}, left out; the first is {examples[0]}"


def read_boxes(path: str) -> Annotations:
    """The annotations in ``path``: a COCO file (.json), a CSV file, or a folder of Pascal VOC files (.xml).

    Single annotations that cannot be used are left out and noted. Raises InputError if the whole file cannot be used.
    """
    name = escape_name(path)
    try:
        if os.path.isdir(path):
            return _from_voc(path)
        data = read_document(path, _MOST_BYTES)
        if path.lower().endswith(".csv"):
            return _from_csv(data.decode("utf-8-sig"))
        return _from_coco(parse_json(data))
    except OSError as error:
        raise InputError(f"--boxes {name}: {error.strerror}.") from error
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"--boxes {name} cannot be read: {error}. Give a COCO file (.json), a CSV file with the columns "
            f"{', '.join(_CSV_COLUMNS)}, or a folder of Pascal VOC files (.xml)."
        ) from error


def _from_coco(document: Any) -> Annotations:
    """The annotations of a COCO document (https://cocodataset.org/#format-data)."""
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    found = Annotations()
    names: dict[Any, str] = {}
    for number, image in enumerate(_list(document, "images")):
        where = f"images[{number}]"
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str) or not _is_id(image.get("id")):
            found.complain("an image has no id or file_name", where)
            continue
        names[image["id"]] = image["file_name"]
        found.objects.setdefault(image["file_name"], [])
        found.add_size(image["file_name"], image.get("width"), image.get("height"))
    classes = {
        each["id"]: each["name"]
        for each in _list(document, "categories")
        if isinstance(each, dict) and _is_id(each.get("id")) and isinstance(each.get("name"), str)
    }
    for number, each in enumerate(_list(document, "annotations")):
        _add_coco(found, each, f"annotations[{number}]", names, classes)
    return found


def _add_coco(found: Annotations, each: Any, where: str, names: Mapping[Any, str], classes: Mapping[Any, str]) -> None:
    if not isinstance(each, dict):
        found.complain("an annotation is no object", where)
    elif not _is_id(each.get("image_id")) or each["image_id"] not in names:
        found.complain("an annotation has an unknown image", where)
    elif not _is_id(each.get("category_id")) or each["category_id"] not in classes:
        found.complain("an annotation has an unknown class", where)
    elif each.get("iscrowd") == 1:
        found.complain("an annotation is a crowd", where)
    elif not isinstance(each.get("bbox"), list) or len(each["bbox"]) != 4:
        found.complain("a box is not four numbers", where)
    else:
        x, y, w, h = each["bbox"]
        found.add(names[each["image_id"]], classes[each["category_id"]], (x, y, w, h), where)


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    values = document.get(name)
    if not isinstance(values, list):
        raise ValueError(f"it has no list {name!r}, as COCO files have")
    return values


def _is_id(value: Any) -> bool:
    return type(value) is int or isinstance(value, str)


def _from_csv(text: str) -> Annotations:
    rows = csv.reader(io.StringIO(text, newline=""))
    header = [name.strip().lower() for name in next(rows, [])]
    missing = [name for name in _CSV_COLUMNS if name not in header]
    if missing:
        raise ValueError(f"its first line lacks the columns {', '.join(missing)}")
    places = [header.index(name) for name in _CSV_COLUMNS]
    found = Annotations()
    for row in rows:
        if not row:
            continue
        where = f"line {rows.line_num}"
        if len(row) <= max(places):
            found.complain("a line has too few cells", where)
            continue
        image, class_name, *box = (row[place] for place in places)
        x, y, w, h = map(_number, box)
        found.add(unescape_name(image), class_name.strip(), (x, y, w, h), where)
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _from_voc(folder: str) -> Annotations:
    """The annotations of all .xml files below ``folder``. Links to folders are not followed."""
    found, seen = Annotations(), 0
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(".xml"):
                seen += 1
                _add_voc(found, os.path.join(place, name), os.path.relpath(os.path.join(place, name), folder))
    if not seen:
        raise ValueError("the folder has no .xml files")
    return found


def _add_voc(found: Annotations, path: str, where: str) -> None:
    """Add the objects of one Pascal VOC file. Its corners count from 1 and are part of the box."""
    try:
        facts, objects = _parse_voc(read_document(path, _MOST_XML))
    except OSError as error:
        found.complain(f"a file cannot be read ({error.strerror})", where)
        return
    except (ValueError, expat.ExpatError) as error:
        found.complain("a file is no Pascal VOC annotation", f"{where} ({error})")
        return
    image = facts.get("filename", "").strip()
    if not image:
        found.complain("a file names no image", where)
        return
    found.objects.setdefault(image, [])
    found.add_size(image, _number(facts.get("size/width", "")), _number(facts.get("size/height", "")))
    for each in objects:
        x0, y0, x1, y1 = (_number(each.get(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
        if x0 is None or y0 is None or x1 is None or y1 is None:
            found.complain("a box is not four numbers", where)
        else:
            found.add(image, each.get("name", "").strip(), (x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1), where)


def _parse_voc(data: bytes) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The texts of a file by path, and those of each object. Documents that declare entities or a type are refused."""
    parser = expat.ParserCreate()
    path: list[str] = []
    facts: dict[str, str] = {}
    objects: list[dict[str, str]] = []

    def begin(name: str, _attributes: Any) -> None:
        path.append(name)
        if len(path) > _MOST_DEPTH:
            raise ValueError("nested too deeply")
        if path[1:] == ["object"]:
            objects.append({})

    def text(part: str) -> None:
        inner = path[2:] if path[1:2] == ["object"] else path[1:]
        into = objects[-1] if path[1:2] == ["object"] else facts
        if inner:
            into["/".join(inner)] = into.get("/".join(inner), "") + part

    def refuse(*_: Any) -> None:
        raise ValueError("it declares a document type or entities")

    parser.StartElementHandler = begin
    parser.EndElementHandler = lambda _name: path.pop()
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.Parse(data, True)
    return facts, objects
