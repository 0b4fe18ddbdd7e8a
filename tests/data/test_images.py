"""Image data: selecting and splitting classes, the cache, custom folders and miniImageNet."""

import gzip
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metarl.data import cache, images
from metarl.data.families import FAMILIES, load_images
from metarl.data.images import Classes, Splits
from metarl.data.layouts import LAYOUTS
from tests.support.image_data import mini_imagenet, numbered, paint, same


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def numbers(classes: Classes) -> list[int]:
    return classes.images[:, 0, 0, 0].tolist()


def class_folders(root: Path, names: list[str], *, num_images: int = 2) -> Path:
    for number, name in enumerate(names):
        for index in range(num_images):
            paint(root / name / f"{index}.png", (10 * number, index, 0))
    return root


def require_whole(splits: Splits) -> None:
    for part in splits:
        assert part.images.dtype == torch.uint8
        assert part.images.is_contiguous()
        assert part.images.device.type == "cpu"
        assert sum(part.counts) == len(part.images)
        assert len(part.counts) == len(part.names) > 0
    names = [name for part in splits for name in part.names]
    assert len(set(names)) == len(names)


# Classes.


def test_select_keeps_the_order_and_the_images_of_each_class() -> None:
    chosen = images.select(numbered({"a": 2, "b": 3, "c": 1}), ["c", "a"])
    assert (chosen.names, chosen.counts, numbers(chosen)) == (("a", "c"), (2, 1), [0, 1, 5])


def test_join_concatenates_parts() -> None:
    joined = images.join(numbered({"a": 2}), numbered({"b": 1, "c": 2}))
    assert (joined.names, joined.counts) == (("a", "b", "c"), (2, 1, 2))
    assert numbers(joined) == [0, 1, 0, 1, 2]


def test_shuffled_depends_only_on_the_names() -> None:
    names = [f"{number:03d}" for number in range(100)]
    assert images.shuffled(names[::-1]) == images.shuffled(set(names)) == images.shuffled(names)
    assert images.shuffled(names)[:5] == [
        "026",
        "086",
        "002",
        "055",
        "075",
    ]  # fixed across versions


@pytest.mark.parametrize(
    ("total", "expected"), [(3, (1, 1, 1)), (5, (3, 1, 1)), (25, (16, 4, 5)), (100, (64, 16, 20))]
)
def test_classes_are_split_as_in_mini_imagenet(total: int, expected: tuple[int, ...]) -> None:
    splits = images.split_classes(numbered({f"{number:03d}": 1 for number in range(total)}))
    require_whole(splits)
    assert tuple(len(part.names) for part in splits) == expected


def test_classes_can_be_pickled(tmp_path: Path) -> None:
    made = cache.cached("test", {}, lambda: numbered({"a": 2, "b": 1}))
    read = cache.cached("test", {}, lambda: pytest.fail("was not kept"))
    assert same(pickle.loads(pickle.dumps(read)), made)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("cifar",),
            "unknown data set 'cifar': expected one of glyphs, omniglot, mini-imagenet, tiered-",
        ),
        (("omniglot", "lake"), "unknown split 'lake': expected one of random, vinyals, background"),
        (("glyphs", "vinyals"), "unknown split 'vinyals': expected one of random"),
        (("glyphs", None, 0), "image_size must be at least 1 pixel, got 0"),
        (("glyphs", None, -3), "image_size must be at least 1 pixel, got -3"),
    ],
)
def test_invalid_arguments_give_one_line_errors(arguments: tuple[Any, ...], message: str) -> None:
    data, split, size = (*arguments, None, None)[:3]
    with pytest.raises(ValueError, match=message):
        load_images(data, split=split, image_size=size)


@pytest.mark.parametrize("data", ["omniglot", "mini-imagenet"])
def test_a_root_that_is_not_a_folder_is_named(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=r"data_root is not a folder: .* got .*nowhere"):
        load_images(data, data_root=tmp_path / "nowhere")
    monkeypatch.setenv("METARL_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match=r"METARL_DATA is not a folder: .* got .*elsewhere"):
        load_images(data)


def test_missing_pillow_gives_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"image files require PIL; .*'metarl-torch\[vision\]'"):
        load_images("folder", data_root=class_folders(tmp_path / "own", ["a", "b", "c"]))


def test_a_fingerprint_detects_every_change(tmp_path: Path) -> None:
    class_folders(tmp_path / "own", ["a", "b"])

    def seen() -> str:
        return cache.fingerprint(*sorted(tmp_path.rglob("*.png")))

    prints = [seen()]
    (tmp_path / "own/.DS_Store").touch()
    assert seen() == prints[0]
    (tmp_path / "own/a/0.png").rename(tmp_path / "own/a/9.png")
    prints.append(seen())
    os.utime(tmp_path / "own/b/0.png", (1, 1))
    assert len({*prints, seen()}) == 3


# Custom folders.


def test_subfolders_become_classes(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "own", [f"c{number}" for number in range(10)], num_images=3)
    (root / ".git").mkdir()
    (root / "c0/notes.txt").write_text("not an image, and not called one")
    (root / "c0/.hidden.png").write_text("nor this")
    splits = load_images("folder", data_root=root, image_size=4)
    require_whole(splits)
    assert [len(part.names) for part in splits] == [6, 2, 2]
    for part in splits:
        assert part.images.shape[1:] == (3, 4, 4)
        for row, name in zip(part.images.split(3), part.names, strict=True):
            assert row[:, 0].unique().tolist() == [10 * int(name[1:])]
            assert row[:, 1, 0, 0].tolist() == [0, 1, 2]
    assert all(map(same, splits, load_images("folder", data_root=root, image_size=4)))
    assert load_images("folder", data_root=root).train.images.shape[1:] == (3, 84, 84)


def test_a_replaced_image_is_read_again(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "own", ["a", "b", "c"])
    load_images("folder", data_root=root, image_size=2)
    for name in "abc":
        paint(root / name / "0.png", BLUE)
    splits = load_images("folder", data_root=root, image_size=2)
    assert all(part.images[0, :, 0, 0].tolist() == list(BLUE) for part in splits)


def test_given_splits_are_kept_with_a_tenth_for_validation(tmp_path: Path) -> None:
    root = tmp_path / "own"
    class_folders(root / "train", [f"a{number}" for number in range(20)])
    class_folders(root / "test", ["b", "c"])
    splits = load_images("folder", data_root=root, image_size=2)
    require_whole(splits)
    assert [len(part.names) for part in splits] == [18, 2, 2]
    assert splits.test.names == ("b", "c")
    class_folders(root / "val", ["d"])
    splits = load_images("folder", data_root=root, image_size=2)
    assert ([len(part.names) for part in splits], splits.validation.names) == ([20, 1, 2], ("d",))


@pytest.mark.parametrize(
    ("modes", "channels"), [(("L", "1", "L"), 1), (("L", "RGB", "L"), 3), (("LA", "I;16", "L"), 1)]
)
def test_images_are_grayscale_if_all_files_are(
    modes: tuple[str, ...], channels: int, tmp_path: Path
) -> None:
    for name, mode in zip("abc", modes, strict=True):
        paint(tmp_path / "own" / name / "0.png", {"I;16": 200 << 8, "1": 1}.get(mode), mode=mode)
    splits = load_images("folder", data_root=tmp_path / "own", image_size=3)
    assert {part.images.shape[1] for part in splits} == {channels}


def flat(tmp_path: Path, picture: Any, **options: Any) -> np.ndarray[Any, Any]:
    """Load an image as the only image of three classes, without resizing."""
    for name in "abc":
        (tmp_path / "own" / name).mkdir(parents=True)
        picture.save(tmp_path / "own" / name / "0.png", **options)
    return load_images("folder", data_root=tmp_path / "own", image_size=2).train.images[0].numpy()


def test_sixteen_bit_images_are_scaled_instead_of_clipped(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 255], [256, 65535]], np.uint16))
    assert flat(tmp_path, picture).tolist() == [[[0, 0], [1, 255]]]


def test_transparent_parts_become_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    picture.putpixel((1, 0), (*BLUE, 255))
    pixels = flat(tmp_path, picture)
    assert pixels[:, 0, 1].tolist() == list(BLUE)
    assert pixels[:, 1, 1].tolist() == [255, 255, 255]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    picture = Image.new("RGB", (2, 2), RED)
    picture.putpixel((0, 0), GREEN)
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    assert flat(tmp_path, picture, exif=turned)[:, 1, 1].tolist() == list(GREEN)


def test_invalid_folders_give_one_line_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("METARL_DATA", raising=False)
    root = tmp_path / "own"

    def refused(message: str, error: type[Exception] = ValueError) -> None:
        with pytest.raises(error, match=message):
            load_images("folder", data_root=root, image_size=2)

    with pytest.raises(FileNotFoundError, match=r"data_root must be a folder .* got None"):
        load_images("folder")
    refused("data_root must be a folder .* got .*own", FileNotFoundError)
    root.mkdir()
    refused("own must contain one subfolder of images per class, got none")
    class_folders(root, ["a", "b"])
    refused(r"own must contain at least 3 class folders, .* got {.all.: 2}")
    (root / "c").mkdir()
    refused(
        r"own must contain images in all 3 class folders, got none in 1 \(first: c\)\. Add \.pn"
    )
    (root / "c/0.JPG").write_text("not a photograph")
    (root / "c/1.png").write_text("nor is this")
    refused(r"c/0\.JPG cannot be read as an image \(.+\)\. Replace the file")
    (root / "c/0.JPG").unlink()
    Image.effect_noise((40, 40), 50.0).save(root / "c/1.png")
    (root / "c/1.png").write_bytes((root / "c/1.png").read_bytes()[:-300])
    refused(r"c/1\.png cannot be read as an image \(.+\)\. Replace the file")


def test_invalid_splits_give_one_line_errors(tmp_path: Path) -> None:
    root = tmp_path / "own"
    class_folders(root / "train", ["a"])
    class_folders(root / "test", ["a", "b"])
    with pytest.raises(ValueError, match=r"class 'a' is in train and in test\. Every class"):
        load_images("folder", data_root=root)
    (root / "train/a").rename(root / "train/c")
    with pytest.raises(
        ValueError, match=r"at least 3 class folders, .* got {.train.: 1, .test.: 2}"
    ):
        load_images("folder", data_root=root)
    class_folders(root / "val", ["d"])
    class_folders(root / "validation", ["e"])
    with pytest.raises(ValueError, match=r"contains both validation/ and val/\. Keep only one"):
        load_images("folder", data_root=root)


# miniImageNet.


@pytest.mark.parametrize("zipped", [False, True], ids=["csv", "csv.gz"])
@pytest.mark.parametrize("outer", [False, True], ids=["itself", "above"])
def test_mini_imagenet_is_read_with_its_splits(zipped: bool, outer: bool, tmp_path: Path) -> None:
    folder = mini_imagenet(tmp_path, zipped=zipped)
    splits = load_images("mini-imagenet", data_root=tmp_path if outer else folder)
    require_whole(splits)
    assert [part.names for part in splits] == [("n01", "n03"), ("n02",), ("n04",)]
    assert [part.counts for part in splits] == [(3, 3), (3,), (3,)]
    assert splits.train.images.shape == (6, 3, 84, 84)
    middle = [part.images[:, :, 42, 42].int() for part in splits]
    expected = [[[50, 0, 200]] * 3 + [[150, 0, 200]] * 3, [[100, 0, 200]] * 3, [[40] * 3] * 3]
    assert all(
        (m - torch.tensor(e)).abs().max() <= 3 for m, e in zip(middle, expected, strict=True)
    )
    assert all(map(same, splits, load_images("mini-imagenet", data_root=folder)))


def test_mini_imagenet_is_found_with_the_environment_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mini_imagenet(tmp_path)
    monkeypatch.setenv("METARL_DATA", str(tmp_path))
    assert load_images("mini-imagenet", image_size=4).test.images.shape == (3, 3, 4, 4)


def test_an_incomplete_mini_imagenet_gives_a_one_line_error(tmp_path: Path) -> None:
    def refused(error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            load_images("mini-imagenet", data_root=tmp_path)

    with pytest.raises(FileNotFoundError, match=r"data_root must contain .* got None"):
        load_images("mini-imagenet")
    refused(FileNotFoundError, r"data_root must contain miniimagenet/ .* got /")
    folder = mini_imagenet(tmp_path)
    table = folder / "val.csv"
    text = table.read_text()
    table.unlink()
    refused(FileNotFoundError, r"miniimagenet is incomplete: val\.csv or val\.csv\.gz is missing")
    table.write_text("image,class\n" + text.partition("\n")[2])
    refused(
        ValueError,
        r"val\.csv is not a table of images: .* filename,label .* \['image', 'class'\]",
    )
    table.write_text("filename,label\n")
    refused(ValueError, r"val\.csv is not a table of images: .* got 1 rows")
    table.write_text("")
    refused(ValueError, r"val\.csv is not a table of images: .* got 0 rows")
    table.write_text(text + "loose\n")
    refused(ValueError, r"val\.csv is not a table of images: expected .* such as \['loose'\]")
    table.write_text(text.replace(",n02", ",n04"))
    refused(ValueError, r"class 'n04' is in .*val\.csv and in .*test\.csv\. Download the tables")
    table.unlink()
    whole = gzip.compress(text.encode())
    for damaged in (whole[:-9], whole[:10] + b"\xff" + whole[11:], whole[:-5] + b"\0" * 5):
        (folder / "val.csv.gz").write_bytes(damaged)
        refused(ValueError, r"val\.csv\.gz is not a CSV table \(.+\)\. Download the table again")
    (folder / "val.csv.gz").write_bytes(gzip.compress(text.encode()))
    first, *_ = sorted((folder / "images").glob("n03*"))
    for path in (folder / "images").glob("n03*"):
        path.unlink()
    refused(
        FileNotFoundError, rf"3 of the 12 images are missing in .*images \(first: {first.name}\)"
    )
    paint(first, RED)
    (folder / "images").rename(folder / "pictures")
    refused(FileNotFoundError, r"12 of the 12 images are missing in .*images")


def test_the_table_of_data_sets_is_complete() -> None:
    named = ["glyphs", "omniglot", *LAYOUTS, "folder"]
    assert list(FAMILIES) == named
    assert all(family.splits and family.image_size > 0 for family in FAMILIES.values())


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif"])
def test_images_up_to_twice_the_limit_of_pillow_are_read(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    sizes = {"usual": 30, "large": 40, "huge": 50}
    for name, size in sizes.items():
        Image.new("L", (size, size)).save(tmp_path / f"{name}{suffix}")
    for name in ("usual", "large"):
        with images.open_image(tmp_path / f"{name}{suffix}") as picture:
            assert picture.crop((0, 0, 39, 39)).size == (39, 39)
    with (
        pytest.raises(ValueError, match=f"huge{suffix} cannot be read .* exceeds limit"),
        images.open_image(tmp_path / f"huge{suffix}"),
    ):
        pass


def test_an_image_that_is_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    with (
        pytest.raises(ValueError, match=r"a.png is a Git LFS pointer; run `git lfs pull`"),
        images.open_image(tmp_path / "a.png"),
    ):
        pass
