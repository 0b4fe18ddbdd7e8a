"""Tasks as a user types them."""

import json

import numpy as np

from metarl.rl.blame import brief
from metarl.rl.sampler import Sampler, TaskDescription
from metarl.util.parsing import parse_json


def read_task(text: str, sampler: Sampler) -> TaskDescription:
    """Read a task written as JSON; what its values may be is the environment's to say.

    Raises:
        ValueError: If it is no JSON object; the message has a task of this environment.
    """
    try:
        task = parse_json(text)
        cause = "" if isinstance(task, dict) else "not an object"
    except ValueError as error:
        cause = str(error)
    if cause:
        example = sampler.sample_tasks(np.random.default_rng(0))[0]
        raise ValueError(
            f"--task must be JSON such as '{brief(json.dumps(example))}', got {brief(repr(text))}: "
            f"{cause}"
        )
    return dict(task)
