"""``metarl benchmark``: its output, and the raw physics as a baseline of equal work."""

import json
import os
from functools import partial
from pathlib import Path

import mujoco
import numpy as np
import pytest

from metarl.commands.benchmark import Benchmark, main
from metarl.commands.measures import rl, scaling, supervised
from metarl.commands.measures.supervised import IMAGES, MODES, PLAIN, TRACED
from metarl.experiments import meta_rl, settings
from metarl.rl.sampler import make_sampler
from tests.support import ranks


ENV = "metarl/HalfCheetahDir-v1"


@pytest.mark.nightly
def test_figures_are_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised, "settings", partial(settings, num_tasks=2))
    out = tmp_path / "new" / "speed.json"
    main(
        Benchmark(
            repeats=1, env=(ENV,), num_tasks=2, episodes_per_task=4, hidden=(4,), out=out,
            fisher_fraction=(0.5,), compiled=False,
        )
    )  # fmt: skip
    report = json.loads(out.read_text())["figures"]
    machine, policy, fewer, sinusoids, *images = report
    assert machine == "this machine"
    assert policy == f"{ENV}: 2 tasks x 4 episodes x 100 steps, 4 relu"
    timed = {PLAIN, *(name for name, mode in MODES.items() if mode != "compiled")}
    assert set(report[sinusoids]) == timed
    assert [name.split(":")[0] for name in images] == [
        f"images of {size} pixels" for size in IMAGES
    ]
    assert all(set(report[name]) > timed for name in images)
    figures = report[policy]
    assert fewer == f"{policy}, Fisher on 50% of the episodes"
    for values in (figures, report[fewer]):
        assert all(value > 0 for name, value in values.items() if "tracing" not in name)
    sampled, raw = figures["closed-loop sampling (steps/s)"], figures["raw mj_step (steps/s)"]
    assert figures["closed loop / raw (%)"] == pytest.approx(100 * sampled / raw)
    assert "trust-region update (s)" in report[fewer]
    assert "raw mj_step" in capsys.readouterr().out


def test_few_shot_meta_steps_are_compared_with_the_limit_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = supervised.PHOTOGRAPHS | {"num_tasks": 2, "num_queries": 6}
    monkeypatch.setattr(supervised, "IMAGES", {28: small})
    monkeypatch.setattr(supervised, "matrix_product", lambda *_: 50.0)
    (case,) = supervised.fewshot(Benchmark(repeats=1, compiled=False, device="cpu"))
    assert case.title.startswith("images of 28 pixels: 2 tasks x 5 ways x (1 shot + 6 queries)")
    figures = case.measure()
    work = figures["matrix products of a meta-step (GFLOP)"]
    limit = figures["traced / limit by matrix products (%)"]
    assert limit == pytest.approx(100 * work / 50 / (figures[TRACED] / 1000))
    assert figures["peak memory of a meta-step, traced (MB)"] > 0


def test_work_of_a_meta_step_counts_the_convolutions_of_all_tasks() -> None:
    options = {"channels": 1, "filters": 4, "num_tasks": 2, "inner_steps": 0}
    found = supervised.matrix_products(supervised.noise_experiment(8, **options))
    sizes, channels = (16, 4, 1, 1), (1, 4, 4, 4)  # output pixels and input channels of each block
    forward = [2 * 5 * 4 * 9 * s * c for s, c in zip(sizes, channels, strict=True)]
    head = 3 * 2 * 5 * 5 * 4  # forward, and the gradients of inputs and weights
    assert found == pytest.approx(2 * (3 * sum(forward) - forward[0] + head) / 1e9)


def test_raw_physics_simulates_every_substep_of_the_recorded_actions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = make_sampler(ENV, num_tasks=1, episodes_per_task=3).env
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 3, 6))
    steps = []
    plain = mujoco.mj_step
    monkeypatch.setattr(
        mujoco, "mj_step", lambda m, d, n: (steps.append((d.ctrl.copy(), n)), plain(m, d, n))
    )
    rl.raw_physics(env, actions)
    assert len(steps) == 15
    assert {n for _, n in steps} == {5}
    assert {tuple(c) for c, _ in steps} == {tuple(a) for a in actions.reshape(-1, 6)}


def test_tracing_times_are_not_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rl, "median", lambda step, repeats: 1e6)
    config = meta_rl.config_class("maml-trpo")
    small = config(num_tasks=2, episodes_per_task=2, hidden=(4,), device="cpu")
    assert rl.update_seconds(meta_rl.MetaRL(small), 1) == (1e6, 0.0)


def share_a_small_benchmark(out: Path) -> None:
    """Run the measurement in one of several processes."""
    small = {"num_tasks": 2, "episodes_per_task": 2, "hidden": (4,)}
    scaling.CHEETAH.update(small)
    figures = scaling.measure(1)
    if os.environ["RANK"] == "0":
        out.write_text(json.dumps(figures))


@pytest.mark.nightly
def test_scaling_measures_processes_that_share_an_iteration(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    started = ranks.start(2, tmp_path / "ranks", share_a_small_benchmark, out)
    assert started.join() == [0, 0]
    figures = json.loads(out.read_text())
    assert set(figures) == {"sampling", "update", "bytes"}
    assert all(value > 0 for value in figures.values())


def test_scaling_compares_with_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {1: {"sampling": 2.0, "update": 6.0, "bytes": 0.0}}
    times[2] = {"sampling": 1.0, "update": 3.0, "bytes": 5000.0}
    monkeypatch.setattr(scaling, "_start", lambda number, repeats: times[number])
    (case,) = scaling.scaling(Benchmark(repeats=1, processes=2))
    assert case.title.startswith("metarl/HalfCheetahDir-v1: 40 tasks x 20 episodes")
    figures = case.measure()
    assert figures["iteration, 1 process (s)"] == 8
    assert figures["part of the time of one, 2 processes ()"] == 0.5
    assert figures["sent by each, 2 processes (kB)"] == 5


def fail(repeats: int) -> None:
    raise ValueError(f"{repeats} is no good number")


@pytest.mark.nightly
def test_failing_benchmark_processes_print_the_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scaling, "measure", fail)
    with pytest.raises(RuntimeError, match="2 processes failed; see the error"):
        scaling._start(2, repeats=1)
    assert "ValueError: 1 is no good number" in caplog.text


def test_zero_repeats_are_rejected() -> None:
    with pytest.raises(ValueError, match="`repeats` must be at least 1, got 0"):
        Benchmark(repeats=0)
