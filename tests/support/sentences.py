"""A small BERT with three layers and a few words, and tasks with such sentences."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
import torch

from metarl.core import Batch, Task, tree
from metarl.text.tasks import support_batches
from tests.support.problems import FLOAT64, seeded


os.environ["HF_HUB_OFFLINE"] = (
    "1"  # read when transformers is imported; unknown names then fail fast
)
transformers = pytest.importorskip("transformers")

LAYERS, SIZE, LENGTH = 3, 16, 8
COLORS = ("red", "green", "blue", "white", "black", "grey")
WORDS = (*COLORS, "the", "a", "dog", "cat", "sees", "likes", "old", "new")
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
CLS, FIRST = 2, 5  # tokens: the start token, and the first word


def save_encoder(folder: Path) -> Path:
    """Save an encoder and its tokenizer like a download."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=SIZE,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
        initializer_range=0.5,  # sentences differ, and gradients are large enough to be clipped
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder)
    return folder


def write_lines(path: Path, rows: Iterable[object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def colored_rows(labels: Sequence[str], each: int, seed: int = 0) -> list[dict[str, str]]:
    """Return different sentences whose color is the label."""
    generator = seeded(seed)
    rows = []
    for label in labels:
        seen: set[str] = set()
        while len(seen) < each:
            picks = torch.randint(len(COLORS), len(WORDS), (5,), generator=generator).tolist()
            seen.add(" ".join([label, *(WORDS[pick] for pick in picks)]))
        rows += [{"sentence1": text, "label": label} for text in sorted(seen)]
    return rows


def random_batch(labels: Sequence[int], ways: int, seed: int, *, pad: int = 0) -> Batch:
    """Return sentences of random words and lengths, with `pad` additional pad tokens."""
    generator = seeded(seed)
    count = len(labels)
    ids = torch.randint(FIRST, len(VOCABULARY), (count, LENGTH), generator=generator)
    ids[:, 0] = CLS
    lengths = torch.randint(3, LENGTH + 1, (count,), generator=generator)
    lengths[0] = LENGTH
    mask = torch.arange(LENGTH + pad) < lengths[:, None]
    ids = torch.nn.functional.pad(ids, (0, pad)).masked_fill(~mask, 0)
    kinds = (torch.arange(LENGTH + pad) >= 4).long().expand(count, -1)
    inputs = {"input_ids": ids, "token_type_ids": kinds, "attention_mask": mask}
    return inputs, torch.eye(ways, dtype=FLOAT64)[torch.tensor(labels)]


def random_task(ways: int, seed: int, *, steps: int, pad: int = 0) -> Task:
    """Return a meta-batch of one task with three support sentences per class."""
    labels = [*range(ways), *range(ways), 0, 0, *range(ways)]
    support = random_batch(labels, ways, seed, pad=pad)
    query = random_batch([*range(ways)] * 2, ways, seed + 1, pad=pad)
    whole = tree.map_leaves(lambda x: x[None], (support, query))
    return Task(support_batches(whole[0], shots=2, steps=steps), whole[1])


def save_documented(root: Path) -> None:
    """Write the data of the page commands: tasks in the folder data, and an encoder."""
    (root / "data").mkdir()
    colors = {"coats": COLORS[:2], "walls": COLORS[2:5]}  # other tasks are not used in training
    colors |= {"airline": COLORS[3:], "restaurant": COLORS[1:3], "conll": COLORS[:3]}
    for name, labels in colors.items():
        write_lines(root / "data" / f"{name}.jsonl", colored_rows(labels, 80))
        write_lines(root / "data" / f"{name}.eval.jsonl", colored_rows(labels, 4, seed=1))
    save_encoder(root / "encoder")
