"""CAVIA: context parameters alone adapt, and everything else is shared (Zintgraf et al. 2019)."""

from dataclasses import replace

from metarl.core.adapt import Batches, InnerLoop
from metarl.core.types import Params
from metarl.rl.policies import CONTEXT


def context_loop(loop: InnerLoop, size: int) -> InnerLoop:
    """Return `loop` for a policy with `size` context parameters, which start at zero in every task.

    They are no meta-parameters: what is learned is how the policy reads them.
    """

    def start(params: Params, batches: Batches) -> tuple[Params, Batches]:
        like = next(iter(params.values()))
        return {**params, CONTEXT: like.new_zeros(size)}, batches

    supplied = frozenset({CONTEXT})
    return replace(loop, start=start, fast=lambda name: name == CONTEXT, supplied=supplied)
