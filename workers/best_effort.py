"""What is only for show, such as progress, metrics and spans: it must never keep an answer from being reported."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)


@contextmanager
def best_effort(what: str) -> Iterator[None]:
    """Run a block whose errors are logged and go no further. `what` names it in the log."""
    try:
        yield
    except Exception:
        _log.exception("%s failed; the work goes on", what)
