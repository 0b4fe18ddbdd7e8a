"""Policy-gradient meta-learning in plain autograd, and problems for comparisons with the package.

The reference shares no code with the package: it has separate forward passes, losses, inner updates
and loops over tasks, and only uses valid transitions.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal

from metarl.core import (
    InnerLoop,
    MetaParams,
    Params,
    Task,
    tree,
)
from metarl.core.optimizers import inner_optimizer
from metarl.rl import distributions
from metarl.rl.episodes import Episodes
from metarl.rl.losses import INNER_LOSSES
from metarl.rl.policies import Policy
from metarl.rl.trpo import context_loop
from tests.support.problems import (
    FEATURES,
    FLOAT64,
    POLICIES,
    random_like,
    random_mask,
    seeded,
    task_of,
)
from tests.support.reference_losses import (
    attached,
    gradient,
    happened,
    hessian_product,
    plain_distribution,
)


LR = 0.3
NUM_TASKS = 3
CONTEXT = 2  # context parameters of CAVIA
INNER_CLIP = 0.5
LEARNED = ["meta-sgd", "lslr", "meta-curvature", "meta-curvature+lslr"]
EXACT = {"rtol": 1e-10, "atol": 1e-13}
LAYERS = ("network.0", "network.2")

Loss = Callable[[Params, Episodes], Tensor]


class Case(NamedTuple):
    """The settings of a policy and its adaptation."""

    kind: str = "gaussian"
    estimator: str = "reinforce"
    inner: str = "sgd"
    steps: int = 1
    first_order: bool = False
    context: int = 0


def act(params: Params, observations: Tensor) -> Distribution:
    """Return the outputs of a network with one tanh layer and an optional context as input."""
    if "context" in params:
        context = params["context"].expand(*observations.shape[:-1], -1)
        observations = torch.cat([observations, context], -1)
    first, last = ((params[f"{name}.weight"], params[f"{name}.bias"]) for name in LAYERS)
    outputs = torch.tanh(observations @ first[0].T + first[1]) @ last[0].T + last[1]
    if "log_std" not in params:
        return Categorical(logits=outputs)
    return Independent(Normal(outputs, params["log_std"].exp().expand_as(outputs)), 1)


def log_probs(params: Params, episodes: Episodes) -> tuple[Tensor, Tensor, Tensor]:
    """Return log π, log π_old and the advantage of every valid transition."""
    real = happened(episodes)
    old = plain_distribution(real.behavior).log_prob(real.actions)
    return act(params, real.observations).log_prob(real.actions), old, real.advantages


def plain_reinforce(params: Params, episodes: Episodes) -> Tensor:
    log_prob, _, advantages = log_probs(params, episodes)
    return -(log_prob * advantages).mean()


def plain_ratio(params: Params, episodes: Episodes) -> Tensor:
    log_prob, old, advantages = log_probs(params, episodes)
    return -((log_prob - old).exp() * advantages).mean()


def plain_clipped(params: Params, episodes: Episodes, clip: float = INNER_CLIP) -> Tensor:
    log_prob, old, advantages = log_probs(params, episodes)
    ratios = (log_prob - old).exp()
    return -torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages).mean()


def plain_dice(params: Params, episodes: Episodes) -> Tensor:
    """Return −mean((□(≤t) − □(<t)) A), computed for one transition at a time."""
    gains = []
    for episode, length in enumerate(episodes.mask.sum(0).tolist()):
        seen, actions = (x[:length, episode] for x in (episodes.observations, episodes.actions))
        log_prob = act(params, seen).log_prob(actions)
        for time in range(length):
            through, before = log_prob[: time + 1].sum(), log_prob[:time].sum()
            boxes = (through - through.detach()).exp() - (before - before.detach()).exp()
            gains.append(boxes * episodes.advantages[time, episode])
    return -torch.stack(gains).mean()


def plain_kl(params: Params, episodes: Episodes) -> Tensor:
    """Return the mean KL(π_old ‖ π) over the valid transitions."""
    real = happened(episodes)
    new = act(params, real.observations)
    return torch.distributions.kl_divergence(plain_distribution(real.behavior), new).mean()


PLAIN: dict[str, Loss] = {
    "reinforce": plain_reinforce,
    "ratio": plain_ratio,
    "clipped": plain_clipped,
    "dice": plain_dice,
}


def plain_update(inner: str, constants: Params, name: str, grad: Tensor, step: int) -> Tensor:
    """Return the decrease of the parameter `name` by the inner optimizer."""
    if inner == "meta-sgd":
        return constants[f"lr.{name}"] * grad
    if inner == "lslr":
        return constants[f"lr.{name}"][step] * grad
    if not inner.startswith("meta-curvature"):
        return LR * grad
    chained = inner.endswith("+lslr")
    prefix = "0." if chained else ""
    if grad.ndim == 1:
        image = constants[f"{prefix}scale.{name}"] * grad
    else:
        rows, columns = (constants[f"{prefix}{mode}.{name}"] for mode in ("out", "in"))
        image = rows @ grad @ columns.T
    return (constants[f"1.lr.{name}"][step] if chained else LR) * image


def plain_path(case: Case, meta: MetaParams, batches: Sequence[Episodes]) -> list[Params]:
    """Return the parameters of one task after 0, 1, ... inner steps; `meta` requires gradients."""
    start = dict(meta.model)
    if case.context:
        start["context"] = torch.zeros(case.context, dtype=FLOAT64, requires_grad=True)
    fast = ["context"] if case.context else list(start)
    path = [start]
    for step, batch in enumerate(batches):
        params = path[-1]
        loss = PLAIN[case.estimator](params, batch)
        grads = torch.autograd.grad(loss, [params[n] for n in fast], create_graph=True)
        fixed = [g.detach() if case.first_order else g for g in grads]
        moved = {
            name: params[name] - plain_update(case.inner, meta.inner, name, grad, step)
            for name, grad in zip(fast, fixed, strict=True)
        }
        path.append(params | moved)
    return path


def each_task(tasks: Task) -> list[Task]:
    return [task_of(tasks, index) for index in range(NUM_TASKS)]


def plain_objective(
    case: Case,
    meta: MetaParams,
    tasks: Task,
    *,
    clip: float | None = None,
    coefficients: Sequence[float] = (),
    explore: bool = False,
) -> Tensor:
    """Return the mean outer loss, one task at a time; `meta` requires gradients.

    Args:
        case: Settings of the adaptation.
        meta: Meta-parameters.
        tasks: The meta-batch.
        clip: Clipping range ε of the ratio.
        coefficients: Weights of KL(π_old ‖ π) before every inner step (ProMP).
        explore: Add the exploration term of E-MAML.
    """
    rewards = [happened(task.query).rewards for task in each_task(tasks)]
    everyone = torch.cat(rewards)
    losses = []
    for task, own in zip(each_task(tasks), rewards, strict=True):
        path = plain_path(case, meta, task.support)
        query = task.query
        loss = (
            plain_ratio(path[-1], query) if clip is None else plain_clipped(path[-1], query, clip)
        )
        for k, coefficient in enumerate(coefficients):
            loss = loss + coefficient * plain_kl(path[k], task.support[k])
        if explore:
            credit = (own.mean() - everyone.mean()) / (everyone.std(correction=0) + 1e-8)
            loss = loss - log_probs(path[0], task.support[0])[0].mean() * credit
        losses.append(loss)
    return torch.stack(losses).mean()


def plain_gradient(case: Case, meta: MetaParams, tasks: Task, **outer: Any) -> MetaParams:
    return gradient(lambda at: plain_objective(case, at, tasks, **outer), meta)


def plain_adapted_kl(case: Case, meta: MetaParams, tasks: Task) -> Tensor:
    """Return the mean KL(π_old ‖ π) of the adapted policies; `meta` requires gradients."""
    ends = [(plain_path(case, meta, task.support)[-1], task.query) for task in each_task(tasks)]
    return torch.stack([plain_kl(params, query) for params, query in ends]).mean()


def plain_kl_product(case: Case, meta: MetaParams, tasks: Task, vector: MetaParams) -> MetaParams:
    """Return the product of the Hessian of this KL with `vector`, by double backward."""
    return hessian_product(lambda at: plain_adapted_kl(case, at, tasks), meta, vector)


def build(case: Case) -> tuple[Policy, InnerLoop, MetaParams]:
    """Build the package's objects of a case with generic parameters and learned rates."""
    module = POLICIES[case.kind]((FEATURES, 3, 2), activation="tanh", context=case.context)
    policy, params = Policy.of(module.double())
    loop = InnerLoop(
        INNER_LOSSES[case.estimator](policy),
        inner_optimizer(case.inner, LR, case.steps),
        first_order=case.first_order,
        num_steps=case.steps,
    )
    params = tree.scale(random_like(params, seed=1), 0.5)
    if case.context:
        loop = context_loop(loop, case.context)
    meta = loop.init(params)
    return policy, loop, tree.add(meta, random_like(meta, seed=2), scale=0.1)


def draw_tasks(case: Case, meta: MetaParams, *, seed: int = 0, time: int = 5) -> Task:
    """Sample a meta-batch with episodes of different lengths from the policies of every path."""
    generator = seeded(seed)

    def draw(params: Params) -> Episodes:
        shape = (time, 4)
        observations = torch.randn(*shape, FEATURES, generator=generator, dtype=FLOAT64)
        policy = act(tree.detach(params), observations)
        behavior: Any = (
            distributions.Categorical(policy.logits)
            if isinstance(policy, Categorical)
            else distributions.Gaussian(policy.mean, policy.stddev.log())
        )
        rewards, advantages = torch.randn(2, *shape, generator=generator, dtype=FLOAT64)
        mask = random_mask(*shape, generator)
        return Episodes(
            observations, behavior.sample(generator), rewards, mask, behavior, advantages
        )

    tasks = []
    for _ in range(NUM_TASKS):
        support: list[Episodes] = []
        for _ in range(case.steps):
            support.append(draw(plain_path(case, attached(meta), support)[-1]))
        query = draw(plain_path(case, attached(meta), support)[-1])
        tasks.append(Task(tuple(support), query))
    return tree.stack(tasks)


def moved(meta: MetaParams) -> MetaParams:
    """Return meta-parameters far enough from the collecting ones that ratios are clipped."""
    model = tree.add(meta.model, random_like(meta.model, seed=5), scale=0.8)
    return meta._replace(model=model)


def mean(total: Any) -> Any:
    """Divide a sum over the tasks by their number."""
    return tree.scale(total, 1 / NUM_TASKS)
