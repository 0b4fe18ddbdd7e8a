"""``metarl methods``: list the methods and inner optimizers."""

from dataclasses import dataclass

from metarl.core import INNER_OPTIMIZERS, LEARNED_RATES
from metarl.rl.methods import METHODS as POLICY_METHODS
from metarl.supervised.methods import METHODS
from metarl.util import print_table


@dataclass(frozen=True)
class Methods:
    """List the methods with their papers and flags, and the inner optimizers.

    Use a supervised method with `metarl train regression --method NAME` or `metarl train fewshot
    --method NAME`, and a meta-RL method with `metarl train NAME`.
    """


# Variants of methods by flags: command, paper and difference.
VARIANTS = (
    ("maml-trpo --first-order", "Finn et al. 2017", "inner gradients are constants"),
    ("maml-trpo --inner meta-sgd", "Li et al. 2017", "learned rates, inside the trust region"),
    ("maml-trpo --inner lslr", "Antoniou et al. 2019", "a learned rate per tensor and step"),
    ("maml-trpo --inner meta-curvature", "Park & Oliva 2019", "a learned Kronecker curvature"),
    ("maml-trpo --inner-loss dice", "Foerster et al. 2018", "derivatives of every order; noisy"),
    ("maml-trpo --inner-steps 0", "baseline", "TRPO on all tasks; --observe-task: the oracle"),
)


def policies() -> list[tuple[str, str, str]]:
    """Return one row per meta-RL method and variant: the command, the paper and a summary."""
    rows = [(name, row.paper, row.summary) for name, row in POLICY_METHODS.items()]
    order = list(POLICY_METHODS)
    return sorted([*rows, *VARIANTS], key=lambda row: order.index(row[0].partition(" ")[0]))


def main(args: Methods) -> None:
    """Print tables of the supervised methods, the meta-RL methods and the inner optimizers."""
    del args
    rows = []
    for name, method in METHODS.items():
        named = {f"--{n.replace('_', '-')}": value for n, value in method.values.items()}
        flags = (text if value is True else f"{text} {value}" for text, value in named.items())
        rows.append([name, method.paper, method.summary, " ".join(flags) or "(MAML's)"])
    print_table("--method NAME", ["method", "paper", "what it does", "flags"], rows, left=4)
    heads = ["metarl train", "paper", "what it does"]
    print_table("policies", heads, [[*row] for row in policies()], left=3)
    rates = [[n, "learned" if n in LEARNED_RATES else "fixed"] for n in INNER_OPTIMIZERS]
    print_table("--inner NAME", ["inner optimizer", "rates"], rates, left=2)
