"""Print the oldest versions that pyproject.toml allows, as constraints for pip."""

import re
import sys
import tomllib
from pathlib import Path


about = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = about["optional-dependencies"]
wanted = about["dependencies"] + [line for name in sys.argv[1:] for line in extras[name]]
for line in dict.fromkeys(wanted):
    if found := re.match(r"([\w.-]+)(?:\[.*?\])?>=([\w.]+)", line):
        name, version = found.groups()
        if name != "torch":  # its CPU build is 2.13.0 alone, here and in the README
            print(f"{name}=={version}")
