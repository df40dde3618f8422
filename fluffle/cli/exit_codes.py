"""The exit codes of the command `fluffle`, and what each means."""

OK, ERROR, USAGE, TASK_FAILED, TIMED_OUT, BLOCKED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

MEANINGS = {
    OK: "done",
    ERROR: "an error; one line on standard error says which",
    USAGE: "wrong usage",
    TASK_FAILED: "a task failed or was cancelled",
    TIMED_OUT: "the time to wait ran out",
    BLOCKED: "RabbitMQ accepts no messages: it is low on disk or memory",
    INTERRUPTED: "interrupted with Ctrl-C",
}
