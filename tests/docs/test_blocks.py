"""The code blocks of the pages run; test_methods.py runs those of the method pages."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from metarl.core import InnerLoop, Params, tree
from metarl.data import load_images
from metarl.rl.methods import METHODS
from metarl.runs.folder import Run
from tests.support.commands import history, metarl
from tests.support.pages import SMALL, TINY, block, run_in_small, runs


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@runs("docs/quickstart.md", "install")
def test_the_guide_installs_as_the_readme_does(capsys: pytest.CaptureFixture[str]) -> None:
    install = block("docs/quickstart.md", "install")
    assert install.splitlines(keepends=True)[0] == block("README.md", "install")
    run_in_small(install)
    assert "usage: metarl COMMAND" in capsys.readouterr().out


@runs("docs/quickstart.md", "train", "evaluate", "figure", "video", "resume")
def test_the_guide_runs_with_small_sizes() -> None:
    """Unchanged except for the sizes."""
    for module in ("matplotlib", "imageio"):
        pytest.importorskip(module, reason="pip install 'metarl-torch[all]'")
    for name in ("train", "evaluate", "figure", "video"):
        run_in_small(block("docs/quickstart.md", name))
    assert {path.name for path in Path("runs/quick/media").iterdir()} == {
        "curves.png", "figure.pdf", "points.csv", "paths.png", "paths.mp4",
    }  # fmt: skip
    resume = block("docs/quickstart.md", "resume")
    assert "--iterations 60" in resume
    run_in_small(resume.replace("--iterations 60", "--iterations 2"))


@runs("docs/quickstart.md", "long")
def test_the_long_run_of_the_guide_behaves_as_documented() -> None:
    pytest.importorskip("tensorboard", reason="pip install 'metarl-torch[track]'")
    small = {"train": f"{TINY} --iterations 20 --hidden 4"}
    run_in_small(block("docs/quickstart.md", "long"), small)
    kept = sorted(path.stem for path in Path("runs/long/checkpoints").iterdir())
    assert kept == ["00000000", "00000010", "00000015", "00000020"]


@pytest.mark.nightly
@runs("docs/quickstart.md", "cheetah")
def test_the_half_cheetah_of_the_guide_is_recorded(egl: None) -> None:
    pytest.importorskip("imageio", reason="pip install 'metarl-torch[all]'")
    run_in_small(block("docs/quickstart.md", "cheetah"), {"render": "--episodes-per-task 2"})
    assert Path("runs/cheetah/media/backwards.mp4").exists()
    metarl("resume", "runs/cheetah")


@pytest.mark.nightly
@runs("docs/quickstart.md", "compare", "paper-compare")
@runs("docs/meta-rl.md", "compare")
@runs("README.md", "compare")
def test_the_comparisons_run_and_the_second_extends_the_first() -> None:
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    run_in_small(compare := block("docs/quickstart.md", "compare"))
    assert block("README.md", "compare") == compare
    assert compared() == ["maml-trpo-0", "promp-0"]
    run_in_small(block("docs/quickstart.md", "paper-compare"))
    assert Path("runs/compare/paper.pdf").read_bytes().startswith(b"%PDF")
    first = Path("runs/compare/promp-0/metrics.jsonl").stat()
    run_in_small(block("docs/meta-rl.md", "compare"))
    assert compared() == ["maml-trpo-0", "maml-trpo-first-order-0", "promp-0"]
    assert Path("runs/compare/promp-0/metrics.jsonl").stat() == first


@runs("docs/meta-rl.md", "networks")
def test_policies_for_images_and_with_memory_train() -> None:
    run_in_small(block("docs/meta-rl.md", "networks"))
    assert Path("runs/pixels/checkpoints").exists()
    assert Path("runs/gru/checkpoints").exists()


def compared() -> list[str]:
    assert Path("runs/compare/table.md").exists()
    return sorted(path.parent.name for path in Path().glob("runs/compare/*/config.json"))


@runs("docs/quickstart.md", "notebook")
def test_the_notebook_cell_of_the_guide_trains() -> None:
    cell = block("docs/quickstart.md", "notebook")
    assert cell.count('runs/quick"') == 1
    exec(cell.replace('runs/quick"', f'runs/quick {SMALL["train"]}"'), {})
    assert Run.open(Path("runs/quick")).checkpoints() == [0, 1]


@runs("docs/few-shot.md", "first", "baselines")
def test_the_few_shot_page_runs_with_small_sizes() -> None:
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[vision]'")
    run_in_small(block("docs/few-shot.md", "first"))
    assert Path("sine.png").exists()
    run_in_small("metarl train fewshot --method pretrained --out RUN")
    run_in_small(block("docs/few-shot.md", "baselines"))
    assert len(Run.open(Path("RUN")).evaluations()) == 3


@pytest.mark.nightly
@runs("docs/text.md", "leopard", "baselines")
def test_the_text_page_runs_with_small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("tests.support.sentences").save_documented(Path())
    monkeypatch.setenv("METARL_DATA", "data")
    run_in_small(block("docs/text.md", "leopard"))
    small = {"evaluate": "--samples 1 --test-steps 2"}
    run_in_small(block("docs/text.md", "baselines"), small)
    assert {e["iteration"] for e in Run.open(Path("runs/joint")).evaluations()} == {0, 1}


@pytest.mark.nightly
@runs("docs/robustness.md", "thorough")
def test_the_thorough_profile_collects_tests() -> None:
    """It takes hours."""
    run_in_small(block("docs/robustness.md", "thorough"))


@pytest.mark.nightly
@runs("docs/scaling.md", "torchrun")
def test_the_launcher_trains_and_resumes_with_two_processes() -> None:
    train, resume = block("docs/scaling.md", "torchrun").splitlines()
    run_in_small(train)
    newest = Path("runs/cheetah/checkpoints/00000001.safetensors")
    whole = newest.read_bytes()
    newest.unlink()
    run_in_small(resume)
    assert newest.read_bytes() == whole


@runs("docs/scaling.md", "torchrun", "slurm")
def test_the_slurm_script_starts_the_commands_of_its_page() -> None:
    """The programs of the cluster are replaced by scripts that print their arguments."""
    train, resume = block("docs/scaling.md", "torchrun").splitlines()
    Path("job").write_text(block("docs/scaling.md", "slurm"))
    assert started() == train.partition(" -m ")[2].split()
    Path("runs/cheetah").mkdir(parents=True)
    Path("runs/cheetah/config.json").write_text("{}")
    assert started() == resume.partition(" -m ")[2].split()


def started() -> list[str]:
    """Run the job; return the command that torchrun would start in each process."""
    from torch.distributed.run import get_args_parser

    programs = {"scontrol": "echo one; echo two", "srun": '"$@"', "torchrun": 'printf "%s\\n" "$@"'}
    Path("bin").mkdir(exist_ok=True)
    for name, text in programs.items():
        Path("bin", name).write_text(f"#!/bin/sh\n{text}\n")
        Path("bin", name).chmod(0o755)
    env = os.environ | {"PATH": f"bin:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "one,two"}
    job = subprocess.run(["bash", "job"], check=True, env=env, capture_output=True, text=True)
    read = get_args_parser().parse_args(job.stdout.splitlines())
    assert (read.module, read.nnodes, read.rdzv_endpoint) == (True, "2", "one:29500")
    return [read.training_script, *read.training_script_args]


@runs("docs/custom-methods.md", "problem", "optimizer", "outer", "gradient", "network", "check")
def test_the_custom_methods_page_runs_from_top_to_bottom(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Unchanged except for the number of iterations; the last block checks a meta-gradient."""
    problem = block("docs/custom-methods.md", "problem")
    assert "ITERATIONS = 200\n" in problem
    scope: dict[str, Any] = {}
    exec(problem.replace("ITERATIONS = 200\n", "ITERATIONS = 2\n"), scope)
    for name in ("optimizer", "outer", "gradient", "network", "check"):
        exec(block("docs/custom-methods.md", name), scope)
    assert capsys.readouterr().out.count("after adaptation") == 5
    meta = scope["ball"].init(scope["params"])
    assert set(meta.inner) == {f"{k}.{n}" for k in ("lr", "momentum") for n in scope["params"]}
    momentum_is_used(scope)


@runs("docs/custom-methods.md", "policy")
def test_a_policy_with_memory_is_built_and_acts() -> None:
    scope: dict[str, Any] = {}
    exec(block("docs/custom-methods.md", "policy"), scope)
    policy, params = scope["policy"], scope["state"].params.model
    _, actions = policy.scan(params, policy.initial(params, (3,)), torch.zeros(4, 3, 2))
    assert actions.mean.shape == (4, 3, 2)


@runs("docs/custom-methods.md", "awr", "es-maml", "my-commands")
def test_custom_meta_rl_methods_train_and_are_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("METARL_IMPORT", "")
    code = "\n\n".join(block("docs/custom-methods.md", name) for name in ("awr", "es-maml"))
    Path("my_methods.py").write_text(code)
    try:
        run_in_small(block("docs/custom-methods.md", "my-commands"))
    finally:
        for name in ("awr", "es-maml"):
            METHODS.pop(name, None)
        sys.modules.pop("my_methods", None)
    assert "es-maml" in capsys.readouterr().out
    for name, metric in (("awr", "awr/weight"), ("es", "es/gradient")):
        assert history(Path("runs") / name)[-1][metric] > 0


def momentum_is_used(scope: dict[str, Any]) -> None:
    """Two steps on the loss ½p² from p = 1 with step size 0.1 and momentum 0.5."""
    import torch

    def loss(params: Params, batch: Any) -> Any:
        return 0.5 * (params["p"] ** 2).sum()

    loop = InnerLoop(loss, scope["heavy_ball"](0.1, 0.5), num_steps=2)
    adapted = loop.adapt(loop.init({"p": torch.ones(1)}), ((torch.zeros(1),),))
    torch.testing.assert_close(adapted["p"], torch.tensor([0.9 - 0.1 * (0.5 + 0.9)]))


@runs("docs/custom-data.md", "family", "train-family", "unequal")
def test_the_custom_data_set_is_learned(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, Any] = {}
    exec(block("docs/custom-data.md", "family"), scope)
    train = block("docs/custom-data.md", "train-family")
    assert "ITERATIONS = 300\n" in train
    exec(train.replace("ITERATIONS = 300\n", "ITERATIONS = 20\n"), scope)
    exec(block("docs/custom-data.md", "unequal"), scope)
    assert capsys.readouterr().out.count("after ") == 4
    before, after = scope["curves"].mean("loss")[[0, 3]]
    assert after < before
    assert tree.norm(tree.add(scope["adapted"], scope["state"].params.model, scale=-1.0)) > 0


@runs("docs/custom-data.md", "arrays", "function")
def test_custom_arrays_and_functions_are_learned() -> None:
    scope: dict[str, Any] = {}
    for name in ("arrays", "function"):
        code = block("docs/custom-data.md", name)
        assert "ITERATIONS = 300\n" in code
        exec(code.replace("ITERATIONS = 300\n", "ITERATIONS = 5\n"), scope)


@runs(
    "docs/custom-data.md",
    "pictures",
    "train-pictures",
    "split",
    "augment-pictures",
    "evaluate-other",
)
def test_custom_images_are_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL", reason="pip install 'metarl-torch[vision]'")
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "cache"))
    exec(block("docs/custom-data.md", "pictures"), {})
    small = {"fewshot": "--iterations 20 --checkpoint-every 20 --validation-tasks 2 --mode eager",
             "evaluate": "--num-tasks 20"}  # fmt: skip
    run_in_small(block("docs/custom-data.md", "train-pictures"), small)
    assert accuracy("runs/pictures") > 0.43  # chance is 0.2, the untrained network reaches 0.36
    parts = load_images("folder", data_root="pictures", split=block("docs/custom-data.md", "split"))
    assert [len(part.names) for part in parts] == [3, 1, 1]
    run_in_small(block("docs/custom-data.md", "augment-pictures"), small)
    Path("pictures").rename("more")
    run_in_small(block("docs/custom-data.md", "evaluate-other"), small)
    assert Run.open(Path("runs/pictures")).evaluations()[0]["num_classes"] == 30


@runs("docs/custom-data.md", "sentences", "encoder", "train-sentences")
def test_custom_sentences_are_learned() -> None:
    pytest.importorskip("transformers", reason="pip install 'metarl-torch[text]'")
    scope: dict[str, Any] = {}
    for name in ("sentences", "encoder"):
        exec(block("docs/custom-data.md", name), scope)
    small = {"text": "--iterations 10 --checkpoint-every 10 --validation-tasks 2", "evaluate": ""}
    run_in_small(block("docs/custom-data.md", "train-sentences"), small)
    assert accuracy("runs/sentences") > 0.8  # chance is 0.33, the untrained encoder reaches 0.47


def accuracy(run: str) -> float:
    """Return the result after the last step in the only evaluation of a run."""
    (found,) = Run.open(Path(run)).evaluations()
    return float(found["mean"][-1])
