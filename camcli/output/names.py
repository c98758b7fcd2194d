"""Where in the output folder the files of an image go. The input tree is mirrored and the input's extension stays."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable

from camcli.config.run import IMAGE_FORMATS
from camcli.layout import OVERLAYS
from camcli.records import Prediction

MAX_NAME_BYTES = 255
"""What file systems allow for one name."""

_TEMPORARY_ROOM = 8
_SLUG_LENGTH = 40
_NOT_WORD = re.compile(r"[^\w]+")
_NOT_NAME = re.compile(r"[^\w.+-]+")
_SHARD_NAME = re.compile(r"shard-(0|[1-9]\d{0,5})-of-([1-9]\d{0,5})")
_OUTPUT_NAME = re.compile(r"\.\d+-[^/]+\.(jpg|png|webp|npy)$")


def file_stem(image: str, prediction: Prediction, extra: tuple[str, ...] = (), *, folding: bool = False) -> str:
    """The path, below ``overlays``, ``maps`` or ``masks``, without extension: ``sub/cat.jpg.1-tabby``.

    ``extra``: layer and method, where several were asked for. Unique per image, rank and extra. A name that would be too
    long for a file system is cut and marked with a hash of the whole. ``folding``: the file system takes ``A`` and ``a`` for one
    letter; a name that is not in its folded form is marked with a hash then, so that ``A.jpg`` and ``a.jpg`` stay two.
    """
    folder, name = os.path.split(image)
    if folding and image != folded(image):
        name = f"{name}~{_digest(os.fsencode(image))}"
    label = slug(prediction.class_name) or str(prediction.class_index)
    tail = ".".join([f".{prediction.rank}-{label}", *map(distinct_slug, extra)])
    room = MAX_NAME_BYTES - _TEMPORARY_ROOM - len(os.fsencode(tail)) - len(".webp")
    encoded = os.fsencode(name)
    if len(encoded) > room:
        digest = _digest(encoded)
        kept = encoded[: room - len(digest) - 1].decode("utf-8", "ignore")
        name = f"{kept}~{digest}"
    return os.path.join(folder, name + tail)


def folded(name: str) -> str:
    """``name`` as file systems compare names that take ``A`` and ``a``, or a letter and its accent apart and together, for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def is_own_overlay(overlay: str, image: str, prediction: Prediction, extras: Iterable[tuple[str, ...]]) -> bool:
    """Whether ``overlay``, a path below the output folder, is where camcli puts that of this row, and nowhere else.

    ``extras``: what ``file_stem`` may have been given.
    """
    stem, dot, extension = overlay.rpartition(".")
    if not dot or extension not in IMAGE_FORMATS or "\0" in overlay:
        return False
    beginning = f"{OVERLAYS}/{image}.{prediction.rank}-"
    if stem.startswith(beginning) and "/" not in stem[len(beginning) :]:
        return True  # the usual case, told without making the name
    wanted = (file_stem(image, prediction, extra, folding=folding) for extra in extras for folding in (False, True))
    return any(stem == f"{OVERLAYS}/{name}" for name in wanted)


def slug(text: str) -> str:
    """``text`` in letters, digits and ``_``, everything else a hyphen; a long one is cut and marked with a hash."""
    whole = _NOT_WORD.sub("-", text).strip("-")
    return whole if len(whole) <= _SLUG_LENGTH else f"{whole[: _SLUG_LENGTH - 13]}~{_digest(text.encode('utf-8', 'surrogatepass'))}"


def distinct_slug(text: str) -> str:
    """A name of a layer or method for a file name, different for different texts: what must be changed is marked with a hash."""
    kept = _NOT_NAME.sub("-", text)
    return (
        kept
        if kept == text and len(kept) <= _SLUG_LENGTH
        else f"{kept[: _SLUG_LENGTH - 13]}~{_digest(text.encode('utf-8', 'surrogatepass'))}"
    )


def shard_name(index: int, count: int) -> str:
    """The folder, inside the output folder, of one of ``count`` runs that share it."""
    return f"shard-{index}-of-{count}"


def shard_of_name(name: str) -> tuple[int, int] | None:
    """(index, count) of a folder's name that ``shard_name`` made; None for any other."""
    found = _SHARD_NAME.fullmatch(name)
    part = (int(found[1]), int(found[2])) if found else (0, 0)
    return part if part[0] < part[1] else None


def is_output_name(name: str) -> bool:
    """Whether a file name is one that ``file_stem`` and an extension make."""
    return _OUTPUT_NAME.search(name) is not None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
