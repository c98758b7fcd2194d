"""What the shell proposes for an option's value: fast, so nothing here imports torch.

Names of models and methods are read from the source of the packages that register them: importing those takes seconds.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import typer

from camcli.config.run import RunConfig
from camcli.documents import parse_json, read_document
from camcli.errors import LabelsError
from camcli.layout import FITTED_MARK
from camcli.models.labels import IMAGENET_SIZE, read_labels

Completion = Callable[[typer.Context, str], list[str]]

_REGISTERED_MODEL = re.compile(r"^@register_model\b(?:\(name=\"(\w+)\")?.*?^def (\w+)\(", re.MULTILINE | re.DOTALL)
_REGISTERED_METHOD = re.compile(r"^@(?:gradient|scene)_method\(\s*\"([^\"]+)\"", re.MULTILINE)
_TIMM = "timm/"
_DEVICES = ("auto", "cpu", "cuda", "mps")


def completion_of(name: str, choices: Sequence[str] = ()) -> Completion | None:
    """What completes the values of the option ``name``, which may be one of ``choices``; None for a value of its own."""
    known: dict[str, Completion] = {"model": models, "method": methods, "class": classes, "device": _one_of(_DEVICES)}
    return known.get(name) or (_one_of(choices) if choices else None)


def _one_of(choices: Sequence[str]) -> Completion:
    def complete(context: typer.Context, incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def models(context: typer.Context, incomplete: str) -> list[str]:
    """The bundled model, torchvision's classifiers, and timm's once ``timm/`` has been typed."""
    if incomplete.startswith(_TIMM):
        return [name for name in (_TIMM + name for name in _names_in("timm")) if name.startswith(incomplete)]
    return [name for name in sorted({RunConfig.model, _TIMM, *_names_in("torchvision")}) if name.startswith(incomplete)]


def _names_in(package: str) -> list[str]:
    """Every model that a module of ``package.models`` registers, sorted; none where the package is not there."""
    found = (match[1] or match[2] for text in _sources(package, "models") for match in _REGISTERED_MODEL.finditer(text))
    return sorted(set(found))


def methods(context: typer.Context, incomplete: str) -> list[str]:
    """The methods that ``camcli methods`` lists."""
    return sorted(
        name for text in _sources("camcli", "cam") for name in _REGISTERED_METHOD.findall(text) if name.startswith(incomplete)
    )


def _sources(package: str, folder: str) -> Iterator[str]:
    """The texts of the modules right in ``folder`` of ``package``, which is not imported."""
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        with contextlib.suppress(OSError), os.scandir(os.path.join(place, folder)) as entries:
            for entry in entries:
                if entry.name.endswith(".py") and entry.is_file():
                    with open(entry.path, encoding="utf-8") as file:
                        yield file.read()


def classes(context: typer.Context, incomplete: str) -> list[str]:
    """The classes of the model that the command line names so far, with ``_`` for spaces, as ``--class`` understands them.

    Names that several classes bear are left out, and so are those that a shell would have to quote.
    """
    names = [re.sub(r"\s+", "_", name) for name in _class_names(context.params)]
    once = {name for name, count in Counter(map(str.casefold, names)).items() if count == 1}
    fitting = (name for name in names if name.casefold() in once and re.fullmatch(r"[\w.,/+-]+", name))
    return _continued(fitting, incomplete)


def _continued(names: Iterable[str], incomplete: str) -> list[str]:
    """Those that begin like ``incomplete`` whatever the case, spelled as it is typed: a shell keeps what is there."""
    return [incomplete + name[len(incomplete) :] for name in names if name[: len(incomplete)].casefold() == incomplete.casefold()]


def _class_names(given: dict[str, Any]) -> Sequence[str]:
    """From ``--labels``, a folder of camcli fit, or ImageNet; none for a factory's model, which would have to run."""
    model = given.get("model") or given.get("name") or RunConfig.model
    if given.get("labels"):
        with contextlib.suppress(LabelsError):
            return read_labels(given["labels"], None)
        return ()
    description = os.path.join(model, FITTED_MARK)
    if os.path.isfile(description):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return [str(name) for name in parse_json(read_document(description))["classes"]]
        return ()
    return () if ":" in model else _imagenet_classes()


def _imagenet_classes() -> Sequence[str]:
    """The thousand names, as torchvision's source lists them; none where it does so no more."""
    for text in _sources("torchvision", "models"):
        if "_IMAGENET_CATEGORIES = [" in text:
            for node in ast.parse(text).body:
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.List) and len(node.value.elts) == IMAGENET_SIZE:
                    return list(ast.literal_eval(node.value))
    return ()
