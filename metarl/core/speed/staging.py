"""Staging of functions: operations that do not depend on the late inputs are computed only once.

Conjugate gradients apply the same linear map to many vectors. Staging traces
the map to tensor operators and splits the operators into two programs. The
early program runs once and computes all tensors that do not depend on the
vector, such as activations. The late program computes one product without
autograd. This is about twice as fast as repeatedly differentiating a retained
graph.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx


Tensors: TypeAlias = Sequence[Tensor]
aten = torch.ops.aten
SEEDED = torch.Tag.nondeterministic_seeded

# Elementwise operators, whose result can be written to an argument that has no other users.
INTO_FIRST = (aten.add.Tensor, aten.mul.Scalar, aten.mul.Tensor, aten.neg.default)
VIEWS = {
    aten.squeeze.dim,
    aten.t.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.view.default,
}
RESHAPES = {aten.squeeze_.dim: aten.squeeze.dim, aten.squeeze_.dims: aten.squeeze.dims}
PRODUCTS = {aten.mm.default: "addmm", aten.bmm.default: "baddbmm"}
OTHERS = (aten.expand.default, aten.select.int, aten.sum.dim_IntList)
# Tensor methods of operators: calling a method has a third of the overhead of the operator.
METHODS: dict[Any, str] = {
    operator: operator.__name__.split(".")[0]
    for operator in (*INTO_FIRST, *VIEWS, *PRODUCTS, *OTHERS)
}
IN_PLACE = {operator: f"{METHODS[operator]}_" for operator in INTO_FIRST}
ADDED = {f"{method}{suffix}" for method in PRODUCTS.values() for suffix in ("", "_")}
BACKWARD = {  # derivatives of activations, with the operators that write to their first argument
    aten.tanh_backward.default: aten.tanh_backward.grad_input,
    aten.threshold_backward.default: aten.threshold_backward.grad_input,
}
FRESH = {*IN_PLACE, *IN_PLACE.values(), *PRODUCTS, *ADDED, *BACKWARD, *BACKWARD.values()}


class Staged(NamedTuple):
    """A function split into an early program and a late program.

    Attributes:
        early: ``(*early inputs) -> (early outputs, residuals)``. The
            residuals are intermediate tensors that the late program uses.
        late: ``(*residuals, *late inputs) -> late outputs``. It can be called
            several times with the same residuals.
    """

    early: Callable[..., tuple[list[Tensor], list[Tensor]]]
    late: Callable[..., list[Tensor]]


def stage(
    function: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]], early: Tensors, late: Tensors
) -> Staged:
    """Split ``function(early, late) -> (early outputs, late outputs)`` into two traced programs.

    The early program computes the early outputs from the early inputs. The late
    program computes the late outputs from the late inputs and the intermediate
    results of the early program.

    Args:
        function: A composition of tensor operators, ``vmap`` and gradients.
            Python control flow and Python numbers in the function become
            constants in the programs.
        early: Example inputs for the early program.
        late: Example inputs for the late program; the early outputs must not
            depend on these inputs.

    Returns:
        The two programs, which are valid for the shapes and dtypes of the example inputs.

    Raises:
        ValueError: If the function modifies a tensor in place.
    """
    split: list[int] = []

    def flat(*inputs: Tensor) -> list[Tensor]:
        first, second = function(inputs[: len(early)], inputs[len(early) :])
        split.append(len(first))
        return [*first, *second]

    traced = trace(flat, [x.clone() for x in (*early, *late)])
    _reject_in_place(list(traced.graph.nodes))
    _merge_equal(traced.graph)
    nodes = list(traced.graph.nodes)
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


def trace(function: Callable[..., Any], inputs: Tensors) -> fx.GraphModule:
    """Record the tensor operators of a function, without computing their results.

    Args:
        function: Function of tensors. Python control flow and Python numbers become constants.
        inputs: Example inputs; only their shapes, strides, dtypes and devices are used.

    Returns:
        A module that applies the recorded operators.
    """
    record = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)
    traced: fx.GraphModule = record(*inputs)
    return traced


def _reject_in_place(nodes: list[fx.Node]) -> None:
    for node in nodes:
        source = node.args[0] if node.target in RESHAPES else None
        if isinstance(source, fx.Node) and len(source.users) == 1:
            node.target = RESHAPES[node.target]  # type: ignore[index]
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.is_mutable:
            raise ValueError(
                f"the function modifies a tensor in place ({node.target}). Use out-of-place "
                "operators, such as ReLU(inplace=False)"
            )


def _merge_equal(graph: fx.Graph) -> None:
    """Compute equal expressions once, so that the residuals contain no tensor twice."""
    found: dict[str, fx.Node] = {}
    for node in list(graph.nodes):
        if node.target is aten.detach.default:  # no effect without autograd
            node.replace_all_uses_with(node.args[0])
        elif node.op == "call_function" and SEEDED not in getattr(node.target, "tags", ()):
            first = found.setdefault(f"{node.target}{node.args}{node.kwargs}", node)
            if first is not node:
                node.replace_all_uses_with(first)
    graph.eliminate_dead_code()


def _program(
    root: fx.GraphModule, body: list[fx.Node], inputs: list[fx.Node], outputs: Any
) -> Callable[..., Any]:
    """Copy nodes into a new graph, simplify the graph, and return the generated function.

    Args:
        root: Module that contains the constants of the nodes.
        body: The nodes to copy, in order of execution.
        inputs: Nodes whose values are the arguments of the function.
        outputs: Nodes whose values the function returns, in lists and tuples.
    """
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in inputs}
    for node in body:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(fx.map_arg(outputs, copies.__getitem__))
    simplify(graph)
    module = fx.GraphModule(root, graph)
    return module.forward


def simplify(graph: fx.Graph) -> None:
    """Remove operations without effect, fuse additions into products, and reuse memory.

    Args:
        graph: The graph of a traced function, which is changed.
    """
    for rewrite in (_skip, _accumulate, _reuse_memory):
        for node in list(graph.nodes):
            rewrite(graph, node)
        graph.eliminate_dead_code()
    for node in graph.nodes:
        if node.target in METHODS:
            node.op, node.target = "call_method", METHODS[node.target]
    graph.lint()


def _skip(graph: fx.Graph, node: fx.Node) -> None:
    """Remove views of views, and the additions of zeros in second derivatives of ReLUs."""
    sources = [a for a in node.args if isinstance(a, fx.Node)]
    source = node
    while source.target in VIEWS:
        source = source.args[0]  # type: ignore[assignment]
        if _kind(source) == _kind(node):
            node.replace_all_uses_with(source)
            return
    if node.target is aten.add.Tensor and not node.kwargs and len(sources) == 2:
        for zeros, other in (sources, sources[::-1]):
            if zeros.target is aten.zeros_like.default and _kind(other) == _kind(node):
                node.replace_all_uses_with(other)
                return


def _accumulate(graph: fx.Graph, node: fx.Node) -> None:
    """Fuse ``x + a @ b`` into one product that adds to x, in place if x has no other users."""
    if node.target is not aten.add.Tensor or node.kwargs:
        return
    terms = [a for a in node.args if isinstance(a, fx.Node)]
    if len(terms) != 2 or terms[0] is terms[1] or not any(n.target in PRODUCTS for n in terms):
        return
    order = {n: i for i, n in enumerate(graph.nodes)}
    x, product = sorted(terms, key=lambda n: (n.target in PRODUCTS, order[n]))
    if product.target not in PRODUCTS or len(product.users) > 1 or _kind(product) != _kind(node):
        return
    in_place = _is_spent(x) and _kind(x) == _kind(node)  # otherwise x is broadcast
    name = PRODUCTS[product.target] + ("_" if in_place else "")
    with graph.inserting_before(node):
        fused = graph.call_method(name, (x, *product.args))
    fused.meta = dict(node.meta)
    node.replace_all_uses_with(fused)


def _reuse_memory(graph: fx.Graph, node: fx.Node) -> None:
    """Write the result of an elementwise operator to an argument that has no other users.

    Large intermediate tensors then stay in the CPU cache.
    """
    kind = node.target
    if kind not in BACKWARD and (kind not in IN_PLACE or node.kwargs):
        return
    commutes = kind in (aten.add.Tensor, aten.mul.Tensor)
    for x, *others in (node.args, node.args[::-1]) if commutes else (node.args,):
        if not isinstance(x, fx.Node) or x in others or not _is_spent(x) or _kind(x) != _kind(node):
            continue
        with graph.inserting_before(node):
            if kind in IN_PLACE:
                written = graph.call_method(IN_PLACE[kind], (x, *others))
            else:
                written = graph.call_function(BACKWARD[kind], (x, *others), {"grad_input": x})
        written.meta = dict(node.meta)
        node.replace_all_uses_with(written)
        return


def _is_spent(node: fx.Node) -> bool:
    """Return whether the memory of a node was allocated by the program and has only one user."""
    while len(node.users) == 1 and node.target in VIEWS:
        node = node.args[0]  # type: ignore[assignment]
    return len(node.users) == 1 and node.target in FRESH


def _kind(node: fx.Node) -> tuple[Any, ...]:
    value = node.meta["val"]  # later views may depend on the strides
    return value.shape, value.stride(), value.dtype
