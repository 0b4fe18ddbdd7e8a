"""Random policies and meta-batches with padding, in float64."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from metarl.core import InnerLoop, MetaParams, Params, Task, meta_sgd, sgd, tree
from metarl.rl.episodes import Episodes
from metarl.rl.losses import reinforce
from metarl.rl.objective import PostAdaptationObjective
from metarl.rl.policies import CategoricalMLP, GaussianMLP, Policy


FEATURES = 3
FLOAT64 = torch.float64
LR = 0.3
OPTIMIZERS = {"sgd": sgd, "meta_sgd": meta_sgd}
POLICIES: dict[str, Callable[..., nn.Module]] = {
    "gaussian": GaussianMLP,
    "categorical": CategoricalMLP,
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=FLOAT64)


def random_like(example: Any, seed: int = 0) -> Any:
    """Sample a tree of standard normals with the structure of `example`."""
    generator = seeded(seed)
    return tree.map_leaves(
        lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype), example
    )


def task_of(tasks: Any, index: int) -> Any:
    return tree.map_leaves(lambda x: x[index], tasks)


def relative_error(actual: Any, expected: Any) -> float:
    return (tree.norm(tree.add(actual, expected, scale=-1.0)) / tree.norm(expected)).item()


Bowl = tuple[Tensor, Tensor]
"""The Hessian and the center of a quadratic function."""


def bowl(params: Params, batch: Bowl) -> Tensor:
    """Return ½ (w − center)ᵀ H (w − center)."""
    hessian, center = batch
    gap = params["w"] - center
    return gap @ hessian @ gap / 2


def positive(size: int, seed: int) -> Tensor:
    """Sample a positive definite matrix."""
    root = randn(size, size, seed=seed)
    return root @ root.mT / size


def tiny_policy(kind: str, *, hidden: int = 2) -> tuple[Policy, Params]:
    """Build a policy with about 15 nonzero parameters."""
    policy, params = Policy.of(POLICIES[kind]((FEATURES, hidden, 2), activation="tanh").double())
    return policy, tree.scale(random_like(params, seed=1), 0.5)


def at_once(policy: Policy, per_task: Params, observations: Tensor) -> Any:
    """Step a policy without memory at observations (task, *batch, features)."""
    carry, step = policy.over_tasks(per_task, observations.shape[1:-1])
    assert carry == ()
    return step(carry, observations)[1]


def random_mask(time: int, episodes: int, generator: torch.Generator) -> Tensor:
    """Sample a mask of shape (time, episode) with lengths from 1 to `time`; the first is `time`."""
    lengths = torch.randint(1, time + 1, (episodes,), generator=generator)
    lengths[0] = time
    return torch.arange(time)[:, None] < lengths


def fill_padding(batch: Episodes, value: float, *, fields: Sequence[str] = ()) -> Episodes:
    """Set the padding of floating-point fields (by default all of them) to `value`."""
    padding = ~batch.mask

    def fill(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        return torch.where(
            padding.reshape(*padding.shape, *[1] * (x.ndim - padding.ndim)), value, x
        )

    chosen = fields or batch._fields
    return batch._replace(**{f: tree.map_leaves(fill, getattr(batch, f)) for f in chosen})


def random_episodes(
    policy: Policy, params: Params, generator: torch.Generator, *, time: int, episodes: int
) -> Episodes:
    """Sample episodes of one task with the policy at `params` as behavior, padded with 7."""
    observations = torch.randn(time, episodes, FEATURES, generator=generator, dtype=FLOAT64)
    behavior = tree.detach(policy(params, observations))
    rewards, advantages = torch.randn(2, time, episodes, generator=generator, dtype=FLOAT64)
    batch = Episodes(
        observations=observations,
        actions=behavior.sample(generator),
        rewards=rewards,
        mask=random_mask(time, episodes, generator),
        behavior=behavior,
        advantages=advantages,
    )
    return fill_padding(batch, 7.0)


def random_meta_batch(
    policy: Policy,
    loop: InnerLoop,
    meta: MetaParams,
    *,
    num_tasks: int = 3,
    time: int = 4,
    episodes: int = 3,
    seed: int = 0,
) -> Task:
    """Sample a meta-batch; the policy after k inner steps collects episodes k of a task."""
    generator = seeded(seed)

    def draw(params: Params) -> Episodes:
        return random_episodes(policy, params, generator, time=time, episodes=episodes)

    tasks = []
    for _ in range(num_tasks):
        params, state, support = meta.model, loop.state(meta.model), []
        for index in range(loop.num_steps or 0):
            support.append(draw(params))
            grads = loop.gradient(params, support[-1])
            params, state = loop.update(meta, params, grads, state, index)
        tasks.append(Task(tuple(support), draw(params)))
    return tree.stack(tasks)


def problem(
    kind: str = "gaussian",
    optimizer: str = "meta_sgd",
    steps: int = 1,
    *,
    first_order: bool = False,
    num_tasks: int = 3,
) -> tuple[PostAdaptationObjective, MetaParams, Task]:
    """Sample a policy, an inner loop with different rates around `LR`, and a meta-batch."""
    return _problem(kind, optimizer, steps, first_order, num_tasks)


@cache  # including the traced programs of the objective
def _problem(
    kind: str, optimizer: str, steps: int, first_order: bool, num_tasks: int
) -> tuple[PostAdaptationObjective, MetaParams, Task]:
    policy, params = tiny_policy(kind)
    inner = OPTIMIZERS[optimizer](LR)
    loop = InnerLoop(reinforce(policy), inner, num_steps=steps, first_order=first_order)
    meta = loop.init(params)
    meta = meta._replace(inner=tree.add(meta.inner, random_like(meta.inner), scale=0.05))
    tasks = random_meta_batch(policy, loop, meta, num_tasks=num_tasks)
    return PostAdaptationObjective(policy, loop), meta, tasks
