"""Measurements of ``metarl benchmark``."""
