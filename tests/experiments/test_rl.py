"""The table of meta-RL methods: requirements of every row, and learning."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.testing import assert_close

from metarl.core import MetaState, Metrics, Task, tree
from metarl.core.seeding import numpy_generator
from metarl.experiments import experiments
from metarl.experiments.meta_rl import Parts, build
from metarl.runs import checkpoint
from tests.support import nightly
from tests.support.commands import TINY, checkpoints, history, metarl, refusal
from tests.support.problems import FLOAT64, relative_error, seeded


class Row(NamedTuple):
    """A method with its flags, and flags for fast learning."""

    experiment: str
    flags: tuple[Any, ...] = ()
    quick: tuple[Any, ...] = ("--iterations", 8)


ROWS = {
    "maml-trpo": Row("maml-trpo"),
    "fomaml-trpo": Row("maml-trpo", ("--first-order",), ("--iterations", 10)),
    "meta-sgd": Row("maml-trpo", ("--inner", "meta-sgd")),
    "meta-curvature": Row("maml-trpo", ("--inner", "meta-curvature+lslr")),
    "dice": Row("maml-trpo", ("--inner-loss", "dice"), ("--iterations", 10)),
    "vpg-maml": Row("vpg-maml", (), ("--iterations", 15, "--outer-lr", 0.01)),
    "maml-ppo": Row("maml-ppo", (), ("--iterations", 10, "--outer-lr", 0.005)),
    "promp": Row("promp", (), ("--iterations", 10, "--outer-lr", 0.005)),
    "e-maml": Row("e-maml"),
    "cavia": Row("cavia"),
    "cavia-meta-sgd": Row("cavia", ("--inner", "meta-sgd")),
    "reptile": Row(
        "reptile", (), ("--iterations", 12, "--inner-lr", 1, "--outer-lr", 1, "--inner-steps", 3)
    ),
}
every_row = pytest.mark.parametrize("name", ROWS)
# commands/test_train_resume.py tests MAML-TRPO; these have additional state or updates.
OWN = ["promp", "e-maml", "cavia-meta-sgd", "reptile"]
QUICKEST = ("maml-trpo", "vpg-maml")  # one method per kind of update


def values(flags: tuple[Any, ...]) -> dict[str, Any]:
    """Parse flags into fields of a configuration."""
    words = iter(flags)
    fields = {}
    for word in words:
        field = word.removeprefix("--").replace("-", "_")
        fields[field] = True if field == "first_order" else next(words)
    return fields


def parts_of(name: str, **given: Any) -> Parts:
    row = ROWS[name]
    command = experiments()[row.experiment]
    _, configuration = command.load()
    config = configuration(num_tasks=3, episodes_per_task=3, hidden=(4,), activation="tanh")
    if hasattr(config, "cg_steps"):
        given["cg_steps"] = 5  # more steps amplify rounding errors
    parts: Parts = build(replace(config, **values(row.flags), **given))
    return parts


def fresh(parts: Parts) -> MetaState:
    """The state before the first iteration, in float64."""
    return parts.learner.init(tree.map_leaves(lambda p: p.to(FLOAT64), parts.params))


@cache
def collected(name: str) -> Task:
    """Collect the episodes of one iteration in float64."""
    parts = parts_of(name)
    tasks = parts.sampler.sample_tasks(numpy_generator(0, 1, "tasks"))
    batch, _ = parts.sampler.collect(
        parts.policy, parts.loop, fresh(parts).params, tasks, seeded(0), parts.process
    )
    assert batch.query.observations.dtype == FLOAT64
    return batch


@cache
def updated(name: str) -> tuple[MetaState, Metrics]:
    """Take one update on all tasks at once."""
    parts = parts_of(name, chunk_size=3)
    return parts.learner.step(fresh(parts), collected(name))


@every_row
def test_a_step_reaches_every_meta_parameter(name: str) -> None:
    before, (after, _) = fresh(parts_of(name)).params, updated(name)
    assert ("inner" in values(ROWS[name].flags)) == bool(before.inner)
    for old, new in zip(before, after.params, strict=True):
        assert old.keys() == new.keys()
        for key, value in old.items():
            assert new[key].ne(value).any(), key


@every_row
def test_chunks_and_task_order_do_not_matter(name: str) -> None:
    tasks = tree.map_leaves(lambda x: x[[2, 0, 1]], collected(name))
    parts = parts_of(name, chunk_size=1)
    state, metrics = parts.learner.step(fresh(parts), tasks)
    expected, same = updated(name)
    assert relative_error(state.params, expected.params) < 1e-9
    assert_close(metrics, same, rtol=1e-7, atol=1e-10)
    assert_close(state.own, expected.own, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["promp", "cavia-meta-sgd", nightly("e-maml"), nightly("reptile")])
def test_resumed_training_is_bit_identical(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    train = ["train", row.experiment, *row.flags, *TINY]
    metarl(*train, "--iterations", 4, "--out", tmp_path / "whole")
    metarl(*train, "--iterations", 2, "--out", tmp_path / "run")
    assert history(tmp_path / "run") == history(tmp_path / "whole")[:2]
    metarl("resume", tmp_path / "run", "--iterations", 4)
    assert history(tmp_path / "run") == history(tmp_path / "whole")
    last = "00000004.safetensors"
    assert checkpoints(tmp_path / "run")[last] == checkpoints(tmp_path / "whole")[last]


# torch distributes sums of more than 32,768 terms over threads.
WIDE = ("--num-tasks", 2, "--episodes-per-task", 2, "--hidden", 192, 192)
MANY = ("--num-tasks", 20, "--episodes-per-task", 20, "--hidden", 4)


@pytest.mark.usefixtures("free_threads")
@pytest.mark.parametrize(
    ("name", "size"),
    [
        (name, size) if (name, size) == ("e-maml", WIDE) else nightly(name, size)
        for name in OWN
        for size in (WIDE, MANY)
    ],
)
def test_results_are_bit_identical_for_any_number_of_threads(
    name: str, size: tuple[Any, ...], tmp_path: Path
) -> None:
    row = ROWS[name]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        flags = (*size, "--iterations", 2, "--out", tmp_path / str(threads))
        metarl("train", row.experiment, *row.flags, *flags)
    assert history(tmp_path / "1") == history(tmp_path / "2")
    assert checkpoints(tmp_path / "1") == checkpoints(tmp_path / "2")


def test_promp_resumes_with_the_coefficients_of_its_checkpoint(tmp_path: Path) -> None:
    flags = (
        "--kl-target",
        1e-9,
        "--inner-steps",
        2,
        "--iterations",
        2,
    )  # not reached, so the coefficient is doubled
    metarl("train", "promp", *TINY, *flags, "--out", tmp_path / "run")
    saved = checkpoint.load(tmp_path / "run/checkpoints/00000002.safetensors")
    assert saved.own["kl_coefficient"].tolist() == [2e-3, 2e-3]
    metarl("resume", tmp_path / "run", "--iterations", 3)
    used = [
        [line[f"outer/kl_coefficient_{k}"] for k in (0, 1)] for line in history(tmp_path / "run")
    ]
    assert used == [[5e-4, 5e-4], [1e-3, 1e-3], [2e-3, 2e-3]]


@pytest.mark.parametrize(
    "experiment", ["maml-trpo", "vpg-maml", "maml-ppo", "promp", "e-maml", "cavia"]
)
def test_zero_inner_steps_train_one_policy_for_all_tasks(experiment: str, tmp_path: Path) -> None:
    flags = ("--inner-steps", 0, "--iterations", 2)
    metarl("train", experiment, *TINY, *flags, "--out", tmp_path / "run")
    metarl("resume", tmp_path / "run", "--iterations", 3)
    assert len(history(tmp_path / "run")) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--inner-steps", 0), "reptile requires --inner-steps of at least 1, got 0"),
        (("--first-order",), "could omit; remove --first-order"),
        (("--inner", "meta-sgd"), "reptile does not support learned step sizes; use sgd or adam"),
    ],
)
def test_reptile_rejects_unsupported_settings(
    flags: tuple[Any, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert message in refusal(capsys, "train", "reptile", *TINY, *flags, "--out", run)
    assert not run.exists()


def evaluated(run: Path, steps: int, *flags: Any) -> list[float]:
    """Return the mean return on 20 test tasks after 0, 1, ... adaptation steps."""
    before = set(run.rglob("*.json"))
    sizes = ("--num-tasks", 20, "--episodes-per-task", 10, "--inner-steps", steps)
    metarl("evaluate", run, *sizes, *flags)
    (written,) = set(run.rglob("*.json")) - before
    mean: list[float] = json.loads(written.read_text())["mean"]
    return mean


@pytest.mark.parametrize("name", [name if name in QUICKEST else nightly(name) for name in ROWS])
def test_every_method_learns_to_adapt(name: str, tmp_path: Path) -> None:
    row, run = ROWS[name], tmp_path / "run"
    size = ("--num-tasks", 10, "--episodes-per-task", 10, "--hidden", 16)
    metarl("train", row.experiment, *row.flags, *size, *row.quick, "--out", run)
    steps = values(row.quick).get("inner_steps", 1)
    trained, initial = evaluated(run, steps), evaluated(run, steps, "--checkpoint", 0)
    assert len(trained) == steps + 1
    assert trained[-1] > initial[-1] + 25
    assert trained[-1] > trained[0] + 8
