"""The maps of runs against annotated objects: which objects belong to which map, and what the maps find of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from camcli.errors import InputError
from camcli.evaluate import localization
from camcli.evaluate.boxes import Annotations, Object
from camcli.evaluate.localization import Located
from camcli.evaluate.values import Key, Run, Values
from camcli.images.decode import decode_image
from camcli.output.journal import Entry
from camcli.output.maps import StoredMap, StoredMaps
from camcli.records import Box, Failure, count_words, escape_name, unescape_name
from camcli.source import Source

_LARGEST_SIDE = 1 << 30
_MOST_PIXELS = 178_000_000


@dataclass
class Coverage:
    """What could not be compared, for the messages: reason -> examples. ``maps``: number of maps that were compared."""

    maps: int = 0
    problems: dict[str, dict[str, None]] = field(default_factory=dict)

    def complain(self, reason: str, example: str) -> None:
        """Note an image, once for each reason."""
        self.problems.setdefault(reason, {})[escape_name(example)] = None

    def sentences(self) -> Iterator[str]:
        """A sentence for each reason."""
        for reason, examples in self.problems.items():
            yield f"{count_words(len(examples), 'image')} {reason}; the first is {next(iter(examples))}"


@dataclass(frozen=True)
class Settings:
    """``boxes``: annotated boxes, or None. ``masks``: a folder of masks, or None. ``tolerance``: of the pointing game, pixels."""

    boxes: Annotations | None
    masks: str | None
    tolerance: float


def add_localization(values: Values, runs: Sequence[Run], settings: Settings, on_progress: Callable[[int, int], None]) -> Coverage:
    """Add the metrics of localization to ``values``. Returns what could not be compared. Raises InputError without stored maps."""
    coverage = Coverage()
    images = {entry.image for run in runs for entry in run.ledger.entries.values() if not entry.stage}
    objects = _objects_of(settings.boxes, images, coverage) if settings.boxes is not None else {}
    for number, run in enumerate(runs):
        maps = StoredMaps(run.root, run.ledger)
        if not maps.has_maps:
            raise InputError(
                f"the run in {escape_name(run.path)!r} has stored no maps to compare with objects: run it with --save-maps."
            )
        for done, (entry, rows) in enumerate(run.explained(), 1):
            _add_image(values, number, entry, rows, maps, objects.get(entry.image, []), settings, coverage)
            on_progress(done, len(run.ledger.entries))
    return coverage


def _objects_of(found: Annotations, images: set[str], coverage: Coverage) -> dict[str, list[Object]]:
    """The objects by the names that the runs have for the images: the same name, else the same file name if it is unique."""
    by_file: dict[str, list[str]] = {}
    for image in images:
        by_file.setdefault(os.path.basename(image), []).append(image)
    objects: dict[str, list[Object]] = {}
    for name, own in found.objects.items():
        same = [name] if name in images else by_file.get(os.path.basename(name), [])
        if len(same) == 1:
            objects.setdefault(same[0], []).extend(own)
        else:
            coverage.complain(
                "annotated that no run has explained" if not same else "annotated whose name fits several images", name
            )
    return objects


def _add_image(
    values: Values,
    number: int,
    entry: Entry,
    rows: list[dict[str, str]],
    maps: StoredMaps,
    objects: Sequence[Object],
    settings: Settings,
    coverage: Coverage,
) -> None:
    masks: dict[str, np.ndarray | None] = {}
    for row, stored in zip(rows, maps.of_image(entry, rows), strict=True):
        seen, name = _seen(row), unescape_name(row["class_name"])
        own = [each for each in objects if _is_class(each.class_name, row)]
        if settings.masks is not None and name not in masks:
            masks[name] = _mask(settings.masks, entry.image, name, coverage)
        mask = masks.get(name)
        if settings.boxes is not None and not own:
            coverage.complain("without a box of the explained class", entry.image)
        if seen is None or not (own or mask is not None):
            continue
        if mask is not None and (mask.shape[0] < seen.y + seen.h or mask.shape[1] < seen.x + seen.w):
            coverage.complain("whose mask has another size", entry.image)
            mask = None
        if own and not _fits(settings.boxes, entry.image, seen):
            coverage.complain("whose annotation is for another size", entry.image)
            own = []
        try:
            found = localization.locate(None if stored is None else _read(stored), seen)
        except (FileNotFoundError, ValueError):  # any other error of reading ends the evaluation
            coverage.complain("whose map cannot be read", entry.image)
            continue
        if not own and mask is None:
            continue
        coverage.maps += 1
        key = Key(number, unescape_name(row["layer"]), unescape_name(row["method"]))
        for metric, value in _measure(found, own, mask, settings.tolerance).items():
            values.add(metric, key, entry.image, name, np.atleast_1d(value))


def _measure(
    found: Located, objects: Sequence[Object], mask: np.ndarray | None, tolerance: float
) -> Mapping[str, np.ndarray | float]:
    """The metrics of one map: those of boxes if there are boxes, else pointing and energy by the mask."""
    measured: dict[str, np.ndarray | float] = {}
    if objects:
        inside = localization.covered_by_boxes(found, objects)
        measured["pointing"] = localization.pointing(found, objects, tolerance)
        measured["energy"] = localization.energy(found, inside)
        measured["loc_error"] = localization.localization_error(found, objects)
        measured["maxboxacc"], measured["maxboxacc_v2"] = localization.box_hits(found, objects)
    if mask is not None:
        inside = localization.mask_samples(found, mask)
        if not objects:
            measured["pointing"] = localization.pointing_at_mask(found, mask, tolerance)
            measured["energy"] = localization.energy(found, inside)
        measured["pxap"] = localization.pixel_scores(found, inside, mask)
    return measured


def _read(stored: StoredMap) -> np.ndarray:
    return stored.read()


def _seen(row: Mapping[str, str]) -> Box | None:
    """The part of the image that the network saw; None if the cells are not possible."""
    x, y, w, h = (int(row[column]) for column in ("box_x", "box_y", "box_w", "box_h"))
    possible = min(x, y) >= 0 and min(w, h) > 0 and max(x + w, y + h) <= _LARGEST_SIDE
    return Box(x, y, w, h) if possible else None


def _fits(annotations: Annotations | None, image: str, seen: Box) -> bool:
    size = None if annotations is None else annotations.sizes.get(image) or annotations.sizes.get(os.path.basename(image))
    return size is None or (seen.x + seen.w <= size[0] and seen.y + seen.h <= size[1])


def _is_class(text: str, row: Mapping[str, str]) -> bool:
    """Whether an annotated class is the explained one: the same name, without regard to case, or the same index."""
    return _plain(text) == _plain(unescape_name(row["class_name"])) or text.strip() == row["class_index"]


def _plain(text: str) -> str:
    return " ".join(text.casefold().replace("_", " ").split())


def _mask(folder: str, image: str, class_name: str, coverage: Coverage) -> np.ndarray | None:
    """The mask (height, width) bool of an image: FOLDER/CLASS/image.png, else FOLDER/image.png; None if there is none."""
    safe = class_name if os.path.basename(class_name) == class_name and class_name not in ("", ".", "..") else None
    for top in (*([os.path.join(folder, safe)] if safe else []), folder):
        for name in (os.path.splitext(image)[0] + ".png", image + ".png"):
            if os.path.isfile(os.path.join(top, name)) and ".." not in name.split("/") and not name.startswith("/"):
                decoded = decode_image(Source(top, name), _MOST_PIXELS)
                if isinstance(decoded, Failure):
                    coverage.complain(f"whose mask cannot be read ({decoded.reason})", image)
                    return None
                mask = np.asarray(decoded.pixels.any(axis=2))
                if not mask.any():
                    coverage.complain("whose mask is empty", image)
                    return None
                return mask
    coverage.complain("without a mask", image)
    return None
