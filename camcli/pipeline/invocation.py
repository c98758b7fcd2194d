"""How a command was given, and when."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from typing import Any


class Invocation:
    """A ``command``, as its user wrote it, that has just been given with ``inputs``."""

    def __init__(self, command: str, inputs: Sequence[str]) -> None:
        self.command = command
        self._inputs, self._date, self._clock = list(inputs), datetime.datetime.now().astimezone(), time.monotonic()

    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self._clock

    def as_dict(self) -> dict[str, Any]:
        """For ``run.json``."""
        return {"command": self.command, "inputs": self._inputs, "started": self._date.isoformat(timespec="seconds")}
