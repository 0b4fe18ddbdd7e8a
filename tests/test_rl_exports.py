"""The public names of metarl.rl: imported when they are first used."""

import subprocess
import sys
from types import ModuleType

import metarl.rl


def test_every_public_name_is_a_value_and_not_a_module() -> None:
    for name in metarl.rl.__all__:
        found = getattr(metarl.rl, name)
        assert not isinstance(found, ModuleType), name
        assert found.__name__ == name
    assert dir(metarl.rl) == metarl.rl.__all__


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, metarl.rl; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
