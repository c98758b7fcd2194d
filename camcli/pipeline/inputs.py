"""Finding the images of a run: in folders, files or a list of paths, reduced by ``--limit``, ``--shard`` and labels."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from camcli.config.run import RunConfig
from camcli.errors import InputError, LabelsError, SettingsError
from camcli.images.discover import Search, discover_sources, listed_sources, shard_of
from camcli.listener import Messages
from camcli.pipeline.incoming import LaterSources, PathStream
from camcli.pipeline.true_labels import MEMBER
from camcli.records import count_words, escape_name
from camcli.source import Source


@dataclass(frozen=True)
class Inputs:
    """The images of a run, in order. ``root``: the folder that their names are relative to. ``later``: images still to come."""

    root: str
    sources: list[Source]
    later: LaterSources | None = None


def find_inputs(places: Sequence[str], config: RunConfig, listener: Messages, paths: PathStream | None = None) -> Inputs:
    """The images of a run in order: those of the first ``--limit`` images that belong to ``--shard``, possibly none.

    ``places``: folders and image files. ``paths``: image files that another program lists, used instead of ``places``. They are
    worked on as they come; with ``--class-from``, which needs to know all images, they are read to the end first. Raises InputError
    if there is no image at all, and if the output folder is one of the inputs.
    """
    search = Search(config.output, config.archives, labelled=config.class_from == MEMBER)
    if paths is None:
        sources = discover_sources(places, search)
    else:
        sources = listed_sources(paths.all() if config.class_from is not None else paths.first(), search)
    if config.limit is not None and len(sources) > config.limit:
        left = len(sources) - config.limit
        listener.info(f"{config.limit:,} of {count_words(len(sources), 'image')}; --limit left {left:,} out.")
    sources = sources[: config.limit]
    _refuse_output_among_inputs(sources, config.output)
    root, later = sources[0].root, None
    if paths is not None and not paths.ended:
        left_over = None if config.limit is None else config.limit - len(sources)
        later = LaterSources(paths, root, search, {source.image for source in sources}, left_over, config.part)
    if config.part is not None:
        index, count = config.part
        sources = [source for source in sources if shard_of(source.image, count) == index]
    return Inputs(root, sources, later)


@contextlib.contextmanager
def misspelt_names_first(config: RunConfig) -> Iterator[None]:
    """Context in which a SettingsError is replaced by the error for a misspelt name, if a differing setting is misspelt."""
    try:
        yield
    except SettingsError as error:
        from camcli.pipeline.job import check_names

        check_names(config, error.different)
        raise


def explainable(sources: list[Source], config: RunConfig, listener: Messages) -> list[Source]:
    """The ``sources`` that have a class to explain: with ``--class-from`` alone, only the images that have a label.

    Raises LabelsError if the table labels none of them.
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
        if source.path == path and not source.is_remote:
            raise InputError(f"--output {escape_name(output)!r} is one of the images.")
