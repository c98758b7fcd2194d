"""The values that a shell proposes for an option. Nothing here may import torch: that takes seconds.

The model sources propose the names of models and classes. The names of methods are read from the source text of ``camcli.cam``.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import typer

from camcli.config.run import RunConfig
from camcli.errors import LabelsError
from camcli.models.labels import read_labels
from camcli.models.source_text import module_texts
from camcli.models.sources import all_sources

Completion = Callable[[typer.Context, str], list[str]]

_REGISTERED_METHOD = re.compile(r"^@(?:gradient|scene)_method\(\s*\"([^\"]+)\"", re.MULTILINE)
_DEVICES = ("auto", "cpu", "cuda", "mps")


def completion_of(name: str, choices: Sequence[str] = ()) -> Completion | None:
    """The completion for the option ``name``, whose values may be limited to ``choices``; None where nothing is proposed."""
    return _BY_NAME.get(name) or (_one_of(choices) if choices else None)


def _one_of(choices: Sequence[str]) -> Completion:
    def complete(context: typer.Context, incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def models(context: typer.Context, incomplete: str) -> list[str]:
    """The names that the model sources propose. A source with a prefix proposes only the prefix until it has been typed."""
    found: set[str] = set()
    for source in all_sources():
        if source.prefix and not incomplete.startswith(source.prefix):
            found.add(source.prefix)
        else:
            found.update(source.complete_names())
    return sorted(name for name in found if name.startswith(incomplete))


def methods(context: typer.Context, incomplete: str) -> list[str]:
    """The methods that ``camcli methods`` lists."""
    return sorted(
        name for text in module_texts("camcli", "cam") for name in _REGISTERED_METHOD.findall(text) if name.startswith(incomplete)
    )


def classes(context: typer.Context, incomplete: str) -> list[str]:
    """The classes of the model that the command line names so far, with ``_`` for spaces, as ``--class`` understands them.

    Left out are names that several classes have, and names that a shell would have to quote.
    """
    names = [re.sub(r"\s+", "_", name) for name in _class_names(context.params)]
    once = {name for name, count in Counter(map(str.casefold, names)).items() if count == 1}
    fitting = (name for name in names if name.casefold() in once and re.fullmatch(r"[\w.,/+-]+", name))
    return _continued(fitting, incomplete)


def _continued(names: Iterable[str], incomplete: str) -> list[str]:
    """The names that begin with ``incomplete``, ignoring case, with their beginning as typed: a shell never changes that."""
    return [incomplete + name[len(incomplete) :] for name in names if name[: len(incomplete)].casefold() == incomplete.casefold()]


def _class_names(given: dict[str, Any]) -> Sequence[str]:
    """The names in the file of ``--labels``, else those that the model's source proposes."""
    if given.get("labels"):
        with contextlib.suppress(LabelsError):
            return read_labels(given["labels"], None)
        return ()
    model = given.get("model") or given.get("name") or RunConfig.model
    proposed = (source.complete_classes(model) for source in all_sources())
    return next((names for names in proposed if names is not None), ())


_BY_NAME: dict[str, Completion] = {
    "model": models,
    "backbone": models,
    "method": methods,
    "class": classes,
    "device": _one_of(_DEVICES),
}
"""The completion for each option that has one of its own."""
