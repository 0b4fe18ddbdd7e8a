"""Image data: arrays, folders, Omniglot, miniImageNet, glyphs, cache."""

from metarl.util.lazy import attach


__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "families": ("FAMILIES", "load_images"),
        "images": ("Classes", "Splits"),
    },
)
