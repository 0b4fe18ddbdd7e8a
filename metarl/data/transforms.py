"""Random transforms of training images, and the pixel statistics of a data set.

Transforms are functions ``(images, generator) -> images`` on float images of
shape (..., channels, height, width) in [0, 1]. Every image receives its own
random numbers. The results are on the device of the images.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from metarl.core import Batch, Task, uniform


Images: TypeAlias = Float[Tensor, "*batch channels height width"]
Transform: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]

MAX_PADDING = 8
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, as in Pillow


def random_crop(
    images: Images, generator: torch.Generator, *, padding: int | None = None
) -> Images:
    """Pad every image with black pixels, and crop it to the original size at a random position.

    Args:
        images: Images of shape (..., channels, height, width).
        generator: Random generator.
        padding: Number of black pixels on every side, which is the maximum shift. Default: an
            eighth of the height, but at most 8. As in Lee et al. (2019), this is 4 for 32×32
            and 8 for 84×84 images.

    Example::

        >>> from metarl.data import random_crop
        >>> random_crop(torch.rand(4, 25, 3, 84, 84), torch.Generator()).shape
        torch.Size([4, 25, 3, 84, 84])
    """
    flat = images.reshape(math.prod(images.shape[:-3]), *images.shape[-3:])
    number, _, height, width = flat.shape
    pad = min(height // 8, MAX_PADDING) if padding is None else padding
    windows = F.pad(flat, (pad, pad, pad, pad)).unfold(2, height, 1).unfold(3, width, 1)
    places = uniform(2, number, generator=generator) * (2 * pad + 1)
    rows, columns = places.long().to(images.device)
    return windows[torch.arange(number, device=images.device), :, rows, columns].view_as(images)


def random_flip(images: Images, generator: torch.Generator) -> Images:
    """Mirror every image horizontally with probability 1/2.

    Args:
        images: Images of shape (..., channels, height, width).
        generator: Random generator.

    Example::

        >>> from metarl.data import random_flip
        >>> random_flip(torch.rand(4, 25, 3, 84, 84), torch.Generator()).shape
        torch.Size([4, 25, 3, 84, 84])
    """
    return torch.where(_numbers(images, generator) < 0.5, images.flip(-1), images)


def color_jitter(
    images: Images,
    generator: torch.Generator,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
) -> Images:
    """Change the brightness, contrast and saturation of every image, in this order.

    Each change multiplies the difference to a reference by a factor from
    U(1 - strength, 1 + strength), and clips to [0, 1]. The references are a
    black image, the mean gray value of the image, and the gray image (Chen et
    al. 2019). Saturation has no effect on images with one channel.

    Args:
        images: Images in [0, 1] of shape (..., channels, height, width) with 1 or 3 channels.
        generator: Random generator.
        brightness: Strength of the change in brightness, from 0 to 1.
        contrast: Strength of the change in contrast, from 0 to 1.
        saturation: Strength of the change in saturation, from 0 to 1.

    Example::

        >>> from metarl.data import color_jitter
        >>> color_jitter(torch.rand(4, 25, 3, 84, 84), torch.Generator()).shape
        torch.Size([4, 25, 3, 84, 84])
    """

    def changed(reference: Tensor, strength: float) -> Tensor:
        factor = 1 + strength * (2 * _numbers(images, generator) - 1)
        return torch.lerp(reference, images, factor).clamp_(0, 1)

    images = changed(images.new_zeros(()), brightness)
    images = changed(_gray(images).mean((-2, -1), keepdim=True), contrast)
    return changed(_gray(images), saturation)


TRANSFORMS: dict[str, Transform] = {
    "crop": random_crop,
    "flip": random_flip,
    "color": color_jitter,
}
"""Transforms by name, as in ``--augment``."""


def augment(*transforms: Transform) -> Callable[[Task, torch.Generator], Task]:
    """Return a function ``(task, generator) -> task`` that transforms all images of tasks.

    Support and query images are transformed in the order of `transforms`.

    Args:
        transforms: Functions ``(images, generator) -> images``.

    Example::

        >>> from metarl.data import augment, load_images, random_crop
        >>> from metarl.supervised import FewShot
        >>> train = load_images("glyphs").train
        >>> pool = FewShot(train.images, train.counts, num_ways=5, num_shots=1, num_queries=15)
        >>> shifted = augment(random_crop)
        >>> def draw(num_tasks, generator):
        ...     return shifted(pool.sample(num_tasks, generator), generator)
        >>> draw(4, torch.Generator()).query[0].shape
        torch.Size([4, 75, 1, 28, 28])
    """

    def transformed(batch: Batch, generator: torch.Generator) -> Batch:
        images, targets = batch
        for transform in transforms:
            images = transform(images, generator)
        return images, targets

    def apply(task: Task, generator: torch.Generator) -> Task:
        support = tuple(transformed(batch, generator) for batch in task.support)
        return Task(support, transformed(task.query, generator))

    return apply


def pixel_statistics(
    images: UInt8[Tensor, "images channels height width"],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation of all pixels per channel, on the scale [0, 1].

    The results are exact, because they are computed from histograms. The
    standard deviation of a constant channel is 1.

    Args:
        images: The uint8 images of a data set.

    Returns:
        ``(means, standard deviations)``, for the arguments of
        :func:`metarl.nn.normalize_inputs`.

    Example::

        >>> from metarl.data import load_images, pixel_statistics
        >>> (mean,), (std,) = pixel_statistics(load_images("glyphs").train.images)
        >>> 0 < mean < std < 0.5
        True
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = [torch.bincount(images[:, c].flatten(), minlength=256) for c in range(images.shape[1])]
    weights = [count.cpu().double() / count.sum().item() for count in counts]
    means = [(weight @ values).item() for weight in weights]
    spread = [(w @ (values - m) ** 2).sqrt().item() for w, m in zip(weights, means, strict=True)]
    return tuple(means), tuple(std or 1.0 for std in spread)


def _numbers(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return one random number from U(0, 1) per image, of shape (..., 1, 1, 1)."""
    return uniform(*images.shape[:-3], 1, 1, 1, generator=generator).to(images)


def _gray(images: Tensor) -> Tensor:
    if images.shape[-3] == 1:
        return images
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device)
    return torch.einsum("...chw,c->...hw", images, weights).unsqueeze(-3)
