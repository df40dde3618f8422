"""A short storm, and one that has to find something; `make chaos` makes long ones."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storm.cast import SETTINGS, cast_on
from tests.storm.faults import FAULTS, Fault, kill_worker
from tests.storm.storm import Outcome, Storm
from tests.support.ledger import Ledger
from tests.support.node import NodeInfo
from tests.support.site import Site, site_on

SECONDS = 15.0


def storm(site: Site, faults: dict[Fault, int], *altered: str, patience: float) -> Outcome:
    """A storm for as long as the suite has time for it; its seed is printed when a test fails."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    ledger = Ledger(site)
    with cast_on(site, ledger, altered) as cast:
        raging = Storm(cast, ledger, seed=seed, patience=patience, faults=faults)
        return asyncio.run(raging.run(tasks=10**9, faults=10**9, seconds=SECONDS))


@pytest.fixture
def site(rabbitmq: NodeInfo, tmp_path: Path) -> Iterator[Site]:
    """A place where silence is noticed soon, on a RabbitMQ that may be killed."""
    if rabbitmq.node is None:
        pytest.skip("this broker is not ours to kill")
    with site_on(rabbitmq, tmp_path, **SETTINGS) as site:
        yield site


def test_a_storm_loses_nothing_and_records_nothing_twice(site: Site) -> None:
    outcome = storm(site, FAULTS, patience=120)
    assert outcome.violations == []
    assert outcome.tasks
    assert outcome.faults.total()


def test_a_storm_sees_that_leases_are_switched_off(site: Site) -> None:
    """One of the mechanisms stands for all: the others take longer to be missed, see `make chaos`."""
    outcome = storm(site, {kill_worker: 1}, "lease", patience=10)
    assert "after 10 s" in outcome.violations[0]
