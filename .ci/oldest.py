"""Print the oldest versions that pyproject.toml allows, as constraints for pip.

``python3 .ci/oldest.py plot video``: those of the package and of these extras.
"""

import re
import sys
import tomllib
from pathlib import Path


EXCEPT = "torch"  # the tests need its CPU build, of which the README names one version

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
for line in [*project["dependencies"], *(line for name in sys.argv[1:] for line in extras[name])]:
    found = re.match(r"([\w.-]+)(?:\[.*?\])?>=([\w.]+)", line)
    if found and found[1] != EXCEPT:
        print(f"{found[1]}=={found[2]}")
