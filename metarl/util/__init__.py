"""Helpers without a word of meta-learning: parsing, console, device, statistics, measuring."""
