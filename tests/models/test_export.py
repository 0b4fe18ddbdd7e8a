"""Export of adapted policies with torch.export and ONNX, with a dynamic batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metarl.experiments.meta_rl import MetaRL, config_class
from metarl.models import AdaptedPolicy


SETTINGS: dict[str, dict[str, Any]] = {
    "gaussian": {"action_scale": 0.5, "activation": "tanh"},
    "categorical": {"env": "metarl/TabularMDP-v0"},
    "context": {"context_size": 3},
}


@pytest.fixture(params=SETTINGS)
def adapted(request: pytest.FixtureRequest) -> AdaptedPolicy:
    config = config_class("maml-trpo")(device="cpu", hidden=(8, 8), **SETTINGS[request.param])
    experiment = MetaRL(config)
    policy = experiment.model(experiment.init().params, episodes=2)
    return policy.adapt(policy.sample_task(1), steps=1)


def observations(adapted: AdaptedPolicy, number: int) -> torch.Tensor:
    shape = (number, *(adapted.spaces.observation.shape or ()))
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def dynamic() -> Any:
    return ({0: torch.export.Dim("batch")},)


def test_the_module_returns_what_act_returns_before_clipping(adapted: AdaptedPolicy) -> None:
    seen = observations(adapted, 50)
    found = adapted.module()(seen)
    expected = adapted.policy(adapted.params, seen)
    assert found.equal(expected[0])
    actions = adapted.spaces.actions(expected.mode().numpy())
    np.testing.assert_array_equal(adapted.act(seen.numpy()), actions)
    assert all(each.requires_grad for each in adapted.module().parameters())


def test_torch_export_has_a_dynamic_batch(adapted: AdaptedPolicy) -> None:
    module = adapted.module()
    program = torch.export.export(module, (observations(adapted, 2),), dynamic_shapes=dynamic())
    for number in (1, 7):
        seen = observations(adapted, number)
        torch.testing.assert_close(program.module()(seen), module(seen), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx_has_a_dynamic_batch(adapted: AdaptedPolicy, tmp_path: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="pip install 'metarl-torch[export]'")
    import onnxruntime

    module, path = adapted.module().eval(), tmp_path / "policy.onnx"
    torch.onnx.export(
        module, (observations(adapted, 2),), path, dynamo=True, verbose=False,
        input_names=["observations"], output_names=["actions"], dynamic_shapes=dynamic(),
    )  # fmt: skip
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for number in (1, 7):
        seen = observations(adapted, number)
        (found,) = session.run(None, {"observations": seen.numpy()})
        expected = module(seen).numpy(force=True)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
