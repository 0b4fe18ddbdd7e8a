"""Adaptation of a trained network to a labeled support set, without the training data."""

import copy
from collections.abc import Callable
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from metarl.core import Batch, InnerLoop, MetaParams, Params, tree
from metarl.core.parameters import split
from metarl.models.saved import Saved, write_adapted
from metarl.nn import BatchNorm, FixedBatchNorm, linear
from metarl.runs import RunConfig
from metarl.runs.checkpoint import require_same_tensors
from metarl.supervised import is_head


Batches = tuple[Batch, ...]


class Origin(NamedTuple):
    """The run that a model was trained in; files of adapted models contain this information.

    Attributes:
        experiment: Name of the experiment, as in ``metarl train NAME``.
        config: Configuration of the run.
    """

    experiment: str
    config: RunConfig


class Learner(NamedTuple):
    """A trained network with the inner loop that adapts the network to a support set.

    Attributes:
        origin: Experiment and configuration of the run.
        network: Network with the architecture of the run. The parameters and
            the number of classes of this object are not used.
        loop: Function ``(steps, start) -> inner loop`` of the number of inner
            steps and the initial head. None selects the value that the run uses
            at test time.
        params: The meta-parameters.
        batches: Function ``(support, steps, seed) -> batches`` that splits a
            support batch with a task axis of size 1 into batches for the inner
            steps.
        ways: Number of classes of a learned head; None if any number of classes is supported.
        device: Device of the parameters.
    """

    origin: Origin
    network: nn.Module
    loop: Callable[[int | None, str | None], InnerLoop]
    params: MetaParams
    batches: Callable[[Batch, int, int], Batches]
    ways: int | None
    device: torch.device

    def adapt(
        self,
        inputs: Any,
        targets: Tensor,
        *,
        steps: int | None = None,
        start: str | None = None,
        seed: int = 0,
    ) -> nn.Module:
        """Adapt to a support set, and return the adapted network as a plain module.

        Batch-norm layers in the returned module use the statistics of the support set.

        Args:
            inputs: Support inputs of the network, a tensor or a dictionary of tensors.
            targets: Support targets: one-hot of shape (n, ways), or values of shape (n, outputs).
            steps: Number of inner steps. Default: the number of test-time steps of the run.
            start: Initial head, ``"prototypes"`` or ``"zero"``, or
                ``"learned"`` if the run has a learned head. Default: the head
                that the run uses at test time.
            seed: Random seed for the minibatches of the inner steps.

        Raises:
            ValueError: If `steps` or `start` is invalid, or the run does not
                support the number of classes.
        """
        if steps is not None and (
            not isinstance(steps, Integral) or isinstance(steps, bool) or steps < 0
        ):
            raise ValueError(f"`steps` must be an integer of at least 0, got {steps!r}")
        self.required_ways(start)
        start = None if start == "learned" else start
        loop = self.loop(steps, start)
        support = tree.map_leaves(lambda x: x.to(self.device)[None], (inputs, targets))
        batches = self.batches(support, loop.num_steps or 0, seed)
        whole, each = tree.map_leaves(lambda x: x.squeeze(0), (support, batches))
        self._require_sizes(loop, each)
        meta = self.params if start is None else _without_head(self.params)
        with torch.no_grad():
            params = loop.adapt(meta, each)
        return plain(self.network, params, whole[0])

    def required_ways(self, start: str | None) -> int | None:
        """Return the number of classes that an initial head requires; None if any is supported.

        Args:
            start: Initial head, as in :meth:`adapt`.

        Raises:
            ValueError: If the run does not support the initial head.
        """
        heads = ["prototypes", "zero", *(["learned"] if self.ways else [])]
        if start is not None and start not in heads:
            raise ValueError(f"`start` must be one of {', '.join(heads)}, got {start!r}")
        return self.ways if start in (None, "learned") else None

    def _require_sizes(self, loop: InnerLoop, batches: Batches) -> None:
        """Raise a ValueError if learned step sizes do not match the shape of the initial head."""
        if not (self.params.inner and loop.num_steps):
            return
        with torch.no_grad():
            params, _ = loop.start(self.params.model, batches)
        fast, _ = split(params, loop.adapts)
        needed, learned = loop.optimizer.constants(fast), self.params.inner
        wrong = [n for n, x in needed.items() if n not in learned or learned[n].shape != x.shape]
        if wrong:
            raise ValueError(
                f"the learned step sizes of the run do not match the initial head (parameter "
                f"{wrong[0]}). "
                "Use the number of classes and the initial head of training, or steps=0"
            )


def plain(network: nn.Module, params: Params, support: Any = None) -> nn.Module:
    """Return a copy of a network with new parameters and fixed batch-norm statistics.

    The parameters of the copy require no gradients.

    Args:
        network: The network, with a linear layer ``head``.
        params: Parameters of the copy by name. The number of classes can differ from `network`.
        support: Inputs from which the batch-norm statistics are computed.
            Default: the statistics are placeholders, which must be loaded
            afterwards.
    """
    network, ways = copy.deepcopy(network), len(params.get("head.bias", ()))
    cast(Any, network).head = linear(cast(Any, network).head.in_features, ways)
    require_same_tensors(dict(network.named_parameters()), params)
    network.load_state_dict(params, strict=False)
    network.requires_grad_(False).to(next(iter(params.values())).device)
    norms = {n: x for n, x in network.named_modules() if isinstance(x, BatchNorm)}
    seen: dict[str, Tensor] = {}
    hooks = [
        norm.register_forward_pre_hook(lambda _, given, n=name: seen.update({n: given[0]}))
        for name, norm in norms.items()
    ]
    if norms and support is not None:
        network(support)
    for hook in hooks:
        hook.remove()
    for name, norm in norms.items():
        network.set_submodule(name, FixedBatchNorm(norm, seen.get(name)))
    return network.eval()


def _without_head(meta: MetaParams) -> MetaParams:
    """Return meta-parameters without the learned head, which is replaced by a new initial head."""
    return meta._replace(model={n: x for n, x in meta.model.items() if not is_head(n)})


def restored(network: nn.Module, saved: Saved) -> nn.Module:
    """Restore an adapted network from the contents of a file.

    Args:
        network: Network with the architecture of the run. The parameters and
            the number of classes of this object are not used.
        saved: Contents of the file.

    Raises:
        ValueError: If the tensors in the file do not match the network.
    """
    module = plain(network, saved.params)
    require_same_tensors(_buffers(module), saved.tensors)
    module.load_state_dict(saved.tensors, strict=False)
    return module


def save(module: nn.Module, origin: Origin, path: str | Path, **about: Any) -> None:
    """Write an adapted network to a file, which :func:`metarl.load_adapted` reads.

    Args:
        module: The adapted network.
        origin: Experiment and configuration of the run.
        path: The file to write; the parent folder is created.
        **about: Other JSON values that the model needs, such as class names.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If a parameter is not finite.
    """
    params: Params = dict(module.named_parameters())
    write_adapted(path, *origin, params, tensors=_buffers(module), **about)


def copied(module: nn.Module) -> nn.Module:
    """Return a copy of an adapted network whose parameters can be trained."""
    return copy.deepcopy(module).requires_grad_(True)


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    params = dict(module.named_parameters())
    return {name: x for name, x in module.state_dict().items() if name not in params}
