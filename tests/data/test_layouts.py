"""Photographs in the layouts in which they are published: images, classes, splits and errors."""

import io
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from metarl.data import load_images
from tests.data.test_pickles import Call, python2
from tests.support.image_data import mini_imagenet, paint, same


PARTS = ("train", "val", "test")
SIZE = {"mini-imagenet": 84, "tiered-imagenet": 84, "cifar-fs": 32, "fc100": 32, "cub": 84}
CLASSES = {"train": [0, 1, 2], "val": [3], "test": [4, 5]}
COUNT = 2  # images per class


def pixels_of(label: int, index: int, size: int) -> NDArray[np.uint8]:
    """Return an image whose constant color identifies the class and the image."""
    return np.full((size, size, 3), (40 * label, 100 * index, 7), np.uint8)


def dump(path: Path, contents: Any, protocol: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(contents, protocol))


def mixed(labels: Sequence[int]) -> list[tuple[int, int]]:
    """Return (label, index) of the images of one split, not sorted by class."""
    return [(label, index) for index in range(COUNT) for label in reversed(labels)]


def mini_caches(root: Path, *, protocol: int = 2) -> list[str]:
    for part, labels in CLASSES.items():
        images = np.stack([pixels_of(label, index, 84) for label, index in mixed(labels)])
        rows = {f"n{label}": [i for i, (x, _) in enumerate(mixed(labels)) if x == label]
                for label in labels}  # fmt: skip
        contents = {"image_data": images, "class_dict": rows}
        dump(root / f"miniimagenet/mini-imagenet-cache-{part}.pkl", contents, protocol)
    return [f"n{label}" for label in range(6)]


def tiered_pickles(root: Path) -> list[str]:
    for part, labels in CLASSES.items():
        files = []
        for label, index in mixed(labels):
            Image.fromarray(pixels_of(label, index, 84)).save(file := io.BytesIO(), "png")
            files.append(np.frombuffer(file.getvalue(), np.uint8)[:, None])  # as OpenCV returns
        dump(root / f"tiered-imagenet/{part}_images_png.pkl", files)
        local = np.array([labels.index(label) for label, _ in mixed(labels)], np.int32)
        names = ["crane" if label in (1, 2) else f"class {label}" for label in labels]
        about = {"label_specific": local, "label_specific_str": names}
        dump(root / f"tiered-imagenet/{part}_labels.pkl", about)
    train = ["000 class 0", "001 crane", "002 crane"]
    return [*train, "000 class 3", "000 class 4", "001 class 5"]


def folders(root: Path, names: Callable[[str, int], str], size: int, suffix: str) -> None:
    for part, labels in CLASSES.items():
        for label, index in mixed(labels):
            path = root / names(part, label) / f"{index}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels_of(label, index, size)).save(path, quality=100, subsampling=0)


def tiered_folders(root: Path) -> list[str]:
    folders(root / "tiered-imagenet", lambda part, label: f"{part}/n{label}", 84, ".jpg")
    return [f"n{label}" for label in range(6)]


def cifar_fs(root: Path) -> list[str]:
    folders(root / "cifar100/data", lambda _, label: f"class_{label}", 32, ".png")
    (lists := root / "cifar100/splits/bertinetto").mkdir(parents=True)
    for part, labels in CLASSES.items():
        (lists / f"{part}.txt").write_text("".join(f"class_{label}\n" for label in labels))
    return [f"class_{label}" for label in range(6)]


def labeled(folder: Path, name: str, *, old: bool = False) -> list[str]:
    folder.mkdir()
    for part, labels in CLASSES.items():
        images = np.stack([pixels_of(label, index, 32) for label, index in mixed(labels)])
        numbers = [10 * label for label, _ in mixed(labels)]
        contents = pickle.dumps({"data": images, "labels": numbers}, 4)
        path = folder / name.format(part)
        path.write_bytes(python2(images, numbers) if old else contents)
    return [f"{10 * label:03}" for label in range(6)]


def cub(root: Path) -> list[str]:
    """Write 12 classes; the order of the classes determines the split."""
    names = [f"{number:03}.Bird_{number}" for number in range(1, 13)]
    table = "".join(f"{number} {name}\n" for number, name in enumerate(names, 1))
    for number, name in enumerate(names):
        for index in range(COUNT):
            path = root / f"CUB_200_2011/images/{name}/{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels_of(number // 3, index, 30)).save(path, quality=100)
    (root / "CUB_200_2011/classes.txt").write_text(table)
    return names


LAYOUTS: dict[str, tuple[str, Callable[[Path], list[str]]]] = {
    "mini-caches": ("mini-imagenet", mini_caches),
    "mini-caches-protocol-4": ("mini-imagenet", lambda root: mini_caches(root, protocol=4)),
    "tiered-pickles": ("tiered-imagenet", tiered_pickles),
    "tiered-folders": ("tiered-imagenet", tiered_folders),
    "cifar-fs": ("cifar-fs", cifar_fs),
    "cifar-fs-pickles": ("cifar-fs", lambda root: labeled(root / "cifar-fs", "CIFAR_FS_{}.pickle")),
    "fc100": ("fc100", lambda root: labeled(root / "fc100", "FC100_{}.pickle")),
    "fc100-python-2": ("fc100", lambda root: labeled(root / "x", "FC100_{}.pickle", old=True)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_classes_and_splits_are_those_of_the_files(layout: str, tmp_path: Path) -> None:
    data, write = LAYOUTS[layout]
    names = write(tmp_path)
    root = tmp_path / "x" if layout == "fc100-python-2" else tmp_path
    splits = load_images(data, data_root=root)
    groups = [names[:3], names[3:4], names[4:]]
    assert [list(part.names) for part in splits] == groups
    for part, labels in zip(splits, CLASSES.values(), strict=True):
        assert part.counts == (COUNT,) * len(labels)
        assert part.images.shape == (COUNT * len(labels), 3, SIZE[data], SIZE[data])
        expected = [pixels_of(x, index, 1)[0, 0] for x in labels for index in range(COUNT)]
        centers = part.images[:, :, 9, 9].numpy().astype(int)
        assert np.abs(centers - expected).max() <= (3 if layout == "tiered-folders" else 0)
    assert all(map(same, splits, load_images(data, data_root=root)))  # from the cache
    assert load_images(data, data_root=root, image_size=10).test.images.shape[2:] == (10, 10)


def test_cub_is_split_by_the_order_of_the_classes(tmp_path: Path) -> None:
    names = cub(tmp_path)
    splits = load_images("cub", data_root=tmp_path)
    assert list(splits.train.names) == names[::2]
    assert list(splits.validation.names) == [names[i] for i in (1, 5, 9)]
    assert list(splits.test.names) == [names[i] for i in (3, 7, 11)]
    assert splits.train.images.shape == (12, 3, 84, 84)
    (tmp_path / "CUB_200_2011/images" / names[2]).rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=rf"class '{names[2]}' in train of `split` has no folder"):
        load_images("cub", data_root=tmp_path)


def test_the_images_of_mini_imagenet_are_preferred_to_its_caches(tmp_path: Path) -> None:
    mini_caches(tmp_path)
    folder = mini_imagenet(tmp_path)
    assert load_images("mini-imagenet", data_root=tmp_path).test.names == ("n04",)
    (folder / "images").rename(folder / "pictures")
    assert load_images("mini-imagenet", data_root=tmp_path).test.names == ("n4", "n5")


@pytest.mark.parametrize(
    ("data", "files"),
    [
        ("mini-imagenet", "train.csv, val.csv, test.csv, or miniimagenet/ with mini-imagenet-ca"),
        ("tiered-imagenet", "tiered-imagenet/ with train_images_png.pkl, val_images_png.pkl, "),
        ("cifar-fs", "cifar100/ with data, splits/bertinetto, or cifar-fs/ with CIFAR_FS_train"),
        ("fc100", "fc100/ with FC100_train.pickle, FC100_val.pickle, FC100_test.pickle, got"),
        ("cub", "CUB_200_2011/ with images, classes.txt, got"),
    ],
)
def test_missing_files_give_one_line_errors_with_the_expected_files(
    data: str, files: str, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError) as error:
        load_images(data, data_root=tmp_path)
    assert files in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_missing_file_is_named(layout: str, tmp_path: Path) -> None:
    data, write = LAYOUTS[layout]
    write(tmp_path)
    root = tmp_path / "x" if layout == "fc100-python-2" else tmp_path
    files = [p for p in sorted(root.rglob("*.p*kl*")) if "test" in p.name]
    files = files or [p for p in sorted(root.rglob("*")) if p.name in ("test", "bertinetto")]
    for file in files:
        file.rename(tmp_path / "hidden")
        with pytest.raises(FileNotFoundError, match=rf"is incomplete: .*{file.name} is missing"):
            load_images(data, data_root=root)
        (tmp_path / "hidden").rename(file)


@pytest.mark.parametrize(
    "contents",
    [
        {"image_data": 3, "class_dict": {}},
        {"image_data": np.zeros((2, 84, 84, 3)), "class_dict": {"a": [0, 1]}},
        {"image_data": np.zeros((2, 84, 84, 4), np.uint8), "class_dict": {"a": [0, 1]}},
        {"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": {"a": [0, 2]}},
        {"image_data": np.zeros((2, 84, 84, 3), np.uint8)},
        {"image_data": np.zeros((0, 84, 84, 3), np.uint8), "class_dict": {}},
        [1, 2],
    ],
    ids=["no-array", "floats", "four-channels", "index", "no-classes", "empty", "list"],
)
def test_other_contents_of_a_pickle_are_rejected(contents: Any, tmp_path: Path) -> None:
    mini_caches(tmp_path)
    dump(tmp_path / "miniimagenet/mini-imagenet-cache-val.pkl", contents, 4)
    with pytest.raises(ValueError, match=r"cache-val\.pkl has unexpected contents: expected uint8"):
        load_images("mini-imagenet", data_root=tmp_path)


def test_a_hostile_pickle_is_rejected(tmp_path: Path) -> None:
    labeled(tmp_path / "fc100", "FC100_{}.pickle")
    command = f"touch {tmp_path / 'executed'}"
    dump(tmp_path / "fc100/FC100_test.pickle", {"data": Call(os.system, command)})
    with pytest.raises(ValueError, match=r"FC100_test\.pickle is not .*it requests posix\.system"):
        load_images("fc100", data_root=tmp_path)
    assert not (tmp_path / "executed").exists()


def test_damaged_images_and_repeated_classes_are_named(tmp_path: Path) -> None:
    tiered_pickles(tmp_path)
    path = tmp_path / "tiered-imagenet/val_images_png.pkl"
    dump(path, [np.zeros(20, np.uint8)] * COUNT)
    with pytest.raises(ValueError, match=r"image 0 in .*val_images_png\.pkl cannot be read as an"):
        load_images("tiered-imagenet", data_root=tmp_path)
    dump(path, [np.zeros(20, np.uint8)] * (COUNT + 1))
    with pytest.raises(ValueError, match=r"val_labels\.pkl has unexpected contents"):
        load_images("tiered-imagenet", data_root=tmp_path)
    labeled(folder := tmp_path / "fc100", "FC100_{}.pickle")
    (folder / "FC100_val.pickle").write_bytes((folder / "FC100_test.pickle").read_bytes())
    with pytest.raises(ValueError, match=r"class '040' is in .*val\.pickle and in .*test\.pickle"):
        load_images("fc100", data_root=tmp_path)


# Lists of classes.


@pytest.mark.parametrize("suffix", [".txt", ".csv"])
@pytest.mark.parametrize("validation", ["val", "validation"])
def test_a_folder_of_class_lists_is_a_split(suffix: str, validation: str, tmp_path: Path) -> None:
    for name in ("cat", "dog", "cow", "fox", "unused"):
        paint(tmp_path / "pictures" / name / "0.png", (9, 9, 9))
    (lists := tmp_path / "lists").mkdir()
    (lists / f"train{suffix}").write_text("\ufeffdog\ncat \n\n", encoding="utf-8")
    (lists / f"{validation}{suffix}").write_text("cow")
    (lists / f"test{suffix}").write_text("fox\r\n")
    splits = load_images("folder", data_root=tmp_path / "pictures", split=str(lists))
    assert [part.names for part in splits] == [("cat", "dog"), ("cow",), ("fox",)]
    (lists / f"test{suffix}").write_text("cat\n")
    with pytest.raises(ValueError, match="class 'cat' is in train and in test"):
        load_images("folder", data_root=tmp_path / "pictures", split=str(lists))


def test_folders_without_class_lists_give_one_line_errors(tmp_path: Path) -> None:
    paint(tmp_path / "pictures/cat/0.png", (9, 9, 9))
    with pytest.raises(FileNotFoundError, match=r"contains no lists of classes: expected train\.t"):
        load_images("folder", data_root=tmp_path / "pictures", split=str(tmp_path))
    (tmp_path / "train.txt").write_text("\n")
    with pytest.raises(ValueError, match="at least one class"):
        load_images("folder", data_root=tmp_path / "pictures", split=str(tmp_path))
