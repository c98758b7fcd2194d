"""Finding the sources of a finished run again, by the names of its images."""

from __future__ import annotations

import os

from camcli.addresses import is_address
from camcli.images.archives import is_archive, members
from camcli.source import Source


class SourceFinder:
    """Finds the sources of finished runs again, whose images are below ``root``: files, objects of a store, members of archives.

    A prefix of a store is listed once. Raises InputError and RunError if that fails.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._members: dict[str, dict[str, Source]] = {}
        self._objects: dict[str, Source] | None = None

    def find(self, image: str) -> Source:
        """The source of ``image``. One that an archive does not have any longer is a file that does not exist."""
        parts = image.split("/")
        for count in range(1, len(parts) + 1):
            name = "/".join(parts[:count])
            if not is_archive(name):
                continue
            if name not in self._members:
                archive = self._top(name)
                is_there = archive.is_remote or os.path.isfile(archive.path)
                self._members[name] = {one.image: one for one in (members(archive, lambda _: True) if is_there else [])}
            if image in self._members[name]:
                return self._members[name][image]
        return self._top(image)

    def _top(self, image: str) -> Source:
        """The file or the object with that name."""
        if not is_address(self._root):
            return Source(self._root, image)
        if self._objects is None:
            from camcli.images.remote.listing import objects_below

            self._objects = objects_below(self._root)
        if image in self._objects:
            return self._objects[image]
        from camcli.images.remote.objects import RemoteSource

        return RemoteSource(self._root, image)
