"""Reading JSON that may be damaged."""

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        JSONDecodeError: If it is none, or nested deeper than Python can follow.
        UnicodeDecodeError: If it is bytes and no text; both are ValueErrors.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise json.JSONDecodeError("it is nested too deeply", "", 0) from None


def is_number(value: Any) -> bool:
    """Say whether a JSON value is a number; ``true`` is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
