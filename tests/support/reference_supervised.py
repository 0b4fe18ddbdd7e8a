"""Few-shot learning in plain autograd, one task and one step at a time.

Every method is implemented from its paper, without code of the package.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.core import Batch, MetaParams, Params, Task


LR = 0.1
STEPS = 2
PROXIMAL = 2.0  # for the method "imaml"
CG_STEPS = 3

Memory = dict[str, list[Tensor]]


def same_conv(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Return an image with TensorFlow's SAME padding for 3×3 kernels.

    Padding is one pixel on each side, or one pixel at the end if the stride halves the size.
    """
    pads = [(0, 1) if stride == 2 and size % 2 == 0 else (1, 1) for size in x.shape[:1:-1]]
    return F.conv2d(F.pad(x, (*pads[0], *pads[1])), weight, bias, stride)


def plain_mlp(params: Params, x: Tensor) -> Tensor:
    hidden = torch.tanh(F.linear(x, params["0.weight"], params["0.bias"]))
    return F.linear(hidden, params["2.weight"], params["2.bias"])


def plain_features(params: Params, images: Tensor, reference: Tensor | None = None) -> Tensor:
    """Return the features of two blocks with stride 2, averaged over the pixels."""
    x, other = images, reference
    for prefix in ("body.blocks.0.", "body.blocks.1."):
        kernel, bias = params[prefix + "conv.weight"], params[prefix + "conv.bias"]
        scale, shift = params[prefix + "norm.weight"], params[prefix + "norm.bias"]
        x = same_conv(x, kernel, bias, 2)
        if other is None:
            x = F.relu(F.batch_norm(x, None, None, scale, shift, training=True))
            continue
        other = same_conv(other, kernel, bias, 2)
        variance, mean = torch.var_mean(other, (0, 2, 3), correction=0, keepdim=True)
        normal = (x - mean) / (variance + 1e-5).sqrt()
        x = F.relu(normal * scale[:, None, None] + shift[:, None, None])
        other = F.relu(F.batch_norm(other, None, None, scale, shift, training=True))
    return x.mean((2, 3))


def plain_classifier(params: Params, *inputs: Tensor) -> Tensor:
    return F.linear(plain_features(params, *inputs), params["head.weight"], params["head.bias"])


def squared(predictions: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(predictions, targets)


def entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets.argmax(-1))


class Net(NamedTuple):
    """A network and its loss."""

    forward: Callable[..., Tensor]
    criterion: Callable[[Tensor, Tensor], Tensor]

    def loss(self, params: Params, batch: Batch) -> Tensor:
        inputs, targets, *reference = batch
        return self.criterion(self.forward(params, inputs, *reference), targets)


NETS = {"mlp": Net(plain_mlp, squared), "classifier": Net(plain_classifier, entropy)}


def constant_rate(inner: Params, name: str, step: int, grad: Tensor, memory: Memory) -> Tensor:
    return LR * grad


def rate_of_parameter(inner: Params, name: str, step: int, grad: Tensor, memory: Memory) -> Tensor:
    return inner[f"lr.{name}"] * grad


def rate_of_tensor(inner: Params, name: str, step: int, grad: Tensor, memory: Memory) -> Tensor:
    return inner[f"lr.{name}"][step] * grad


def kronecker(inner: Params, name: str, grad: Tensor) -> Tensor:
    """Multiply the flat gradient by the full matrix M_out ⊗ M_in ⊗ M_kernel."""
    if grad.ndim < 2:
        return torch.diag(inner[f"scale.{name}"]) @ grad
    matrix = torch.kron(inner[f"out.{name}"], inner[f"in.{name}"])
    if grad.ndim > 2:
        matrix = torch.kron(matrix, inner[f"kernel.{name}"])
    return (matrix @ grad.reshape(-1)).view(grad.shape)


def curved(inner: Params, name: str, step: int, grad: Tensor, memory: Memory) -> Tensor:
    return LR * kronecker(inner, name, grad)


def curved_and_scaled(inner: Params, name: str, step: int, grad: Tensor, memory: Memory) -> Tensor:
    matrices = {key[2:]: matrix for key, matrix in inner.items() if key.startswith("0.")}
    return inner[f"1.lr.{name}"][step] * kronecker(matrices, name, grad)


def adaptive(inner: Params, name: str, step: int, grad: Tensor, memory: Memory) -> Tensor:
    """Return the update of Adam with β₁ = 0; its second moment is a sum over all steps so far."""
    memory.setdefault(name, []).append(grad)
    decay = 0.999 ** torch.arange(step, -1, -1, dtype=grad.dtype)
    weights = decay / decay.sum()  # (1 − β₂) Σ β₂ᵏ = 1 − β₂ᵗ
    moment = sum(w * g**2 for w, g in zip(weights, memory[name], strict=True))
    return LR * grad / (moment**0.5 + 1e-8)


class Rule(NamedTuple):
    """The rules of a method in its paper."""

    update: Callable[[Params, str, int, Tensor, Memory], Tensor] = constant_rate
    adapts: Callable[[str], bool] = lambda name: True
    first_order: bool = False
    head: str = "learned"
    steps: int = STEPS
    proximal: float = 0.0


RULES = {
    "maml": Rule(),
    "fomaml": Rule(first_order=True),
    "reptile": Rule(adaptive),
    "maml++": Rule(rate_of_tensor, adapts=lambda name: "norm" not in name),
    "meta-sgd": Rule(rate_of_parameter),
    "lslr": Rule(rate_of_tensor),
    "meta-curvature": Rule(curved),
    "maml-enhanced": Rule(curved_and_scaled),
    "anil": Rule(adapts=lambda name: name.startswith("head")),
    "boil": Rule(adapts=lambda name: not name.startswith("head")),
    "protomaml": Rule(head="prototypes"),
    "imaml": Rule(proximal=PROXIMAL),
    "zero-head": Rule(head="zero", first_order=True),
    "protonet": Rule(head="prototypes", steps=0),
    "pretrained": Rule(steps=0),
    "oracle": Rule(steps=0),
}
PER_STEP = {"maml++": "norm"}


def start(rule: Rule, params: Params, batch: Batch) -> Params:
    """Return the head of a task, computed from the support examples of each class."""
    if rule.head == "learned":
        return dict(params)
    images, targets = batch
    features = plain_features(params, images)
    if rule.head == "zero":
        return params | {
            "head.weight": torch.zeros(targets.shape[1], features.shape[1]).to(images),
            "head.bias": torch.zeros(targets.shape[1]).to(images),
        }
    centers = [features[targets[:, way] == 1].mean(0) for way in range(targets.shape[1])]
    return params | {
        "head.weight": 2 * torch.stack(centers),
        "head.bias": torch.stack([-(center @ center) for center in centers]),
    }


def at_step(params: Params, step: int, per_step: str | None) -> Params:
    """Select the row of a step, or the last row, of all per-step parameters."""
    if per_step is None:
        return params
    return {n: p[min(step, len(p) - 1)] if per_step in n else p for n, p in params.items()}


def plain_path(
    net: Net, rule: Rule, meta: MetaParams, task: Task, per_step: str | None = None
) -> list[Params]:
    """Return the parameters after every step, with the graph if `meta` requires gradients."""
    params, memory = start(rule, meta.model, task.support[0] if task.support else ()), {}
    path = [at_step(params, 0, per_step)]
    names = [n for n in params if rule.adapts(n) and not (per_step and per_step in n)]
    for step in range(rule.steps):
        variables = [_node(params[name]) for name in names]
        params = params | dict(zip(names, variables, strict=True))
        batch = task.support[step if len(task.support) > 1 else 0]
        loss = net.loss(at_step(params, step, per_step), batch)
        grads = torch.autograd.grad(loss, variables, create_graph=True, materialize_grads=True)
        moved = {}
        for name, grad in zip(names, grads, strict=True):
            slope = grad.detach() if rule.first_order else grad
            if rule.proximal:
                slope = slope + rule.proximal * (params[name] - meta.model[name])
            moved[name] = params[name] - rule.update(meta.inner, name, step, slope, memory)
        params = params | moved
        path.append(at_step(params, step, per_step))
    return path


def plain_meta_gradient(
    method: str,
    network: str,
    meta: MetaParams,
    tasks: list[Task],
    *,
    weights: tuple[float, ...] | None = None,
    first_order: bool = False,
) -> MetaParams:
    """Return the mean meta-gradient of `method` over tasks.

    Args:
        method: A row of `RULES`.
        network: A row of `NETS`.
        meta: Meta-parameters.
        tasks: List of tasks.
        weights: Weights of the losses after 1, ..., K steps; ``None`` uses only the last loss.
        first_order: Treat inner gradients as constants for every method.
    """
    rule, net = RULES[method], NETS[network]
    rule = rule._replace(first_order=first_order or rule.first_order)
    found = []
    for task in tasks:
        if method == "reptile":
            end = plain_path(net, rule, meta, task)[-1]
            found.append([p - end[name].detach() for name, p in meta.model.items()])
        elif method == "imaml":
            found.append(implicit_by_hand(net, rule, meta, task)[0])
        else:
            found.append(through_the_path(net, rule, meta, task, PER_STEP.get(method), weights))
    means = [torch.stack(values).mean(0) for values in zip(*found, strict=True)]
    names = [*meta.model, *meta.inner]
    flat = dict(zip(names, means, strict=True))
    return MetaParams({n: flat[n] for n in meta.model}, {n: flat[n] for n in meta.inner})


def implicit_by_hand(
    net: Net,
    rule: Rule,
    meta: MetaParams,
    task: Task,
    *,
    damping: float = 0.0,
    steps: int = CG_STEPS,
) -> tuple[list[Tensor], Tensor]:
    """Return the solution and the residual of textbook conjugate gradients for a dense matrix.

    The matrix is (1 + damping) I + H/λ.
    """
    end = plain_path(net, rule, meta, task)[-1]
    names = list(end)
    sizes = [end[name].numel() for name in names]

    def unflatten(vector: Tensor) -> Params:
        pieces = vector.split(sizes)
        return {n: piece.view(end[n].shape) for n, piece in zip(names, pieces, strict=True)}

    flat = torch.cat([end[name].detach().flatten() for name in names])
    support, query = task.support[0], task.query
    hessian = torch.autograd.functional.hessian(lambda v: net.loss(unflatten(v), support), flat)
    target = torch.autograd.functional.jacobian(lambda v: net.loss(unflatten(v), query), flat)
    matrix = (1 + damping) * torch.eye(len(flat), dtype=flat.dtype) + hessian / rule.proximal
    x, residual = torch.zeros_like(target), target
    direction = residual
    for _ in range(steps):
        length = (residual @ residual) / (direction @ matrix @ direction)
        x = x + length * direction
        following = residual - length * (matrix @ direction)
        growth = (following @ following) / (residual @ residual)
        residual, direction = following, following + growth * direction
    solution = unflatten(x)
    return [solution[name] for name in meta.model], (target - matrix @ x).norm()


def through_the_path(
    net: Net,
    rule: Rule,
    meta: MetaParams,
    task: Task,
    per_step: str | None = None,
    weights: tuple[float, ...] | None = None,
) -> list[Tensor]:
    """Return the gradient of one task's outer loss by backpropagation through all inner steps."""
    model, inner = ({n: p.detach().requires_grad_() for n, p in part.items()} for part in meta)
    path = plain_path(net, rule, MetaParams(model, inner), task, per_step)
    losses = [net.loss(params, task.query) for params in path]
    if weights is None:
        total = losses[-1]
    else:
        total = sum(w * loss for w, loss in zip(weights, losses[1:], strict=True))
    leaves = [*model.values(), *inner.values()]
    return list(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))


def _node(p: Tensor) -> Tensor:
    """Return copies whose inner gradients do not flow into the start."""
    return p.clone() if p.requires_grad else p.detach().requires_grad_()
