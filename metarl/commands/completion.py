"""``metarl completion bash|zsh``: print a script that completes commands and flags."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal

import tyro

from metarl.commands.usage import flag
from metarl.util import say


@dataclass(frozen=True)
class Completion:
    """Print the completion script of a shell.

    For bash, add this line to ~/.bashrc: `source <(metarl completion bash)`.
    For zsh, add `source <(metarl completion zsh)` to ~/.zshrc. To start shells
    faster, write the output to a file and source the file.
    """

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional]
    """Shell that runs the script."""


SCRIPT = """\
_metarl() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
  local first=${{COMP_WORDS[1]}} second=${{COMP_WORDS[2]}} words=
  if [ "$COMP_CWORD" -eq 1 ]; then words="{commands}"
  elif [ "$before" = --preset ]; then words="{presets}"
  elif [ "$before" = --env ]; then words="{environments}"
  elif [ "$before" = --method ]; then words="{methods}"
  elif [ "$COMP_CWORD" -eq 2 ]; then
    case $first in
      train) words="{experiments}" ;;
      methods) words="{methods}" ;;
      envs) words="{environments}" ;;
      completion) words="bash zsh" ;;
    esac
  elif [ "$first" = train ]; then
    case $second in
{train}
    esac
  fi
  case $first,$current in
{verbs}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _metarl metarl
"""


def main(args: Completion) -> None:
    """Print the script; zsh runs the script of bash with its own emulation of bash."""
    if args.shell == "zsh":
        say("autoload -U +X compinit bashcompinit && compinit && bashcompinit")
    say(*script().splitlines())


def script() -> str:
    """Return the script of bash, with the flags of all commands and experiments."""
    from metarl.commands.cli import VERBS
    from metarl.envs import ENVIRONMENTS
    from metarl.experiments import experiments
    from metarl.experiments.presets import PRESETS
    from metarl.rl.methods import METHODS as POLICY_METHODS
    from metarl.supervised.methods import METHODS

    train = {n: [*_flags(row.load()[1]), "--out", "--preset"] for n, row in experiments().items()}
    verbs = {f"{name},-*": _flags(verb.load(())[0]) for name, verb in VERBS.items()}
    return SCRIPT.format(
        commands=" ".join(["train", *VERBS]),
        presets=" ".join(name for presets in PRESETS.values() for name in presets),
        environments=" ".join(row.id for row in ENVIRONMENTS),
        methods=" ".join(dict.fromkeys([*POLICY_METHODS, *METHODS])),
        experiments=" ".join(train),
        train=_cases(train),
        verbs=_cases(verbs),
    )


def _flags(options: type) -> list[str]:
    """Return the flags of a command, without positional arguments."""
    named = [f for f in fields(options) if "Positional" not in str(f.type)]
    return [*(flag(f.name) for f in named), "--help"]


def _cases(words: dict[str, Sequence[str]]) -> str:
    """Return the branches of a ``case`` statement that set the variable words."""
    return "\n".join(f'      {name}) words="{" ".join(each)}" ;;' for name, each in words.items())
