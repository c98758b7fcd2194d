"""The folder of a study: page, tables and record. All files are replaced at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from camcli import __version__
from camcli.cluster.config import ClusterConfig
from camcli.cluster.flags import FLAGS
from camcli.cluster.page import channel_facts, group_facts, page_data, page_html, script_of
from camcli.cluster.read import Collection
from camcli.cluster.study import WRITTEN_COMPONENTS, ClassResult, Study
from camcli.documents import parse_json
from camcli.errors import OutputError
from camcli.layout import JOURNAL, OUTPUT_NAMES, OWN
from camcli.output.checks import check_place, refuse_differences, with_defaults
from camcli.output.exchange import current_place, exchange_files, finish_exchange
from camcli.output.locks import claimed, undisturbed
from camcli.output.record import refuse_newer_format
from camcli.output.root import Root
from camcli.output.writers import csv_line, json_bytes, table_line
from camcli.records import escape_name

IMAGES, GROUPS, DATA, PAGE = "clusters.csv", "groups.csv", "clusters.js", "clusters.html"
TESTS, TESTS_SCRIPT, RECORD = "tests.json", "tests.js", "clusters.json"

FILES = (IMAGES, GROUPS, DATA, PAGE, TESTS, TESTS_SCRIPT, RECORD)
"""The files of a study, in the order of writing."""

FORMAT = 1
"""Format of ``clusters.json``."""

DEFAULT_FOLDER = "clusters"

_START = "run", "image", "class", "group", "distance", "x", "y"
IMAGE_COLUMNS = (*_START, *(f"component_{number}" for number in range(1, WRITTEN_COMPONENTS + 1)))
GROUP_COLUMNS = ("class", "group", "images", "share", "silhouette", "accuracy", "accuracy_outside", "confidence",
                 "confidence_outside", "suspicion", "suspected", "flags", "typical", "channels")  # fmt: skip


def folder_of(paths: Sequence[str], config: ClusterConfig) -> str:
    """The folder of the study of the runs in ``paths``."""
    return os.path.join(paths[0], DEFAULT_FOLDER) if config.output is None else config.output


@contextmanager
def quiet_runs(paths: Sequence[str]) -> Iterator[None]:
    """Context in which no other process may write into the runs in ``paths``. Raises InUseError and InputError."""
    from camcli.runs.verify import run_folders

    with ExitStack() as stack:
        for path in paths:
            run_folders(path)
            words = f"a run is writing into {escape_name(path)!r}; group its images when it has finished."
            stack.enter_context(undisturbed(Root(path), words, read_only=True))
        yield


def study_settings(config: ClusterConfig, paths: Sequence[str]) -> dict[str, Any]:
    """The settings that a folder's study must have to be the same: options, and the runs, as seen from the folder."""
    place = os.path.abspath(folder_of(paths, config))
    return {**config.settings(), "runs": [os.path.relpath(path, place) for path in paths]}


def contents_digest(paths: Sequence[str]) -> str:
    """SHA-256 of the journals of the runs in ``paths``: another one means that rows have changed."""
    digest = hashlib.sha256()
    for path in paths:
        root = Root(path)
        with root.open(current_place(root, JOURNAL)) as file:
            while part := file.read(1 << 20):
                digest.update(part)
    return digest.hexdigest()


@contextmanager
def study_folder(path: str, settings: Mapping[str, Any], *, overwrite: bool) -> Iterator[dict[str, Any] | None]:
    """Context that holds the lock of the folder ``path``; yields the record of a complete study with these settings, or None.

    Raises OutputError if the folder cannot be written or holds other files, InUseError if another process is writing into it, and
    SettingsError if it holds a study with other settings and ``overwrite`` is not set.
    """
    root = Root(path)
    check_place(root.path)
    _refuse_others(root)
    with claimed(root, "camcli cluster", lambda: any(map(root.exists, FILES))):
        finish_exchange(root, FILES)
        record = read_study(root)
        if record is not None and not overwrite:
            refuse_newer_format(root.path, record, record.get("format"), FORMAT)
            refuse_differences(root.path, with_defaults(record["settings"], settings, ClusterConfig), settings)
        yield None if overwrite else record


def _refuse_others(root: Root) -> None:
    """Raise OutputError if ``root`` holds a run, or files with our names that camcli did not write."""
    if not os.path.isdir(root.path):
        return
    ours = root.is_folder(OWN)
    foreign = [name for name in (FILES if not ours else OUTPUT_NAMES) if root.exists(name)]
    if foreign:
        what = "a run of camcli" if ours else f"{', '.join(foreign)}, which camcli did not write"
        raise OutputError(f"{escape_name(root.path)!r} holds {what}; choose another folder with --output.")


def read_study(root: Root) -> dict[str, Any] | None:
    """The record of the study in ``root``; None if there is none, or if one of its files is missing."""
    try:
        record = parse_json(root.read(RECORD))
        whole = all(map(root.size, FILES))
    except (OSError, ValueError):
        return None
    return record if whole and isinstance(record, dict) and _is_study(record) else None


def _is_study(record: dict[str, Any]) -> bool:
    """Whether a record has what the command shows of it; a stranger may have written it."""
    left_out, classes = record.get("left_out"), record.get("classes")
    if not isinstance(record.get("settings"), dict) or not isinstance(left_out, dict) or not isinstance(classes, list):
        return False
    paths = record.get("paths")
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        return False
    if type(left_out.get("damaged")) is not int or not all(isinstance(each, dict) for each in classes):
        return False
    groups = [group for each in classes for group in each.get("groups") or ()]
    return all(isinstance(each.get("class"), str) for each in classes) and all(map(_is_group, groups))


def _is_group(group: Any) -> bool:
    if not isinstance(group, dict) or not isinstance(group.get("flags"), dict):
        return False
    numbers = all(type(group.get(key)) is int for key in ("group", "images")) and type(group.get("suspected")) is bool
    keys = ("share", "silhouette", "accuracy", "confidence")
    return numbers and all(group.get(key, "") is None or type(group.get(key, "")) in (int, float) for key in keys)


def read_tests(root: Root) -> dict[str, Any]:
    """The results of tests in ``root``: number of the group -> result."""
    try:
        found = parse_json(root.read(TESTS))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_study(path: str, study: Study, found: Collection, config: ClusterConfig, head: Mapping[str, Any]) -> dict[str, Any]:
    """Write all files of a study into the folder ``path`` at once, without tests. Returns its record. Raises OutputError.

    ``head``: what the record says besides the results.
    """
    record = {
        "camcli": __version__,
        "format": FORMAT,
        **head,
        "layer": found.layer,
        "method": found.method,
        "left_out": {"small_classes": study.small, "damaged": study.damaged, "without_row": found.without},
        "classes": [_class_record(result) for result in study.classes],
    }
    title = escape_name(os.path.basename(os.path.abspath(found.runs[0].path)))
    contents = {
        IMAGES: _image_table(study, found),
        GROUPS: _group_table(study),
        DATA: script_of("camcliClusters", page_data(study, found, config, os.path.abspath(path))),
        PAGE: page_html(title),
        TESTS: json_bytes({}),
        TESTS_SCRIPT: script_of("camcliTests", {}),
        RECORD: json_bytes(record),
    }
    exchange_files(Root(path), contents)
    return record


def write_tests(path: str, tests: Mapping[str, Any]) -> None:
    """Replace the results of tests in the folder ``path``. Raises OutputError."""
    exchange_files(Root(path), {TESTS: json_bytes(tests), TESTS_SCRIPT: script_of("camcliTests", tests)})


def _class_record(result: ClassResult) -> dict[str, Any]:
    return {
        "class": result.name,
        "images": len(result.items),
        "dense": result.grouping.dense,
        "without_group": int((result.grouping.labels < 0).sum()),
        "components": [] if result.components is None else [float(f"{share:.5g}") for share in result.components.shares],
        "groups": [
            {
                **group_facts(group),
                "flags": dict(group.flags),
                "typical": [result.items[image].entry.image for image in group.typical],
                "untypical": [result.items[image].entry.image for image in group.untypical],
                "mean_map": None
                if group.mean_map is None
                else [[float(f"{value:.5g}") for value in row] for row in group.mean_map],
                "channels": [
                    {**channel_facts(channel), "images": [result.items[image].entry.image for image in channel.images]}
                    for channel in group.channels
                ],
            }
            for group in result.groups
        ],
    }


def _image_table(study: Study, found: Collection) -> bytes:
    """The contents of ``clusters.csv``: a row for each image."""
    lines = [csv_line(IMAGE_COLUMNS)]
    for result in study.classes:
        numbers = {group.label: group.number for group in result.groups}
        logits = None if result.components is None else result.components.logits[:, :WRITTEN_COMPONENTS]
        for image, item in enumerate(result.items):
            scores: list[float | None] = [] if logits is None else [float(value) for value in logits[image]]
            scores += [None] * (WRITTEN_COMPONENTS - len(scores))
            label = int(result.grouping.labels[image])
            x, y = (float(value) for value in result.places[image])
            facts = (found.runs[item.run].path, item.entry.image, item.class_name, numbers.get(label))
            lines.append(table_line((*facts, float(result.grouping.distances[image]), x, y, *scores)))
    return b"".join(lines)


def _group_table(study: Study) -> bytes:
    """The contents of ``groups.csv``: a row for each group, the most suspicious first."""
    lines = [csv_line(GROUP_COLUMNS)]
    for result, group in study.groups:
        facts = {**group_facts(group), "class": result.name}
        facts["flags"] = "; ".join(f"{FLAGS[flag]} ({figures})" for flag, figures in group.flags.items())
        facts["typical"] = result.items[group.typical[0]].entry.image
        facts["channels"] = " ".join(str(channel.index) for channel in group.channels)
        lines.append(table_line(tuple(facts[column] for column in GROUP_COLUMNS)))
    return b"".join(lines)
