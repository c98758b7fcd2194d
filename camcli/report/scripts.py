"""Values -> pages and their script files: a page that is opened from disk may not fetch, but it may load scripts."""

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
    """``value`` as JSON that may stand anywhere in a page: nothing in it can end or open a tag, or break a line of a script."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)


def quoted(name: str) -> str:
    """The path of a file as part of a URL: every byte but letters, digits, ``_.-~`` and ``/`` percent-encoded."""
    return quote(os.fsencode(name), safe="/")


def is_file_name(value: Any) -> TypeGuard[str]:
    """Whether a value out of a document is a text that a file or folder can have as its path."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return False
    return True


def folder_urls(folder: str, seen_from: str) -> list[str]:
    """URLs under which a page in ``seen_from`` may find the files of ``folder``, the best first; each ends in a slash.

    A relative one comes first where both have a place in common, so that they can be moved together.
    """
    absolute = f"file://{quoted(os.path.abspath(folder)).rstrip('/')}/"
    common = os.path.commonpath([os.path.abspath(folder), os.path.abspath(seen_from)])
    if common == os.path.abspath(os.sep):
        return [absolute]
    return [f"{quoted(os.path.relpath(folder, seen_from))}/", absolute]


def filled_page(template: str, styles: Sequence[str], scripts: Sequence[str], **values: Any) -> str:
    """The page ``template`` with ``styles`` and ``scripts`` within it, all of the folder ``page``; ``values`` are escaped."""
    loader = FunctionLoader(_resource)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    style, program = (Markup("\n".join(map(_resource, names))) for names in (styles, scripts))
    return environment.get_template(template).render(version=__version__, style=style, program=program, **values)


def _resource(name: str) -> str:
    return resources.files("camcli.report").joinpath("page", name).read_text(encoding="utf-8")
