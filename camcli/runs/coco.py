"""The boxes of the table in COCO format (https://cocodataset.org/#format-data), for annotation tools."""

from __future__ import annotations

import itertools
from typing import Any

from camcli.output.ledger import Ledger
from camcli.output.writers import json_bytes
from camcli.records import unescape_name


def coco_boxes(ledger: Ledger) -> bytes:
    """The contents of ``boxes.json`` for the table of ``ledger``: images, categories, and one annotation for each box.

    Ids of images and annotations count from 1 in the order of the rows; ids of categories are class indices. ``bbox`` is left, top,
    width, height in pixels of the upright image; ``area`` is the area of the box, ``score`` the probability of the class. ``layer``
    and ``method`` are not part of COCO. File names are the names in the column image, without escapes.
    """
    images: dict[str, dict[str, Any]] = {}
    categories: dict[int, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    for row in itertools.chain.from_iterable(rows for _, rows in ledger.explained()):
        name, index = unescape_name(row["image"]), int(row["class_index"])
        size = {"width": int(row["image_w"]), "height": int(row["image_h"])}
        image = images.setdefault(name, {"id": len(images) + 1, "file_name": name, **size})
        categories.setdefault(index, {"id": index, "name": unescape_name(row["class_name"])})
        for box in filter(None, row["bboxes"].split(";")):
            left, top, width, height = map(int, box.split(" "))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": index,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "score": float(row["probability"]),
                    "layer": row["layer"],
                    "method": row["method"],
                }
            )
    ordered = [categories[index] for index in sorted(categories)]
    return json_bytes({"images": list(images.values()), "categories": ordered, "annotations": annotations})
