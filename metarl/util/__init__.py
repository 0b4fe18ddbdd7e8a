"""Helpers without a word of meta-learning: parsing, console, device, statistics, measuring."""

from metarl.util.lazy import attach


__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "console": ("Progress", "print_table", "warn"),
        "device": ("resolve_device",),
        "lazy": ("attach",),
        "measuring": ("machine", "median"),
        "optional": ("pyplot",),
        "output": ("require_writable",),
        "parsing": ("is_number", "parse_json"),
        "statistics": ("interval95",),
    },
)
