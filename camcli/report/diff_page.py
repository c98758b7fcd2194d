"""A comparison of two runs -> one HTML page. The page refers to the overlays of both runs and does not copy them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from camcli.errors import InputError, OutputError
from camcli.output.files import is_report
from camcli.output.root import Root
from camcli.output.writers import output_error, write_file
from camcli.records import escape_name
from camcli.report.data import Words
from camcli.report.scripts import filled_page, folder_urls, json_script, quoted
from camcli.report.thumbnails import current_thumbnail
from camcli.runs.diff import Change, Comparison

_SCRIPTS = ("base.js", "address.js", "grid.js", "shapes.js", "dialog.js", "diff.js")


def write_diff_page(found: Comparison, runs: tuple[str, str], page: str) -> None:
    """Write the comparison of the output folders ``runs`` to the file ``page``; an earlier page of camcli is replaced.

    The page shows thumbnails if ``camcli report`` has made them, otherwise the overlays. Raises as ``check_page`` does.
    """
    check_page(page)
    folder = os.path.dirname(os.path.abspath(page))
    write_file(page, diff_html(found, runs, folder).encode("utf-8"))


def check_page(page: str) -> None:
    """Raise InputError if ``page`` is not a possible HTML file, and OutputError if it is a file that camcli did not write."""
    folder = os.path.dirname(os.path.abspath(page))
    if os.path.isdir(page) or not os.path.isdir(folder) or not page.lower().endswith((".html", ".htm")):
        raise InputError(
            f"--report {escape_name(page)!r} is not a possible file: name an HTML file, such as changes.html, in an "
            "existing folder."
        )
    try:
        if os.path.lexists(page) and not is_report(Root(folder), os.path.basename(page)):
            raise OutputError(f"{escape_name(page)!r} was not written by camcli; choose another file.")
    except OSError as error:
        raise output_error(error.filename or page, error) from error


def diff_html(found: Comparison, runs: tuple[str, str], folder: str) -> str:
    """The HTML page for ``folder``, with styles, scripts and data inside."""
    data = {
        "runs": [escape_name(run) for run in runs],
        "urls": [folder_urls(run, folder)[0] for run in runs],
        "agreement": found.agreement,
        "correlation": found.correlation,
        "only": found.only,
        **_columns(found.changes, runs),
    }
    title = " and ".join(_names(runs))
    return filled_page("diff.html", ("report.css", "diff.css"), _SCRIPTS, title=title, data=Markup(json_script(data)))


def _names(runs: tuple[str, str]) -> tuple[str, str]:
    """Names of the two runs: the names of their folders, or their whole paths if the names are equal."""
    one, other = (os.path.abspath(run) for run in runs)
    if os.path.basename(one) != os.path.basename(other):
        one, other = os.path.basename(one), os.path.basename(other)
    return escape_name(one), escape_name(other)


def _columns(changes: Sequence[Change], runs: tuple[str, str]) -> dict[str, Any]:
    words = Words()
    columns: dict[str, Any] = {
        "names": [escape_name(change.image) for change in changes],
        "correlations": [_rounded(change.correlation) for change in changes],
        "overlaps": [_rounded(change.overlap) for change in changes],
    }
    for key in ("predicted", "explained"):
        columns[key] = [[words.number(escape_name(getattr(change, key)[side])) for change in changes] for side in (0, 1)]
    columns["probabilities"] = [[_rounded(change.probability[side]) for change in changes] for side in (0, 1)]
    columns["overlays"] = [[quoted(change.overlays[side]) for change in changes] for side in (0, 1)]
    columns["thumbs"] = [
        [quoted(current_thumbnail(Root(run), change.overlays[side])) if change.overlays[side] else "" for change in changes]
        for side, run in enumerate(runs)
    ]
    return {"words": list(words.numbers), **columns}


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 5)
