"""The cache for decoded images: invalid contents, size limit and environment variables."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from metarl.data import cache
from metarl.data.images import Classes
from tests.support import ROOT
from tests.support.image_data import numbered, same


def test_the_cache_folder_follows_environment_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("METARL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.cache_folder() == Path("/somewhere/metarl")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    assert cache.cache_folder() == Path("/home/ada/.cache/metarl")


def test_the_cache_has_one_file_per_source(own_cache: Path) -> None:
    first, second = numbered({"a": 2, "b": 1}), numbered({"c": 4})
    for source, classes in (({"files": 1}, first), ({"files": 2}, second)):
        assert same(cache.cached("test", source, lambda made=classes: made), classes)
    assert same(cache.cached("test", {"files": 1}, lambda: pytest.fail("made again")), first)
    assert len(list(own_cache.iterdir())) == 2  # and no temporary file remains
    modes = {path.stat().st_mode & 0o777 for path in own_cache.iterdir()}
    (own_cache / "plain").touch()
    assert modes == {(own_cache / "plain").stat().st_mode & 0o777}


FORGED: dict[str, dict[str, Any]] = {
    "miscounted": {"images": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)},
    "negative": {"counts": [4, -1]},
    "fractional": {"counts": [1.5, 1.5]},
    "unnamed": {"names": ["a"]},
    "twice": {"names": ["a", "a"]},
    "numbered": {"names": ["a", 1]},
    "type": {"images": torch.zeros(3, 1, 4, 4)},
    "flat": {"images": torch.zeros(3, 4, 4, dtype=torch.uint8)},
    "channels": {"images": torch.zeros(3, 2, 4, 4, dtype=torch.uint8)},
    "size": {"images": torch.zeros(3, 1, 5, 5, dtype=torch.uint8)},
}


@pytest.mark.parametrize("forged", FORGED)
def test_cached_images_with_wrong_counts_names_or_shapes_are_decoded_again(
    forged: str, own_cache: Path
) -> None:
    images = torch.arange(48).to(torch.uint8).reshape(3, 1, 4, 4)
    classes, source = Classes(images, (2, 1), ("a", "b")), {"size": 4}
    cache.cached("test", source, lambda: classes)
    (path,) = own_cache.iterdir()
    values: dict[str, Any] = {"images": images, "counts": [2, 1], "names": ["a", "b"]}
    values |= FORGED[forged]
    about = {name: values[name] for name in ("counts", "names")}
    shape = values["images"].shape
    about["digest"] = cache._digest(path.stem.removeprefix("test-"), *about.values(), shape)
    save_file({"images": values["images"]}, path, {cache.FORMAT: json.dumps(about)})
    assert same(cache.cached("test", source, lambda: classes), classes)


@pytest.mark.parametrize(
    "forged",
    [{"images": torch.zeros(3, 3, 4, 4, dtype=torch.uint8)}, {"counts": [1, 2]},
     {"names": ["b", "a"]}, {"names": ["a", "c"]}],
    ids=["channels", "counts", "swapped names", "names"],
)  # fmt: skip
def test_cached_images_with_changed_values_are_decoded_again(
    forged: dict[str, Any], own_cache: Path
) -> None:
    """The values are valid, but are not those that were cached."""
    images = torch.arange(48).to(torch.uint8).reshape(3, 1, 4, 4)
    classes = Classes(images, (2, 1), ("a", "b"))
    cache.cached("test", {"size": 4}, lambda: classes)
    (path,) = own_cache.iterdir()
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()[cache.FORMAT])
    found = forged.get("images", images)
    about |= {name: value for name, value in forged.items() if name in about}
    save_file({"images": found}, path, {cache.FORMAT: json.dumps(about)})
    assert same(cache.cached("test", {"size": 4}, lambda: classes), classes)


def test_files_of_a_killed_process_are_deleted(own_cache: Path) -> None:
    code = (
        "import os; from metarl.data import cache\n"
        "cache.save_file = lambda tensors, path, about: (path.write_bytes(b'part'), os._exit(9))\n"
        "cached('test', {}, lambda: numbered({'a': 1}))"
    )
    with pytest.raises(subprocess.CalledProcessError):
        in_new_process(code)
    (leftover,) = own_cache.iterdir()
    cache.cached("test", {}, lambda: numbered({"a": 1}))
    assert len(list(own_cache.iterdir())) == 1
    assert not leftover.exists()


def test_cached_images_of_other_data_are_decoded_again(own_cache: Path) -> None:
    first, second = numbered({"a": 2, "b": 1}), numbered({"c": 3})
    cache.cached("test", {"files": 1}, lambda: first)
    (path,) = own_cache.iterdir()
    cache.cached("test", {"files": 2}, lambda: second)
    (other,) = set(own_cache.iterdir()) - {path}
    other.write_bytes(path.read_bytes())
    assert same(cache.cached("test", {"files": 2}, lambda: second), second)


def in_new_process(code: str) -> None:
    """Load images from the cache in a process that then ends, so that no file is in use."""
    start = "from tests.support.image_data import numbered; from metarl.data.cache import cached\n"
    subprocess.run([sys.executable, "-c", start + code], check=True, cwd=ROOT)


def test_the_least_recently_used_images_are_deleted_but_none_in_use(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_new_process("for i in range(4): cached('test', {'i': i}, lambda: numbered({'a': 100}))")
    paths = sorted(own_cache.iterdir(), key=lambda path: path.stat().st_mtime)
    size = paths[0].stat().st_size
    for age, path in enumerate(reversed(paths), start=1):
        os.utime(path, (time.time() - 60 * age,) * 2)
    cache.cached("test", {"i": 2}, lambda: pytest.fail("was not cached"))  # in use from now on
    os.utime(paths[2], (0, 0))
    in_new_process("cached('test', {'i': 0}, lambda: 1 / 0)")  # used, but not in use
    monkeypatch.setenv("METARL_CACHE_SIZE", str(3.5 * size / 1e9))
    cache.cached("test", {"i": 4}, lambda: numbered({"a": 100}))
    (new,) = set(own_cache.iterdir()) - set(paths)
    assert set(own_cache.iterdir()) == {paths[0], paths[2], new}
    monkeypatch.setenv("METARL_CACHE_SIZE", "0")
    cache.cached("test", {"i": 5}, lambda: numbered({"a": 100}))
    assert paths[0] not in set(own_cache.iterdir())
    assert {paths[2], new} < set(own_cache.iterdir())


@pytest.mark.parametrize("limit", ["x", "-1", "nan"])
def test_an_invalid_size_limit_of_the_cache_is_an_error(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METARL_CACHE_SIZE", limit)
    with pytest.raises(ValueError, match=f"METARL_CACHE_SIZE must be .* got '{limit}'"):
        cache.cached("test", {}, lambda: numbered({"a": 1}))


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "foreign"])
def test_a_damaged_cache_file_is_replaced(damage: str, own_cache: Path) -> None:
    classes = numbered({"a": 2, "b": 1})
    cache.cached("test", {}, lambda: classes)
    (path,) = own_cache.iterdir()
    whole = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(whole[:-5])
    elif damage == "foreign":
        save_file({"images": classes.images}, path)
    else:
        path.write_bytes(b"" if damage == "empty" else b"not a tensor")
    assert same(cache.cached("test", {}, lambda: classes), classes)
    assert same(cache.cached("test", {}, lambda: pytest.fail("was not replaced")), classes)
    assert path.read_bytes() == whole


def test_a_read_only_cache_folder_is_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "file" / "cache"))
    assert same(cache.cached("test", {}, lambda: numbered({"a": 1})), numbered({"a": 1}))
