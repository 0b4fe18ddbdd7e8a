"""Few-shot sentence classifiers: adapt to labeled sentences, predict classes, save and export."""

from codecs import BOM_UTF8
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor, nn

from metarl.models import labels as of_labels
from metarl.models.labels import Label
from metarl.models.learner import Learner, Origin, copied, save
from metarl.text import Row, TextTask, tokenize
from metarl.text.encoders import Inputs
from metarl.util import Table, parse_json


BLOCK = 64  # sentences classified at a time, which bounds memory

Sentence: TypeAlias = str | tuple[str, str]
"""A sentence, or a pair of sentences."""


class SentenceFormat(NamedTuple):
    """The conversion of sentences to the inputs of a trained network.

    Attributes:
        tokenizer: The tokenizer of the encoder.
        max_length: Maximum number of tokens per sentence; longer sentences are truncated.
    """

    tokenizer: Any
    max_length: int

    def convert(self, sentences: Sequence[Sentence]) -> Inputs:
        """Tokenize sentences.

        Args:
            sentences: Sentences, or pairs of sentences.

        Returns:
            Tensors of shape (sentences, tokens) by name, such as ``"input_ids"``.

        Raises:
            ValueError: If there is no sentence, or an element is not a sentence.
        """
        if isinstance(sentences, str) or not len(sentences):
            raise ValueError(
                f"`sentences` must be a nonempty list of sentences, got {sentences!r:.40}"
            )
        rows = tuple(_row(sentence) for sentence in sentences)
        if len({bool(row.sentence2) for row in rows}) > 1:
            raise ValueError("`sentences` must be all single sentences or all pairs, got both")
        task = TextTask("sentences", ("",), {}, rows, ())
        made = tokenize(
            self.tokenizer, rows, task, max_length=self.max_length, device=torch.device("cpu")
        )
        inputs: Inputs = made.batch(torch.arange(len(rows)))[0]
        return inputs


class SentenceNetwork(nn.Module):
    """A sentence classifier as a plain module whose inputs are token ids."""

    def __init__(self, classifier: nn.Module) -> None:
        """Wrap a classifier whose input is a dictionary of tokenizer outputs."""
        super().__init__()
        self.classifier = classifier

    def forward(
        self,
        input_ids: Int64[Tensor, "n tokens"],
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> Float[Tensor, "n ways"]:
        """Return the logits of every sentence.

        Args:
            input_ids: Token ids of the encoder's tokenizer, padded on the right.
            attention_mask: 1 (or True) for tokens, 0 (or False) for padding; shape (n, tokens).
            token_type_ids: 0 for tokens of the first sentence, 1 for tokens of
                the second sentence. Default: zeros, for single sentences.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask.bool()}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        logits: Tensor = self.classifier(inputs)
        return logits


@dataclass(frozen=True, eq=False)
class AdaptedTextClassifier:
    """A sentence classifier that has adapted to a support set.

    Attributes:
        network: The adapted network, whose input is a dictionary of tokenizer outputs.
        classes: Sorted labels of the support set, in the order of the network's outputs.
        sentences: The conversion of sentences to inputs of the network.
        origin: Experiment and configuration of the run.
    """

    network: nn.Module
    classes: tuple[Label, ...]
    sentences: SentenceFormat
    origin: Origin

    def __repr__(self) -> str:
        """Return one line, because the network would fill pages."""
        return f"<AdaptedTextClassifier {self.origin.experiment}, {len(self.classes)} classes>"

    def predict_proba(self, sentences: Sequence[Sentence]) -> Float[NDArray[np.float32], "n ways"]:
        """Return the probability of every class for every sentence.

        Args:
            sentences: Sentences, or pairs of sentences.

        Returns:
            Probabilities of shape (n, ways), in the order of :attr:`classes`.

        Raises:
            ValueError: If there is no sentence, or an element is not a sentence.
        """
        device = next(self.network.parameters()).device
        starts = range(0, max(len(sentences), 1), BLOCK)
        logits = []
        with torch.no_grad():
            for first in starts:
                inputs = self.sentences.convert(sentences[first : first + BLOCK])
                logits.append(self.network({name: x.to(device) for name, x in inputs.items()}))
        return torch.cat(logits).softmax(-1).numpy(force=True)

    def predict(self, sentences: Sequence[Sentence]) -> NDArray[Any]:
        """Return the predicted label of every sentence, of shape (n,).

        Args:
            sentences: Sentences, or pairs of sentences.
        """
        return of_labels.decode(self.classes, self.predict_proba(sentences))

    def table(self, file: Path) -> Table:
        """Classify the sentences in a JSON lines file.

        Args:
            file: File with one object ``{"text": TEXT}`` per line; pairs of
                sentences also have the key ``"text2"``.

        Returns:
            A table with the columns ``text``, ``class`` and ``probability``.
        """
        sentences, _ = read_examples(file, labeled=False)
        names = [x if isinstance(x, str) else " | ".join(x) for x in sentences]
        return of_labels.table("text", names, self.classes, self.predict_proba(sentences))

    def module(self) -> SentenceNetwork:
        """Return a copy of the network as a plain module, for ``torch.export`` and ONNX.

        The inputs are the token ids and the attention mask of the encoder's
        tokenizer, both of shape (n, tokens); see
        :meth:`SentenceNetwork.forward`. The output is a tensor of logits of
        shape (n, ways).
        """
        return SentenceNetwork(copied(self.network)).eval()

    def save(self, path: str | Path) -> None:
        """Write the adapted classifier to a file that :func:`metarl.load_adapted` reads.

        The file contains all weights but not the tokenizer.
        :func:`metarl.load_adapted` loads the tokenizer from the encoder of the
        run.

        Args:
            path: The file to write; the parent folder is created.

        Raises:
            OSError: If the file cannot be written.
        """
        save(self.network, self.origin, path, classes=self.classes)


@dataclass(frozen=True)
class MetaTextClassifier:
    """A meta-trained sentence classifier, which adapts to a few labeled sentences per class.

    Attributes:
        learner: The trained network and its inner loop.
        sentences: The conversion of sentences to inputs of the network.
    """

    learner: Learner
    sentences: SentenceFormat

    def adapt(
        self,
        sentences: Sequence[Sentence] | str | Path,
        labels: Sequence[Label] | NDArray[Any] | None = None,
        *,
        steps: int | None = None,
        start: str | None = None,
        seed: int = 0,
    ) -> AdaptedTextClassifier:
        """Adapt to labeled sentences.

        Args:
            sentences: Sentences or pairs of sentences, or the path of a JSON
                lines file with one object ``{"text": TEXT, "label": NAME}`` per
                line. For pairs in a file, the key ``"text2"`` contains the
                second sentence. Files can also use the keys ``"sentence1"`` and
                ``"sentence2"``, as in :func:`metarl.text.read_tasks`.
            labels: One integer or string per sentence; None for a file. Classes
                can have different numbers of sentences.
            steps: Number of inner steps. Default: the number of test-time steps of the run.
            start: Initial head, ``"prototypes"`` or ``"zero"``; both support
                any number of classes. Default: the head that the run uses at
                test time.
            seed: Random seed for the minibatches of the inner steps, if the run uses minibatches.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If sentences or labels are invalid.

        Example::

            classifier = metarl.load("runs/text").adapt(["great", "poor"], ["good", "bad"])
            classifier.predict(["a wonderful evening"])  # an array with one label
        """
        if isinstance(sentences, str | Path):
            sentences, labels = read_examples(Path(sentences), labeled=True)
        inputs = self.sentences.convert(sentences)
        classes, targets = of_labels.encode(
            labels, len(sentences), self.learner.required_ways(start)
        )
        network = self.learner.adapt(inputs, targets, steps=steps, start=start, seed=seed)
        return AdaptedTextClassifier(network, classes, self.sentences, self.learner.origin)


def read_examples(file: Path, *, labeled: bool) -> tuple[list[Sentence], list[Label]]:
    """Read sentences from a JSON lines file.

    Args:
        file: File with one object ``{"text": TEXT, "label": NAME}`` per line;
            for pairs, the key ``"text2"`` contains the second sentence.
        labeled: Whether every row must have a label.

    Returns:
        ``(sentences, labels)``; the list of labels is empty if `labeled` is False.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If a line is invalid, or there are no sentences.
    """
    sentences, labels = list[Sentence](), list[Label]()
    if file.is_dir():
        raise IsADirectoryError(f"{file} must be a .jsonl file for a text run, got a folder")
    for number, line in enumerate(file.read_bytes().removeprefix(BOM_UTF8).split(b"\n"), 1):
        if line.strip():
            try:
                sentence, label = _parse(parse_json(line.decode()), labeled)
            except UnicodeError:
                raise ValueError(
                    f"{file}: line {number} must be valid UTF-8 text, got {line[:60]!r}. Save the "
                    "file as UTF-8"
                ) from None
            except (AttributeError, ValueError):
                form = '{"text": TEXT, "label": NAME}' if labeled else '{"text": TEXT}'
                raise ValueError(
                    f"{file}: line {number} must have the form {form}, got {line.decode()[:60]!r}"
                ) from None
            sentences.append(sentence)
            labels += [label] if labeled else []
    if not sentences:
        raise ValueError(f"{file} must contain at least one sentence, got none")
    return sentences, labels


def _parse(row: Any, labeled: bool) -> tuple[Sentence, Label]:
    """Return the sentence and the label of a parsed line; the label is empty if missing."""
    text, label = row.get("text", row.get("sentence1")), row.get("label", "")
    second = row.get("text2", row.get("sentence2")) or ""
    valid = isinstance(label, str | int) and not isinstance(label, bool)
    if not (isinstance(text, str) and isinstance(second, str) and valid):
        raise ValueError("invalid row")
    if labeled and "label" not in row:
        raise ValueError("no label")
    f"{text}{second}{label}".encode()  # raises a UnicodeError for lone surrogates
    return (text, second) if second else text, label


def _row(sentence: Any) -> Row:
    match sentence:
        case str(text):
            return Row(text, "", "")
        case (str(one), str(two)):
            return Row(one, two, "")
    raise ValueError(f"`sentences` must contain strings or pairs, got {sentence!r:.40}")
