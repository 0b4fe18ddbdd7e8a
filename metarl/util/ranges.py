"""Accepted ranges for settings, and a base class for dataclasses that check the ranges."""

import inspect
import math
from collections.abc import Callable, Collection, Sequence
from functools import cache
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias, get_type_hints


class Range(NamedTuple):
    """A set of accepted values.

    Attributes:
        text: Description for errors, such as ``"at least 1"``, or a function
            that returns the description.
        accepts: Function that returns whether a value is accepted.
    """

    text: str | Callable[[], str]
    accepts: Callable[[Any], bool]

    def check(self, name: str, value: Any) -> None:
        """Raise a ValueError if a value is not finite or not accepted; None is always accepted.

        Args:
            name: Name of the setting in the error.
            value: A single value, a tuple of values that are checked one by one, or None.

        Raises:
            ValueError: If a value is not finite or not accepted.
        """
        for number in value if isinstance(value, tuple) else () if value is None else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{name} must be finite, got {value}")
            if not self.accepts(number):
                text = self.text() if callable(self.text) else self.text
                raise ValueError(f"{name} must be {text}, got {value}")


def at_least(low: int) -> Range:
    """Return the range of numbers greater than or equal to `low`.

    Example::

        at_least(1).check("num_tasks", 0)  # ValueError: num_tasks must be at least 1, got 0
    """
    return Range(f"at least {low}", lambda value: value >= low)


def integer_at_least(low: int) -> Range:
    """Return the range of integers greater than or equal to `low`, for arguments of functions.

    Example::

        integer_at_least(1).check("episodes", 2.5)
        # ValueError: episodes must be an integer of at least 1, got 2.5
    """
    return Range(
        f"an integer of at least {low}",
        lambda value: (
            isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= low
        ),
    )


def greater_than(low: int) -> Range:
    """Return the range of numbers greater than `low`.

    Example::

        greater_than(0).check("outer_lr", 0)  # ValueError: outer_lr must be greater than 0, got 0
    """
    return Range(f"greater than {low}", lambda value: value > low)


def between(low: int, high: int) -> Range:
    """Return the closed interval from `low` to `high`.

    Example::

        between(0, 1).check("discount", 2)  # ValueError: discount must be between 0 and 1, got 2
    """
    return Range(f"between {low} and {high}", lambda value: low <= value <= high)


def inside(low: int, high: int) -> Range:
    """Return the open interval from `low` to `high`, which excludes both ends.

    Example::

        inside(0, 1).check("backtrack_ratio", 1)
        # ValueError: backtrack_ratio must be strictly between 0 and 1, got 1
    """
    return Range(f"strictly between {low} and {high}", lambda value: low < value < high)


def above(low: int, high: int) -> Range:
    """Return the half-open interval that excludes `low` and includes `high`.

    Example::

        above(0, 1).check("fisher_fraction", 0)
        # ValueError: fisher_fraction must be greater than 0 and at most 1, got 0
    """
    text = f"greater than {low} and at most {high}"
    return Range(text, lambda value: low < value <= high)


def among(names: Collection[str]) -> Range:
    """Return a range that accepts the names in a collection, including names added later.

    Example::

        among(["relu", "tanh"]).check("activation", "gelu")
        # ValueError: activation must be one of relu, tanh, got gelu
    """
    return Range(lambda: f"one of {', '.join(names)}", lambda value: value in names)


Conflicts: TypeAlias = Sequence[tuple[Any, str]]
"""Pairs of a condition and an error message; a true condition is an error."""


class Ranged:
    """A base class for dataclasses whose fields are checked against annotated ranges.

    Example::

        @dataclass(frozen=True)
        class Settings(Ranged):
            discount: Annotated[float, between(0, 1)] = 0.99

        Settings(discount=2.0)  # ValueError: `discount` must be between 0 and 1, got 2.0
    """

    def __post_init__(self) -> None:
        """Raise a ValueError if a field is out of its range or conflicts with another field."""
        kind: type = type(self)
        for name, accepted in ranges_of(kind).items():
            accepted.check(f"`{name}`", getattr(self, name))
        raise_if(*self.conflicts())

    def conflicts(self) -> Conflicts:
        """Return pairs of a condition and an error message, for fields that must not be combined.

        Subclasses override this method; by default, there are no conflicts.
        """
        return ()


def raise_if(*cases: tuple[Any, str]) -> None:
    """Raise a ValueError with the message of the first true condition, if there is one.

    Args:
        cases: Pairs of a condition and an error message.

    Raises:
        ValueError: If a condition is true.

    Example::

        shots = 0
        raise_if((shots < 1, f"num_shots must be at least 1, got {shots}"))
        # ValueError: num_shots must be at least 1, got 0
    """
    for condition, message in cases:
        if condition:
            raise ValueError(message)


@cache
def ranges_of(kind: type) -> dict[str, Range]:
    """Return the ranges of the annotated fields of the dataclass `kind`, by field name.

    A field that a subclass overrides without a range keeps the range from the base class.
    """
    bases = (get_type_hints(base, include_extras=True) for base in reversed(kind.__mro__))
    hints = [item for base in bases for item in base.items()]
    notes = [(name, note) for name, hint in hints for note in getattr(hint, "__metadata__", ())]
    return {name: note for name, note in notes if isinstance(note, Range)}


def check_arguments(function: Callable[..., Any], **arguments: Any) -> None:
    """Check keyword arguments against the annotated ranges of a function.

    Args:
        function: A function whose arguments are annotated with ranges.
        arguments: Values by argument name.

    Raises:
        TypeError: If the function has no argument of this name.
        ValueError: If a value is out of its range.

    Example::

        def scaled(x: float, factor: Annotated[float, at_least(1)]) -> float:
            return factor * x

        check_arguments(scaled, factor=0.5)  # ValueError: factor must be at least 1, got 0.5
    """
    hints = _hints_of(inspect.unwrap(function))
    for name, value in arguments.items():
        if name not in hints:
            known = ", ".join(other for other in hints if other != "return")
            raise TypeError(
                f"{function.__name__} has no argument {name!r}: expected one of {known}"
            )
        for note in getattr(hints[name], "__metadata__", ()):
            if isinstance(note, Range):
                note.check(name, value)


@cache
def _hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(function, include_extras=True)
