"""The command line of a run and its start time, for ``run.json``. Secrets in addresses are masked."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from typing import Any

from camcli.addresses import masked


class Invocation:
    """A command that has just started. ``command``: as the user wrote it; ``inputs``: its folders and files."""

    def __init__(self, command: str, inputs: Sequence[str]) -> None:
        self.command = masked(command)
        self._inputs, self._date, self._clock = (
            [masked(place) for place in inputs],
            datetime.datetime.now().astimezone(),
            time.monotonic(),
        )

    def seconds(self) -> float:
        """The seconds since the command started."""
        return time.monotonic() - self._clock

    def as_dict(self) -> dict[str, Any]:
        """Command, inputs and start time, for ``run.json``."""
        return {"command": self.command, "inputs": self._inputs, "started": self._date.isoformat(timespec="seconds")}
