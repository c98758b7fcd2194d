"""The manifest of a report: the names of its files. No other file is removed when a report is rewritten or removed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterable

from camcli.documents import parse_json
from camcli.layout import REPORT_FOLDER, REPORT_MANIFEST, REPORT_MAPS, REPORT_PAGE, REPORT_ROWS, thumbnail_file
from camcli.output.files import is_report
from camcli.output.names import is_output_name
from camcli.output.root import Root

_MOST_LINE = 1 << 20
_SCRIPT = re.compile(r"rows\.js|maps/\d+\.js")


def report_names(root: Root) -> set[str]:
    """The files of the report in ``root``, without its page. Raises OSError.

    They are the files in the manifest and the scripts. Earlier versions wrote scripts without a manifest.
    """
    names: set[str] = set()
    with contextlib.suppress(FileNotFoundError), root.open(REPORT_MANIFEST) as file:
        while line := file.readline(_MOST_LINE):
            with contextlib.suppress(ValueError):
                name = parse_json(line)
                names.update([name] if isinstance(name, str) and _is_part(name) else [])
    scripts = itertools.chain([REPORT_ROWS], (f"{REPORT_MAPS}/{n}.js" for n in itertools.count()))
    return names | set(itertools.takewhile(root.exists, scripts))


def _is_part(name: str) -> bool:
    inner = name.removeprefix(f"{REPORT_FOLDER}/")
    return inner != name and (_SCRIPT.fullmatch(inner) is not None or (inner.startswith("thumbs/") and is_output_name(inner)))


def write_manifest(root: Root, names: Iterable[str]) -> None:
    """Write the names of the report's files, before they are written and after others are removed. Raises OutputError."""
    root.write_changed(REPORT_MANIFEST, b"".join(json.dumps(name).encode("ascii") + b"\n" for name in sorted(names)))


def remove_report(root: Root, overlays: Iterable[str] = ()) -> None:
    """Remove the report in ``root``, with the thumbnails of ``overlays``. Raises OSError."""
    if is_report(root):
        root.remove(REPORT_PAGE)
    remove_parts(root, report_names(root) | set(map(thumbnail_file, overlays)))
    root.remove(REPORT_MANIFEST)


def remove_parts(root: Root, names: Iterable[str]) -> None:
    """Remove the files ``names`` of a report, and folders that become empty. Raises OSError."""
    for name in names:
        root.remove(name)
    for folder in {os.path.dirname(name) for name in names}:
        root.remove_folder(folder)
