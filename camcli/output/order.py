"""The order of a run's rows, which is the order of its images, and entries of earlier versions that are dropped."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence

from camcli.output.checks import is_listable
from camcli.output.journal import Entry
from camcli.output.ledger import Ledger
from camcli.source import Source

NOT_A_FAILURE = "label"
"""Stage that earlier versions recorded for an image without a label. It is not a failure any more."""


def in_order(ledger: Ledger, sources: Sequence[Source]) -> list[str]:
    """The images in the tables, those of ``sources`` in the order of ``sources``; unchanged if they are in that order already.

    Leaves out folders that could not be read before and can be read now, and images with the stage NOT_A_FAILURE.
    """
    order = {source.image: position for position, source in enumerate(sources)}
    folders = folders_of(source.image for source in sources)
    root = str(ledger.settings.get("inputs", ""))

    def is_obsolete(entry: Entry) -> bool:
        if entry.stage == NOT_A_FAILURE:
            return True
        if entry.stage != "read" or entry.image in order:
            return False
        return entry.image in folders or is_listable(os.path.join(root, entry.image))

    images = [entry.image for entry in ledger.entries.values() if not is_obsolete(entry)]
    places = [order[image] for image in images if image in order]
    if all(earlier < later for earlier, later in itertools.pairwise(places)):
        return images
    return sorted(images, key=lambda image: order.get(image, len(order)))


def folders_of(images: Iterable[str]) -> set[str]:
    """All folders that contain one of ``images``. A folder that could not be read has a row of its own in the tables."""
    folders: set[str] = set()
    for image in images:
        folder = os.path.dirname(image)
        while folder and folder not in folders:
            folders.add(folder)
            folder = os.path.dirname(folder)
    return folders
