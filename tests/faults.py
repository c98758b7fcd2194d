"""Albums and networks for tests of faults, and what must hold whatever happens.

``violations_of_always`` after a fault, and ``differences`` to a run that nothing disturbed when the same command has come to
its end.
"""

from __future__ import annotations

import collections
import csv
import io
import json
import os
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from camcli.images.jpeg import check_jpeg_end
from camcli.records import unescape_name
from tests.networks import Brightness, brightness
from tests.pictures import noise


def slow() -> torch.nn.Module:
    """Sleeps for half a minute in a batch of three, after it has made the file that FAULTS_ASLEEP names."""

    class Slow(Brightness):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) == 3:
                Path(os.environ["FAULTS_ASLEEP"]).touch()
                time.sleep(30)
            return super().forward(x)

    return Slow(brightness().preprocess)


def sluggish() -> torch.nn.Module:
    """Sleeps for FAULTS_SLEEP seconds in each pass, and has forty channels that differ; the file FAULTS_ASLEEP counts passes."""

    class Sluggish(Brightness):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with open(os.environ.get("FAULTS_ASLEEP", os.devnull), "ab") as file:
                file.write(b".")
            time.sleep(float(os.environ.get("FAULTS_SLEEP", "0")))
            return super().forward(x)

    module = Sluggish(brightness().preprocess)
    generator = torch.Generator().manual_seed(1)
    module.cells = torch.nn.Conv2d(3, 40, 8, stride=8, bias=False)
    module.cells.weight.data[:] = torch.rand(module.cells.weight.shape, generator=generator) / 192
    module.head = torch.nn.Linear(40, 2, bias=False)
    module.head.weight.data[:] = torch.rand((2, 40), generator=generator)
    return module


def has_told(out: Path) -> bool:
    """Whether the last run in ``out`` came to its end, and so told of every failure."""
    try:
        return bool(json.loads((out / "run.json").read_bytes())["state"] == "finished")
    except OSError:
        return False


def counting() -> torch.nn.Module:
    """Adds a byte for each image that it sees to the file that FAULTS_SEEN names."""

    class Counting(Brightness):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with open(os.environ.get("FAULTS_SEEN", os.devnull), "ab") as file:
                file.write(b"." * len(x))
            return super().forward(x)

    return Counting(brightness().preprocess)


def noise_file(seed: int, size: tuple[int, int], kind: str = ".jpg") -> bytes:
    """An image file of random pixels. ``size``: (width, height)."""
    return cv2.imencode(kind, noise(seed, size))[1].tobytes()


def fill_album(folder: Path, count: int, *, largest: int = 400, seed: int = 0) -> None:
    """``count`` files in a small tree: JPEG and PNG of many sizes, and every ninth broken in one of four ways."""
    random = np.random.default_rng(seed)
    for k in range(count):
        place = folder / ("", "sub", "sub/deeper")[k % 3]
        place.mkdir(parents=True, exist_ok=True)
        kind = ".png" if k % 5 == 0 else ".jpg"
        data = noise_file(k, tuple(int(side) for side in random.integers(16, largest, 2)), kind)
        if k % 9 == 4:
            data = (data[: len(data) // 2], b"this is no picture\n", b"", bytes(500))[k // 9 % 4]
        (place / f"{k:04d}{kind}").write_bytes(data)


def fill_with_copies(folder: Path, count: int, *, contents: int = 300) -> None:
    """``count`` JPEGs of 32 x 32 pixels, a thousand to a folder, of ``contents`` different pictures."""
    pictures = [noise_file(seed, (32, 32)) for seed in range(contents)]
    for k in range(count):
        if k % 1000 == 0:
            (folder / f"{k // 1000:03d}").mkdir(parents=True)
        (folder / f"{k // 1000:03d}" / f"{k:06d}.jpg").write_bytes(pictures[k % contents])


def rows_of(table: Path) -> list[dict[str, str]]:
    """The complete rows of a table: those that end with a newline."""
    try:
        data = table.read_bytes()
    except FileNotFoundError:
        return []
    whole = data[: data.rfind(b"\n") + 1].decode("utf-8")
    return list(csv.DictReader(io.StringIO(whole, newline="")))


def _key(row: dict[str, str]) -> tuple[str, ...]:
    return row["image"], row["class_index"], row["layer"], row["method"]


def files_below(folder: Path) -> dict[str, Path]:
    """Every file below ``folder`` by its relative path."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


class Whole:
    """Says which JPEGs are torn; a file that was found whole is not decoded again until it changes."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int, int]] = {}

    def torn(self, folder: Path) -> list[str]:
        """The JPEGs below ``folder`` that do not decode from their first to their last byte."""
        return [name for name, path in files_below(folder).items() if name.endswith(".jpg") and not self._is_whole(path)]

    def _is_whole(self, path: Path) -> bool:
        status = path.stat()
        signature = status.st_ino, status.st_size, status.st_mtime_ns
        if self._known.get(str(path)) == signature:
            return True
        try:
            data = path.read_bytes()
            check_jpeg_end(data)
            if cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is None:
                return False
        except Exception:
            return False
        self._known[str(path)] = signature
        return True


def violations_of_always(out: Path, whole: Whole | None = None, gone: frozenset[str] = frozenset()) -> list[str]:
    """What is wrong with an output folder at any moment of its life. ``gone``: overlays that the test itself deleted."""
    found = [f"torn: {name}" for name in (whole or Whole()).torn(out / "overlays")]
    rows, failures = rows_of(out / "predictions.csv"), rows_of(out / "failures.csv")
    for row in rows:
        overlay = unescape_name(row["overlay"] or "")
        if overlay and overlay not in gone and not (out / overlay).is_file():
            found.append(f"a row without its overlay: {overlay}")
    counts = collections.Counter(map(_key, rows)) + collections.Counter((row["image"],) for row in failures)
    found += [f"recorded {number} times: {key}" for key, number in counts.items() if number > 1]
    both = {row["image"] for row in rows} & {row["image"] for row in failures}
    return found + [f"explained and failed: {name}" for name in sorted(both)]


_NUMBERS = ("logit", "probability", "predicted_probability", "peak")


def differences(out: Path, expected: Path, *, same_bytes: bool = True) -> list[str]:
    """What distinguishes a finished output folder from that of an undisturbed run (EQ); empty where they are equal.

    ``same_bytes``: of the overlays; without, only their names count.
    """
    found: list[str] = []
    ours, theirs = rows_of(out / "predictions.csv"), rows_of(expected / "predictions.csv")
    if list(map(_key, ours)) != list(map(_key, theirs)):
        changed = set(map(_key, ours)) ^ set(map(_key, theirs))
        return [f"other rows, or in another order: {sorted(changed)[:5]} ({len(ours)} rows instead of {len(theirs)})"]
    for mine, other in zip(ours, theirs, strict=True):
        near = all(abs(float(mine[name]) - float(other[name])) <= 1e-4 for name in _NUMBERS)
        equal = all(mine[name] == other[name] for name in mine if name not in _NUMBERS)
        if not (near and equal):
            found.append(f"another row of {mine['image']}: {mine} instead of {other}")
    if rows_of(out / "failures.csv") != rows_of(expected / "failures.csv"):
        found.append(f"other failures: {rows_of(out / 'failures.csv')} instead of {rows_of(expected / 'failures.csv')}")
    found += _other_overlays(out / "overlays", expected / "overlays", same_bytes)
    found += [f"left behind: {name}" for name in leftovers(out)]
    record, wanted = (json.loads((folder / "run.json").read_text()) for folder in (out, expected))
    if (record["state"], record["images"]) != ("finished", wanted["images"]):
        found.append(f"run.json says {record['state']}, {record['images']} instead of {wanted['images']}")
    return found


def _other_overlays(ours: Path, theirs: Path, same_bytes: bool) -> list[str]:
    mine, other = files_below(ours), files_below(theirs)
    found = [f"overlay too much or missing: {name}" for name in sorted(mine.keys() ^ other.keys()) if "mine" not in name]
    if same_bytes:
        both = mine.keys() & other.keys()
        found += [f"another overlay: {name}" for name in sorted(both) if mine[name].read_bytes() != other[name].read_bytes()]
    return found


def leftovers(out: Path) -> list[str]:
    """Temporary files that a run has left in its output folder."""
    scratch = out / ".camcli" / "scratch"
    found = [str(path.relative_to(out)) for path in scratch.rglob("*")] if scratch.is_dir() else []
    found += [name for name in ("draft", "exchange") if (out / ".camcli" / name).exists()]
    known = {
        ".camcli",
        "overlays",
        "maps",
        "predictions.csv",
        "failures.csv",
        "predictions.parquet",
        "maps.parquet",
        "run.json",
        "notes.txt",
    }
    return found + [path.name for path in out.iterdir() if path.name not in known] if out.is_dir() else found
