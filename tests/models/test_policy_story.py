"""Train on the README's pendulum, and use the policy where only the wheel is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import metarl
from tests.support.commands import built_wheel
from tests.support.commands import metarl as command
from tests.support.own_environment import saved
from tests.support.pages import block


ELSEWHERE = """
import importlib.util, pathlib, numpy, onnxruntime, metarl

assert pathlib.Path(metarl.__file__).parts[-3] == "site", metarl.__file__
assert importlib.util.find_spec("pendulum") is None
given = numpy.load("given.npz")
adapted = metarl.load_adapted("adapted.safetensors", device="cpu")
numpy.testing.assert_array_equal(adapted.act(given["seen"]), given["actions"])
session = onnxruntime.InferenceSession("policy.onnx")
(means,) = session.run(None, {"observations": given["seen"]})
numpy.testing.assert_allclose(means.clip(-1, 1), given["actions"], rtol=1e-5, atol=1e-5)
names = ("observations", "actions", "rewards")
count = sum(name.startswith("rewards") for name in given)
episodes = [{name: given[f"{name}{i}"] for name in names} for i in range(count)]
again = metarl.load("pulled", device="cpu").adapt(episodes=episodes)
for name, value in adapted.params.items():
    assert again.params[name].equal(value), name
try:
    metarl.load("pulled", device="cpu").sample_task()
except ValueError as error:
    assert "trust_env" in str(error), error
else:
    raise AssertionError
"""


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:.*Box observation space m.* is -?infinity:UserWarning")
def test_a_policy_is_used_without_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="pip install 'metarl-torch[export]'")
    monkeypatch.chdir(tmp_path)
    train = block("README.md", "own").splitlines()[0].split()
    with saved("README.md", "pendulum", tmp_path, namespace="mine"):
        command(*train[3:], "--iterations", 10)  # 30 on the page
        env: Any = gymnasium.make("pendulum:mine/Pendulum-v0")
        env.unwrapped.task = {"angle": 0.8}
        use(env, metarl.load("runs/pendulum", device="cpu"))
    command("push", "runs/pendulum", "shared", "--no-picture")
    command("pull", "shared", "--out", "pulled")
    site, here = tmp_path / "site", tmp_path / "here"
    here.mkdir()
    for name in ("pulled", "adapted.safetensors", "policy.onnx", "given.npz"):
        shutil.move(name, here / name)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, str(built_wheel(tmp_path))], check=True)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], cwd=here, env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def use(env: Any, policy: Any) -> None:
    """Adapt from a hand-written loop, act, save and export."""
    recorder = policy.record()
    for _ in range(40):
        observation, _ = env.reset()
        ended = False
        while not ended:
            action = recorder.act(observation)
            observation, reward, terminated, truncated, _ = env.step(action)
            ended = recorder.step(reward, terminated, truncated)
    adapted = policy.adapt(episodes=recorder.episodes)
    before, after = (each.adapt(env, steps=0).returns[-1] for each in (policy, adapted))
    assert after > before + 3  # about 10 and 31 after 30 iterations
    adapted.save("adapted.safetensors")
    batch = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(
        adapted.module(), (torch.zeros(2, 3),), "policy.onnx", dynamo=True,
        verbose=False, external_data=False,
        input_names=["observations"], output_names=["means"], dynamic_shapes=batch,
    )  # fmt: skip
    seen = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    arrays = {
        f"{name}{index}": getattr(episode, name)
        for index, episode in enumerate(recorder.episodes)
        for name in ("observations", "actions", "rewards")
    }
    np.savez("given.npz", seen=seen, actions=adapted.act(seen), **arrays)
