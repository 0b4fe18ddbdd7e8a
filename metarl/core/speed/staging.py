"""Stage a function: do once what does not depend on its late inputs, repeat only what does.

A conjugate gradient applies the same linear map many times. Traced to tensor operators and cut
where the vector enters, everything else (activations, their squares, transposes) is computed once,
and what is left runs without autograd: about twice as fast as differentiating a retained graph.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx


Tensors: TypeAlias = Sequence[Tensor]
aten = torch.ops.aten

RESHAPES = {aten.squeeze_.dim: aten.squeeze.dim, aten.squeeze_.dims: aten.squeeze.dims}
SUMS = (aten.add.Tensor, aten.bmm.default, aten.mm.default, aten.sum.dim_IntList)
ELEMENTWISE = (aten.mul.Scalar, aten.mul.Tensor, aten.neg.default)
AXES = (aten.expand.default, aten.squeeze.dim, aten.unsqueeze.default, aten.select.int)
VIEWS = (aten.t.default, aten.transpose.int, aten.view.default)
# Operators by the quickest way to call them: a method of the tensor costs a third of an overload.
METHODS: dict[Any, str] = {
    operator: operator.__name__.split(".")[0] for operator in (*SUMS, *ELEMENTWISE, *AXES, *VIEWS)
}


class Staged(NamedTuple):
    """A function in two programs.

    Attributes:
        early: ``(*early inputs) -> (early outputs, residuals)``.
        late: ``(*residuals, *late inputs) -> late outputs``.
    """

    early: Callable[..., tuple[list[Tensor], list[Tensor]]]
    late: Callable[..., list[Tensor]]


def stage(
    function: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]], early: Tensors, late: Tensors
) -> Staged:
    """Trace ``function(early, late) -> (early outputs, late outputs)`` and cut it in two.

    Args:
        function: Any composition of tensor operators, ``vmap`` and gradients; its Python control
            flow and numbers become part of the programs.
        early: Example inputs, known first. The programs hold for these shapes and dtypes.
        late: Example inputs that only the late outputs may depend on.

    Raises:
        ValueError: If the function writes to a tensor in place, which cannot be moved in time.
    """
    split: list[int] = []

    def flat(*inputs: Tensor) -> list[Tensor]:
        first, second = function(inputs[: len(early)], inputs[len(early) :])
        split.append(len(first))
        return [*first, *second]

    traced = make_fx(flat)(*[x.clone() for x in (*early, *late)])
    nodes = list(traced.graph.nodes)
    _refuse_in_place(nodes)
    inputs = [n for n in nodes if n.op == "placeholder"]
    returned: list[fx.Node] = list(nodes[-1].args[0])
    body = nodes[:-1]

    waits = set(inputs[len(early) :])
    for node in body:
        if waits.intersection(node.all_input_nodes):
            waits.add(node)
    now = [n for n in body if n not in waits]
    then = [n for n in body if n in waits]
    needed = {a: None for n in then for a in n.all_input_nodes if a not in waits}
    needed |= {n: None for n in returned[split[0] :] if n not in waits}
    residuals = list(needed)

    first = _program(traced, now, [], (returned[: split[0]], residuals))
    second = _program(traced, then, residuals, returned[split[0] :])
    return Staged(first, second)


def _refuse_in_place(nodes: list[fx.Node]) -> None:
    for node in nodes:
        source = node.args[0] if node.target in RESHAPES else None
        if isinstance(source, fx.Node) and len(source.users) == 1:
            node.target = RESHAPES[node.target]  # type: ignore[index]
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.is_mutable:
            hint = "use out-of-place operators, such as ReLU(inplace=False)"
            raise ValueError(f"the function writes in place ({node.target}); {hint}")


def _program(
    root: fx.GraphModule, body: list[fx.Node], inputs: list[fx.Node], outputs: Any
) -> Callable[..., Any]:
    """Copy nodes into a graph of their own, drop what does nothing and generate its code."""
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in inputs}
    for node in body:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(fx.map_arg(outputs, copies.__getitem__))
    for node in list(graph.nodes):
        _skip(node)
    graph.eliminate_dead_code()
    for node in graph.nodes:
        if node.target in METHODS:
            node.op, node.target = "call_method", METHODS[node.target]
    return fx.GraphModule(root, graph).forward


def _skip(node: fx.Node) -> None:
    """Skip two transposes, and ``x + zeros``: what the second derivative of a ReLU adds."""
    sources = [a for a in node.args if isinstance(a, fx.Node)]
    if node.target is aten.t.default and sources[0].target is aten.t.default:
        node.replace_all_uses_with(sources[0].args[0])  # type: ignore[arg-type]
    if node.target is aten.add.Tensor and not node.kwargs and len(sources) == 2:
        for zeros, other in (sources, sources[::-1]):
            if zeros.target is aten.zeros_like.default and _kind(other) == _kind(node):
                node.replace_all_uses_with(other)
                return


def _kind(node: fx.Node) -> tuple[Any, ...]:
    value = node.meta["val"]  # strides too: a view further on may fit one layout and not the other
    return value.shape, value.stride(), value.dtype
