"""Parsing of JSON from files that may be damaged."""

import json
import re
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Parse JSON, and raise a ValueError if the input is invalid in any way.

    Args:
        text: JSON as text or as UTF-8, UTF-16 or UTF-32 bytes.

    Raises:
        JSONDecodeError: If the text is not valid JSON, or is nested too deeply.
        UnicodeDecodeError: If the bytes are not valid text. This exception and JSONDecodeError are
            subclasses of ValueError.

    Example::

        parse_json('{"seed": 0}')  # {"seed": 0}
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise json.JSONDecodeError("JSON is nested too deeply", "", 0) from None


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a number; ``true`` and ``false`` are not numbers.

    Example::

        is_number(1.5), is_number(True)  # (True, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool)


def module_function(name: str) -> tuple[str, str] | None:
    """Return the module and the function in a name ``module:function``; None for other names.

    Example::

        module_function("my.models:lite0")  # ("my.models", "lite0")
    """
    found = re.fullmatch(r"([^\W\d][\w.]*):(\w+)", name)
    return (found[1], found[2]) if found else None
