"""Modules of adapted models are exported with a dynamic batch, and give the same outputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import metarl


class Exported(NamedTuple):
    """A module with inputs of two batch sizes, and the names of the dynamic axes."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    others: tuple[Tensor, ...]
    axes: tuple[str, ...]

    def shapes(self) -> tuple[dict[int, Any], ...]:
        sizes = [torch.export.Dim(name) for name in self.axes]
        return tuple(dict(enumerate(sizes)) for _ in self.inputs)


@pytest.fixture
def exported(
    trained: Callable[..., Path], text_data: Path, glyphs: NDArray[np.uint8]
) -> Callable[[str], Exported]:
    """A function that adapts a small model of a kind."""

    def images(method: str) -> Exported:
        adapted = metarl.load(trained("fewshot", method)).adapt(glyphs[:, 0], [0, 1, 2])
        x = adapted.images.convert(glyphs[:, 1]) / 255
        return Exported(adapted.module(), (x,), (torch.rand(7, 1, 28, 28),), ("n",))

    def points() -> Exported:
        adapted = metarl.load(trained("regression", "maml")).adapt([0, 1, 2], [0, 1, 0])
        return Exported(adapted.module(), (torch.rand(3, 1),), (torch.rand(7, 1),), ("n",))

    def sentences() -> Exported:
        run = trained("text", "leopard", data_root=text_data / "data", top_layers=1,
                      max_length=12, encoder=str(text_data / "encoder"))  # fmt: skip
        adapted = metarl.load(run).adapt(["red dog", "green cat"], ["red", "green"])
        few, many = (
            adapted.sentences.convert(texts)
            for texts in (["red", "a green dog"], ["the red dog sees a cat", "red", "a", "green"])
        )
        tokens = [(x["input_ids"], x["attention_mask"].long()) for x in (few, many)]
        return Exported(adapted.module(), *tokens, ("n", "tokens"))

    kinds = {"points": points, "sentences": sentences}
    return lambda kind: kinds[kind]() if kind in kinds else images(kind)


KINDS = ("protonet", "maml++", "points", "sentences")


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_is_plain(kind: str, exported: Callable[[str], Exported]) -> None:
    module, inputs, *_ = exported(kind)
    (module(*inputs).sum()).backward()
    assert all(x.requires_grad for x in module.parameters())
    assert not torch.equal(module(*inputs), torch.zeros_like(module(*inputs)))


@pytest.mark.parametrize("kind", ["protonet", "points"])
def test_modules_are_exported_by_torch(kind: str, exported: Callable[[str], Exported]) -> None:
    one = exported(kind)
    program = torch.export.export(one.module, one.inputs, dynamic_shapes=one.shapes())
    difference = program.module()(*one.others) - one.module(*one.others)
    assert difference.abs().max() < 1e-5


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")  # of the exporter
@pytest.mark.parametrize("kind", KINDS)
def test_modules_are_exported_to_onnx(
    kind: str, exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="pip install 'metarl-torch[export]'")
    pytest.importorskip("onnxscript", reason="pip install 'metarl-torch[export]'")
    one, file = exported(kind), tmp_path / "model.onnx"
    torch.onnx.export(one.module, one.inputs, file, dynamic_shapes=one.shapes(), dynamo=True)
    session = runtime.InferenceSession(file)
    names = [entry.name for entry in session.get_inputs()]
    for inputs in (one.inputs, one.others):
        named = {n: x.numpy() for n, x in zip(names, inputs, strict=True)}
        (found,) = session.run(None, named)
        np.testing.assert_allclose(found, one.module(*inputs).detach(), rtol=0, atol=1e-5)
