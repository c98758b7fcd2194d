"""The network cut at its first chosen layer: a trunk for inference, and the head that follows it, which is differentiated.

The cut is made in the graph that ``torch.export`` records, which has no in-place operations. A mark stands in it where each chosen
layer returned; everything that does not follow from a marked value belongs to the trunk, in whatever order the network does it.
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
    """A copy of ``tensor``; in a graph, the place where chosen layer number ``position`` returned."""
    return tensor.clone()


@_mark.register_fake
def _(tensor: Tensor, position: int) -> Tensor:
    return torch.empty_like(tensor)


@dataclass(frozen=True, slots=True)
class Split:
    """A network in two graphs for inputs of one ``shape`` (B, 3, H, W).

    ``trunk``: inputs -> the values that cross the cut. ``head``: those -> logits (B, K) and the marked values inside the head.
    ``leaves``: chosen layer -> its place among the crossing values, for those that the trunk ends with. ``inner``: chosen layer ->
    its place among the head's marked values.
    """

    shape: torch.Size
    trunk: Callable[[Tensor], tuple[Tensor, ...]]
    head: Callable[..., tuple[Tensor, ...]]
    leaves: dict[int, int]
    inner: dict[int, int]

    def run(self, inputs: Tensor) -> Tapped:
        """The logits, and what each chosen layer returned. ``inputs`` (B, 3, H, W) of ``shape``."""
        with torch.no_grad():
            crossing = list(self.trunk(inputs))
        for place in self.leaves.values():
            crossing[place] = crossing[place].detach().requires_grad_()
        with torch.enable_grad():
            logits, *marked = self.head(*crossing)
        outputs = {position: crossing[place] for position, place in self.leaves.items()}
        outputs |= {position: marked[place] for position, place in self.inner.items()}
        return Tapped(full_precision(logits), [outputs[position] for position in sorted(outputs)])


def split_network(module: nn.Module, inputs: Tensor, names: Sequence[str]) -> Split:
    """``module`` cut at the first of the layers ``names``, for inputs like ``inputs`` (B, 3, H, W) and no other shape.

    The parameters are shared. Raises whatever ``torch.export`` raises on a network that it cannot record, and ValueError where a
    layer of ``names`` leaves no mark.
    """
    graph_module = _exported(module, inputs, names)
    graph = graph_module.graph
    marks: dict[int, fx.Node] = {}
    for node in graph.nodes:
        if node.target is torch.ops.camcli.mark.default:
            marks[int(node.args[1])] = node  # a module that runs several times: its last output counts
    missing = [name for position, name in enumerate(names) if position not in marks]
    if missing:
        raise ValueError(f"layer {missing[0]!r} left no mark")
    after = _followers(graph, set(marks.values()))
    leaves = {position: mark for position, mark in marks.items() if mark not in after}
    trunk, crossing = _trunk(graph_module, after, list(leaves.values()))
    inner = [position for position, mark in marks.items() if mark in after]
    head = _head(graph_module, after, crossing, [marks[position] for position in inner])
    places = {node: place for place, node in enumerate(crossing)}
    return Split(
        inputs.shape,
        trunk,
        head,
        {position: places[mark] for position, mark in leaves.items()},
        {position: place for place, position in enumerate(inner)},
    )


class _LogitsOnly(nn.Module):
    """A classifier whose only result is its logits."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = False

    def forward(self, inputs: Tensor) -> Tensor:
        return logits_of(self.module(inputs))


def _exported(module: nn.Module, inputs: Tensor, names: Sequence[str]) -> fx.GraphModule:
    """The graph of ``module`` without in-place operations, with a mark behind each layer of ``names``."""
    with ExitStack() as stack:
        stack.enter_context(eval_frozen(module))
        stack.enter_context(torch.no_grad())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for position, name in enumerate(names):
            mark: Any = partial(_mark, position=position)
            stack.enter_context(override_output(module, name, mark))
        program = torch.export.export(_LogitsOnly(module), (inputs,), strict=False).run_decompositions({})
    graph_module = program.module()
    assert isinstance(graph_module, fx.GraphModule)
    for node in list(graph_module.graph.nodes):
        if node.op == "call_module":  # checks of the input's shape, which Split's caller has made
            graph_module.graph.erase_node(node)
    return graph_module


def _followers(graph: fx.Graph, marks: set[fx.Node]) -> set[fx.Node]:
    """All nodes that depend on a mark, and the output."""
    after: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "output" or any(source in after or source in marks for source in node.all_input_nodes):
            after.add(node)
    return after


def _trunk(root: fx.GraphModule, after: set[fx.Node], leaves: list[fx.Node]) -> tuple[fx.GraphModule, list[fx.Node]]:
    """The graph of what is not in ``after``, and the nodes whose values it returns."""
    used = {source for node in after for source in node.all_input_nodes if source not in after and source.op != "get_attr"}
    crossing = [node for node in root.graph.nodes if node in used or node in leaves]
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in root.graph.nodes:
        if node not in after:
            is_mark = node.target is torch.ops.camcli.mark.default
            copies[node] = copies[node.args[0]] if is_mark else graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in crossing))
    return _compiled_graph(root, graph), crossing


def _head(root: fx.GraphModule, after: set[fx.Node], crossing: list[fx.Node], marks: list[fx.Node]) -> fx.GraphModule:
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for place, node in enumerate(crossing):
        copies[node] = graph.placeholder(f"crossing_{place}")
    for node in root.graph.nodes:
        if node.op == "get_attr":
            copies[node] = graph.node_copy(node, copies.__getitem__)
        elif node in after and node.op != "output":
            copies[node] = graph.node_copy(node, copies.__getitem__)
            if node.target is torch.ops.camcli.mark.default:
                copies[node].target = torch.ops.aten.alias.default  # what follows the layer, told from what it was made of
                copies[node].args = copies[node].args[:1]
                copies[node].kwargs = {}
    output = next(node for node in root.graph.nodes if node.op == "output")
    (logits,) = output.args[0]
    graph.output((copies[logits], *(copies[mark] for mark in marks)))
    return _compiled_graph(root, graph)


def _compiled_graph(root: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    graph.eliminate_dead_code()
    graph.lint()
    return fx.GraphModule(root, graph)
