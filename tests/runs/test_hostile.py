"""Malicious runs: each gives a one-line error, and its payload is not executed.

Each payload creates a marker file; the first test checks that it works.
"""

import base64
import io
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save

from metarl.core.types import MetaParams
from metarl.experiments.fewshot import FewShotConfig
from metarl.experiments.load import load
from metarl.runs import checkpoint
from metarl.runs.checkpoint import FORMAT, Checkpoint
from metarl.runs.config import to_json
from metarl.runs.folder import Run
from metarl.runs.loading import require_plausible_size
from tests.support.commands import FEW, metarl, refusal
from tests.support.hub import serving
from tests.support.own_environment import forget


LAST = "checkpoints/00000006.safetensors"


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "payload-ran"


@pytest.fixture
def run(copied: Path) -> Path:
    return copied


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of Stable-Baselines3."""
    folder = tmp_path_factory.mktemp("runs") / "ppo"
    metarl("train", "sb3", "--iterations", 1, "--eval-every", 1000, "--num-envs", 2, "--episodes",
           2, "--hidden", 8, "--out", folder)  # fmt: skip
    return folder


def change(run: Path, **settings: Any) -> None:
    """Change settings consistently in config.json and in the checkpoints."""
    about = json.loads((run / "config.json").read_text())
    about["config"] |= settings
    (run / "config.json").write_text(json.dumps(about))
    for path in (run / "checkpoints").glob("*.safetensors"):
        saved = checkpoint.load(path)
        checkpoint.write(path, saved._replace(config=saved.config | settings))


def every_way_in(capsys: pytest.CaptureFixture[str], run: Path) -> list[str]:
    """Return the errors of all ways to load a policy from a run that must be rejected."""
    out = run.parent / "out"
    told = [
        refusal(capsys, "evaluate", run, *FEW),
        refusal(capsys, "pull", run, "--out", out),
        refusal(capsys, "push", run, out),
    ]
    with pytest.raises(ValueError, match=str(run)) as caught:
        load(run)
    assert not out.exists()
    return [*told, str(caught.value)]


def test_the_payload_works_if_unpickled(marker: Path) -> None:
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()


def test_pickles_are_rejected_with_any_file_name(
    run: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = io.BytesIO()
    torch.save(Payload(marker), packed)
    for data in (pickle.dumps(Payload(marker)), packed.getvalue()):
        (run / LAST).write_bytes(data)
        for line in every_way_in(capsys, run):
            assert "not a valid metarl checkpoint" in line
    assert not marker.exists()


def _without(name: str) -> dict[str, Any]:
    return {k: v for k, v in {"iteration": 6, "config": {}, "order": []}.items() if k != name}


@pytest.mark.parametrize(
    "about",
    [[], 3, None, _without("order"), _without("iteration"), _without("config"),
     _without("") | {"iteration": [1]}, _without("") | {"config": 7},
     _without("") | {"order": ["config/x"]}],
    ids=str,
)  # fmt: skip
def test_inconsistent_headers_give_one_line_errors(
    about: Any, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = save({"config/x": torch.zeros(1)}, {FORMAT: json.dumps(about)})
    (run / LAST).write_bytes(data)
    assert str(run / LAST) in refusal(capsys, "evaluate", run, *FEW)
    assert str(run / LAST) in refusal(capsys, "pull", run, "--out", run.parent / "out")


def spoil(path: Path, edit: Callable[[dict[str, bytes]], None]) -> None:
    """Change the members of a zip."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    edit(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_a_zip_with_pickled_tensors_is_rejected(
    trained: Path, marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, packed = tmp_path / "ppo", io.BytesIO()
    shutil.copytree(trained, run)
    torch.save(Payload(marker), packed)
    for payload in (packed.getvalue(), pickle.dumps(Payload(marker))):
        spoil(run / "checkpoints/00000001.zip", lambda m, p=payload: m.update({"policy.pth": p}))
        for words in (["evaluate", run, *FEW], ["pull", run, "--out", tmp_path / "out"],
                      ["push", run, tmp_path / "out"]):  # fmt: skip
            assert "not a valid checkpoint" in refusal(capsys, *words)
    assert not marker.exists()


def test_pickles_in_a_zip_are_not_copied(trained: Path, marker: Path, tmp_path: Path) -> None:
    run, name = tmp_path / "ppo", "checkpoints/00000001.zip"
    shutil.copytree(trained, run)
    code = base64.b64encode(pickle.dumps(Payload(marker))).decode()
    data = json.dumps({"policy_class": {":type:": "x", ":serialized:": code}}).encode()
    spoil(run / name, lambda members: members.update(data=data))
    metarl("evaluate", run, *FEW)
    metarl("pull", run, "--out", tmp_path / "pulled")
    with zipfile.ZipFile(tmp_path / "pulled" / name) as archive:
        assert {Path(member).suffix for member in archive.namelist()} == {".pth"}
    metarl("evaluate", tmp_path / "pulled", *FEW)
    mine, theirs = (
        next((f / "evaluations").iterdir()).read_text() for f in (run, tmp_path / "pulled")
    )
    assert json.loads(mine)["returns"] == json.loads(theirs)["returns"]
    assert not marker.exists()


@pytest.fixture
def importing(run: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose environment is in a module on the Python path."""
    found = run.parent / "found"
    found.mkdir()
    (found / "harmful.py").write_text(
        f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
        "import gymnasium\nfrom metarl.envs.navigation import Navigation2D\n"
        "gymnasium.register('harmful/X-v0', Navigation2D, max_episode_steps=5)\n"
    )
    monkeypatch.syspath_prepend(found)
    change(run, env="harmful:harmful/X-v0")
    return run


def test_environments_in_unknown_modules_are_rejected(
    importing: Path, marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out, picture = tmp_path / "pulled", tmp_path / "picture.png"
    metarl("pull", importing, "--out", out)
    assert "module harmful of this run without --trust-env" in capsys.readouterr().out
    for words in (
        ["evaluate", out], ["resume", out, "--iterations", 9], ["render", out, "--out", picture],
    ):  # fmt: skip
        error = refusal(capsys, *words)
        assert "would import the module 'harmful'" in error
        assert "set --trust-env or import it first" in error
    metarl("push", out, tmp_path / "again")
    assert "shared without an image (the environment of" in (printed := capsys.readouterr().err)
    assert "set --trust-env or import it first" in printed
    with serving(tmp_path / "cache", monkeypatch) as hub:
        hub.share("eve/run", importing)
        metarl("pull", "hub:eve/run", "--out", tmp_path / "downloaded")
        for source in (out, "hub:eve/run", tmp_path / "downloaded"):
            with pytest.raises(ValueError, match=r"module 'harmful'.*set trust_env or import it"):
                load(source).sample_task()
        about = json.loads((importing / "config.json").read_text())
        about |= {"trust_env": True}  # only counts if `pull` wrote it
        (importing / "config.json").write_text(json.dumps(about))
        hub.share("eve/more", importing)
        with pytest.raises(ValueError, match="would import the module 'harmful'"):
            load("hub:eve/more").sample_task()
    metarl("pull", importing, "--out", tmp_path / "second")
    assert "--trust-env" in refusal(capsys, "evaluate", tmp_path / "second")
    metarl("push", out, tmp_path / "laundered", "--no-picture")
    assert "--trust-env" in refusal(capsys, "evaluate", tmp_path / "laundered")
    assert not marker.exists()


def test_commands_that_need_no_simulator_import_no_module(
    importing: Path, marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / "pulled", tmp_path / "picture.png"
    for run in (importing, out):  # trained here, and pulled
        metarl("pull", importing, "--out", out if run == importing else tmp_path / "second")
        metarl("plot", run, "--out", picture)
        metarl("push", run, tmp_path / f"{run.name} pushed", "--no-picture")
        refusal(capsys, "predict", run, "--support", tmp_path, "--inputs", tmp_path)
        load(run)
    refusal(capsys, "headstart", out, "--scratch", out, "--out", picture)
    assert not marker.exists()


@pytest.mark.parametrize("trusts", ["pull", "evaluate", "load", "resume", "trained here"])
def test_environments_in_trusted_modules_are_imported(
    trusts: str, importing: Path, marker: Path, tmp_path: Path
) -> None:
    run, flag = importing, ["--trust-env"]
    if trusts != "trained here":
        run = tmp_path / "pulled"
        metarl("pull", importing, "--out", run, *(flag if trusts == "pull" else []))
    assert not marker.exists()
    try:
        if trusts == "load":
            load(run, episodes=1, trust_env=True).sample_task()
        elif trusts == "resume":
            metarl("resume", run, "--iterations", 7, "--trust-env")
            assert json.loads((run / "config.json").read_text())["trust_env"] is True
        else:
            metarl("evaluate", run, *FEW, *(flag if trusts == "evaluate" else []))
        assert marker.exists()
        load(run, episodes=1).sample_task()  # already imported
    finally:
        sys.modules.pop("harmful", None)
        forget("harmful/")


@pytest.mark.parametrize("env", ["metarl.__main__:X-v0", "antigravity:X-v0", "a:b:X-v0", "os.:X"])
def test_unknown_module_names_are_rejected(
    env: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run, env=env)
    metarl("pull", run, "--out", tmp_path / "out")
    assert "--trust-env" in refusal(capsys, "evaluate", tmp_path / "out")
    assert env.rpartition(":")[0] not in sys.modules


@pytest.mark.parametrize(
    ("settings", "told"), [({"out": "/elsewhere"}, "['out']"), ({"env": ["x"]}, "`env` must be")]
)
def test_unknown_settings_are_rejected(
    settings: dict[str, Any], told: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run, **settings)
    assert all(told in line for line in every_way_in(capsys, run))


def test_unknown_experiments_are_rejected(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = json.loads((run / "config.json").read_text())
    for name in ("os", "../evil", "benchmark"):
        (run / "config.json").write_text(json.dumps(about | {"experiment": name}))
        message = refusal(capsys, "pull", run, "--out", tmp_path / "out")
        assert f"was trained with the experiment {name!r}, which is not registered" in message


def test_unknown_files_are_not_downloaded_or_copied(
    run: Path, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = {
        "evaluations/../../../../escaped.json", "media/../../../../escaped.png",
        "checkpoints/../../../../00000006.safetensors", "../escaped.json", "/escaped.json",
        "evaluations/deep/../../../escaped.json", "media/.hidden/x.png", "setup.py",
        "media/page.svg", "checkpoints/00000006.replay.npz", "checkpoints/weights.pkl",
        "tracking/wandb-id", "evaluations/x.json/y.json", "..\\escaped.json",
    }  # fmt: skip
    with serving(tmp_path / "a/b/c/cache", monkeypatch) as hub:
        hub.share("eve/run", run)
        hub.commit("eve/run", hub.files("eve/run") | dict.fromkeys(inside, b"{}"))
        metarl("pull", "hub:eve/run", "--out", tmp_path / "pulled")
        routes = [path.partition("/resolve/")[2] for path in hub.asked]
    asked = {path.partition("/")[2] for path in routes if path}
    assert asked == {"config.json", "metrics.jsonl", *(f"checkpoints/{n:08d}.safetensors"
                                                       for n in (0, 2, 4, 6))}  # fmt: skip
    pulled = tmp_path / "pulled"
    left = {path.relative_to(pulled).as_posix() for path in pulled.rglob("*.*")}
    assert left == {"config.json", "metrics.jsonl", LAST}
    assert not list(tmp_path.rglob("*escaped*"))


def test_links_out_of_a_folder_are_rejected(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret.png").write_text("private")
    (run / "media").mkdir()
    (run / "media/x.png").symlink_to(tmp_path / "secret.png")
    assert "outside the run folder" in refusal(capsys, "pull", run, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_evaluations_and_metrics_give_one_line_errors(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "evaluations").mkdir(exist_ok=True)
    (run / "evaluations/x.json").write_text("[]")
    assert "not a valid evaluation" in refusal(capsys, "pull", run, "--out", tmp_path / "out")
    (run / "evaluations/x.json").unlink()
    (run / "metrics.jsonl").write_text("{\n{}\n")
    assert "line 1 is damaged: expected metrics" in refusal(
        capsys, "pull", run, "--out", tmp_path / "out"
    )


def test_trackers_and_folders_of_the_training_machine_are_reset(tmp_path: Path) -> None:
    config = FewShotConfig(data_root=Path("/home/eve"), track="wandb").complete()
    params = MetaParams({"weight": torch.ones(2)}, {})
    with Run.create(tmp_path / "run", "fewshot", to_json(config)) as run:
        saved = Checkpoint(params, {}, {}, 0, to_json(config))
        checkpoint.write(run.checkpoint_path(0), saved)
    metarl("pull", tmp_path / "run", "--out", tmp_path / "pulled")
    about = json.loads((tmp_path / "pulled/config.json").read_text())["config"]
    assert (about["track"], about["data_root"]) == ("none", None)
    assert checkpoint.load(tmp_path / "pulled/checkpoints/00000000.safetensors").config == about


def test_other_safetensors_files_are_rejected(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"weights": np.zeros(3)}, run / LAST)
    message = refusal(capsys, "pull", run, "--out", tmp_path / "out")
    assert "not a valid metarl checkpoint" in message


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluations/x.json", LAST, "config.json"])
def test_pipes_are_rejected(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / name).unlink(missing_ok=True)
    (run / name).parent.mkdir(exist_ok=True)
    os.mkfifo(run / name)
    for error in every_way_in(capsys, run):
        assert f"{name} is neither a file nor a folder" in error


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden": [10**9]},
        {"hidden": [8, 10**9, 8]},
        {"hidden": [10**6, 10**6]},
        {"hidden": [4000] * 5000},
        {"context_size": 10**9},
    ],
    ids=lambda settings: str(settings)[:30],
)
def test_huge_networks_are_rejected_before_they_are_built(
    settings: dict[str, Any], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run, **settings)
    for error in every_way_in(capsys, run):
        assert "parameters, more than the checkpoints contain" in error
    assert "parameters, more than the checkpoints contain" in refusal(
        capsys, "resume", run, "--iterations", 9
    )


def test_huge_networks_of_stable_baselines_are_rejected(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    about = json.loads((tmp_path / "run/config.json").read_text())
    about["config"]["hidden"] = [10**9]
    (tmp_path / "run/config.json").write_text(json.dumps(about))
    for words in (["evaluate", tmp_path / "run"], ["resume", tmp_path / "run", "--iterations", 2]):
        error = refusal(capsys, *words)
        assert "parameters, more than the checkpoints contain" in error


def test_huge_image_networks_are_detected(run: Path) -> None:
    config = FewShotConfig(network="resnet12", filters=2000)
    with pytest.raises(ValueError, match="declares a network with at least 400020000 parameters"):
        require_plausible_size(Run.open(run), config)
