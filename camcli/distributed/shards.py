"""Dividing the images of a run into shards, and finding out which shards have something to do."""

from __future__ import annotations

import concurrent.futures
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from camcli.config.run import RunConfig
from camcli.errors import InputError
from camcli.images.discover import shard_of
from camcli.layout import BOXES
from camcli.output.folder import OutputFolder
from camcli.output.names import shard_name, shard_of_name
from camcli.output.record import read_record
from camcli.output.root import Root
from camcli.records import escape_name
from camcli.source import Source

_MOST_SHARDS = 999_999
"""The names of the folders of shards have at most six digits."""

_CHECKED_AT_ONCE = 8
"""Number of shards that are checked at the same time: most of it is waiting for the file system."""


@dataclass(frozen=True)
class Shard:
    """Some of the images of a run. ``sources``: its images in order. ``labels``: image -> true label, None without labels."""

    index: int
    count: int
    sources: list[Source]
    labels: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        """The name of its folder inside the output folder."""
        return shard_name(self.index, self.count)


@dataclass(frozen=True)
class ShardState:
    """What the folder of a shard holds. ``todo``: number of images to explain; ``explained`` and ``failed``: of its images.

    ``is_done``: there is nothing to do, not even to finish a run that was interrupted at its end.
    """

    todo: int
    explained: int
    failed: int
    is_done: bool


def count_shards(root: Root, images: int, images_per_shard: int) -> int:
    """The number of shards: that of the shards in the output folder ``root``, or one for each ``images_per_shard`` images.

    Raises InputError if the folder holds shards of several runs.
    """
    counts = {part[1] for name in root.names() if (part := shard_of_name(name)) and root.is_folder(name)}
    if len(counts) > 1:
        words = " and ".join(str(count) for count in sorted(counts))
        raise InputError(
            f"{escape_name(root.path)!r} holds shards of several runs, which have {words} shards; remove the shards of all runs "
            "but one."
        )
    return counts.pop() if counts else min(_MOST_SHARDS, max(1, math.ceil(images / images_per_shard)))


def divide(sources: Sequence[Source], count: int, labels: Mapping[str, str] | None) -> list[Shard]:
    """The ``sources`` in ``count`` shards. The SHA-256 of its name decides the shard of an image, as for ``--shard``."""
    found: list[list[Source]] = [[] for _ in range(count)]
    for source in sources:
        found[shard_of(source.image, count)].append(source)
    return [Shard(index, count, part, _labels_of(part, labels)) for index, part in enumerate(found)]


def _labels_of(sources: Sequence[Source], labels: Mapping[str, str] | None) -> dict[str, str] | None:
    if labels is None:
        return None
    return {source.image: labels[source.image] for source in sources if source.image in labels}


def shard_config(config: RunConfig, shard: Shard) -> RunConfig:
    """The config of the run of one shard."""
    return replace(config, engine="local", shard=f"{shard.index}/{shard.count}", report=False)


def check_shards(shards: Sequence[Shard], config: RunConfig, settings: Mapping[str, Any]) -> list[ShardState]:
    """The state of each shard, as an ordinary run finds it out: images that are new, changed or to be retried are to do.

    Raises SettingsError if a shard has other settings, InUseError while a run writes into one, and OutputError.
    """

    def check(shard: Shard) -> ShardState:
        part = shard_config(config, shard)
        if config.overwrite or not Root(config.output).is_folder(shard.name):
            return ShardState(len(shard.sources), 0, 0, is_done=False)
        own = {**settings, "shard": part.settings()["shard"]}
        with OutputFolder(config.output, own, shard=part.part) as folder:
            todo = len(folder.pending(shard.sources, retry_failed=config.retry_failed, hashed=config.hash))
            is_whole = folder.redrawing is None and (not config.boxes_json or folder.root.exists(BOXES))
            done = not todo and is_whole and folder.is_finished(shard.sources)
            return ShardState(todo, *folder.totals(shard.sources), is_done=done)

    with concurrent.futures.ThreadPoolExecutor(_CHECKED_AT_ONCE) as threads:
        return list(threads.map(check, shards))


def is_finished(output: str, shard: Shard) -> bool:
    """Whether ``run.json`` in the folder of the shard says that its run has finished."""
    return read_record(Root(output).below(shard.name)).get("state") == "finished"
