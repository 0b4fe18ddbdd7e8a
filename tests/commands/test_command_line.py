"""The command line: help, and one-line errors."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from metarl import __version__
from metarl.commands import cli
from metarl.envs import ENVIRONMENTS
from metarl.envs.navigation import Navigation2D
from tests.support.commands import TRAIN, checkpoints, history, metarl, refusal


def test_help_names_every_command_and_flag(capsys: pytest.CaptureFixture[str]) -> None:
    metarl("--help")
    overview = capsys.readouterr().out
    assert all(verb in overview for verb in ("train", *cli.VERBS))
    metarl("train")
    assert "navigation-paper" in capsys.readouterr().out
    for verb in cli.VERBS:
        metarl(verb, "--help")
        text = capsys.readouterr().out
        assert "--" in text
        assert "None" not in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["maml-trpo"], ["outer update options", "policy options", "fit the CPU cache"]),
        (["promp"], ["inner loop options", "environment options"]),
        (["fewshot", "--method", "maml++"], ["data options", "--inner-steps INT", "default: lslr"]),
        (["text"], ["encoder options", "(default: $METARL_DATA)"]),
        (["sb3"], ["(default: SB3's default)"]),
    ],
    ids=lambda value: value[0],
)
def test_help_of_training_groups_flags_and_prints_real_defaults(
    words: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    metarl("train", *words, "--help")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert all(part in text for part in expected)
    assert "default: None" not in text


def test_help_is_printed_for_invalid_flags_too(capsys: pytest.CaptureFixture[str]) -> None:
    metarl("train", "maml-trpo", "--num-tasks", 0, "--help")
    assert "outer update options" in capsys.readouterr().out


def test_help_texts_have_no_line_breaks_of_the_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    metarl("compare", "--help")
    assert "every run uses an equal share of the CPU cores and" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--env", "metarl/Navigation2-v0"], "Navigation2D"),
        (
            ["--env", "Navigation2D-v0"],
            "metarl/Navigation2D-v0? (run `metarl envs` to list all environments)",
        ),
        (["--env", "CartPol-v1"], "CartPole"),
        (["--env", "home/Heater-v0"], "; an environment that FILE.py registers is FILE:ID)"),
        (["--env", "CartPole-v1"], "has no tasks"),
        (["--preset", "navigation-slow"], "navigation-quick"),
        (["--iterations", "0"], "--iterations must be at least 1, got 0"),
        (["--discount", "1.5"], "--discount must be between 0 and 1"),
        (["--max-kl", "0"], "--max-kl must be greater than 0"),
        (["--inner-steps=-1"], "--inner-steps must be at least 0"),
        (["--chunk-size", "0"], "--chunk-size must be at least 1"),
        (["--seed=-1"], "--seed must be at least 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_settings_give_one_line_errors_and_leave_no_folder(
    flags: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(capsys, *TRAIN, *flags, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["rendr"], "did you mean 'render'"),
        (["train", "maml-tpro"], "did you mean 'maml-trpo'"),
        (["train", "maml"], "did you mean 'maml-trpo'"),
        (["compare", "maml", "--out", "c"], "did you mean 'maml-trpo'"),
        (["methods", "protone"], "did you mean 'protonet'"),
        (["envs", "HalfCheetahDir"], "did you mean 'metarl/HalfCheetahDir-v1'"),
        (["plot", "a", "--lables", "x", "--out", "a.png"], "--lables: did you mean --labels?"),
        (["plot", "a"], "metarl plot requires --out, got none. `metarl plot --help` lists"),
        (["plot", "a", "--out"], "--out requires a value, got none."),
        (["plot", "a", "--out", "a.png", "--style", "big"], "one of default, paper, got 'big'"),
        (["plot", "a", "--out", "a.png", "--size", "1"], "--size must be two numbers, got 1."),
        (["pull", "a", "--out", "b", "extra"], "unexpected argument 'extra': expected a flag."),
        (["compare", "promp", "--jobs", "two", "--out", "c"], "must be an integer, got two."),
        (["evaluate", "nowhere"], "contains no run"),
        (["resume", "nowhere"], "contains no run"),
        (["render", "nowhere", "--out", "a.txt"], "contains no run"),
        (["plot", "nowhere", "--out", "a.png"], "contains no run"),
        (["plot", "--out", "a.png"], "plot requires a run folder"),
        (["plot", "nowhere", "--out", "a.txt"], "must end in .png, .pdf or .svg"),
        (["render", "--out", "a.png"], "render requires a run folder"),
        (["train", "maml-trpo"], "train requires --out DIR"),
        (["train", "maml-trpo", "--preset"], "--preset requires a value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_commands_give_one_line_errors(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(capsys, *words)


def test_aliases_of_flags_are_accepted() -> None:
    config: Any = cli.parse_train(["fewshot", "--ways", "3", "--shots", "2", "--out", "DIR"]).config
    assert (config.num_ways, config.num_shots) == (3, 2)


def test_unavailable_cuda_gives_a_one_line_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    message = refusal(capsys, *TRAIN, "--device", "cuda", "--out", tmp_path / "run")
    assert "--device cpu" in message


class Poisoned(Navigation2D):
    """Navigation whose rewards overflow a sum after the third reset since the import."""

    resets = 0

    def reset(self, **kwargs: Any) -> Any:
        type(self).resets += 1
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        seen, reward, *rest = super().step(action)
        return seen, 3e38 if type(self).resets > 2 * 2 * 2 * 3 else reward, *rest


def test_a_non_finite_loss_stops_with_a_one_line_error_and_keeps_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gymnasium.register("tests/Poisoned-v0", entry_point=Poisoned, max_episode_steps=5)
    Poisoned.resets = 0
    out = tmp_path / "run"
    flags = ["--env", "tests/Poisoned-v0", "--iterations", "9", "--out", out]
    message = refusal(capsys, *TRAIN, *flags)
    assert "iteration 3" in message
    assert "Lower --inner-lr" in message
    assert [entry["iteration"] for entry in history(out)] == [1, 2]
    assert sorted(checkpoints(out)) == ["00000000.safetensors", "00000002.safetensors"]


def test_envs_lists_every_environment(capsys: pytest.CaptureFixture[str]) -> None:
    metarl("envs")
    listed = capsys.readouterr().out
    assert all(row.id in listed and str(row.horizon) in listed for row in ENVIRONMENTS)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    metarl(*words)
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_methods_describes_one_method(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "methods", "maml-trpo")
    assert "maml-trpo (Finn et al. 2017, meta-RL): trust region" in text
    assert "metarl train maml-trpo --preset navigation-quick --out runs/maml-trpo" in text
    assert "--max-kl 0.01" in text
    assert "maml-trpo --first-order" in text
    text = printed(capsys, "methods", "reptile")  # of meta-RL and of few-shot learning
    assert "metarl train reptile --preset" in text
    assert "metarl train fewshot --method reptile" in text
    assert "--outer-schedule linear constant" in text


def test_envs_describes_one_environment(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "envs", "metarl/Navigation2D-v0")
    assert "A point that starts at the origin" in text
    assert """--task '{"goal": [0.137, -0.23]}'""" in text
    assert "horizon 100 steps" in text
    assert "actions Box(-1.0, 1.0, (2,), float32)" in text
    assert "rewards −‖position − goal‖₂ after the step" in text


@pytest.mark.parametrize(
    "words", ["train", "methods", "envs", "methods maml-trpo", "envs metarl/AntDir-v1"]
)
def test_tables_fit_into_80_columns(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    metarl(*words.split())
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if "│" in line or words == "train"]
    assert max(map(len, table), default=0) <= 80
    assert ":class:" not in "".join(lines)


@pytest.mark.skipif(sys.platform == "win32", reason="requires bash")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("metarl comp", {"compare", "completion"}),
        ("metarl train maml-t", {"maml-trpo"}),
        ("metarl train promp --outer-l", {"--outer-lr"}),
        ("metarl train promp --preset navigation-q", {"navigation-quick"}),
        ("metarl plot --lab", {"--labels"}),
        ("metarl methods protone", {"protonet"}),
        ("metarl completion z", {"zsh"}),
    ],
)
def test_bash_completes_commands_and_flags(
    typed: str, expected: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    metarl("completion", "bash")
    script, words = capsys.readouterr().out, typed.split()
    code = f'''{script}
COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _metarl; echo "${{COMPREPLY[@]}}"'''
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="requires zsh")
def test_zsh_completes_with_the_functions_of_bash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metarl("completion", "zsh")
    (tmp_path / "script").write_text(capsys.readouterr().out)
    code = f"source {tmp_path}/script; print -r -- $_comps[metarl]"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        ["zsh", "-f", "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == "_bash_complete -o default -F _metarl\n"
    assert done.stderr == ""


@pytest.mark.parametrize(("verb", "resumes"), [("train", True), ("resume", True), ("plot", False)])
def test_only_training_commands_suggest_resume_after_an_interruption(
    verb: str,
    resumes: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(argv: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    with pytest.raises(SystemExit) as stopped:
        cli.main([verb, "anything"])
    assert stopped.value.code == 130
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert ("metarl resume" in line) == resumes


def test_internal_errors_keep_their_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(argv: list[str]) -> None:
        raise AssertionError(argv)

    monkeypatch.setattr(cli, "run", broken)
    with pytest.raises(AssertionError):
        cli.main(["train"])


def test_long_errors_are_printed_on_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(argv: list[str]) -> None:
        raise ValueError("x" * 10_000)

    monkeypatch.setattr(cli, "run", failing)
    error = refusal(capsys, "envs")
    assert len(error) < 2000
    assert error.endswith("x... (--debug shows all)")


def test_a_similar_run_is_suggested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "config.json").touch()
    error = refusal(capsys, "evaluate", tmp_path / "quik")
    assert error.endswith(f"Did you mean {tmp_path / 'quick'}?")


def test_debug_prints_the_traceback() -> None:
    with pytest.raises(FileNotFoundError, match="contains no run"):
        cli.main(["evaluate", "nowhere", "--debug"])


def python(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *words], capture_output=True, text=True)


def test_python_m_metarl_runs_the_command_line() -> None:
    assert python("-m", "metarl", "--version").stdout == f"metarl {__version__}\n"


def test_no_environment_is_reported_as_outdated(tmp_path: Path) -> None:
    code = (
        "import gymnasium\nfrom metarl.envs import ENVIRONMENTS\n"
        "for row in ENVIRONMENTS: gymnasium.make_vec(row.id, num_envs=1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stderr == ""
