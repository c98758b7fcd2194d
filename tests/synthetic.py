"""Runs that no network has made: rows, maps and contributions drawn at random, with a group planted into some classes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from camcli.output.journal import Header
from camcli.output.ledger import Ledger
from camcli.output.packed import pack_arrays
from camcli.output.root import Root
from camcli.output.writers import prediction_line
from camcli.records import Row, Stamp, Success
from tests.pictures import encoded, photo

SETTINGS = {
    "model": "resnet50", "weights": "DEFAULT", "fit": "crop", "style": "overlay", "topk": 1, "class-from": "folder",
    "save-maps": True, "maps-format": "parquet", "save-contributions": True,
}  # fmt: skip
_BLOCK = 500


def synthetic_run(
    out: Path, count: int, classes: int = 2, channels: int = 64, *, planted: int = 1, seed: int = 0, overlays: bool = False
) -> set[str]:
    """A finished run of ``count`` images in ``out``. Every third image of the first ``planted`` classes belongs to a group.

    Evidence of the group is in other channels and in a corner, and its images are surer and right. Returns their names.
    """
    random = np.random.default_rng(seed)
    (out / ".camcli" / "scratch").mkdir(parents=True)
    settings = {**SETTINGS, "inputs": str(out.parent / "imgs")}
    (out / ".camcli" / "journal.jsonl").write_bytes(Header(settings).line())
    ledger = Ledger(Root(str(out)), settings)
    centres = random.normal(0, 0.1, (classes, channels))
    mixing = random.normal(0, 0.05, (16, channels))
    first = out / "overlays" / "first.jpg"
    first.parent.mkdir()
    first.write_bytes(encoded(photo(1, (64, 48)), "JPEG"))
    marked: set[str] = set()
    outcomes = []
    for number in range(count):
        klass = number % classes
        name, image = f"class {klass:03}", f"class {klass:03}/{number:06}.jpg"
        is_marked = klass < planted and number // classes % 3 == 0
        values = centres[klass] + random.normal(size=16) @ mixing + random.normal(0, 0.02, channels)
        heat = np.abs(random.normal(0.3, 0.2, (7, 7)))
        heat[2:5, 2:5] += random.uniform(0.5, 1.0)
        right, p = bool(random.random() < 0.7), float(random.uniform(0.5, 0.9))
        if is_marked:
            values[:4] += 2.0
            heat = heat * 0.2
            heat[5:, :2] += 2.0
            right, p = True, float(random.uniform(0.95, 0.999))
            marked.add(image)
        label = name if right else f"class {(klass + 1) % classes:03}"
        overlay = f"overlays/{image}.1-{name.replace(' ', '-')}.jpg" if overlays else ""
        row = Row(
            image,
            1,
            klass,
            name,
            5 * p,
            p,
            name,
            p,
            "layer4",
            "gradcam",
            "ok",
            float(heat.max()),
            0,
            0,
            64,
            48,
            overlay,
            label,
            right,
        )
        if overlay:
            (out / "overlays" / name).mkdir(exist_ok=True)
            os.link(first, out / overlay)
        packed = (pack_arrays([(0, heat.astype(np.float32))]), pack_arrays([(0, values.astype(np.float16))]))
        outcomes.append(Success(image, Stamp(1, 1), (row,), lines=prediction_line(row), packed=packed))
        if len(outcomes) == _BLOCK or number == count - 1:
            ledger.append(outcomes)
            outcomes = []
    ledger.close()
    first.unlink()
    return marked
