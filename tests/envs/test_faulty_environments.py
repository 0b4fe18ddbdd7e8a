"""Environments with bare assertions, unusual infos and observations that cannot be flattened."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gymnasium import spaces

from tests.support.commands import TRAIN, metarl, refusal
from tests.support.own_environment import Mark
from tests.support.own_environment import register as register_own


class Hostile:
    """A value that supports no conversion."""

    __hash__ = None  # type: ignore[assignment]

    def fail(self, *args: Any, **options: Any) -> Any:
        raise RuntimeError("not supported")

    __array__ = __bool__ = __eq__ = __deepcopy__ = __reduce__ = fail  # type: ignore[assignment]


def register(kind: type[Any]) -> str:
    """Register a class of this file and return its ID."""
    import gymnasium

    env_id = f"own/{kind.__name__}-v0"
    gymnasium.registry.pop(env_id, None)
    gymnasium.register(env_id, f"{__name__}:{kind.__name__}", max_episode_steps=5)
    return env_id


class Asserts(Mark):
    def info(self, guess: float) -> dict[str, Any]:
        if guess < 9:
            raise AssertionError  # as of an `assert` outside of a test
        return {}


SOURCE = Path(__file__).read_text().splitlines()
LINE = 1 + next(n for n, line in enumerate(SOURCE) if "raise AssertionError  #" in line)
SB3 = ["train", "sb3", "--algo", "a2c", "--num-envs", 2, "--episodes", 2, "--eval-every", 10,
       "--iterations", 1, "--hidden", 3]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("words", [TRAIN, [*TRAIN, "--vectorization", "async"], SB3],
                         ids=["sync", "async", "sb3"])  # fmt: skip
def test_a_bare_assertion_of_an_environment_is_located(
    words: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refusal(capsys, *words, "--env", register(Asserts), "--out", tmp_path / "run")
    place = f"{Path(__file__).name}:{LINE})"
    assert "own/Asserts-v0 failed in step: AssertionError (" in error
    assert f"{place}; --debug shows the traceback" in error


class Reports(Mark):
    def info(self, guess: float) -> dict[str, Any]:
        names = ("diverged", "episode", "final_info", "final_obs", "_x", "is_success", "value")
        return {name: Hostile() for name in names} | {3: 4, "ragged": [[1], [1, 2]]}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("words", [TRAIN, [*TRAIN, "--vectorization", "async"], SB3],
                         ids=["sync", "async", "sb3"])  # fmt: skip
def test_unused_infos_of_any_type_are_ignored(words: list[Any], tmp_path: Path) -> None:
    extra = [] if words is SB3 else ["--iterations", 1]
    metarl(*words, *extra, "--env", register(Reports), "--out", tmp_path / "run")


class Mission(spaces.Space[Any]):
    """A space without numbers, as that of MiniGrid's missions."""


BOX = spaces.Box(0.0, 1.0, (3,))


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (
            spaces.Dict(image=BOX, mission=Mission()),
            "the entry 'mission' is a Mission space,",
        ),
        (spaces.Dict(image=BOX, mission=spaces.Text(9)), "FilterObservation(env, ['image']), then"),
        (spaces.Dict(mission=spaces.Text(9)), "Remove it with gymnasium.wrappers.TransformObs"),
        (spaces.Tuple((BOX, spaces.Sequence(BOX))), "the entry '1' is a Sequence space"),
        (spaces.Dict(a=spaces.Dict(b=spaces.Text(9)), c=BOX), "the entry 'a/b' is a Text space"),
        (spaces.Text(9), "Convert the observations with gymnasium.wrappers.TransformObservation"),
    ],
    ids=["unknown", "text", "only text", "sequence", "nested", "plain text"],
)
@pytest.mark.parametrize("words", [TRAIN, SB3], ids=["meta-rl", "sb3"])
def test_entries_that_cannot_be_flattened_are_named(
    words: list[Any], space: Any, expected: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Mark, "observation_space", space)
    error = refusal(capsys, *words, "--env", register_own("Mark"), "--out", tmp_path / "run")
    assert expected in error


@pytest.mark.parametrize("backend", ["nonsense", "module://nowhere.backend", "svg"])
def test_an_invalid_backend_of_matplotlib_is_ignored(backend: str, copied: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    code = (
        "import sys\nfrom metarl.util import optional\noptional.require('matplotlib', extra='', "
        "purpose='')\nimport matplotlib\nprint(matplotlib.rcParams['backend'])\n"
        "from metarl.commands import cli\ncli.main(['plot', *sys.argv[1:]])"
    )
    words = [sys.executable, "-c", code, str(copied), "--out", str(copied / "a.png")]
    environment = os.environ | {"MPLBACKEND": backend}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert backend != "svg" or done.stdout.startswith("svg")
    assert (copied / "a.png").exists()
