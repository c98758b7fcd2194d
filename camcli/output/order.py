"""The order of a run's rows: that of its images; and what an earlier version recorded that counts for nothing any more."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence

from camcli.output.checks import is_listable
from camcli.output.journal import Entry
from camcli.output.ledger import Ledger
from camcli.records import Source

NO_FAILURE = "label"
"""Stage that earlier versions recorded for an image without a label, which is no failure any more."""


def in_order(ledger: Ledger, sources: Sequence[Source]) -> list[str]:
    """The images of the tables so that those of ``sources`` come in their order; as they stand where they do so already.

    Without folders that could not be read before and can be now, and without images that an older version called failed.
    """
    order = {source.image: position for position, source in enumerate(sources)}
    folders = folders_of(source.image for source in sources)
    root = str(ledger.settings.get("inputs", ""))

    def is_outgrown(entry: Entry) -> bool:
        if entry.stage == NO_FAILURE:
            return True
        if entry.stage != "read" or entry.image in order:
            return False
        return entry.image in folders or is_listable(os.path.join(root, entry.image))

    images = [entry.image for entry in ledger.entries.values() if not is_outgrown(entry)]
    places = [order[image] for image in images if image in order]
    if all(earlier < later for earlier, later in itertools.pairwise(places)):
        return images
    return sorted(images, key=lambda image: order.get(image, len(order)))


def folders_of(images: Iterable[str]) -> set[str]:
    """Every folder that an image lies in: one that could not be read before had a row of its own."""
    folders: set[str] = set()
    for image in images:
        folder = os.path.dirname(image)
        while folder and folder not in folders:
            folders.add(folder)
            folder = os.path.dirname(folder)
    return folders
