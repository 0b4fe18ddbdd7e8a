"""Random transforms of images: known answers, ranges, and independent random numbers."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from metarl.core import Task
from metarl.data import (
    TRANSFORMS,
    augment,
    color_jitter,
    pixel_statistics,
    random_crop,
    random_flip,
)
from tests.support.problems import seeded


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=seeded(7))


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("shape", [(3, 8, 8), (5, 1, 8, 8), (2, 3, 3, 16, 12), (0, 3, 8, 8)])
def test_transforms_keep_the_shape_the_type_and_the_range(
    name: str, shape: tuple[int, ...]
) -> None:
    images = noise(*shape)
    before = images.clone()
    made = TRANSFORMS[name](images, seeded(0))
    assert made.shape == images.shape
    assert made.dtype == images.dtype
    assert torch.equal(images, before)
    assert torch.equal(made, TRANSFORMS[name](images, seeded(0)))
    if made.numel():
        assert made.min() >= 0
        assert made.max() <= 1
        assert not torch.equal(made, TRANSFORMS[name](images, seeded(1)))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_image_receives_its_own_random_numbers(name: str) -> None:
    images = noise(3, 8, 8).expand(4, 50, 3, 8, 8)
    made = TRANSFORMS[name](images, seeded(0)).flatten(0, 1)
    different = len(made.unique(dim=0))
    assert different == {"crop": 9, "flip": 2, "color": 200}[name]  # 3 × 3 positions


def test_crops_are_shifted_images_with_a_black_border() -> None:
    images = 0.5 + 0.5 * noise(300, 2, 6, 9)
    made = random_crop(images, seeded(0), padding=2)
    found = set()
    for image, crop in zip(images, made, strict=True):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        places = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if torch.equal(padded[:, y : y + 6, x : x + 9], crop)
        ]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) == 25


@pytest.mark.parametrize(("size", "padding"), [(28, 3), (32, 4), (84, 8), (224, 8)])
def test_the_default_padding_is_that_of_published_code(size: int, padding: int) -> None:
    made = random_crop(torch.ones(4000, 1, size, 1), seeded(0), padding=None)
    black = (made[:, 0, :, 0] == 0).sum(-1)
    assert black[made.sum((1, 2, 3)) > 0].max() == padding


def test_half_of_the_images_are_mirrored() -> None:
    images = noise(2000, 1, 2, 3)
    made = random_flip(images, seeded(0))
    mirrored = (made == images.flip(-1)).all((1, 2, 3))
    assert torch.equal(made[~mirrored], images[~mirrored])
    assert 0.45 < mirrored.float().mean() < 0.55


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation"])
def test_color_changes_equal_those_of_pillow(kind: str) -> None:
    """Pillow rounds to integers, and the mean gray value in particular."""
    pixels = np.random.default_rng(0).integers(60, 180, (8, 8, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    strengths = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0} | {kind: 0.4}
    index = list(strengths).index(kind)
    enhancer = {"brightness": "Brightness", "contrast": "Contrast", "saturation": "Color"}[kind]
    for seed in range(5):
        made = color_jitter(images, seeded(seed), **strengths)
        factor = 0.6 + 0.8 * torch.rand(3, generator=seeded(seed))[index].item()
        expected = getattr(ImageEnhance, enhancer)(Image.fromarray(pixels)).enhance(factor)
        difference = 255 * made[0].permute(1, 2, 0).numpy() - np.asarray(expected).astype(float)
        assert np.abs(difference).max() < 1.6


def test_saturation_does_not_change_gray_images() -> None:
    gray = noise(5, 1, 4, 4)
    for images in (gray, gray.expand(5, 3, 4, 4)):
        made = color_jitter(images, seeded(0), brightness=0.0, contrast=0.0)
        torch.testing.assert_close(made, images)


def test_support_and_query_images_are_transformed_and_targets_are_kept() -> None:
    support, query = (noise(2, n, 3, 16, 16) for n in (5, 10))
    task = Task(((support, torch.eye(5)),), (query, torch.eye(10)))
    made = augment(random_crop, random_flip)(task, seeded(0))
    generator = seeded(0)
    expected = [
        random_flip(random_crop(images, generator), generator) for images in (support, query)
    ]
    assert torch.equal(made.support[0][0], expected[0])
    assert torch.equal(made.query[0], expected[1])
    assert torch.equal(made.query[1], torch.eye(10))
    assert torch.equal(augment()(task, seeded(0)).query[0], query)


def test_pixel_statistics_are_those_of_all_pixels() -> None:
    images = (255 * noise(50, 3, 7, 5)).byte()
    images[:, 1] = 9
    mean, std = pixel_statistics(images)
    exact = images.double() / 255
    assert mean == pytest.approx(exact.mean((0, 2, 3)).tolist(), abs=1e-14)
    assert std[::2] == pytest.approx(exact.std((0, 2, 3), correction=0).tolist()[::2], abs=1e-14)
    assert std[1] == 1
