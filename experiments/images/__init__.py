"""Settings, tasks and other data of few-shot image classification."""
