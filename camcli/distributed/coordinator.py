"""The coordinator: a Ray actor beside the program that started the run, with which that program and the workers exchange messages.

It knows how far each shard is, passes on the wish to stop, and gives up shards that end their workers again and again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_DEATHS = 3
"""How often in a row a worker may die on a shard without finishing an image of it, before the shard is given up.

A death after which the shard has more images than before does not count: it may be the end of a node that was borrowed for a while.
"""

_LONGEST_SILENCE = 60.0
"""Seconds without a report, which comes every second, after which the worker of a shard is taken for dead."""

GO, STOP, GIVE_UP = "go", "stop", "give up"
"""What a worker is told when it asks to begin a shard."""


@dataclass(frozen=True)
class Permission:
    """The answer to a worker that asks to begin a shard. ``answer``: GO, STOP or GIVE_UP. ``is_first``: nobody has begun it yet
    in this run. ``reason``: why the last worker died on it, if it could say so. ``number``: that of this beginning of the shard.
    """

    answer: str
    is_first: bool = True
    reason: str = ""
    number: int = 0


class Coordinator:
    """The state of a run. Its methods are called from other machines; a shard is given by its index."""

    def __init__(self) -> None:
        self._stopping = False
        self._left: dict[int, tuple[int, int]] = {}
        self._starts: dict[int, list[int]] = {}
        self._reasons: dict[int, str] = {}
        self._heard: dict[int, float] = {}

    def begin(self, shard: int, recorded: int) -> Permission:
        """Ask to begin a shard. ``recorded``: how many images its journal has now."""
        if self._stopping:
            self._heard.pop(shard, None)
            return Permission(STOP)
        starts = self._starts.setdefault(shard, [])
        if starts[-MOST_DEATHS:] == [recorded] * MOST_DEATHS:
            return Permission(GIVE_UP, False, self._reasons.get(shard, ""))
        starts.append(recorded)
        self._heard[shard] = time.monotonic()
        return Permission(GO, len(starts) == 1, number=len(starts))

    def is_last(self, shard: int, number: int) -> bool:
        """Whether nobody has begun the shard after the beginning ``number``, so that its worker has not been taken for dead."""
        return len(self._starts.get(shard, ())) <= number

    def report(self, shard: int, left: int, failed: int, is_last: bool) -> bool:
        """Take the progress of a shard: how many images are left, and how many failed. Returns whether the worker is to stop.

        ``is_last``: the worker has ended its work on the shard.
        """
        self._left[shard] = left, failed
        self._heard[shard] = time.monotonic()
        if is_last:
            del self._heard[shard]
        return self._stopping

    def dying(self, shard: int, reason: str) -> None:
        """Take the reason for which a worker ends itself."""
        self._reasons[shard] = reason

    def stop(self) -> int:
        """Let the workers finish the images in progress and begin no other shard. Returns how many shards are in progress."""
        self._stopping = True
        now = time.monotonic()
        return sum(now - heard < _LONGEST_SILENCE for heard in self._heard.values())

    def progress(self) -> Mapping[int, tuple[int, int]]:
        """How many images each shard has left, and how many failed."""
        return self._left

    def has_begun(self) -> bool:
        """Whether a worker has begun a shard."""
        return bool(self._starts)


class CoordinatorHandle:
    """Calls a Coordinator that runs as a Ray actor. ``actor``: its Ray handle. Every call waits for the answer.

    Raises RayError if the actor cannot be reached.
    """

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def call(self, method: str, *values: Any) -> Any:
        """Call ``method`` of the coordinator and return what it returns."""
        import ray

        return ray.get(getattr(self.actor, method).remote(*values), timeout=_PATIENCE)


_PATIENCE = 300.0
"""Seconds to wait for an answer of the coordinator, whose process may have to start first, on a node with more work than cores.

A coordinator that has died, or whose node has, is not waited for.
"""
