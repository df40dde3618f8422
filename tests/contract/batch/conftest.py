"""The fixtures of batch tests."""

import pytest

from coordinator.storage.store import Store
from tests.support.batches import BatchHarness


@pytest.fixture
def harness(store: Store) -> BatchHarness:
    """A batch processor on an empty database."""
    return BatchHarness(store)
