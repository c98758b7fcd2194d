"""Inputs -> sources: which files are images, in which order, under which name.

Policy: folders are walked recursively and in sorted order; names that start with a dot are left out; in a folder a file
is an image by its extension, while a file named on the command line is always tried. Links to files are followed unless
what they point to is itself among the sources; links to folders are not followed, so a walk always ends. Of a folder that
holds a run of camcli, its overlays and maps are left out, so that no run explains those of another.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from camcli.errors import InputError, RunError
from camcli.layout import OUTPUT_FOLDERS, OWN, SANITY_PICTURES
from camcli.records import Source, escape_name

EXTENSIONS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif"})
"""Lower case; what counts as an image when a folder is walked."""

_LONGEST_PATH = 4096
"""Bytes, and so at least as many characters, that Linux takes; other systems take fewer."""


def discover_sources(inputs: Sequence[str], output: str) -> list[Source]:
    """Every image below ``inputs``, in input order, each once.

    A source's name is its path below the one folder given; with several inputs, below the deepest folder common to all.
    A folder that cannot be read is a source too, so that it ends as a failure and not in silence. ``output`` is the run's
    own folder, whose overlays and maps are left out. Raises InputError when an input is missing or nothing is found, RunError
    where Python does not read file names as UTF-8.
    """
    _refuse_other_encodings()
    for given in inputs:
        if not os.path.lexists(given):
            raise InputError(f"there is no file or folder {escape_name(given)!r}.")
    paths = _each_folder_once(inputs, forgiving=False)
    root = os.path.commonpath([path if is_folder else os.path.dirname(path) for path, is_folder in paths.items()])
    sources = _sources(paths, root, output, forgiving=False)
    if not sources:
        given_words = ", ".join(repr(escape_name(given)) for given in inputs)
        raise InputError(
            f"nothing to do: no image in {given_words}. Looked for {' '.join(sorted(EXTENSIONS))}; hidden files are left out."
        )
    return sources


def listed_sources(paths: Iterable[str], output: str) -> list[Source]:
    """Every image of a list that another program made: as ``discover_sources``, but a path that is not there is a source too.

    It ends as a failure and stops nothing. Overlays and maps of a run are left out here too. A source's name is its path below
    the current folder; where one path lies outside it, those of all begin at the root of the file system. Raises InputError when
    nothing is found, RunError where Python does not read file names as UTF-8.
    """
    _refuse_other_encodings()
    places = _without_outputs(_each_folder_once(list(paths), forgiving=True), os.path.abspath(output))
    here = os.getcwd()
    inside = here.rstrip(os.sep) + os.sep
    root = here if all(place.startswith(inside) or place == here for place in places) else os.sep
    sources = _sources(places, root, output, forgiving=True)
    if not sources:
        raise InputError("nothing to do: no image among the paths on stdin.")
    return sources


def _refuse_other_encodings() -> None:
    """Raise RunError where a name would be another text than elsewhere, so that each image would be done again.

    The command starts itself in UTF-8 mode; this is for programs that use camcli from Python.
    """
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8":
        raise RunError(f"Python reads file names as {encoding} here, and camcli needs UTF-8: start Python with PYTHONUTF8=1.")


def _without_outputs(paths: dict[str, bool], output: str) -> dict[str, bool]:
    """Those of ``paths`` that do not lie in the overlays or maps of a run."""
    known: dict[str, bool] = {os.sep: False, "": False}

    def is_output(folder: str) -> bool:
        if len(folder) > _LONGEST_PATH:  # it is in no folder: nothing can be opened by such a name
            return False
        unknown: list[str] = []
        while folder not in known:
            unknown.append(folder)
            folder = os.path.dirname(folder)
        inside = known[folder]
        for place in reversed(unknown):
            above, name = os.path.split(place)
            marked = name in OUTPUT_FOLDERS and (above == output or os.path.lexists(os.path.join(above, OWN)))
            inside = known[place] = inside or marked
        return inside

    return {path: is_folder for path, is_folder in paths.items() if not is_output(path if is_folder else os.path.dirname(path))}


def shard_of(image: str, count: int) -> int:
    """Which of ``count`` parts the image of that name belongs to, from 0: by the SHA-256 of its name.

    It depends on nothing else, so that what is there keeps its part when a folder grows.
    """
    digest = hashlib.sha256(os.fsencode(image)).digest()
    return int.from_bytes(digest[:8], "big") % count


def _each_folder_once(inputs: Sequence[str], *, forgiving: bool) -> dict[str, bool]:
    """Absolute paths, and whether each is a folder; of a folder given in several ways (twice, by a link) only the first."""
    paths: dict[str, bool] = {}
    seen: set[str] = set()
    for given in inputs:
        path = os.path.abspath(given)
        is_folder = _is_folder(given, forgiving=forgiving)
        place = os.path.realpath(path) if is_folder else path
        if path not in paths and not (is_folder and place in seen):
            paths[path] = is_folder
            seen.add(place)
    return paths


def _is_folder(given: str, *, forgiving: bool) -> bool:
    """Whether an input is a folder. Raises InputError where that cannot be told: taken for a file, it would name a run wrongly."""
    try:
        return stat.S_ISDIR(os.stat(given).st_mode)
    except (OSError, ValueError) as error:
        if forgiving or getattr(error, "errno", None) in (errno.ENOENT, errno.ELOOP):  # becomes a failure
            return False
        raise InputError(f"cannot look at {escape_name(given)!r}: {getattr(error, 'strerror', None) or error}.") from error


def _sources(paths: Mapping[str, bool], root: str, output: str, *, forgiving: bool) -> list[Source]:
    """The images of ``paths`` by their names below ``root``. ``forgiving``: a given folder that cannot be read is a source."""
    below = root.rstrip(os.sep) + os.sep
    names: list[str] = []
    links: set[str] = set()
    for path, is_folder in paths.items():
        if not is_folder:
            names.append(path[len(below) :])
            if os.path.islink(path):
                links.add(names[-1])
            continue
        try:
            for found, is_link in _walk(path, os.path.abspath(output)):
                names.append(found[len(below) :])
                if is_link:
                    links.add(names[-1])
        except InputError:
            if not forgiving:
                raise
            names.append(path[len(below) :] or os.curdir)
    if len(paths) > 1:
        names = list(dict.fromkeys(names))
    if links:
        real = {os.path.realpath(os.path.join(root, name)) for name in names if name not in links}
        names = [name for name in names if name not in links or os.path.realpath(os.path.join(root, name)) not in real]
    return [Source(root, name) for name in names]


def _walk(top: str, output: str) -> Iterator[tuple[str, bool]]:
    """(path, is a link) of every image file below ``top``, sorted within each folder, folders in their place."""
    pending = [_listed(top, output, is_top=True)]
    while pending:
        folder = pending[-1]
        if not folder.names:
            pending.pop()
            continue
        name = folder.names.pop()
        path = os.path.join(folder.path, name)
        if name not in folder.folders:
            yield path, name in folder.links
            continue
        try:
            pending.append(_listed(path, output, is_top=False))
        except OSError:
            yield path, False


@dataclass(frozen=True, slots=True)
class _Folder:
    """What counts in a folder: the names still to visit, the last one first, and which of them are folders or links.

    Names alone, each given up when it is visited: for a million entries 180 MB less than scandir's own objects.
    """

    path: str
    names: list[str]
    folders: frozenset[str]
    links: frozenset[str]


def _listed(path: str, output: str, *, is_top: bool) -> _Folder:
    """The folder at ``path``. Raises OSError for the folder, InputError for the top."""
    holds_run = path == output
    names: list[str] = []
    folders: set[str] = set()
    links: set[str] = set()
    try:
        with os.scandir(path) as scan:
            for entry in scan:
                name = entry.name
                if name.startswith("."):
                    holds_run |= name == OWN
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.add(name)
                elif os.path.splitext(name)[1].lower() not in EXTENSIONS:
                    continue
                elif entry.is_symlink():
                    links.add(name)
                names.append(name)
    except OSError as error:
        if is_top:
            raise InputError(f"cannot read the folder {escape_name(path)!r}: {error.strerror}.") from error
        raise
    if holds_run:
        names = [name for name in names if name not in (*OUTPUT_FOLDERS, *SANITY_PICTURES)]
    names.sort(reverse=True)
    return _Folder(path, names, frozenset(folders), frozenset(links))
