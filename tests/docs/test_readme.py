"""The commands and the code of the README run."""

import json
import re
import subprocess
from pathlib import Path

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from metarl.commands import cli
from tests.support import ROOT
from tests.support.own_environment import saved
from tests.support.own_images import write_classes
from tests.support.pages import block, run_in_small, runs


README = (ROOT / "README.md").read_text()


@runs("README.md", "example")
def test_the_example_runs() -> None:
    scope: dict[str, object] = {}
    exec(block("README.md", "example"), scope)
    metrics = scope["metrics"]
    assert isinstance(metrics, dict)
    assert metrics["query/loss"] < metrics["query/loss_before"]


@runs("README.md", "install", "install-uv", "quick", "python")
def test_the_first_result_needs_two_commands_and_its_policy_acts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unchanged except for additional flags that reduce the size."""
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    monkeypatch.chdir(tmp_path)
    for name in ("install", "install-uv", "quick"):
        run_in_small(block("README.md", name))
    assert (tmp_path / "runs/quick/media/paths.png").exists()
    example = block("README.md", "python")
    assert len(example.splitlines()) == 8
    exec(example, {})
    assert re.search(r"one step: \[-?\d.*\naction at the start: \[", capsys.readouterr().out)


@runs("docs/index.md", "install", "quick", "python")
def test_the_landing_page_has_the_blocks_of_the_readme() -> None:
    for name in ("install", "quick", "python"):
        assert block("docs/index.md", name) == block("README.md", name)


@runs("README.md", "tests")
def test_ci_runs_the_documented_test_command() -> None:
    shared, checks = ((ROOT / ".ci" / name).read_text() for name in ("common.sh", "run"))
    (function,) = re.findall(r"^block\(\) .*$", shared, re.MULTILINE)
    assert 'command="$(block tests)"' in checks
    assert 'bash -euo pipefail -c "$command"' in checks
    bash = ["bash", "-c", f"{function}\nblock tests"]
    taken = subprocess.run(bash, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert taken == block("README.md", "tests")
    assert taken.endswith(" && pytest -n auto\n")


@runs("README.md", "few-shot", "predict")
def test_the_few_shot_commands_run_and_twelve_images_are_classified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[vision]'")
    monkeypatch.chdir(tmp_path)
    small = {
        "regression": "--iterations 20 --mode eager",
        "fewshot": "--iterations 10 --num-tasks 2 --filters 4 --checkpoint-every 10 --mode eager",
        "evaluate": "--num-tasks 4",
    }
    run_in_small(block("README.md", "few-shot"), small)
    assert (tmp_path / "runs/sine/media/fits.png").exists()
    write_classes(Path("support"), ["bird", "cat", "dog"], num_images=2)
    write_classes(Path("new"), ["bird", "cat", "dog"], num_images=4)
    run_in_small(block("README.md", "predict"))
    assert len(Path("predictions.csv").read_text().splitlines()) == 1 + 12


@pytest.mark.filterwarnings("ignore:.*Box observation space m.* is -?infinity:UserWarning")
@runs("README.md", "pendulum.py", "own", "drive")
def test_the_custom_environment_of_the_readme_trains_and_renders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="pip install 'metarl-torch[video]'")
    monkeypatch.chdir(tmp_path)
    small = {
        "train": "--iterations 2 --num-tasks 2 --episodes-per-task 2",
        "evaluate": "--num-tasks 2 --episodes-per-task 2",
        "render": "--episodes-per-task 2",
    }
    with saved("README.md", "pendulum", tmp_path, namespace="mine"):
        check_env(gymnasium.make("pendulum:mine/Pendulum-v0").unwrapped)
        run_in_small(block("README.md", "own"), small)
        exec(block("README.md", "drive"), {})
    video = Path("runs/pendulum/media/pendulum.gif")
    assert video.read_bytes().startswith(b"GIF")
    assert video.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("preset", "measured", "hours"),
    [
        ("rllab-cheetah-dir", "cheetah-dir-v0", 0.6),
        ("rllab-cheetah-vel", "cheetah-vel-v0", 0.5),
        ("cheetah-dir", "cheetah-dir-v1", 0.5),
    ],
)
def test_half_cheetah_episodes_have_the_documented_length(
    preset: str, measured: str, hours: float
) -> None:
    page = " ".join((ROOT / "docs/environments.md").read_text().split())
    assert "`rllab-cheetah-dir` or `rllab-cheetah-vel` takes 30 to 40 minutes of one core" in page
    assert "whose episodes are half as long, take half an hour" in page
    rows = json.loads((ROOT / f"docs/results/{measured}.json").read_text())["rows"]
    (row,) = (row for row in rows if row["method"] == "MAML")
    an_iteration = sum(row["seconds"]) / len(row["seconds"]) / row["iterations"]
    iterations = cli.parse_train(f"maml-trpo --preset {preset} --out DIR".split())[1].iterations
    assert hours <= iterations * an_iteration / 3600 <= 1.2 * hours


def test_every_command_and_picture_of_the_readme_exists() -> None:
    for verb in set(re.findall(r"`metarl (\w+)", README)):
        assert verb in ("train", *cli.VERBS)
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).is_file(), picture
    for page in re.findall(r"\]\(((?!http)[^)]*\.(?:md|cff))\)", README):
        assert (ROOT / page).is_file(), page
