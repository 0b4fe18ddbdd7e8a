"""Memories of recurrent policies, by name."""

from collections.abc import Callable

from metarl.nn.attention import LinearAttention
from metarl.nn.recurrent import GRU, LSTM, Cell


CELLS: dict[str, Callable[..., Cell]] = {"gru": GRU, "lstm": LSTM, "attention": LinearAttention}
"""Memories by name, for ``--network``. Called as ``(inputs, units, generator=...)``."""
