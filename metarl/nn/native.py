"""PyTorch's image operators on images with the channels on the last axis."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters


def is_native(x: Tensor) -> bool:
    """Return whether PyTorch's fused image operators can be used for images `x`.

    The result is False under ``torch.func.vmap``, because a convolution becomes
    a slow grouped convolution under ``vmap`` over kernels, and the derivatives
    of the fused batch norm are wrong. The result is also False for images
    without pixels, and in ``torch.compile`` and ``torch.export``, which do not
    support all fused operators.
    """
    if torch.compiler.is_compiling() or not x.numel():
        return False
    stack = retrieve_all_functorch_interpreters()
    return all(level.key() != TransformType.Vmap for level in stack)


def channels_last(
    operator: Callable[..., Tensor], x: Float[Tensor, "n h w channels"], *args: Any, **options: Any
) -> Float[Tensor, "n h2 w2 channels2"]:
    """Apply an operator that expects images of shape (n, channels, h, w), without copying.

    Args:
        operator: The operator, such as ``torch.nn.functional.conv2d``.
        x: Images with the channels on the last axis.
        args: Further arguments of the operator.
        options: Keyword arguments of the operator.
    """
    return operator(x.permute(0, 3, 1, 2), *args, **options).permute(0, 2, 3, 1)
