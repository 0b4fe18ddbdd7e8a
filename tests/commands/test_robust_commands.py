"""Random flags and tasks: a command succeeds, or gives a one-line error and writes nothing."""

import dataclasses
import json
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarl.commands import cli
from metarl.commands.usage import flag
from metarl.envs import ENVIRONMENTS
from metarl.experiments import experiments
from metarl.supervised.methods import METHODS
from metarl.supervised.networks import NETWORKS
from tests.support.commands import metarl
from tests.support.robustness import cases, contents, end_of, json_values


WRONG = [
    "",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1",
    "0",
    "x",
    "None",
    "True",
    "1.5",
    "--",
    "\N{SNOWMAN}",
]
NUMBERS = ["0", "1", "2", "3", "-1", "0.5", "1e-9", "1e30", "1e300", "nan", "inf", "-inf", "9" * 30]
NUMBERS += ["9" * 400]
SIZES = ["0", "1", "2", "3", "-1", "nan", "1.5"]  # larger values may be valid and take long
SIZED = {
    "iterations", "num_tasks", "episodes_per_task", "hidden", "inner_steps", "test_steps",
    "num_queries", "test_queries", "train_shots", "image_size", "filters", "validation_tasks",
    "num_ways", "max_support", "inner_batch", "cg_steps", "epochs", "context_size", "num_envs",
    "episodes", "eval_every", "total_steps", "samples", "queries", "ensemble", "jobs", "seeds",
    "repeats", "max_ways", "part_shots", "max_length", "top_layers", "backtracks",
    "processes", "chunk_size", "num_shots",
}  # fmt: skip
TRACED = {"maml-trpo", "e-maml", "cavia"}  # for half a second
QUICK = sorted({*experiments()} - TRACED)
NAMES = ("promp", "regression", "sb3")  # folders of the runs for the commands
LEFT_OUT = {"out", "track", "device", "encoder", "run", "runs", "vectorization", "split"}
CHOICES = {
    "env": [
        *("metarl/Bandit-v0", "metarl/TabularMDP-v0", "Bandit-v0", "metarl/Bandit", "metarl/"),
        *("nowhere:Env-v0", ":", "CartPole-v1", "json:Env-v0"),
    ],
    "method": [*METHODS, "mamm"],
    "network": [*NETWORKS, "conv"],
    "data_root": [".", "nowhere", str(Path(__file__)), "~nobody/x"],
}
TINY: dict[str, list[Any]] = {
    "rl": ["--num-tasks", 2, "--episodes-per-task", 2, "--hidden", 3, "--env", "metarl/Bandit-v0"],
    "regression": ["--mode", "eager", "--num-tasks", 2, "--hidden", 3, "--validation-tasks", 2],
    "fewshot": [
        *("--mode", "eager", "--num-tasks", 1, "--validation-tasks", 1, "--filters", 2),
        *("--image-size", 16, "--ways", 2, "--test-queries", 1),
    ],
    "text": ["--data-root", "nowhere"],
    "sb3": [
        *("--num-envs", 1, "--episodes", 1, "--eval-every", 4, "--hidden", 2, "--algo", "a2c"),
        *("--env", "metarl/TabularMDP-v0"),
    ],
}


def small(name: str) -> list[Any]:
    """Return the experiment and the flags of its shortest run."""
    log = [] if name == "sb3" else ["--log-every", 1]
    short = ["--iterations", 1, "--checkpoint-every", 1, *log]
    return [name, *TINY.get(name, TINY["rl"]), *short]


def words_of(name: str, hint: Any) -> st.SearchStrategy[list[str]]:
    """Choose the words of one flag: valid, extreme and invalid values."""
    if get_origin(hint) in (Union, types.UnionType):
        return st.one_of([words_of(name, one) for one in get_args(hint)])
    if hasattr(hint, "__metadata__"):
        return words_of(name, hint.__origin__)
    extreme = st.sampled_from(SIZES if name in SIZED else NUMBERS)
    usual = st.sampled_from(["1", "2"] if name in SIZED or hint is int else ["0.5", "0.1", "1"])
    numbers = usual | usual | extreme
    if name in CHOICES:
        return st.sampled_from([[flag(name), value] for value in CHOICES[name]])
    if hint is bool:
        yes, no = flag(name), "--no-" + flag(name)[2:]
        return st.sampled_from([[yes], [yes], [no], [yes, "True"]])
    if get_origin(hint) is Literal:
        values = st.sampled_from([str(choice) for choice in get_args(hint)])
    elif hint in (int, float):
        values = numbers
    elif get_origin(hint) is tuple:
        return st.lists(numbers, max_size=3).map(lambda given: [flag(name), *given])
    elif hint is type(None):
        return st.just([])
    else:
        values = st.text(st.characters(exclude_characters="\0"), max_size=6)
    wrong = st.sampled_from(WRONG)
    return st.one_of(*[values] * 9, wrong).map(lambda value: [f"{flag(name)}={value}"])


def flags_of(options: Any) -> st.SearchStrategy[list[str]]:
    """Choose a few flags of a dataclass."""
    hints = get_type_hints(options, include_extras=True)
    named = {f.name: hints[f.name] for f in dataclasses.fields(options)}
    each = [words_of(name, hint) for name, hint in named.items() if name not in LEFT_OUT]
    if not each:
        return st.just([])
    some = st.lists(st.sampled_from(range(len(each))), min_size=1, max_size=3, unique=True)
    chosen = some.flatmap(lambda indices: st.tuples(*(each[index] for index in indices)))
    return chosen.map(lambda flags: [word for words in flags for word in words])


@cases(0.35)
@given(data=st.data())
def test_training(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    name = data.draw(st.sampled_from([*sorted(experiments()), *QUICK * 4]))
    flags = data.draw(flags_of(experiments()[name].load()[1]))
    out = tmp_path_factory.mktemp("trained") / "run"
    done = end_of("train", *small(name), *flags, "--out", out)
    if done.code == 0 and "--help" not in flags:
        assert {"config.json", "metrics.jsonl"} < set(contents(out))
    else:  # the command can be repeated after a fix
        assert not out.exists()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name in NAMES:
        metarl("train", *small(name), "--out", folder / name)
    return {name: folder / name for name in NAMES}


@cases(0.25)
@given(data=st.data())
def test_verbs(runs: dict[str, Path], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(runs)))
    run, verb = runs[name], data.draw(st.sampled_from(["evaluate", "evaluate", "render", "resume"]))
    flags = data.draw(flags_of(cli.VERBS[verb].load([str(run)])[0]))
    out = run.with_name(data.draw(st.sampled_from(["a.svg", "a.x", "a"])))
    if verb == "render":  # an invalid task, because rendering a valid one takes long
        flags += ["--out", str(out), "--task", "[]"]
    if verb == "resume":
        flags += ["--iterations", data.draw(st.sampled_from(["1", "0", "-1"]))]
    if verb == "evaluate":
        flags = ["--num-tasks", "2", *flags]
    before = contents(run)
    end_of(verb, run, *flags)
    assert contents(run) == before


@cases(0.05)
@given(data=st.data())
def test_comparisons_and_figures(runs: dict[str, Path], data: st.DataObject) -> None:
    """All of them are invalid; nothing is trained, drawn or changed."""
    run = runs[data.draw(st.sampled_from(sorted(runs)))]
    before = contents(run.parent)
    methods = ["maml-trpo --hidden x", "mamm", "", "'", "promp --out x", "promp --iterations 0"]
    files = ["drawn", "drawn.x", "regression/lock"]
    out = ["--out", run.parent / data.draw(st.sampled_from(files))]
    if data.draw(st.booleans()):
        given = data.draw(st.lists(st.sampled_from(methods), max_size=2))
        flags = data.draw(flags_of(cli.VERBS["compare"].load([])[0]))
        done = end_of("compare", *given, *flags, "--iterations", 1, *out)
    else:
        verb = data.draw(st.sampled_from(["plot", "headstart", "benchmark"]))
        flags = data.draw(flags_of(cli.VERBS[verb].load([])[0]))
        done = end_of(verb, run, run.with_name("nowhere"), *flags, *out)
    assert done.code
    assert contents(run.parent) == before


def fields_of(task: dict[str, Any], values: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: values(value) for name, value in task.items()})


def near(value: Any) -> st.SearchStrategy[Any]:
    """Choose a valid or slightly invalid value of a task."""
    shorter = [value[:-1], [*value, 0.0], [value]] if isinstance(value, list) else [[value]]
    wrong = st.sampled_from([*shorter, float("nan"), float("inf"), 10**400, -1, 0, "1", None, True])
    nested = fields_of(value, near) if isinstance(value, dict) else wrong
    return st.one_of(st.just(value), nested, wrong, json_values)


@cases(0.3)
@given(data=st.data())
def test_tasks(tasks: dict[str, Any], data: st.DataObject, tmp_path_factory: Any) -> None:
    """--task is validated before anything is trained or written."""
    env = data.draw(st.sampled_from(sorted(tasks)))
    task = data.draw(fields_of(tasks[env], near) | json_values)
    text = data.draw(
        st.sampled_from([json.dumps(task), json.dumps(task)[:-1], "[" * 100_000, str(task)])
    )
    out = tmp_path_factory.mktemp("task") / "run"
    done = end_of("train", *small("sb3"), "--env", env, f"--task={text}", "--out", out)
    assert out.exists() == (done.code == 0)


@pytest.fixture(scope="module")
def tasks() -> dict[str, Any]:
    """A task of every fast environment."""
    import gymnasium
    import numpy as np

    quick = [row.id for row in ENVIRONMENTS if "Humanoid" not in row.id and "Ant" not in row.id]
    made: dict[str, Any] = {name: gymnasium.make(name).unwrapped for name in quick}
    return {name: env.sample_tasks(1, np.random.default_rng(0))[0] for name, env in made.items()}
