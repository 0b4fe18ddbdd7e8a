"""Conjugate gradients against dense solves, linear maps against Jacobians, staged programs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.core import tree
from metarl.core.linalg import conjugate_gradient, linearize
from metarl.core.speed.staging import stage
from tests.support.problems import randn, relative_error


def positive_definite(size: int, seed: int) -> Tensor:
    root = randn(size, size, seed=seed)
    return root @ root.mT + torch.eye(size, dtype=root.dtype)


def solve(matrix: Tensor, target: Any, steps: int) -> tuple[Any, Any]:
    _, unravel = tree.ravel(target)
    return conjugate_gradient(lambda x: unravel(matrix @ tree.ravel(x)[0]), target, steps=steps)


def test_conjugate_gradient_matches_a_dense_solve_on_any_tree() -> None:
    matrix, target = positive_definite(7, 0), {"a": randn(3, seed=1), "b": (randn(2, 2, seed=2),)}
    x, _ = solve(matrix, target, 12)
    expected = torch.linalg.solve(matrix, tree.ravel(target)[0])
    assert_close(tree.ravel(x)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [0, 1, 3, 7, 30])
def test_residual_is_the_target_minus_the_product(steps: int) -> None:
    matrix, target = positive_definite(7, 3), randn(7, seed=4)
    x, residual = solve(matrix, target, steps)
    assert_close(residual, target - matrix @ x, rtol=0, atol=1e-12)


def test_tasks_can_converge_at_different_steps_under_vmap() -> None:
    eye, easy, hard = torch.eye(6).double(), positive_definite(6, 5), positive_definite(6, 6)
    matrices = torch.stack([eye, easy @ easy, hard, hard])
    targets = torch.stack([randn(6, seed=7), easy[0] * 0 + 1e-3, randn(6, seed=8), torch.zeros(6)])
    together, residuals = torch.func.vmap(lambda a, b: solve(a, b, 40))(matrices, targets)
    assert together.isfinite().all()
    assert residuals.isfinite().all()
    for matrix, target, x in zip(matrices, targets, together, strict=True):
        assert_close(x, solve(matrix, target, 40)[0], rtol=1e-9, atol=1e-12)
    assert_close(together[0], targets[0])
    assert together[3].eq(0).all()


def test_further_steps_do_not_change_a_converged_solution() -> None:
    matrix, target = positive_definite(4, 9), randn(4, seed=10)
    assert_close(solve(matrix, target, 100), solve(matrix, target, 12), rtol=0, atol=0)


def maps(x: Tensor, y: Tensor, unused: Tensor) -> tuple[Tensor, Tensor]:
    del unused
    return torch.tanh(x @ y), (y.square() * x.sum()).sum(0)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    return randn(2, 3, seed=1), randn(3, 2, seed=2), randn(4, seed=3)


def test_linear_map_agrees_with_forward_and_reverse_mode() -> None:
    at = [x.requires_grad_() for x in inputs()]
    linear = linearize(maps(*at), at)
    for seed in (4, 5):
        tangents = tuple(randn(*x.shape, seed=seed) for x in at)
        outputs, expected = torch.func.jvp(maps, inputs(), tangents)
        assert_close(tuple(linear.jvp(tangents)), expected)
        cotangents = tuple(randn(*y.shape, seed=seed) for y in outputs)
        assert_close(tuple(linear.vjp(cotangents)), torch.func.vjp(maps, *inputs())[1](cotangents))


def test_linear_map_equals_the_dense_jacobian() -> None:
    x = randn(5, seed=1).requires_grad_()
    matrix = randn(3, 5, seed=2)
    linear = linearize([torch.sin(matrix @ x)], [x])
    jacobian = torch.cos(matrix @ x)[:, None] * matrix
    assert_close(torch.stack([linear.jvp([e])[0] for e in torch.eye(5).double()], 1), jacobian)
    assert_close(torch.stack([linear.vjp([e])[0] for e in torch.eye(3).double()]), jacobian)


def test_unused_inputs_have_derivative_zero() -> None:
    at = [x.requires_grad_() for x in inputs()]
    linear = linearize(maps(*at), at)
    only_unused = [torch.zeros(2, 3), torch.zeros(3, 2), randn(4, seed=6)]
    assert all(y.eq(0).all() for y in linear.jvp([x.double() for x in only_unused]))
    assert linear.vjp([randn(2, 2, seed=7), randn(2, seed=8)])[2].eq(0).all()


def late_gradient(early: Any, late: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Apply a Hessian to a vector, through two layers, vmapped over pairs of examples."""

    def loss(w: Tensor, examples: Tensor) -> Tensor:
        return torch.tanh(torch.tanh(examples @ w) @ w).sum()

    def product(examples: Tensor) -> Tensor:
        return torch.func.vjp(lambda w: torch.func.grad(loss)(w, examples), early[0])[1](late[0])[0]

    return [early[0] @ early[0]], [torch.func.vmap(product)(early[1].view(2, 2, 4)).sum(0)]


PROGRAMS: dict[str, Callable[[Any, Any], tuple[list[Tensor], list[Tensor]]]] = {
    "hessian product": late_gradient,
    "sum of products": lambda e, x: ([e[0] + 1], [e[0] @ x[0] + e[1] @ x[0] + x[0]]),
    "product added to what is known": lambda e, x: ([], [e[0] + e[1] @ x[0] + (x[0] @ x[0])[:1]]),
    "product used twice": lambda e, x: ([], [(y := e[0] @ x[0]) + e[1] @ x[0], y * 2]),
    "sum with itself": lambda e, x: ([], [(y := e[0] @ x[0]) + y]),
    "broadcast sum": lambda e, x: ([], [e[0][:1] @ x[0] + e[1] @ x[0]]),
    "broadcast sums": lambda e, x: ([], [e[0][:1] @ x[0] + e[1][:1] @ x[0] + e[1] @ x[0]]),
    "batched products": lambda e, x: ([], [(e[0] + torch.stack([x[0], x[0].mT]) @ e[1]).sum(0)]),
    "transposes": lambda e, x: ([e[0].t()], [(e[0].t() @ x[0].t().t()).t()]),
    "vector products in vmap": lambda e, x: ([], [torch.func.vmap(lambda v: v @ x[0])(e[0])]),
    "late output known early": lambda e, x: ([e[0].sum()], [e[0] * 2, x[0]]),
    "reshapes": lambda e, x: ([], [(e[0].reshape(-1) * x[0].reshape(-1)).view(4, 4)[1:].sum(0)]),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_staged_function_equals_the_eager_function(name: str) -> None:
    function = PROGRAMS[name]
    staged = stage(function, [randn(4, 4), randn(4, 4, seed=1)], [randn(4, 4, seed=2)])
    early = [randn(4, 4, seed=3), randn(4, 4, seed=4)]  # inputs that differ from the example inputs
    expected_early, _ = function(early, [randn(4, 4)])
    outputs, residuals = staged.early(*early)
    assert_close(outputs, expected_early)
    for seed in (5, 6, 5):  # again, because a program must not modify its inputs
        late = randn(4, 4, seed=seed)
        assert relative_error(staged.late(*residuals, late), function(early, [late])[1]) < 1e-14


@pytest.mark.parametrize("function", [torch.relu_, lambda x: x.clone().mul_(2), torch.Tensor.zero_])
def test_staging_rejects_in_place_operations(function: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"modifies a tensor in place \(aten\..*out-of-place"):
        stage(lambda early, late: ([], [early[0] + function(late[0] * 1)]), [randn(2)], [randn(2)])


def test_inputs_that_were_one_tensor_during_tracing_stay_separate() -> None:
    same = randn(3)
    staged = stage(lambda early, late: ([], [early[0] * late[0] - early[1]]), [same, same], [same])
    _, residuals = staged.early(randn(3, seed=1), randn(3, seed=2))
    (output,) = staged.late(*residuals, randn(3, seed=3))
    assert_close(output, randn(3, seed=1) * randn(3, seed=3) - randn(3, seed=2))


def test_an_expression_that_occurs_twice_is_stored_once() -> None:
    def function(early: Any, late: Any) -> Any:
        x, v = early[0], late[0]
        first, second = torch.tanh(x).detach(), torch.tanh(x)
        return [], [(v * first).sin() * second + (v * second.square()).cos() * first.square()]

    staged = stage(function, [randn(4, 4)], [randn(4, 4)])
    x, v = randn(4, 4, seed=1), randn(4, 4, seed=2)
    _, residuals = staged.early(x)
    assert len(residuals) == 2  # tanh(x) and its square
    assert_close(staged.late(*residuals, v), function([x], [v])[1])


@pytest.mark.parametrize("view", [lambda x: x.t().t(), lambda x: x.unsqueeze(0).squeeze(0)])
def test_a_view_that_restores_a_tensor_can_be_returned_with_it(view: Any) -> None:
    staged = stage(lambda early, late: ([], [late[0] * early[0], view(late[0] * early[0])]),
                   [randn(3, 4)], [randn(3, 4)])  # fmt: skip
    first, second = staged.late(*staged.early(randn(3, 4, seed=1))[1], randn(3, 4, seed=2))
    assert_close(first, second, rtol=0, atol=0)
