"""Few-shot learning on the functional core: classification and regression."""
