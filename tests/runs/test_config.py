"""Configurations: validation, saving and loading."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from metarl.experiments.meta_rl import config_class
from metarl.runs.config import NEUTRAL, RunConfig, from_json, to_json
from metarl.util.ranges import at_least, between, inside


MAMLTRPO = config_class("maml-trpo")


SOURCE = Path("runs/a/config.json")


@dataclass(frozen=True)
class Example(RunConfig):
    rate: Annotated[float, between(0, 1)] = 0.5
    widths: Annotated[tuple[int, ...], at_least(1)] = (8, 8)
    limit: Annotated[int | None, at_least(1)] = None
    rule: Literal["plain", "fancy"] = "plain"
    loud: bool = False


@pytest.mark.parametrize(
    "config",
    [
        Example(),
        Example(rate=1.0, widths=(), limit=3, rule="fancy", loud=True, seed=7),
        MAMLTRPO(hidden=(3,), chunk_size=2),
    ],
    ids=["defaults", "all", "maml-trpo"],
)
def test_a_configuration_round_trips_through_its_file(config: RunConfig) -> None:
    written = json.loads(json.dumps(to_json(config)))
    assert "out" not in written
    assert from_json(type(config), written, SOURCE) == config


def test_missing_fields_of_older_configurations_take_defaults() -> None:
    written = to_json(Example(seed=3))
    del written["loud"]
    assert from_json(Example, written, SOURCE) == Example(seed=3)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"turns": 3}, "['turns']"),
        ({"rate": "0.5"}, "`rate` must be float, got '0.5'"),
        ({"rate": 2}, "`rate` must be between 0 and 1, got 2.0"),
        ({"rate": float("nan")}, "`rate` must be finite"),
        ({"widths": 8}, "`widths` must be tuple[int, ...], got 8"),
        ({"widths": [8, "8"]}, "`widths` must be int, got '8'"),
        ({"widths": [8, 0]}, "`widths` must be at least 1"),
        ({"limit": True}, "`limit` must be int or NoneType, got True"),
        ({"rule": "plane"}, "`rule` must be Literal['plain', 'fancy'], got 'plane'"),
        ({"loud": 1}, "`loud` must be bool, got 1"),
        ({"checkpoint_every": None}, "`checkpoint_every` must be int, got None"),
    ],
    ids=str,
)
def test_a_damaged_configuration_names_its_file_and_field(
    change: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=r"runs/a/config\.json") as error:
        from_json(Example, to_json(Example()) | change, SOURCE)
    assert expected in str(error.value)


def test_open_ranges_exclude_their_ends() -> None:
    for ratio in (0.0, 1.0):
        with pytest.raises(ValueError, match="`backtrack_ratio` must be strictly between 0 and 1"):
            MAMLTRPO(backtrack_ratio=ratio)
    assert inside(0, 1).accepts(0.5)


def test_the_chunk_size_is_not_neutral() -> None:
    assert "chunk_size" not in NEUTRAL
    assert "device" in NEUTRAL
