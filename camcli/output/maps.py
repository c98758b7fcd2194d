"""Raw maps, read back from the files beside the overlays."""

from __future__ import annotations

import numpy as np

from camcli.layout import map_file
from camcli.output.files import ARRAY_START
from camcli.output.root import Root

_MOST_BYTES = 1 << 30


def read_map(root: Root, overlay: str) -> np.ndarray:
    """The raw map of ``overlay`` in ``root``, (h, w) float32. Raises OSError, and ValueError for what is no such map.

    Read by its bytes: the header of a stranger's file is not evaluated, and nothing is allocated that is not there.
    """
    name = map_file(overlay)
    data = root.read(name, _MOST_BYTES)
    found = ARRAY_START.match(data)
    if found is None:
        raise ValueError(f"{name} is not a map as camcli writes it")
    height, width = int(found[1]), int(found[2])
    if height < 1 or width < 1 or len(data) - found.end() != 4 * height * width:
        raise ValueError(f"{name} has not the bytes of {height} x {width} values")
    values = np.frombuffer(data, "<f4", offset=found.end()).reshape(height, width)
    if not np.isfinite(values).all():  # such a map is never painted, and so never stored
        raise ValueError(f"{name} holds values that are not finite")
    return values
