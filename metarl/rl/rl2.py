"""RL²: a recurrent policy that adapts with its memory (Duan et al. 2016; Wang et al. 2016)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import vmap

from metarl import core
from metarl.core import InnerLoop, MetaLearner, MetaParams, MetaState, Metrics, Outer, Task, tree
from metarl.core.speed import chunks
from metarl.rl.baseline import advantages, discounted_sum
from metarl.rl.episodes import Episodes, Rollout, masked, masked_mean, rollout_metrics
from metarl.rl.losses import mean_kl, surrogate
from metarl.rl.recurrent import RecurrentPolicy
from metarl.util import at_least, check_arguments, greater_than


SCALE = "return_scale"


class Segments(NamedTuple):
    """Parts of trials, each with the memory at its first time step.

    Attributes:
        episodes: Transitions with the axes (*task, time, segment).
        carry: The policy's carry before the first time step, with the axes (*task, segment).
        returns: Targets of the value layer, of shape (*task, time, segment).
    """

    episodes: Episodes
    carry: Any
    returns: Float[Tensor, "*task time segment"]

    @property
    def mask(self) -> Bool[Tensor, "*task time segment"]:
        """True for transitions, False for padding."""
        return self.episodes.mask


def collect_trials(
    sampler: Any, policy: Any, loop: InnerLoop, meta: MetaParams, *way: Any
) -> tuple[Rollout, Metrics]:
    """Collect a meta-batch of trials, each with ``loop.num_steps + 1`` episodes.

    Args:
        sampler: The :class:`~metarl.rl.sampler.Sampler`.
        policy: The policy.
        loop: The inner loop; only the number of steps is used.
        meta: The meta-parameters.
        way: The tasks, the generator and the process of :meth:`Sampler.collect
            <metarl.rl.sampler.Sampler.collect>`.

    Returns:
        The trials, in which the episodes of a trial follow each other on the time axis, and metrics
        of the collected episodes.
    """
    batch, metrics = sampler.collect(policy, loop, meta, *way)
    return join_episodes([*batch.support, batch.query]), metrics | rollout_metrics(batch)


def join_episodes(batches: Sequence[Episodes]) -> Rollout:
    """Join the consecutive episodes of each trial on the time axis, without gaps.

    Args:
        batches: The first, second, ... episodes of all trials, with the axes (task, time, episode).

    Returns:
        Trials with the axes (task, time, trial), padded at the end of the time axis.
    """
    joined = tree.map_leaves(lambda *parts: torch.cat(parts, 1), *batches)
    order = (~joined.mask).to(torch.uint8).argsort(dim=1, stable=True)

    def moved(x: Tensor) -> Tensor:
        index = order.reshape(*order.shape, *[1] * (x.ndim - order.ndim)).expand_as(x)
        return x.gather(1, index)

    trials = tree.map_leaves(moved, joined)
    return Rollout(*trials[:5], torch.zeros_like(trials.mask), trials.infos)


def trial_loss(
    policy: RecurrentPolicy, *, clip: float, entropy: float, value_coefficient: float
) -> Outer:
    """Return PPO's loss on segments of trials (Schulman et al. 2017, eq. 9).

    Args:
        policy: The policy.
        clip: PPO's clipping range ε.
        entropy: Coefficient of the entropy bonus.
        value_coefficient: Coefficient of the squared error of the value layer, if there is one.
    """

    def outer(path: list[core.Params], task: Task) -> tuple[Tensor, Metrics]:
        segments: Segments = task.query
        batch, mask = segments.episodes, segments.mask
        _, distribution, values = policy.scan_with_values(
            path[-1], segments.carry, batch.observations
        )
        loss, spread = surrogate(distribution, batch, clip=clip), distribution.entropy()
        metrics = {"outer/surrogate": loss, "outer/kl": mean_kl(distribution, batch)}
        metrics["policy/entropy"] = masked_mean(spread, mask)
        loss = loss - entropy * metrics["policy/entropy"]
        if values is not None:
            metrics["outer/value_loss"] = masked_mean((values - segments.returns) ** 2, mask)
            loss = loss + value_coefficient * metrics["outer/value_loss"]
        return loss, metrics

    return outer


def rl2(
    policy: RecurrentPolicy,
    loop: InnerLoop,
    *,
    clip: Annotated[float, greater_than(0)] = 0.2,
    outer_lr: Annotated[float, at_least(0)] = 1e-3,
    epochs: Annotated[int, at_least(1)] = 5,
    minibatches: Annotated[int, at_least(1)] = 4,
    bptt: Annotated[int | None, at_least(1)] = None,
    entropy: Annotated[float, at_least(0)] = 0.0,
    baseline: Literal["linear", "value"] = "linear",
    value_coefficient: Annotated[float, at_least(0)] = 0.5,
    discount: float = 0.99,
    gae_lambda: float = 1.0,
) -> MetaLearner:
    """Return RL², which trains a recurrent policy with PPO on whole trials.

    A trial consists of several episodes of one task. The memory of the policy
    is kept until the end of the trial, and no gradient step adapts. The
    discounted returns and the advantages run across the ends of episodes
    within a trial (Duan et al. 2016, section 2.2).

    Args:
        policy: The policy, usually a :class:`~metarl.rl.recurrent.TrialPolicy`.
        loop: An inner loop; its steps are not used.
        clip: Clip the probability ratios to 1 ± this value.
        outer_lr: Step size of Adam.
        epochs: Number of passes over every meta-batch.
        minibatches: Number of gradient steps per pass. Each step uses a part of the trials of
            every task.
        bptt: Number of time steps through which gradients flow (truncated
            backpropagation through time). None uses the whole trial.
        entropy: Coefficient of the entropy bonus, which encourages exploration.
        baseline: Prediction of returns: linear fits the linear feature
            baseline to the trials of every task; value trains a value layer on
            the memory.
        value_coefficient: Weight of the squared error of the value layer.
        discount: Discount factor γ.
        gae_lambda: Parameter λ of generalized advantage estimation.

    Returns:
        A meta-learner, whose step receives trials from :func:`collect_trials`.

    Raises:
        ValueError: If an option is out of its range.
    """
    check_arguments(
        rl2, clip=clip, outer_lr=outer_lr, epochs=epochs, minibatches=minibatches, bptt=bptt,
        entropy=entropy,
        value_coefficient=value_coefficient,
    )  # fmt: skip
    process = advantages(discount=discount, gae_lambda=gae_lambda)
    fixed = replace(loop, num_steps=0)
    outer = trial_loss(policy, clip=clip, entropy=entropy, value_coefficient=value_coefficient)
    learner = core.gradient_learner(
        fixed, core.backprop(fixed, outer), torch.optim.Adam, lr=outer_lr, chunk_size=1
    )

    def init(*args: Any, **kwargs: Any) -> MetaState:
        state = learner.init(*args, **kwargs)
        own = {SCALE: torch.tensor([0.0, 1.0], dtype=torch.float64)} if baseline == "value" else {}
        return state._replace(own=own)

    def step(state: MetaState, trials: Rollout) -> tuple[MetaState, Metrics]:
        length = bptt or trials.mask.shape[1]
        carries, values = _unrolled(policy, state.params.model, trials, length)
        guess: tuple[Tensor, ...] = ()
        if values is not None:  # the layer predicts standardized returns
            mean, std = state.own[SCALE].to(values)
            guess = (values * std + mean,)
        episodes, fit = chunks.map_tasks(lambda x: process(*x), (trials, *guess), 1)
        rewards = masked(trials.rewards, trials.mask)
        returns, own = vmap(lambda x: discounted_sum(x, discount))(rewards), state.own
        if values is not None:
            chosen = returns[trials.mask].double()
            own = {SCALE: torch.stack([chosen.mean(), chosen.std() + 1e-8])}
            returns = (returns - own[SCALE][0]) / own[SCALE][1]
            returns = returns.to(trials.rewards.dtype)
        segments = cut(episodes, returns, carries, length=length, groups=2 * minibatches)
        parts = chunks.split(Task((), segments), -(-len(segments.mask) // minibatches))
        first: Metrics = {}
        for part in parts * epochs:
            state, metrics = learner.step(state, part)
            first = first or metrics
        kept = {name: first[name] for name in ("gradient/outer", "outer/loss")}
        means = tree.map_leaves(torch.mean, fit)
        return state._replace(own=own), metrics | kept | means

    return MetaLearner(init, step, fixed.adapt)


def _unrolled(
    policy: RecurrentPolicy, params: core.Params, trials: Rollout, length: int
) -> tuple[list[Any], Tensor | None]:
    """Return the carry at the start of every segment, and the predictions of the value layer.

    Args:
        policy: The policy.
        params: The parameters that collected the trials.
        trials: The trials.
        length: Number of time steps per segment.
    """
    seen = trials.observations.transpose(0, 1)  # (time, task, trial, ...)
    carry, carries, found = policy.initial(params, seen.shape[1:3]), [], []
    with torch.no_grad():
        for part in torch.split(seen, length):
            carries.append(carry)
            carry, _, values = policy.scan_with_values(params, carry, part)
            found += [] if values is None else [values]
    return carries, torch.cat(found).transpose(0, 1) if found else None


def cut(
    episodes: Episodes, returns: Tensor, carries: Sequence[Any], *, length: int, groups: int
) -> Segments:
    """Cut trials into segments of equal length, in groups with segments of all tasks.

    Args:
        episodes: The trials with the axes (task, time, trial).
        returns: Discounted returns-to-go of shape (task, time, trial).
        carries: The carry at the start of each segment, with the axes (task, trial).
        length: Number of time steps per segment.
        groups: Maximum number of groups.

    Returns:
        Segments with the axes (group, time, segment).
    """
    number, rows = len(carries), len(carries) * returns.shape[0] * returns.shape[2]
    groups = max(n for n in range(1, groups + 1) if rows % n == 0)

    def segmented(x: Tensor) -> Tensor:
        missing = number * length - x.shape[1]
        x = torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], 1) if missing else x
        x = x.reshape(len(x), number, length, *x.shape[2:]).movedim(2, 0).flatten(1, 3)
        return x.reshape(length, rows // groups, groups, *x.shape[2:]).movedim(2, 0).contiguous()

    def grouped(*parts: Tensor) -> Tensor:
        x = torch.stack(parts, 1).flatten(0, 2)
        return x.reshape(rows // groups, groups, *x.shape[1:]).movedim(1, 0).contiguous()

    carry = tree.map_leaves(grouped, *carries)
    return Segments(tree.map_leaves(segmented, episodes), carry, segmented(returns))
