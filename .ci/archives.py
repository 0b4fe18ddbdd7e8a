"""Compare the files in the built sdist and wheel with those in git; exit with 1 if they differ.

``python .ci/archives.py DIST``, where DIST is the folder with the result of ``python -m build``.
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path


ROOT = Path(__file__).parents[1]
PACKAGES = {"metarl": "metarl", "envs": "metarl/envs", "experiments": "metarl/experiments"}
"""Folders of the package in git, and their paths in the wheel."""


def main(dist: Path) -> None:
    """Print the missing and unexpected files of both archives."""
    command = ["git", "-C", str(ROOT), "ls-files"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    tracked = set(listed.stdout.splitlines())
    in_wheel = {
        f"{PACKAGES[folder]}/{rest}"
        for folder, _, rest in (path.partition("/") for path in tracked)
        if folder in PACKAGES
    }
    wrong = [
        *differences("sdist", tracked, sdist(dist)),
        *differences("wheel", in_wheel, wheel(dist)),
    ]
    sys.exit("\n".join(wrong) or None)


def sdist(dist: Path) -> set[str]:
    """Return the files in the sdist without those that setuptools generates."""
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = [item.name.partition("/")[2] for item in archive.getmembers() if item.isfile()]
    return {
        name for name in names if name not in ("PKG-INFO", "setup.cfg") and ".egg-info/" not in name
    }


def wheel(dist: Path) -> set[str]:
    """Return the files in the wheel without its metadata."""
    (path,) = dist.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def differences(archive: str, expected: set[str], found: set[str]) -> list[str]:
    """Return one line per missing or unexpected file."""
    return [
        *(f"{archive}: {name} is missing" for name in sorted(expected - found)),
        *(f"{archive}: {name} is not in git" for name in sorted(found - expected)),
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
