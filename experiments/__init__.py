"""Experiments: flags that become values. Each file defines configurations and what they build."""

from metarl.experiment import OTHERS, Entry
from metarl.rl.methods import METHODS


def experiments() -> dict[str, Entry]:
    """Return every experiment that ``metarl train`` knows, registered methods included."""
    rows = {
        name: Entry("experiments.meta_rl", f"config_class:{name}", row.summary)
        for name, row in METHODS.items()
    }
    return rows | OTHERS
