"""Rows of the crash matrix, those about the database on PostgreSQL. `make matrix` runs each ten times on both.

`make test` leaves out rows that resemble other rows, or tests in test_crash.py.
"""

from collections.abc import Iterator

import pytest

from tests.programs.storm.rows import ROWS, Row, play
from tests.support.postgres import Postgres, postgres_or_skip
from tests.support.rabbitmq import NodeInfo
from tests.support.thoroughness import slow

SLOW = {
    "coordinator: paused past its lease, wakes up",
    "worker: before its claim is confirmed",
    "worker: after its claim, before it acknowledges",
    "worker: stopped in the middle of a call, wakes up",
    "worker: with its result published, not confirmed",
    "worker: with its result confirmed, and still spooled",
    "broker: killed",
    "broker: restarted",
    "broker: alarm raised",
    "broker: consumers cancelled",
    "database: locked",
    "database: read-only",
    "database: full",
}


def rows(*, on_database: bool) -> list[object]:
    """Return the rows for which the kind of database matters, or the others."""
    return [
        pytest.param(row, id=row.name, marks=[slow] if row.name in SLOW else [])
        for row in ROWS
        if row.depends_on_database == on_database
    ]


def test_each_slow_row_is_in_the_matrix() -> None:
    assert {row.name for row in ROWS} >= SLOW


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """Run a separate PostgreSQL."""
    with postgres_or_skip() as server:
        yield server


@pytest.mark.parametrize("row", rows(on_database=False))
def test_a_row_of_the_crash_matrix_holds(row: Row, rabbitmq: NodeInfo) -> None:
    _play(row, rabbitmq, None)


@pytest.mark.parametrize("row", rows(on_database=True))
def test_a_row_of_the_crash_matrix_holds_on_postgresql(row: Row, rabbitmq: NodeInfo, server: Postgres) -> None:
    _play(row, rabbitmq, server)


def _play(row: Row, rabbitmq: NodeInfo, server: Postgres | None) -> None:
    if why := row.why_not(rabbitmq, server):
        pytest.skip(why)
    play(row, rabbitmq, server)
