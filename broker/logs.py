"""Where the log goes and what its lines look like."""

import logging
import os
import sys

ROOMS = ("broker", "workers", "coordinator", "fluffle")


def configure_logging(level: str) -> None:
    """Log to standard error from `level` (DEBUG, INFO, WARNING or ERROR) on: lines to read on a terminal, else JSON.

    What a module logs by `logging.getLogger(__name__).info("…", extra={"task": …})` has its extras as keys. Other
    libraries are heard from WARNING on.
    """
    import structlog  # takes 0.1 s

    on_terminal = sys.stderr.isatty()
    renderer = (
        structlog.dev.ConsoleRenderer(
            colors=not os.environ.get("NO_COLOR"), exception_formatter=structlog.dev.plain_traceback
        )
        if on_terminal
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.ExtraAdder(),
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="%H:%M:%S" if on_terminal else "iso", utc=not on_terminal),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([] if on_terminal else [structlog.processors.format_exc_info]),
                renderer,
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for room in ROOMS:
        logging.getLogger(room).setLevel(level)
