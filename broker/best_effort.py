"""What is only for show, such as metrics, spans and sums for reports: it must never keep work from being recorded."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from broker.errors import NotTheLeader, StoreUnavailable

_log = logging.getLogger(__name__)


@contextmanager
def best_effort(what: str) -> Iterator[None]:
    """Run a block whose errors are logged and go no further, but those of the database. `what` names it in the log."""
    try:
        yield
    except (StoreUnavailable, NotTheLeader):
        raise
    except Exception:
        _log.exception("%s failed; the work goes on", what)
