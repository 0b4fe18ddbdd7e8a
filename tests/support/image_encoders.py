"""Small image encoders with random weights, as local Hugging Face folders and as functions."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn


SIZE = 16
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
TOKENS = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 8}
KINDS: dict[str, dict[str, Any]] = {
    "ViT": {**TOKENS, "intermediate_size": 8, "image_size": SIZE},
    "Dinov2": {**TOKENS, "mlp_ratio": 1, "image_size": SIZE},
    "ResNet": {
        "embedding_size": 4,
        "hidden_sizes": [4, 6],
        "depths": [1, 2],
        "layer_type": "basic",
    },
}
OWN = """
import torch
from torch import nn


def tiny():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    norm.running_mean.fill_(0.1)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), norm, nn.ReLU(), nn.Conv2d(4, 6, 3))


def number():
    return 1


def tokens():
    return nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten(2))
"""


def save_image_encoder(folder: Path, kind: str, **about: Any) -> Path:
    """Save a model with random weights and its preprocessor_config.json."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**KINDS[kind])
    model: nn.Module = getattr(transformers, f"{kind}Model")(config)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_()
    model.save_pretrained(folder)  # type: ignore[operator]
    usual = {"image_mean": MEAN, "image_std": STD, "size": {"height": SIZE, "width": SIZE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(usual | about))
    return folder


def save_functions(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Write the module ``own_encoders`` with functions that return encoders, and import it anew."""
    (folder / "own_encoders.py").write_text(OWN)
    patch.syspath_prepend(folder)
    patch.delitem(sys.modules, "own_encoders", raising=False)
    return folder
