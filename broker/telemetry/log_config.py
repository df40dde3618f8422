"""Configure the log: its destination and the format of its lines."""

import logging
import os
import sys

ROOMS = ("broker", "workers", "coordinator", "fluffle")


def configure_logging(level: str) -> None:
    """Log to standard error from `level` (DEBUG, INFO, WARNING or ERROR): text on a terminal, else JSON.

    `structlog.get_logger().info("…", task="t-1")` and the standard library's
    `logging.getLogger(__name__).info("…", extra={"task": "t-1"})` give the same lines. Other libraries log from
    WARNING on.
    """
    import structlog  # takes 0.1 s
    from structlog.stdlib import ProcessorFormatter
    from structlog.typing import Processor

    on_terminal = sys.stderr.isatty()
    timestamp = structlog.processors.TimeStamper(fmt="%H:%M:%S" if on_terminal else "iso", utc=not on_terminal)
    last: list[Processor]
    if on_terminal:
        last = [
            structlog.dev.ConsoleRenderer(
                colors=not os.environ.get("NO_COLOR"), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            timestamp,
            ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), structlog.stdlib.add_log_level, timestamp],
            processors=[ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for room in ROOMS:
        logging.getLogger(room).setLevel(level)
