"""Values -> pages and script files. A page that is opened from disk cannot fetch data, but it can load scripts."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib import resources
from typing import Any, TypeGuard
from urllib.parse import quote

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from camcli import __version__

_ESCAPES = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})


def json_script(value: Any) -> str:
    """``value`` as JSON that is safe anywhere in a page: it cannot open or close a tag, or break a line of a script."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)


def quoted(name: str) -> str:
    """The path of a file as part of a URL: all bytes except letters, digits, ``_.-~`` and ``/`` are percent-encoded."""
    return quote(os.fsencode(name), safe="/")


def is_file_name(value: Any) -> TypeGuard[str]:
    """Whether a value from a document is a text that can be the path of a file or folder."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:  # a lone surrogate that represents no byte
        return False
    return True


def folder_urls(folder: str, seen_from: str) -> list[str]:
    """URLs of ``folder`` for a page in ``seen_from``, the preferred one first; each ends with a slash.

    If both have a common parent folder, a relative URL comes first, so that they can be moved together.
    """
    absolute = f"file://{quoted(os.path.abspath(folder)).rstrip('/')}/"
    common = os.path.commonpath([os.path.abspath(folder), os.path.abspath(seen_from)])
    if common == os.path.abspath(os.sep):
        return [absolute]
    return [f"{quoted(os.path.relpath(folder, seen_from))}/", absolute]


def filled_page(template: str, styles: Sequence[str], scripts: Sequence[str], **values: Any) -> str:
    """The page ``template`` with ``styles`` and ``scripts`` inside, all from the folder ``page``; ``values`` are escaped."""
    loader = FunctionLoader(_resource)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    style, program = (Markup("\n".join(map(_resource, names))) for names in (styles, scripts))
    return environment.get_template(template).render(version=__version__, style=style, program=program, **values)


def _resource(name: str) -> str:
    return resources.files("camcli.report").joinpath("page", name).read_text(encoding="utf-8")
