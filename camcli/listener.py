"""Listener: receives what a long-running function reports to its caller. ``run``, ``fit``, ``dream`` and ``sanity`` take one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from camcli.records import Failure


class Messages(Protocol):
    """Receives messages of one line each. Names of files and classes in them are escaped by ``escape_name``."""

    def info(self, text: str) -> None:
        """Receive a message about the normal course of the work."""

    def warn(self, text: str) -> None:
        """Receive a message about something that the user should know, such as duplicate images."""


class Listener(Messages, Protocol):
    """Receives messages, failures and progress. All methods are called from the thread that started the work."""

    def failed(self, failure: Failure) -> None:
        """Receive an image, or a picture of ``dream``, that failed. The work goes on with the others."""

    def progress(self, done: int, of: int, note: str = "") -> None:
        """Receive how many of ``of`` units are done: images, or steps of an optimization. ``note``: details, may be empty."""


class SilentListener:
    """A listener that ignores everything. Subclass it to receive only some of the calls."""

    def info(self, text: str) -> None:
        """Ignore a message."""

    def warn(self, text: str) -> None:
        """Ignore a warning."""

    def failed(self, failure: Failure) -> None:
        """Ignore a failure."""

    def progress(self, done: int, of: int, note: str = "") -> None:
        """Ignore the progress."""
