"""A small encoder, created once."""

from typing import Any

import pytest


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An encoder and its tokenizer, loaded from a folder."""
    from metarl.text.encoders import load_pretrained
    from tests.support.sentences import save_encoder

    return load_pretrained(str(save_encoder(tmp_path_factory.mktemp("encoders") / "bert")))


@pytest.fixture(scope="session")
def bert(pretrained: Any) -> Any:
    return pretrained.model.double()


@pytest.fixture(scope="session")
def tokenizer(pretrained: Any) -> Any:
    return pretrained.tokenizer
