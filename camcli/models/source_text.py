"""Names read from the source text of installed packages: importing those would take seconds, too long while a shell waits."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence

from camcli.models.labels import IMAGENET_SIZE

_REGISTERED_MODEL = re.compile(r"^@register_model\b(?:\(name=\"(\w+)\")?.*?^def (\w+)\(", re.MULTILINE | re.DOTALL)


def module_texts(package: str, folder: str) -> Iterator[str]:
    """The source texts of the modules in ``folder`` of ``package``, without its subfolders; the package is not imported."""
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        with contextlib.suppress(OSError), os.scandir(os.path.join(place, folder)) as entries:
            for entry in entries:
                if entry.name.endswith(".py") and entry.is_file():
                    with open(entry.path, encoding="utf-8") as file:
                        yield file.read()


def registered_models(package: str) -> list[str]:
    """Every model that a module of ``package.models`` registers, sorted; none where the package is not installed."""
    found = (match[1] or match[2] for text in module_texts(package, "models") for match in _REGISTERED_MODEL.finditer(text))
    return sorted(set(found))


def imagenet_names() -> Sequence[str]:
    """The thousand class names in torchvision's source; none where it no longer lists them."""
    for text in module_texts("torchvision", "models"):
        if "_IMAGENET_CATEGORIES = [" in text:
            for node in ast.parse(text).body:
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.List) and len(node.value.elts) == IMAGENET_SIZE:
                    return list(ast.literal_eval(node.value))
    return ()
