"""Tests: a folder for each package, and here what is about all of them; see tests.support too."""
