"""The machines that most tests of the core begin with."""

import pytest

from tests.support.core_driver import Core
from tests.support.core_events import claimed, seen, submitted


@pytest.fixture
def core() -> Core:
    """Nobody is there yet."""
    return Core()


@pytest.fixture
def atlas(core: Core) -> Core:
    """One LLM, atlas, with one slot."""
    core.handle(seen("atlas"))
    return core


@pytest.fixture
def running(atlas: Core) -> Core:
    """atlas works on the task `t`."""
    atlas.handle(submitted("t"))
    atlas.handle(claimed("t"))
    return atlas
