"""Classification heads that are computed from a task's support set."""

from collections.abc import Callable
from typing import TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metarl.core import Batch, Params, part
from metarl.core.adapt import unchanged
from metarl.nn import Classifier
from metarl.util import among


StartFn: TypeAlias = Callable[[Params, tuple[Batch, ...]], tuple[Params, tuple[Batch, ...]]]
"""Type of the `start` of an :class:`~metarl.core.InnerLoop`: a function
``(params, support batches) -> (params, remaining batches)``."""

HEAD = "head."
HEADS = ("learned", "prototypes", "zero")  # initial heads that head_start supports


def is_head(name: str) -> bool:
    """Return whether a parameter belongs to the head of a :class:`~metarl.nn.Classifier`.

    Args:
        name: Dotted name of the parameter.

    Example::

        >>> from metarl.supervised import is_head
        >>> is_head("head.weight"), is_head("body.blocks.0.conv.weight")
        (True, False)
    """
    return name.startswith(HEAD)


def norms_of(module: nn.Module) -> frozenset[str]:
    """Return the names of all parameters in normalization layers.

    A layer counts as a normalization layer if the name of its class contains ``Norm``.

    Args:
        module: The module to search.

    Example::

        >>> from metarl.nn import LayerNorm, linear
        >>> from metarl.supervised import norms_of
        >>> sorted(norms_of(torch.nn.Sequential(linear(3, 4), LayerNorm(4))))
        ['1.bias', '1.weight']
    """
    return frozenset(
        f"{prefix}.{name}".removeprefix(".")
        for prefix, layer in module.named_modules()
        if "Norm" in type(layer).__name__
        for name, _ in layer.named_parameters(recurse=False)
    )


def body_of(module: nn.Module) -> Callable[..., Float[Tensor, "n features"]]:
    """Return the body of a classifier as a function ``(params, inputs) -> features``.

    Args:
        module: A :class:`~metarl.nn.Classifier`.

    Returns:
        A function that takes the parameters of the whole classifier and
        inputs of shape (n, ...), and returns features of shape (n, features).

    Raises:
        ValueError: If the module is not a :class:`~metarl.nn.Classifier`.

    Example::

        >>> from metarl.core import functional
        >>> from metarl.nn import Classifier, linear
        >>> from metarl.supervised import body_of
        >>> module = Classifier(linear(3, 8), linear(8, 5))
        >>> _, params = functional(module)
        >>> body_of(module)(params, torch.rand(10, 3)).shape
        torch.Size([10, 8])
    """
    if not isinstance(module, Classifier):
        got = type(module).__name__
        raise ValueError(f"the network must be a metarl.nn.Classifier(body, head), got {got}")
    return part(module, "body")


def prototypes(
    features: Float[Tensor, "n size"], targets: Float[Tensor, "n ways"]
) -> Float[Tensor, "ways size"]:
    """Return the prototype of each class, which is the mean feature vector of the class.

    Classes may have different numbers of examples. The prototype of a class
    without examples is zero.

    Args:
        features: One feature vector per example.
        targets: One-hot targets.

    Example::

        >>> from metarl.supervised import prototypes
        >>> prototypes(torch.rand(10, 64), torch.eye(5).repeat(2, 1)).shape
        torch.Size([5, 64])
    """
    return (targets.T @ features) / targets.sum(0).clamp(min=1)[:, None]


def prototype_start(features: Callable[..., Tensor]) -> StartFn:
    """Return an inner-loop start that sets the head to the class prototypes (ProtoMAML).

    For features f and a prototype c, a prototypical network has the logit −‖f
    − c‖². A linear head with weights 2c and bias −‖c‖² has the same logits,
    up to a term shared by all classes (Triantafillou et al. 2020, §3).
    Gradients flow through the prototypes into the body, even if the inner
    loop is first-order.

    Args:
        features: The body as a function ``(params, inputs) -> features``, from :func:`body_of`.

    Returns:
        A `start` for :class:`~metarl.core.InnerLoop`.

    Example::

        >>> from metarl.nn import Classifier, linear
        >>> from metarl.supervised import body_of, prototype_start
        >>> module = Classifier(linear(3, 8), linear(8, 5))
        >>> support = torch.rand(10, 3), torch.eye(5).repeat(2, 1)
        >>> start = prototype_start(body_of(module))
        >>> params, _ = start(dict(module.named_parameters()), (support,))
        >>> params["head.weight"].shape
        torch.Size([5, 8])
    """

    def start(params: Params, batches: tuple[Batch, ...]) -> tuple[Params, tuple[Batch, ...]]:
        inputs, targets = batches[0][:2]
        _require_one_hot(targets)
        centers = prototypes(features(params, inputs), targets)
        head = {"head.weight": 2 * centers, "head.bias": -(centers * centers).sum(-1)}
        return {**params, **head}, batches

    return start


def zero_start(size: int) -> StartFn:
    """Return an inner-loop start that sets the head to zeros.

    The head has one row per class of the task, so the number of classes may
    vary between tasks. With a first-order inner loop, this is fo-MAML in
    Triantafillou et al. 2020, §3.

    Args:
        size: Number of features that the body returns per example.

    Returns:
        A `start` for :class:`~metarl.core.InnerLoop`.

    Example::

        >>> from metarl.supervised import zero_start
        >>> params, _ = zero_start(8)({}, ((torch.rand(10, 3), torch.eye(5).repeat(2, 1)),))
        >>> params["head.weight"].shape
        torch.Size([5, 8])
    """

    def start(params: Params, batches: tuple[Batch, ...]) -> tuple[Params, tuple[Batch, ...]]:
        targets = batches[0][1]
        _require_one_hot(targets)
        weight = targets.new_zeros(targets.shape[-1], size)
        return {**params, "head.weight": weight, "head.bias": weight[:, 0]}, batches

    return start


def head_start(name: str, module: nn.Module) -> StartFn:
    """Return the `start` of an inner loop for an initial head.

    Args:
        name: ``"learned"`` for the meta-learned head, ``"prototypes"`` for
            :func:`prototype_start`, or ``"zero"`` for :func:`zero_start`.
        module: The network.

    Raises:
        ValueError: If the name is unknown, or the module is not a
            :class:`~metarl.nn.Classifier` although the initial head requires it.

    Example::

        >>> from metarl.nn import Classifier, linear
        >>> from metarl.supervised import head_start
        >>> start = head_start("zero", Classifier(linear(3, 8), linear(8, 5)))
        >>> params, _ = start({}, ((torch.rand(10, 3), torch.eye(5).repeat(2, 1)),))
        >>> params["head.weight"].shape
        torch.Size([5, 8])
    """
    among(HEADS).check("start", name)
    if name == "learned":
        return unchanged
    body = body_of(module)
    if name == "prototypes":
        return prototype_start(body)
    return zero_start(cast(nn.Linear, module.get_submodule("head")).in_features)


def nearest_neighbor(
    features: Callable[..., Tensor], params: Params, support: Batch, query: Batch
) -> Float[Tensor, "n ways"]:
    """Return logits for nearest-neighbor classification in feature space.

    Each logit is the negative squared distance from a query example to the
    nearest support example of a class.

    Args:
        features: The body as a function ``(params, inputs, *reference) ->
            features``, from :func:`body_of`.
        params: Parameters of the whole classifier.
        support: Support set ``(inputs, targets)`` of one task.
        query: Query set ``(inputs, targets)`` or ``(inputs, targets, reference)`` of one task.

    Returns:
        Logits of shape (query examples, ways).

    Example::

        >>> from metarl.supervised import nearest_neighbor
        >>> support = torch.eye(5), torch.eye(5)
        >>> nearest_neighbor(lambda params, x: x, {}, support, support).argmax(-1)
        tensor([0, 1, 2, 3, 4])
    """
    support_features, targets = features(params, support[0]), support[1]
    _require_one_hot(targets)
    query_features = features(params, query[0], *query[2:])
    distances = ((query_features[:, None] - support_features) ** 2).sum(-1)
    return -torch.where(targets.T[None] > 0, distances[:, None], torch.inf).amin(-1)


def _require_one_hot(targets: Tensor) -> None:
    """Raise a ValueError if targets are class indices, which do not define the number of ways."""
    if targets.ndim != 2:
        raise ValueError(
            "this head requires one-hot targets of shape (examples, ways), got shape "
            f"{tuple(targets.shape)}. Convert class indices with torch.nn.functional.one_hot"
        )
