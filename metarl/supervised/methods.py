"""Supervised meta-learning methods, as settings for the inner loop and the outer update."""

from typing import Any, Literal, NamedTuple, TypeAlias


Adapts: TypeAlias = Literal["all", "all-but-norm", "head", "body"]
Start: TypeAlias = Literal["learned", "prototypes", "zero", "generated"]
Estimator: TypeAlias = Literal["backprop", "reptile", "implicit"]


class Method(NamedTuple):
    """A supervised meta-learning method.

    Attributes:
        paper: Authors and year of the paper that introduced the method.
        summary: Description in a few words, shown by ``metarl methods``.
        values: Settings that differ from MAML, by name of the configuration field. Command-line
            flags with the same names override these settings.
    """

    paper: str
    summary: str
    values: dict[str, Any]


# Settings of MAML, which the other methods override.
MAML: dict[str, Any] = {
    "inner": "sgd",
    "adapts": "all",
    "start": "learned",
    "estimator": "backprop",
    "first_order": False,
    "first_order_until": 0.0,
    "multi_step_until": 0.0,
    "per_step_norm": False,
    "proximal": 0.0,
    "outer": "adam",
    "outer_schedule": "constant",
    "validation_tasks": 100,
}

METHODS: dict[str, Method] = {
    "maml": Method("Finn et al. 2017", "gradient descent from a learned initialization", {}),
    "fomaml": Method("Finn et al. 2017", "constant inner gradients", {"first_order": True}),
    "reptile": Method(
        "Nichol et al. 2018",
        "moves toward the adapted parameters, without a query set",
        {
            "inner": "adam",
            "estimator": "reptile",
            "outer": "sgd",
            "outer_lr": 1.0,
            "outer_schedule": "linear",
        },
    ),
    "maml++": Method(
        "Antoniou et al. 2019",
        "a learned rate per tensor and step, multi-step loss, per-step norms, cosine outer rate",
        {
            "inner": "lslr",
            "adapts": "all-but-norm",
            "multi_step_until": 0.1,
            "per_step_norm": True,
            "outer_schedule": "cosine",
        },
    ),
    "meta-sgd": Method("Li et al. 2017", "a learned rate per parameter", {"inner": "meta-sgd"}),
    "lslr": Method("Antoniou et al. 2019", "a learned rate per tensor and step", {"inner": "lslr"}),
    "meta-curvature": Method(
        "Park & Oliva 2019",
        "gradients multiplied by a learned Kronecker-factored curvature",
        {"inner": "meta-curvature"},
    ),
    "maml-enhanced": Method(
        "Park & Oliva 2019; Antoniou et al. 2019",
        "Meta-Curvature combined with a learned rate per tensor and step",
        {"inner": "meta-curvature+lslr"},
    ),
    "anil": Method("Raghu et al. 2020", "only the head adapts", {"adapts": "head"}),
    "boil": Method("Oh et al. 2021", "only the body adapts", {"adapts": "body"}),
    "protomaml": Method(
        "Triantafillou et al. 2020",
        "the head is initialized to the class prototypes",
        {"start": "prototypes"},
    ),
    "imaml": Method(
        "Rajeswaran et al. 2019",
        "implicit gradient at the adapted parameters",
        {"estimator": "implicit", "proximal": 2.0},
    ),
    "zero-head": Method(
        "Triantafillou et al. 2020",
        "FOMAML with a head of zeros, for a variable number of classes",
        {"start": "zero", "first_order": True},
    ),
    "leopard": Method(
        "Bansal et al. 2020",
        "text; the head is generated from the support set; a learned rate per layer and step",
        {"inner": "lslr", "inner_clip": 1.0, "start": "generated", "first_order": True},
    ),
    "protonet": Method(
        "Snell et al. 2017",
        "nearest prototype, no adaptation",
        {"start": "prototypes", "inner_steps": 0, "test_steps": 0},
    ),
    "pretrained": Method(
        "baseline", "joint training on all tasks, fine-tuned at test time", {"inner_steps": 0}
    ),
    "oracle": Method(
        "baseline", "observes amplitude and phase", {"inner_steps": 0, "test_steps": 0}
    ),
}
