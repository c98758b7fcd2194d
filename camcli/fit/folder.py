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
from camcli.errors import OutputError, SettingsError
from camcli.fit.data import Dataset
from camcli.fit.metrics import Metrics
from camcli.output.locks import undisturbed
from camcli.output.writers import json_bytes, output_error, write_whole
from camcli.records import FITTED_MARK, FITTED_WEIGHTS, RUN_MARKER, Failure, recovered, shown, stamp_of

if TYPE_CHECKING:
    from camcli.models.fitted import Fitted

FAILURES = "failures.csv"
"""Images that could not be read; not there where all could."""


def dataset_digest(dataset: Dataset) -> str:
    """What tells a set of images, by names, classes, parts, sizes and times, from any other: the SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    parts = dataset.given or [""] * len(dataset.sources)
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
        self.path = os.path.abspath(path)
        self.scratch = os.path.join(self.path, RUN_MARKER, "scratch")
        self.features = os.path.join(self.path, RUN_MARKER, "features")
        self._shown, self._settings, self._digest, self._overwrite = shown(path), dict(settings), digest, overwrite
        self._held = contextlib.ExitStack()
        self._made: list[str] = []
        self.is_done = False

    def __enter__(self) -> ModelFolder:
        self._refuse_foreign()
        self._made = [] if os.path.isdir(self.path) else [self.path]
        try:
            os.makedirs(self.scratch, exist_ok=True)
        except OSError as error:
            raise output_error(error.filename or self.path, error) from error
        with contextlib.ExitStack() as stack:
            stack.enter_context(undisturbed(self.path, f"another camcli fit is writing into {self._shown!r}."))
            self.is_done = self._is_done()
            self._held = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._held.close()
        if self._made and not os.path.isdir(self.features) and not os.path.exists(self._at(FITTED_MARK)):
            with contextlib.suppress(OSError):  # nothing came of it
                os.unlink(os.path.join(self.path, RUN_MARKER, "lock"))
            for place in (self.scratch, os.path.join(self.path, RUN_MARKER), self.path):
                with contextlib.suppress(OSError):
                    os.rmdir(place)

    def _at(self, name: str) -> str:
        return os.path.join(self.path, name)

    def _refuse_foreign(self) -> None:
        if os.path.lexists(self.path) and not os.path.isdir(self.path):
            raise OutputError(f"{self._shown!r} is a file; name a folder for the model.")
        if not os.path.isdir(self.path) or os.path.isfile(self._at(FITTED_MARK)) or os.path.isdir(self.features):
            return
        inner = set(os.listdir(os.path.join(self.path, RUN_MARKER))) if os.path.isdir(self._at(RUN_MARKER)) else set()
        if set(os.listdir(self.path)) - {RUN_MARKER} or inner - {"lock", "scratch"}:
            raise OutputError(f"{self._shown!r} is not empty and holds no model of camcli fit; name another folder.")

    def _is_done(self) -> bool:
        """Whether the model is there already. One of other settings is refused, or with ``overwrite`` made anew."""
        try:
            with open(self._at(FITTED_MARK), "rb") as file:
                found = json.load(file)
            settings, digest = dict(found["settings"]), found["images-sha256"]
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
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
        return bool(digest == self._digest and os.path.isfile(self._at(FITTED_WEIGHTS)))

    def metrics(self) -> Metrics | None:
        """Those of the model that is there."""
        try:
            with open(self._at("metrics.json"), "rb") as file:
                found = json.load(file)
            names = tuple(recovered(each["class"]) for each in found["validation"]["classes"])
            confusion = np.array(found["validation"]["confusion"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        whole = confusion.shape == (len(names), len(names)) and confusion.dtype.kind == "i" and confusion.min(initial=0) >= 0
        return Metrics(names, confusion) if whole and confusion.sum() else None

    def failures(self) -> list[Failure]:
        """The images that the model there was made without."""
        try:
            with open(self._at(FAILURES), encoding="utf-8", newline="") as file:
                return [Failure(recovered(row["image"]), row["stage"], recovered(row["error"])) for row in csv.DictReader(file)]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def write(self, files: Mapping[str, bytes], fitted: Fitted) -> None:
        """Put the files of a model into the folder: its description last, without which it is no model. Raises OutputError."""
        try:
            for name in (FITTED_MARK, FAILURES):  # the failures of an earlier model are none of this one's
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._at(name))
            described = {**fitted.as_json(), "settings": self._settings, "images-sha256": self._digest, "camcli": __version__}
            for name, data in {**files, FITTED_MARK: json_bytes(described)}.items():
                write_whole(self._at(name), data, self.scratch)
        except OSError as error:
            raise output_error(error.filename or self.path, error) from error
