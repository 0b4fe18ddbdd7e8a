"""Pickled arrays of published data sets, read without executing code from the file."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


NUMBERS = "biuf"  # kinds of NumPy types that contain only numbers


def load_pickle(path: Path) -> Any:
    """Load a pickle that contains only NumPy arrays, numbers, text and their containers.

    A pickle can call any function while it is loaded. Here, the functions that
    restore NumPy arrays are replaced by functions of this module, and all
    others are rejected: NumPy's own functions are unsafe, because
    ``numpy.ndarray`` creates arrays of objects at arbitrary addresses.

    Args:
        path: A pickle of Python 2 or 3 in any protocol.

    Returns:
        The contents. Arrays are not writable. Dictionary keys that are ``bytes``,
        as in the files of Python 2, become ``str``.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If the file is damaged, or contains anything else.
    """
    try:
        with path.open("rb") as file:
            return _plain(_Unpickler(file, encoding="bytes").load())
    except OSError:
        raise
    except Exception as error:  # damaged pickles raise almost any exception
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path} is not a pickle of arrays, numbers and text ({reason:.120}). Download the "
            "file again from a source that you trust"
        ) from None


def text(value: Any) -> str:
    """Return a name in a pickle as text; Python 2 wrote names as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class _Type:
    """A NumPy type in a pickle."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.dtype = np.dtype(text(name))
        if self.dtype.kind not in NUMBERS:
            raise pickle.UnpicklingError(f"arrays of type {text(name)!r} are not supported")

    def __setstate__(self, state: Any) -> None:
        order: Any = text(state[1])
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array in a pickle; :func:`_plain` replaces it by its value."""

    value: NDArray[Any]

    def __init__(self, *_: Any) -> None:
        self.value = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        self.value = _array(raw, kind, shape, "F" if fortran else "C")


def _array(raw: Any, kind: _Type, shape: Any, order: Any) -> NDArray[Any]:
    return np.frombuffer(raw, kind.dtype).reshape(shape, order=order)


def _from_buffer(raw: Any, kind: _Type, shape: Any, order: Any, axes: Any = None) -> _Array:
    made = _Array()
    made.value = _array(raw, kind, shape, "C" if axes else order)
    made.value = made.value.transpose(axes) if axes else made.value
    return made


def _scalar(kind: _Type, raw: Any) -> Any:
    return np.frombuffer(raw, kind.dtype)[0].item()


def _encode(value: str, encoding: str) -> bytes:
    if encoding != "latin1":  # a codec can be any module of the package `encodings`
        raise pickle.UnpicklingError(f"the encoding {encoding!r} is not supported")
    return value.encode("latin1")


ALLOWED: dict[str, Any] = {
    "numpy.ndarray": None,  # an argument of _reconstruct, never called
    "numpy.dtype": _Type,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "_codecs.encode": _encode,
}
"""Replacements for the functions that pickles of NumPy arrays call, by name in NumPy 1."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if known not in ALLOWED:
            raise pickle.UnpicklingError(f"it requests {module}.{name}")
        return ALLOWED[known]


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {_key(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _key(key: Any) -> Any:
    return text(key) if isinstance(key, bytes) else key
