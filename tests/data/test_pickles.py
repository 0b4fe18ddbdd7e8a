"""Pickles of arrays are read without executing code from the file."""

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from metarl.data.pickles import load_pickle


PIXELS = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)


def python2(pixels: NDArray[np.uint8], labels: list[int]) -> bytes:
    """Return what Python 2 and NumPy 1 write for ``{"data": pixels, "labels": labels}``."""

    def string(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    shape = b"(" + b"".join(b"K" + bytes([n]) for n in pixels.shape) + b"t"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b")
    kind = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R"
    kind += b"(K\x03" + string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = empty + b"\x87R(K\x01" + shape + kind + b"\x89" + string(pixels.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([n]) for n in labels) + b"e"
    return b"\x80\x02}(" + string(b"data") + array + string(b"labels") + numbers + b"u."


class Call:
    """An object whose pickle calls a function when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "array",
    [PIXELS, PIXELS.transpose(0, 2, 1, 3), np.asfortranarray(PIXELS), np.arange(3, dtype=">i4")],
    ids=["pixels", "transposed", "fortran", "big-endian"],
)
def test_arrays_of_every_protocol_are_read(
    array: NDArray[Any], protocol: int, tmp_path: Path
) -> None:
    contents = {"a": array, "b": {"name": [1, 2]}, "c": (np.int64(7), np.float32(0.5))}
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(contents, protocol))
    found = load_pickle(tmp_path / "file.pkl")
    np.testing.assert_array_equal(found["a"], array)
    assert found["a"].dtype == array.dtype
    assert (found["b"], found["c"]) == ({"name": [1, 2]}, [7, 0.5])


def test_pickles_of_python_2_are_read_with_text_keys(tmp_path: Path) -> None:
    (tmp_path / "file.pkl").write_bytes(python2(PIXELS, [3, 4]))
    found = load_pickle(tmp_path / "file.pkl")
    np.testing.assert_array_equal(found["data"], PIXELS)
    assert found["labels"] == [3, 4]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (Call(os.system, "touch executed"), "it requests posix.system"),
        (Call(eval, "open('executed', 'w')"), ".eval"),
        (Call(np.load, "executed"), "it requests numpy.load"),
        (np.array([None]), "arrays of type 'O8' are not supported"),
        (np.array(["text"]), "arrays of type 'U4' are not supported"),
        (Path("file"), "it requests pathlib"),
    ],
    ids=["system", "eval", "numpy-function", "objects", "texts", "other-class"],
)
def test_everything_else_is_rejected_and_nothing_is_executed(
    hostile: Any, reason: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.pkl").write_bytes(pickle.dumps({"data": hostile}, protocol))
    with pytest.raises(ValueError, match="is not a pickle of arrays, numbers and text") as error:
        load_pickle(Path("file.pkl"))
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cnumpy\nndarray\n(K\x01\x85X\x01\x00\x00\x00OC\x08AAAAAAAAtR.",
        b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.",
        b"cnumpy\ndtype\nX\x02\x00\x00\x00u1K\x00K\x01\x87R(K\x03X\x01\x00\x00\x00?tb0.",
    ],
    ids=["array-at-an-address", "codec", "byte-order"],
)
def test_functions_of_numpy_cannot_be_misused(code: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.pkl").write_bytes(b"\x80\x03" + code)
    with pytest.raises(ValueError, match=r"file\.pkl is not a pickle of arrays"):
        load_pickle(tmp_path / "file.pkl")


def test_damaged_pickles_give_a_one_line_error(tmp_path: Path) -> None:
    whole, rng = pickle.dumps({"data": PIXELS, "labels": [0, 1]}, 2), np.random.default_rng(0)
    damaged = [whole[:size] for size in range(0, len(whole), 7)]
    for _ in range(100):
        changed = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            changed[place] = rng.integers(256)
        damaged.append(bytes(changed))
    messages = []
    for content in damaged:
        (tmp_path / "file.pkl").write_bytes(content)
        try:
            load_pickle(tmp_path / "file.pkl")
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > len(whole) / 7
    assert not any("\n" in message for message in messages)


def test_a_missing_pickle_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_pickle(tmp_path / "nothing.pkl")
