"""Inputs -> sources: which files are images, their order, and their names.

Folders are searched recursively in sorted order, without names that start with a dot. Inside a folder the extension decides whether
a file is an image; a file that is named as an input is always tried. A link to a file is followed unless its target is a source
too. Links to folders are not followed, so every search ends. In a folder with a run of camcli the overlays and maps are left out,
so that no run explains the pictures of another. An archive that is named as an input is searched like a folder.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from camcli.addresses import is_address, masked
from camcli.errors import InputError, RunError
from camcli.images.archives import is_archive, members
from camcli.images.braces import expanded
from camcli.layout import OUTPUT_FOLDERS, OWN, SANITY_PICTURES
from camcli.records import escape_name
from camcli.source import Source

EXTENSIONS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif"})
"""Extensions of image files inside folders, in lower case."""

_LONGEST_PATH = 4096
"""Maximum length of a path in bytes on Linux; other systems allow fewer."""


@dataclass(frozen=True)
class Search:
    """How images are searched. ``output``: the overlays and maps of the run in this folder are left out.

    ``archives``: archives inside folders are searched too. ``labelled``: also read the true classes that archives contain.
    """

    output: str
    archives: bool = False
    labelled: bool = False


def discover_sources(inputs: Sequence[str], search: Search) -> list[Source]:
    """Every image in ``inputs``, in the order of the inputs, without duplicates.

    The name of a source is its path below the input folder; with several inputs, below their deepest common folder. A folder
    that cannot be read becomes a source too, so that it is reported as a failure. Raises InputError if an input does not exist or
    no image is found, and RunError if Python does not read file names as UTF-8. Addresses of stores and web servers are searched by
    ``camcli.images.remote.listing``.
    """
    _refuse_other_encodings()
    inputs = [path for given in inputs for path in expanded(given)]
    if any(map(is_address, inputs)):
        return _remote_sources(inputs, search)
    for given in inputs:
        if not os.path.lexists(given):
            raise InputError(f"there is no file or folder {escape_name(given)!r}.")
    paths = _each_folder_once(inputs, forgiving=False)
    root = os.path.commonpath([path if is_folder else os.path.dirname(path) for path, is_folder in paths.items()])
    sources = _sources(paths, root, search, forgiving=False)
    if not sources:
        given_words = ", ".join(repr(escape_name(given)) for given in inputs)
        raise InputError(
            f"nothing to do: no image in {given_words}. Looked for {' '.join(sorted(EXTENSIONS))}; hidden files are left out."
        )
    return sources


def _remote_sources(inputs: Sequence[str], search: Search) -> list[Source]:
    """The images at addresses, as ``discover_sources``."""
    from camcli.images.remote.listing import discover_remote

    if not all(map(is_address, inputs)):
        raise InputError("folders of this machine and addresses cannot be the inputs of one run: start a run for each.")
    sources = discover_remote(inputs, is_image, archives=search.archives, labelled=search.labelled)
    if not sources:
        words = ", ".join(repr(escape_name(masked(given))) for given in inputs)
        raise InputError(
            f"nothing to do: no image at {words}. Looked for {' '.join(sorted(EXTENSIONS))}; hidden names are left out."
        )
    return sources


def listed_sources(paths: Iterable[str], search: Search) -> list[Source]:
    """Every image of a list of ``paths`` from another program. Unlike in ``discover_sources``, a missing path becomes a source.

    A missing path is reported as a failure and does not stop the run. Overlays and maps of a run are left out. The name of a source
    is its path below the current folder; if any path lies outside, all names are absolute paths without the leading slash. Raises
    InputError if no image is found, and RunError if Python does not read file names as UTF-8.
    """
    _refuse_other_encodings()
    places = _without_outputs(_each_folder_once(list(paths), forgiving=True), os.path.abspath(search.output))
    here = os.getcwd()
    root = here if all(_is_inside(place, here) for place in places) else os.sep
    sources = _sources(places, root, search, forgiving=True)
    if not sources:
        raise InputError("nothing to do: no image among the paths on stdin.")
    return sources


def named_sources(paths: Iterable[str], root: str, search: Search) -> Iterator[Source | str]:
    """Yield the images of a list of ``paths`` that goes on, with names relative to ``root``; a path outside of it as it is.

    Otherwise as ``listed_sources``.
    """
    places = _without_outputs(_each_folder_once(list(paths), forgiving=True), os.path.abspath(search.output))
    yield from _sources({place: kind for place, kind in places.items() if _is_inside(place, root)}, root, search, forgiving=True)
    yield from (place for place in places if not _is_inside(place, root))


def _is_inside(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder.rstrip(os.sep) + os.sep)


def _refuse_other_encodings() -> None:
    """Raise RunError if Python does not read file names as UTF-8: names would differ from those in the tables.

    The command line starts itself in UTF-8 mode; this check is for programs that use camcli from Python.
    """
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8":
        raise RunError(f"Python reads file names as {encoding} here, and camcli needs UTF-8: start Python with PYTHONUTF8=1.")


def _without_outputs(paths: dict[str, bool], output: str) -> dict[str, bool]:
    """The ``paths`` that are not inside the overlays or maps of a run."""
    known: dict[str, bool] = {os.sep: False, "": False}

    def is_output(folder: str) -> bool:
        if len(folder) > _LONGEST_PATH:  # a path of this length cannot be opened
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
    """The shard, 0 to ``count`` - 1, of the image with that name, from the SHA-256 of the name.

    Nothing else is used, so an image keeps its shard when images are added to the folder.
    """
    digest = hashlib.sha256(os.fsencode(image)).digest()
    return int.from_bytes(digest[:8], "big") % count


def _each_folder_once(inputs: Sequence[str], *, forgiving: bool) -> dict[str, bool]:
    """Absolute paths, and whether each is a folder; a folder that is given twice or through a link is kept once."""
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
    """Whether an input is a folder. Raises InputError if that cannot be determined, because image names depend on it."""
    try:
        return stat.S_ISDIR(os.stat(given).st_mode)
    except (OSError, ValueError) as error:
        if forgiving or getattr(error, "errno", None) in (errno.ENOENT, errno.ELOOP):  # it becomes a failure later
            return False
        raise InputError(f"cannot access {escape_name(given)!r}: {getattr(error, 'strerror', None) or error}.") from error


def _sources(paths: Mapping[str, bool], root: str, search: Search, *, forgiving: bool) -> list[Source]:
    """The images in ``paths``, named by their path below ``root``. ``forgiving``: an unreadable folder becomes a source."""
    below = root.rstrip(os.sep) + os.sep
    names: list[str] = []
    links: set[str] = set()
    archives: set[str] = set()
    for path, is_folder in paths.items():
        if not is_folder:
            names.append(path[len(below) :])
            if is_archive(path):
                archives.add(names[-1])
            if os.path.islink(path):
                links.add(names[-1])
            continue
        try:
            for found, is_link in _walk(path, search):
                names.append(found[len(below) :])
                if is_link:
                    links.add(names[-1])
                if search.archives and is_archive(found):
                    archives.add(names[-1])
        except InputError:
            if not forgiving:
                raise
            names.append(path[len(below) :] or os.curdir)
    if len(paths) > 1:
        names = list(dict.fromkeys(names))
    if links:
        real = {os.path.realpath(os.path.join(root, name)) for name in names if name not in links}
        names = [name for name in names if name not in links or os.path.realpath(os.path.join(root, name)) not in real]
    if not archives:
        return [Source(root, name) for name in names]
    sources: list[Source] = []
    for name in names:
        source = Source(root, name)
        sources += members(source, is_image, labelled=search.labelled) if name in archives else [source]
    return sources


def is_image(name: str) -> bool:
    """Whether the extension of a name is that of an image file."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _walk(top: str, search: Search) -> Iterator[tuple[str, bool]]:
    """Yield (path, whether it is a link) of every image file below ``top``, in sorted order; with ``archives`` of archives too."""
    pending = [_listed(top, search, is_top=True)]
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
            pending.append(_listed(path, search, is_top=False))
        except OSError:
            yield path, False


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder during the search: the names still to visit, in reverse order, and which of them are folders or links.

    It holds names only and drops each one when it is visited. For a million entries that takes 180 MB less than scandir's objects.
    """

    path: str
    names: list[str]
    folders: frozenset[str]
    links: frozenset[str]


def _listed(path: str, search: Search, *, is_top: bool) -> _Folder:
    """The folder at ``path``. Raises OSError if it cannot be read, InputError if it is the top folder."""
    holds_run = path == os.path.abspath(search.output)
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
                elif not is_image(name) and not (search.archives and is_archive(name)):
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
