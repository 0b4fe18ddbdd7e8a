"""Meta-Curvature against an explicit Kronecker product."""

import pytest
import torch
from torch.testing import assert_close

from metarl.core import meta_curvature
from tests.support.problems import randn, random_like


LR = 0.3
SHAPES = {
    "linear": (5, 3),
    "conv1d": (4, 2, 5),
    "conv2d": (4, 3, 3, 2),
    "conv3d": (2, 3, 2, 1, 3),
    "one input channel": (4, 1, 3, 3),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_update_is_minus_the_rate_times_the_kronecker_product(shape: tuple[int, ...]) -> None:
    optimizer, weight = meta_curvature(LR), randn(*shape)
    factors = random_like(optimizer.constants({"w": weight}), seed=1)
    modes = ["out", "in", "kernel"][: min(len(shape), 3)]
    assert list(factors) == [f"{mode}.w" for mode in modes]
    assert all(f.shape == (len(f), len(f)) for f in factors.values())
    matrix = torch.ones(1, 1, dtype=weight.dtype)
    for mode in modes:
        matrix = torch.kron(matrix, factors[f"{mode}.w"])
    updates, _ = optimizer.update(factors, {"w": weight}, (), 3)
    expected = -LR * (matrix @ weight.flatten()).view(shape)
    assert_close(updates["w"], expected, rtol=1e-12, atol=1e-12)


def test_layout_matches_the_mode_products_of_the_paper() -> None:
    optimizer, grad = meta_curvature(1.0), randn(4, 3, 3, 3)
    factors = random_like(optimizer.constants({"w": grad}), seed=1)
    mine = -optimizer.update(factors, {"w": grad}, (), 0)[0]["w"]
    out, into, kernel = (factors[f"{mode}.w"] for mode in ("out", "in", "kernel"))
    expected = torch.einsum("oid,fd,ji,po->pjf", grad.flatten(2), kernel, into, out)
    assert_close(mine.flatten(2), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(4,), ()])
def test_vectors_have_one_factor_per_element(shape: tuple[int, ...]) -> None:
    optimizer, grad = meta_curvature(LR), randn(*shape)
    factors = random_like(optimizer.constants({"b": grad}), seed=1)
    assert list(factors) == ["scale.b"]
    updates, _ = optimizer.update(factors, {"b": grad}, (), 0)
    assert_close(updates["b"], -LR * factors["scale.b"] * grad)


def test_modes_larger_than_the_limit_keep_the_identity() -> None:
    grads = {"head": randn(5, 8), "conv": randn(4, 9, 3, 3, seed=1), "bias": randn(20, seed=2)}
    bounded, whole = meta_curvature(LR, max_size=8), meta_curvature(LR)
    factors = random_like(bounded.constants(grads), seed=3)
    assert set(factors) == {"out.head", "in.head", "out.conv", "scale.bias"}
    completed = whole.constants(grads) | factors
    mine, expected = (
        optimizer.update(constants, grads, (), 0)[0]
        for optimizer, constants in ((bounded, factors), (whole, completed))
    )
    assert_close(mine, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factors_are_initialized_to_identities_with_the_dtype_of_the_weights(
    dtype: torch.dtype,
) -> None:
    grads = {"w": randn(4, 3, 3, 3).to(dtype), "b": randn(4).to(dtype)}
    optimizer = meta_curvature(LR)
    factors = optimizer.constants(grads)
    assert {f.dtype for f in factors.values()} == {dtype}
    updates, _ = optimizer.update(factors, grads, (), 0)
    assert_close(updates, {name: -LR * g for name, g in grads.items()}, rtol=0, atol=0)


def test_number_of_learned_elements_matches_the_sinusoid_network_of_the_paper() -> None:
    shapes = [(40, 1), (40,), (40, 40), (40,), (1, 40), (1,)]
    params = {str(index): torch.zeros(shape) for index, shape in enumerate(shapes)}
    assert sum(f.numel() for f in meta_curvature(LR).constants(params).values()) == 6483
