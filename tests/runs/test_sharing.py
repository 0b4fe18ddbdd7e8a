"""Sharing runs: with folders, and with the real client and a local hub."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarl.commands import cli
from metarl.experiments import experiments
from metarl.experiments.load import load
from metarl.runs import checkpoint
from metarl.runs.card import card
from metarl.runs.config import to_json
from metarl.runs.folder import Run
from tests.support.commands import FEW, TRAIN, metarl, refusal
from tests.support.hub import Hub, serving
from tests.support.pages import block, run_in_small, runs


REPOSITORY = "ada/quick"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(tmp_path / "cache", monkeypatch) as hub:
        yield hub


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def result(folder: Path) -> dict[str, Any]:
    """Return the results of an evaluation, without its time and command."""
    (path,) = (folder / "evaluations").glob("*.json")
    entry: dict[str, Any] = json.loads(path.read_text())
    return {n: v for n, v in entry.items() if n not in ("written", "command", "seconds")}


def evaluated(folder: Path) -> dict[str, Any]:
    shutil.rmtree(folder / "evaluations")
    metarl("evaluate", folder, *FEW)
    return result(folder)


def test_a_shared_folder_has_one_checkpoint_and_no_machine_specific_settings(
    run: Path, tmp_path: Path
) -> None:
    metarl("push", run, tmp_path / "shared", "--checkpoint", 4)
    (evaluation,) = (path.name for path in (run / "evaluations").iterdir())
    assert files(tmp_path / "shared") == {
        "config.json", "metrics.jsonl", "README.md", "checkpoints/00000004.safetensors",
        f"evaluations/{evaluation}", "media/the paths.png",
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]


@pytest.mark.parametrize(
    ("command", "shared"),
    [
        ("--data-root '/home/eve/my data' --out /home/eve/r", "--data-root DIR --out r"),
        ("--data-root=me/x --split lists/a.json", "--data-root=DIR --split FILE.json"),
        ("--data_root ../x --out=/a/b/ --seed 1", "--data_root DIR --out=b --seed 1"),
        (
            """--task '{"a": -1}' --env own:own/Env-v0""",
            """--task '{"a": -1}' --env own:own/Env-v0""",
        ),
        (
            "'fewshot --data-root /a/b --ways 5' --seeds 0",
            "'fewshot --data-root DIR --ways 5' --seeds 0",
        ),
        ("--evaluate='--data-root /a/b' --x", "'--evaluate=--data-root DIR' --x"),
        ("--evaluate '--data-root=/a/b'", "--evaluate --data-root=DIR"),
        (r"--encoder 'C:\models\mini' --out '~/x'", "--encoder mini --out x"),
    ],
)
def test_shared_command_lines_contain_no_local_paths(
    command: str, shared: str, run: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    paths = [folder / "config.json", *(folder / "evaluations").iterdir()]
    for path in paths:
        entry = json.loads(path.read_text()) | {"command": f"metarl {command}"}
        more = {"changed_by": [f"metarl {command}"]} if path.name == "config.json" else {}
        path.write_text(json.dumps(entry | more))
    metarl("push", folder, tmp_path / "shared")
    for path in paths:
        entry = json.loads((tmp_path / "shared" / path.relative_to(folder)).read_text())
        assert entry["command"] == f"metarl {shared}"
        assert entry.get("changed_by", [f"metarl {shared}"]) == [f"metarl {shared}"]


def test_a_pushed_and_pulled_run_evaluates_bit_identically(run: Path, tmp_path: Path) -> None:
    metarl("push", run, tmp_path / "shared")
    metarl("pull", tmp_path / "shared", "--out", tmp_path / "pulled")
    assert evaluated(tmp_path / "pulled") == result(run)
    about = json.loads((tmp_path / "pulled/config.json").read_text())
    assert about["pulled_from"] == str(tmp_path / "shared")
    last = "checkpoints/00000006.safetensors"
    mine, theirs = (checkpoint.load(f / last) for f in (run, tmp_path / "pulled"))
    assert mine.optimizer.keys() == theirs.optimizer.keys()
    metarl("resume", tmp_path / "pulled", "--iterations", 7)


def test_the_model_card_has_method_results_and_usage(run: Path, tmp_path: Path) -> None:
    metarl("push", run, tmp_path / "shared", "--license", "apache-2.0")
    text = (tmp_path / "shared/README.md").read_text()
    front = text.split("---\n")[1]
    assert 'library_name: "metarl"\nlicense: "apache-2.0"\n' in front
    assert '"metarl/Navigation2D-v0"]\n' in front
    assert "![the paths](media/the%20paths.png)" in text
    entry, about = result(run), json.loads((run / "config.json").read_text())
    for step, (mean, half) in enumerate(zip(entry["mean"], entry["interval95"], strict=True)):
        middle, (low, high) = entry["iqm"][step], entry["iqm_interval95"][step]
        row = f"| {step} | {mean:.2f} | ± {half:.2f} | {middle:.2f} | [{low:.2f}, {high:.2f}] |"
        assert row in text
    assert "with tasks test, num tasks 2, seed 1, episodes per task 2, inner steps " in text
    assert about["command"] in text
    assert "Finn et al. 2017" in text
    assert "| `hidden` | `[8, 8]` |" in text
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    compile(code, "README.md", "exec")


@pytest.mark.parametrize("experiment", experiments())
def test_every_experiment_has_a_card(experiment: str, tmp_path: Path) -> None:
    kind, options = experiments()[experiment].load()
    config = options()
    with Run.create(tmp_path / "run", experiment, to_json(config)) as run:
        (run.folder / "media").mkdir()
        (run.folder / "media/video.mp4").touch()
        values = {"iteration": 3, "num_tasks": 5, "seed": 1, "mean": [0.25, 0.5]}
        values |= {"interval95": [0.0, 0.125], "measure": "accuracy"}
        run.write_evaluation("one", values)
    subject = kind(config).describe()
    text = card(run, 3, subject, place="hub:ada/x", license=None)
    assert f"# {subject.method} on {subject.what}\n" in text
    assert "| 1 | 50.00 | ± 12.50 |" in text
    assert '<video src="media/video.mp4" controls></video>' in text
    assert ("metarl.load" in text) == (experiment != "sb3")
    for command in re.findall(r"^metarl (pull|evaluate|render|plot) ", text, re.MULTILINE):
        assert command in cli.VERBS


@pytest.fixture
def bare(copied: Path) -> Path:
    """A run without evaluation and picture."""
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    return copied


def test_push_records_a_video_for_a_run_without_pictures(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="pip install 'metarl-torch[video]'")
    metarl("push", bare, tmp_path / "shared")
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert f"metarl evaluate {bare} --checkpoint 6" in said
    (video,) = (tmp_path / "shared/media").iterdir()
    with pytest.importorskip("PIL.Image").open(video) as image:
        assert image.format == "GIF"
        assert image.n_frames > 50
    assert not (bare / "media").exists()
    text = (tmp_path / "shared/README.md").read_text()
    assert "![adaptation](media/adaptation.gif)" in text
    assert "was not evaluated" in text
    assert "license" not in text


def test_push_draws_an_image_without_the_video_packages(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    metarl("push", bare, tmp_path / "shared")
    assert files(tmp_path / "shared/media") == {"adaptation.png"}
    assert (tmp_path / "shared/media/adaptation.png").stat().st_size > 1000
    assert "![adaptation](media/adaptation.png)" in (tmp_path / "shared/README.md").read_text()
    assert "video" not in capsys.readouterr().err


def test_a_failed_video_does_not_stop_push(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("imageio_ffmpeg", reason="pip install 'metarl-torch[video]'")

    def broken(panels: Any, out: Path) -> None:
        out.write_bytes(b"GIF")
        raise AssertionError("no ink")

    monkeypatch.setattr("metarl.experiments.rl_rendering.paths_video", broken)
    metarl("push", bare, tmp_path / "shared")
    assert "shared an image instead of a video (no ink)" in capsys.readouterr().err
    assert files(tmp_path / "shared/media") == {"adaptation.png"}


def test_environments_without_rgb_frames_are_shared_without_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metarl(*TRAIN, "--env", "metarl/Bandit-v0", "--iterations", 1, "--out", tmp_path / "arms")
    metarl("push", tmp_path / "arms", tmp_path / "shared")
    assert capsys.readouterr().err.count("does not render frames") == 1
    assert files(tmp_path / "shared/media") == set()


def test_push_and_pull_through_a_hub(
    run: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    metarl("push", run, f"hub:{REPOSITORY}", "--private")
    assert f"pushed to {hub.url}/{REPOSITORY}" in capsys.readouterr().out
    (asked,) = hub.created
    assert (asked["name"], asked["organization"]) == ("quick", "ada")
    assert asked.get("visibility") == "private" or asked.get("private") is True  # of old clients
    assert hub.messages == ["maml-trpo on metarl/Navigation2D-v0, iteration 6"]
    assert f"metarl pull hub:{REPOSITORY}" in hub.files(REPOSITORY)["README.md"].decode()
    metarl("pull", f"hub:{REPOSITORY}", "--out", tmp_path / "pulled")
    about = json.loads((tmp_path / "pulled/config.json").read_text())
    assert about["pulled_from"] == f"hub:{REPOSITORY}@{hub.heads[REPOSITORY]['main']}"
    assert evaluated(tmp_path / "pulled") == result(run)


def test_a_second_push_replaces_the_run_and_keeps_revisions(
    run: Path, tmp_path: Path, hub: Hub
) -> None:
    metarl("push", run, f"hub:{REPOSITORY}", "--checkpoint", 4)
    first = hub.heads[REPOSITORY]["main"]
    metarl("push", run, f"hub:{REPOSITORY}", "--message", "better")
    checkpoints = [name for name in hub.files(REPOSITORY) if name.startswith("checkpoints/")]
    assert checkpoints == ["checkpoints/00000006.safetensors"]
    assert ".gitattributes" in hub.files(REPOSITORY)
    assert hub.messages[1] == "better"
    metarl("pull", f"hub:{REPOSITORY}@{first}", "--out", tmp_path / "old")
    assert (tmp_path / "old/checkpoints/00000004.safetensors").exists()
    metarl("push", run, f"hub:{REPOSITORY}@early", "--checkpoint", 2)
    assert "checkpoints/00000002.safetensors" in hub.files(REPOSITORY, "early")
    assert checkpoints == [n for n in hub.files(REPOSITORY) if n.startswith("checkpoints/")]


def test_policies_from_the_hub_and_from_the_folder_are_equal(
    run: Path, tmp_path: Path, hub: Hub
) -> None:
    metarl("push", run, f"hub:{REPOSITORY}")
    mine, theirs = (load(p, episodes=3) for p in (run, f"hub:{REPOSITORY}"))
    task = mine.sample_task(seed=3)
    ours, others = mine.adapt(task, steps=2), theirs.adapt(task, steps=2)
    assert ours.returns == others.returns
    assert len(ours.returns) == 3
    seen = np.zeros((5, 2), np.float32)
    np.testing.assert_array_equal(ours.act(seen), others.act(seen))
    assert others.act(seen[0]).shape == (2,)
    assert not np.array_equal(mine.adapt(task, steps=0).act(seen), ours.act(seen))
    action, _ = others.to_sb3().predict(seen, deterministic=True)
    np.testing.assert_allclose(action, np.clip(others.act(seen), -1, 1), rtol=1e-5, atol=1e-6)
    asked = len(hub.asked)
    hub.fails = 503  # what is in the cache serves
    assert load(f"hub:{REPOSITORY}", episodes=3).adapt(task, steps=2).returns == ours.returns
    assert len(hub.asked) > asked


def test_nothing_is_uploaded_without_a_token(
    run: Path, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert "hf auth login" in refusal(capsys, "push", run, f"hub:{REPOSITORY}")
    assert hub.asked == []


def test_errors_of_the_hub_give_one_line_errors(
    run: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = ["--out", tmp_path / "pulled"]
    assert "check the name" in refusal(capsys, "pull", "hub:ada/nothing", *out)
    hub.share(REPOSITORY, run)
    assert "name and the revision" in refusal(capsys, "pull", f"hub:{REPOSITORY}@v9", *out)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "hf auth login" in refusal(capsys, "push", run, "hub:ada/other")
    hub.fails = 500
    assert "HTTP 500" in refusal(capsys, "push", run, "hub:ada/other")
    assert not (tmp_path / "pulled").exists()


def test_a_missing_network_gives_a_one_line_error(
    run: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    nowhere = "http://127.0.0.1:9"  # the discard port
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nowhere)
    message = refusal(capsys, "push", run, f"hub:{REPOSITORY}")
    assert "check the network connection" in message
    message = refusal(capsys, "pull", f"hub:{REPOSITORY}", "--out", tmp_path / "pulled")
    assert "check the network connection" in message


@pytest.mark.parametrize("name", ["hub:quick", "hub:", "hub:a/b/c", "hub:a b/c", "hub:../.."])
def test_repository_names_require_a_user_and_a_name(
    name: str, run: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal(capsys, "push", run, name)
    refusal(capsys, "pull", name, "--out", tmp_path / "pulled")
    assert hub.asked == []


def test_non_empty_folders_are_not_changed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    for words in (["push", run, tmp_path], ["pull", run, "--out", tmp_path]):
        assert "not an empty folder" in refusal(capsys, *words)
    assert files(tmp_path) == {"thesis.tex"}
    assert "metarl pull hub:a/b" in refusal(capsys, "evaluate", "hub:a/b")
    assert "has no checkpoint" in refusal(capsys, "push", run, tmp_path / "a", "--checkpoint", 3)
    assert files(tmp_path) == {"thesis.tex"}


def test_a_missing_hub_client_gives_the_install_command(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    assert "metarl-torch[hub]" in refusal(capsys, "push", run, f"hub:{REPOSITORY}")


@pytest.mark.nightly
@runs("docs/sharing.md", "push", "pull", "policy")
def test_the_page_runs(
    run: Path, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "runs/quick")
    for name in ("push", "pull"):
        run_in_small(block("docs/sharing.md", name))
    assert Path("runs/pulled/media/paths.png").exists()
    assert Path("shared/quick/README.md").exists()
    capsys.readouterr()
    exec(block("docs/sharing.md", "policy"), {})
    assert "return after 0, 1, 2 steps: [" in capsys.readouterr().out
