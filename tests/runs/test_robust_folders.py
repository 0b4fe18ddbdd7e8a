"""Damaged run folders: config.json and metrics.jsonl give a one-line error or a correct run."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from metarl.runs import checkpoint
from tests.support.commands import FEW, metarl
from tests.support.robustness import cases, contents, copied, damaged_bytes, end_of, json_values


TINY = ["--num-tasks", 2, "--hidden", 3, "--validation-tasks", 2, "--log-every", 1]
SINES = ["regression", "--mode", "eager", "--iterations", 3, "--checkpoint-every", 1, *TINY]
BANDIT = ["vpg-maml", "--env", "metarl/Bandit-v0", "--iterations", 2, "--checkpoint-every", 1]


@pytest.fixture(scope="module", params=["regression", "vpg-maml"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted small run with one evaluation."""
    folder = tmp_path_factory.mktemp("robust") / "run"
    words = SINES if request.param == "regression" else [*BANDIT, *FEW, "--hidden", 3]
    metarl("train", *words, "--out", folder)
    metarl("evaluate", folder, "--num-tasks", 2)
    return folder


def spots(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in a JSON value."""
    inner = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree if isinstance(tree, list) else [])
    )
    return [at, *(spot for key, value in inner for spot in spots(value, (*at, key)))]


def damaged(draw: st.DrawFn, tree: Any) -> Any:
    """Remove, replace or add a part of a JSON value."""
    spot = draw(st.sampled_from(spots(tree)))
    if not spot:
        return draw(json_values)
    parent = tree
    for key in spot[:-1]:
        parent = parent[key]
    match draw(st.sampled_from(["remove", "replace", "add"])):
        case "remove":
            del parent[spot[-1]]
        case "replace":
            parent[spot[-1]] = draw(json_values)
        case "add" if isinstance(parent, dict):
            parent[draw(st.text(max_size=4))] = draw(json_values)
    return tree


@st.composite
def damaged_json(draw: st.DrawFn, whole: bytes) -> bytes:
    if draw(st.booleans()):
        return draw(damaged_bytes(whole))
    return json.dumps(damaged(draw, json.loads(whole))).encode()


def commands(copy: Path) -> st.SearchStrategy[list[Any]]:
    """Choose a command for the run; training commands end at its last iteration."""
    resume = ["resume", copy, "--iterations", 2]
    evaluate = ["evaluate", copy, "--num-tasks", 2, "--checkpoint", 1]
    render = ["render", copy, "--out", copy.with_name("video.svg"), "--task", "{}"]
    plot = ["plot", copy, "--out", copy.with_name("plot.svg")]  # takes half a second
    return st.sampled_from([*[resume, evaluate, render] * 4, plot])


def unchanged(copy: Path, before: dict[str, bytes]) -> None:
    """Check that no file was removed or changed; evaluations can be added."""
    assert before.items() <= contents(copy).items()


@cases(0.2)
@given(data=st.data())
def test_damaged_configuration(run: Path, data: st.DataObject) -> None:
    file = copied(run, "config.json")
    file.write_bytes(data.draw(damaged_json(file.read_bytes())))
    before = contents(file.parent)
    end_of(*data.draw(commands(file.parent)))
    unchanged(file.parent, before)


@cases(0.15)
@given(data=st.data())
def test_damaged_metrics(run: Path, data: st.DataObject) -> None:
    file = copied(run, "metrics.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    index = data.draw(st.integers(0, len(lines) - 1))
    lines[index] = data.draw(damaged_json(lines[index]))
    file.write_bytes(b"".join(lines))
    before = contents(file.parent)
    done = end_of(*data.draw(commands(file.parent)))
    assert "Error:" not in done.message
    unchanged(file.parent, before)


@cases(0.02)
@given(data=st.data())
def test_damaged_evaluation(run: Path, data: st.DataObject) -> None:
    copy = copied(run)
    (file,) = (copy / "evaluations").iterdir()
    file.write_bytes(data.draw(damaged_json(file.read_bytes())))
    before = contents(copy)
    end_of("plot", copy, "--out", copy.with_name("plot.svg"))
    unchanged(copy, before)


@cases(0.2)
@given(data=st.data())
def test_damaged_checkpoint(run: Path, data: st.DataObject) -> None:
    """Resume uses the previous checkpoint with a warning and equals the uninterrupted run."""
    copy = copied(run)
    good = sorted((run / "checkpoints").iterdir())[-1]
    last, whole = copy / "checkpoints" / good.name, good.read_bytes()
    last.write_bytes(data.draw(damaged_bytes(whole)))
    before = contents(copy)
    done = end_of("evaluate", copy, "--num-tasks", 2)
    if harmless := done.code == 0:  # such as a different --checkpoint-every in the header
        assert_close(checkpoint.load(last).params, checkpoint.load(good).params, rtol=0, atol=0)
    assert harmless or "--checkpoint" in done.message
    unchanged(copy, before)
    done = end_of("resume", copy)
    assert (done.code, bool(done.warned)) == (0, not harmless)
    assert harmless or last.read_bytes() == whole
