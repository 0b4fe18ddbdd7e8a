"""List the methods: ``metarl methods``."""

from dataclasses import dataclass

from metarl.supervised.methods import METHODS
from metarl.util.console import print_table


@dataclass(frozen=True)
class Methods:
    """List the methods, their papers and the flags they stand for.

    Supervised ones are rows of one table, `metarl train regression` or `fewshot --method NAME`;
    those on policies are experiments, `metarl train NAME`.
    """


# Name, paper, and what is different about it; any of them takes --inner and --estimator.
POLICIES = (
    ("maml-trpo", "Finn et al. 2017", "trust region around the adapted policies"),
    ("maml-trpo --first-order", "Finn et al. 2017", "inner gradients are constants"),
    ("maml-trpo --inner meta-sgd", "Li et al. 2017", "learned rates, inside the trust region"),
    ("maml-trpo --inner lslr", "Antoniou et al. 2019", "a learned rate per tensor and step"),
    ("maml-trpo --inner meta-curvature", "Park & Oliva 2019", "a learned Kronecker curvature"),
    ("maml-trpo --estimator dice", "Foerster et al. 2018", "derivatives of every order; noisy"),
    ("vpg-maml", "Finn et al. 2017", "Adam on the policy gradient"),
    ("maml-ppo", "Schulman et al. 2017", "clipped ratios in the inner and the outer loss"),
    ("promp", "Rothfuss et al. 2019", "clipped; KL penalty on the policy before adaptation"),
    ("e-maml", "Stadie et al. 2018", "credits exploration before adaptation"),
    ("cavia", "Zintgraf et al. 2019", "a few context parameters adapt, from zero"),
    ("reptile", "Nichol et al. 2018", "moves toward the adapted policies; first order"),
    ("maml-trpo --inner-steps 0", "baseline", "TRPO on all tasks; --observe-task: the oracle"),
)


def main(args: Methods) -> None:
    """Print one line for each method."""
    del args
    rows = []
    for name, method in METHODS.items():
        flags = " ".join(_flag(flag, value) for flag, value in method.values.items())
        rows.append([name, method.paper, method.summary, flags or "(MAML's)"])
    print_table("--method NAME", ["method", "paper", "what it does", "flags"], rows, left=4)
    heads = ["metarl train", "paper", "what it does"]
    print_table("policies", heads, [[*row] for row in POLICIES], left=3)


def _flag(name: str, value: object) -> str:
    text = "--" + name.replace("_", "-")
    return text if value is True else f"{text} {value}"
