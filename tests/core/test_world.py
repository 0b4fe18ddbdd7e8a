"""Processes that share a meta-batch give the results of one process."""

import hashlib
import itertools
import json
import random
import signal
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from metarl.core import MetaState, tree
from metarl.core.seeding import numpy_generator, torch_generator
from metarl.core.speed import processes
from metarl.experiments.regression import RegressionConfig, SinusoidRegression
from tests.support import nightly, ranks
from tests.support.commands import history


RL = ["--num-tasks", 5, "--episodes-per-task", 4, "--hidden", 8, "--checkpoint-every", 5]
SMALL = [
    "--filters",
    4,
    "--ways",
    3,
    "--num-tasks",
    5,
    "--inner-steps",
    2,
    "--mode",
    "eager",
    "--validation-tasks",
    3,
    "--test-queries",
    2,
]
COMMANDS = {
    "vpg-maml": ["train", "vpg-maml", *RL],
    "maml-trpo": ["train", "maml-trpo", *RL],
    "promp": ["train", "promp", *RL],
    "e-maml": ["train", "e-maml", *RL],
    "cavia": ["train", "cavia", *RL],
    "reptile": ["train", "reptile", *RL],
    "sinusoid": ["train", "regression", "--num-tasks", 7, "--log-every", 1,
                 "--checkpoint-every", 10, "--validation-tasks", 30],
    "maml++": ["train", "fewshot", "--method", "maml++", *SMALL, "--log-every", 1,
               "--checkpoint-every", 10, "--chunk-size", 2],
    "sinusoid in chunks": ["train", "regression", "--num-tasks", 7, "--log-every", 1,
                           "--checkpoint-every", 10, "--validation-tasks", 30, "--chunk-size", 2],
    "one chunk": ["train", "fewshot", "--method", "maml++", *SMALL, "--log-every", 1,
                  "--checkpoint-every", 10],
}  # fmt: skip
ROUNDED = ("sinusoid", "one chunk")  # processes split a chunk, which changes rounding


@pytest.mark.parametrize("total", [1, 2, 5, 8, 13])
@pytest.mark.parametrize("multiple", [1, 2, 4])
def test_shares_cover_all_tasks_in_order(
    total: int, multiple: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in range(1, total + 1):
        monkeypatch.setattr(processes, "size", lambda size=size: size)
        taken: list[int] = []
        for rank in range(size):
            monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
            share = processes.share(total, multiple=multiple)
            assert share.number > 0
            assert share.total == total
            whole_chunks = -(-total // multiple) >= size
            assert share.first % (multiple if whole_chunks else 1) == 0
            taken += share.of_list(list(range(total)))
        assert taken == list(range(total))


def test_processes_share_whole_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = SinusoidRegression(RegressionConfig(num_tasks=6, chunk_size=4))
    state = experiment.init()
    monkeypatch.setattr(processes, "size", lambda: 2)
    for rank, number in ((0, 4), (1, 2)):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        tasks, _ = experiment.draw(state, 1)
        assert len(tree.leaves(tasks)[0]) == number


def checkpoint_digests(run: Path) -> dict[str, str]:
    """Return the MD5 of every checkpoint of a run."""
    files = (run / "checkpoints").iterdir()
    return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in files}


def largest_gap(mine: list[dict[str, float]], theirs: list[dict[str, float]]) -> float:
    """Return the largest relative difference of two histories; values below 1e-3 count as 1e-3."""
    assert [line.keys() for line in mine] == [line.keys() for line in theirs]
    pairs = [(a[k], b[k]) for a, b in zip(mine, theirs, strict=True) for k in a]
    return max(abs(a - b) / max(abs(a), abs(b), 1e-3) for a, b in pairs)


FEW = ("maml-trpo", "promp", "sinusoid", "maml++", "one chunk")
MANY = {name: 20 for name in ("maml-trpo", "promp", "maml++", "sinusoid in chunks", *ROUNDED)}
MANY |= dict.fromkeys(("vpg-maml", "e-maml", "cavia", "reptile"), 5)


@pytest.mark.parametrize(
    ("name", "iterations", "sizes"),
    [
        *((name, 2, (2,)) for name in FEW),
        *(nightly(name, number, (2, 3)) for name, number in MANY.items()),
    ],
)
def test_results_do_not_depend_on_the_number_of_processes(
    name: str, iterations: int, sizes: tuple[int, ...], tmp_path: Path
) -> None:
    words = [*COMMANDS[name], "--iterations", iterations]
    for size in (1, *sizes):
        started = ranks.start(size, tmp_path, ranks.metarl, [*words, "--out", tmp_path / str(size)])
        assert started.join() == [0] * size, started.errors()
    alone = history(tmp_path / "1")
    assert len(alone) == iterations
    for size in sizes:
        mine = history(tmp_path / str(size))
        assert largest_gap(mine, alone) <= (1e-5 if name in ROUNDED else 0.0)
        if name not in ROUNDED:
            same = checkpoint_digests(tmp_path / str(size)) == checkpoint_digests(tmp_path / "1")
            assert same


def in_float64(out: Path, name: str) -> None:
    """Train 20 iterations in float64 and save the metrics in the first process."""
    from metarl.experiments import fewshot, meta_rl, regression
    from metarl.experiments.supervised import share_of

    def wide(values: Any) -> Any:
        return tree.map_leaves(lambda x: x.double() if x.is_floating_point() else x, values)

    def of_policies(module: Any, kind: Any) -> Iterator[dict[str, torch.Tensor]]:
        parts = module.build(kind(num_tasks=5, episodes_per_task=4, hidden=(8,)))
        state: MetaState = parts.learner.init(wide(parts.params))
        for iteration in range(20):
            tasks = parts.sampler.sample_tasks(numpy_generator(0, iteration, "tasks"))
            drawn = torch_generator(0, iteration, "rollouts")
            collected, about = parts.sampler.collect(
                parts.policy, parts.loop, state.params, tasks, drawn, parts.process
            )
            state, metrics = parts.learner.step(state, collected)
            yield about | metrics

    def supervised(experiment: Any) -> Iterator[dict[str, torch.Tensor]]:
        parts, config = experiment.parts, experiment.config
        state = parts.learner(1).init(wide(parts.model.params))
        for iteration in range(1, 21):
            tasks = parts.draw(config.num_tasks, torch_generator(0, iteration, "tasks"))
            state, metrics = parts.learner(iteration).step(state, share_of(wide(tasks)))
            yield metrics

    small: dict[str, Any] = {"filters": 4, "num_ways": 3, "inner_steps": 2, "mode": "eager"}
    images = fewshot.FewShotConfig(method="maml++", num_tasks=5, **small)
    sinusoids = regression.RegressionConfig(num_tasks=7)
    runs: dict[str, Callable[[], Iterator[dict[str, torch.Tensor]]]] = {
        "maml-trpo": lambda: of_policies(meta_rl, meta_rl.config_class("maml-trpo")),
        "promp": lambda: of_policies(meta_rl, meta_rl.config_class("promp")),
        "sinusoid": lambda: supervised(regression.SinusoidRegression(sinusoids)),
        "maml++": lambda: supervised(fewshot.ImageClassification(images)),
    }
    with processes.joined():
        lines = [{key: float(value) for key, value in line.items()} for line in runs[name]()]
        if processes.writes():
            out.write_text(json.dumps(lines))


@pytest.mark.parametrize(
    "name", ["sinusoid", *(nightly(name) for name in ("maml-trpo", "promp", "maml++"))]
)
def test_processes_agree_to_ten_digits_in_float64(name: str, tmp_path: Path) -> None:
    found = []
    for size in (1, 2, 3):
        out = tmp_path / f"{size}.json"
        started = ranks.start(size, tmp_path, in_float64, out, name)
        assert started.join() == [0] * size, [path.read_text() for path in started.outputs]
        found.append(json.loads(out.read_text()))
    for mine in found[1:]:
        assert largest_gap(mine, found[0]) < 1e-10


@pytest.mark.parametrize(("kills", "iterations"), [(2, 12), nightly(10, 60)])
def test_a_killed_process_ends_the_run_and_a_different_number_resumes_it(
    kills: int, iterations: int, tmp_path: Path
) -> None:
    words = [*COMMANDS["vpg-maml"], "--iterations", iterations]
    alone = ranks.start(1, tmp_path, ranks.metarl, [*words, "--out", tmp_path / "whole"])
    assert alone.join() == [0]
    folder, chance = tmp_path / "killed", random.Random(0)
    sizes = itertools.cycle((2, 3, 2, 1))
    for attempt in range(kills):  # at most 5 lines each, so that the run never ends first
        size = next(sizes)
        begun = (folder / "config.json").exists()
        argv = ["resume", folder] if begun else [*words, "--out", folder]
        started = ranks.start(size, tmp_path, ranks.metarl, argv)
        ranks.wait_for_lines(started.processes, folder, chance.randrange(1, 6))
        time.sleep(chance.random() * 0.02)
        victim = chance.randrange(size)
        started.processes[victim].kill()
        before = time.monotonic()
        codes = started.join()
        assert time.monotonic() - before < 10
        assert codes[victim] == -signal.SIGKILL
        # Other processes do not print an error.
        assert codes[:victim] + codes[victim + 1 :] == [1] * (size - 1), attempt
        assert started.errors() == []
    started = ranks.start(3, tmp_path, ranks.metarl, ["resume", folder])
    assert started.join() == [0, 0, 0], started.errors()
    assert history(folder) == history(tmp_path / "whole")
    assert checkpoint_digests(folder) == checkpoint_digests(tmp_path / "whole")


def failing_in_one(words: list[Any]) -> None:
    """Train with an environment that fails in the second process."""
    from metarl.envs.navigation import Navigation2D

    def broken(self: Any, *args: Any) -> Any:
        raise KeyError("sensor")

    import os

    if os.environ["RANK"] == "1":
        Navigation2D.move = broken  # type: ignore[method-assign]
    ranks.metarl(words)


def test_an_error_in_one_process_is_printed_once(tmp_path: Path) -> None:
    words = [*COMMANDS["vpg-maml"], "--iterations", 3, "--out", tmp_path / "run"]
    started = ranks.start(3, tmp_path, failing_in_one, words)
    assert started.join() == [1, 1, 1]
    (line,) = started.errors()
    assert "metarl/Navigation2D-v0 failed in step: KeyError: 'sensor'" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "maml-trpo", "--num-tasks", 2], "3 processes cannot share 2 tasks"),
        (["train", "sb3"], "start them without torchrun"),
        (["train", "maml-trpo", "--no-such-flag", 2], "--no-such-flag"),
    ],
)
def test_fewer_tasks_than_processes_are_rejected(
    words: list[Any], message: str, tmp_path: Path
) -> None:
    started = ranks.start(3, tmp_path, ranks.metarl, [*words, "--out", tmp_path / "run"])
    assert started.join() == [2 if "flag" in message else 1] * 3
    (line,) = started.errors()
    assert message in line
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_signal_stops_all_processes_after_one_checkpoint(tmp_path: Path) -> None:
    words = [*COMMANDS["vpg-maml"], "--iterations", 40, "--checkpoint-every", 40]
    folder = tmp_path / "run"
    started = ranks.start(2, tmp_path, ranks.metarl, [*words, "--out", folder])
    ranks.wait_for_lines(started.processes, folder, 2)
    started.processes[1].terminate()  # a signal to one process stops all of them
    assert started.join() == [128 + signal.SIGTERM] * 2
    (line,) = started.errors()
    assert "stopped by SIGTERM" in line
    (_, stopped) = sorted(int(p.stem) for p in (folder / "checkpoints").iterdir())
    assert len(history(folder)) == stopped


def test_non_finite_values_are_reported_once(tmp_path: Path) -> None:
    words = [*COMMANDS["sinusoid"], "--iterations", 20, "--inner-lr", 1e30]
    started = ranks.start(2, tmp_path, ranks.metarl, [*words, "--out", tmp_path / "run"])
    assert started.join() == [1, 1]
    (line,) = started.errors()
    assert "must be finite" in line


def test_a_single_process_sums_its_own_values() -> None:
    parts = [{"a": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}] * 2
    found = processes.total(parts)
    assert found["a"].tolist() == [2.0, 4.0]
    assert found["a"].dtype == torch.float32
    assert found["n"] == 6
    assert found["n"].dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_do_not_depend_on_the_order(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(40, 1000, generator=generator, dtype=dtype)
    numbers *= 10 ** (4 * torch.rand(numbers.shape, generator=generator, dtype=dtype))
    numbers[:, 0] = 0
    forwards = processes.total(list(numbers))
    assert torch.equal(processes.total(list(numbers.flip(0))), forwards)
    assert not torch.equal(sum(numbers.flip(0)), sum(numbers))  # summed from left to right
    exact = [float(sum(map(Fraction, column))) for column in numbers.T.tolist()]
    assert torch.equal(forwards, torch.tensor(exact, dtype=torch.float64).to(dtype))


def test_non_finite_values_stay_non_finite() -> None:
    values = torch.tensor([1.0, torch.inf, torch.nan], dtype=torch.float64)
    assert str(processes.total([values, values]).tolist()) == "[2.0, inf, nan]"
