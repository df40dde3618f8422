"""The fixtures of query tests."""

from collections.abc import Iterator

import pytest

from broker.timestamps import seconds
from coordinator.queries.handlers import QueryHandlers
from coordinator.storage.engine import open_engine
from coordinator.storage.store import Store
from tests.support.stored_tasks import NOW


@pytest.fixture
def queries(store: Store, database: str) -> Iterator[QueryHandlers]:
    """The query handlers, on a separate read-only connection."""
    queries = QueryHandlers(
        open_engine(database, read_only=True), clock=lambda: NOW, policy="earliest-finish", lease=seconds(10)
    )
    yield queries
    queries.close()
