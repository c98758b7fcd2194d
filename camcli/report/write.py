"""Write the report of a run into its folder: page, data and thumbnails. Files that have not changed are not written again."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from camcli.errors import InputError, OutputError
from camcli.images.limits import pillow_unlimited
from camcli.layout import REPORT_FOLDER, REPORT_PAGE, SCRATCH, thumbnail_file
from camcli.output.checks import check_kinds
from camcli.output.files import is_report
from camcli.output.journal import read_header
from camcli.output.ledger import Ledger
from camcli.output.locks import undisturbed
from camcli.output.manifest import remove_parts, report_names, write_manifest
from camcli.output.record import read_record
from camcli.output.redrawing import check_one_look
from camcli.output.root import Root
from camcli.output.writers import output_error
from camcli.records import escape_name
from camcli.report.about import about_run
from camcli.report.data import Gathered, gather
from camcli.report.scripts import filled_page, json_script
from camcli.report.thumbnails import make_thumbnails
from camcli.resources import available_cores
from camcli.runs.verify import run_folders

_IN_SCRIPTS = "backslashreplace"
"""Error handler for lone surrogates, which UTF-8 cannot encode: they become escapes of JavaScript."""

_SCRIPTS = (
    "base.js", "address.js", "state.js", "grid.js", "cards.js", "shapes.js", "charts.js", "values.js", "dialog.js", "view.js",
    "main.js",
)  # fmt: skip
"""In the order of their dependencies."""


@dataclass(frozen=True, slots=True)
class Report:
    """A written report. ``page``: its path, None if it was stopped before the page was written. ``thumbnails``: number made now.

    ``pictureless``: overlays without a thumbnail. ``damaged``: images that are left out because their rows are damaged.
    """

    page: str | None
    images: int
    maps: int
    failures: int
    thumbnails: int
    pictureless: int
    damaged: int


@pillow_unlimited()
def report_run(path: str, stop: threading.Event | None = None) -> Report:
    """Write the report of the run in the folder ``path``, holding its lock. Raises as ``write_report`` does.

    Also raises InUseError, and InputError if the folder holds only shards of a run.
    """
    root = run_folders(path)[0]
    if root.path != os.path.abspath(path):
        raise InputError(
            f"{escape_name(path)!r} holds shards of a run: combine them with camcli merge, or report on the folder of a shard."
        )
    check_kinds(root)
    with undisturbed(root, f"a run is writing into {escape_name(path)!r}; run camcli report when it has finished."):
        return write_report(root, stop)


def write_report(root: Root, stop: threading.Event | None = None) -> Report:
    """Write the report of the run in ``root``; the caller holds its lock. If ``stop`` is set, no page is written.

    Raises InputError if the folder holds no run, SettingsError if another program has changed a table or if the overlays have two
    different looks, and OutputError.
    """
    stop = stop or threading.Event()
    try:
        header = read_header(root)
        if header is None:
            raise InputError(f"{escape_name(root.path)!r} holds no run of camcli, or its journal is damaged.")
        check_one_look(root)
        if root.exists(REPORT_PAGE) and not is_report(root):
            raise OutputError(f"{escape_name(root.at(REPORT_PAGE))!r} was not written by camcli; move it away first.")
        root.make_folder(SCRATCH)
        root.clear_scratch()
        ledger = Ledger(root, header.settings, header.redrawn)
        ledger.load()
        found = gather(root, ledger)
        earlier = report_names(root)
        write_manifest(root, earlier | set(map(thumbnail_file, found.overlays)))
    except OSError as error:
        raise output_error(error.filename or root.at(REPORT_PAGE), error) from error
    thumbnails = make_thumbnails(root, found.overlays, available_cores(), stop)
    if not stop.is_set():
        _write_page(root, found, header.current, earlier)
    return Report(
        None if stop.is_set() else root.at(REPORT_PAGE),
        len(found.images["name"]) - len(found.failures["image"]),
        len(found.rows["image"]),
        len(found.failures["image"]),
        thumbnails.made,
        thumbnails.impossible,
        found.damaged,
    )


def _write_page(root: Root, found: Gathered, settings: Mapping[str, Any], earlier: set[str]) -> None:
    """Write the data first and the page last, then remove files that only the ``earlier`` report had."""
    record = read_record(root)
    files = dict(_data_files(found, settings, record, root.path))
    page = page_html(_title(root.path), record, settings, found).encode("utf-8")
    named = {*files, *map(thumbnail_file, found.overlays)}
    try:
        write_manifest(root, earlier | named)
        for name, data in {**files, REPORT_PAGE: page}.items():
            root.write_changed(name, data)
        remove_parts(root, earlier - named)
        write_manifest(root, named)
    except OSError as error:
        raise output_error(error.filename or root.path, error) from error


def _data_files(found: Gathered, settings: Mapping[str, Any], record: Mapping[str, Any], path: str) -> Iterator[tuple[str, bytes]]:
    for number, chunk in enumerate(found.maps.chunks):
        name = f"{REPORT_FOLDER}/maps/{number}.js"
        yield name, f"camcliMaps({number},{json_script(chunk)});\n".encode("utf-8", _IN_SCRIPTS)
    data = json_script(found.as_json(settings, record, path))
    yield f"{REPORT_FOLDER}/rows.js", f"var camcliData={data};\n".encode("utf-8", _IN_SCRIPTS)


def _title(path: str) -> str:
    return escape_name(os.path.basename(os.path.abspath(path)) or path)


def page_html(title: str, record: Mapping[str, Any], settings: Mapping[str, Any], found: Gathered | None = None) -> str:
    """The HTML page with styles and scripts inside; the data is in a file of its own. ``found``: the contents of the tables."""
    layers, methods = ([], []) if found is None else (found.used("layer"), found.used("method"))
    about = about_run(record, settings, layers, methods)
    return filled_page("report.html", ("report.css",), _SCRIPTS, title=title, about=about)
