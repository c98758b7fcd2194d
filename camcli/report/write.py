"""The report of a run, written into its folder: page, data, thumbnails; what is there and the same is left alone."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from camcli.errors import InputError, OutputError
from camcli.machine import available_cores
from camcli.output.checks import check_one_look, read_record
from camcli.output.files import is_report, report_files
from camcli.output.journal import read_settings
from camcli.output.ledger import Ledger, journal_path
from camcli.output.locks import undisturbed
from camcli.output.verify import run_folders
from camcli.output.writers import output_error, write_whole
from camcli.records import REPORT_FOLDER, REPORT_PAGE, RUN_MARKER, shown
from camcli.report.data import Gathered, gather
from camcli.report.scripts import filled_page, json_script
from camcli.report.thumbnails import make_thumbnails, thumbnail_of

_SCRIPTS = ("base.js", "state.js", "grid.js", "cards.js", "shapes.js", "charts.js", "values.js", "dialog.js", "view.js", "main.js")
"""In the order in which they need one another."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a report shows and what it took: ``thumbnails`` made anew, ``pictureless`` overlays that are missing or damaged,
    ``damaged`` images whose rows are. ``page`` is None where it was stopped before the page was written.
    """

    page: str | None
    images: int
    maps: int
    failures: int
    thumbnails: int
    pictureless: int
    damaged: int


def report_run(path: str, stop: threading.Event | None = None) -> Report:
    """Write the report of the run in the folder ``path``, whose lock it takes. Raises InUseError, and as ``write_report`` does.

    InputError too where the folder holds parts of a run only.
    """
    if run_folders(path)[0] != path:
        raise InputError(f"{shown(path)!r} holds parts of a run: join them with camcli merge, or report each part's folder.")
    with undisturbed(path, f"a run is writing into {shown(path)!r}; report on it when that has ended."):
        return write_report(path, stop)


def write_report(path: str, stop: threading.Event | None = None) -> Report:
    """Write the report of the run in the folder ``path``, whose lock is held. ``stop``, once set, ends it before the page.

    Raises InputError where the folder holds no run, SettingsError where another program has rewritten a table or the overlays are
    of two kinds, OutputError.
    """
    stop = stop or threading.Event()
    page = os.path.join(path, REPORT_PAGE)
    settings = read_settings(journal_path(path))
    if settings is None:
        raise InputError(f"{shown(path)!r} holds no run of camcli, or its journal is damaged.")
    check_one_look(path)
    try:
        if os.path.lexists(page) and not is_report(page):
            raise OutputError(f"{shown(page)!r} is not a report of camcli; move it away first.")
        os.makedirs(os.path.join(path, RUN_MARKER, "scratch"), exist_ok=True)
        ledger = Ledger(path, settings)
        ledger.load()
        found = gather(path, ledger)
    except OSError as error:
        raise output_error(error.filename or page, error) from error
    thumbnails = make_thumbnails(path, found.overlays, available_cores(), stop)
    if not stop.is_set():
        _write_page(path, found, settings)
    return Report(
        None if stop.is_set() else page,
        len(found.images["name"]) - len(found.failures["image"]),
        len(found.rows["image"]),
        len(found.failures["image"]),
        thumbnails.made,
        thumbnails.impossible,
        found.damaged,
    )


def _write_page(path: str, found: Gathered, settings: Mapping[str, Any]) -> None:
    """Data first, the page last; then remove what an earlier report had and this one has not."""
    record = read_record(path)
    files = dict(_data_files(found, settings, record, path))
    files[REPORT_PAGE] = page_html(_title(path), record, settings).encode("utf-8")
    try:
        for name, data in files.items():
            _write_changed(path, name, data)
        named = {*files, *map(thumbnail_of, found.overlays)}
        for name in list(report_files(path)):
            if name not in named:
                os.unlink(os.path.join(path, name))
        for folder, _, _ in os.walk(os.path.join(path, REPORT_FOLDER), topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
    except OSError as error:
        raise output_error(error.filename or path, error) from error


def _data_files(found: Gathered, settings: Mapping[str, Any], record: Mapping[str, Any], path: str) -> Iterator[tuple[str, bytes]]:
    for number, chunk in enumerate(found.maps.chunks):
        name = os.path.join(REPORT_FOLDER, "maps", f"{number}.js")
        yield name, f"camcliMaps({number},{json_script(chunk)});\n".encode()
    data = json_script(found.as_json(settings, record, path))
    yield os.path.join(REPORT_FOLDER, "rows.js"), f"var camcliData={data};\n".encode()


def _write_changed(path: str, name: str, data: bytes) -> None:
    target = os.path.join(path, name)
    with contextlib.suppress(FileNotFoundError), open(target, "rb") as file:
        if file.read() == data:
            return
    write_whole(target, data, os.path.join(path, RUN_MARKER, "scratch"))


def _title(path: str) -> str:
    return shown(os.path.basename(os.path.abspath(path)) or path)


def page_html(title: str, record: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The page: style and scripts within, the data beside it. ``record``: ``run.json``."""
    model = record.get("model", {})
    return filled_page(
        "report.html",
        ("report.css",),
        _SCRIPTS,
        title=title,
        model=shown(str(model.get("name", settings.get("model", "")))),
        weights=shown(str(model.get("weights", settings.get("weights", "")))),
        finished=record.get("state") == "finished",
    )
