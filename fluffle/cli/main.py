"""The command `fluffle`: its sub-commands by name, and how errors and interrupts end it."""

import sys
from typing import NoReturn

import click

from broker.errors import BrokerBlocked, BrokerUnreachable, FluffleError, TaskCancelled, TaskFailed
from fluffle.cli.exit_codes import BLOCKED, ERROR, INTERRUPTED, MEANINGS, OK, TASK_FAILED
from fluffle.cli.lazy import LazyCommand, LazyGroup

START_IT = ". Start it, or name another one in FLUFFLE_AMQP_URL"

COMMANDS = (
    LazyCommand("demo", "fluffle.cli.processes.demo:demo", "Show all of it in one go, on real text."),
    LazyCommand(
        "up", "fluffle.cli.processes.up:up", "Run everything in fluffle.toml: RabbitMQ, coordinator, web page, LLMs."
    ),
    LazyCommand("task", "fluffle.cli.task.group:task", "Submit tasks, follow them, steer them, get their results."),
    LazyCommand("message", "fluffle.cli.message:message", "Write to LLMs and people, ask them, read what has come."),
    LazyCommand("llm", "fluffle.cli.llm:llm", "List the LLMs and what they are doing, and steer them."),
    LazyCommand("report", "fluffle.cli.report:report", "Print figures about the tasks."),
    LazyCommand("web", "fluffle.cli.processes.web:web", "Serve the web page."),
    LazyCommand("rejected", "fluffle.cli.admin.rejected:rejected", "Look at rejected messages, requeue or drop them."),
    LazyCommand("worker", "fluffle.cli.processes.worker:worker", "Run an LLM as a worker."),
    LazyCommand("tool", "fluffle.cli.tool:tool", "For a command that a worker runs: send, ask, delegate, …"),
    LazyCommand("coordinator", "fluffle.cli.processes.coordinator:coordinator", "Run the coordinator."),
    LazyCommand("database", "fluffle.cli.admin.database:database", "Back up and restore the coordinator's database."),
    LazyCommand(
        "broker", "fluffle.cli.processes.broker:broker", "Manage the private RabbitMQ node, and prepare any other."
    ),
)

EPILOG = f"""\b
Exit codes:
{chr(10).join(f"  {code:>3}   {meaning}" for code, meaning in MEANINGS.items())}

Commands use the RabbitMQ of FLUFFLE_AMQP_URL, or else the private node that `fluffle broker start` runs.
"""


@click.group(
    cls=LazyGroup,
    commands=COMMANDS,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="fluffle", message="%(prog)s %(version)s")
def cli() -> None:
    """A workforce of LLMs on RabbitMQ."""


def run(args: list[str] | None = None) -> int:
    """Run the command line `args` (else the process's own). Returns the exit code."""
    try:
        code = cli.main(args, prog_name="fluffle", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    except FluffleError as error:
        remedy = START_IT if isinstance(error, BrokerUnreachable) else ""
        click.echo(f"Error: {error}{remedy}", err=True)
        if isinstance(error, BrokerBlocked):
            return BLOCKED
        return TASK_FAILED if isinstance(error, TaskFailed | TaskCancelled) else ERROR
    except OSError as error:  # such as a full disk that the output goes to
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"Error: {where}{error.strerror or error}", err=True)
        return ERROR
    return code if isinstance(code, int) else OK


def main() -> NoReturn:
    """The entry point of the program `fluffle`."""
    sys.exit(run())
