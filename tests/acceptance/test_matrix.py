"""Every row of the crash matrix once, those about the books on PostgreSQL: `make matrix` does all ten times on both."""

from collections.abc import Iterator

import pytest

from tests.programs.storm.matrix import ROWS, Row, play
from tests.support.postgres import Postgres, postgres_or_skip
from tests.support.rabbitmq import NodeInfo


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A separate PostgreSQL."""
    with postgres_or_skip() as server:
        yield server


@pytest.mark.parametrize("row", [row for row in ROWS if not row.is_about_books], ids=lambda row: row.name)
def test_a_row_of_the_crash_matrix_holds(row: Row, rabbitmq: NodeInfo) -> None:
    _play(row, rabbitmq, None)


@pytest.mark.parametrize("row", [row for row in ROWS if row.is_about_books], ids=lambda row: row.name)
def test_a_row_of_the_crash_matrix_holds_on_postgresql(row: Row, rabbitmq: NodeInfo, server: Postgres) -> None:
    _play(row, rabbitmq, server)


def _play(row: Row, rabbitmq: NodeInfo, server: Postgres | None) -> None:
    if why := row.why_not(rabbitmq, server):
        pytest.skip(why)
    play(row, rabbitmq, server)
