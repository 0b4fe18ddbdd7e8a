"""How the same sums are made fast: chunks, staging, compiling, processes."""

from metarl.util.lazy import attach


__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "chunks": ("cache_sized", "one_thread_per_operator", "over_tasks", "parallel_map"),
        "compiling": ("Program", "program"),
        "processes": ("PeerFailed", "Refused", "TaskSlice"),
        "staging": ("Staged", "stage"),
    },
)
