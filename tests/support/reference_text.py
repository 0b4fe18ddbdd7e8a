"""LEOPARD in plain autograd on the complete model of ``transformers``, one task at a time.

No code of the package is used. Parameters have the names of the classifier.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from metarl.core import Batch, MetaParams, Params, Task
from tests.support.sentences import LAYERS


PARTS = ("body.encoder.lower.model.", "body.encoder.upper.model.")


class Plain(NamedTuple):
    """The encoder and the settings of the adaptation."""

    model: nn.Module
    top: int
    clip: float
    first_order: bool = True
    accumulates: bool = True
    steps: int = 3

    def adapts(self, name: str) -> bool:
        layers = [f"encoder.layer.{index}." for index in range(LAYERS - self.top, LAYERS)]
        return name.startswith(("head.", "body.features.")) or any(x in name for x in layers)

    def encode(self, params: Params, inputs: dict[str, Tensor]) -> Tensor:
        """Return the mean over the tokens of the last layer."""
        own = {
            name: next(params[part + name] for part in PARTS if part + name in params)
            for name, _ in self.model.named_parameters()
        }
        mask = inputs["attention_mask"].long()
        output: Any = functional_call(self.model, own, (), {**inputs, "attention_mask": mask})
        states = output.last_hidden_state
        return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def head(self, params: Params, batch: Batch) -> Params:
        """Return the mean generated vector of each class, one sentence at a time."""
        inputs, targets = batch
        rows = []
        for way in range(targets.shape[1]):
            made = []
            for index in targets[:, way].nonzero().flatten().tolist():
                length = int(inputs["attention_mask"][index].sum())
                one = {name: x[index : index + 1, :length] for name, x in inputs.items()}
                made.append(two_layers(params, "generator.", self.encode(params, one))[0])
            rows.append(sum(made[1:], made[0]) / len(made))
        numbers = torch.stack(rows)
        return {"head.weight": numbers[:, :-1], "head.bias": numbers[:, -1]}

    def logits(self, params: Params, inputs: dict[str, Tensor]) -> Tensor:
        features = two_layers(params, "body.features.", self.encode(params, inputs))
        return F.linear(features, params["head.weight"], params["head.bias"])

    def loss(self, params: Params, batch: Batch) -> Tensor:
        return F.cross_entropy(self.logits(params, batch[0]), batch[1].argmax(-1))

    def accuracy(self, params: Params, batch: Batch) -> float:
        with torch.no_grad():
            right = self.logits(params, batch[0]).argmax(-1) == batch[1].argmax(-1)
        return right.double().mean().item()

    def path(self, meta: MetaParams, support: tuple[Batch, ...]) -> list[Params]:
        """Return the parameters after 0, 1, ... steps; the first batch generates the head."""
        path = [meta.model | self.head(meta.model, support[0])]
        for step in range(self.steps):
            batch = support[1 + step % (len(support) - 1)]
            # A copy: inner gradients do not flow into the generator.
            now = {n: p.detach() if self.first_order else p.clone() for n, p in path[-1].items()}
            chosen = {n: p.requires_grad_() for n, p in now.items() if self.adapts(n)}
            grads = torch.autograd.grad(
                self.loss(now, batch), [*chosen.values()], create_graph=not self.first_order
            )
            norm = torch.cat([grad.flatten() for grad in grads]).norm()
            factor = (self.clip / norm).clamp(max=1.0)
            params = dict(path[-1])
            for name, grad in zip(chosen, grads, strict=True):
                lost = name.startswith("head.") and not self.accumulates
                before = path[0 if lost else -1][name]
                params[name] = before - meta.inner[rate_of(name)][step] * factor * grad
            path.append(params)
        return path

    def gradient(self, meta: MetaParams, task: Task) -> MetaParams:
        """Differentiate the query loss through the complete adaptation."""
        meta = MetaParams(*({n: p.clone().requires_grad_() for n, p in x.items()} for x in meta))
        leaves = [*meta.model.values(), *meta.inner.values()]
        loss = self.loss(self.path(meta, task.support)[-1], task.query)
        found = iter(torch.autograd.grad(loss, leaves))
        return MetaParams(*({name: next(found) for name in part} for part in meta))


def two_layers(params: Params, prefix: str, x: Tensor) -> Tensor:
    hidden = torch.tanh(F.linear(x, params[f"{prefix}0.weight"], params[f"{prefix}0.bias"]))
    return F.linear(hidden, params[f"{prefix}2.weight"], params[f"{prefix}2.bias"])


def rate_of(name: str) -> str:
    """Return the name of the group with a shared rate: head, feature layer or encoder layer."""
    layers = ["head", "body.features.0", "body.features.2"]
    layers += [f"{PARTS[1]}encoder.layer.{index}" for index in range(LAYERS)]
    (layer,) = (layer for layer in layers if name.startswith(layer + "."))
    return f"1.lr.{layer}"
