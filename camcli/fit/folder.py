"""The folder of a fitted model: locked while it is made, complete or not a model."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from camcli import __version__
from camcli.documents import parse_json
from camcli.errors import OutputError, SettingsError
from camcli.fit.data import Dataset
from camcli.fit.metrics import Metrics
from camcli.output.exchange import DECIDED, exchange_files, finish_exchange
from camcli.output.locks import claimed
from camcli.output.root import Root
from camcli.output.writers import json_bytes, output_error
from camcli.records import FITTED_MARK, FITTED_WEIGHTS, RUN_MARKER, Failure, escape_name, stamp_of, unescape_name

if TYPE_CHECKING:
    from camcli.models.sources.fitted import Fitted

FILES = (FITTED_WEIGHTS, "labels.txt", "split.csv", "metrics.json", "README.md", "failures.csv", FITTED_MARK)
"""What a model's folder holds, as far as ``camcli fit`` writes it."""

FEATURES = f"{RUN_MARKER}/features"
"""The folder of the features that were computed."""

FAILURES = "failures.csv"
"""Images that could not be read; not there where all could."""


def dataset_digest(dataset: Dataset) -> str:
    """What tells a set of images, by names, classes, parts, sizes and times, from any other: the SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    parts = dataset.predefined_split or [""] * len(dataset.sources)
    for source, label, part in zip(dataset.sources, dataset.labels, parts, strict=True):
        stamp = stamp_of(source.path)
        known = (stamp.size, stamp.mtime_ns) if stamp else None
        digest.update(json.dumps([source.image, dataset.classes[label], part, known]).encode())
    return digest.hexdigest()


class ModelFolder:
    """The folder ``path``, to hold a model of ``settings`` fitted to the images of ``digest``.

    Entering it takes its lock. Raises InUseError, SettingsError where it holds another model and ``overwrite`` is not wanted, and
    OutputError where it holds something else or cannot be written.
    """

    def __init__(self, path: str, settings: Mapping[str, Any], digest: str, *, overwrite: bool) -> None:
        self.root = Root(path)
        self._shown, self._settings, self._digest, self._overwrite = escape_name(path), dict(settings), digest, overwrite
        self._held = contextlib.ExitStack()
        self.is_done = False

    def __enter__(self) -> ModelFolder:
        self._refuse_foreign()
        try:
            os.makedirs(os.path.dirname(self.root.path), exist_ok=True)
            with contextlib.ExitStack() as stack:
                busy = f"another camcli fit is writing into {self._shown!r}."
                stack.enter_context(claimed(self.root, busy, self._is_used))
                finish_exchange(self.root, FILES)
                self.is_done = self._is_done()
                self._held = stack.pop_all()
        except OSError as error:
            raise output_error(error.filename or self.root.path, error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._held.close()

    def _is_used(self) -> bool:
        return self.root.exists(FEATURES) or self.root.exists(FITTED_MARK)

    def _refuse_foreign(self) -> None:
        path = self.root.path
        if os.path.lexists(path) and not os.path.isdir(path):
            raise OutputError(f"{self._shown!r} is a file; name a folder for the model.")
        if not os.path.isdir(path) or self._is_used() or self.root.exists(DECIDED):
            return
        inner = set(self.root.names(RUN_MARKER)) if self.root.is_folder(RUN_MARKER) else set()
        if set(self.root.names()) - {RUN_MARKER} or inner - {"lock", "scratch", "draft"}:
            raise OutputError(f"{self._shown!r} is not empty and holds no model of camcli fit; name another folder.")

    def _is_done(self) -> bool:
        """Whether the model is there already. One of other settings is refused, or with ``overwrite`` made anew."""
        try:
            found = parse_json(self.root.read(FITTED_MARK))
            settings, digest = dict(found["settings"]), found["images-sha256"]
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError) as error:
            if self._overwrite:
                return False
            raise SettingsError(
                f"{self._shown!r} holds a {FITTED_MARK} that cannot be read. Name another folder, or --overwrite it."
            ) from error
        if self._overwrite:
            return False
        differing = [key for key in self._settings if settings.get(key) != self._settings[key]]
        if differing:
            words = ", ".join(f"{key} {settings.get(key)!r} there, {self._settings[key]!r} now" for key in differing)
            raise SettingsError(
                f"{self._shown!r} holds a model fitted otherwise ({words}). Name another folder, or --overwrite it."
            )
        return bool(digest == self._digest and self.root.size(FITTED_WEIGHTS))

    def metrics(self) -> Metrics | None:
        """Those of the model that is there."""
        try:
            found = parse_json(self.root.read("metrics.json"))
            names = tuple(unescape_name(each["class"]) for each in found["validation"]["classes"])
            confusion = np.array(found["validation"]["confusion"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        whole = confusion.shape == (len(names), len(names)) and confusion.dtype.kind == "i" and confusion.min(initial=0) >= 0
        return Metrics(names, confusion) if whole and confusion.sum() else None

    def failures(self) -> list[Failure]:
        """The images that the model there was made without."""
        try:
            rows = csv.DictReader(self.root.read(FAILURES).decode("utf-8").splitlines())
            return [Failure(unescape_name(row["image"]), unescape_name(row["stage"]), unescape_name(row["error"])) for row in rows]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error):
            return []

    def write(self, files: Mapping[str, bytes], fitted: Fitted) -> None:
        """Put the files of a model into the folder, all at once: until then the model that was there stays. Raises OutputError."""
        described = {**fitted.as_json(), "settings": self._settings, "images-sha256": self._digest, "camcli": __version__}
        exchange_files(self.root, {FAILURES: b"", **files, FITTED_MARK: json_bytes(described)})
