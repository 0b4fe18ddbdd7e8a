"""Experiments: each file is one configuration, its main and its loop."""
