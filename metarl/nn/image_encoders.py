"""Pretrained image encoders: Hugging Face models, and modules from a function of the user."""

import importlib
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metarl.nn import pretrained
from metarl.util import module_function


BLOCK = 64  # images encoded at a time, which bounds memory
CHANNELS = 3  # encoders receive RGB images


class Loaded(NamedTuple):
    """A pretrained image encoder.

    Attributes:
        module: Module that maps RGB images of shape (n, 3, height, width) with values in [0, 1] to
            features of shape (n, size), or to feature maps of shape (n, size, h, w).
        layers: The layers of the module, the first layer first.
    """

    module: nn.Module
    layers: Sequence[nn.Module]


class ImageEncoder(nn.Module):
    """The body of an image classifier: a pretrained encoder that returns one vector per image.

    Example::

        >>> from metarl.nn import ImageEncoder
        >>> encoder = ImageEncoder(torch.nn.Conv2d(3, 8, 3), frozen=True)
        >>> encoder(torch.rand(5, 3, 84, 84)).shape, list(encoder.parameters())
        (torch.Size([5, 8]), [])
    """

    def __init__(self, module: nn.Module, *, frozen: bool = False) -> None:
        """Wrap an encoder, and set it to evaluation mode.

        Args:
            module: The encoder, as in :attr:`Loaded.module`.
            frozen: Whether to replace the parameters of the encoder by buffers, which are neither
                learned nor saved.
        """
        super().__init__()
        self.module = module.eval()
        if frozen:
            freeze(self.module)

    def forward(
        self,
        images: Float[Tensor, "n channels height width"] | Float[Tensor, "n size"],
        reference: Tensor | None = None,
    ) -> Float[Tensor, "n size"]:
        """Return one feature vector per image, averaged over the pixels of a feature map.

        Args:
            images: RGB or gray images with values in [0, 1]. Features of shape (n, size) are
                returned unchanged.
            reference: Not used, because the statistics of the encoder are fixed.

        Raises:
            ValueError: If the encoder returns an unsupported shape.
        """
        del reference
        if images.ndim == 2:
            return images
        found = cast(Tensor, self.module(images.expand(-1, CHANNELS, -1, -1)))
        if found.ndim not in (2, 4):
            raise ValueError(
                "the encoder must return features of shape (n, size) or (n, size, h, w), got shape "
                f"{tuple(found.shape)} for images of shape {tuple(images.shape)}"
            )
        return found.mean((2, 3)) if found.ndim == 4 else found

    def features(self, images: Tensor) -> Float[Tensor, "n size"]:
        """Return the features of many images, without gradients and with little memory.

        Args:
            images: uint8 images, or floats with values in [0, 1], of shape (n, channels, height,
                width).
        """
        whole = images.dtype == torch.uint8
        blocks = torch.split(images, BLOCK)
        with torch.no_grad():
            return torch.cat([self(block.float() / 255 if whole else block) for block in blocks])


class HuggingFaceEncoder(nn.Module):
    """A Hugging Face vision model, with the normalization of its images."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: Any, *, mean: Sequence[float], std: Sequence[float], pooling: str
    ) -> None:
        """Wrap a model.

        Args:
            model: The model.
            mean: Mean of each channel, which is subtracted from the images.
            std: Standard deviation of each channel, by which the images are divided.
            pooling: For models that return tokens, ``cls`` uses the first token, and ``mean``
                averages all tokens.
        """
        super().__init__()
        self.model, self.pooling = model, pooling
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        any_size = "interpolate_pos_encoding"
        known = inspect.signature(model.forward).parameters
        self.options = {any_size: True} if any_size in known else {}

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> Tensor:
        """Return features of shape (n, size), or feature maps of shape (n, size, h, w)."""
        images = (images - self.mean) / self.std
        found: Tensor = self.model(images, **self.options).last_hidden_state
        if found.ndim == 4:
            return found
        return found[:, 0] if self.pooling == "cls" else found.mean(1)


def load_image_encoder(name: str, *, pooling: str = "cls") -> Loaded:
    """Load a pretrained image encoder.

    The layers of a user's module are its children that have parameters, in the order in which they
    were assigned; each item of an ``nn.Sequential`` or ``nn.ModuleList`` among the children is a
    layer. The layers of a Hugging Face model are its blocks, and its stages for ResNet.

    Args:
        name: Name of a model repository on the Hugging Face hub or path of a local folder, such as
            ViT, DINOv2 or ResNet; or ``module:function``, a function without arguments that
            returns a module as in :attr:`Loaded.module`. The module is imported.
        pooling: ``cls`` uses the class token of a vision transformer, and ``mean`` averages all
            tokens.

    Raises:
        ImportError: If ``transformers`` or the module with the function is not installed.
        OSError: If the model does not exist or cannot be downloaded.
        ValueError: If the function does not return a module.

    Example::

        encoder, layers = load_image_encoder("facebook/dinov2-small")
    """
    if found := module_function(name):
        module = _call(name, *found)
        return Loaded(module, _layers(module))
    hub = pretrained.transformers(extra="vision", purpose="image encoders")
    with pretrained.one_line_errors(name):
        model = pretrained.load_model(hub, pretrained.place_of(name))
        about = _preprocessor(hub, name)
        scaled = about.get("do_normalize", True)
        mean = about["image_mean"] if scaled else (0.0, 0.0, 0.0)
        std = about["image_std"] if scaled else (1.0, 1.0, 1.0)
        module = HuggingFaceEncoder(model, mean=mean, std=std, pooling=pooling)
    return Loaded(module, list(pretrained.layers_of(model)[1]))


def encoder_image_size(name: str) -> int | None:
    """Return the image size of a Hugging Face encoder in pixels; None for ``module:function``.

    Args:
        name: Name of the encoder, as in :func:`load_image_encoder`.

    Raises:
        OSError: If the model does not exist or cannot be downloaded.
    """
    if module_function(name):
        return None
    hub = pretrained.transformers(extra="vision", purpose="image encoders")
    with pretrained.one_line_errors(name):
        about = _preprocessor(hub, name)
        size = about.get("crop_size") if about.get("do_center_crop") else None
        size = size or about["size"]
        return int(size if isinstance(size, int) else size.get("height") or size["shortest_edge"])


def freeze(module: nn.Module) -> None:
    """Replace all parameters by buffers, in place. No buffer is part of the ``state_dict``."""
    for child in module.modules():
        tensors = {**child._parameters, **child._buffers}
        for name in tensors:
            delattr(child, name)
        for name, x in tensors.items():
            child.register_buffer(name, None if x is None else x.detach(), persistent=False)


def lower_parameters(module: nn.Module, layers: Sequence[nn.Module], top: int) -> frozenset[str]:
    """Return the names of the parameters below the top layers.

    These are all parameters that were registered before those of the first top layer.

    Args:
        module: The encoder.
        layers: The layers of the encoder, the first layer first.
        top: Number of top layers; with 0, all parameters are returned.

    Raises:
        ValueError: If the encoder has fewer layers.
    """
    if not 0 <= top <= len(layers):
        raise ValueError(f"top_layers must be from 0 to {len(layers)}, got {top}")
    names = {id(x): name for name, x in module.named_parameters()}
    above = [names[id(x)] for layer in layers[len(layers) - top :] for x in layer.parameters()]
    order = list(names.values())
    return frozenset(order[: order.index(above[0])] if above else order)


def _preprocessor(hub: Any, name: str) -> dict[str, Any]:
    """Read preprocessor_config.json; image processors themselves require torchvision."""
    place = pretrained.place_of(name)
    about: dict[str, Any] = hub.ImageProcessingMixin.get_image_processor_dict(place)[0]
    return about


def _call(name: str, module: str, function: str) -> nn.Module:
    try:
        made = getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ImportError(
            f"cannot load encoder={name} ({error}): expected a function without arguments in a "
            "module that is installed or in the current folder (with `python -m metarl`)"
        ) from None
    if not isinstance(encoder := made(), nn.Module):
        got = type(encoder).__name__
        raise ValueError(f"encoder={name} must return a torch.nn.Module, got {got}")
    return encoder


def _layers(module: nn.Module) -> list[nn.Module]:
    lists = (nn.Sequential, nn.ModuleList)
    found = [
        layer
        for child in module.children()
        for layer in (child if isinstance(child, lists) else [child])
    ]
    return [layer for layer in found if any(True for _ in layer.parameters())]
