"""What a run explains: the images of folders and files, or of paths from another program, that a limit and a shard leave."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from camcli.config.run import RunConfig
from camcli.errors import InputError, LabelsError, SettingsError
from camcli.images.discover import discover_sources, listed_sources, shard_of
from camcli.listener import Messages
from camcli.records import Source, count_words, escape_name


@dataclass(frozen=True)
class Inputs:
    """The images of a run, in order. ``root``: the folder that their names are relative to."""

    root: str
    sources: list[Source]


def find_inputs(places: Sequence[str], config: RunConfig, listener: Messages, paths: Sequence[str] | None = None) -> Inputs:
    """Every image of a run in order: the first ``--limit`` images, and of them those that belong to ``--shard``, maybe none.

    ``places``: folders and image files. ``paths``: image files that another program listed, instead of ``places``. Raises
    InputError where there is nothing, and where the output would be one of the inputs.
    """
    sources = discover_sources(places, config.output) if paths is None else listed_sources(paths, config.output)
    if config.limit is not None and len(sources) > config.limit:
        left = len(sources) - config.limit
        listener.info(f"{config.limit:,} of {count_words(len(sources), 'image')}; --limit left {left:,}.")
    sources = sources[: config.limit]
    _refuse_output_among_inputs(sources, config.output)
    root = sources[0].root
    if config.part is not None:
        index, count = config.part
        sources = [source for source in sources if shard_of(source.image, count) == index]
    return Inputs(root, sources)


@contextlib.contextmanager
def misspelt_names_first(config: RunConfig) -> Iterator[None]:
    """A folder with other settings is refused; where the new ones name what does not exist, that is told instead."""
    try:
        yield
    except SettingsError as error:
        from camcli.pipeline.job import check_names

        check_names(config, error.different)
        raise


def explainable(sources: list[Source], config: RunConfig, listener: Messages) -> list[Source]:
    """Those of ``sources`` that have a class to be explained for: with ``--class-from`` alone, the images that have a label.

    Raises LabelsError for a table that labels none of them.
    """
    if config.class_from is None:
        return sources
    from camcli.pipeline.true_labels import true_labels

    labels = true_labels(config.class_from, sources)
    labelled = [source for source in sources if source.image in labels]
    table, count = escape_name(config.class_from), len(sources) - len(labelled)
    if not count:
        return sources
    if not labelled and config.part is None:
        raise LabelsError(
            f"--class-from {table} labels none of the {count_words(count, 'image')}. Its first column must hold their names as "
            f"predictions.csv does, such as {escape_name(sources[0].image)!r}, or its header must name the columns image and label."
        )
    if config.top_count or config.class_:
        listener.info(f"{count_words(count, 'image')} without a label in {table}: the columns label and correct are empty there.")
        return sources
    listener.info(f"{count_words(count, 'image')} without a label in {table}: left out.")
    return labelled


def _refuse_output_among_inputs(sources: Sequence[Source], output: str) -> None:
    path = os.path.abspath(output)
    for source in sources:
        if source.path == path:
            raise InputError(f"--output {escape_name(output)!r} is one of the images.")
