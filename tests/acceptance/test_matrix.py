"""Each row of the crash matrix once, those about the database on PostgreSQL. `make matrix` runs all ten times."""

from collections.abc import Iterator

import pytest

from tests.programs.storm.rows import ROWS, Row, play
from tests.support.postgres import Postgres, postgres
from tests.support.rabbitmq import NodeInfo


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A PostgreSQL of its own."""
    try:
        with postgres() as server:
            yield server
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("row", [row for row in ROWS if not row.depends_on_database], ids=lambda row: row.name)
def test_a_row_of_the_crash_matrix_holds(row: Row, rabbitmq: NodeInfo) -> None:
    _play(row, rabbitmq, None)


@pytest.mark.parametrize("row", [row for row in ROWS if row.depends_on_database], ids=lambda row: row.name)
def test_a_row_of_the_crash_matrix_holds_on_postgresql(row: Row, rabbitmq: NodeInfo, server: Postgres) -> None:
    _play(row, rabbitmq, server)


def _play(row: Row, rabbitmq: NodeInfo, server: Postgres | None) -> None:
    if why := row.why_not(rabbitmq, server):
        pytest.skip(why)
    play(row, rabbitmq, server)
