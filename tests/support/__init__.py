"""Helpers shared by several test files."""

from pathlib import Path
from typing import Any

import pytest


ROOT = Path(__file__).parents[2]
"""Root folder of the repository."""


def nightly(*values: Any) -> Any:
    """Return a parameter set that only ``.ci/nightly`` tests."""
    return pytest.param(*values, marks=pytest.mark.nightly)
