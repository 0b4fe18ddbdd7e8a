"""Adapted policies as plain modules, for export."""

import copy

from jaxtyping import Shaped
from torch import Tensor, nn

from metarl.core import Params
from metarl.rl import Categorical, Gaussian, Policy


class ActionModule(nn.Module):
    """A module that maps observations to action means or logits.

    Args:
        policy: A policy without memory.
        params: Parameters of the policy, without a task axis.
    """

    def __init__(self, policy: Policy, params: Params) -> None:
        super().__init__()
        self.network = copy.deepcopy(policy.module)
        self.network.load_state_dict(params, strict=False)  # buffers are part of the module
        self.network.requires_grad_(True)

    def forward(self, observations: Shaped[Tensor, "batch ..."]) -> Tensor:
        """Return means of continuous actions before clipping, or logits of discrete actions.

        Args:
            observations: Observations of shape (batch, *observation).

        Returns:
            Means of shape (batch, actions), or logits of shape (batch, number of actions).
        """
        found = self.network(observations)
        if isinstance(found, Categorical):
            return found.logits
        return found.mean if isinstance(found, Gaussian) else found.mode()
