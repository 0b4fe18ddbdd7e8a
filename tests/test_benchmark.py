"""``metarl benchmark``: what it prints and writes, and that the raw physics is the same work."""

import json
from pathlib import Path

import mujoco
import numpy as np
import pytest

from metarl.experiments.benchmark import Benchmark, main
from metarl.rl.measure import raw_physics
from metarl.rl.sampler import make_sampler
from metarl.supervised.measure import MODES, PLAIN


ENV = "metarl/HalfCheetahDir-v1"


def test_figures_are_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "speed.json"
    main(
        Benchmark(
            repeats=1, env=(ENV,), num_tasks=2, episodes_per_task=4, hidden=(4,), out=out,
            fisher_fraction=(0.5,), compiled=False,
        )
    )  # fmt: skip
    report = json.loads(out.read_text())["figures"]
    machine, policy, sinusoids, images = report
    assert machine == "this machine"
    assert policy == f"{ENV}: 2 tasks x 4 episodes x 100 steps, 4 relu"
    for name in (sinusoids, images):
        assert set(report[name]) == {PLAIN, *(t for t, mode in MODES.items() if mode != "compiled")}
    figures = report[policy]
    assert all(value > 0 for name, value in figures.items() if "tracing" not in name)
    sampled, raw = figures["closed-loop sampling (steps/s)"], figures["raw mj_step (steps/s)"]
    assert figures["closed loop / raw (%)"] == pytest.approx(100 * sampled / raw)
    assert "trust-region update, Fisher on 50% of the episodes (s)" in figures
    assert "raw mj_step" in capsys.readouterr().out


def test_raw_physics_takes_every_substep_of_the_same_actions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = make_sampler(ENV, num_tasks=1, episodes_per_task=3).env
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 3, 6))
    steps = []
    plain = mujoco.mj_step
    monkeypatch.setattr(
        mujoco, "mj_step", lambda m, d, n: (steps.append((d.ctrl.copy(), n)), plain(m, d, n))
    )
    raw_physics(env, actions)
    assert len(steps) == 15
    assert {n for _, n in steps} == {5}
    assert {tuple(c) for c, _ in steps} == {tuple(a) for a in actions.reshape(-1, 6)}


def test_no_repeats_are_refused() -> None:
    with pytest.raises(ValueError, match="--repeats must be at least 1, got 0"):
        Benchmark(repeats=0)
