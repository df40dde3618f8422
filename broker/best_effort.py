"""Run code whose failure must not stop the work: metrics, spans and sums for reports."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from broker.errors import NotTheLeader, StoreUnavailable

_log = logging.getLogger(__name__)


@contextmanager
def best_effort(what: str) -> Iterator[None]:
    """Run a block and log its errors; only errors of the database are raised. `what` names the block in the log."""
    try:
        yield
    except (StoreUnavailable, NotTheLeader):
        raise
    except Exception:
        _log.exception("%s failed; the work goes on", what)
