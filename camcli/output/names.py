"""The names of an image's files in the output folder. They mirror the input tree and keep the extension of the input."""

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
"""Maximum length that file systems allow for one name, in bytes."""

_TEMPORARY_ROOM = 8
_SLUG_LENGTH = 40
_NOT_WORD = re.compile(r"[^\w]+")
_NOT_NAME = re.compile(r"[^\w.+-]+")
_SHARD_NAME = re.compile(r"shard-(0|[1-9]\d{0,5})-of-([1-9]\d{0,5})")
_OUTPUT_NAME = re.compile(r"\.\d+-[^/]+\.(jpg|png|webp|npy)$")


def file_stem(image: str, prediction: Prediction, extra: tuple[str, ...] = (), *, folding: bool = False) -> str:
    """The path of a row's files below ``overlays``, ``maps`` or ``masks``, without extension: ``sub/cat.jpg.1-tabby``.

    It is unique for each image, rank and ``extra``: layer and method, if the run has several. A name that is too long for a file
    system is cut and gets a hash of the whole name. ``folding``: the file system does not distinguish ``A`` from ``a``; a name that
    is not in folded form then gets a hash, so that ``A.jpg`` and ``a.jpg`` have different files.
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
    """The folded form of ``name``, which is equal for names that differ only in case or in how accents are encoded."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def is_own_overlay(overlay: str, image: str, prediction: Prediction, extras: Iterable[tuple[str, ...]]) -> bool:
    """Whether ``overlay``, a path in the output folder, is where camcli writes the overlay of this row.

    ``extras``: the possible values of ``extra`` of ``file_stem``.
    """
    stem, dot, extension = overlay.rpartition(".")
    if not dot or extension not in IMAGE_FORMATS or "\0" in overlay:
        return False
    beginning = f"{OVERLAYS}/{image}.{prediction.rank}-"
    if stem.startswith(beginning) and "/" not in stem[len(beginning) :]:
        return True  # the usual case, decided without making the name
    wanted = (file_stem(image, prediction, extra, folding=folding) for extra in extras for folding in (False, True))
    return any(stem == f"{OVERLAYS}/{name}" for name in wanted)


def slug(text: str) -> str:
    """``text`` with everything but letters, digits and ``_`` as hyphens; a long text is cut and gets a hash."""
    whole = _NOT_WORD.sub("-", text).strip("-")
    return whole if len(whole) <= _SLUG_LENGTH else f"{whole[: _SLUG_LENGTH - 13]}~{_digest(text.encode('utf-8', 'surrogatepass'))}"


def distinct_slug(text: str) -> str:
    """The name of a layer or method for a file name. Different names give different results: a changed or cut name gets a hash."""
    kept = _NOT_NAME.sub("-", text)
    return (
        kept
        if kept == text and len(kept) <= _SLUG_LENGTH
        else f"{kept[: _SLUG_LENGTH - 13]}~{_digest(text.encode('utf-8', 'surrogatepass'))}"
    )


def shard_name(index: int, count: int) -> str:
    """The name of the folder of shard ``index`` of ``count`` inside the output folder."""
    return f"shard-{index}-of-{count}"


def shard_of_name(name: str) -> tuple[int, int] | None:
    """(index, count) for a name that ``shard_name`` has made; None for any other name."""
    found = _SHARD_NAME.fullmatch(name)
    part = (int(found[1]), int(found[2])) if found else (0, 0)
    return part if part[0] < part[1] else None


def is_output_name(name: str) -> bool:
    """Whether ``name`` ends as ``file_stem`` and an extension end."""
    return _OUTPUT_NAME.search(name) is not None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
