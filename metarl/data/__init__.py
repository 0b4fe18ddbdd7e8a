"""Image data: arrays, folders, Omniglot, miniImageNet, glyphs, cache."""
