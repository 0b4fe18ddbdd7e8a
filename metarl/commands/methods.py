"""``metarl methods [NAME]``: list the methods and inner optimizers, or describe one method."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from metarl.commands.usage import UsageError, flag, unknown
from metarl.core import INNER_OPTIMIZERS, LEARNED_RATES
from metarl.rl.methods import METHODS as POLICY_METHODS
from metarl.runs import unset
from metarl.supervised.methods import MAML, METHODS
from metarl.util import print_table, say


@dataclass(frozen=True)
class Methods:
    """List the methods with their papers, and the inner optimizers; or describe one method.

    Use a supervised method with `metarl train regression --method NAME` or
    `metarl train fewshot --method NAME`, and a meta-RL method with `metarl
    train NAME`.
    """

    name: Annotated[str | None, tyro.conf.Positional, unset("all methods")] = None
    """Method to describe: paper, flags and a command."""


# Variants of methods by flags: command, paper and difference.
VARIANTS = (
    ("maml-trpo --first-order", "Finn et al. 2017", "inner gradients are constants"),
    ("maml-trpo --inner meta-sgd", "Li et al. 2017", "learned rates, inside the trust region"),
    ("maml-trpo --inner lslr", "Antoniou et al. 2019", "a learned rate per tensor and step"),
    ("maml-trpo --inner meta-curvature", "Park & Oliva 2019", "a learned Kronecker curvature"),
    ("maml-trpo --inner-loss dice", "Foerster et al. 2018", "derivatives of every order; noisy"),
    ("maml-trpo --inner-steps 0", "baseline", "TRPO on all tasks; `--observe-task`: oracle"),
)


def policies() -> list[tuple[str, str, str]]:
    """Return one row per meta-RL method and variant: the command, the paper and a summary."""
    rows = [(name, row.paper, row.summary) for name, row in POLICY_METHODS.items()]
    order = list(POLICY_METHODS)
    return sorted([*rows, *VARIANTS], key=lambda row: order.index(row[0].partition(" ")[0]))


def main(args: Methods) -> None:
    """Print the tables of all methods, or the details of one method."""
    if args.name is None:
        show_all()
        return
    if args.name not in {*METHODS, *POLICY_METHODS}:
        raise UsageError(unknown("method", args.name, [*POLICY_METHODS, *METHODS]))
    if args.name in POLICY_METHODS:
        show_policy_method(args.name)
    if args.name in METHODS:
        show_supervised_method(args.name)


def show_all() -> None:
    """Print tables of the supervised methods, the meta-RL methods and the inner optimizers."""
    heads = ["method", "paper", "what it does"]
    rows = [[name, method.paper, method.summary] for name, method in METHODS.items()]
    print_table("few-shot learning: metarl train fewshot --method NAME", heads, rows, left=3)
    print_table("meta-RL: metarl train NAME", heads, [[*row] for row in policies()], left=3)
    rates = [[n, "learned" if n in LEARNED_RATES else "fixed"] for n in INNER_OPTIMIZERS]
    print_table("--inner NAME", ["inner optimizer", "rates"], rates, left=2)
    say("metarl methods NAME shows the flags of a method and a command")


def show_policy_method(name: str) -> None:
    """Print the paper, the flags and a command of a meta-RL method."""
    method = POLICY_METHODS[name]
    command = f"metarl train {name} --preset navigation-quick --out runs/{name}"
    own = isinstance(method.make, str)  # methods of other packages have no page
    _print_head(name, f"{method.paper}, meta-RL", method.summary, command, page=own)
    rows = [[flag(n), _text(o.default), o.help] for n, o in method.options().items()]
    rows += [
        [flag(n), _text(value), "default of this method"] for n, value in method.values.items()
    ]
    if rows:
        print_table("flags of this method", ["flag", "default", "meaning"], rows, left=3)
    variants = [[words, text] for words, _, text in VARIANTS if words.split()[0] == name]
    if variants:
        print_table("variants", ["metarl train", "what it does"], variants, left=2)


def show_supervised_method(name: str) -> None:
    """Print the paper, the settings and a command of a few-shot method."""
    method = METHODS[name]
    experiment = {"leopard": "text", "oracle": "regression"}.get(name, "fewshot")
    command = f"metarl train {experiment} --method {name} --out runs/{name}"
    _print_head(name, f"{method.paper}, few-shot learning", method.summary, command, page=True)
    rows = [[flag(n), _text(x), _text(MAML.get(n))] for n, x in method.values.items()]
    if rows:
        print_table("settings that differ from MAML", ["flag", "value", "MAML"], rows, left=3)


def _print_head(name: str, source: str, summary: str, command: str, *, page: bool) -> None:
    say(f"{name} ({source}): {summary}")
    say(f"train it    {command}")
    say(f"all flags   {' '.join(command.split()[:3])} --help")
    if page:
        say(f"read more   docs/methods/{name}.md")


def _text(value: Any) -> str:
    """Return the value of a flag as text: ``on`` and ``off`` for switches, "" if not set."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple | list):
        return " ".join(map(str, value))
    return "" if value is None else str(value)
