"""Trained text classifiers adapt to labeled sentences, and predict new sentences."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import metarl
from metarl.experiments import experiment_of, experiments
from metarl.models import AdaptedTextClassifier, MetaTextClassifier, read_adapted
from metarl.runs import Run
from metarl.runs.config import from_json


METHODS = ("leopard", "protonet", "protomaml", "zero-head", "pretrained")
SENTENCES = ["red dog sees the cat", "red cat", "green the old dog", "green dog", "blue"]
LABELS = [1, 1, 2, 2, 0]
QUERIES = ["red cat likes a dog", "the green old", "blue dog", "a"]
Load = Callable[[str], MetaTextClassifier]


@pytest.fixture
def run(trained: Callable[..., Path], text_data: Path) -> Callable[[str], Path]:
    """A function that trains a small run of a method once."""
    settings = {"top_layers": 1, "max_length": 12, "encoder": str(text_data / "encoder")}
    return lambda method: trained("text", method, data_root=text_data / "data", **settings)


@pytest.fixture
def load(run: Callable[[str], Path]) -> Load:
    """A function that loads a small run of a method."""
    return lambda method: metarl.load(run(method))  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", METHODS)
def test_a_sentence_has_the_same_class_alone_and_in_a_batch(method: str, load: Load) -> None:
    adapted = load(method).adapt(SENTENCES, LABELS)
    together = adapted.predict_proba(QUERIES)
    alone = np.concatenate([adapted.predict_proba([text]) for text in QUERIES])
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-5)
    assert adapted.classes == (0, 1, 2)
    assert (adapted.predict(QUERIES) == together.argmax(-1)).all()


def test_zero_heads_equal_a_plain_loop(load: Load) -> None:
    model = load("zero-head")
    config: Any = model.learner.origin.config
    x, q = map(model.sentences.convert, (SENTENCES, QUERIES))
    adapted = model.adapt(SENTENCES, LABELS, steps=2)
    network: Any = copy.deepcopy(model.learner.network)
    network.load_state_dict(model.learner.params.model, strict=False)
    network.head = torch.nn.Linear(network.head.in_features, 3)
    torch.nn.init.zeros_(network.head.weight)
    torch.nn.init.zeros_(network.head.bias)
    network.requires_grad_(True)
    for _ in range(2):
        network.zero_grad()
        cross_entropy(network(x), torch.tensor(LABELS)).backward()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name not in network.meta_only:
                    parameter -= config.inner_lr * parameter.grad
    expected = network(q).softmax(-1).detach().numpy()
    np.testing.assert_allclose(adapted.predict_proba(QUERIES), expected, atol=1e-5)


def test_a_saved_classifier_predicts_the_same(load: Load, tmp_path: Path) -> None:
    adapted = load("leopard").adapt(SENTENCES, LABELS)
    adapted.save(tmp_path / "colors.safetensors")
    saved = read_adapted(tmp_path / "colors.safetensors")
    kind, settings = experiments()[saved.experiment].load()
    again: AdaptedTextClassifier = kind(from_json(settings, saved.config, tmp_path)).adapted(saved)
    assert again.classes == adapted.classes
    assert np.array_equal(again.predict_proba(QUERIES), adapted.predict_proba(QUERIES))


def test_examples_are_read_from_json_lines(load: Load, tmp_path: Path) -> None:
    model, file = load("protonet"), tmp_path / "examples.jsonl"
    for key in ("text", "sentence1"):
        rows = [{key: a, "label": b} for a, b in zip(SENTENCES, LABELS, strict=True)]
        file.write_text("\n".join(map(json.dumps, rows)))
        adapted = model.adapt(file)
        assert adapted.classes == (0, 1, 2)
        expected = model.adapt(SENTENCES, LABELS).predict_proba(QUERIES)
        assert np.array_equal(adapted.predict_proba(QUERIES), expected)
    file.write_text("\n".join(json.dumps({"text": text}) for text in QUERIES))
    table = adapted.table(file)
    assert table.columns == ["text", "class", "probability"]
    assert [row[1] for row in table.rows] == expected.argmax(-1).tolist()


def test_pairs_of_sentences_are_supported_but_not_mixed(load: Load) -> None:
    model = load("protonet")
    adapted = model.adapt([("red dog", "a cat"), ("green dog", "a cat")], ["r", "g"])
    assert adapted.predict([("red cat", "a dog")]).shape == (1,)
    with pytest.raises(ValueError, match="all single sentences or all pairs"):
        adapted.predict(["red", ("red", "dog")])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 must have the form"),
        ("[1]", "line 1 must have the form"),
        ('{"text": "a"}', '"label": NAME'),
        ('{"text": 1, "label": "a"}', "line 1"),
        ('{"text": "a", "label": true}', "line 1"),
        ("", "at least one sentence"),
        ('{"text": "\\ud800", "label": "a"}', "examples.jsonl: line 1 must be valid UTF-8"),
        ('{"text": "\xe9", "label": "a"}', "examples.jsonl: line 1 must be valid UTF-8"),
    ],
)
def test_invalid_lines_are_one_line_errors(
    line: str, message: str, load: Load, tmp_path: Path
) -> None:
    (tmp_path / "examples.jsonl").write_bytes(line.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        load("protonet").adapt(tmp_path / "examples.jsonl")


def test_invalid_sentences_are_one_line_errors(load: Load) -> None:
    adapted = load("protonet").adapt(SENTENCES, LABELS)
    for wrong in ("one sentence", []):
        with pytest.raises(ValueError, match="must be a nonempty list of sentences"):
            adapted.predict(wrong)


def test_neither_the_data_nor_the_first_place_of_the_encoder_are_needed(
    run: Callable[[str], Path], text_data: Path, tmp_path: Path
) -> None:
    opened = Run.open(run("protonet"))
    experiment: Any = experiment_of(opened)
    elsewhere = experiment.changed(data_root=Path("absent"), encoder="absent")
    with pytest.raises(OSError, match="data_root"):
        _ = elsewhere.parts
    moved = shutil.copytree(text_data / "encoder", tmp_path / "moved")
    model = elsewhere.model(experiment.read(opened, 1), encoder=str(moved))
    assert model.adapt(SENTENCES, LABELS).predict(QUERIES).shape == (4,)
