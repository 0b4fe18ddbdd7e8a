"""Text tasks, sentence encoders, and the head generator of LEOPARD."""

from metarl.util.lazy import attach


__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "encoders": ("Encoder", "load_pretrained"),
        "evaluation": ("accuracies",),
        "files": ("Row", "TextTask", "find_tasks", "read_tasks"),
        "leopard": ("TextClassifier", "generated_start", "text_classifier"),
        "tasks": ("AllLabels", "Sentences", "TextTasks", "support_batches", "tokenize"),
    },
)
