"""The registry of meta-RL methods.

A method consists of a function ``(policy, loop, *, ...) -> MetaLearner`` and
of defaults for shared settings. Each keyword-only argument of the function
becomes a command-line flag; the default, the range and the help text come
from the function's signature and docstring.
"""

import inspect
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias


Make: TypeAlias = Callable[..., Any]
"""Function that builds a meta-learner: ``(policy, loop, **settings) -> MetaLearner``."""


class Option(NamedTuple):
    """A setting that belongs to one meta-RL method.

    Attributes:
        kind: The setting's type, optionally annotated with a :class:`~metarl.util.ranges.Range`.
        default: The default value.
        help: The help text for the command-line flag.
    """

    kind: Any
    default: Any
    help: str


class Method(NamedTuple):
    """A meta-RL method: how to build the meta-learner, and defaults for shared settings.

    Attributes:
        paper: Authors and year of the paper.
        summary: Short description for tables.
        make: Function ``(policy, loop, **settings) -> MetaLearner`` that builds the meta-learner,
            or its name ``"module:function"``.
        values: Method-specific defaults for shared settings, such as ``{"inner_steps": 3}``.
        with_preset: Values for shared settings that override the values in a preset.
        collect: Function ``(sampler, policy, loop, meta, tasks, generator, process) -> (tasks,
            metrics)``, or its name, that replaces :meth:`Sampler.collect
            <metarl.rl.sampler.Sampler.collect>`. The returned tasks can be any tree of tensors
            that the learner accepts. None uses ``Sampler.collect``.
        trials: Whether the policy keeps its memory across all episodes of a task, as in RL². Each
            adaptation step then collects one more episode instead of updating parameters.
    """

    paper: str
    summary: str
    make: str | Make
    values: dict[str, Any] = {}  # noqa: RUF012 (never written to)
    with_preset: dict[str, Any] = {}  # noqa: RUF012
    collect: str | Callable[..., tuple[Any, Any]] | None = None
    trials: bool = False

    def function(self) -> Make:
        """Return the function that builds the meta-learner, imported if :attr:`make` is a name."""
        found: Make = self.make if callable(self.make) else pkgutil.resolve_name(self.make)
        return found

    def collector(self) -> Callable[..., tuple[Any, Any]] | None:
        """Return the function :attr:`collect`, imported if the attribute is a name."""
        named = isinstance(self.collect, str)
        return pkgutil.resolve_name(self.collect) if named else self.collect  # type: ignore

    def options(self) -> dict[str, Option]:
        """Return the method-specific settings by name: the builder's keyword-only arguments."""
        import docstring_parser

        function, described = self.function(), {}
        for source in getattr(function, "options_of", (function,)):
            parsed = docstring_parser.parse(inspect.getdoc(source) or "")
            texts = {p.arg_name: " ".join((p.description or "").split()) for p in parsed.params}
            for name, parameter in inspect.signature(source).parameters.items():
                if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                    kind, default = parameter.annotation, parameter.default
                    described[name] = Option(kind, default, texts.get(name, ""))
        return described


METHODS: dict[str, Method] = {
    "maml-trpo": Method(
        "Finn et al. 2017", "trust region around the adapted policies", "metarl.rl:maml_trpo"
    ),
    "vpg-maml": Method(
        "Finn et al. 2017",
        "Adam on the policy gradient",
        "metarl.rl:vpg_maml",
        with_preset={"outer_lr": 1e-2},
    ),
    "maml-ppo": Method(
        "Schulman et al. 2017",
        "clipped ratios in the inner and the outer loss",
        "metarl.rl:maml_ppo",
        values={"inner_loss": "clipped"},
        with_preset={"inner_loss": "clipped", "outer_lr": 3e-3},
    ),
    "promp": Method(
        "Rothfuss et al. 2019",
        "clipped; KL penalty on the policy before adaptation",
        "metarl.rl:promp",
        values={"inner_loss": "ratio"},
        with_preset={"outer_lr": 3e-3},
    ),
    "e-maml": Method(
        "Stadie et al. 2018", "credits exploration before adaptation", "metarl.rl:e_maml"
    ),
    "cavia": Method(
        "Zintgraf et al. 2019",
        "a few context parameters adapt, from zero",
        "metarl.rl:maml_trpo",
        values={"inner_lr": 1.0, "context_size": 5},
        with_preset={"inner_lr": 1.0},
    ),
    "reptile": Method(
        "Nichol et al. 2018",
        "moves toward the adapted policies; first order",
        "metarl.rl:reptile_rl",
        values={"inner_steps": 3},
        with_preset={"inner_steps": 3},
    ),
    "rl2": Method(
        "Duan et al. 2016",
        "a recurrent policy adapts with its memory; PPO on trials",
        "metarl.rl:rl2",
        values={"network": "gru", "hidden": (), "inner_steps": 1, "num_tasks": 40},
        collect="metarl.rl:collect_trials",
        trials=True,
    ),
}


def register_method(name: str, method: Method) -> None:
    """Register a meta-RL method for ``metarl train NAME`` and all other commands.

    Args:
        name: Name on the command line, such as ``"my-method"``.
        method: The method's paper, summary, builder and defaults.

    Raises:
        ValueError: If the name is already registered.

    Example::

        from metarl.rl import Method, maml_trpo, register_method

        summary = "trust region, with two inner steps"
        method = Method("Finn et al. 2017", summary, maml_trpo, values={"inner_steps": 2})
        register_method("maml-two-steps", method)  # adds `metarl train maml-two-steps`
    """
    if name in METHODS:
        raise ValueError(f"method {name!r} is already registered; choose a different name")
    METHODS[name] = method


def takes_options_of(*sources: Make) -> Callable[[Make], Make]:
    """Return a decorator for a builder that passes ``**options`` to other functions.

    :meth:`Method.options` then returns the keyword-only arguments of
    `sources` as the settings of the decorated builder.

    Args:
        *sources: Functions whose keyword-only arguments the builder accepts as options.
    """

    def declare(function: Make) -> Make:
        function.options_of = sources  # type: ignore[attr-defined]
        return function

    return declare
