"""A network in two parts: a trunk that is compiled for inference, and a head that is differentiated.

See "Running only what needs a gradient" in docs/performance.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from camcli.network import Tapped
from camcli.network.hooks import eval_frozen, full_precision, logits_of, override_output


@torch.library.custom_op("camcli::mark", mutates_args=())
def _mark(tensor: Tensor, position: int) -> Tensor:
    """A copy of ``tensor``; in a graph, it marks the output of chosen layer number ``position``."""
    return tensor.clone()


@_mark.register_fake
def _(tensor: Tensor, position: int) -> Tensor:
    return torch.empty_like(tensor)


@dataclass(frozen=True, slots=True)
class Partition:
    """A network in two graphs, for inputs of one ``shape`` (B, 3, H, W).

    ``trunk``: inputs -> the values that the head needs; the first ``leaves`` of them are outputs of chosen layers. ``head``: those
    values -> logits (B, K), and the outputs of the other chosen layers. ``places``: for each chosen layer its place among all
    outputs of chosen layers, those of the trunk first.
    """

    shape: torch.Size
    trunk: Callable[[Tensor], tuple[Tensor, ...]]
    head: Callable[..., tuple[Tensor, ...]]
    leaves: int
    places: tuple[int, ...]

    def run(self, inputs: Tensor) -> Tapped:
        """The logits and the output of each chosen layer, for ``inputs`` (B, 3, H, W) of ``shape``."""
        with torch.no_grad():
            values = self.trunk(inputs)
        leaves = [value.detach().requires_grad_() for value in values[: self.leaves]]
        with torch.enable_grad():
            logits, *others = self.head(*leaves, *values[self.leaves :])
        outputs = [*leaves, *others]
        return Tapped(full_precision(logits), [outputs[place] for place in self.places])


def partition_network(module: nn.Module, inputs: Tensor, names: Sequence[str]) -> Partition:
    """``module`` divided at the first of the layers ``names``, for inputs of the shape of ``inputs`` (B, 3, H, W) alone.

    Both parts share the module's parameters. Raises whatever ``torch.export`` raises for a network that it cannot export, and
    ValueError for a layer that does not run.
    """
    root = _export_marked(module, inputs, names)
    marks = {int(node.args[1]): node for node in root.graph.nodes if _is_mark(node)}  # the last one of a layer that runs again
    missing = [name for position, name in enumerate(names) if position not in marks]
    if missing:
        raise ValueError(f"layer {missing[0]!r} does not run in the exported network")
    after = _dependents(root.graph, set(marks.values()))
    first = [position for position in range(len(names)) if marks[position] not in after]
    later = [position for position in range(len(names)) if marks[position] in after]
    leaves = [marks[position] for position in first]
    needed = {source for node in after for source in node.all_input_nodes if source.op != "get_attr"}
    crossing = leaves + [node for node in root.graph.nodes if node in needed and node not in after and node not in leaves]
    order = first + later
    return Partition(
        inputs.shape,
        _trunk(root, after, crossing),
        _head(root, after, crossing, [marks[position] for position in later]),
        len(leaves),
        tuple(order.index(position) for position in range(len(names))),
    )


class _LogitsOnly(nn.Module):
    """A classifier that returns nothing but its logits."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = False

    def forward(self, inputs: Tensor) -> Tensor:
        return logits_of(self.module(inputs))


def _export_marked(module: nn.Module, inputs: Tensor, names: Sequence[str]) -> fx.GraphModule:
    """The graph of ``module`` without in-place operations, with a mark after each of the layers ``names``."""
    with ExitStack() as stack:
        stack.enter_context(eval_frozen(module))
        stack.enter_context(torch.no_grad())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for position, name in enumerate(names):
            mark: Any = partial(_mark, position=position)
            stack.enter_context(override_output(module, name, mark))
        program = torch.export.export(_LogitsOnly(module), (inputs,), strict=False).run_decompositions({})
    root = program.module()
    assert isinstance(root, fx.GraphModule)
    for node in list(root.graph.nodes):
        if node.op == "call_module":  # checks of the input's shape; the caller of Partition.run makes them
            root.graph.erase_node(node)
    return root


def _is_mark(node: fx.Node) -> bool:
    return node.target is torch.ops.camcli.mark.default


def _dependents(graph: fx.Graph, marks: set[fx.Node]) -> set[fx.Node]:
    """All nodes that depend on a mark, and the output."""
    after: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "output" or any(source in after or source in marks for source in node.all_input_nodes):
            after.add(node)
    return after


def _trunk(root: fx.GraphModule, after: set[fx.Node], crossing: list[fx.Node]) -> fx.GraphModule:
    """The graph of the nodes that are not in ``after``; it returns the values of ``crossing``."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in root.graph.nodes:
        if node not in after:
            copies[node] = copies[node.args[0]] if _is_mark(node) else graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in crossing))
    return _finished(root, graph)


def _head(root: fx.GraphModule, after: set[fx.Node], crossing: list[fx.Node], marks: list[fx.Node]) -> fx.GraphModule:
    """The graph of the nodes in ``after``: from the values of ``crossing`` to the logits and the values of ``marks``."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for place, node in enumerate(crossing):
        copies[node] = graph.placeholder(f"crossing_{place}")
    for node in root.graph.nodes:
        if node.op == "output":
            (logits,) = node.args[0]
            graph.output((copies[logits], *(copies[mark] for mark in marks)))
        elif node in after and _is_mark(node):  # an alias: a tensor of its own, for which a gradient can be asked
            copies[node] = graph.call_function(torch.ops.aten.alias.default, (copies[node.args[0]],))
        elif node in after or node.op == "get_attr":
            copies[node] = graph.node_copy(node, copies.__getitem__)
    return _finished(root, graph)


def _finished(root: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    graph.eliminate_dead_code()
    graph.lint()
    return fx.GraphModule(root, graph)
