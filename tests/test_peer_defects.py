"""Defects of other implementations, each with a test of this package.

Tests in other files:

* last task's parameters sample every task from the second inner step on (maml_rl), one step only
  (garage):
  tests/rl/test_sampler.py::test_episodes_k_are_collected_by_the_policy_after_k_inner_steps
* Fisher products by finite differences of a wrong or tiny step (maml_rl, ProMP):
  tests/rl/test_objective.py::test_fisher_product_matches_the_dense_hessian_of_the_kl
* reward said to be squared that is not (maml_rl):
  tests/envs/test_navigation.py::test_reward_is_the_distance_after_the_move_and_not_its_square
* actions ten times as large as their box (pytorch-maml-rl):
  tests/envs/test_navigation.py::test_actions_are_scaled_and_clipped
* every episode equal, instead of every time step (pytorch-maml-rl, CAVIA):
  tests/rl/test_advantages.py::test_masked_mean_weights_every_transition_equally and
  tests/rl/test_losses.py::test_gradient_is_the_mean_score_times_advantage
* observations not clipped to ±10 in the baseline (pytorch-maml-rl), time counted from 1 (CAVIA):
  tests/rl/test_advantages.py::test_baseline_matches_dense_ridge_regression_on_clipped_observations
* a baseline that cannot be solved for stops a worker, and the run waits forever (pytorch-maml-rl):
  tests/rl/test_advantages.py::test_baseline_in_float32_supports_constant_and_equal_features and
  tests/envs/test_custom_environments.py::test_a_dead_worker_is_an_error_and_not_a_hang
* tensors left on the CPU (pytorch-maml-rl, learn2learn):
  tests/test_devices.py::test_fisher_products_follow_their_inputs
* results that depend on the number of workers (pytorch-maml-rl):
  tests/rl/test_threads.py::test_collecting_and_stepping_are_bit_identical_for_one_and_two_threads,
  tests/envs/test_locomotion.py::test_number_of_threads_changes_nothing and
  tests/rl/test_vector_envs.py::test_episodes_match_a_loop_over_scalar_environments
* a velocity missed is rewarded (ProMP):
  tests/envs/test_locomotion.py::test_swimmer_reward_has_its_maximum_at_the_target_velocity
* an observation of zero, with which all but the last bias of a ReLU network has no gradient
  (pytorch-maml-rl, CAVIA):
  tests/envs/test_small_environments.py::test_gradient_reaches_every_layer_of_a_policy_for_the_bandit
* the end of an episode looked for at the origin and not at the goal (ProMP):
  tests/envs/test_navigation.py::test_episode_terminates_inside_a_box_around_the_goal
* a quota of transitions, which drops or adds episodes where they end early (ProMP, maml_rl), and
  an episode splitter that loses the last one (metaworld-algorithms):
  tests/rl/test_sampler.py::test_episodes_that_end_early_are_masked
* advantages divided by their variance (garage, metaworld-algorithms):
  tests/rl/test_advantages.py::test_standardized_values_have_mean_zero_and_std_one
* a baseline that is never trained (garage):
  tests/rl/test_advantages.py::test_constant_rewards_in_full_episodes_are_explained_by_time
* an outer loss of log-probabilities, wrong in the line search (garage), and KL(new ‖ old) there
  (pytorch-maml-rl, CAVIA, learn2learn):
  tests/rl/test_trpo.py::test_step_lowers_the_surrogate_inside_the_trust_region
* a KL averaged over padding (garage):
  tests/rl/test_objective.py::test_products_match_plain_autograd and
  tests/rl/test_trpo.py::test_values_in_the_padding_do_not_matter
* log-probability and KL averaged over the action's dimensions (learn2learn, CAVIA):
  tests/rl/test_distributions.py::test_log_prob_kl_and_entropy_match_torch
* the value after the end is that of the next episode's start (learn2learn):
  tests/rl/test_advantages.py::test_advantages_match_the_recursion
* nothing says how large σ is (all):
  tests/rl/test_sampler.py::test_metrics_describe_the_rollouts
"""

import inspect
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from metarl.core import InnerLoop, Params, Task, sgd, tree
from metarl.core.seeding import torch_generator
from metarl.envs import ENVIRONMENTS
from metarl.experiments.meta_rl import MetaRL, RLEvaluation, build, config_class
from metarl.experiments.policies import loops
from metarl.rl.baseline import advantages
from metarl.rl.distributions import MIN_LOG_STD
from metarl.rl.episodes import Episodes, Rollout
from metarl.rl.evaluate import adaptation_curve
from metarl.rl.losses import reinforce
from metarl.rl.networks import mlp_policy
from metarl.rl.objective import PostAdaptationObjective
from metarl.rl.policies import GaussianMLP, Policy
from metarl.rl.sampler import Sampler, make_sampler
from metarl.rl.trpo import trust_region_step
from metarl.util.device import resolve_device
from tests.support import ROOT
from tests.support.problems import (
    fill_padding,
    problem,
    random_like,
    relative_error,
    seeded,
    task_of,
)
from tests.support.reference_losses import plain_gradient


MAMLTRPO = config_class("maml-trpo")


PLANE, CHEETAH = "metarl/Navigation2D-v0", "metarl/HalfCheetahDir-v1"
GOAL = {"goal": [0.3, -0.4]}


def plane(num_tasks: int = 3, episodes: int = 4) -> tuple[Sampler, Policy, Params]:
    """Build a sampler of short episodes, and a policy with mean 0 and std 1."""
    options = {"num_tasks": num_tasks, "episodes_per_task": episodes, "max_episode_steps": 10}
    sampler = make_sampler(PLANE, **options)
    spaces = sampler.env.single_observation_space, sampler.env.single_action_space
    policy, params = mlp_policy(*spaces, hidden=(4,), activation="tanh", generator=seeded(0))
    return sampler, policy, tree.scale(params, 0.0)


def collect(sampler: Sampler, policy: Policy, params: Params, lr: float) -> Task:
    """Collect a meta-batch of one inner step with equal tasks."""
    loop = InnerLoop(reinforce(policy), sgd(lr), num_steps=1)
    tasks = [GOAL] * sampler.num_tasks
    return sampler.collect(policy, loop, loop.init(params), tasks, seeded(0), advantages())[0]


def test_every_test_in_the_docstring_exists() -> None:
    """The list above is up to date."""
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", __doc__ or "")
    assert len(named) > 20
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(), name


def test_programs_do_not_grow_with_the_iterations() -> None:
    """maml_rl compiled new operators every iteration, and slowed down."""
    sampler, policy, params = plane(num_tasks=2)
    objective = PostAdaptationObjective(policy, InnerLoop(reinforce(policy), sgd(0.1), num_steps=1))
    meta, sizes = objective.loop.init(params), []
    for iteration in range(3):
        tasks, _ = sampler.collect(
            policy, objective.loop, meta, [GOAL] * 2, seeded(iteration), advantages()
        )
        meta, metrics = trust_region_step(objective, meta, tasks, chunk_size=2)
        assert metrics["trpo/step_fraction"] > 0
        sizes.append(len(objective._programs))
    assert sizes == [2, 2, 2]  # products and values


def test_fisher_products_do_not_repeat_adaptation() -> None:
    """CAVIA repeated all inner steps for every conjugate-gradient step."""
    objective, meta, tasks = problem()
    calls = []

    def counted(params: Params, batch: Episodes) -> Any:
        calls.append(1)
        return objective.loop.loss(params, batch)

    counting = PostAdaptationObjective(objective.policy, replace(objective.loop, loss=counted))
    counts = []
    for cg_steps in (5, 1, 10):  # only the first step traces
        calls.clear()
        trust_region_step(counting, meta, tasks, cg_steps=cg_steps, backtracks=1)
        counts.append(len(calls))
    assert counts[0] > counts[1] == counts[2] == 0


def test_actions_have_independent_noise() -> None:
    """Workers of pytorch-maml-rl were forked with one generator, so tasks shared their noise."""
    sampler, policy, params = plane()
    batch = collect(sampler, policy, params, lr=0.0)
    params = tree.expand(params, sampler.num_tasks)
    runs = [(seed, iteration) for seed in (0, 1) for iteration in (1, 2)]
    others = [
        sampler.rollout(policy, params, [GOAL] * 3, torch_generator(*run, "rollouts"))
        for run in runs
    ]
    noise = torch.stack([b.actions for b in (*batch.support, batch.query, *others)])
    assert len(noise.unique()) == noise.numel()


def test_episodes_have_different_initial_states() -> None:
    """pytorch-maml-rl seeded environments by worker, so rows could have equal initial states."""
    sampler = make_sampler(CHEETAH, num_tasks=2, episodes_per_task=3, max_episode_steps=1)
    spaces = sampler.env.single_observation_space, sampler.env.single_action_space
    policy, params = mlp_policy(*spaces, hidden=(4,), generator=seeded(0))
    loop = InnerLoop(reinforce(policy), sgd(0.0), num_steps=1)
    tasks = [{"direction": 1}] * 2
    batch, _ = sampler.collect(policy, loop, loop.init(params), tasks, seeded(0), advantages())
    starts = torch.cat([b.observations.flatten(0, 2) for b in (*batch.support, batch.query)])
    assert starts.shape[0] == len(starts.unique(dim=0)) == 2 * 2 * 3


def test_repeated_tasks_are_adapted_separately() -> None:
    """With two tasks and forty draws, state stored by task would be shared."""
    sampler, policy, params = plane()
    batch = collect(sampler, policy, params, lr=0.5)
    for field in (batch.support[0].actions, batch.query.actions, batch.query.behavior.log_std):
        assert len(field.flatten(1).unique(dim=0)) == sampler.num_tasks


def test_arguments_are_not_modified() -> None:
    """pytorch-maml-rl modified tensors of the graph and of callers in place."""
    objective, meta, clean = problem()
    tasks = Task((fill_padding(clean.support[0], 7.0),), fill_padding(clean.query, torch.nan))
    rollout = Rollout(*task_of(tasks.query, 0)[:5], ~task_of(tasks.query.mask, 0))
    given = [*tree.leaves(meta), *tree.leaves(tasks), *tree.leaves(rollout)]
    before = [(x._version, x.clone()) for x in given]
    advantages()(rollout)
    torch.func.grad(objective.loop.loss)(meta.model, task_of(tasks.support[0], 0))
    trust_region_step(objective, meta, tasks)
    for x, (version, copy) in zip(given, before, strict=True):
        assert x._version == version
        assert_close(x, copy, rtol=0, atol=0, equal_nan=True)


def test_fisher_products_in_float32_and_float64_agree() -> None:
    """ProMP used finite differences in float32, which are mostly noise."""
    objective, meta, tasks = problem(optimizer="sgd", steps=2)
    vector = random_like(meta, seed=2)
    single = tree.map_leaves(
        lambda x: x.float() if x.is_floating_point() else x, (meta, tasks, vector)
    )
    product = tree.map_leaves(lambda x: x.double(), objective.products(*single)[2])
    assert relative_error(product, objective.products(meta, tasks, vector)[2]) < 1e-5


def test_the_linear_system_is_damped() -> None:
    """ProMP used no damping, but a Fisher matrix of few episodes is nearly singular."""
    defaults = {field.name: field.default for field in fields(MAMLTRPO)}
    parameters = inspect.signature(trust_region_step).parameters
    assert defaults["cg_damping"] == parameters["cg_damping"].default == 1e-5
    objective, meta, tasks = problem()
    gradient = plain_gradient(objective, meta, tasks)
    cosines = []
    for damping in (1e-5, 1e4):
        new, _ = trust_region_step(objective, meta, tasks, max_kl=1e-6, cg_damping=damping)
        step = tree.add(new, meta, scale=-1.0)
        cosines.append((tree.dot(step, gradient) / tree.norm(step) / tree.norm(gradient)).item())
    assert cosines[0] > -0.99
    assert cosines[1] == pytest.approx(-1)


def test_evaluation_halves_all_step_sizes_but_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """pytorch-maml-rl and garage used the training step sizes; CAVIA only halved the first."""
    config = MAMLTRPO(inner_steps=1, inner_lr=0.4, hidden=(4,))
    steps = MetaRL(config)._steps_to_take(RLEvaluation(Path("run")))
    assert steps == 3
    parts, seen = build(config, num_tasks=2, episodes=2), []
    loop = loops(config, parts.loop)(steps, 0.4)
    loop = replace(loop, loss=lambda params, batch: params["log_std"].sum())  # its slope is 1
    rollout = Sampler.rollout

    def recorded(
        self: Sampler, policy: Policy, params: Params, *rest: Any, **options: Any
    ) -> Rollout:
        seen.append(params["log_std"][:, 0])
        return rollout(self, policy, params, *rest, **options)

    monkeypatch.setattr(Sampler, "rollout", recorded)
    meta, tasks = loop.init(parts.params), [GOAL, GOAL]
    curve = adaptation_curve(
        parts.sampler, parts.policy, loop, meta, tasks, seeded(0), process=parts.process
    )
    assert curve.returns.shape == (2, 4)
    assert_close(torch.stack(seen), torch.tensor([[0.0], [-0.4], [-0.6], [-0.8]]).expand(4, 2))


@pytest.mark.parametrize(
    ("trained", "rates"), [(0, (0.4, 0.2, 0.2)), (2, (0.4, 0.4, 0.2)), (3, (0.4, 0.4, 0.4))]
)
def test_evaluation_keeps_the_step_size_for_the_number_of_steps_in_training(
    trained: int, rates: tuple[float, ...]
) -> None:
    """A policy that is trained for three steps was evaluated with smaller later steps."""
    config = MAMLTRPO(inner_steps=trained, inner_lr=0.4, hidden=(4,))
    update = loops(config, build(config, num_tasks=2, episodes=2).loop)(3, None).optimizer.update
    gradient = {"x": torch.ones(())}
    taken = [update({}, gradient, None, step)[0]["x"].item() for step in range(3)]
    assert taken == pytest.approx([-rate for rate in rates])


def test_inner_loop_settings_take_effect() -> None:
    """pytorch-maml-rl's number of steps differed from its documentation."""
    parts = build(MAMLTRPO(inner_steps=2, inner_lr=0.3, num_tasks=2, hidden=(4,)))
    slope = {"weight": torch.ones(1)}
    for step in (0, 1):
        update, _ = parts.loop.optimizer.update({}, slope, (), step)
        assert_close(update["weight"], torch.tensor([-0.3]))
    meta = parts.loop.init(parts.params)
    batch, _ = parts.sampler.collect(
        parts.policy, parts.loop, meta, [GOAL] * 2, seeded(0), parts.process
    )
    assert len(batch.support) == 2


def test_every_batch_has_a_separate_baseline() -> None:
    """CAVIA's outer advantages used the baseline of the episodes before adaptation."""
    sampler, policy, params = plane()
    batch = collect(sampler, policy, params, lr=0.5)
    for episodes in (*batch.support, batch.query):
        for task in range(sampler.num_tasks):
            alone = task_of(episodes, task)
            expected, _ = advantages()(Rollout(*alone[:5], ~alone.mask))
            assert_close(alone.advantages, expected.advantages, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("row", ENVIRONMENTS, ids=lambda row: row.id)
def test_observations_do_not_contain_the_task_by_default(row: Any) -> None:
    """garage's point robot observed its distance to the goal."""
    shown = {}
    for observe_task in (False, True):
        env: Any = gymnasium.make_vec(row.id, num_envs=2, observe_task=observe_task)
        drawn = env.call("sample_tasks", 20, np.random.default_rng(0))[0]
        tasks = [drawn[0], next(task for task in drawn if task != drawn[0])]
        env.set_attr("task", tasks)
        seen = [env.reset(seed=[3, 3])[0]]
        # Tasks that change the dynamics can affect observations after an action.
        if "RandParams" not in row.id and "TabularMDP" not in row.id:
            actions = np.full(env.action_space.shape, 0.1).astype(env.action_space.dtype)
            seen += [env.step(actions)[0].copy() for _ in range(3)]
        shown[observe_task] = [np.array_equal(*rows) for rows in seen]
        env.close()
    assert all(shown[False])
    assert not any(shown[True])


def test_standard_deviation_has_a_minimum() -> None:
    """Without a minimum, a standard deviation of zero makes ratios infinite (others use 1e-6)."""
    policy = GaussianMLP((2, 4, 2))
    torch.nn.init.constant_(policy.log_std, -50.0)
    distribution = policy(torch.zeros(3, 2))
    assert distribution.log_std.eq(MIN_LOG_STD).all()
    assert np.exp(MIN_LOG_STD) == pytest.approx(1e-6)
    assert distribution.log_prob(distribution.sample(seeded(0))).isfinite().all()


def test_no_accelerator_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """metaworld-algorithms requires one."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
