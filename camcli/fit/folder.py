"""The folder of a trained model. It is locked while it is written, and holds either a complete model or none."""

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
from camcli.fit.config import FitConfig
from camcli.fit.data import Dataset
from camcli.fit.metrics import Metrics
from camcli.layout import DRAFT, EXCHANGE, FAILURES, FEATURES, FITTED_MARK, FITTED_WEIGHTS, LOCK, OWN, SCRATCH
from camcli.models.sources.fitted import FORMAT
from camcli.output.checks import with_defaults
from camcli.output.exchange import exchange_files, finish_exchange
from camcli.output.locks import claimed
from camcli.output.record import refuse_newer_format
from camcli.output.root import Root
from camcli.output.writers import json_bytes, output_error
from camcli.records import Failure, escape_name, unescape_name

if TYPE_CHECKING:
    from camcli.models.sources.fitted import Fitted

FILES = (FITTED_WEIGHTS, "labels.txt", "split.csv", "metrics.json", "README.md", FAILURES, FITTED_MARK)
"""The files that ``camcli fit`` writes into a model's folder."""


def dataset_digest(dataset: Dataset) -> str:
    """A SHA-256 in hexadecimal that identifies the images by name, class, part, size and modification time."""
    digest = hashlib.sha256()
    parts = dataset.predefined_split or [""] * len(dataset.sources)
    for source, label, part in zip(dataset.sources, dataset.labels, parts, strict=True):
        stamp = source.stamp()
        known = (stamp.size, stamp.mtime_ns) if stamp else None
        digest.update(json.dumps([source.image, dataset.classes[label], part, known]).encode())
    return digest.hexdigest()


class ModelFolder:
    """The folder ``path`` for a model with these ``settings``, trained on the images that ``digest`` identifies.

    As a context manager it holds the folder's lock. Entering raises InUseError, SettingsError if it holds another model and
    ``overwrite`` is not set, and OutputError if it holds other files or cannot be written.
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
        except OSError as error:
            raise output_error(error.filename or self.root.path, error) from error
        with contextlib.ExitStack() as stack:
            stack.enter_context(claimed(self.root, "camcli fit", self._is_used))
            finish_exchange(self.root, FILES)
            self.is_done = self._is_done()
            self._held = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._held.close()

    def _is_used(self) -> bool:
        return self.root.exists(FEATURES) or self.root.exists(FITTED_MARK)

    def _refuse_foreign(self) -> None:
        path = self.root.path
        if os.path.lexists(path) and not os.path.isdir(path):
            raise OutputError(f"{self._shown!r} is a file; choose a folder for the model.")
        if not os.path.isdir(path) or self._is_used() or self.root.exists(EXCHANGE):
            return
        inner = set(self.root.names(OWN)) if self.root.is_folder(OWN) else set()
        if set(self.root.names()) - {OWN} or {f"{OWN}/{name}" for name in inner} - {LOCK, SCRATCH, DRAFT}:
            raise OutputError(f"{self._shown!r} is not empty and holds no model of camcli fit; choose another folder.")

    def _is_done(self) -> bool:
        """Whether the folder already holds this model. Raises SettingsError for another model unless ``overwrite`` is set."""
        try:
            found = parse_json(self.root.read(FITTED_MARK))
            if not self._overwrite:
                refuse_newer_format(self.root.path, found, found.get("camcli-fit"), FORMAT)
            settings, digest = with_defaults(dict(found["settings"]), self._settings, FitConfig), found["images-sha256"]
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError) as error:
            if self._overwrite:
                return False
            raise SettingsError(
                f"{self._shown!r} holds a {FITTED_MARK} that cannot be read. Choose another folder, or replace it with --overwrite."
            ) from error
        if self._overwrite:
            return False
        differing = [key for key in self._settings if settings.get(key) != self._settings[key]]
        if differing:
            words = ", ".join(f"{key} {settings.get(key)!r} there, {self._settings[key]!r} now" for key in differing)
            raise SettingsError(
                f"{self._shown!r} holds a model with other settings ({words}). Choose another folder, or replace it "
                "with --overwrite."
            )
        return bool(digest == self._digest and self.root.size(FITTED_WEIGHTS))

    def metrics(self) -> Metrics | None:
        """The metrics of the model in the folder; None if they cannot be read."""
        try:
            found = parse_json(self.root.read("metrics.json"))
            names = tuple(unescape_name(each["class"]) for each in found["validation"]["classes"])
            confusion = np.array(found["validation"]["confusion"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        whole = confusion.shape == (len(names), len(names)) and confusion.dtype.kind == "i" and confusion.min(initial=0) >= 0
        return Metrics(names, confusion) if whole and confusion.sum() else None

    def failures(self) -> list[Failure]:
        """The images that were left out when the model in the folder was trained."""
        try:
            rows = csv.DictReader(self.root.read(FAILURES).decode("utf-8").splitlines())
            return [Failure(unescape_name(row["image"]), unescape_name(row["stage"]), unescape_name(row["error"])) for row in rows]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error):
            return []

    def write(self, files: Mapping[str, bytes], fitted: Fitted) -> None:
        """Write the files of a model, replacing an earlier model in one step. Raises OutputError."""
        described = {**fitted.as_json(), "settings": self._settings, "images-sha256": self._digest, "camcli": __version__}
        exchange_files(self.root, {FAILURES: b"", **files, FITTED_MARK: json_bytes(described)})
