"""Heads that a task's support set computes: the ``start`` of an inner loop."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metarl.core import Batch, Params, part
from metarl.nn import Classifier


StartFn: TypeAlias = Callable[[Params, tuple[Batch, ...]], tuple[Params, tuple[Batch, ...]]]

HEAD = "head."


def is_head(name: str) -> bool:
    """Say whether a parameter belongs to the head of a ``Classifier``."""
    return name.startswith(HEAD)


def norms_of(module: nn.Module) -> frozenset[str]:
    """Return the names of the parameters of normalization layers: modules called ``...Norm...``."""
    return frozenset(
        f"{prefix}.{name}".removeprefix(".")
        for prefix, layer in module.named_modules()
        if "Norm" in type(layer).__name__
        for name, _ in layer.named_parameters(recurse=False)
    )


def body_of(module: nn.Module) -> Callable[..., Float[Tensor, "n features"]]:
    """Return ``(params, inputs) -> features``, from the parameters of the whole classifier.

    Raises:
        ValueError: If the module has no `body` and `head` to tell apart.
    """
    if not isinstance(module, Classifier):
        got = type(module).__name__
        raise ValueError(f"this method needs a metarl.nn.Classifier(body, head), got {got}")
    return part(module, "body")


def prototypes(
    features: Float[Tensor, "n size"], targets: Float[Tensor, "n ways"]
) -> Float[Tensor, "ways size"]:
    """Return the mean feature of every class, whatever the number of examples in each."""
    return (targets.T @ features) / targets.sum(0).clamp(min=1)[:, None]


def prototype_start(features: Callable[..., Tensor]) -> StartFn:
    """Start from the head of a prototypical network (ProtoMAML, Triantafillou et al. 2020, §3).

    Logits −‖f − c‖² are those of a linear head with weights 2c and bias −‖c‖², but for a term that
    all classes share. Gradients flow through the prototypes c into the body, also in first order.
    """

    def start(params: Params, batches: tuple[Batch, ...]) -> tuple[Params, tuple[Batch, ...]]:
        inputs, targets = batches[0][:2]
        centers = prototypes(features(params, inputs), targets)
        head = {"head.weight": 2 * centers, "head.bias": -(centers * centers).sum(-1)}
        return {**params, **head}, batches

    return start


def zero_start(size: int) -> StartFn:
    """Start from a head of zeros: first-order MAML for any number of classes (ibid.)."""

    def start(params: Params, batches: tuple[Batch, ...]) -> tuple[Params, tuple[Batch, ...]]:
        targets = batches[0][1]
        weight = targets.new_zeros(targets.shape[-1], size)
        return {**params, "head.weight": weight, "head.bias": weight[:, 0]}, batches

    return start


def nearest_neighbor(
    features: Callable[..., Tensor], params: Params, support: Batch, query: Batch
) -> Float[Tensor, "n ways"]:
    """Return the negative squared distance to the nearest support example of every class."""
    theirs, targets = features(params, support[0]), support[1]
    mine = features(params, query[0], *query[2:])
    distances = ((mine[:, None] - theirs) ** 2).sum(-1)
    return -torch.where(targets.T[None] > 0, distances[:, None], torch.inf).amin(-1)
