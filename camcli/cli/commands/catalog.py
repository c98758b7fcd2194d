"""``camcli models``, ``layers``, ``classes`` and ``methods``: the values that options of ``camcli run`` take."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterator
from typing import Annotated

import typer

from camcli.cli.command import command
from camcli.cli.console import Console, print_table, stdout_for_data
from camcli.cli.loading import loading
from camcli.cli.options import MODEL_ARGUMENT, MODEL_OPTION, named_model
from camcli.config.run import RunConfig
from camcli.errors import ClassError, ModelError

_SECTION = "Models, layers, classes, methods"
_WEIGHTS = typer.Option("--weights", "-w", metavar="NAME|FILE", help="Weights of the model, as for camcli run.", show_default=False)
_LABELS = typer.Option("--labels", metavar="FILE", help="File with the class names, as for camcli run.", show_default=False)


def _matches(name: str, pattern: str) -> bool:
    """Whether ``name`` contains ``pattern`` or matches it as a glob, ignoring case."""
    folded, wanted = name.casefold(), pattern.casefold()
    return fnmatch.fnmatchcase(folded, wanted) or wanted in folded


@command("models", _SECTION)
def models(
    pattern: Annotated[
        str | None,
        typer.Argument(metavar="PATTERN", help="A part of the name, or a glob such as 'timm/vit*'.", show_default=False),
    ] = None,
) -> None:
    """List the models: name, source, parameters (millions), input (pixels), published ImageNet top-1 (%), on this machine."""
    with loading(Console()):
        from camcli.models.sources import all_sources, list_models

        found = [info for info in list_models(hidden=pattern is not None) if pattern is None or _matches(info.name, pattern)]
    if not found:
        hidden = [f", and camcli models '{source.prefix}*'" for source in all_sources() if not source.listed_by_default]
        raise ModelError(f"no model matches {pattern!r}. See them all: camcli models{''.join(hidden)}")
    rows = (
        (
            info.name,
            info.source,
            f"{info.parameters / 1e6:.1f}" if info.parameters else "",
            f"{info.input_size[0]}x{info.input_size[1]}" if info.input_size else "",
            f"{info.accuracy:.1f}" if info.accuracy else "",
            "yes" if info.cached else "no",
        )
        for info in found
    )
    print_table(("name", "source", "parameters_m", "input", "top1", "cached"), rows, right=("parameters_m", "input", "top1"))
    if pattern is None:
        Console().info(" ".join(source.hint for source in all_sources() if source.hint))


@command("layers", _SECTION)
def layers(
    name: Annotated[str | None, MODEL_ARGUMENT] = None,
    model: Annotated[str | None, MODEL_OPTION] = None,
    weights: Annotated[str | None, _WEIGHTS] = None,
    every: Annotated[bool, typer.Option("--all", help="Also list the layers that are not usable for a heatmap.")] = False,
) -> None:
    """List a model's layers in the order they run: name, type, output shape for one image, map, usable, default."""
    model = named_model(name, model)
    with loading(Console(), model, weights), stdout_for_data():
        from camcli.models.layers import default_layer, list_layers
        from camcli.models.request import ModelRequest
        from camcli.models.sources import load_model, weights_at_hand

        loaded = load_model(ModelRequest(model, weights or weights_at_hand(model)))
        found = list_layers(loaded)
    usable = any(not info.why_not for info in found)
    chosen = default_layer(loaded, found).name if usable else None
    rows = (
        (
            info.name,
            info.type_name,
            "x".join(map(str, info.shape[1:])),
            f"{info.grid.height}x{info.grid.width}" if info.grid else "",
            "yes" if not info.why_not else f"no: {info.why_not}",
            "default" if info.name == chosen else "",
        )
        for info in found
        if every or not usable or not info.why_not
    )
    print_table(("layer", "type", "output", "map", "usable", "default"), rows, right=("output", "map"))
    if not usable:
        Console().error(f"{model} has no usable layer; the column usable has the reasons.")


@command("classes", _SECTION)
def classes(
    name: Annotated[str | None, MODEL_ARGUMENT] = None,
    pattern: Annotated[
        str | None, typer.Argument(metavar="PATTERN", help="A part of the name, or a glob.", show_default=False)
    ] = None,
    model: Annotated[str | None, MODEL_OPTION] = None,
    weights: Annotated[str, _WEIGHTS] = "DEFAULT",
    labels: Annotated[str | None, _LABELS] = None,
) -> None:
    """List a model's classes: index and name. With --model, the first argument is PATTERN."""
    if model is not None and pattern is None:
        name, pattern = None, name
    model = named_model(name, model)
    with loading(Console(), model, weights), stdout_for_data(), _perhaps_a_class(name, pattern):
        from camcli.models.request import ModelRequest
        from camcli.models.sources import class_names

        names = class_names(ModelRequest(model, weights, labels))
    rows = [(str(index), name) for index, name in enumerate(names) if pattern is None or _matches(name, pattern)]
    if not rows:
        from camcli.models.labels import similar_classes

        raise ClassError(f"no class of {model} matches {pattern!r}.{similar_classes(str(pattern), names)}")
    print_table(("class_index", "class_name"), rows, right=("class_index",))


@contextlib.contextmanager
def _perhaps_a_class(name: str | None, pattern: str | None) -> Iterator[None]:
    """Context in which the error for a single argument that is not a model also says how to search for a class of that name."""
    try:
        yield
    except ModelError as error:
        if name is None or pattern is not None or type(error) is not ModelError:
            raise
        from camcli.models.labels import imagenet_labels, similar_classes

        found = similar_classes(name, imagenet_labels())
        advice = f". To search for a class: camcli classes --model {RunConfig.model} {name}.{found}" if found else ""
        raise ModelError(f"{error}{advice}") from error


@command("methods", _SECTION)
def methods(
    metrics: Annotated[
        bool, typer.Option("--metrics", help="List the metrics for camcli run --metrics instead.", show_default=False)
    ] = False,
) -> None:
    """List the methods for --method: source, cost in forward passes of the network, when to use which."""
    if metrics:
        from camcli.metrics import FACTS

        facts = (
            (fact.name, fact.better, fact.passes.format(steps="--steps"), fact.measures, fact.source) for fact in FACTS.values()
        )
        print_table(("metric", "better", "forward_passes", "measures", "source"), facts)
        return
    with loading(Console()):
        from camcli.cam import METHODS

        found = list(METHODS.values())
    rows = ((method.name, method.source, method.passes, method.advice) for method in found)
    print_table(("method", "source", "forward_passes", "when"), rows)
