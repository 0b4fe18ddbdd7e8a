"""Tasks as a user types them."""

import json

import numpy as np

from metarl.rl.error_context import brief
from metarl.rl.sampler import Sampler, TaskDescription
from metarl.util.parsing import parse_json


def read_task(text: str, sampler: Sampler) -> TaskDescription:
    """Read a task written as JSON; the environment checks its values when it is set.

    Args:
        text: A JSON object.
        sampler: Samples the example of the error message.

    Raises:
        ValueError: If it is no JSON object; the message has a task of this environment.
    """
    try:
        return {**parse_json(text)}
    except (TypeError, ValueError) as error:
        example = json.dumps(sampler.sample_tasks(np.random.default_rng(0))[0])
        raise ValueError(
            f"`task` must be JSON such as '{brief(example)}', got {brief(repr(text))}: {error}"
        ) from None
