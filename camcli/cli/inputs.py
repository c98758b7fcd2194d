"""What ``camcli run`` is to explain: the paths on the command line, or those that another program writes to its stdin."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from camcli.cli.console import Console
from camcli.cli.summary import count_words
from camcli.config.run import RunConfig
from camcli.errors import InputError, LabelsError, SettingsError
from camcli.records import Source, escape_name

STDIN = "-"
"""The input that stands for paths on stdin."""


def gathered_sources(inputs: Sequence[str], config: RunConfig, console: Console) -> tuple[str, list[Source]]:
    """The folder that names are relative to, and every image of the run in order.

    These are the first ``--limit`` images, and of them those that belong to ``--shard``, which may be none.

    Raises InputError where there is nothing, and where the output would be one of the inputs.
    """
    from camcli.images.discover import discover_sources, listed_sources, shard_of

    if STDIN in inputs:
        if len(inputs) > 1:
            raise InputError("- reads the paths from stdin and stands alone.")
        sources = listed_sources(_read_paths(null=config.null, console=console), config.output)
    elif config.null:
        raise InputError("--null is about paths on stdin: camcli run --null -")
    else:
        sources = discover_sources(inputs, config.output)
    if config.limit is not None and len(sources) > config.limit:
        left = len(sources) - config.limit
        console.info(f"{config.limit:,} of {count_words(len(sources), 'image')}; --limit left {left:,}.")
    sources = sources[: config.limit]
    _refuse_output_among_inputs(sources, config.output)
    root = sources[0].root
    if config.part is not None:
        index, count = config.part
        sources = [source for source in sources if shard_of(source.image, count) == index]
    return root, sources


@contextlib.contextmanager
def misspelt_names_first(config: RunConfig) -> Iterator[None]:
    """A folder with other settings is refused; where the new ones name what does not exist, that is told instead."""
    try:
        yield
    except SettingsError as error:
        from camcli.pipeline.job import check_names

        check_names(config, error.different)
        raise


def explainable_sources(sources: list[Source], config: RunConfig, console: Console) -> list[Source]:
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
        console.info(f"{count_words(count, 'image')} without a label in {table}: the columns label and correct are empty there.")
        return sources
    console.info(f"{count_words(count, 'image')} without a label in {table}: left out.")
    return labelled


def _read_paths(*, null: bool, console: Console) -> list[str]:
    """The paths on stdin: a line each, or with ``null`` up to a NUL each; empty ones count for nothing."""
    if sys.stdin.isatty():
        console.info("Reading paths from the terminal, one a line; Ctrl-D ends the list.")
    data = sys.stdin.buffer.read()
    names = data.split(b"\0") if null else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    if not null and b"\0" in data:
        raise InputError("the paths on stdin contain NUL bytes; if they come from find -print0, add --null.")
    return [os.fsdecode(name) for name in names if name]


def _refuse_output_among_inputs(sources: Sequence[Source], output: str) -> None:
    path = os.path.abspath(output)
    for source in sources:
        if source.path == path:
            raise InputError(f"--output {escape_name(output)!r} is one of the images.")
