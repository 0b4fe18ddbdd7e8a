"""Action distributions against torch.distributions, sampling statistics, Fisher information."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence
from torch.testing import assert_close

from metarl.core import tree
from metarl.rl.distributions import Categorical, Gaussian
from tests.support.problems import randn, random_like, seeded
from tests.support.reference_losses import plain_distribution


Maker = Callable[..., Any]


def gaussian(*batch: int, seed: int = 0) -> Gaussian:
    return Gaussian(randn(*batch, 3, seed=seed), 0.5 * randn(*batch, 3, seed=seed + 50))


def categorical(*batch: int, seed: int = 0) -> Categorical:
    return Categorical(2 * randn(*batch, 4, seed=seed))


makers = pytest.mark.parametrize("make", [gaussian, categorical])


@makers
@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_log_prob_kl_and_entropy_match_torch(make: Maker, batch: tuple[int, ...]) -> None:
    ours, other = make(*batch), make(*batch, seed=1)
    theirs = plain_distribution(ours)
    actions = ours.sample(seeded(0))
    assert_close(ours.log_prob(actions), theirs.log_prob(actions))
    assert_close(ours.entropy(), theirs.entropy())
    assert_close(ours.kl(other), kl_divergence(theirs, plain_distribution(other)))
    assert_close(ours.kl(ours), torch.zeros(batch).double())
    assert ours.mode().equal(theirs.mode)


@makers
def test_gradients_match_torch(make: Maker) -> None:
    distribution, other = make(5), make(5, seed=1)
    actions = distribution.sample(seeded(0))
    parts = [x.requires_grad_() for x in tree.leaves(distribution)]
    theirs = plain_distribution(distribution)
    for ours, expected in (
        (distribution.log_prob(actions), theirs.log_prob(actions)),
        (distribution.kl(other), kl_divergence(theirs, plain_distribution(other))),
        (other.kl(distribution), kl_divergence(plain_distribution(other), theirs)),
        (distribution.entropy(), theirs.entropy()),
    ):
        options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        grads = [torch.autograd.grad(y.sum(), parts, **options) for y in (ours, expected)]
        assert_close(*grads)


@makers
def test_fisher_is_the_hessian_of_the_kl(make: Maker) -> None:
    distribution = make()
    flat, unravel = tree.ravel(distribution)
    hessian = torch.autograd.functional.hessian(lambda x: distribution.kl(unravel(x)), flat)
    tangent = random_like(distribution, seed=9)
    expected = unravel(hessian @ tree.ravel(tangent)[0])
    assert_close(distribution.fisher(tangent), expected, rtol=1e-10, atol=1e-12)


@makers
def test_sampling_only_uses_the_given_generator(make: Maker) -> None:
    distribution, before = make(100), torch.get_rng_state()
    samples = [distribution.sample(seeded(seed)) for seed in (3, 3, 4)]
    assert torch.get_rng_state().equal(before)
    assert samples[0].equal(samples[1])
    assert not samples[0].equal(samples[2])


@makers
def test_samples_have_no_gradient(make: Maker) -> None:
    distribution = tree.map_leaves(lambda x: x.requires_grad_(), make(5))
    assert not distribution.sample(seeded(0)).requires_grad


def test_gaussian_samples_have_the_right_mean_and_std() -> None:
    one = gaussian()
    many = tree.expand(one, 100_000).sample(seeded(0))
    assert_close(many.mean(0), one.mean, rtol=0, atol=0.02)
    assert_close(many.std(0), one.log_std.exp(), rtol=0.02, atol=0)
    z = (many - one.mean) / one.log_std.exp()
    assert_close((z**4).mean(0), torch.full((3,), 3.0).double(), rtol=0.05, atol=0)
    assert_close(torch.corrcoef(z.mT), torch.eye(3).double(), rtol=0, atol=0.02)


def test_categorical_samples_have_the_right_probabilities() -> None:
    one = Categorical(torch.tensor([0.0, 1.0, -1.0, -torch.inf]).double())
    many = tree.expand(one, 100_000).sample(seeded(0))
    frequencies = torch.bincount(many, minlength=4) / len(many)
    assert_close(frequencies.double(), torch.softmax(one.logits, -1), rtol=0, atol=0.01)
    assert frequencies[3] == 0


@makers
def test_distributions_can_be_returned_from_vmap(make: Maker) -> None:
    ours, other, actions = make(2, 3), make(2, 3, seed=1), make(2, 3).sample(seeded(0))

    def values(a: Any, b: Any, action: Tensor) -> Any:
        return a.log_prob(action), a.kl(b), a.entropy(), a.mode(), a.fisher(b)

    assert_close(torch.func.vmap(values)(ours, other, actions), values(ours, other, actions))


def test_a_constant_shift_of_the_logits_has_no_effect() -> None:
    one = categorical(5)
    two = Categorical(one.logits + 100)
    assert_close(one.kl(two), torch.zeros(5).double())
    assert_close(one.entropy(), two.entropy())
    assert one.fisher(Categorical(torch.ones(5, 4).double())).logits.abs().max() < 1e-15
