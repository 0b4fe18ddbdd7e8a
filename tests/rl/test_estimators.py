"""DiCE against the exact return of a small MDP, and comparisons of the estimators."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.testing import assert_close

from metarl.core import MetaState, Params, tree
from metarl.rl.distributions import Categorical
from metarl.rl.episodes import Episodes
from metarl.rl.losses import INNER_LOSSES, InnerLoss, dice, ratio, reinforce
from metarl.rl.policies import Policy
from metarl.rl.policy_gradients import COEFFICIENT, adapted, promp
from metarl.runs import checkpoint
from tests.support.problems import FLOAT64, relative_error
from tests.support.reference_losses import attached
from tests.support.reference_rl import (
    Case,
    build,
    draw_tasks,
    each_task,
    log_probs,
    plain_kl,
    plain_path,
)


HORIZON = 3
QUARTERS = 4  # probabilities are multiples of 1/4, so that a finite batch is an exact expectation
POLICY = torch.tensor([[1, 3], [2, 2]]) / QUARTERS  # π(a|s)
NEXT = torch.tensor([[[3, 1], [2, 2]], [[0, 4], [1, 3]]]) / QUARTERS  # P(s'|s, a)
REWARDS = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=FLOAT64)  # r(s, a)
ENDS = torch.tensor([[False, False], [False, True]])  # the episode ends after (s, a)
SIZE = POLICY.numel()


class Table(nn.Module):
    """A softmax policy with one logit per state and action, and one-hot observations."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(POLICY.to(FLOAT64).log())

    def forward(self, observations: Tensor) -> Categorical:
        return Categorical(observations @ self.logits)


class Trajectory(NamedTuple):
    """A trajectory with its probability."""

    states: list[int]
    actions: list[int]
    rewards: list[float]
    probability: float


def trajectories(state: int = 0, left: int = HORIZON) -> Iterator[Trajectory]:
    """Enumerate all trajectories from a state."""
    if left == 0:
        yield Trajectory([], [], [], 1.0)
        return
    for action in (0, 1):
        chance, reward = POLICY[state, action].item(), REWARDS[state, action].item()
        if ENDS[state, action] or left == 1:
            yield Trajectory([state], [action], [reward], chance)
            continue
        for following in (0, 1):
            moves = chance * NEXT[state, action, following].item()
            for rest in trajectories(following, left - 1) if moves else ():
                yield Trajectory(
                    [state, *rest.states],
                    [action, *rest.actions],
                    [reward, *rest.rewards],
                    moves * rest.probability,
                )


def exact_return(flat: Tensor) -> Tensor:
    """Return the expected return from state 0, computed by dynamic programming."""
    policy = torch.softmax(flat.view(2, 2), -1)
    value = torch.zeros(2, dtype=FLOAT64)
    for _ in range(HORIZON):
        following = torch.where(ENDS, 0.0, NEXT.to(FLOAT64) @ value)
        value = (policy * (REWARDS + following)).sum(-1)
    return value[0]


def exact_batch(baseline: Callable[[int, int], float] = lambda state, time: 0.0) -> Episodes:
    """Return a batch that contains trajectories in proportion to their probabilities.

    Advantages are undiscounted returns-to-go.
    """
    found = list(trajectories())
    copies = [round(t.probability * QUARTERS ** (2 * HORIZON)) for t in found]
    assert sum(copies) == QUARTERS ** (2 * HORIZON)
    count, shape = sum(copies), (HORIZON, sum(copies))
    states, actions = torch.zeros(2, *shape, dtype=torch.long).unbind()
    rewards, advantages = torch.zeros(2, *shape, dtype=FLOAT64).unbind()
    mask = torch.zeros(shape, dtype=torch.bool)
    row = 0
    for trajectory, times in zip(found, copies, strict=True):
        here = slice(row, row + times)
        row += times
        for t, state in enumerate(trajectory.states):
            mask[t, here] = True
            states[t, here], actions[t, here] = state, trajectory.actions[t]
            rewards[t, here] = trajectory.rewards[t]
            advantages[t, here] = sum(trajectory.rewards[t:]) - baseline(state, t)
    assert row == count
    seen = torch.eye(2, dtype=FLOAT64)[states]
    behavior = Categorical(POLICY.to(FLOAT64).log()[states])
    return Episodes(seen, actions, rewards, mask, behavior, advantages)


def estimated(estimator: InnerLoss, batch: Episodes) -> tuple[Tensor, Tensor]:
    """Return the gradient and the Hessian of the expected return, estimated by an inner loss.

    A loss is the negative mean over transitions, and a return is a sum over an episode.
    """
    policy, params = Policy.of(Table())
    factor = -batch.mask.sum() / batch.mask.shape[1]

    def value(flat: Tensor) -> Tensor:
        return factor * estimator(policy)({"logits": flat.view(2, 2)}, batch)

    at = params["logits"].flatten()
    return jacobian(value, at), hessian(value, at)


def exact() -> tuple[Tensor, Tensor]:
    at = Policy.of(Table())[1]["logits"].flatten()
    return jacobian(exact_return, at), hessian(exact_return, at)


def outer(x: Tensor) -> Tensor:
    return torch.outer(x, x)


def test_the_batch_represents_an_exact_expectation() -> None:
    batch = exact_batch()
    assert batch.rewards.sum() / batch.mask.shape[1] == pytest.approx(
        exact_return(Policy.of(Table())[1]["logits"].flatten()).item(), rel=1e-12
    )
    assert sorted(set(batch.mask.sum(0).tolist())) == [2, 3]  # some episodes end early


def test_dice_matches_gradient_and_hessian_of_the_expected_return() -> None:
    (gradient, curvature), (slope, bend) = estimated(dice, exact_batch()), exact()
    assert slope.norm() > 0.1
    assert bend.norm() > 0.1
    assert_close(gradient, slope, rtol=1e-11, atol=1e-13)
    assert_close(curvature, bend, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "baseline",
    [lambda state, time: 3.0, lambda state, time: (1.5, -0.7)[state] * (time + 1)],
    ids=["constant", "of state and time"],
)
def test_a_baseline_does_not_change_derivatives_of_dice(
    baseline: Callable[[int, int], float],
) -> None:
    (gradient, curvature), (slope, bend) = estimated(dice, exact_batch(baseline)), exact()
    assert_close(gradient, slope, rtol=1e-11, atol=1e-13)
    assert_close(curvature, bend, rtol=1e-11, atol=1e-13)


def test_other_estimators_match_the_gradient_but_not_the_hessian() -> None:
    batch = exact_batch()
    (slope, bend), (_, log_prob), (_, likelihood) = (
        exact(),
        estimated(reinforce, batch),
        estimated(ratio, batch),
    )
    for estimator in INNER_LOSSES.values():
        assert_close(estimated(estimator, batch)[0], slope, rtol=1e-11, atol=1e-13)

    # ∇² π/π = ∇² log π + ∇ log π ∇ log πᵀ, summed over all actions before the reward.
    steps, pairs = torch.zeros(2, SIZE, SIZE, dtype=FLOAT64).unbind()
    for trajectory in trajectories():
        scores = []
        for state, action in zip(trajectory.states, trajectory.actions, strict=True):
            score = torch.zeros(2, 2, dtype=FLOAT64)
            score[state] = torch.eye(2, dtype=FLOAT64)[action] - POLICY[state]
            scores.append(score.flatten())
        for t, reward in enumerate(trajectory.rewards):
            weight = trajectory.probability * reward
            own = torch.stack([outer(score) for score in scores[: t + 1]]).sum(0)
            steps += weight * own
            pairs += weight * (outer(torch.stack(scores[: t + 1]).sum(0)) - own)
    assert_close(likelihood, log_prob + steps, rtol=1e-11, atol=1e-13)
    assert_close(bend, log_prob + steps + pairs, rtol=1e-11, atol=1e-13)
    assert relative_error(log_prob, bend) > 0.1
    assert relative_error(likelihood, bend) > 0.1
    assert relative_error(log_prob, likelihood) > 0.1


def derivatives(loss: Callable[[Params], Tensor], params: Params) -> tuple[Tensor, Tensor]:
    flat, unravel = tree.ravel(params)
    return (
        jacobian(lambda x: loss(unravel(x)), flat),
        hessian(lambda x: loss(unravel(x)), flat),
    )


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_low_variance_curvature_matches_derivatives_of_the_likelihood_ratio(kind: str) -> None:
    case = Case(kind)
    policy, _, meta = build(case)
    (batch,) = each_task(draw_tasks(case, meta))[0].support

    def low_variance_curvature(params: Params) -> Tensor:
        log_prob, _, advantages = log_probs(params, batch)
        return -((log_prob - log_prob.detach()).exp() * advantages).mean()

    expected = derivatives(low_variance_curvature, meta.model)
    actual = derivatives(lambda params: ratio(policy)(params, batch), meta.model)
    assert relative_error(actual[0], expected[0]) < 1e-12
    assert relative_error(actual[1], expected[1]) < 1e-12
    without = derivatives(lambda params: reinforce(policy)(params, batch), meta.model)
    assert relative_error(without[0], expected[0]) < 1e-12
    assert relative_error(without[1], expected[1]) > 0.01


def test_coefficient_is_halved_below_the_band_and_doubled_above_it() -> None:
    target = 0.01
    low, high = target / 1.5, target * 1.5
    above, below = (torch.finfo(FLOAT64).eps * x for x in (1, -1))
    reached = [0.0, low * (1 + below), low, target, high, high * (1 + above), 1.0]
    eta = torch.full((len(reached),), 0.3, dtype=FLOAT64)
    found = adapted(eta, torch.tensor(reached, dtype=FLOAT64), target)
    assert found.tolist() == [0.15, 0.15, 0.3, 0.3, 0.3, 0.6, 0.6]
    assert eta.eq(0.3).all()


def stretched(kl_target: float | None = 0.01) -> tuple[MetaState, MetaState, list[float]]:
    """Update with ProMP such that the first policy changed little and the second one a lot.

    Returns:
        The states before and after, and the KL divergence of each policy.
    """
    case = Case(estimator="ratio", steps=2)
    policy, loop, meta = build(case)
    tasks = draw_tasks(case, meta)
    far = tasks.support[1]
    elsewhere = far.behavior._replace(mean=far.behavior.mean + 1.0)
    tasks = tasks._replace(support=(tasks.support[0], far._replace(behavior=elsewhere)))
    learner = promp(policy, loop, kl_coefficient=0.3, kl_target=kl_target, epochs=2, outer_lr=1e-4)
    before = learner.init(meta.model)
    after, metrics = learner.step(before, tasks)
    assert [metrics[f"outer/kl_coefficient_{k}"].item() for k in (0, 1)] == [0.3, 0.3]
    paths = [
        (plain_path(case, attached(after.params), task.support), task) for task in each_task(tasks)
    ]
    kls = [
        torch.stack([plain_kl(path[k], task.support[k]) for path, task in paths]).mean().item()
        for k in (0, 1)
    ]
    for k in (0, 1):
        assert metrics[f"outer/kl_step_{k}"].item() == pytest.approx(kls[k], rel=1e-9)
    return before, after, kls


def test_every_inner_step_has_a_coefficient_that_follows_its_own_kl() -> None:
    before, after, kls = stretched()
    assert kls[0] < 0.01 / 1.5
    assert kls[1] > 0.01 * 1.5
    assert before.own[COEFFICIENT].tolist() == [0.3, 0.3]
    assert after.own[COEFFICIENT].tolist() == [0.15, 0.6]


def test_coefficients_are_constant_without_a_target() -> None:
    _, after, _ = stretched(kl_target=None)
    assert after.own[COEFFICIENT].tolist() == [0.3, 0.3]


def test_coefficients_are_saved_and_restored_bit_for_bit(tmp_path: Path) -> None:
    _, state, _ = stretched()
    eta = torch.tensor([1 / 3, 5e-4 * 2**-20], dtype=FLOAT64)
    state = state._replace(own={COEFFICIENT: eta})
    checkpoint.save(tmp_path / "one", state, iteration=3, config={})
    case = Case(estimator="ratio", steps=2)
    policy, loop, meta = build(case)
    learner = promp(policy, loop, outer_lr=1e-4, epochs=1)
    fresh = learner.init(meta.model)
    assert fresh.own[COEFFICIENT].tolist() == [5e-4, 5e-4]
    again = checkpoint.restore(fresh, checkpoint.load(tmp_path / "one"))
    assert again.own[COEFFICIENT].equal(eta)
    assert again.own[COEFFICIENT].dtype == FLOAT64
    checkpoint.save(tmp_path / "two", again, iteration=3, config={})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    tasks = draw_tasks(case, meta)
    (one, _), (two, metrics) = learner.step(state, tasks), learner.step(again, tasks)
    assert relative_error(one.params, two.params) == 0
    assert [metrics[f"outer/kl_coefficient_{k}"].item() for k in (0, 1)] == eta.tolist()


def test_coefficients_stay_within_representable_bounds() -> None:
    case = Case(estimator="ratio", steps=1)
    policy, loop, meta = build(case)
    learner = promp(policy, loop, kl_coefficient=0.3, outer_lr=1e-4, epochs=1)
    lowest = torch.tensor([0.3 / 1024], dtype=FLOAT64)
    state = learner.init(meta.model)._replace(own={COEFFICIENT: lowest})
    state, metrics = learner.step(state, draw_tasks(case, meta))
    assert metrics["outer/kl_step_0"] < 0.01 / 1.5  # would be halved
    assert state.own[COEFFICIENT].tolist() == lowest.tolist()
