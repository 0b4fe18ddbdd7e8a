"""Few-shot learning on the functional core: classification and regression."""

from metarl.util.lazy import attach


__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "evaluate": ("Curves", "adaptation_curves"),
        "few_shot": ("AllClasses", "FewShot", "VariableFewShot", "minibatches", "with_reference"),
        "heads": (
            *("StartFn", "body_of", "nearest_neighbor"),
            *("prototype_start", "prototypes", "zero_start"),
        ),
        "losses": (
            *("cross_entropy", "evaluate_batch"),
            *("loss_of", "present_cross_entropy", "squared_error"),
        ),
        "model": ("Draw", "Model"),
        "networks": ("NETWORKS",),
        "schedules": ("cosine_schedule", "linear_schedule", "multi_step_weights"),
        "sinusoid": ("Sinusoids",),
    },
)
