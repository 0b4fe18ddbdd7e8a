"""Ranges of numbers that settings accept."""

import math
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias, get_type_hints


class Range(NamedTuple):
    """A set of accepted values, and how an error describes it; a function where that may change."""

    text: str | Callable[[], str]
    holds: Callable[[Any], bool]

    def check(self, name: str, value: Any) -> None:
        """Make sure that a number, or each number of a tuple, is finite and accepted; None passes.

        Args:
            name: What the error calls the setting.
            value: A number, a tuple of numbers or None.

        Raises:
            ValueError: If a number is not finite or not in the range.
        """
        for number in value if isinstance(value, tuple) else () if value is None else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{name} must be finite, got {value}")
            if not self.holds(number):
                text = self.text() if callable(self.text) else self.text
                raise ValueError(f"{name} must be {text}, got {value}")


def at_least(low: int) -> Range:
    """Accept `low` and more."""
    return Range(f"at least {low}", lambda value: value >= low)


def greater_than(low: int) -> Range:
    """Accept more than `low`."""
    return Range(f"greater than {low}", lambda value: value > low)


def between(low: int, high: int) -> Range:
    """Accept `low`, `high` and what lies between them."""
    return Range(f"between {low} and {high}", lambda value: low <= value <= high)


def inside(low: int, high: int) -> Range:
    """Accept what lies between `low` and `high`, but neither of them."""
    return Range(f"between {low} and {high}, without them", lambda value: low < value < high)


def above(low: int, high: int) -> Range:
    """Accept more than `low` and at most `high`."""
    text = f"greater than {low} and at most {high}"
    return Range(text, lambda value: low < value <= high)


def among(names: Collection[str]) -> Range:
    """Accept the names of a table, as it is when a name is checked."""
    return Range(lambda: f"one of {', '.join(names)}", lambda value: value in names)


Conflicts: TypeAlias = Sequence[tuple[Any, str]]
"""Pairs of a condition that is an error and its message."""


class Ranged:
    """A dataclass that checks its fields against the ranges of their annotations.

    Example::

        @dataclass(frozen=True)
        class Settings(Ranged):
            discount: Annotated[float, between(0, 1)] = 0.99
    """

    def __post_init__(self) -> None:
        """Raise a ValueError for a number out of its range, or values that do not go together."""
        kind: type = type(self)
        for name, accepted in ranges_of(kind).items():
            accepted.check(f"`{name}`", getattr(self, name))
        refuse(*self.conflicts())

    def conflicts(self) -> Conflicts:
        """Return what does not go together: conditions, and errors where they hold."""
        return ()


def refuse(*cases: tuple[Any, str]) -> None:
    """Raise the error of the first condition that holds.

    Args:
        cases: Conditions, and what to say where they hold.

    Raises:
        ValueError: If one does.
    """
    for holds, message in cases:
        if holds:
            raise ValueError(message)


@cache
def ranges_of(kind: type) -> dict[str, Range]:
    """Return the ranges of the annotated fields of a dataclass, by name."""
    bases = (get_type_hints(base, include_extras=True) for base in reversed(kind.__mro__))
    hints = [item for base in bases for item in base.items()]  # an override keeps the range
    notes = [(name, note) for name, hint in hints for note in getattr(hint, "__metadata__", ())]
    return {name: note for name, note in notes if isinstance(note, Range)}
