"""Trees, modules as functions, and networks."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from metarl.core import (
    InnerLoop,
    MetaParams,
    Task,
    backprop,
    functional,
    query_loss,
    sgd,
    tree,
)
from metarl.core.estimators import meta_gradient
from metarl.core.outer import initial_params
from metarl.core.parameters import fused_norm, merge, rows, split
from metarl.core.speed.compiling import program
from metarl.nn import GRU
from metarl.nn.dense import mlp
from metarl.nn.norms import LayerNorm
from metarl.rl.distributions import Categorical
from metarl.rl.policies import Policy
from tests.support.problems import FEATURES, at_once, randn, random_like, seeded, tiny_policy


shapes = st.lists(st.lists(st.integers(0, 3), max_size=3).map(tuple), min_size=1, max_size=4)


@settings(deadline=None, max_examples=30)
@given(shapes)
def test_ravel_and_unravel_are_inverse(shapes: list[tuple[int, ...]]) -> None:
    params = {f"p{i}": randn(*shape, seed=i) for i, shape in enumerate(shapes)}
    trees = MetaParams(params, {"nested": (params["p0"], [params["p0"] + 1])})
    flat, unravel = tree.ravel(trees)
    assert flat.shape == (sum(x.numel() for x in tree.leaves(trees)),)
    assert_close(unravel(flat), trees, rtol=0, atol=0)


def test_tree_arithmetic_matches_flat_vectors() -> None:
    a, b = ({"x": randn(2, 3, seed=s), "y": randn(4, seed=s + 1)} for s in (0, 5))
    (flat_a, unravel), (flat_b, _) = tree.ravel(a), tree.ravel(b)
    assert_close(tree.add(a, b, scale=-2.0), unravel(flat_a - 2 * flat_b))
    assert_close(tree.widened_total([a, b, a]), unravel(flat_a + flat_b + flat_a))
    assert_close(tree.scale(a, 3.0), unravel(3 * flat_a))
    assert_close(tree.dot(a, b), flat_a @ flat_b)
    assert_close(tree.norm(a), flat_a.norm())
    assert_close(tree.expand(a, 3), tree.stack([a, a, a]))


class Shifted(nn.Module):
    """A module with a parameter and two buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, 3.0]))
        self.register_buffer("shift", torch.tensor([10.0, 20.0]))
        self.register_buffer("scratch", torch.tensor(5.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x + self.shift + self.scratch


def test_buffers_become_part_of_the_function() -> None:
    apply, params = functional(Shifted())
    assert set(params) == {"weight"}
    assert apply(params, torch.ones(2)).tolist() == [17, 28]


def test_later_changes_of_the_module_do_not_affect_the_function() -> None:
    module = mlp((2, 3, 1), generator=seeded(0)).double()
    apply, params = functional(module)
    inputs = randn(4, 2)
    expected = module(inputs)
    with torch.no_grad():
        module[0].weight.zero_()
    assert_close(apply(params, inputs), expected.detach())
    assert all(p.requires_grad for p in module.parameters())
    assert not any(p.requires_grad for p in params.values())
    again = pickle.loads(pickle.dumps(apply))
    assert_close(again(params, inputs), expected.detach())


def test_missing_and_unknown_parameters_are_rejected() -> None:
    apply, params = functional(nn.Linear(2, 1))
    with pytest.raises(RuntimeError, match="bias"):
        apply({"weight": params["weight"]}, torch.ones(2))
    with pytest.raises(RuntimeError, match="other"):
        apply({**params, "other": params["bias"]}, torch.ones(2))


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(3), nn.InstanceNorm1d(3, track_running_stats=True)]
)
def test_running_statistics_are_rejected(layer: nn.Module) -> None:
    with pytest.raises(
        ValueError, match=rf"0 \({type(layer).__name__}\) .*track_running_stats=False"
    ):
        functional(nn.Sequential(layer))
    with pytest.raises(ValueError, match="the module"):
        functional(layer)


def test_fixed_statistics_are_used_in_evaluation_mode() -> None:
    norm = nn.BatchNorm1d(3).double()
    norm(randn(8, 3))
    apply, params = functional(norm.eval())
    x = randn(8, 3, seed=1)
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    assert_close(apply(params, x), (x - mean) / (variance + norm.eps).sqrt())


def test_active_dropout_is_rejected() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    with pytest.raises(ValueError, match=r"1 \(Dropout\) uses random numbers, .*Call \.eval\(\)"):
        functional(module)
    apply, params = functional(module.eval())
    assert_close(apply(params, torch.ones(2)), module(torch.ones(2)).detach())


class Scaled(nn.Module):
    """A layer with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.register_buffer("scale", torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.scale * self.layer(x)
        return scaled


def test_a_module_with_buffers_can_be_traced_before_its_first_call() -> None:
    apply, params = functional(Scaled())
    traced = program(lambda params, x: apply(params, x), "traced")
    for x in (torch.ones(2, 1), torch.full((2, 1), 5.0)):
        assert_close(traced(params, x), apply(params, x))


def test_batch_statistics_are_accepted() -> None:
    apply, params = functional(nn.BatchNorm1d(3, track_running_stats=False).double())
    assert_close(apply(params, randn(8, 3)).mean(0), torch.zeros(3).double(), rtol=0, atol=1e-12)


def test_threads_with_different_parameters_do_not_interfere() -> None:
    apply, params = functional(mlp((2, 16, 16, 1), generator=seeded(0)).double())
    inputs = randn(50, 2)
    settings = [random_like(params, seed) for seed in range(2)]
    expected = [apply(p, inputs) for p in settings]

    def work(index: int) -> bool:
        return all(apply(settings[index], inputs).equal(expected[index]) for _ in range(200))

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(work, [0, 1]))


@pytest.mark.parametrize("batch", [(5,), (4, 5)])
@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_policies_over_tasks_equal_vmap(kind: str, batch: tuple[int, ...]) -> None:
    policy, params = tiny_policy(kind)
    per_task = tree.stack([random_like(params, seed) for seed in range(3)])
    observations = randn(3, *batch, FEATURES)
    expected = torch.func.vmap(policy)(per_task, observations)
    actual = at_once(policy, per_task, observations)
    assert type(actual) is type(expected)
    assert_close(actual, expected, rtol=1e-12, atol=1e-14)


class Logits(nn.Linear):
    def forward(self, inputs: Tensor) -> Categorical:
        return Categorical(super().forward(inputs))


def test_modules_without_over_tasks_use_vmap() -> None:
    policy, params = Policy.of(Logits(2, 3).double())
    per_task = tree.stack([random_like(params, seed) for seed in range(3)])
    inputs = randn(3, 4, 2)
    expected = tree.stack(
        [policy({n: p[i] for n, p in per_task.items()}, inputs[i]) for i in range(3)]
    )
    assert_close(at_once(policy, per_task, inputs), expected)


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.BatchNorm1d(2, track_running_stats=False)]
)
def test_fused_normalization_layers_are_detected(norm: nn.Module) -> None:
    apply, _ = functional(nn.Sequential(nn.Linear(2, 2), nn.Sequential(norm)))
    assert fused_norm(apply) == f"1.0 ({type(norm).__name__})"


def test_functions_without_fused_normalization_are_accepted() -> None:
    assert fused_norm(functional(nn.Sequential(LayerNorm(2)))[0]) is None
    assert fused_norm(lambda params: params) is None


def test_split_merge_and_rows_select_by_name() -> None:
    params = {"a": torch.zeros(2), "b": torch.arange(3.0), "c": torch.ones(1)}
    yes, no = split(params, lambda name: name == "b")
    assert (list(yes), list(no)) == (["b"], ["a", "c"])
    assert list(merge(params, yes)) == ["a", "b", "c"]
    assert [rows(params, frozenset("b"), step)["b"].item() for step in range(5)] == [0, 1, 2, 2, 2]


def test_initial_parameters_are_given_or_sampled() -> None:
    loop = InnerLoop(lambda params, batch: params["a"].sum(), sgd(0.1))
    given = {"a": torch.rand(1, generator=seeded(0))}
    one = initial_params(loop, given, None, "cpu")
    two = initial_params(loop, lambda g: {"a": torch.rand(1, generator=g)}, seeded(0), "cpu")
    assert one == two


def test_mlp_weights_depend_only_on_the_generator() -> None:
    before = torch.get_rng_state()
    one, two = (functional(mlp((3, 4, 2), generator=seeded(7)))[1] for _ in range(2))
    assert_close(one, two, rtol=0, atol=0)
    assert one["0.bias"].eq(0).all()
    assert one["0.weight"].abs().max() <= (6 / 7) ** 0.5
    small = functional(mlp((3, 4, 2), output_gain=0.01, generator=seeded(7)))[1]
    assert_close(small["2.weight"], 0.01 * one["2.weight"])
    assert_close(small["0.weight"], one["0.weight"])
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0, 2), (3, -1)])
def test_mlp_requires_two_positive_widths(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"two or more positive widths, got \("):
        mlp(sizes)


def test_mlp_lists_the_known_activations() -> None:
    with pytest.raises(ValueError, match=r"activation must be one of .*relu.*, got gelu"):
        mlp((2, 2), activation="gelu")


def test_layer_norm_matches_torch() -> None:
    inputs, fused = randn(4, 5), nn.LayerNorm(5).double()
    ours = LayerNorm(5).double()
    assert_close(ours(inputs), fused(inputs))


@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN, nn.LSTM])
def test_recurrent_layers_of_torch_are_rejected_with_a_replacement(kind: type[nn.Module]) -> None:
    module = nn.Sequential(nn.Linear(6, 6), kind(6, 5))
    with pytest.raises(
        ValueError, match=rf"1 \({kind.__name__}\) .* torch\.nn\.{kind.__name__}Cell"
    ):
        functional(module)


def test_the_replacements_of_recurrent_layers_have_meta_gradients() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = GRU(6, 5), nn.Linear(5, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.head(self.cell(x, self.cell.initial(x.shape[1:-1], x))[0])
            return found

    apply, params = functional(Reader().double())
    loss = lambda p, batch: torch.nn.functional.mse_loss(apply(p, batch[0]), batch[1])  # noqa: E731
    loop = InnerLoop(loss, sgd(0.1), num_steps=2)
    x = torch.randn(3, 4, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tasks = Task(((x, x),), (x, x))
    estimator, meta = backprop(loop, query_loss(loss)), loop.init(params)
    (together, _), (alone, _) = (
        meta_gradient(estimator, meta, tasks, chunk_size=size) for size in (None, 1)
    )
    for name, value in alone.model.items():
        torch.testing.assert_close(together.model[name], value, rtol=1e-10, atol=1e-14)
