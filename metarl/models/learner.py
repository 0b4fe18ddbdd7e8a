"""Adaptation of a trained network to a labeled support set, without the data of its training."""

import copy
from collections.abc import Callable
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
    """The run that a model comes from, which files of adapted models contain.

    Attributes:
        experiment: Name of the experiment, as in ``metarl train NAME``.
        config: Configuration of the run.
    """

    experiment: str
    config: RunConfig


class Learner(NamedTuple):
    """A trained network with the inner loop that adapts the network to a support set.

    Attributes:
        origin: The run.
        network: The network, with any parameters and any number of classes.
        loop: Function ``(steps, start) -> inner loop``. None selects the number of inner steps at
            test time, or the initial head, of the run.
        params: The meta-parameters.
        batches: Function ``(support, steps, seed) -> batches`` that splits a support batch with a
            task axis of size 1 into the batches of the inner steps.
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

        Batch norms in the module use the statistics of the support set.

        Args:
            inputs: Support inputs of the network, a tensor or a dictionary of tensors.
            targets: Support targets: one-hot of shape (n, ways), or values of shape (n, outputs).
            steps: Number of inner steps. Default: the number of the run at test time.
            start: Initial head, ``"prototypes"`` or ``"zero"``. Default: the head of the run.
            seed: Random seed of minibatches.

        Raises:
            ValueError: If `steps` is negative, or the run cannot adapt to these targets.
        """
        if steps is not None and steps < 0:
            raise ValueError(f"`steps` must be at least 0, got {steps}")
        loop = self.loop(steps, start)
        support = tree.map_leaves(lambda x: x.to(self.device)[None], (inputs, targets))
        batches = self.batches(support, loop.num_steps or 0, seed)
        whole, each = tree.map_leaves(lambda x: x.squeeze(0), (support, batches))
        self._require_sizes(loop, each)
        meta = self.params if start is None else _without_head(self.params)
        with torch.no_grad():
            params = loop.adapt(meta, each)
        return plain(self.network, params, whole[0])

    def _require_sizes(self, loop: InnerLoop, batches: Batches) -> None:
        """Raise a ValueError if learned step sizes do not fit the head of the support set."""
        if not (self.params.inner and loop.num_steps):
            return
        with torch.no_grad():
            params, _ = loop.start(self.params.model, batches)
        fast, _ = split(params, loop.adapts)
        needed, learned = loop.optimizer.constants(fast), self.params.inner
        wrong = [n for n, x in needed.items() if n not in learned or learned[n].shape != x.shape]
        if wrong:
            raise ValueError(
                f"the learned step sizes of the run do not fit this head ({wrong[0]}). Use as many "
                "classes as in training and the head of the run, or steps=0"
            )


def plain(network: nn.Module, params: Params, support: Any = None) -> nn.Module:
    """Return a copy of a network with given parameters, whose batch norms have fixed statistics.

    Args:
        network: The network, with a linear layer ``head``.
        params: Parameters of the network by name, with a head for any number of classes.
        support: Inputs whose statistics the batch norms use. Default: the statistics are set
            later.
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
    """Return meta-parameters without the learned head, to which a new head is not related."""
    return meta._replace(model={n: x for n, x in meta.model.items() if not is_head(n)})


def restored(network: nn.Module, saved: Saved) -> nn.Module:
    """Return the adapted network in a file.

    Args:
        network: The network of the run, with any parameters and any number of classes.
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
        origin: The run.
        path: The file to write; the parent folder is created.
        **about: Other JSON values that the model needs.
    """
    params: Params = dict(module.named_parameters())
    write_adapted(path, *origin, params, tensors=_buffers(module), **about)


def copied(module: nn.Module) -> nn.Module:
    """Return a copy of an adapted network whose parameters can be trained."""
    return copy.deepcopy(module).requires_grad_(True)


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    params = dict(module.named_parameters())
    return {name: x for name, x in module.state_dict().items() if name not in params}
