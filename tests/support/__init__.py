"""What several tests need, in modules by subject: none of these holds a test."""

from pathlib import Path


ROOT = Path(__file__).parents[2]
"""The folder of the repository."""
