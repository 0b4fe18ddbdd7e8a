"""Tests, in one folder per package; files in this folder test the project as a whole."""
