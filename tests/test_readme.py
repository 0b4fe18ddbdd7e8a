"""The README's commands and code are what they claim to be."""

import re
import shlex
from pathlib import Path

import pytest

from metarl import cli


README = (Path(__file__).parents[1] / "README.md").read_text()


def block(name: str) -> str:
    """Return the code block after the marker ``<!-- name -->``."""
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"the README has no block {name!r}"
    return found.group(1)


def test_the_example_runs() -> None:
    scope: dict[str, object] = {}
    exec(block("example"), scope)
    metrics = scope["metrics"]
    assert isinstance(metrics, dict)
    assert metrics["query/loss"] < metrics["query/loss_before"]


@pytest.mark.slow
def test_the_quick_command_runs_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Word for word but for the size, which flags appended to the preset make small."""
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    monkeypatch.chdir(tmp_path)
    install, *commands = (part.strip() for part in block("quick").split("&&"))
    assert install == 'pip install torch==2.13.0 -e ".[all]"'
    small = {
        "train": "--iterations 1 --num-tasks 2 --episodes-per-task 2",
        "evaluate": "--num-tasks 2 --episodes-per-task 2",
        "render": "--episodes-per-task 3",
    }
    for command in commands:
        run_in_small(command, small)
    assert (tmp_path / "runs/quick/media/paths.png").exists()


@pytest.mark.slow
def test_the_few_shot_commands_run_in_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[vision]'")
    monkeypatch.chdir(tmp_path)
    small = {
        "regression": "--iterations 100",
        "fewshot": "--iterations 10 --num-tasks 2 --filters 8 --checkpoint-every 10",
        "evaluate": "--num-tasks 10",
        "plot": "",
    }
    for command in re.split(r"&&|\n", block("few-shot").strip()):
        run_in_small(command, small)
    assert (tmp_path / "runs/sine/media/fits.png").exists()


def run_in_small(command: str, small: dict[str, str]) -> None:
    program, verb, *words = shlex.split(command)
    assert program == "metarl"
    size = small[words[0] if words[0] in small else verb]
    with pytest.raises(SystemExit) as stopped:
        cli.main([verb, *words, *size.split()])
    assert stopped.value.code == 0


def test_every_command_and_picture_of_the_readme_exists() -> None:
    for verb in set(re.findall(r"`metarl (\w+)", README)):
        assert verb in ("train", *cli.VERBS)
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (Path(__file__).parents[1] / picture).is_file(), picture
    for page in re.findall(r"\]\(((?!http)[^)]*\.(?:md|cff))\)", README):
        assert (Path(__file__).parents[1] / page).is_file(), page
