"""Omniglot: archives, folders, splits and download, and the real data if available."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metarl.data import omniglot
from metarl.data.families import load_images
from metarl.data.images import Splits
from metarl.data.omniglot import Archive
from tests.support.image_data import OMNIGLOT, needs_omniglot, same


SHAPE = {  # archive: alphabet: number of characters
    "images_background": {"Armenian": 2, "Gurmukhi": 45, "Latin": 3},
    "images_evaluation": {"Atlantean": 4, "Keble": 6},
}
DRAWERS = 2
NAMES = {
    name: [
        f"{alphabet}/character{n:02d}" for alphabet in shape for n in range(1, shape[alphabet] + 1)
    ]
    for name, shape in SHAPE.items()
}


def drawing(number: int) -> bytes:
    """Draw one black pixel on a white background, as a 1-bit PNG of 105 x 105 pixels."""
    paper = np.ones((105, 105), bool)
    row, column = divmod(number, 28)
    paper[15 * row // 4 : 15 * row // 4 + 4, 15 * column // 4 : 15 * column // 4 + 4] = False
    file = io.BytesIO()
    Image.fromarray(paper).convert("1").save(file, "PNG")
    return file.getvalue()


def members(name: str) -> dict[str, bytes]:
    """Return the files of an archive, shuffled and with the additional files of macOS."""
    files = {}
    for index, character in enumerate(NAMES[name]):
        for drawer in reversed(range(DRAWERS)):
            files[f"{name}/{character}/{index:04d}_{drawer:02d}.png"] = drawing(index + 60 * drawer)
    noise = f"__MACOSX/{name}/Latin/character01/._0000_00.png"
    return dict(reversed(files.items())) | {f"{name}/.DS_Store": b"", noise: b"no image"}


def write_zip(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in files.items():
            archive.writestr(member, data)
    return path


def unpack(folder: Path, name: str) -> None:
    for member, data in members(name).items():
        (folder / member).parent.mkdir(parents=True, exist_ok=True)
        (folder / member).write_bytes(data)


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace Omniglot by 50 and 10 characters with 2 drawings each, without a network."""
    archives = {
        name: Archive(len(NAMES[name]), DRAWERS * len(NAMES[name]), "not downloaded")
        for name in SHAPE
    }
    monkeypatch.setattr(omniglot, "ARCHIVES", archives)
    monkeypatch.setattr(omniglot, "NUM_TRAIN", 45)
    monkeypatch.setattr(omniglot, "NUM_VALIDATION", 5)
    monkeypatch.setattr(omniglot, "URL", f"file://{tmp_path}/official/{{}}.zip")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in SHAPE:
        write_zip(tmp_path / "data/omniglot", name, members(name))
    return tmp_path / "data"


def names(splits: Splits) -> list[set[str]]:
    found = [set(part.names) for part in splits]
    assert sum(map(len, found)) == len(set().union(*found)) == sum(len(p.names) for p in splits)
    return found


def same_splits(a: Splits, b: Splits) -> bool:
    return all(same(x, y) for x, y in zip(a, b, strict=True))


def test_the_random_split_uses_all_characters(root: Path) -> None:
    splits = load_images("omniglot", data_root=root)
    train, validation, test = names(splits)
    assert [len(train), len(validation), len(test)] == [40, 5, 15]
    assert train | validation | test == {*NAMES["images_background"], *NAMES["images_evaluation"]}
    assert validation == {  # fixed for all versions of NumPy
        *("Armenian/character02", "Gurmukhi/character07", "Gurmukhi/character33"),
        *("Gurmukhi/character43", "Latin/character01"),
    }
    assert {count for part in splits for count in part.counts} == {DRAWERS}


def test_the_vinyals_split_is_by_alphabet(root: Path) -> None:
    train, validation, test = names(load_images("omniglot", data_root=root, split="vinyals"))
    assert validation == {"Armenian/character01", "Armenian/character02"}
    last = {f"Gurmukhi/character{number}" for number in range(42, 46)}
    assert test == last | {f"Keble/character0{number}" for number in range(1, 7)}
    assert len(train) == 41 + 3 + 4


def test_the_background_split_tests_on_the_evaluation_set(root: Path) -> None:
    train, validation, test = names(load_images("omniglot", data_root=root, split="background"))
    assert [len(train), len(validation)] == [45, 5]
    assert train | validation == set(NAMES["images_background"])
    assert test == set(NAMES["images_evaluation"])


def test_ink_is_255_and_drawings_keep_their_character(root: Path) -> None:
    splits = load_images("omniglot", data_root=root, split="background")
    expected = {name: i for group in NAMES.values() for i, name in enumerate(group)}
    for part in splits:
        assert part.images.dtype == torch.uint8
        assert part.images.is_contiguous()
        assert part.images.shape[1:] == (1, 28, 28)
        rows = part.images.flatten(1)
        assert set(rows.unique().tolist()) == {0, 255}
        assert (rows == 255).sum(1).tolist() == [1] * len(rows)
        places = rows.argmax(1).view(-1, DRAWERS).tolist()
        assert places == [[expected[name], expected[name] + 60] for name in part.names]
    assert load_images("omniglot", data_root=root, image_size=14).train.images.shape[2:] == (14, 14)


def test_folders_and_archives_give_the_same_data(root: Path, tmp_path: Path) -> None:
    splits = load_images("omniglot", data_root=root)
    for name in SHAPE:
        unpack(tmp_path / "unpacked", name)
    assert same_splits(load_images("omniglot", data_root=tmp_path / "unpacked"), splits)
    assert same_splits(load_images("omniglot", data_root=root / "omniglot"), splits)
    (root / "omniglot/images_background.zip").unlink()
    unpack(root / "omniglot", "images_background")
    assert same_splits(load_images("omniglot", data_root=root), splits)


def test_decoded_images_are_cached(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = load_images("omniglot", data_root=root)
    monkeypatch.setattr(omniglot.images, "read_images", None)
    assert same_splits(load_images("omniglot", data_root=root), splits)
    assert len(load_images("omniglot", data_root=root, split="vinyals").validation.names) == 2
    with pytest.raises(TypeError):
        load_images("omniglot", data_root=root, image_size=20)


def test_the_environment_variable_sets_the_root(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METARL_DATA", str(root))
    assert len(load_images("omniglot").test.names) == 15


def test_an_incomplete_archive_gives_a_one_line_error(root: Path) -> None:
    path = root / "omniglot/images_background.zip"

    def refused(message: str, error: type[Exception] = ValueError) -> None:
        with pytest.raises(error, match=message):
            load_images("omniglot", data_root=root)

    files = members("images_background")
    write_zip(path.parent, path.stem, {k: v for k, v in files.items() if "Latin/ch" not in k})
    refused(
        r"images_background\.zip is incomplete: .* 50 .* 100 .*, got 47 and 94\. Download .* again"
    )
    write_zip(path.parent, path.stem, {"readme.txt": b"nothing"})
    refused(r"expected 50 characters and 100 images, got 0 and 0")
    name = f"images_background/{NAMES['images_background'][0]}/0000_00.png"
    write_zip(path.parent, path.stem, files | {name: b"no drawing"})
    refused(r"Armenian/character01/0000_00\.png cannot be read as an image")
    whole = write_zip(path.parent, path.stem, files).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(r"images_background\.zip is a damaged zip file \(.+\)\. Replace the file")
    place = whole.index(files[name][40:])
    path.write_bytes(whole[:place] + b"flipped" + whole[place + 7 :])
    refused(r"0000_00\.png cannot be read as an image \(Bad CRC-32.+\)\. Replace the file")
    path.unlink()
    refused(
        r"incomplete: images_background\.zip or images_background is missing", FileNotFoundError
    )
    (root / "omniglot/images_evaluation.zip").unlink()
    refused(
        r"data_root must contain images_b.* and .*data\. Omit this argument",
        FileNotFoundError,
    )


# The download.


def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve the archives from a local URL with matching checksums."""
    archives = {}
    for name, archive in omniglot.ARCHIVES.items():
        data = write_zip(tmp_path / "official", name, members(name)).read_bytes()
        archives[name] = archive._replace(md5=hashlib.md5(data).hexdigest())
    monkeypatch.setattr(omniglot, "ARCHIVES", archives)


def test_omniglot_is_downloaded_once_without_a_root(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, monkeypatch)
    splits = load_images("omniglot")
    assert same_splits(splits, load_images("omniglot", data_root=root))
    folder = tmp_path / "cache/omniglot"
    assert sorted(p.name for p in folder.iterdir()) == [f"{name}.zip" for name in sorted(SHAPE)]
    monkeypatch.setattr(omniglot, "URL", "file:///nowhere/{}.zip")
    assert same_splits(load_images("omniglot"), splits)
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("METARL_DATA", str(tmp_path / "other"))
    assert same_splits(load_images("omniglot"), splits)


def test_a_failed_download_describes_the_manual_download(tmp_path: Path) -> None:
    manually = rf"Download the file manually into {tmp_path}/cache/omniglot, or set data_root .*$"
    with pytest.raises(OSError, match=rf"background\.zip cannot be downloaded \(.+\)\. {manually}"):
        load_images("omniglot")
    for name in SHAPE:
        write_zip(tmp_path / "official", name, members(name))
    with pytest.raises(ValueError, match=rf"expected not downloaded, got \w{{32}}\. {manually}"):
        load_images("omniglot")
    assert not (tmp_path / "cache").exists()
    for name in SHAPE:  # by hand
        write_zip(tmp_path / "cache/omniglot", name, members(name))
    assert len(load_images("omniglot").test.names) == 15


# The real data.


@pytest.fixture(scope="module")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def real(real_cache: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.undo()
    monkeypatch.setenv("METARL_CACHE", str(real_cache))
    return OMNIGLOT


@pytest.mark.nightly
@needs_omniglot
@pytest.mark.parametrize(
    ("split", "sizes"),
    [("random", [1100, 100, 423]), ("vinyals", [1028, 172, 423]), ("background", [868, 96, 659])],
)
def test_the_real_omniglot_has_the_published_sizes(
    split: str, sizes: list[int], real: Path
) -> None:
    splits = load_images("omniglot", data_root=real, split=split)
    assert [len(part) for part in names(splits)] == sizes
    assert [len(part.images) for part in splits] == [20 * size for size in sizes]
    assert {count for part in splits for count in part.counts} == {20}
    ink = torch.cat([part.images for part in splits]).double().mean() / 255
    assert 0.05 < ink < 0.12


@pytest.mark.nightly
@needs_omniglot
def test_the_vinyals_split_matches_the_published_split(real: Path) -> None:
    published = json.loads((real / "vinyals_split.json").read_text())
    splits = load_images("omniglot", data_root=real, split="vinyals")
    for part, found in zip(("train", "val", "test"), names(splits), strict=True):
        assert found == {
            f"{alphabet}/{character}"
            for alphabets in published[part].values()
            for alphabet, characters in alphabets.items()
            for character in characters
        }
