"""A short storm, and one that has to find a violation; `make chaos` and `make mutations` run long ones."""

import random

import pytest

from tests.programs.storm.storm import Plan, run_storm
from tests.support.rabbitmq import NodeInfo
from tests.support.thoroughness import THOROUGH, slow

SECONDS = 15.0 if THOROUGH else 8.0


@pytest.fixture
def seed() -> int:
    """Return the seed of the random faults, which is printed when the test fails."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    return seed


@pytest.fixture
def mortal(rabbitmq: NodeInfo) -> NodeInfo:
    """Return a RabbitMQ that may be killed."""
    if rabbitmq.node is None:
        pytest.skip("this broker is not ours to kill")
    return rabbitmq


def test_a_storm_loses_nothing_and_records_nothing_twice(mortal: NodeInfo, seed: int) -> None:
    outcome = run_storm(mortal, Plan(tasks=10**9, faults=10**9, seconds=SECONDS, patience=120, seed=seed))
    assert outcome.violations == []
    assert outcome.tasks
    assert outcome.faults.total()


@slow
def test_a_storm_without_leases_finds_a_violation(mortal: NodeInfo, seed: int) -> None:
    """One mechanism represents all: storms need longer to miss the others, see `make mutations`."""
    plan = Plan(tasks=0, faults=10**9, seconds=SECONDS, patience=10, seed=seed, only=["kill_worker"], altered=["lease"])
    assert "after 10 s" in run_storm(mortal, plan).violations[0]
