"""What a worker returns for a shard."""

from __future__ import annotations

from dataclasses import dataclass, field

from camcli.errors import CamcliError
from camcli.records import Counts, Failure


@dataclass(frozen=True)
class ShardResult:
    """How a shard ended. ``state``: ``finished``, ``interrupted``, ``given up``, or ``error`` for what ends the whole run.

    The numbers mean the same as in RunSummary. ``messages``: (whether it is a warning, text), about the model. ``error``: the
    error, for the states ``error`` and ``given up``.
    """

    index: int
    state: str
    explained: int = 0
    failed: int = 0
    new_failures: int = 0
    counts: Counts = field(default_factory=Counts)
    failures: tuple[Failure, ...] = ()
    messages: tuple[tuple[bool, str], ...] = ()
    error: CamcliError | None = None
