"""What several tests need, in modules by subject: none of these holds a test."""

from pathlib import Path
from typing import Any

import pytest


ROOT = Path(__file__).parents[2]
"""The folder of the repository."""


def nightly(*values: Any) -> Any:
    """Leave a row of a parametrization to ``.ci/nightly``."""
    return pytest.param(*values, marks=pytest.mark.nightly)
